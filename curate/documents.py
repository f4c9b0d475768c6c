"""The first pass: records of the input become labelled documents, or failures with a reason.

Records read = failures + documents, exactly: whatever a record does, it ends as one row of one of the two.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.document import document_id, sound_text
from tilth.work import Outbox

from .extract import Extracted, ExtractFailure, Extractor
from .label import Labeller, Labels, schema
from .read import Failure, InputUnit, Page, read_unit
from .read.charset import decode
from .read.html import kind_of
from .recipe import CurateRecipe
from .rules import Rule, judge

FAILURES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)
ROW_GROUP = 1000  # documents; small, so that a range of ids is read without the rest of the file


class ReadWorker:
    """Reads one unit of the input and writes its documents and its failures."""

    def __init__(self, recipe: CurateRecipe):
        self._recipe = recipe
        self._labeller = Labeller(recipe.labels)
        self._extractor = Extractor(recipe.extract)
        self._schema = schema()
        self._gates = recipe.gates
        self._url_gates = {name: gate for name, gate in self._gates.items() if _asks_only(gate, "url_labels")}
        self._text_gates = {name: gate for name, gate in self._gates.items() if name not in self._url_gates}

    def close(self) -> None:
        self._extractor.close()

    def __call__(self, payload: InputUnit, outbox: Outbox) -> Mapping[str, Any]:
        documents: list[dict[str, Any]] = []
        failures: list[dict[str, Any]] = []
        counts: Counter[str] = Counter()
        why: dict[str, dict[str, int]] = {}
        for item in read_unit(payload, self._recipe.read):
            counts["records"] += 1
            result = self._document(item) if isinstance(item, Page) else item
            if isinstance(result, Failure):
                failures.append(_failure_row(result))
                counts["record_bytes"] += result.bytes
                reason = why.setdefault(f"{result.stage}:{result.reason}", {"records": 0, "bytes": 0})
                reason["records"] += 1
                reason["bytes"] += result.bytes
            else:
                documents.append(result)
                counts["record_bytes"] += _size(item)
                counts["document_bytes"] += result["length"][0]
        documents.sort(key=lambda row: row["id"])
        _write(documents, self._schema, outbox, "documents")
        _write(failures, FAILURES, outbox, "failures")
        return {**counts, "documents": len(documents), "failures": why}

    def _document(self, page: Page) -> dict[str, Any] | Failure:
        """The page as a row of `documents/`, or why it is none."""
        url_labels = self._labeller.url(page.url)
        gate = self._gate({"url_labels": url_labels}, self._url_gates)
        if gate:
            return _failed(page, "gate", *gate)
        content = self._content(page)
        if isinstance(content, Failure):
            return content
        extracted, charset = content
        text = sound_text(extracted.text).strip()
        if not text:
            return _failed(page, "extract", "empty", "no text is left")
        document, early = self._labeller.early(text)
        early["url_labels"] = url_labels
        gate = self._gate(early, self._text_gates)
        if gate:
            return _failed(page, "gate", *gate)
        labels = early | self._labeller.late(document, early)
        return {
            "id": document_id(page.source, page.path, page.offset, page.url),
            "source": page.source,
            "url": sound_text(page.url) if page.url else None,
            "timestamp": page.timestamp,
            "path": page.path,
            "offset": page.offset,
            "charset": charset,
            "title": page.title or extracted.title,
            "author": extracted.author,
            "date": extracted.date,
            "metadata": sorted(extracted.metadata.items()),
            "text": text,
            **labels,
        }

    def _content(self, page: Page) -> tuple[Extracted, str | None] | Failure:
        """The page's text, extracted if need be, and the charset it was decoded from."""
        if page.text is not None:
            return Extracted(page.text, page.title, None, None, {}), None
        body = page.body or b""
        kind = kind_of(page.content_type, body)
        if kind == "other":
            return _failed(page, "decode", "not_html", page.content_type or "no content type")
        text, charset = decode(body, page.charset)
        if kind == "text":
            return Extracted(text, None, None, None, {}), charset
        result = self._extractor(text, page.url, page.timestamp.date() if page.timestamp else None)
        if isinstance(result, ExtractFailure):
            return _failed(page, "extract", result.reason, result.detail)
        return result, charset

    def _gate(self, labels: Labels, gates: Mapping[str, Rule]) -> tuple[str, str] | None:
        """The first gate that the labels fail, as reason and detail."""
        if not gates:
            return None
        asked = {label for gate in gates.values() for label in gate.labels()}
        columns = {label: pa.array([_value(labels, label)]) for label in asked}
        verdicts = judge(columns, gates, 1)
        if verdicts.first[0] < 0:
            return None
        name = list(gates)[int(verdicts.first[0])]
        return name, f"{gates[name].test()}; it is {verdicts.value[0]}"


def _asks_only(gate: Rule, family: str) -> bool:
    return all(label.startswith(f"{family}.") for label in gate.labels())


def _value(labels: Labels, label: str) -> Any:
    family, _, measure = label.partition(".")
    return getattr(labels[family], measure)


def _size(item: Page | Failure) -> int:
    if isinstance(item, Failure):
        return item.bytes
    return len(item.body) if item.body is not None else len((item.text or "").encode("utf-8", "replace"))


def _failed(page: Page, stage: str, reason: str, detail: str) -> Failure:
    return Failure(page.source, page.path, page.offset, stage, reason, detail, page.url, _size(page))


def _failure_row(failure: Failure) -> dict[str, Any]:
    row = failure._asdict()
    row["id"] = document_id(failure.source, failure.path, failure.offset, failure.url)
    row["url"] = sound_text(failure.url) if failure.url else None
    row["detail"] = sound_text(failure.detail)
    return row


def _write(rows: list[dict[str, Any]], columns: pa.Schema, outbox: Outbox, output: str) -> None:
    """One Parquet file of the rows; a family's NamedTuple becomes its struct."""
    arrays = []
    for field in columns:
        values = [row[field.name] for row in rows]
        if pa.types.is_struct(field.type):
            values = [None if value is None else value._asdict() for value in values]
        arrays.append(pa.array(values, field.type))
    table = pa.Table.from_arrays(arrays, schema=columns)
    place = outbox.file(output, len(rows))
    pq.write_table(table, place, compression="zstd", row_group_size=ROW_GROUP)
