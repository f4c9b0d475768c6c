"""What the search for near-duplicates found and what it missed, measured without MinHash on a sample of a run.

Recall: the texts of the smallest ids are compared with every text of the run, each by its whole set of shingles, which
gives all true pairs of the sample. Precision: documents that were dropped for another are compared with that one, and
with another document of their cluster. A text that stands more than once counts once; to find equal texts is no merit
of MinHash. Ids are hashes, so the smallest are a random draw, and the same every time.

Each worker holds the sample, 16 bytes a shingle, and one unit of documents; nothing grows with the run.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import hashlib
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tilth.errors import UsageError
from tilth.ledger import Ledger
from tilth.work import Engine, Outbox, Unit

from ..run import Run
from ..stats import AUDIT, audit_basis
from .census import Census, Part
from .options import DedupOptions, ShingleOptions
from .passes import Failed, earlier_runs
from .shingle import compiled, jaccards, shingle_set

SAMPLE, PAIRS, NEXT, TEXTS = "dedup/audit/sample", "dedup/audit/pairs", "dedup/audit/next", "dedup/audit/texts"
FLOOR = 0.5  # pairs of the sample below it are not written
HIGH = (0.8, 0.9)  # recall is told for pairs of this similarity, beside that of `dedup.verify`
VERSION = 2  # goes up when the same run would get other figures
_CONFIDENCE = 1.959963984540054  # normal quantile of 97.5 %
_BATCH = 50_000  # pairs that are held before they are written

_SET = pa.field("shingles", pa.large_list(pa.uint64()))
SAMPLED = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("near_of", pa.string()),
        pa.field("near_run", pa.int32()),
        pa.field("cluster", pa.string()),
        pa.field("any", pa.bool_()),  # drawn from all texts
        pa.field("dropped", pa.bool_()),  # drawn from those that have another in their place
        _SET,
    ]
)
PAIR = pa.schema(
    [
        pa.field("a", pa.string()),  # of the sample
        pa.field("b", pa.string()),
        pa.field("jaccard", pa.float64()),
        pa.field("cluster", pa.string()),  # of a; its id where it is in none
        pa.field("clustered", pa.bool_()),  # both are in one cluster
        pa.field("resolved", pa.bool_()),  # one of them at least has another document in its place
    ]
)
FOLLOWING = pa.schema([pa.field("id", pa.string()), pa.field("next", pa.string()), pa.field("first", pa.string())])
TEXT = pa.schema([pa.field("run", pa.int32()), pa.field("id", pa.string()), _SET])
Name = tuple[int, str]  # a document's run (0: this one, k: the k-th earlier one) and id; runs may share ids


def audit_duplicates(run: Run, engine: Engine, documents: int, light: bool) -> tuple[dict[str, Any], Mapping[str, str]]:
    """Writes the figures of `dedup/audit.json` and returns them; and the units that failed, with reasons.

    `documents` is the size of either sample. What is done already is not done again. Raises UsageError for a run
    without labels of duplicates.
    """
    texts, replaced = _texts_and_dropped(run)
    census = Census.of(run, earlier_runs(run.recipe, run.folder))
    options = run.recipe.labels.minhash
    least = run.recipe.dedup.verify or DedupOptions.model_fields["verify"].default
    depends = _hash(audit_basis(run), documents, FLOOR, VERSION)
    own, groups = census.units(), census.units(all_runs=True)
    keys = [unit.key for unit in own]
    limits = _limit(documents, texts), _limit(documents, replaced)

    def done(name: str, units: Sequence[Unit], worker: Callable[[], Any], outputs: Sequence[str]) -> None:
        outcome = engine.run(name, units, worker, run.folder, outputs, light=light, depends_on=depends)
        if outcome.failed:
            raise Failed(outcome.failed)

    try:
        done("audit-sample", own, partial(SampleWorker, census, options, limits), [SAMPLE])
        worker = partial(PairWorker, census, options, documents, keys, least)
        done("audit-pairs", own, worker, [PAIRS, NEXT])
        sample = Sample.of(run, documents, keys)
        compared = _compared(run, sample.dropped, keys)
        done("audit-texts", groups, partial(TextWorker, census, options, compared.wanted()), [TEXTS])
    except Failed as error:
        return {}, error.args[0]
    figures = {
        "basis": audit_basis(run),
        "documents": documents,
        "sampled": {"texts": len(sample.any), "of": texts, "dropped": len(sample.dropped), "dropped_of": replaced},
        "verify": least,
        "recall": _recall(run, keys, least),
        "precision": compared.precision(run, [unit.key for unit in groups], least),
    }
    run.folder.write(AUDIT, orjson.dumps(figures, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")
    return figures, {}


def wilson(found: int, of: int) -> dict[str, Any]:
    """The share found/of with its 95 % score interval (Wilson 1927, "Probable inference, the law of succession, and
    statistical inference"), which holds near 0 and 1 and for few trials; a share of nothing is None."""
    if not of:
        return {"found": 0, "of": 0, "share": None, "low": None, "high": None}
    share, square = found / of, _CONFIDENCE**2
    centre = (share + square / (2 * of)) / (1 + square / of)
    half = _CONFIDENCE * math.sqrt(share * (1 - share) / of + square / (4 * of**2)) / (1 + square / of)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return {"found": found, "of": of, "share": round(share, 6), "low": round(low, 6), "high": round(high, 6)}


class SampleWorker:
    """Draws the documents of one group whose ids are below limits: of all texts, and of those that were dropped."""

    def __init__(self, census: Census, options: ShingleOptions, limits: tuple[str, str]):
        self._census = census
        self._run = Run(census.folders[0])
        self._options = options
        self._limits = limits

    def __call__(self, payload: int, outbox: Outbox) -> Mapping[str, Any]:
        tables = [SAMPLED.empty_table(), *(self._drawn(part) for part in self._census.groups[payload])]
        table = pa.concat_tables(tables)
        pq.write_table(table, outbox.file(SAMPLE, len(table)), compression="zstd")
        return {"documents": len(table)}

    def _drawn(self, part: Part) -> pa.Table:
        labels = self._run.table(part.key, ["id", "dup.copy_of", "dup.near_of", "dup.cluster"])
        text = pc.equal(labels["dup.copy_of"], "").to_numpy()
        replaced = text & pc.not_equal(labels["dup.near_of"], "").to_numpy()
        anyone, dropped = (pc.less(labels["id"], limit).to_numpy() for limit in self._limits)
        anyone, dropped = anyone & text, dropped & replaced
        rows = np.flatnonzero(anyone | dropped)
        chosen = labels.take(rows)
        columns = {
            "id": chosen["id"],
            "near_of": chosen["dup.near_of"],
            "near_run": self._run.duplicates(part.key, ["near_run"])["near_run"].take(rows),
            "cluster": chosen["dup.cluster"],
            "any": anyone[rows],
            "dropped": dropped[rows],
            "shingles": _sets(_texts(self._run, part, rows), self._options),
        }
        return pa.table(columns, schema=SAMPLED)


class Sample(NamedTuple):
    """The two samples, each ordered by id: SAMPLED tables."""

    any: pa.Table
    dropped: pa.Table

    @classmethod
    def of(cls, run: Run, documents: int, keys: Sequence[str]) -> "Sample":
        drawn = _read(run, SAMPLE, keys, SAMPLED).sort_by("id")
        chosen = (drawn.filter(drawn[name]).slice(0, documents).combine_chunks() for name in ("any", "dropped"))
        return cls(*chosen)


class PairWorker:
    """Compares one group's texts with the sample's, and finds for those dropped who follows in their cluster."""

    def __init__(self, census: Census, options: ShingleOptions, documents: int, keys: Sequence[str], least: float):
        self._census = census
        self._run = Run(census.folders[0])
        self._options = options
        self._floor = min(FLOOR, least)
        drawn, dropped = Sample.of(self._run, documents, keys)
        self._ids, self._near, self._clusters = (drawn[name].to_pylist() for name in ("id", "near_of", "cluster"))
        self._place = {one: place for place, one in enumerate(self._ids)}
        self._index = _Index.of(drawn["shingles"])
        self._dropped = list(zip(dropped["id"].to_pylist(), dropped["cluster"].to_pylist(), strict=True))

    def __call__(self, payload: int, outbox: Outbox) -> Mapping[str, Any]:
        members: list[str] = []
        wanted = pa.array(sorted({cluster for _, cluster in self._dropped}), pa.string())
        found = 0
        with pq.ParquetWriter(outbox.file(PAIRS, 0), PAIR, compression="zstd") as file:
            batch: list[dict[str, Any]] = []
            for part in self._census.groups[payload]:
                labels = self._run.table(part.key, ["id", "text", "dup.copy_of", "dup.near_of", "dup.cluster"])
                labels = labels.filter(pc.equal(labels["dup.copy_of"], ""))
                near = labels.filter(pc.is_in(labels["dup.cluster"], wanted))
                members += pc.binary_join_element_wise(near["dup.cluster"], near["id"], "").to_pylist()
                for pair in self._pairs(labels):
                    batch.append(pair)
                    found += 1
                    if len(batch) == _BATCH:
                        file.write_table(pa.Table.from_pylist(batch, PAIR))
                        batch = []
            file.write_table(pa.Table.from_pylist(batch, PAIR))
        following = self._following(sorted(members))
        pq.write_table(following, outbox.file(NEXT, len(following)), compression="zstd")
        return {"pairs": found}

    def _pairs(self, labels: pa.Table) -> Iterator[dict[str, Any]]:
        """Each pair of a text of the sample and one of these; a pair of two of the sample is told by the later one."""
        columns = (labels[name].to_pylist() for name in ("id", "text", "dup.near_of", "dup.cluster"))
        for own, text, near_of, cluster in zip(*columns, strict=True):
            places, similarity = self._index.similar(shingle_set(text, self._options), self._floor)
            own_place = self._place.get(own, len(self._ids))
            for place, value in zip(places.tolist(), similarity.tolist(), strict=True):
                if place < own_place:  # the sample is ordered: itself, and those that come later, are left out
                    yield {
                        "a": self._ids[place],
                        "b": own,
                        "jaccard": value,
                        "cluster": self._clusters[place] or self._ids[place],
                        "clustered": cluster != "" and cluster == self._clusters[place],
                        "resolved": bool(near_of or self._near[place]),
                    }

    def _following(self, members: list[str]) -> pa.Table:
        """For each dropped one: the member of its cluster with the next id, and the one with the first, of this group.

        `members` are clusters and ids, joined and sorted.
        """
        rows = []
        for own, cluster in self._dropped:
            at, first = bisect_right(members, cluster + own), bisect_left(members, cluster)
            after, least = (
                members[place].removeprefix(cluster)
                if place < len(members) and members[place].startswith(cluster)
                else None
                for place in (at, first)
            )
            if least is not None:
                rows.append({"id": own, "next": after, "first": least})
        return pa.Table.from_pylist(rows, FOLLOWING)


class _Index(NamedTuple):
    """Which sets hold a shingle: those of `hashes[i]` are `owners[starts[i] : starts[i + 1]]`."""

    hashes: np.ndarray  # uint64, sorted and each once
    starts: np.ndarray
    owners: np.ndarray  # int32
    sizes: np.ndarray  # shingles of each set

    @classmethod
    def of(cls, sets: pa.ChunkedArray) -> "_Index":
        sizes = pc.list_value_length(sets).to_numpy().astype(np.int64)
        values = pc.list_flatten(sets).to_numpy()
        order = np.argsort(values, kind="stable")
        hashes, starts = np.unique(values[order], return_index=True)
        owners = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[order]
        return cls(hashes, np.append(starts, len(values)), owners, sizes)

    def similar(self, shingles: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
        """The sets whose Jaccard similarity with `shingles` (sorted, each once) is at least `floor`, and it."""
        common = _common(shingles, self.hashes, self.starts, self.owners, len(self.sizes))
        places = np.flatnonzero(common)
        similarity = common[places] / (len(shingles) + self.sizes[places] - common[places])
        enough = similarity >= floor
        return places[enough], similarity[enough]


@compiled
def _common(shingles, hashes, starts, owners, count):
    """int64[count]: how many of the shingles each set holds."""
    common = np.zeros(count, np.int64)
    at = 0
    for value in shingles:
        at += np.searchsorted(hashes[at:], value)
        if at == len(hashes):
            break
        if hashes[at] == value:
            for place in range(starts[at], starts[at + 1]):
                common[owners[place]] += 1
    return common


class TextWorker:
    """Fetches the sets of shingles of the documents that those dropped are compared with."""

    def __init__(self, census: Census, options: ShingleOptions, wanted: Sequence[Name]):
        self._census = census
        self._runs = [Run(folder) for folder in census.folders]
        self._options = options
        self._wanted = [
            pa.array([one for place, one in wanted if place == run], pa.string()) for run in range(len(self._runs))
        ]

    def __call__(self, payload: int, outbox: Outbox) -> Mapping[str, Any]:
        tables = [TEXT.empty_table()]
        for part in self._census.groups[payload]:
            run = self._runs[part.run]
            ids = run.table(part.key, ["id"])["id"]
            rows = np.flatnonzero(pc.is_in(ids, self._wanted[part.run]).to_numpy())
            sets = _sets(_texts(run, part, rows), self._options)
            of = np.full(len(rows), part.run, np.int32)
            tables.append(pa.table({"run": of, "id": ids.take(rows), "shingles": sets}, schema=TEXT))
        table = pa.concat_tables(tables)
        pq.write_table(table, outbox.file(TEXTS, len(table)), compression="zstd")
        return {"documents": len(table)}


class _Compared(NamedTuple):
    """Dropped documents (a SAMPLED table), and for each the one in its place, and another one of its cluster."""

    dropped: pa.Table
    standing: list[Name]
    partners: list[Name | None]

    def wanted(self) -> list[Name]:
        return sorted({one for one in [*self.standing, *self.partners] if one})

    def precision(self, run: Run, keys: Sequence[str], least: float) -> dict[str, dict[str, Any]]:
        """Which of them truly resemble the one in their place, and that other one."""
        fetched = _read(run, TEXTS, keys, TEXT)
        names = zip(fetched["run"].to_pylist(), fetched["id"].to_pylist(), strict=True)
        place = {name: len(self.dropped) + at for at, name in enumerate(names)}
        chunks = [*self.dropped["shingles"].chunks, *fetched["shingles"].chunks]
        sets = pa.chunked_array(chunks, _SET.type)
        values = pc.list_flatten(sets).to_numpy()
        offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(sets).to_numpy())]).astype(np.int64)
        clusters = self.dropped["cluster"].to_pylist()
        figures = {}
        for name, others in (("representative", self.standing), ("cluster", self.partners)):
            pairs = [(at, place[other]) for at, other in enumerate(others) if other and other in place]
            left, right = np.array(pairs, np.int64).reshape(-1, 2).T
            similarity = jaccards(values, offsets, left, right)
            true = int((similarity >= least).sum())
            figures[name] = wilson(true, len(left)) | {"clusters": len({clusters[at] for at, _ in pairs})}
        return figures


