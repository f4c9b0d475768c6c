"""The corpus: what is kept, cleaned by the line rules, in shards ordered by id, with all labels. A document of which
cleaning leaves no text is left out, and counted.

A shard is a range of ids, and every unit of the first pass has documents for every shard. So what is kept is first
dealt to them, and a shard then sorts what it got. Each document is read twice and written twice, however many there
are; a worker holds one unit's documents, or some row groups of a shard.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tilth.ledger import total
from tilth.work import Outbox, Unit

from .clean import clean
from .dedup.options import DERIVED
from .dedup.shuffle import Dealer, dealt, ranges
from .documents import ROW_GROUP
from .label import schema
from .recipe import CurateRecipe
from .run import Run

DEALT = "dealt"  # the folder between the two passes; goes when the corpus stands
GROUP_BYTES = 256 * 2**20  # of kept text that one unit of dealing holds
REMOVED = pa.field("removed", pa.map_(pa.string(), pa.int64()))
SPANS_FIELD = pa.field("spans", pa.list_(pa.int64()))
IN_CORPUS = ("cluster", "size")  # what a document tells of its duplicates there, beside their keys


def shard_count(kept_bytes: int, shard_bytes: int) -> int:
    """So many shards that one holds about `shard_bytes` of text."""
    return max(1, -(-kept_bytes // shard_bytes))


def deals(kept_bytes: Mapping[str, int]) -> list[Unit]:
    """Groups of the first pass's units, by key, whose kept text is together about GROUP_BYTES."""
    groups: list[list[str]] = [[]]
    size = 0
    for key, own in kept_bytes.items():
        if size and size + own > GROUP_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(key)
        size += own
    return [Unit(f"group-{i:05d}", keys, sum(kept_bytes[key] for key in keys)) for i, keys in enumerate(groups)]


def shards(count: int) -> list[Unit]:
    """One unit for each shard."""
    return [Unit(f"part-{index:05d}-of-{count:05d}", index, 1) for index in range(count)]


def dealt_schema(recipe: CurateRecipe) -> pa.Schema:
    """Columns of a document on its way: the corpus' own, and the passages to cut."""
    columns = schema()
    if not recipe.labels.measured("dup"):
        return columns
    place = columns.get_field_index("dup")
    found = [pa.field(name, DERIVED[f"dup.{name}"]) for name in IN_CORPUS]
    dup = pa.field("dup", pa.struct([*columns.field("dup").type, *found]))
    return columns.set(place, dup).append(SPANS_FIELD)


class DealWorker:
    """Deals what is kept of a group of units to the shards."""

    def __init__(self, run: Run, count: int):
        self._run = run
        self._count = count
        self._schema = dealt_schema(run.recipe)

    def __call__(self, payload: Sequence[str], outbox: Outbox) -> Mapping[str, Any]:
        with Dealer(outbox.file(DEALT, 0, ".arrow"), self._schema, self._count, packed=True) as dealer:
            for key in payload:
                for kept in self._kept(key):
                    dealer.add(kept, ranges(leading(kept["id"]), self._count))
        return {"documents": dealer.rows}

    def _kept(self, key: str) -> Iterator[pa.Table]:
        """What is kept of a unit, with what is known of duplicates."""
        run, found = self._run, None
        with run.opened(f"decisions/{key}.parquet") as file:
            kept = pq.read_table(file, columns=["kept"])["kept"]
        if run.recipe.labels.measured("dup"):
            found = run.duplicates(key, [*IN_CORPUS, SPANS_FIELD.name])
        for start, table in run.whole(key, schema()):
            if found is not None:
                table = self._with(found.slice(start, len(table)), table)
            yield table.filter(kept.slice(start, len(table))).cast(self._schema)

    def _with(self, found: pa.Table, table: pa.Table) -> pa.Table:
        columns = [table["dup"].combine_chunks().field("exact")]
        columns += [found[name].combine_chunks() for name in IN_CORPUS]
        field = self._schema.field("dup")
        dup = pa.StructArray.from_arrays(columns, fields=list(field.type))
        table = table.set_column(table.schema.get_field_index("dup"), field, dup)
        return table.append_column(SPANS_FIELD, found[SPANS_FIELD.name])


