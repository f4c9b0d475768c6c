"""Compressed files as pieces of decoded bytes, read from any place in the file and past any damage.

A gzip or zstd file is a chain of members (zstd: frames). The usual WARC holds one record in each, so a member whose
content begins with `WARC/` is a place where reading can start: for a unit in the middle of a file, and after damage.
A member that begins otherwise continues what the one before it began.
"""

import zlib
from collections.abc import Callable, Generator, Iterator
from typing import IO, NamedTuple

import zstandard

GZIP = b"\x1f\x8b\x08"
ZSTD = b"\x28\xb5\x2f\xfd"
SKIPPABLE = b"\x2a\x4d\x18"  # the last three of the four bytes that begin a skippable zstd frame
DICTIONARY = b"\x5d" + SKIPPABLE  # the one that holds the dictionary of a .warc.zst (IIPC, WARC with zstd 1.0)
RECORD = b"WARC/"

_READ = 64 * 2**10  # compressed bytes at a time
_PIECE = 2**20  # decoded bytes at a time, at most
_SCAN = 2**20
_BLOCK = 128 * 2**10  # zstd's largest block
_DICTIONARY = 64 * 2**20  # far above any real one


class Damage(NamedTuple):
    """Why a member ends before its end."""

    reason: str  # truncated or corrupt
    detail: str


class Piece(NamedTuple):
    """Decoded bytes of one member, in order."""

    offset: int  # where the member begins in the file
    data: bytes
    begins: bool = False  # it does not continue what was before: a record begins with it, or it gives nothing at all
    damage: Damage | None = None  # the rest of the member is lost


class _Damaged(Exception):
    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.damage = Damage(reason, detail)


Member = Generator[bytes, None, int]  # yields what it decodes, returns where the next member begins


def compression(head: bytes, name: str = "") -> str | None:
    """gzip, zstd, or None for what is neither, by the file's first bytes, or by its name if it tells."""
    if head.startswith(GZIP) or name.endswith(".gz"):
        return "gzip"
    if (
        head.startswith(ZSTD)
        or (head[1:4] == SKIPPABLE and 0x50 <= head[0] <= 0x5F)
        or name.endswith((".zst", ".zstd"))
    ):
        return "zstd"
    return None


def pieces(file: IO[bytes], codec: str, start: int, end: int) -> Iterator[Piece]:
    """What the members hold that begin a record in [start, end), and those that continue them.

    Over a file's ranges, whatever their size, every member comes exactly once. The one exception is a compressed WARC
    that is itself the payload of a record, if a range begins inside it: it is taken for part of the crawl.
    """
    chain = _Chain(file, codec)
    place = 0 if start == 0 else chain.find(start, end)
    while place is not None and place < chain.size:
        if place >= end and chain.begins(place):
            return
        first = True
        member = chain.decode(place)
        try:
            while True:
                data = next(member)
                yield Piece(place, data, first and data.startswith(RECORD))
                first = False
        except StopIteration as done:
            place = done.value
        except _Damaged as damaged:
            yield Piece(place, b"", first, damaged.damage)
            place = chain.find(place + 1, chain.size)