def _compared(run: Run, dropped: pa.Table, keys: Sequence[str]) -> _Compared:
    """Another one of the cluster is the one with the next id, and after the last the first: as good as drawn."""
    following: dict[str, list[str | None]] = {}
    for row in _read(run, NEXT, keys, FOLLOWING).to_pylist():
        known = following.setdefault(row["id"], [None, None])
        known[:] = [
            min(filter(None, pair), default=None) for pair in zip(known, (row["next"], row["first"]), strict=True)
        ]
    partners = []
    for own in dropped["id"].to_pylist():
        after, first = following.get(own, (None, None))
        partner = after or first
        partners.append((0, partner) if partner and partner != own else None)
    standing = list(zip(dropped["near_run"].to_pylist(), dropped["near_of"].to_pylist(), strict=True))
    return _Compared(dropped, standing, partners)


def _recall(run: Run, keys: Sequence[str], least: float) -> list[dict[str, Any]]:
    """Of the true pairs at each threshold: in how many the search brought both together, and from how many clusters."""
    thresholds = sorted({least, *HIGH})
    counts: list[dict[str, int]] = [dict.fromkeys(("pairs", "clustered", "resolved"), 0) for _ in thresholds]
    clusters: list[set[str]] = [set() for _ in thresholds]
    for batch in chain.from_iterable(_batches(run, f"{PAIRS}/{key}.parquet") for key in keys):
        similarity = batch["jaccard"].to_numpy()
        flags = {name: batch[name].to_numpy(zero_copy_only=False) for name in ("clustered", "resolved")}
        for place, threshold in enumerate(thresholds):
            true = similarity >= threshold
            one = counts[place]
            one["pairs"] += int(true.sum())
            for name, flag in flags.items():
                one[name] += int((flag & true).sum())
            clusters[place].update(batch["cluster"].filter(pa.array(true)).unique().to_pylist())
    return [
        {
            "threshold": threshold,
            "clusters": len(seen),
            **{name: wilson(one[name], one["pairs"]) for name in ("clustered", "resolved")},
        }
        for threshold, one, seen in zip(thresholds, counts, clusters, strict=True)
    ]


