"""Lines of a file, plain or compressed: those that begin in a unit's range, and none of them larger than a limit."""

from collections.abc import Iterator
from typing import IO, NamedTuple

from tilth.storage import open_input

from .stream import Damage, compression, pieces
from .unit import InputUnit

_READ = 2**20


class Line(NamedTuple):
    offset: int  # of its first byte, in the content
    data: bytes
    size: int  # larger than the data if the line is above the limit, whose data is left out
    damage: Damage | None = None  # the line is what was left when the file broke off


def lines_of(unit: InputUnit, limit: int) -> Iterator[Line]:
    """The lines that begin in the unit's range, without their ends; a compressed file's first unit has all of it."""
    with open_input(unit.path) as file:
        codec = compression(file.read(8))
        if codec and unit.start:
            return
        yield from _lines(_decoded(file, codec) if codec else _range(file, unit.start, unit.end), limit)


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


def _lines(content: _Content, limit: int) -> Iterator[Line]:
    held = bytearray()  # the line that has begun, up to the limit
    size = 0  # and how long it is
    begun = 0
    for offset, data, damage in content:
        if not size:
            begun = offset
        *whole, rest = data.split(b"\n")
        for part in whole:
            size += len(part)
            yield Line(begun, bytes(held + part) if size <= limit else b"", size)
            begun += size + 1
            held.clear()
            size = 0
        size += len(rest)
        held += rest[: max(limit - len(held), 0)]
        if damage:
            yield Line(begun, b"", size, damage)
            return
    if size:
        yield Line(begun, bytes(held) if size <= limit else b"", size)
