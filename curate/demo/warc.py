"""Writes WARC records byte by byte (ISO 28500), because the demo's damage must be exact; reading is done elsewhere."""

import base64
import gzip
import hashlib
import uuid
from datetime import datetime, timedelta
from typing import NamedTuple

from .pages import Response

_FIRST = datetime(2024, 6, 1, 6, 0, 0)


class Clock:
    """Dates and record ids for one file: they look like a crawl's, and are the same in every run."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._records = 0

    def next(self) -> tuple[str, str]:
        """The date and the id of the next record."""
        self._records += 1
        date = _FIRST + timedelta(seconds=7 * self._records)
        name = uuid.uuid5(uuid.NAMESPACE_URL, f"{self._name}#{self._records}")
        return date.strftime("%Y-%m-%dT%H:%M:%SZ"), f"<urn:uuid:{name}>"


class Record(NamedTuple):
    """One WARC record before it is compressed."""

    head: bytes
    block: bytes

    @property
    def stored(self) -> bytes:
        """The record as it stands in an uncompressed file."""
        return self.head + self.block + b"\r\n\r\n"


def record(clock: Clock, kind: str, url: str | None, block: bytes, content_type: str, **more: str) -> Record:
    """A record of any kind; further headers by name, with `_` for `-`."""
    date, identity = clock.next()
    fields = {"WARC-Type": kind, "WARC-Record-ID": identity, "WARC-Date": date}
    if url is not None:
        fields["WARC-Target-URI"] = url
    fields |= {name.replace("_", "-"): value for name, value in more.items()}
    fields |= {"Content-Type": content_type, "Content-Length": str(len(block))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return Record(f"WARC/1.1\r\n{lines}\r\n".encode(), block)


def warcinfo(clock: Clock, name: str) -> Record:
    """The first record of a file."""
    block = b"software: tilth demo\r\nformat: WARC File Format 1.1\r\ndescription: an invented crawl\r\n"
    return record(clock, "warcinfo", None, block, "application/warc-fields", WARC_Filename=name)


def request(clock: Clock, answer: Response) -> Record:
    """What was asked to get this answer."""
    host, _, path = answer.url.split("://")[1].partition("/")
    block = f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tilth-demo\r\n\r\n".encode()
    return record(clock, "request", answer.url, block, "application/http; msgtype=request")


def exchange(clock: Clock, answer: Response) -> tuple[Record, Record]:
    """The request for a page, and the answer to it."""
    asked = request(clock, answer)
    digest = payload_digest(answer.body)
    kind = "application/http; msgtype=response"
    return asked, record(clock, "response", answer.url, http(answer), kind, WARC_Payload_Digest=digest)


def revisit(clock: Clock, answer: Response) -> Record:
    """A later visit that found the same bytes: only the answer's head is stored."""
    profile = "http://netpreserve.org/warc/1.1/revisit/identical-payload-digest"
    more = {"WARC_Profile": profile, "WARC_Payload_Digest": payload_digest(answer.body)}
    return record(clock, "revisit", answer.url, http(answer, body=False), "application/http; msgtype=response", **more)


def resource(clock: Clock, answer: Response) -> Record:
    """A page without the HTTP that brought it."""
    return record(clock, "resource", answer.url, answer.body, "text/html")


def conversion(clock: Clock, url: str, text: str) -> Record:
    """The text of a page, as in a WET file."""
    return record(clock, "conversion", url, text.encode(), "text/plain")


def http(answer: Response, body: bool = True) -> bytes:
    """The answer as it came over the wire, or its head alone; a length is told where the body is not chunked."""
    headers = list(answer.headers)
    if ("Transfer-Encoding", "chunked") not in headers:
        headers.append(("Content-Length", str(len(answer.body))))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = f"HTTP/1.1 {answer.status}\r\nServer: demo\r\n{lines}\r\n".encode()
    return head + answer.body if body else head


def payload_digest(body: bytes) -> str:
    """The SHA-1 of a payload, in base 32 as crawlers write it."""
    return "sha1:" + base64.b32encode(hashlib.sha1(body).digest()).decode()


def member(stored: bytes) -> bytes:
    """A record as one gzip member, without a date of its own."""
    return gzip.compress(stored, compresslevel=9, mtime=0)