def _texts_and_dropped(run: Run) -> tuple[int, int]:
    """How many different texts there are, and how many of them have another one in their place.

    Raises UsageError where not every document has labels of duplicates.
    """
    if not run.recipe.labels.measured("dup"):
        raise UsageError(f"{run.folder.url}: its recipe does not look for duplicates (labels.families has no dup)")
    counts = [record["counts"] for record in Ledger(run.folder, "dedup-duplicates").records().values()]
    wanted = {key for key, record in run.documents.items() if record["counts"]["documents"]}
    if not wanted:
        raise UsageError(f"{run.folder.url}: has no documents, and nothing to audit")
    if wanted - {key for one in counts for key in one["parts"]}:
        raise UsageError(f"{run.folder.url}: its duplicates are not found yet; first finish `tilth curate run`")
    return sum(one["documents"] - one["copies"] for one in counts), sum(one["near"] for one in counts)


def _limit(wanted: int, among: int) -> str:
    """An id below which at least `wanted` of so many random ones lie, but for a chance of one in a billion."""
    share = (wanted + 6 * math.sqrt(wanted) + 20) / max(1, among)
    return f"{int(share * 2**128):032x}" if share < 1 else "g"  # which no hex digit reaches


def _texts(run: Run, part: Part, rows: np.ndarray) -> list[str]:
    """Texts of some of a part's documents, without reading the row groups of others."""
    if not len(rows):
        return []
    with run.opened(f"documents/{part.key}.parquet") as opened:
        file = pq.ParquetFile(opened)
        sizes = np.array([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
        ends = np.cumsum(sizes)
        groups, which = np.unique(np.searchsorted(ends, rows, side="right"), return_inverse=True)
        begins = np.cumsum(sizes[groups]) - sizes[groups]
        texts = file.read_row_groups(groups.tolist(), columns=["text"])["text"]
        return texts.take(rows - (ends - sizes)[groups][which] + begins[which]).to_pylist()


def _sets(texts: Sequence[str], options: ShingleOptions) -> pa.Array:
    sets = [shingle_set(text, options) for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in sets])]).astype(np.int64)
    return pa.LargeListArray.from_arrays(offsets, np.concatenate([np.zeros(0, np.uint64), *sets]))


def _read(run: Run, output: str, keys: Sequence[str], columns: pa.Schema) -> pa.Table:
    """The files of some units as one table."""
    batches = chain.from_iterable(_batches(run, f"{output}/{key}.parquet") for key in keys)
    return pa.Table.from_batches(batches, columns)


def _batches(run: Run, name: str) -> Iterator[pa.RecordBatch]:
    with run.opened(name) as file:
        yield from pq.ParquetFile(file).iter_batches()


def _hash(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