class _Chain:
    """The members of one file."""

    def __init__(self, file: IO[bytes], codec: str):
        self._file = file
        self.size = file.seek(0, 2)
        self._magic = GZIP if codec == "gzip" else ZSTD
        self.decode: Callable[[int], Member] = self._gzip if codec == "gzip" else self._zstd
        self._dictionary = _dictionary(file) if codec == "zstd" else None

    def begins(self, place: int) -> bool:
        """True if a member begins there whose content begins with a record."""
        member = self.decode(place)
        try:
            return next(member).startswith(RECORD)
        except (StopIteration, _Damaged):
            return False

    def find(self, place: int, stop: int) -> int | None:
        """The first place in [place, stop) where reading can start."""
        overlap = len(self._magic) - 1
        while place < stop:
            self._file.seek(place)
            block = self._file.read(min(_SCAN, stop + overlap - place))
            at = block.find(self._magic)
            while at >= 0:
                if self.begins(place + at):
                    return place + at
                at = block.find(self._magic, at + 1)
            if len(block) <= overlap:
                return None
            place += len(block) - overlap
        return None

    def _gzip(self, place: int) -> Member:
        inflate = zlib.decompressobj(31)
        self._file.seek(place)
        data = self._file.read(_READ)
        if not data.startswith(GZIP):
            raise _Damaged("corrupt", "no gzip member begins here")
        at = place
        while True:
            before = inflate.copy() if at > place else zlib.decompressobj(31)
            try:
                decoded = inflate.decompress(data, _PIECE)
            except zlib.error as error:
                rescued = _rescue(before, data)
                if rescued:
                    yield rescued
                raise _Damaged("corrupt", str(error)) from error
            if decoded:
                yield decoded
            rest = inflate.unused_data or inflate.unconsumed_tail
            at += len(data) - len(rest)
            if inflate.eof:
                return at
            data = rest or self._file.read(_READ)
            if not data and not decoded:
                raise _Damaged("truncated", "the file ends within a gzip member")

    def _zstd(self, place: int) -> Member:
        """A frame, block by block: each decodes to 128 KiB at most, and the frame's end is known without guessing."""
        self._file.seek(place)
        head = self._file.read(18)  # the longest frame header there is
        if head[1:4] == SKIPPABLE and len(head) >= 8:
            after = place + 8 + int.from_bytes(head[4:8], "little")
            if after > self.size:
                raise _Damaged("truncated", "the file ends within a skippable zstd frame")
            self._file.seek(after)
            if after < self.size and compression(self._file.read(4)) != "zstd":
                raise _Damaged("corrupt", "no zstd frame follows a skippable one")
            return after
        if not head.startswith(ZSTD):
            raise _Damaged("corrupt", "no zstd frame begins here")
        held = b""
        try:
            checksum = zstandard.get_frame_parameters(head).has_checksum
            size = zstandard.frame_header_size(head)
            frame = zstandard.ZstdDecompressor(dict_data=self._dictionary).decompressobj()
            frame.decompress(head[:size])
            at, last = place + size, False
            while not last:
                block, last = self._zstd_block(at)
                at += len(block)
                held += frame.decompress(block)
                if len(held) >= _READ:
                    yield held
                    held = b""
            if checksum:
                frame.decompress(self._exactly(4))
                at += 4
        except (zstandard.ZstdError, _Damaged) as error:
            if held:
                yield held
            raise error if isinstance(error, _Damaged) else _Damaged("corrupt", str(error)) from error
        if held:
            yield held
        return at

    def _zstd_block(self, place: int) -> tuple[bytes, bool]:
        """The block there with its header (RFC 8878, section 3.1.1.2), and whether it is the frame's last."""
        self._file.seek(place)
        head = self._exactly(3)
        value = int.from_bytes(head, "little")
        kind, size = value >> 1 & 3, value >> 3
        if kind == 3 or size > _BLOCK:
            raise _Damaged("corrupt", "not a zstd block")
        return head + self._exactly(1 if kind == 1 else size), bool(value & 1)

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise _Damaged("truncated", "the file ends within a zstd frame")
        return data


def _rescue(inflate, data: bytes) -> bytes:
    """What can be decoded of data that holds an error: everything up to a few bytes before it."""
    rescued = bytearray()
    try:
        for at in range(0, len(data), 16):
            rescued += inflate.decompress(data[at : at + 16])
    except zlib.error:
        pass
    return bytes(rescued)


def _dictionary(file: IO[bytes]) -> zstandard.ZstdCompressionDict | None:
    """The dictionary that a .warc.zst begins with, as it is or compressed; None where there is none."""
    file.seek(0)
    head = file.read(8)
    if not head.startswith(DICTIONARY) or len(head) < 8:
        return None
    data = file.read(min(int.from_bytes(head[4:8], "little"), _DICTIONARY))
    try:
        if data.startswith(ZSTD):
            data = zstandard.ZstdDecompressor().stream_reader(data).read(_DICTIONARY)
        return zstandard.ZstdCompressionDict(data)
    except zstandard.ZstdError:
        return None
