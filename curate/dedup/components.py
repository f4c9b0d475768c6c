"""Connected components of a graph of documents, in memory bounded by partitions; the result depends on the edges alone.

Files of edges are contracted to forests, group by group, in parallel. Forests that fit are joined by one worker with
scipy. Others go through rounds of two passes, after the alternating algorithm of Kiveris et al. 2014 ("Connected
components in MapReduce and beyond", section 3), until each document hangs on the smallest one of its component:

- *small*: a partition holds the edges of its larger ends, and contracts them to a forest. This does what the paper's
  small-star does, and more: it also joins what meets in smaller ends or over several edges.
- *large*: the larger neighbours of a document are hung on its smallest neighbour (large-star).

No pass adds edges. Each that changes anything lowers the sum of all ends, so that the rounds end; where neither
changes anything, a document has one smaller neighbour, which has none: a star, whose centre is the smallest.

Memory. `components` and `forest` hold 40 bytes an edge and 24 a node beside the 16 an edge that they are given, so
that a partition of e edges between n nodes takes 56 e + 24 n bytes, and ON_ONE_NODE edges at most 0.4 GB. A large pass
holds 16 bytes for each edge whose larger end is the partition's, 72 while it sorts them, and streams those that it
hangs: a document with 10^8 neighbours costs time, but no memory. What is dealt adds a few times `shuffle.BUDGET`.
10^9 documents with 2 x 10^9 edges make 1000 partitions of 2 x 10^6 edges and at most 4 x 10^6 nodes, 0.2 GB each. On
disk a pass leaves 16 bytes an edge (small: 32) and goes when the next one stands: at most 48 bytes an edge, 96 GB. The
result is 120 files with at most 16 bytes a document.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tilth.errors import StorageError
from tilth.ledger import Ledger, total
from tilth.storage import Folder
from tilth.work import Engine, Outbox, Outcome, Unit, first_line

from .shuffle import Dealer, column, dealt, names, partitions, ranges

ON_ONE_NODE = 4_000_000  # edges that one worker joins
PARTITION_EDGES = 2_000_000
RANGE = 1 << 23  # document numbers that one file of the result spans
ROW_GROUP = 100_000
EDGES = pa.schema([("a", pa.int64()), ("b", pa.int64())])
STARS = pa.schema([("node", pa.int64()), ("root", pa.int64())])
_NONE = np.zeros((0, 2), np.int64)
_PASSES = "passes"  # where the ledger says which passes are done
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: neighbouring numbers go to different partitions


def components(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nodes of int64[m, 2] edges, sorted, and for each the smallest node of its component; both int64[n]."""
    nodes, ends = _compacted(edges)
    return nodes, nodes[_smallest(ends, len(nodes))]


def forest(edges: np.ndarray) -> tuple[np.ndarray, int]:
    """Edges (node, root), int64[k, 2] sorted by node, that connect what int64[m, 2] edges connect; k < nodes.

    A root is the smallest node of its component. The number tells how many of the edges given are not of that form.
    """
    nodes, ends = _compacted(edges)
    smallest = _smallest(ends, len(nodes))
    changed = int(np.count_nonzero(smallest[ends[:, 0]] != ends[:, 1]))
    hangs = smallest != np.arange(len(nodes))
    return np.stack([nodes[hangs], nodes[smallest[hangs]]], axis=1), changed


def lowest(edges: np.ndarray) -> np.ndarray:
    """int64[k, 2], sorted: every larger end of (larger, smaller) int64[m, 2] edges, with its smallest neighbour."""
    edges = edges[np.argsort(edges[:, 0], kind="stable")]
    larger, smaller = edges[:, 0], edges[:, 1]
    starts = np.flatnonzero(np.diff(larger, prepend=-1))
    least = np.minimum.reduceat(smaller, starts) if len(edges) else smaller
    return np.stack([larger[starts], least], axis=1)


def large_star(edges: np.ndarray, lower: np.ndarray) -> tuple[np.ndarray, int]:
    """Hangs larger ends on the smallest neighbour of their smaller end, where that has a smaller neighbour.

    `edges` are int64[m, 2] (larger, smaller), `lower` is what `lowest` says of all edges whose larger end is a smaller
    end here. Returns int64[m, 2] in the same order, and how many edges that changes.
    """
    ends, places = _compacted(edges[:, 1])
    found = np.searchsorted(lower[:, 0], ends)
    known = np.append(lower[:, 0], -1)[found] == ends
    targets = np.where(known, np.append(lower[:, 1], -1)[found], ends)[places]
    return np.stack([edges[:, 0], targets], axis=1), int(np.count_nonzero(targets != edges[:, 1]))


