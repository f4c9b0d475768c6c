"""WARC and WET: records become pages.

Responses, resources and conversions are read. Requests, metadata and warcinfo describe the crawl and are passed over
without a word; whatever else a file holds becomes a failure.
"""

from collections.abc import Iterator
from typing import IO

from tilth.document import sound_text
from tilth.storage import open_input

from .fields import parse_timestamp
from .html import is_textual
from .http import BodyError, Headers, body_of, content_type, parse_response
from .options import ReadOptions
from .page import Failure, Page
from .records import Lost, Record, compressed_records, plain_records
from .stream import RECORD, compression
from .unit import InputUnit

_DESCRIBING = {"warcinfo", "request", "metadata"}


def read_warc(unit: InputUnit, options: ReadOptions) -> Iterator[Page | Failure]:
    """Pages and failures of the records that begin in the unit's range."""
    with open_input(unit.path) as file:
        for item in _records(file, unit, options.max_record_bytes):
            if isinstance(item, Record):
                result = _result(item, unit, options)
                if result is not None:
                    yield result
            else:
                yield _loss(item, unit)


def _records(file: IO[bytes], unit: InputUnit, limit: int) -> Iterator[Record | Lost]:
    head = file.read(8)
    named = compression(b"", unit.name.lower())
    codec = compression(head) or (None if head.startswith(RECORD) else named)
    if codec:
        return compressed_records(file, codec, unit.start, unit.end, limit)
    if named:  # it was cut as what it is not: its first unit reads all of it
        return iter(()) if unit.start else plain_records(file, 0, file.seek(0, 2), limit)
    return plain_records(file, unit.start, unit.end, limit)


def _result(record: Record, unit: InputUnit, options: ReadOptions) -> Page | Failure | None:
    kind = record.headers.get("warc-type", "").lower()
    media, _ = content_type(record.headers.get("content-type", ""))
    if kind in _DESCRIBING:
        return None
    if kind == "revisit":
        return _failure(record, unit, "revisit", record.headers.get("warc-refers-to-target-uri", ""))
    if kind == "response" and (media == "application/http" or record.body[:5] == b"HTTP/"):
        return _response(record, unit, options)
    if kind == "conversion" and media in (None, "text/plain"):
        return _page(record, unit, text=sound_text(record.body.decode("utf-8", "replace")))
    if kind in ("response", "resource", "conversion"):
        media, charset = content_type(record.headers.get("content-type", ""))
        return _page(record, unit, media, charset, record.body)
    return _failure(record, unit, "record_type", f"WARC-Type is {kind[:40]!r}")


def _response(record: Record, unit: InputUnit, options: ReadOptions) -> Page | Failure:
    response = parse_response(record.body)
    if response is None:
        return _failure(record, unit, "bad_http", "the record does not begin with a status line")
    if options.statuses == "success" and not 200 <= response.status < 300:
        return _failure(record, unit, "http_status", str(response.status))
    try:
        body = body_of(response, options.max_record_bytes, is_textual)
    except BodyError as error:
        return _failure(record, unit, error.reason, str(error))
    media, charset = content_type(response.headers.get("content-type", ""))
    return _page(record, unit, media, charset, body)


def _page(
    record: Record,
    unit: InputUnit,
    media: str | None = None,
    charset: str | None = None,
    body: bytes | None = None,
    text: str | None = None,
) -> Page | Failure:
    if not (body or text):
        return _failure(record, unit, "empty", "no body")
    url, timestamp = _url(record.headers), parse_timestamp(record.headers.get("warc-date"))
    return Page(unit.kind, unit.name, record.place, url, timestamp, media, charset, body, text)


def _failure(record: Record, unit: InputUnit, reason: str, detail: str) -> Failure:
    url = _url(record.headers)
    return Failure(unit.kind, unit.name, record.place, "read", reason, detail, url, len(record.body))


def _loss(lost: Lost, unit: InputUnit) -> Failure:
    url = _url(lost.headers) if lost.headers else None
    return Failure(unit.kind, unit.name, lost.place, "read", lost.reason, lost.detail, url, lost.bytes)


def _url(headers: Headers) -> str | None:
    """WARC-Target-URI, without the angle brackets that wget once wrote around it."""
    return headers.get("warc-target-uri", "").strip("<> ") or None
