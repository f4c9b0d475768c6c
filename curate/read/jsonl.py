"""JSON lines, plain or compressed: a line is a page."""

import json
from collections.abc import Iterator
from typing import IO, NamedTuple

import orjson

from tilth.storage import open_input

from .fields import row_page
from .options import ReadOptions
from .page import Failure, Page
from .stream import Damage, compression, pieces
from .unit import InputUnit

_READ = 2**20


class _Line(NamedTuple):
    offset: int  # of its first byte, in the content
    data: bytes
    size: int  # larger than the data if the line is above the limit, whose data is left out
    damage: Damage | None = None  # the line is what was left when the file broke off


def read_jsonl(unit: InputUnit, options: ReadOptions) -> Iterator[Page | Failure]:
    """Pages and failures of the lines that begin in the unit's range; blank lines are none."""

    def failure(line: _Line, reason: str, detail: str) -> Failure:
        return Failure(unit.kind, unit.name, line.offset, "read", reason, detail, None, line.size)

    with open_input(unit.path) as file:
        codec = compression(file.read(8))
        if codec and unit.start:
            return  # its first unit reads all of it
        content = _decoded(file, codec) if codec else _range(file, unit.start, unit.end)
        for line in _lines(content, options.max_record_bytes):
            if line.damage:
                yield failure(line, line.damage.reason, line.damage.detail)
            elif line.size > len(line.data):
                yield failure(line, "too_large", f"a line of {line.size} bytes")
            elif line.data.strip():
                row = _parse(line.data)
                if isinstance(row, dict):
                    yield row_page(row, unit, line.offset, options)
                else:
                    yield failure(line, "bad_json", row)


_Content = Iterator[tuple[int, bytes, Damage | None]]  # offset, what follows there, why it ends


def _range(file: IO[bytes], start: int, end: int) -> _Content:
    """From the first line that begins in [start, end) to the end of the last one."""
    at = start
    if start:
        at -= 1  # if this byte ends a line, the next one is ours
        file.seek(at)
        data = b""
        while not data.endswith(b"\n"):
            data = file.readline(_READ)
            if not data:
                return
            at += len(data)
    file.seek(at)
    data = b"\n"
    while at < end or not data.endswith(b"\n"):
        data = file.read(min(_READ, end - at)) if at < end else file.readline(_READ)
        if not data:
            return
        yield at, data, None
        at += len(data)


def _decoded(file: IO[bytes], codec: str) -> _Content:
    at = 0
    for piece in pieces(file, codec, 0, file.seek(0, 2)):
        yield at, piece.data, piece.damage
        at += len(piece.data)


def _lines(content: _Content, limit: int) -> Iterator[_Line]:
    held = bytearray()  # the line that has begun, up to the limit
    size = 0  # and how long it is
    begun = 0
    for offset, data, damage in content:
        if not size:
            begun = offset
        *whole, rest = data.split(b"\n")
        for part in whole:
            size += len(part)
            yield _Line(begun, bytes(held + part) if size <= limit else b"", size)
            begun += size + 1
            held.clear()
            size = 0
        size += len(rest)
        held += rest[: max(limit - len(held), 0)]
        if damage:
            yield _Line(begun, b"", size, damage)
            return
    if size:
        yield _Line(begun, bytes(held) if size <= limit else b"", size)


def _parse(line: bytes) -> dict | str:
    """The object, or what is wrong with the line."""
    try:
        row = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        try:
            row = json.loads(line.decode("utf-8-sig"))  # slower, but takes NaN and lone surrogates
        except (ValueError, RecursionError):
            return str(error)
    return row if isinstance(row, dict) else f"a JSON {type(row).__name__}, not an object"
