"""A corpus in Parquet, as training reads it: its files, checked, and the columns that tell of its documents.

What is held of a corpus are a few numbers a row group; text is read where it is tokenized (`stream_encode.py`).
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from xxhash import xxh3_128_hexdigest

from tilth.errors import InputError, StorageError
from tilth.ledger import Ledger
from tilth.storage import Folder, explained, open_input

from ...curate.read.plan import files_at
from ...tokenize.corpus import corpus_of, is_run
from ...tokenize.tokenizer import Tokenizer
from .stream_encode import TEXT, sound

ID, TOKENS, PLACE = "id", "tokens", "place"
_BYTES = "length.bytes"  # what curation tells of a text's size
_SUFFIXES = (".parquet", ".pq")
_MAGIC = b"PAR1"
_TAIL = 128 * 2**10  # bytes that are read of a file's end at first; most footers are shorter
_THREADS = 16  # footers that are read at a time: what they wait for is the disk or the network
_ROWS = 65_536  # documents of a batch
_MEASURED, _SPOTS = 4 * 2**20, 32  # bytes of text that `tokens_per_byte` reads, and in how many places


class CorpusFile(NamedTuple):
    """One file of the corpus."""

    place: str  # that the user named
    name: str  # within the place
    path: str  # local, or an fsspec URL


class Groups(NamedTuple):
    """The row groups of all files, one behind the other."""

    files: np.ndarray  # int32[groups]: index of the file
    numbers: np.ndarray  # int32[groups]: of the group in its file
    firsts: np.ndarray  # int64[groups + 1]: number of each one's first row in the corpus, and of all rows
    sizes: np.ndarray  # int64[groups]: bytes of text, not compressed


class ParquetCorpus:
    """The documents of one or several places, numbered through as they stand: `rows` rows of `files` in `groups`.

    A place is a curation run (its corpus, which must be whole), a folder of .parquet files, such a file, a glob, or a
    URL of any of these. A file has a column `text`; a document's id is in the column `id`, or else it is called by its
    file and row. The footer of every file is read when it is opened: `fingerprint` tells this corpus from a changed
    one by the files' names within their places, their sizes, and hashes of their footers.

    Raises InputError for a file that is missing, torn, no Parquet, or without text, and where there is no document.
    """

    def __init__(self, places: Sequence[str]):
        self.files = [file for place in places for file in _listed(place)]
        seen = {file.path: file for file in reversed(self.files)}  # what is named twice is read once
        self.files = [file for file in self.files if seen[file.path] is file]
        if not self.files:
            raise InputError("no data is named; name a curation run or Parquet files")
        with ThreadPoolExecutor(_THREADS) as threads:
            footers = list(threads.map(_footer, self.files))
        self.groups = Groups(
            np.repeat(np.arange(len(footers), dtype=np.int32), [len(footer.rows) for footer in footers]),
            np.concatenate([np.arange(len(footer.rows), dtype=np.int32) for footer in footers]),
            np.cumsum([0, *(count for footer in footers for count in footer.rows)], dtype=np.int64),
            np.array([size for footer in footers for size in footer.sizes], np.int64),
        )
        self.rows = int(self.groups.firsts[-1])
        if not self.rows:
            raise InputError(f"{', '.join(places)}: no document is there")
        self._schemas = _shared([footer.schema for footer in footers])
        told = [[file.name, footer.size, footer.digest] for file, footer in zip(self.files, footers, strict=True)]
        self.fingerprint = hashlib.sha256(orjson.dumps(told)).hexdigest()
        self.hashes = {path: sha256 for place in places for path, sha256 in _hashes(place)}

    @property
    def columns(self) -> list[str]:
        """Names of the columns that some file has; a struct's fields as `struct.field`, behind the struct itself."""
        return list(dict.fromkeys(name for schema in _distinct(self._schemas) for name in _names(schema)))

    def documents(self, columns: Sequence[str], tokens_per_byte: float) -> pa.RecordBatchReader:
        """All rows in order: `id` (string), `tokens` (int64, about so many by the bytes of the text), `place` (string,
        as the user named it), and the columns asked for, which are null where a file does not have them.

        A name may be that of a struct's field: then the struct comes with the fields asked for. Holds one batch.
        Raises InputError for a column that no file has, and where files have it in types that do not agree.
        """
        wanted = [name for name in columns if name not in (ID, TOKENS, PLACE)]
        there = self.columns
        for name in wanted:
            if name not in there:
                raise InputError(f"no column {name} in any file; there are {', '.join(there)[:300]}")
        fields = _fields(_distinct(self._schemas), wanted)
        schema = pa.schema(
            [pa.field(ID, pa.string()), pa.field(TOKENS, pa.int64()), pa.field(PLACE, pa.string()), *fields]
        )
        batches = self._batches([*wanted, _BYTES], schema, tokens_per_byte)
        return pa.RecordBatchReader.from_batches(schema, batches)

    def row_of(self, group: int) -> int:
        """The number within its file of a row group's first row."""
        first = np.searchsorted(self.groups.files, self.groups.files[group])
        return int(self.groups.firsts[group] - self.groups.firsts[first])

    def ids(self, group: int) -> list[str]:
        """Ids of the documents of a row group."""
        file, number = int(self.groups.files[group]), int(self.groups.numbers[group])
        first = self.row_of(group)
        count = int(self.groups.firsts[group + 1] - self.groups.firsts[group])
        found: list[str] = []
        if ID in self._schemas[file].names:
            with self._opened(file) as opened:
                found = _ids(opened.read_row_group(number, [ID])[ID], self.files[file].name, first).to_pylist()
        return found or _named(self.files[file].name, first, count).to_pylist()

    def tokens_per_byte(self, tokenizer: Tokenizer) -> float:
        """How many tokens a byte of text has, on a few MB from places that are evenly spread over the text."""
        ends = np.cumsum(self.groups.sizes)
        spots = np.linspace(0, ends[-1], _SPOTS, endpoint=False)
        tokens = size = 0
        for group in np.unique(np.minimum(np.searchsorted(ends, spots, side="right"), len(ends) - 1)).tolist():
            texts = self._beginning(group, _MEASURED // _SPOTS)
            tokens += len(tokenizer.encode_flat(texts)[0])
            size += sum(len(text.encode("utf-8", "replace")) for text in texts)
        return tokens / size if size else 0.0

    def _beginning(self, group: int, size: int) -> list[str]:
        """The first documents of a row group, of so many characters together or a few more."""
        texts: list[str] = []
        with self._opened(int(self.groups.files[group])) as opened:
            for batch in opened.iter_batches(64, [int(self.groups.numbers[group])], [TEXT]):
                for text in sound(batch.column(0)):
                    texts.append(text)
                    size -= len(text)
                    if size <= 0:
                        return texts
        return texts

    def _batches(self, read: list[str], schema: pa.Schema, tokens_per_byte: float) -> Iterator[pa.RecordBatch]:
        groups = self.groups
        bounds = np.searchsorted(groups.files, np.arange(len(self.files) + 1))
        for at, file in enumerate(self.files):
            own = slice(int(bounds[at]), int(bounds[at + 1]))
            counts = np.diff(groups.firsts[own.start : own.stop + 1])
            if not counts.sum():
                continue
            means = groups.sizes[own] / np.maximum(counts, 1)
            place = pa.scalar(file.place)
            for first, count, batch in self._read(at, read):
                size = _size(batch) if batch else None
                if size is None:
                    size = np.repeat(means, counts)[first : first + count]
                ids = _ids(batch[ID], file.name, first) if batch and ID in batch.schema.names else None
                made = [
                    ids if ids is not None else _named(file.name, first, count),
                    pa.array(np.ceil(size * tokens_per_byte).astype(np.int64)),
                    pa.repeat(place, count),
                ]
                with _told(file.path):
                    for field in list(schema)[3:]:
                        column = batch[field.name] if batch and field.name in batch.schema.names else None
                        made.append(_fitted(column, field.type, count))
                yield pa.RecordBatch.from_arrays(made, schema=schema)

    def _read(self, at: int, names: list[str]) -> Iterator[tuple[int, int, pa.RecordBatch | None]]:
        """Rows of a file: number of the first, how many, and those of the columns that it has."""
        has = set(_names(self._schemas[at]))
        columns = [name for name in [ID, *names] if name in has]
        with self._opened(at) as opened:
            if not columns:
                rows = opened.metadata.num_rows
                yield from ((first, min(_ROWS, rows - first), None) for first in range(0, rows, _ROWS))
                return
            first = 0
            for batch in opened.iter_batches(_ROWS, columns=columns):
                yield first, batch.num_rows, batch
                first += batch.num_rows

    @contextlib.contextmanager
    def _opened(self, file: int) -> Iterator[pq.ParquetFile]:
        path = self.files[file].path
        with _told(path), open_input(path) as source, pq.ParquetFile(source) as opened:
            yield opened


# --- Files ------------------------------------------------------------------------------------------------------------


class _Footer(NamedTuple):
    size: int  # bytes of the file
    digest: str
    rows: list[int]  # of each row group
    sizes: list[int]  # bytes of text in each, not compressed
    schema: pa.Schema


def _listed(place: str) -> list[CorpusFile]:
    """The Parquet files at a place, sorted by path. In a folder, others and hidden ones are passed over."""
    given, found = files_at(corpus_of(place) if is_run(place) else place)
    files = []
    for one in found:
        inner = one.parts[-one.depth :] if given else one.parts[-one.depth :][1:]
        if given or (inner[-1].lower().endswith(_SUFFIXES) and not any(part.startswith(".") for part in inner)):
            files.append(CorpusFile(place, "/".join(inner), one.path))
    if not files:
        raise InputError(f"{place}: no Parquet file is there")
    return files


def _hashes(place: str) -> Iterator[tuple[str, str]]:
    """The local files of a curation run's corpus with the hashes that were written with them."""
    folder = Folder(place)
    if folder.local and is_run(place):
        for record in Ledger(folder, "corpus").records().values():
            yield from ((folder.path(file["name"]), file["sha256"]) for file in record["files"])


def _footer(file: CorpusFile) -> _Footer:
    """What a file's footer tells. Raises InputError for a file that is torn, no Parquet, or has no text."""
    with _told(file.path), open_input(file.path) as source:
        size = source.seek(0, 2)
        source.seek(max(0, size - _TAIL))
        tail = source.read()
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if length > len(tail) and length <= size:
            source.seek(size - length)
            tail = source.read()
    raw = tail[-length:]
    try:
        if tail[-4:] != _MAGIC or length + len(_MAGIC) > size:
            raise pa.ArrowInvalid("it has no footer")
        metadata = pq.read_metadata(pa.BufferReader(_MAGIC + raw))
    except (pa.ArrowException, OSError) as error:
        line = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"{file.path}: no Parquet file, or a torn one ({line}); fetch it again or leave it out"
        ) from error
    names = [metadata.schema.column(at).path for at in range(metadata.num_columns)]
    if TEXT not in names:
        tops = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
        raise InputError(f"{file.path}: no column {TEXT}; there are {tops[:300]}")
    at = names.index(TEXT)
    column = metadata.schema.column(at)
    if column.physical_type != "BYTE_ARRAY" or column.logical_type.type != "STRING":
        raise InputError(f"{file.path}: its column {TEXT} holds {column.physical_type.lower()}, no text")
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(at) for group in groups]
    behind = max((_begin(chunk) + chunk.total_compressed_size for chunk in chunks), default=0)
    if behind > size - length:
        raise InputError(f"{file.path}: is torn: text up to byte {behind} does not fit {size} bytes; fetch it again")
    return _Footer(
        size,
        xxh3_128_hexdigest(raw),
        [group.num_rows for group in groups],
        [chunk.total_uncompressed_size for chunk in chunks],
        metadata.schema.to_arrow_schema(),
    )


