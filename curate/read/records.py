"""WARC records, cut out of a file whatever has happened to it (ISO 28500).

A record is believed if what follows it is the next record or the end. Otherwise the next record is looked for, and
what lies before it becomes one `Lost`, so that every byte belongs to a record or is accounted for.
"""

import re
from collections.abc import Iterator
from typing import IO, NamedTuple

from .http import Headers, parse_headers
from .stream import RECORD, Damage, Piece, pieces

_HEAD = 256 * 2**10  # a record's header is smaller than this
_BLANKS = 64 * 2**10
_READ = 256 * 2**10
_BLANK = re.compile(rb"[\r\n\t ]*")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_VERSION = re.compile(rb"WARC/\d\.\d+[ \t]*\r?\n")
_ONCE = re.compile(rb"\n(WARC-(?:Type|Date|Record-ID|Target-URI)|Content-Length)[ \t]*:", re.IGNORECASE)
_RECORD_START = re.compile(rb"WARC/\d\.\d+[ \t]*\r?\n(?:[^\r\n]+\r?\n){0,60}?WARC-Type[ \t]*:", re.IGNORECASE)


class Record(NamedTuple):
    """One whole record."""

    place: int  # as Page.offset
    headers: Headers
    body: bytes


class Lost(NamedTuple):
    """Bytes that gave no record, and why."""

    place: int
    reason: str
    detail: str
    headers: Headers | None = None
    bytes: int = 0


def compressed_records(file: IO[bytes], codec: str, start: int, end: int, limit: int) -> Iterator[Record | Lost]:
    """Records of a compressed file whose members begin in [start, end); their place is the member's, plus their rank
    in it where it holds more than one. A body larger than `limit` bytes is lost."""
    yield from _frames(_Tape(pieces(file, codec, start, end)), limit, None)


def plain_records(file: IO[bytes], start: int, end: int, limit: int) -> Iterator[Record | Lost]:
    """Records of an uncompressed file that begin in [start, end); `start` is 0 or one of `plain_places`."""
    yield from _frames(_PlainTape(file, start), limit, end)


def plain_places(file: IO[bytes]) -> list[int]:
    """Where the records of an uncompressed file begin; hops over their bodies. What looks like a record inside a body
    is none, so this is known only to who comes from the file's beginning."""
    return [item.place for item in _frames(_PlainTape(file, 0), -1, None) if item.headers is not None]


class _Tape:
    """Decoded bytes, run after run: a run begins with a record for certain, and ends with the next such place, with
    damage or with the file. Positions count decoded bytes over all runs; what lies before the last drop is gone."""

    def __init__(self, source: Iterator[Piece]):
        self._source = source
        self._next: Piece | None = None
        self._fresh = True  # nothing of this run has been taken yet
        self._members: list[tuple[int, int]] = []  # position and place of the members that are held
        self._member = (-1, -1)  # the one that the last record began in
        self._rank = 0  # and its rank there
        self.base = 0  # position of the first byte held
        self.held = bytearray()
        self.damage: Damage | None = None

    @property
    def end(self) -> int:
        return self.base + len(self.held)

    def next_run(self) -> bool:
        self.drop(self.end)
        self.damage, self._fresh = None, True
        self._next = self._next or next(self._source, None)
        return self._next is not None

    def fill(self) -> bool:
        """Takes one more piece of the run; False at its end."""
        self._next = piece = self._next or next(self._source, None)
        if piece is None or self.damage or (piece.begins and not self._fresh):
            return False
        self._fresh, self._next = False, None
        if not self._members or self._members[-1][1] != piece.offset:
            self._members.append((self.end, piece.offset))
        self.damage = piece.damage
        self.held += piece.data
        return bool(piece.data)

    def reach(self, position: int) -> bool:
        """True if the run has all bytes before that position."""
        while self.end < position:
            if not self.fill():
                return False
        return True

    def drop(self, position: int) -> None:
        del self.held[: position - self.base]
        self.base = position

    def skip(self, position: int) -> bool:
        """Moves on without holding anything; False, and at the end of the run, if it ends before."""
        while self.end < position:
            self.drop(self.end)
            if not self.fill():
                return False
        self.drop(position)
        return True

    def place(self, position: int) -> int:
        """What a record that begins there is known by; asked once for each."""
        while len(self._members) > 1 and self._members[1][0] <= position:
            del self._members[0]
        self._rank = self._rank + 1 if self._members[0] == self._member else 0
        self._member = self._members[0]
        return self._member[1] + self._rank

    def begins(self, position: int) -> bool:
        self.reach(position + len(RECORD))
        return self.held.startswith(RECORD, position - self.base)

    def after_blanks(self, position: int) -> int:
        start = position
        while position - start < _BLANKS:
            match = _BLANK.match(self.held, position - self.base)
            position = self.base + (match.end() if match else 0)
            if position < self.end or not self.fill():
                break
        return position

    def head_end(self, position: int) -> int | None:
        """Where the header that begins there has ended, its blank line included."""
        at = position
        while at - position < _HEAD:
            match = _HEAD_END.search(self.held, at - self.base, position + _HEAD - self.base)
            if match:
                return self.base + match.end()
            at = max(position, self.end - 3)
            if not self.fill():
                return None
        return None

    def search(self, position: int, stop: int) -> int | None:
        """The first record that certainly begins in [position, stop), of what is held."""
        self.reach(stop + 32)
        while True:
            match = _VERSION.search(self.held, position - self.base)
            if not match or self.base + match.start() >= stop:
                return None
            self.reach(self.base + match.start() + _HEAD)
            if _RECORD_START.match(self.held, match.start()):
                return self.base + match.start()
            position = self.base + match.end()

    def find(self, position: int, stop: int | None = None) -> int | None:
        """The same over the rest of the run, or up to `stop`; what is passed is dropped."""
        while stop is None or position < stop:
            until = self.end if stop is None else min(stop, self.end)
            found = self.search(position, until)
            if found is not None:
                return found
            self.drop(until)
            position = max(position, until)
            if self.end <= until and not self.fill():
                break
        return None