def _compacted(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values, sorted, and the place of each value among them, int32 in the shape of `values`.

    numpy.unique does the same with twice the memory.
    """
    flat = values.ravel()
    order = np.argsort(flat, kind="stable")
    ranked = flat[order]
    new = np.ones(len(flat), bool)
    np.not_equal(ranked[1:], ranked[:-1], out=new[1:])
    distinct = ranked[new]
    del ranked
    places = np.empty(len(flat), np.int32)
    places[order] = np.cumsum(new, dtype=np.int32) - 1
    return distinct, places.reshape(values.shape)


def _smallest(ends: np.ndarray, count: int) -> np.ndarray:
    """int64[count]: the smallest node of each node's component, for int32[m, 2] edges of nodes 0..count-1."""
    if not count:
        return np.zeros(0, np.int64)
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(count, count))
    components, labels = connected_components(graph, directed=False)
    first = np.empty(components, np.int64)
    first[labels[::-1]] = np.arange(count - 1, -1, -1)  # of several values for one place the last stays
    return first[labels]


class Pass(NamedTuple):
    """A pass that is done."""

    kind: str
    units: int
    edges: int  # that it left
    changed: int  # edges that came in and are not among them


class Step(NamedTuple):
    """What the workers of one pass need to know."""

    kind: str
    folder: Folder
    source: str  # folder of the pass before
    keys: Sequence[str]  # of its units
    place: str  # folder of this pass
    partitions: int
    documents: int
    most: int  # edges that a unit holds

    def home(self, nodes: np.ndarray) -> np.ndarray:
        """int16[n]: the partition of each node."""
        return ranges(nodes.astype(np.uint64) * _SPREAD, self.partitions).astype(np.int16)

    def files(self) -> int:
        """How many files the result has."""
        return max(1, -(-self.documents // RANGE))

    def edges(self, partition: int, count: int) -> Iterator[np.ndarray]:
        """int64[m, 2], batch by batch: what the pass before dealt to a partition of `count`."""
        for key in self.keys:  # one by one: what lies on an object store is not mapped but read
            yield from map(_array, dealt(self.folder, self.source, [key], partition, count))


def next_pass(done: Sequence[Pass], memory_edges: int) -> str | None:
    """Which pass follows; None when the result stands."""
    last = done[-1] if done else None
    if last is None:
        return "contract"
    if last.kind in ("join", "write"):
        return None
    if last.kind in ("small", "spread"):
        return {"small": "large", "spread": "write"}[last.kind]
    if last.edges <= memory_edges:
        return "join"
    settled = last.kind == "large" and not last.changed and not done[-2].changed
    return "spread" if settled else "small"


def connect(
    engine: Engine,
    folder: Folder,
    edges: Mapping[str, int],
    documents: int,
    depends_on: str,
    light: bool = False,
    name: str = "components",
    memory_edges: int = ON_ONE_NODE,
    partition_edges: int = PARTITION_EDGES,
) -> Outcome:
    """Leaves (node, root) of every document that has an edge to another one in `dedup/<name>/`; `roots` reads them.

    `edges` names Parquet or Arrow files of the folder, with columns `a` and `b` of document numbers below `documents`,
    and tells their rows; `depends_on` says what they hold. One worker joins up to `memory_edges` edges, any other unit
    holds about `partition_edges`; the bytes of the result depend on neither. Records count `nodes` and `components`.
    """
    result, between = f"dedup/{name}", f"dedup/{name}-passes"
    given = repr((depends_on, sorted(edges.items()), documents, memory_edges, partition_edges))
    depends = hashlib.sha256(given.encode()).hexdigest()
    ledger = Ledger(folder, name)  # the records of all passes stand below its own
    ledger.serve(depends)
    done = _done(ledger, [result, between])
    count = partitions(sum(edges.values()), partition_edges)
    step = Step("", folder, "", (), "", count, documents, partition_edges)
    while kind := next_pass(done, memory_edges):
        own, before = _label(len(done), kind), _label(len(done) - 1, done[-1].kind) if done else ""
        keys = [unit.key for unit in _units(step._replace(kind=done[-1].kind), edges)] if done else []
        place = result if kind in ("join", "write") else f"{between}/{own}"
        step = step._replace(kind=kind, source=f"{between}/{before}", keys=keys, place=place)
        units = _units(step, edges)
        worker = partial(StepWorker, step)
        outcome = engine.run(f"{name}/{own}", units, worker, folder, [place], light=light, depends_on=depends)
        if outcome.failed:
            return Outcome({}, outcome.failed)
        counts = total(record["counts"] for record in outcome.records.values())
        done.append(Pass(kind, len(units), counts.get("edges", 0), counts.get("changed", 0)))
        ledger.record(f"{_PASSES}/{own}", {"files": [], "counts": done[-1]._asdict()})
        _forget(ledger, between, before)
    folder.delete(between)
    return Outcome(Ledger(folder, f"{name}/{_label(len(done) - 1, done[-1].kind)}").records(), {})


def roots(folder: Folder, low: int, high: int, name: str = "components") -> tuple[np.ndarray, np.ndarray]:
    """Nodes in [low, high), sorted, and their roots, from the result of `connect`; both int64[n].

    Of a file only those row groups are read that have such nodes. Raises StorageError where a file is damaged or
    missing; there is none beyond the number of documents.
    """
    tables = [STARS.empty_table()]
    for index in range(low // RANGE, -(-high // RANGE)):
        place = f"dedup/{name}/nodes-{index:05d}.parquet"
        try:
            with folder.open(place) as file, pq.ParquetFile(file) as parquet:
                tables.append(parquet.read_row_groups(_groups(parquet.metadata, low, high)))
        except (OSError, pa.ArrowException) as error:
            raise _damaged(folder, place, error) from error
    table = pa.concat_tables(tables)
    nodes, found = column(table, "node"), column(table, "root")
    start, end = np.searchsorted(nodes, [low, high])
    return nodes[start:end], found[start:end]


class StepWorker:
    """Does the units of one pass."""

    def __init__(self, step: Step):
        self._step = step

    def __call__(self, payload: Any, outbox: Outbox) -> Mapping[str, Any]:
        return _STEPS[self._step.kind](self._step, payload, outbox)


def _contract(step: Step, payload: Sequence[str], outbox: Outbox) -> Mapping[str, Any]:
    """Files to their forest, dealt by larger ends."""
    edges = _deal(step, outbox, step.partitions, ((trees, step.home(trees[:, 0])) for trees in _forests(step, payload)))
    return {"edges": edges, "changed": edges}


def _small(step: Step, payload: int, outbox: Outbox) -> Mapping[str, Any]:
    """A partition's edges to their forest, dealt twice: by smaller ends, to be hung elsewhere; by larger ends, to tell
    which smaller neighbours these have."""
    trees, changed = forest(np.concatenate([_NONE, *step.edges(payload, step.partitions)]))
    hang, tell = step.home(trees[:, 1]), step.home(trees[:, 0]) + np.int16(step.partitions)
    _deal(step, outbox, 2 * step.partitions, [(trees, hang), (trees, tell)])
    return {"edges": len(trees), "changed": changed}


def _large(step: Step, payload: int, outbox: Outbox) -> Mapping[str, Any]:
    """A partition's edges to their large-star, dealt by larger ends."""
    count, changed = step.partitions, 0
    lower = lowest(np.concatenate([_NONE, *step.edges(count + payload, 2 * count)]))

    def hung() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nonlocal changed
        for batch in step.edges(payload, 2 * count):
            edges, different = large_star(batch, lower)
            changed += different
            yield edges, step.home(edges[:, 0])

    edges = _deal(step, outbox, count, hung())
    return {"edges": edges, "changed": changed}


def _spread(step: Step, payload: int, outbox: Outbox) -> Mapping[str, Any]:
    """A partition's stars, their centres as nodes among them, dealt to the files of the result."""

    def stars() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for batch in step.edges(payload, step.partitions):
            centres = np.unique(batch[:, 1])
            for edges in (batch, np.stack([centres, centres], axis=1)):
                yield edges, edges[:, 0] // RANGE

    return {"edges": _deal(step, outbox, step.files(), stars())}


def _write(step: Step, payload: int, outbox: Outbox) -> Mapping[str, Any]:
    """One file of the result; centres come from many partitions."""
    stars = lowest(np.concatenate([_NONE, *step.edges(payload, step.files())]))
    return _save(outbox, step.place, ".parquet", stars[:, 0], stars[:, 1])


def _join(step: Step, payload: None, outbox: Outbox) -> Mapping[str, Any]:
    """All edges to all files of the result, which have the same names as those of single units."""
    nodes, found = components(np.concatenate([_NONE, *step.edges(0, 1)]))
    cuts = np.searchsorted(nodes, np.arange(step.files() + 1) * RANGE)
    spans = enumerate(pairwise(cuts))
    return total(_save(outbox, step.place, f"-{i:05d}.parquet", nodes[s:e], found[s:e]) for i, (s, e) in spans)


_STEPS: dict[str, Callable[[Step, Any, Outbox], Mapping[str, Any]]] = {
    "contract": _contract,
    "small": _small,
    "large": _large,
    "spread": _spread,
    "write": _write,
    "join": _join,
}


def _units(step: Step, edges: Mapping[str, int]) -> list[Unit]:
    """The units of a pass."""
    if step.kind == "contract":
        return _file_groups(edges, step.most)
    if step.kind == "join":
        return [Unit("nodes", None, 1)]
    if step.kind == "write":
        return [Unit(f"nodes-{index:05d}", index, 1) for index in range(step.files())]
    return [Unit(key, index, 1) for index, key in enumerate(names("partition", step.partitions))]


def _file_groups(edges: Mapping[str, int], most: int) -> list[Unit]:
    """Groups of files, in the order of their names, that have up to `most` edges or are one file."""
    groups: list[list[str]] = []
    held = 0
    for name, rows in sorted(edges.items()):
        if not groups or held + rows > most:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += rows
    return [Unit(f"group-{i:05d}", group, sum(edges[name] for name in group)) for i, group in enumerate(groups)]


def _forests(step: Step, files: Sequence[str]) -> Iterator[np.ndarray]:
    """The forest of all edges of some files; forests of parts of them, where one would grow beyond half of `most`."""
    held, count = [_NONE], 0
    for edges in chain.from_iterable(_read(step.folder, name) for name in files):
        assert not len(edges) or edges.max() < step.documents, "a number that no document has"
        held.append(edges)
        count += len(edges)
        if count > step.most:
            trees, _ = forest(np.concatenate(held))
            if 2 * len(trees) > step.most:
                yield trees
                trees = _NONE
            held, count = [trees], len(trees)
    yield forest(np.concatenate(held))[0]


def _read(folder: Folder, name: str) -> Iterator[np.ndarray]:
    """The edges of one file, batch by batch, int64[m, 2]."""
    try:
        with folder.open(name) as file:
            if name.endswith(".parquet"):
                yield from map(_array, pq.ParquetFile(file).iter_batches(columns=EDGES.names))
            else:
                reader = pa.ipc.open_file(file)
                yield from (_array(reader.get_batch(index)) for index in range(reader.num_record_batches))
    except (OSError, pa.ArrowException) as error:
        raise _damaged(folder, name, error) from error


def _deal(step: Step, outbox: Outbox, count: int, dealing: Iterable[tuple[np.ndarray, np.ndarray]]) -> int:
    """Writes edges to partitions of `count`; returns how many."""
    with Dealer(outbox.file(step.place, 0, ".arrow"), EDGES, count) as dealer:
        for edges, partition in dealing:
            dealer.add(pa.table([edges[:, 0], edges[:, 1]], schema=EDGES), partition)
    outbox.file(step.place, dealer.rows, ".arrow")
    return dealer.rows


def _save(outbox: Outbox, place: str, suffix: str, nodes: np.ndarray, found: np.ndarray) -> Mapping[str, Any]:
    table = pa.table([nodes, found], schema=STARS)
    path = outbox.file(place, len(table), suffix)
    pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP, use_dictionary=False)
    return {"nodes": len(table), "components": int(np.count_nonzero(nodes == found))}


def _groups(file: pq.FileMetaData, low: int, high: int) -> list[int]:
    """Row groups that may have nodes in [low, high); one without rows has no statistics."""
    spans = [file.row_group(group).column(0).statistics for group in range(file.num_row_groups)]
    return [group for group, span in enumerate(spans) if span and span.min < high and span.max >= low]


def _array(batch: pa.RecordBatch) -> np.ndarray:
    return np.stack([column(batch, name) for name in EDGES.names], axis=1)


def _done(ledger: Ledger, outputs: Sequence[str]) -> list[Pass]:
    """The passes that stand from an earlier run. A file of the last that is missing costs all: what it was made of is
    gone."""
    records = ledger.reconcile(outputs)
    done = [Pass(**record["counts"]) for key, record in records.items() if key.startswith(f"{_PASSES}/")]
    if not done:
        return []
    labels = [_label(index, one.kind) for index, one in enumerate(done)]
    if sum(key.startswith(f"{labels[-1]}/") for key in records) < done[-1].units:
        ledger.forget()
        return []
    _forget(ledger, outputs[1], *labels[-2:-1])
    return done


def _forget(ledger: Ledger, between: str, *passes: str) -> None:
    """Removes what passes left on the way."""
    for one in passes:
        if one:
            Ledger(ledger.folder, f"{ledger.name}/{one}").forget()
            ledger.folder.delete(f"{between}/{one}")


def _label(index: int, kind: str) -> str:
    return f"{index:03d}-{kind}"


def _damaged(folder: Folder, place: str, error: Exception) -> StorageError:
    advice = "delete it and give the same command again"
    return StorageError(f"{folder.url}/{place}: cannot be read ({first_line(error)}); {advice}")
