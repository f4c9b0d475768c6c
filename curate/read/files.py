"""Loose HTML: a file is a page."""

from collections.abc import Iterator
from typing import IO

from tilth.storage import open_input

from .options import ReadOptions
from .page import Failure, Page
from .stream import Damage, compression, pieces
from .unit import InputFile, InputUnit


def read_files(unit: InputUnit, options: ReadOptions) -> Iterator[Page | Failure]:
    """One page or failure for each file of the unit."""
    for file in unit.files:
        yield _page(file, options.max_record_bytes)


def _page(file: InputFile, limit: int) -> Page | Failure:
    def failure(reason: str, detail: str) -> Failure:
        return Failure("html", file.name, 0, "read", reason, detail, None, file.size)

    if file.size > limit:
        return failure("too_large", f"{file.size} bytes")
    with open_input(file.path) as opened:
        body, damage = _content(opened, limit)
    if damage:
        return failure(damage.reason, damage.detail)
    if len(body) > limit:
        return failure("too_large", f"more than {limit} bytes decoded")
    if not body.strip():
        return failure("empty", "no body")
    xhtml = file.name.lower().removesuffix(".gz").endswith((".xhtml", ".xht"))
    return Page("html", file.name, 0, content_type="application/xhtml+xml" if xhtml else "text/html", body=body)


def _content(file: IO[bytes], limit: int) -> tuple[bytes, Damage | None]:
    """The file's content, decompressed; a little more than `limit` bytes if it is larger."""
    codec = compression(file.read(8))
    file.seek(0)
    if codec is None:
        return file.read(limit + 1), None
    content = bytearray()
    for piece in pieces(file, codec, 0, file.seek(0, 2)):
        content += piece.data
        if piece.damage or len(content) > limit:
            return bytes(content), piece.damage
    return bytes(content), None