class _PlainTape(_Tape):
    """An uncompressed file is one run, and one can go to any place in it."""

    def __init__(self, file: IO[bytes], start: int):
        super().__init__(iter(()))
        self._file = file
        self._size = file.seek(0, 2)
        self.go(start)

    def go(self, position: int) -> None:
        self._file.seek(position)
        self._source = (Piece(0, data) for data in iter(lambda: self._file.read(_READ), b""))
        self._next = None
        self.held.clear()
        self.base = position

    def skip(self, position: int) -> bool:
        inside = position <= self._size
        if self.base <= position <= self.end:
            self.drop(position)
        else:
            self.go(min(position, self._size))
        return inside

    def place(self, position: int) -> int:
        return position


def _frames(tape: _Tape, limit: int, stop: int | None) -> Iterator[Record | Lost]:
    while tape.next_run():
        told = None
        at = tape.base
        while True:
            at = tape.after_blanks(at)
            tape.drop(at)
            if not tape.reach(at + 1):
                break
            if stop is not None and at >= stop:
                return
            if _BLANK.fullmatch(tape.held, 0, 1):
                continue
            item, at = _frame(tape, at, limit)
            yield item
            told = item if isinstance(item, Lost) and tape.end == at else None
        if tape.damage and not told:
            yield Lost(tape.place(at), tape.damage.reason, tape.damage.detail)


def _frame(tape: _Tape, at: int, limit: int) -> tuple[Record | Lost, int]:
    """The record, or the loss, that begins there, and where the next one may begin."""
    place = tape.place(at)

    def lost(reason: str, detail: str, after: int | None, headers: Headers | None = None) -> tuple[Lost, int]:
        after = tape.end if after is None else after
        if tape.damage and after == tape.end:
            reason, detail = tape.damage.reason, f"{detail}; {tape.damage.detail}"
        return Lost(place, reason, detail, headers, after - at), after

    if not tape.begins(at):
        return lost("stray_bytes", "bytes that belong to no record", tape.find(at + 1))
    body = tape.head_end(at)
    if body is None:
        whole = tape.reach(at + _HEAD)
        return lost("corrupt" if whole else "truncated", "the record's header does not end", tape.find(at + 1))
    found = tape.search(at + 1, body)
    if found is not None:
        return lost("truncated", "the next record begins within the header of this one", found)
    block = bytes(tape.held[at - tape.base : body - tape.base])
    headers = parse_headers(block)
    once = [name.lower() for name in _ONCE.findall(block)]
    if b"\0" in block or len(once) > len(set(once)):
        return lost("corrupt", "the record's header is damaged, or two have run together", tape.find(body), headers)
    length = headers.get("content-length", "")
    if not re.fullmatch(r"[0-9]{1,18}", length):
        return lost("corrupt", f"Content-Length is {length[:40]!r}", tape.find(body), headers)
    end = body + int(length)
    if int(length) > limit:
        return lost(*_pass_over(tape, body, end), headers)
    whole = tape.reach(end)
    after = tape.after_blanks(end) if whole else tape.end
    more = whole and tape.reach(after + 1)
    if not whole or (more and not tape.begins(after)):
        found = tape.search(body, min(end, tape.end))
        if found is not None:
            return lost("truncated", "the next record begins before the end of this one", found, headers)
        if whole and after == end:
            return lost("corrupt", f"the record does not end after {length} bytes", tape.find(end), headers)
    if not whole:
        return lost("truncated", f"{tape.end - body} of {length} bytes are there", tape.end, headers)
    if not more and tape.damage and tape.damage.reason == "corrupt":
        return lost("corrupt", "the record is whole, its checksum wrong", after, headers)
    return Record(place, headers, bytes(tape.held[body - tape.base : end - tape.base])), after


def _pass_over(tape: _Tape, body: int, end: int) -> tuple[str, str, int]:
    """Leaves a body unread; gives the reason of its loss, a detail, and where the next record may begin."""
    whole = tape.skip(end)
    after = tape.after_blanks(tape.base)
    if isinstance(tape, _PlainTape) and not (whole and (not tape.reach(after + 1) or tape.begins(after))):
        tape.go(body)
        found = tape.find(body, end)
        if found is not None:
            return "truncated", "the next record begins before the end of this one", found
        tape.skip(end)
        after = tape.base
    if not whole:
        return "truncated", f"{tape.end - body} of {end - body} bytes are there", tape.end
    return "too_large", f"{end - body} bytes", after
