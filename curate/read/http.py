"""HTTP responses as a WARC keeps them: header, chunking and content codings undone.

Archives hold bodies that were decoded before they were stored while their header still speaks of a coding, bodies
that end early, and headers that lie. A coding that the body does not have is passed over; one that breaks off gives
what came before the break; anything else is a `BodyError`.
"""

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import brotli
import zstandard

Headers = Mapping[str, str]  # names in lower case; of several fields with one name the first

_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(rb"\s*HTTP/?[0-9.]* +([0-9]{3})", re.IGNORECASE)
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,16})[ \t]*(?:;[^\r\n]*)?\r?\n")
_CONTROL = re.compile("[\x00-\x1f\x7f]+")
_BLOCK = 4096  # bytes given to zlib at a time: what a member leaves of it is copied, and a body may have 10^6 members
_NO_CODING = {"", "identity", "none", "8bit", "7bit", "binary", "utf-8"}


class BodyError(ValueError):
    """A body that cannot be had: `reason` is the failure's, the message its detail."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


class Response(NamedTuple):
    status: int
    headers: Headers
    payload: bytes  # as it was sent


def parse_headers(block: bytes) -> Headers:
    """The named fields of a header block, of WARC or HTTP; its first line and whatever is no field are passed over."""
    fields: dict[str, list[str]] = {}
    name = ""
    for line in block.decode("utf-8", "replace").split("\n")[1:]:
        if line[:1] in (" ", "\t") and name:  # folded: it goes on with the field above
            fields[name].append(_CONTROL.sub(" ", line).strip())
            continue
        key, colon, value = line.partition(":")
        name = key.strip().lower() if colon else ""
        if name and name not in fields:
            fields[name] = [_CONTROL.sub("", value).strip()]
        else:
            name = ""
    return {name: " ".join(filter(None, parts)) for name, parts in fields.items()}


def parse_response(data: bytes) -> Response | None:
    """The response, or None if the data does not begin with a status line."""
    status = _STATUS.match(data, 0, 64)
    if not status:
        return None
    blank = _BLANK_LINE.search(data)
    end = blank.end() if blank else len(data)
    return Response(int(status.group(1)), parse_headers(data[status.start() : end]), data[end:])


def content_type(value: str) -> tuple[str | None, str | None]:
    """Media type and charset of a Content-Type field, both in lower case, None where it names none."""
    media, _, parameters = value.partition(";")
    charset = re.search(r"charset\s*=\s*[\"']?\s*([^\s\"';,]+)", parameters, re.IGNORECASE)
    return media.strip().lower() or None, charset.group(1).lower() if charset else None


def body_of(response: Response, limit: int, is_plain: Callable[[bytes], bool]) -> bytes:
    """The body with its codings undone, at most `limit` bytes of it.

    `is_plain` tells whether bytes can be a body as they are. Raises BodyError with the reason bad_chunking,
    bad_content_coding or too_large.
    """
    body = response.payload
    if "chunked" in response.headers.get("transfer-encoding", "").lower():
        body = _unchunk(body)
    codings = [name.strip().lower() for name in response.headers.get("content-encoding", "").split(",")]
    for coding in reversed(codings):
        if coding in _NO_CODING:
            continue
        decoded = _decode(coding, body, limit) if coding in _DECODERS else None
        if decoded is not None:
            body = decoded
        elif not is_plain(body):
            raise BodyError("bad_content_coding", f"declared as {coding[:40]}, which it is not")
    return body


def _unchunk(body: bytes) -> bytes:
    """The chunks' content; the body itself if it is not in chunks; what there is if it ends early."""
    parts = []
    at = 0
    while at < len(body):
        size = _CHUNK_SIZE.match(body, at)
        end = size.end() + int(size.group(1), 16) if size else 0
        if size and end == size.end():
            break
        if not size or body[end : end + 1] not in (b"\r", b"\n", b""):
            if not parts:
                return body
            if re.fullmatch(rb"[0-9a-fA-F]{0,16}\r?", body[at : at + 20]):
                break  # cut off within the size
            raise BodyError("bad_chunking", f"no chunk from byte {at} on")
        parts.append(body[size.end() : end])
        at = end + (2 if body[end : end + 2] == b"\r\n" else 1)
    return b"".join(parts)


def _decode(coding: str, body: bytes, limit: int) -> bytes | None:
    """The body decoded, or as much of it as came; None if it is not in that coding at all."""
    parts = []
    size = 0
    try:
        for part in _DECODERS[coding](body, limit + 1):
            parts.append(part)
            size += len(part)
            if size > limit:
                raise BodyError("too_large", f"more than {limit} bytes once its {coding} coding is undone")
    except (zlib.error, brotli.error, zstandard.ZstdError) as error:
        if size:
            raise BodyError("bad_content_coding", f"{coding}: {error}") from error
        return None
    return b"".join(parts) if size or not body else None


def _gunzip(body: bytes, limit: int) -> Iterator[bytes]:
    at = 0
    while body[at : at + 2] == b"\x1f\x8b":
        inflate = zlib.decompressobj(31)
        while at < len(body) and not inflate.eof:
            block = body[at : at + _BLOCK]
            yield inflate.decompress(block, limit)
            at += len(block) - len(inflate.unused_data or inflate.unconsumed_tail)


def _inflate(body: bytes, limit: int) -> Iterator[bytes]:
    """`deflate` means a zlib stream; many servers sent bare deflate data, as browsers know."""
    try:
        yield zlib.decompressobj().decompress(body, limit)
    except zlib.error:
        yield zlib.decompressobj(-15).decompress(body, limit)


def _unbrotli(body: bytes, limit: int) -> Iterator[bytes]:
    decoder = brotli.Decompressor()
    yield decoder.process(body, output_buffer_limit=limit)
    while not decoder.can_accept_more_data():
        yield decoder.process(b"", output_buffer_limit=limit)


def _unzstd(body: bytes, limit: int) -> Iterator[bytes]:
    with zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True) as reader:
        while part := reader.read(min(limit, 2**20)):
            yield part


_DECODERS: Mapping[str, Callable[[bytes, int], Iterator[bytes]]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _inflate,
    "br": _unbrotli,
    "zstd": _unzstd,
}
