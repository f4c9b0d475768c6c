"""Adds a label family to a finished run, or brings one up to date, without touching the others."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.storage import Folder
from tilth.work import Outbox

from .documents import SIGNATURES
from .label import Labeller, LabelOptions, schema


class LabelWorker:
    """Computes one family for the documents of one unit; rows stand in the order of `documents/`."""

    def __init__(self, folder: Folder, family: str, options: LabelOptions):
        self._folder = folder
        self._family = family
        self._labeller = Labeller(options)

    def __call__(self, payload: str, outbox: Outbox) -> Mapping[str, Any]:
        with self._folder.open(f"documents/{payload}.parquet") as file:
            documents = pq.read_table(file, columns=["id", "url", "text"])
        pairs = zip(documents["url"].to_pylist(), documents["text"].to_pylist(), strict=True)
        if self._family == "dup":
            found = [self._labeller.dup(text) for _, text in pairs]
            values = [label for label, _ in found]
            self._write_signatures(documents["id"], [signature for _, signature in found], outbox)
        else:
            values = [self._labels(url, text) for url, text in pairs]
        field = schema().field(self._family)
        rows = pa.array([None if value is None else value._asdict() for value in values], field.type)
        table = pa.table([documents["id"], rows], schema=pa.schema([pa.field("id", pa.string()), field]))
        pq.write_table(table, outbox.file(f"labels/{self._family}", len(table)), compression="zstd")
        return {"documents": len(table)}

    def _write_signatures(self, ids: pa.ChunkedArray, signatures: Sequence[bytes | None], outbox: Outbox) -> None:
        table = pa.table([ids, pa.array(signatures, pa.binary())], schema=SIGNATURES)
        pq.write_table(table, outbox.file("labels/signatures", len(table)), compression="zstd")

    def _labels(self, url: str | None, text: str) -> Any:
        if self._family == "url_labels":
            return self._labeller.url(url)
        document, labels = self._labeller.early(text)
        return labels[self._family] if self._family in labels else self._labeller.late(document, labels)[self._family]
