"""The corpus: what is kept, cleaned by the line rules, in shards ordered by id, with all labels."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tilth.work import Outbox, Unit

from .clean import clean
from .documents import ROW_GROUP
from .label import schema
from .recipe import CurateRecipe
from .run import Run


class Shard(NamedTuple):
    """All kept documents with low <= id < high."""

    low: str
    high: str


def shards(kept_bytes: int, shard_bytes: int) -> list[Unit]:
    """Equal ranges of ids, so many that one holds about `shard_bytes` of text: ids are hashes and spread evenly."""
    count = max(1, -(-kept_bytes // shard_bytes))
    edges = [f"{(index << 128) // count:033x}"[1:] for index in range(count)] + ["g"]
    edges[0] = ""
    return [
        Unit(f"part-{index:05d}-of-{count:05d}", Shard(edges[index], edges[index + 1]), kept_bytes // count)
        for index in range(count)
    ]


class CorpusWorker:
    """Writes one shard. Documents are sorted by id within their files, so only matching row groups are read."""

    def __init__(self, run: Run, recipe: CurateRecipe, keys: list[str]):
        self._run = run
        self._rules = recipe.clean
        self._keys = keys
        self._schema = schema()
        removed = pa.field("removed", pa.map_(pa.string(), pa.int64()))
        self._written = self._schema.append(removed)

    def __call__(self, payload: Shard, outbox: Outbox) -> Mapping[str, Any]:
        parts = [part for key in self._keys if len(part := self._kept(key, payload))]
        table = pa.concat_tables(parts) if parts else self._schema.empty_table()
        table, removed, touched = self._cleaned(table.sort_by("id"))
        pq.write_table(table, outbox.file("corpus", len(table)), compression="zstd", row_group_size=ROW_GROUP)
        size = pc.sum(pc.binary_length(table["text"])).as_py() or 0
        return {"documents": len(table), "bytes": size, "lines": dict(removed), "touched": dict(touched)}

    def _kept(self, key: str, shard: Shard) -> pa.Table:
        inside = (pc.field("id") >= shard.low) & (pc.field("id") < shard.high)
        with self._run.folder.open(f"decisions/{key}.parquet") as file:
            kept = pq.read_table(file, columns=["id", "kept"], filters=inside).filter(pc.field("kept"))["id"]
        if not len(kept):
            return self._schema.empty_table()
        return self._run.documents_of(key, inside, self._schema).filter(pc.is_in(pc.field("id"), kept.combine_chunks()))

    def _cleaned(self, table: pa.Table) -> tuple[pa.Table, Counter[str], Counter[str]]:
        """The table with its text cleaned and `removed`: lines removed or edited by each rule; sums over documents."""
        texts, counts = [], []
        lines: Counter[str] = Counter()
        touched: Counter[str] = Counter()
        flags = pc.struct_field(table["lines"], "flags")
        for text, bits in zip(table["text"].to_pylist(), flags.to_pylist(), strict=True):
            left, removed = clean(text, bits, self._rules) if self._rules else (text, {})
            texts.append(left)
            counts.append(sorted(removed.items()))
            lines.update(removed)
            touched.update(removed.keys())
        place = table.schema.get_field_index("text")
        table = table.set_column(place, self._schema.field("text"), pa.array(texts, pa.large_string()))
        field = self._written.field("removed")
        table = table.append_column(field, pa.array(counts, field.type))
        return table.cast(self._written), lines, touched
