"""A corpus as token shards: what training reads.

A shard is Megatron's pair of files, `.bin` (the tokens) and `.idx` (where each document begins), which Megatron-LM and
NeMo open, and beside it a Parquet file with the id and length of each document, so that any token leads back to its
page.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from tilth import rundir
from tilth.errors import InputError, UsageError
from tilth.ledger import total
from tilth.progress import Progress
from tilth.storage import Folder
from tilth.work import Engine, Outbox, Unit, WorkOptions

from ..curate.read import ReadOptions
from .corpus import ADVICE, LIGHT, STATS, CorpusUnit, batches, fingerprint, plan, whole
from .fixed import Frame, around, fixed
from .tokenizer import Tokenizer, absolute, load

COMMAND = "tokenize encode"
SHARDS = "shards"
DOCUMENTS = "documents"
SCHEMA = pa.schema([("id", pa.string()), ("tokens", pa.int64()), ("bytes", pa.int64()), ("label", pa.string())])
_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_CODES = {np.dtype(np.uint16): 8, np.dtype(np.int32): 4}  # of Megatron-core's indexed dataset
_SMALL = 65_500  # ids up to which Megatron-core stores two bytes each


class EncodeOptions(BaseModel):
    """What a document becomes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    begin: str | None = Field(default=None, description="special token before each document; default: none")
    end: str | None = Field(default=None, description="special token behind each; default: the tokenizer's eos or sep")
    ends: bool = Field(default=True, description="whether there is one behind each document")
    length: int | None = Field(
        default=None, ge=3, description="every document cut or filled to this many tokens; default: as long as it is"
    )
    style: Literal["gpt", "bert"] = Field(
        default="gpt", description="with a length: only an end token (gpt), or [CLS] before and [SEP] behind (bert)"
    )
    shard_bytes: int = Field(default=256 * 2**20, gt=0, description="input in one shard, about")
    label: str | None = Field(default=None, description="column that tells each document's label, kept beside its id")
    pattern: str | None = Field(default=None, description="how tiktoken's ranks cut words: gpt2, gpt4 or a regex")
    read: ReadOptions = ReadOptions()


def encode(
    inputs: Sequence[str],
    place: str,
    output: Folder,
    options: EncodeOptions,
    work: WorkOptions,
    progress: Progress,
    fresh: bool = False,
) -> dict[str, Any]:
    """Encodes `inputs` with the tokenizer at `place` into shards of `output`; resumes what is there, unless `fresh`.

    Raises UsageError for special tokens that the tokenizer lacks, InputError where there is no document.
    """
    tokenizer = load(place, options.pattern)
    specials = special_ids(tokenizer, options)
    rundir.refuse_foreign(output)
    units = shards(plan(inputs, options.read, options.label, output.url), options.shard_bytes)
    with Engine(work, progress) as engine, output.lock():
        if fresh:
            rundir.start_over(output, COMMAND)
        request = {
            "options": options.model_dump(mode="json"),
            "specials": specials,
            "tokenizer": tokenizer.digest,
            "inputs": fingerprint([Unit(one.unit.key, one, one.unit.size) for unit in units for one in unit.payload]),
        }
        rundir.claim(output, COMMAND, request, tokenizer.name, ADVICE)
        light = sum(unit.size for unit in units) < LIGHT
        worker = partial(EncodeWorker, absolute(place), options, specials)
        done = whole(engine.run("encode", units, worker, output, [SHARDS, DOCUMENTS], light=light), "encode")
        found = total(record["counts"] for record in done.records.values())
        if not found["documents"]:
            raise InputError(f"no document in the input; skipped: {found['skipped'] or 'nothing'}")
        stats = {
            **{key: found[key] for key in ("documents", "tokens", "bytes", "cut")},
            "skipped": dict(sorted(found["skipped"].items())),
            "tokenizer": tokenizer.name,
            "dtype": str(dtype_of(tokenizer)),
            "shards": [f"{SHARDS}/{key}" for key, record in done.records.items() if record["counts"]["tokens"]],
            "end": specials.get("end"),
            "inputs": sorted(map(absolute, inputs)),
        }
        output.write(STATS, orjson.dumps(stats, option=orjson.OPT_INDENT_2))
        return stats


