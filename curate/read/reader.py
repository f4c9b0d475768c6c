"""One unit of the input, read by the reader of its kind."""

from collections.abc import Iterator

from .files import read_files
from .jsonl import read_jsonl
from .options import ReadOptions
from .page import Failure, Page
from .text import read_text
from .unit import InputUnit
from .warc import read_warc


def read_unit(unit: InputUnit, options: ReadOptions) -> Iterator[Page | Failure]:
    """Pages, and records that became none, of one unit. What is wrong with a record never raises; a file that has
    gone, or may not be read, does (OSError or StorageError)."""
    if unit.kind == "parquet":
        from .table import read_table  # pyarrow's readers are slow to import

        yield from read_table(unit, options)
    elif unit.kind == "jsonl":
        yield from read_jsonl(unit, options)
    elif unit.kind in ("text", "lines"):
        yield from read_text(unit, options)
    elif unit.kind == "html":
        yield from read_files(unit, options)
    else:
        yield from read_warc(unit, options)