def leading(ids: pa.ChunkedArray) -> np.ndarray:
    """uint64[n]: the first 16 hex digits of each id. Ids are hashes and spread evenly."""
    return np.array([int(one[:16], 16) for one in ids.to_pylist()], np.uint64)


class CorpusWorker:
    """Writes one shard from what every group dealt to it."""

    def __init__(self, run: Run, recipe: CurateRecipe, groups: Sequence[str], count: int):
        self._run = run
        self._rules = recipe.line_rules
        self._cuts_repeated = recipe.cuts_repeated
        self._groups = groups
        self._count = count
        self._written = _written(dealt_schema(recipe))

    def __call__(self, payload: int, outbox: Outbox) -> Mapping[str, Any]:
        batches = dealt(self._run.folder, DEALT, self._groups, payload, self._count)
        ids = np.concatenate([np.zeros(0, "U32"), *(batch["id"].to_numpy(False).astype("U32") for batch in batches)])
        order = np.argsort(ids)
        ends = np.cumsum([len(batch) for batch in batches])
        counts: dict[str, Any] = {"documents": 0, "emptied": 0, "bytes": 0, "lines": {}, "touched": {}}
        place = outbox.file("corpus", 0)
        with pq.ParquetWriter(place, self._written, compression="zstd") as file:
            for start in range(0, len(ids), ROW_GROUP):
                table, lines, touched = self._cleaned(_picked(batches, ends, order[start : start + ROW_GROUP]))
                left = table.filter(pc.not_equal(table["text"], ""))
                file.write_table(left.select(self._written.names))
                size = pc.sum(pc.binary_length(left["text"]), min_count=0).as_py()
                found = {"documents": len(left), "emptied": len(table) - len(left), "bytes": size}
                counts = total([counts, found | {"lines": lines, "touched": touched}])
        outbox.file("corpus", counts["documents"])  # how many rows are left is known now
        return counts

    def _cleaned(self, table: pa.Table) -> tuple[pa.Table, Counter[str], Counter[str]]:
        """The table with its text cleaned and `removed`: lines removed or edited by each rule; sums over documents."""
        if not self._rules and not self._cuts_repeated:
            return table.append_column(REMOVED, pa.array([[]] * len(table), REMOVED.type)), Counter(), Counter()
        texts, counts = [], []
        lines: Counter[str] = Counter()
        touched: Counter[str] = Counter()
        flags = pc.struct_field(table["lines"], "flags").to_pylist()
        spans = table[SPANS_FIELD.name].to_pylist() if self._cuts_repeated else [None] * len(table)
        for text, bits, cuts in zip(table["text"].to_pylist(), flags, spans, strict=True):
            left, removed = self._clean(text, bits, cuts or [])
            texts.append(left)
            counts.append(sorted(removed.items()))
            lines.update(removed)
            touched.update(removed.keys())
        place = table.schema.get_field_index("text")
        table = table.set_column(place, table.schema.field("text"), pa.array(texts, pa.large_string()))
        return table.append_column(REMOVED, pa.array(counts, REMOVED.type)), lines, touched

    def _clean(self, text: str, flags: list[int] | None, spans: list[int]) -> tuple[str, dict[str, int]]:
        if not self._rules and not spans:
            return text, {}
        unflagged = [0] * (text.count("\n") + 1)  # where lines are not measured
        return clean(text, flags or unflagged, self._rules, list(zip(spans[::2], spans[1::2], strict=True)))


def _written(columns: pa.Schema) -> pa.Schema:
    """Columns of the corpus, of those on their way there."""
    if SPANS_FIELD.name in columns.names:
        columns = columns.remove(columns.get_field_index(SPANS_FIELD.name))
    return columns.append(REMOVED)


def _picked(batches: Sequence[pa.RecordBatch], ends: np.ndarray, rows: np.ndarray) -> pa.Table:
    """Rows of all batches, numbered through, in the order given; `ends` tells the number behind each batch's last."""
    batch = np.searchsorted(ends, rows, side="right")
    by_batch = np.argsort(batch, kind="stable")
    parts = []
    for one in np.unique(batch).tolist():
        mine = rows[by_batch][batch[by_batch] == one]
        parts.append(batches[one].take(pa.array(mine - (ends[one] - len(batches[one])))))
    return pa.Table.from_batches(parts).take(pa.array(np.argsort(by_batch)))
