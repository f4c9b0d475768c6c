"""Token shards on disk: found, verified, and mapped into memory.

What a place may be is in `TokenShards`. A shard that is missing, torn, or not like the others is refused here, before
anything is trained.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from xxhash import xxh3_128_hexdigest

from tilth import rundir
from tilth.errors import InputError
from tilth.ledger import Ledger
from tilth.storage import Folder

from ...tokenize.corpus import STATS
from ...tokenize.encode import COMMAND, DOCUMENTS, SHARDS

ALL = "all"  # the source of documents that were encoded without a label
UNLABELLED = "unlabelled"  # of those that have none where others have one
_ENDS = 2**20  # bytes at the beginning and at the end of a foreign shard that tell it from another
_HEADER = np.dtype([("magic", "S9"), ("version", "<u8"), ("code", "u1"), ("sequences", "<u8"), ("documents", "<u8")])
_TYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}  # Megatron-core's codes


class Shard(NamedTuple):
    """One pair of files, and what is known of it."""

    place: str  # path without suffix
    tokens: np.ndarray  # the .bin, memory-mapped
    bounds: np.ndarray  # int64[documents + 1]
    state: list[Any]  # what tells this shard from a changed one
    rows: Path | None = None  # ids and labels of the documents; none in what others wrote, nor what follows
    digest: str | None = None  # of the tokenizer
    tokenizer: str | None = None
    end: int | None = None
    labelled: bool = False
    filled: bool = False  # documents are of one length: some end with padding
    inputs: tuple[str, ...] = ()  # what was encoded
    sha256: str | None = None  # of the .bin, as it was written


def opened(place: str) -> list[Shard]:
    """The shards at one place. Raises InputError for what is none."""
    place = place.removeprefix("file://")
    if "://" in place:
        raise InputError(f"{place}: token shards are mapped into memory from a local disk; copy them to one first")
    path = Path(place)
    if path.name == SHARDS and (path.parent / rundir.MANIFEST).is_file():
        path = path.parent
    if (path / rundir.MANIFEST).is_file():
        return _encoded(path)
    if path.is_dir():
        found = sorted({file.with_suffix("") for file in path.iterdir() if file.suffix in (".bin", ".idx")})
        if not found:
            raise InputError(
                f"{place}: neither token shards (.bin, .idx) nor Parquet are there; tilth tokenize encode makes some"
            )
    else:
        found = [path.with_suffix("") if path.suffix in (".bin", ".idx") else path]
        if not Path(f"{found[0]}.idx").exists() and not path.exists():
            raise InputError(f"{place}: no such file or folder")
    return [_shard(one, one.name) for one in found]


def _encoded(folder: Path) -> list[Shard]:
    """The shards of a run of `tilth tokenize encode`."""
    manifest = rundir.read(Folder(folder))
    if manifest["command"] != COMMAND:
        raise InputError(f"{folder}: holds a run of `{manifest['command']}`, no data to train on")
    try:
        stats = orjson.loads((folder / STATS).read_bytes())
    except (OSError, ValueError) as error:
        advice = f"run the same tilth {COMMAND} again"
        raise InputError(f"{folder}: its token shards are not finished (no {STATS}); {advice}") from error
    request = manifest["request"]
    records = Ledger(Folder(folder), "encode").records().values()
    hashes = {file["name"]: file["sha256"] for record in records for file in record["files"]}
    return [
        _shard(folder / name, name, hashes.get(f"{name}.bin"))._replace(
            rows=folder / DOCUMENTS / f"{Path(name).name}.parquet",
            digest=request["tokenizer"],
            tokenizer=stats["tokenizer"],
            end=stats["end"],
            labelled=request["options"]["label"] is not None,
            filled=request["options"]["length"] is not None,
            inputs=tuple(stats.get("inputs", ())),
            sha256=hashes.get(f"{name}.bin"),
        )
        for name in stats["shards"]
    ]


def _shard(place: Path, name: str, sha256: str | None = None) -> Shard:
    """The pair of files at `place`, a path without suffix; `sha256` is that of its tokens, where it is known."""
    index, tokens = Path(f"{place}.idx"), Path(f"{place}.bin")
    dtype, bounds = read_index(index)
    try:
        size = tokens.stat().st_size
    except OSError as error:
        raise InputError(f"{tokens}: cannot be read ({error.strerror}), but its .idx is there") from error
    if size != bounds[-1] * dtype.itemsize:
        expected = f"{bounds[-1]} tokens of {dtype.itemsize} bytes in its .idx"
        raise InputError(f"{tokens}: has {size} bytes for {expected}; it is torn, or of another index: make it again")
    mapped = np.memmap(tokens, dtype, "r") if size else np.zeros(0, dtype)
    ends = sha256 or xxh3_128_hexdigest(mapped[:_ENDS].tobytes() + mapped[-_ENDS:].tobytes())
    return Shard(str(place), mapped, bounds, [name, size, ends, xxh3_128_hexdigest(index.read_bytes())])


def read_index(file: Path) -> tuple[np.dtype, np.ndarray]:
    """An `.idx` of Megatron-core: the type of the tokens, and the bounds of documents in tokens (int64[documents + 1]).

    Documents are what its document indices say; where these say nothing, each sequence is one. Raises InputError for a
    file that is missing, torn, or no such index.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); a .bin and its .idx go together") from error
    header = np.frombuffer(data, _HEADER, 1)[0] if len(data) >= _HEADER.itemsize else None
    if header is None or header["magic"] != b"MMIDIDX" or header["version"] != 1 or header["code"] not in _TYPES:
        raise InputError(f"{file}: no index of token shards, as Megatron-core writes them")
    sequences, documents = int(header["sequences"]), int(header["documents"])
    size = _HEADER.itemsize + 12 * sequences + 8 * documents
    if len(data) != size:
        raise InputError(f"{file}: has {len(data)} bytes for {size} that its header tells; it is torn: make it again")
    dtype = np.dtype(_TYPES[int(header["code"])])
    lengths = np.frombuffer(data, "<i4", sequences, _HEADER.itemsize)
    pointers = np.frombuffer(data, "<i8", sequences, _HEADER.itemsize + 4 * sequences)
    parts = np.frombuffer(data, "<i8", documents, _HEADER.itemsize + 12 * sequences)
    bounds = np.zeros(sequences + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    ordered = parts.size and parts[0] == 0 and (parts[1:] >= parts[:-1]).all() and parts[-1] in (0, sequences)
    if not ordered or (lengths < 0).any() or (pointers != bounds[:-1] * dtype.itemsize).any():
        raise InputError(f"{file}: its sequences do not stand one behind the other as its lengths say; make it again")
    return dtype, bounds[parts] if parts[-1] else bounds


def agreed(shards: Sequence[Shard]) -> tuple[int | None, str | None, str | None]:
    """The end token, tokenizer name and hash that all shards agree on. Raises InputError where they do not."""
    known = [shard for shard in shards if shard.digest]
    for what, group, value in (
        ("tokens of type", shards, lambda shard: shard.tokens.dtype),
        ("a tokenizer of hash", known, lambda shard: shard.digest),
        ("the end token", known, lambda shard: shard.end),
    ):
        firsts = {value(shard): shard.place for shard in reversed(group)}
        if len(firsts) > 1:
            (other, there), (one, here) = [*firsts.items()][-2:]
            told = f"has {what} {str(one)[:12]}, {there} {str(other)[:12]}"
            raise InputError(f"{here} {told}; encode all of the data in one way")
    return (known[0].end, known[0].tokenizer, known[0].digest) if known else (None, None, None)


def sources_of(shard: Shard) -> tuple[list[str], np.ndarray]:
    """Sources of a shard's documents by name, and for each document which of them it is of."""
    count = len(shard.bounds) - 1
    if shard.rows is None or not shard.labelled:
        return [ALL if shard.rows else Path(shard.place).name], np.zeros(count, np.int32)
    labels = column_of(shard.rows, "label", count).combine_chunks().fill_null("").dictionary_encode()
    return [name or UNLABELLED for name in labels.dictionary.to_pylist()], labels.indices.to_numpy()


def ids_of(place: str, rows: Path | None, count: int) -> list[str]:
    """Ids of a shard's documents; one of others is called by its file and number."""
    if rows is None:
        name = Path(place).name
        return [f"{name}-{number}" for number in range(count)]
    return column_of(rows, "id", count).to_pylist()


def column_of(file: Path, name: str, count: int) -> pa.ChunkedArray:
    """A column of the Parquet file that tells of a shard's documents, of which there are so many."""
    try:
        with pq.ParquetFile(file) as rows:
            column = rows.read([name])[name]
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: the documents of this shard cannot be read ({reason}); encode again") from error
    if len(column) != count:
        raise InputError(f"{file}: tells of {len(column)} documents, its shard has {count}; encode again")
    return column
