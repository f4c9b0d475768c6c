"""JSON lines, plain or compressed: a line is a page."""

import json
from collections.abc import Iterator

import orjson

from .fields import row_page
from .lines import Line, lines_of
from .options import ReadOptions
from .page import Failure, Page
from .unit import InputUnit


def read_jsonl(unit: InputUnit, options: ReadOptions) -> Iterator[Page | Failure]:
    """Pages and failures of the lines that begin in the unit's range; blank lines are none."""

    def failure(line: Line, reason: str, detail: str) -> Failure:
        return Failure(unit.kind, unit.name, line.offset, "read", reason, detail, None, line.size)

    for line in lines_of(unit, options.max_record_bytes):
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
