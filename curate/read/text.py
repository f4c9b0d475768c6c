"""Plain text: a document a file, cut at line ends where it is longer than a record may be, or a document a line."""

from collections.abc import Iterator

from tilth.document import sound_text

from .charset import decode
from .lines import Line, lines_of
from .options import ReadOptions
from .page import Failure, Page
from .unit import InputUnit


def read_text(unit: InputUnit, options: ReadOptions) -> Iterator[Page | Failure]:
    """Pages and failures of the lines that begin in the unit's range. What is not UTF-8 is decoded by what its bytes
    look like if it is a whole file; of a line they tell too little, so that it becomes a failure."""

    def failure(line: Line, reason: str, detail: str) -> Failure:
        return Failure(unit.kind, unit.name, line.offset, "read", reason, detail, None, line.size)

    held: list[bytes] = []
    begun, size = 0, 0
    for line in lines_of(unit, options.max_record_bytes):
        whole = not line.damage and line.size == len(line.data)
        if held and (not whole or unit.kind == "lines" or size + line.size > options.max_record_bytes):
            yield _page(unit, begun, b"".join(held))
            held, size = [], 0
        if line.damage:
            yield failure(line, line.damage.reason, line.damage.detail)
        elif not whole:
            yield failure(line, "too_large", f"a line of {line.size} bytes")
        elif held or line.data.strip():
            begun = begun if held else line.offset
            held.append(line.data + b"\n")
            size += line.size + 1
    if held:
        yield _page(unit, begun, b"".join(held))


def _page(unit: InputUnit, offset: int, data: bytes) -> Page | Failure:
    try:
        text = data.decode("utf-8-sig" if not offset else "utf-8")
    except UnicodeDecodeError as error:
        if unit.kind == "lines":
            return Failure(unit.kind, unit.name, offset, "read", "not_utf8", str(error), None, len(data))
        text, _ = decode(data, None)
    return Page(
        unit.kind, unit.name, offset, text=sound_text(text.removesuffix("\n") if unit.kind == "lines" else text)
    )
