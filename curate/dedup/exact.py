"""Exact duplicates: documents with the same text. The one with the plainest URL stands for the others.

Plain is a URL without tracking parameters and the like; of several, the shortest; then the smallest id decides.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from tilth.work import Outbox

from ..run import Run

OUTPUT = "dedup/exact"


class ExactWorker:
    """Writes (id, copy_of, size) for every document that repeats another: one unit, over the hashes of all documents.

    All ids and hashes are held at once, about 250 bytes a document.
    """

    def __init__(self, run: Run):
        self._run = run

    def __call__(self, payload: list[str], outbox: Outbox) -> Mapping[str, Any]:
        import duckdb
        import pyarrow as pa

        schema = pa.schema([(name, pa.string()) for name in ("id", "hash", "url", "canonical")])
        labels = ["id", "dup.exact", "url", "url_labels.canonical"]
        tables = [self._run.table(key, labels).rename_columns(schema.names) for key in payload]
        hashes = pa.concat_tables([schema.empty_table(), *tables])
        with duckdb.connect() as connection:
            connection.register("hashes", hashes)
            copies = connection.sql(
                """
                SELECT id, copy_of, size FROM (
                    SELECT id, first_value(id) OVER ranked AS copy_of, count(*) OVER (PARTITION BY hash) AS size
                    FROM hashes WINDOW ranked AS (
                        PARTITION BY hash ORDER BY url IS NULL, url != canonical, length(url), id
                    )
                ) WHERE id != copy_of ORDER BY id
                """
            ).to_arrow_table()
        pq.write_table(copies, outbox.file(OUTPUT, len(copies)), compression="zstd")
        return {"copies": len(copies)}


def copies(run: Run) -> dict[str, str]:
    """Every document that repeats another, with the id of the one that stands for it."""
    dataset = run.dataset(OUTPUT)
    if dataset is None:
        return {}
    table = dataset.to_table(columns=["id", "copy_of"])
    return dict(zip(table["id"].to_pylist(), table["copy_of"].to_pylist(), strict=True))
