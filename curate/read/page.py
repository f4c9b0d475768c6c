"""What a reader hands on: pages, and records that became none."""

from datetime import datetime
from typing import NamedTuple


class Page(NamedTuple):
    """One record of the input, decoded no further than its transport (chunking and content coding are undone)."""

    source: str  # the kind of input: warc, wet, html, jsonl, parquet, text, lines
    path: str  # the input's name within the run
    # Where the record begins, unique in the file: the row of a table, else the byte. In a compressed WARC it is the
    # byte where the record's member begins, plus the record's rank in it if it holds several.
    offset: int
    url: str | None = None
    timestamp: datetime | None = None  # UTC
    content_type: str | None = None  # as declared, without parameters, lower case
    charset: str | None = None  # as declared beside the content type
    body: bytes | None = None  # for what must still be decoded and extracted
    text: str | None = None  # for what is text already
    title: str | None = None
    id: str | None = None
    label: str | None = None


class Failure(NamedTuple):
    """One record of the input that became no document, and why."""

    source: str
    path: str
    offset: int
    stage: str  # read, decode, extract or gate
    reason: str  # one short name, counted in the report: truncated, revisit, not_html, timeout, ...
    detail: str = ""  # what a person would want to know about this one
    url: str | None = None
    bytes: int = 0  # size of the payload, where one was read
