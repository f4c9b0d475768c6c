"""The first pass: records of the input become labelled documents, or failures with a reason.

Records read = failures + documents, exactly: whatever a record does, it ends as one row of one of the two.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.document import document_id, sound_text
from tilth.work import Outbox, line_of

from .extract import Extracted, ExtractFailure, Extractor
from .label import Labeller, Labels, schema
from .read import Failure, InputUnit, Page, read_unit
from .read.charset import decode
from .read.html import kind_of
from .recipe import CurateRecipe
from .rules import Rule, shown

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
SIGNATURES = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("signature", pa.binary())])
ROW_GROUP = 1000  # documents; small, so that a range of ids is read without the rest of the file


class ReadWorker:
    """Reads one unit of the input and writes its documents and its failures."""

    def __init__(self, recipe: CurateRecipe):
        self._recipe = recipe
        self._labeller = Labeller(recipe.labels)
        self._extractor = Extractor(recipe.extract)
        self._schema = schema()
        self._url_gates = {name: gate for name, gate in recipe.gates.items() if _asks_only(gate, "url_labels")}
        self._text_gates = {name: gate for name, gate in recipe.gates.items() if name not in self._url_gates}

    def close(self) -> None:
        self._extractor.close()

    def __call__(self, payload: InputUnit, outbox: Outbox) -> Mapping[str, Any]:
        documents, failures, signatures = _Rows(self._schema), _Rows(FAILURES), _Rows(SIGNATURES)
        counts: Counter[str] = Counter()
        why: dict[str, dict[str, int]] = {}
        for item in read_unit(payload, self._recipe.read):
            counts["records"] += 1
            result = self._document(item) if isinstance(item, Page) else item
            if isinstance(result, Failure):
                failures.add(_failure_row(result))
                counts["record_bytes"] += result.bytes
                reason = why.setdefault(f"{result.stage}:{result.reason}", {"records": 0, "bytes": 0})
                reason["records"] += 1
                reason["bytes"] += result.bytes
            else:
                documents.add(result)
                signatures.add(result)
                counts["record_bytes"] += _size(item)
                counts["document_bytes"] += result["length"].bytes
        made = documents.write(outbox, "documents")
        signatures.write(outbox, "signatures")
        failures.write(outbox, "failures")
        # every count is there, also of a unit without documents
        basis = {"records": 0, "record_bytes": 0, "document_bytes": 0}
        return {**basis, **counts, "documents": made, "failures": why}

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
        try:
            document, early = self._labeller.early(text)
            early["url_labels"] = url_labels
            gate = self._gate(early, self._text_gates)
            if gate:
                return _failed(page, "gate", *gate)
            dup, signature = self._labeller.dup(text)
            labels = early | self._labeller.late(document, early) | {"dup": dup}
        except Exception as error:  # a fault of ours, which costs this page and no other
            return _failed(page, "label", "error", line_of(error))
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
            "signature": signature,
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
        for name, gate in gates.items():
            values = {label: _value(labels, label) for label in gate.labels()}
            if gate.fails(values):
                return name, f"{gate.test()}; it is {shown(values[gate.label])}"
        return None


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


class _Rows:
    """Rows on their way to a Parquet file; kept as Arrow, which takes a third of what Python's objects take."""

    def __init__(self, columns: pa.Schema):
        self._columns = columns
        self._rows: list[dict[str, Any]] = []
        self._tables = [columns.empty_table()]

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        """Rows become columns; a family's NamedTuple becomes its struct."""
        arrays = []
        for field in self._columns:
            values = [row[field.name] for row in self._rows]
            if pa.types.is_struct(field.type):
                values = [None if value is None else value._asdict() for value in values]
            arrays.append(pa.array(values, field.type))
        self._tables.append(pa.Table.from_arrays(arrays, schema=self._columns))
        self._rows = []

    def write(self, outbox: Outbox, output: str) -> int:
        """One Parquet file of all rows, ordered by id; returns how many."""
        self._flush()
        table = pa.concat_tables(self._tables).sort_by("id")
        place = outbox.file(output, len(table))
        pq.write_table(table, place, compression="zstd", row_group_size=ROW_GROUP)
        return len(table)
