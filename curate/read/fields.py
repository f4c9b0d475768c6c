"""Rows of JSONL and Parquet as pages, and the timestamps of all kinds of input."""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from tilth.document import sound_text

from .options import ReadOptions
from .page import Failure, Page
from .unit import InputUnit

_DIGITS = re.compile(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(\d\d)(\d\d))?")
_SHORT = re.compile(r"(\d{4})(?:-(\d\d))?")


def row_page(row: Mapping[str, Any], unit: InputUnit, offset: int, options: ReadOptions) -> Page | Failure:
    """One row's page; a failure `no_text` if it holds none."""
    field = options.html_field or options.text_field
    url = _string(field_of(row, options.url_field))
    content = field_of(row, field) if isinstance(field, str) else _joined(row, field)
    if not isinstance(content, str | bytes) or not content.strip():
        field = field if isinstance(field, str) else ", ".join(field)
        detail = f"no field {field}" if content is None else f"{field} is empty or no text"
        return Failure(unit.kind, unit.name, offset, "read", "no_text", detail, url)
    page = Page(
        unit.kind,
        unit.name,
        offset,
        url,
        parse_timestamp(field_of(row, options.timestamp_field)),
        title=_string(field_of(row, options.title_field)),
        id=_string(field_of(row, options.id_field)),
        label=_string(field_of(row, options.label_field)),
    )
    if options.html_field is None:
        text = sound_text(content if isinstance(content, str) else content.decode("utf-8", "replace"))
        if not text.strip():
            return Failure(unit.kind, unit.name, offset, "read", "no_text", f"{field} holds nothing but NULs", url)
        return page._replace(text=text)
    if isinstance(content, str):
        return page._replace(content_type="text/html", charset="utf-8", body=sound_text(content).encode())
    return page._replace(content_type="text/html", body=content)


def _joined(row: Mapping[str, Any], fields: Sequence[str]) -> str | None:
    """The texts of several fields, a blank line between them; None where there is none."""
    texts = [value for field in fields if isinstance(value := field_of(row, field), str) and value.strip()]
    return "\n\n".join(texts) if texts else None


def field_of(row: Mapping[str, Any], path: str | None) -> Any:
    """The value at a dotted path; a name that holds dots itself is found too."""
    if path is None:
        return None
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def parse_timestamp(value: Any) -> datetime | None:
    """UTC, from ISO 8601 (also cut short, as WARC 1.1 allows), 14 digits, or seconds since 1970; None if it is none."""
    try:
        if isinstance(value, datetime):
            return _utc(value)
        if isinstance(value, date):
            return datetime(value.year, value.month, value.day, tzinfo=UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC) if math.isfinite(value) else None
        if not isinstance(value, str):
            return None
        value = value.strip()
        if match := _DIGITS.fullmatch(value) or _SHORT.fullmatch(value):
            year, month, *rest = (int(part) for part in match.groups(default="0"))
            day, *clock = rest or [1]
            return datetime(year, month or 1, day, *clock, tzinfo=UTC)
        return _utc(datetime.fromisoformat(value))
    except (ValueError, OverflowError, OSError):
        return None


def _utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _string(value: Any) -> str | None:
    return sound_text(value).strip() or None if isinstance(value, str) else None