def _begin(chunk: Any) -> int:
    return chunk.dictionary_page_offset or chunk.data_page_offset


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    """Turns what Arrow and file systems say into a line that names the file."""
    try:
        with explained(path):
            yield
    except (StorageError, pa.ArrowException, OSError, ValueError) as error:
        line = " ".join(str(error).split())
        raise InputError(line if path in line else f"{path}: cannot be read ({line})") from error


# --- Columns ----------------------------------------------------------------------------------------------------------


def _shared(schemas: list[pa.Schema]) -> list[pa.Schema]:
    """The same, with equal ones held once: a corpus has many files and few schemas."""
    known: dict[bytes, pa.Schema] = {}
    return [known.setdefault(schema.serialize().to_pybytes(), schema.remove_metadata()) for schema in schemas]


def _distinct(schemas: list[pa.Schema]) -> list[pa.Schema]:
    return list({id(schema): schema for schema in schemas}.values())


def _names(fields: Any, above: str = "") -> Iterator[str]:
    """Names of fields and, behind a struct, of its own."""
    for field in fields:
        yield above + field.name
        if pa.types.is_struct(field.type):
            yield from _names(field.type, f"{above}{field.name}.")


def _fields(schemas: list[pa.Schema], wanted: Sequence[str]) -> list[pa.Field]:
    """The columns of the wanted names; each part of one as the first schema has it that has it."""
    merged: dict[str, Any] = {}
    for name in wanted:
        for schema in schemas:
            field = _found(schema, name.split("."))
            if field is not None:
                _merge(merged, name.split("."), field.type)
                break
    return [pa.field(name, _type(made)) for name, made in merged.items()]


