"""The corpus: what is kept, cleaned by the line rules, in shards ordered by id, with all labels.

A shard is a range of ids, and every unit of the first pass has documents for every shard. So what is kept is first
dealt out: groups of units write one Arrow file each, with one batch a shard, and a shard then reads its batch of every
group. Each document is read twice and written twice, however many there are; with g groups and s shards g times s
batches are read, which for a terabyte are 16 million of 64 kB.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tilth.work import Outbox, Unit

from .clean import clean
from .dedup.options import DERIVED
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


def edges(count: int) -> list[str]:
    """Where each of `count` equal ranges of ids begins, and where the last ends. Ids are hashes and spread evenly."""
    return ["", *(f"{(index << 128) // count:032x}" for index in range(1, count)), "g"]


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
    """Writes what is kept of a group of units as one Arrow file, whose batch i is for shard i."""

    def __init__(self, run: Run, count: int):
        self._run = run
        self._edges = edges(count)
        self._schema = dealt_schema(run.recipe)

    def __call__(self, payload: Sequence[str], outbox: Outbox) -> Mapping[str, Any]:
        parts = [self._kept(key) for key in payload]
        table = pa.concat_tables([self._schema.empty_table(), *parts]).sort_by("id")
        ids = table["id"].to_pylist()
        cuts = [bisect_left(ids, edge) for edge in self._edges]
        place = outbox.file(DEALT, len(table), ".arrow")
        packed = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(place, self._schema, options=packed) as file:
            for start, end in pairwise(cuts):
                batches = table.slice(start, end - start).combine_chunks().to_batches()
                file.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], self._schema))
        return {"documents": len(table)}

    def _kept(self, key: str) -> pa.Table:
        with self._run.opened(f"decisions/{key}.parquet") as file:
            kept = pq.read_table(file, columns=["kept"])["kept"]
        table = self._run.whole(key, schema())
        if self._run.recipe.labels.measured("dup"):
            found = self._run.duplicates(key, [*IN_CORPUS, SPANS_FIELD.name])
            place = table.schema.get_field_index("dup")
            columns = [
                table["dup"].combine_chunks().field("exact"),
                *(found[name].combine_chunks() for name in IN_CORPUS),
            ]
            field = self._schema.field("dup")
            table = table.set_column(place, field, pa.StructArray.from_arrays(columns, fields=list(field.type)))
            table = table.append_column(SPANS_FIELD, found[SPANS_FIELD.name])
        return table.filter(kept).cast(self._schema)


class CorpusWorker:
    """Writes one shard from its batch of every group."""

    def __init__(self, run: Run, recipe: CurateRecipe, groups: Sequence[str]):
        self._run = run
        self._rules = recipe.line_rules
        self._cuts_repeated = recipe.cuts_repeated
        self._groups = groups
        self._schema = dealt_schema(recipe)

    def __call__(self, payload: int, outbox: Outbox) -> Mapping[str, Any]:
        batches = [self._batch(group, payload) for group in self._groups]
        table = pa.Table.from_batches(batches, self._schema).sort_by("id")
        table, lines, touched = self._cleaned(table)
        pq.write_table(table, outbox.file("corpus", len(table)), compression="zstd", row_group_size=ROW_GROUP)
        size = pc.sum(pc.binary_length(table["text"])).as_py() or 0
        return {"documents": len(table), "bytes": size, "lines": dict(lines), "touched": dict(touched)}

    def _batch(self, group: str, shard: int) -> pa.RecordBatch:
        with self._run.opened(f"{DEALT}/{group}.arrow") as file, pa.ipc.open_file(file) as reader:
            return reader.get_batch(shard)

    def _cleaned(self, table: pa.Table) -> tuple[pa.Table, Counter[str], Counter[str]]:
        """The table with its text cleaned and `removed`: lines removed or edited by each rule; sums over documents."""
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
        table = table.set_column(place, self._schema.field("text"), pa.array(texts, pa.large_string()))
        if SPANS_FIELD.name in table.column_names:
            table = table.drop_columns(SPANS_FIELD.name)
        return table.append_column(REMOVED, pa.array(counts, REMOVED.type)), lines, touched

    def _clean(self, text: str, flags: list[int] | None, spans: list[int]) -> tuple[str, dict[str, int]]:
        if not self._rules and not spans:
            return text, {}
        unflagged = [0] * (text.count("\n") + 1)  # where lines are not measured
        return clean(text, flags or unflagged, self._rules, list(zip(spans[::2], spans[1::2], strict=True)))
