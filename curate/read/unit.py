"""The unit of work of reading: a file, a range of one, or a handful of small ones."""

from typing import NamedTuple

from .options import Kind


class InputFile(NamedTuple):
    """One file of the input."""

    name: str  # within the run: the same wherever the input is mounted
    path: str  # where it is now, local or an fsspec URL
    size: int  # bytes
    kind: Kind


class InputUnit(NamedTuple):
    """What one call of `read_unit` reads."""

    key: str  # stable, unique in the run, safe as a file name
    name: str  # the input's name within the run; of several files the first one's
    path: str
    kind: Kind
    start: int  # records that begin in [start, end) of the file: bytes, for Parquet row groups
    end: int
    size: int  # bytes to read, about
    files: tuple[InputFile, ...] = ()  # loose pages, where the unit is several
