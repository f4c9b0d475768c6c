"""Parquet: a row is a page; only the columns that are asked for are read."""

from collections.abc import Iterator
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.errors import InputError
from tilth.storage import open_input

from .fields import row_page
from .options import ReadOptions
from .page import Failure, Page
from .unit import InputFile, InputUnit

_ROWS = 256  # decoded at a time


def row_groups(file: InputFile, options: ReadOptions) -> list[int]:
    """Bytes of the columns needed, of each row group. Raises InputError for what is no Parquet or lacks a column."""
    with open_input(file.path) as opened:
        metadata = _open(file.path, opened).metadata
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
        table = _open(unit.path, opened)
        columns = _columns(unit.path, table.metadata, options)
        row = sum(table.metadata.row_group(group).num_rows for group in range(unit.start))
        for group in range(unit.start, unit.end):
            end = row + table.metadata.row_group(group).num_rows
            try:
                for batch in table.iter_batches(_ROWS, [group], columns):
                    for values in batch.to_pylist():
                        yield _page(values, unit, row, options)
                        row += 1
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                detail = f"{end - row} rows from here on: {error}".split("\n")[0]
                yield Failure(unit.kind, unit.name, row, "read", "corrupt", detail)
            row = end


def _page(values: dict, unit: InputUnit, row: int, options: ReadOptions) -> Page | Failure:
    page = row_page(values, unit, row, options)
    size = len(page.body or page.text or "") if isinstance(page, Page) else 0
    if size > options.max_record_bytes:
        return Failure(unit.kind, unit.name, row, "read", "too_large", f"{size} bytes or more", page.url, size)
    return page


def _open(path: str, file: IO[bytes]) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        line = str(error).split("\n")[0]
        raise InputError(f"{path}: not a readable Parquet file ({line}); fetch it again or leave it out") from error


def _columns(path: str, metadata: pq.FileMetaData, options: ReadOptions) -> list[str]:
    """Paths of the columns to read. Only the address may be missing, and only under its default name."""
    there = [metadata.schema.column(at).path for at in range(len(metadata.schema))]
    columns = [options.html_field or options.text_field]
    for option in ("url_field", "timestamp_field", "title_field"):
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