def special_ids(tokenizer: Tokenizer, options: EncodeOptions) -> dict[str, int]:
    """Ids by what they are for: begin, end, pad. Raises UsageError for a token that the tokenizer does not have."""

    def known(token: str) -> int:
        if token not in tokenizer.specials:
            there = ", ".join(tokenizer.specials) or "none"
            raise UsageError(f"{tokenizer.name}: has no special token {token!r}; there are {there}")
        return tokenizer.specials[token]

    def usual(role: str) -> int:
        if role not in tokenizer.roles:
            advice = "name a token with --end, or --no-end" if role == "eos" else f"name it as {role}_token"
            raise UsageError(f"{tokenizer.name}: has no {role} token, which {options.style} documents need; {advice}")
        return tokenizer.roles[role]

    bert = options.style == "bert"
    found: dict[str, int] = {}
    if options.ends:
        found["end"] = known(options.end) if options.end else usual("sep" if bert else "eos")
    if options.begin or bert:
        found["begin"] = known(options.begin) if options.begin else usual("cls")
    if options.length:
        if "end" not in found:
            raise UsageError("documents of one length need an end; leave --no-end away")
        found["pad"] = usual("pad") if bert else tokenizer.roles.get("pad", found["end"])
    return found


def shards(units: Sequence[Unit], shard_bytes: int) -> list[Unit]:
    """Neighbouring units of the corpus, as many together as make a shard; each is one unit of work."""
    groups: list[list[CorpusUnit]] = []
    size = shard_bytes
    for unit in units:
        if size + unit.size > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(unit.payload)
        size += unit.size
    return [
        Unit(f"shard-{index:05d}-of-{len(groups):05d}", group, sum(one.unit.size for one in group))
        for index, group in enumerate(groups)
    ]


def dtype_of(tokenizer: Tokenizer) -> np.dtype:
    """Two bytes an id where that is enough, else four (Megatron-core's int32: ids are not negative)."""
    return np.dtype(np.uint16 if tokenizer.size < _SMALL else np.int32)


class EncodeWorker:
    """Writes one shard."""

    def __init__(self, place: str, options: EncodeOptions, specials: Mapping[str, int]):
        self._tokenizer = load(place, options.pattern, check=False)
        self._dtype = dtype_of(self._tokenizer)
        self._options = options
        self._specials = specials

    def __call__(self, payload: Sequence[CorpusUnit], outbox: Outbox) -> Mapping[str, Any]:
        counts = {"documents": 0, "tokens": 0, "bytes": 0, "cut": 0}
        skipped: Counter[str] = Counter()
        lengths = []
        place = outbox.file(SHARDS, 0, ".bin")
        with open(place, "wb") as file, pq.ParquetWriter(outbox.file(DOCUMENTS, 0), SCHEMA) as documents:
            for unit in payload:
                for batch in batches(unit, self._options.label):
                    skipped += batch.skipped
                    if not batch.texts:
                        continue
                    ids, stored, own = self._encoded(batch.texts)
                    file.write(ids.astype(self._dtype).tobytes())
                    lengths.append(stored)
                    sizes = [len(text.encode("utf-8", "replace")) for text in batch.texts]
                    documents.write_table(pa.table([batch.ids, own, sizes, batch.labels], schema=SCHEMA))
                    found = {"documents": len(own), "tokens": int(stored.sum()), "bytes": sum(sizes)}
                    counts = total([counts, found, {"cut": int((own > stored).sum())}])
        write_index(outbox.file(SHARDS, 0, ".idx"), np.concatenate([np.zeros(0, np.int64), *lengths]), self._dtype)
        for output, suffix in ((SHARDS, ".bin"), (SHARDS, ".idx"), (DOCUMENTS, ".parquet")):
            outbox.file(output, counts["documents"], suffix)  # how many there are is known now
        return {**counts, "skipped": skipped}

    def _encoded(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids of all documents one behind the other, how many each takes, and how many it would take uncut and unfilled
        (int64)."""
        ids, lengths = self._tokenizer.encode_flat(texts)
        begin, end = self._specials.get("begin"), self._specials.get("end")
        if self._options.length:
            assert end is not None, "special_ids sees to it"
            frame = Frame(begin, end, self._specials["pad"])
            rows = fixed(np.split(ids, np.cumsum(lengths)[:-1]), self._options.length, frame)
            own = lengths + (begin is not None) + (end is not None)
            return rows.ids.reshape(-1), np.full(len(texts), self._options.length), own
        return *around(ids, lengths, begin, end), lengths + (begin is not None) + (end is not None)


def write_index(place: Path, lengths: np.ndarray, dtype: np.dtype) -> None:
    """Megatron-core's `.idx` of documents that are one sequence each (int64[n] tokens)."""
    pointers = (np.cumsum(lengths) - lengths) * dtype.itemsize
    with open(place, "wb") as file:
        file.write(_MAGIC)
        file.write(np.array([_VERSION], "<u8").tobytes())
        file.write(bytes([_CODES[dtype]]))
        file.write(np.array([len(lengths), len(lengths) + 1], "<u8").tobytes())
        file.write(lengths.astype("<i4").tobytes())
        file.write(pointers.astype("<i8").tobytes())
        file.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())
