"""Parquet: a row is a page; only the columns that are asked for are read."""

from collections.abc import Iterator
from itertools import repeat
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.errors import InputError
from tilth.storage import open_input

from .fields import row_page
from .options import ReadOptions
from .page import Failure, Page
from .unit import InputFile, InputUnit

_ROWS = 256  # decoded at a time
_CORRUPT = (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError)  # what Arrow raises for bytes it cannot decode
_NO_VALUE = (ValueError, OverflowError, KeyError)  # bytes that are no UTF-8, a year 300,000, a time zone that is none


def row_groups(file: InputFile, options: ReadOptions) -> list[int]:
    """Bytes of the columns needed, of each row group. Raises InputError for what is no Parquet or lacks a column."""
    with open_input(file.path) as opened:
        metadata = _open(file.path, _Source(opened)).metadata
        columns = _columns(file.path, metadata, options)
        return [
            sum(
                group.column(at).total_compressed_size
                for at in range(group.num_columns)
                if _within(group.column(at).path_in_schema, columns)
            )
            for group in map(metadata.row_group, range(metadata.num_row_groups))
        ]


def read_table(unit: InputUnit, options: ReadOptions) -> Iterator[Page | Failure]:
    """Pages and failures of the row groups [start, end); the offset is the row's number in the file."""
    with open_input(unit.path) as opened:
        source = _Source(opened)
        table = _open(unit.path, source)
        columns = _columns(unit.path, table.metadata, options)
        end = sum(table.metadata.row_group(group).num_rows for group in range(unit.start))
        for group in range(unit.start, unit.end):
            start, end = end, end + table.metadata.row_group(group).num_rows
            for row, values in zip(range(start, end), _rows(table, group, columns, source), strict=False):
                if isinstance(values, str):
                    yield Failure(unit.kind, unit.name, row, "read", "corrupt", values.split("\n")[0])
                else:
                    yield _page(values, unit, row, options)


class _Source:
    """A file that remembers why it could not be read: Arrow raises OSError for that and for bad content alike."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.trouble: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:
            self.trouble = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _rows(table: pq.ParquetFile, group: int, columns: list[str], source: _Source) -> Iterator[dict[str, Any] | str]:
    """The rows of a row group, or what is wrong with each; after damage without end, as all that follow are lost."""
    trouble = "the row group ends before its last row"
    try:
        for batch in table.iter_batches(_ROWS, [group], columns):
            yield from _values(batch)
    except _CORRUPT as error:
        if source.trouble:
            raise
        trouble = str(error)
    yield from repeat(trouble)


def _values(batch: pa.RecordBatch) -> list[dict[str, Any] | str]:
    """Each row, or why it is none in Python."""
    try:
        return batch.to_pylist()
    except _NO_VALUE as error:
        if batch.num_rows == 1:
            return [str(error)]
    return [row for at in range(batch.num_rows) for row in _values(batch.slice(at, 1))]


def _page(values: dict, unit: InputUnit, row: int, options: ReadOptions) -> Page | Failure:
    page = row_page(values, unit, row, options)
    size = len(page.body or page.text or "") if isinstance(page, Page) else 0
    if size > options.max_record_bytes:
        return Failure(unit.kind, unit.name, row, "read", "too_large", f"{size} bytes or more", page.url, size)
    return page


def _open(path: str, source: _Source) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(source)
    except _CORRUPT as error:
        if source.trouble:
            raise
        line = str(error).split("\n")[0]
        raise InputError(f"{path}: not a readable Parquet file ({line}); fetch it again or leave it out") from error


def _columns(path: str, metadata: pq.FileMetaData, options: ReadOptions) -> list[str]:
    """Paths of the columns to read. Only the address may be missing, and only under its default name."""
    there = [metadata.schema.column(at).path for at in range(len(metadata.schema))]
    fields = options.html_field or options.text_field
    columns = [fields] if isinstance(fields, str) else [*fields]
    for option in ("url_field", "timestamp_field", "title_field", "id_field", "label_field"):
        name = getattr(options, option)
        default = ReadOptions.model_fields[option].default
        if name is not None and (name != default or any(_within(column, [name]) for column in there)):
            columns.append(name)
    for name in columns:
        if not any(_within(column, [name]) for column in there):
            names = ", ".join(dict.fromkeys(there))
            raise InputError(f"{path}: no column {name}; there are {names[:300]}; set read.text_field or its like")
    return columns


def _within(column: str, names: list[str]) -> bool:
    return any(column == name or column.startswith(f"{name}.") for name in names)