def _found(fields: Any, path: list[str]) -> pa.Field | None:
    for field in fields:
        if field.name == path[0]:
            if len(path) == 1:
                return field
            return _found(field.type, path[1:]) if pa.types.is_struct(field.type) else None
    return None


def _merge(merged: dict[str, Any], path: list[str], kind: pa.DataType) -> None:
    if len(path) == 1:
        merged[path[0]] = kind
        return
    inner = merged.setdefault(path[0], {})
    if isinstance(inner, dict):  # else the whole struct is wanted anyway
        _merge(inner, path[1:], kind)


def _type(made: Any) -> pa.DataType:
    return pa.struct([(name, _type(one)) for name, one in made.items()]) if isinstance(made, dict) else made


def _fitted(column: Any, kind: pa.DataType, count: int) -> pa.Array:
    """The column in that type; null where it, or a field of its struct, is not there."""
    if column is None:
        return pa.nulls(count, kind)
    if not (pa.types.is_struct(kind) and pa.types.is_struct(column.type)):
        return column.cast(kind)
    fields = list(kind)
    here = {field.name: at for at, field in enumerate(column.type)}
    parts = [
        _fitted(column.field(here[field.name]) if field.name in here else None, field.type, count) for field in fields
    ]
    return pa.StructArray.from_arrays(parts, fields=fields, mask=column.is_null())


def _size(batch: pa.RecordBatch) -> np.ndarray | None:
    """int64[n]: bytes of each text, if curation told them."""
    top, name = _BYTES.split(".")
    if top not in batch.schema.names or name not in {field.name for field in batch[top].type}:
        return None
    return pc.fill_null(pc.struct_field(batch[top], name), 0).to_numpy(zero_copy_only=False)


def _ids(column: Any, name: str, first: int) -> pa.Array:
    """Ids as strings; where there is none, the file and row."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    ids = column.cast(pa.string())
    return pc.coalesce(ids, _named(name, first, len(ids))) if ids.null_count else ids


def _named(name: str, first: int, count: int) -> pa.Array:
    numbers = pa.array(np.arange(first, first + count)).cast(pa.string())
    return pc.binary_join_element_wise(f"{name}-", numbers, "")
