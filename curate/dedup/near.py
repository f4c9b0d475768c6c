"""Near-duplicates: bands of signatures meet in buckets, members of a bucket become candidate pairs, and the true
Jaccard similarity of a pair decides.

Everything is dealt by range of keys, group of documents or component, and sorted where it is read. Texts that equal
others take no part: the first of them stands for all. What is held at once does not grow with the number of documents:
three times the signatures of a unit of the first pass; 170 bytes an entry of PARTITION in a bucket unit; CHUNK shingles
and about 100 bytes a candidate pair where a component's pairs are verified. What is alike cannot be split, though: a
bucket is sorted, and a component verified, by one unit, which for a million pages of one template takes some GB.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.work import Outbox, Unit

from ..run import Run
from .census import Census, Part, kept
from .components import components, roots
from .exact import COPIES, COPY, firsts, leads
from .minhash import MinHashOptions, band_keys
from .options import DedupOptions
from .order import unjudged_order
from .shingle import jaccards, shingle_set
from .shuffle import Dealer, column, dealt, gathered, joined, partitions, ranges

BANDS, EDGES, ENDS = "dedup/bands", "dedup/edges", "dedup/ends"
SETS, CANDIDATES, LINKS = "dedup/sets", "dedup/candidates", "dedup/links"
PAIRS, CLUSTERS = "dedup/pairs", "dedup/clusters"

PARTITION = 4_000_000  # entries of buckets that a unit sorts
FIRST_OF_BUCKET = 50  # with so many of a bucket each member is paired, in the order in which they would stay
CROWDED, FIRST_OF_CROWD = 1000, 5  # where a bucket has more members, with so many
CHUNK = 16_000_000  # shingles that are held to verify pairs, 8 bytes each
COMPONENT_BYTES = 64 * 2**20  # of text whose components one unit verifies, about

BANDED = pa.schema([("key", pa.uint64()), ("order", pa.uint64()), ("document", pa.int64())])
EDGE = pa.schema([("a", pa.int64()), ("b", pa.int64())])
END = pa.schema([("document", pa.int64())])
SET = pa.schema([("document", pa.int64()), ("id", pa.string()), ("shingles", pa.large_list(pa.uint64()))])
PAIR = pa.schema(
    [
        pa.field("a", pa.string()),
        pa.field("b", pa.string()),
        pa.field("jaccard", pa.float64()),
        pa.field("left", pa.int64()),
        pa.field("right", pa.int64()),
    ]
)
CLUSTERED = pa.schema([("document", pa.int64()), ("node", pa.int64()), ("root", pa.int64())])


class BandWorker:
    """Deals the bands of one group's documents, each text once. Cell band x count + i takes the keys of range i."""

    def __init__(
        self, census: Census, options: DedupOptions, minhash: MinHashOptions, copies: Sequence[str], count: int
    ):
        self._census = census
        self._runs = [Run(folder) for folder in census.folders]
        self._options = options
        self._banding = options.banding(minhash.permutations)
        self._copies = copies
        self._count = count

    def __call__(self, payload: int, outbox: Outbox) -> Mapping[str, Any]:
        census, (bands, rows) = self._census, self._banding
        copies = gathered(census.folders[0], COPIES, self._copies, payload, len(census.groups), COPY)
        place = outbox.file(BANDS, 0, ".arrow")
        with Dealer(place, BANDED, bands * self._count) as dealer:
            for part in census.groups[payload]:
                chosen, signatures, order = self._signed(part, column(copies, "a"))
                keys = band_keys(signatures, bands, rows)
                for band in range(bands):
                    key = np.ascontiguousarray(keys[:, band])
                    table = pa.table({"key": key, "order": order, "document": part.first + chosen}, schema=BANDED)
                    dealer.add(table, band * self._count + ranges(key, self._count))
        return {"documents": dealer.rows // bands}

    def _signed(self, part: Part, copies: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places of the part's documents that take part, their signatures and their order."""
        run = self._runs[part.run]
        signatures, signed = run.signatures(part.key)
        if part.run:
            signed &= kept(run, part.key)
        signed[copies[part.holds(copies)] - part.first] = False
        order = unjudged_order(run, part, self._options.quality)
        return np.flatnonzero(signed), signatures[signed], order[signed]


def bucket_units(documents: int, bands: int) -> tuple[int, list[Unit]]:
    """Into how many ranges the keys of a band are dealt, and units of consecutive cells that hold about PARTITION."""
    count = partitions(documents, PARTITION)
    cells = list(range(bands * count))
    each = max(1, PARTITION * count // max(1, documents))
    groups = [cells[start : start + each] for start in range(0, len(cells), each)]
    return count, [Unit(f"buckets-{groups[i][0]:06d}-of-{len(cells):06d}", groups[i], 1) for i in range(len(groups))]


class EdgeWorker:
    """Makes candidate pairs of the buckets of some cells; a pair is dealt to the group of its lower document."""

    def __init__(self, census: Census, sources: Sequence[str], cells: int):
        self._census = census
        self._sources = sources
        self._cells = cells

    def __call__(self, payload: Sequence[int], outbox: Outbox) -> Mapping[str, Any]:
        census, groups = self._census, len(self._census.groups)
        places = [outbox.file(output, 0, ".arrow") for output in (EDGES, ENDS)]
        with Dealer(places[0], EDGE, groups) as edges, Dealer(places[1], END, groups) as ends:
            for cell in payload:
                table = gathered(census.folders[0], BANDS, self._sources, cell, self._cells, BANDED)
                key, order, document = (column(table, name) for name in BANDED.names)
                rank = np.lexsort((document, order, key))
                document = document[rank]
                paired = np.zeros(len(document), bool)
                for one, other in meetings(key[rank]):
                    a, b = np.sort(np.stack([document[one], document[other]]), axis=0)
                    new = a < census.own  # two of earlier runs are no candidates
                    paired[one[new]] = paired[other[new]] = True
                    edges.add(pa.table([a[new], b[new]], schema=EDGE), census.group_of(a[new]))
                ends.add(pa.table([document[paired]], schema=END), census.group_of(document[paired]))
        return {"edges": edges.rows}


def meetings(key: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of places with equal keys in sorted keys: each place with the first FIRST_OF_BUCKET of its key, those with
    the first, then those with the second, ... Where more than CROWDED have one key, with the first FIRST_OF_CROWD."""
    first = firsts(key)
    start = leads(first)
    begins = np.flatnonzero(first)
    sizes = np.repeat(np.diff(begins, append=len(key)), np.diff(begins, append=len(key)))
    most = np.where(sizes > CROWDED, FIRST_OF_CROWD, FIRST_OF_BUCKET)
    later = np.flatnonzero(~first)
    for lead in range(FIRST_OF_BUCKET):
        later = later[(later - start[later] > lead) & (most[later] > lead)]
        if not len(later):
            return
        yield start[later] + lead, later


class GatherWorker:
    """Sends what a group has of candidates to where their components are verified: sets of shingles, pairs, copies."""

    def __init__(
        self, census: Census, minhash: MinHashOptions, edges: Sequence[str], copies: Sequence[str], count: int
    ):
        self._census = census
        self._runs = [Run(folder) for folder in census.folders]
        self._minhash = minhash
        self._edges = edges
        self._copies = copies
        self._count = count

    def __call__(self, payload: int, outbox: Outbox) -> Mapping[str, Any]:
        census, folder, groups = self._census, self._census.folders[0], len(self._census.groups)
        low, high = census.span(payload)
        nodes, root = roots(folder, low, high)
        where = np.full(high - low, -1, np.int64)
        where[nodes - low] = root % self._count
        pairs = _distinct(gathered(folder, EDGES, self._edges, payload, groups, EDGE))
        copies = gathered(folder, COPIES, self._copies, payload, groups, COPY)
        ends = np.unique(column(gathered(folder, ENDS, self._edges, payload, groups, END), "document"))
        with Dealer(outbox.file(CANDIDATES, len(pairs), ".arrow"), EDGE, self._count) as dealer:
            dealer.add(pairs, where[column(pairs, "a") - low])
        with Dealer(outbox.file(LINKS, len(copies), ".arrow"), COPY, self._count) as dealer:
            dealer.add(copies, where[column(copies, "a") - low])
        with Dealer(outbox.file(SETS, len(ends), ".arrow"), SET, self._count) as dealer:
            for table in self._sets(payload, ends):
                dealer.add(table, where[column(table, "document") - low])
        return {"candidates": len(pairs), "documents": len(ends)}

    def _sets(self, group: int, wanted: np.ndarray) -> Iterator[pa.Table]:
        """The sets of shingles of the documents wanted, some at a time."""
        for part in self._census.groups[group]:
            mine = wanted[part.holds(wanted)] - part.first
            if not len(mine):
                continue
            for start, piece in self._runs[part.run].pieces(part.key, ["id", "text"], mine):
                here = mine[(mine >= start) & (mine < start + len(piece))]
                rows = piece.take(here - start)
                sets = [shingle_set(text, self._minhash) for text in rows["text"].to_pylist()]
                offsets = np.concatenate([[0], np.cumsum([len(one) for one in sets])])
                shingles = pa.LargeListArray.from_arrays(offsets, np.concatenate(sets))
                yield pa.table({"document": part.first + here, "id": rows["id"], "shingles": shingles}, schema=SET)


def _distinct(pairs: pa.Table) -> pa.Table:
    """Each candidate pair once, of those that several bands told."""
    edges = np.unique(np.stack([column(pairs, name) for name in EDGE.names], axis=1), axis=0)
    return pa.table([edges[:, 0], edges[:, 1]], schema=EDGE)


class VerifyWorker:
    """Computes the true Jaccard similarity of the candidate pairs of some components, and what clusters are left."""

    def __init__(self, census: Census, sources: Sequence[str], count: int, verify: float):
        self._census = census
        self._sources = sources
        self._count = count
        self._verify = verify

    def __call__(self, payload: int, outbox: Outbox) -> Mapping[str, Any]:
        folder = self._census.folders[0]
        pairs = gathered(folder, CANDIDATES, self._sources, payload, self._count, EDGE)
        links = gathered(folder, LINKS, self._sources, payload, self._count, COPY)
        edges = np.stack([column(pairs, "a"), column(pairs, "b")], axis=1)
        if self._verify:  # else only what met is trusted
            edges = completed(edges)
            edges = edges[edges[:, 0] < self._census.own]
        sets = _Sets(dealt(folder, SETS, self._sources, payload, self._count))
        similarity = sets.jaccards(edges)
        true = similarity >= self._verify
        left, right = edges[true].T
        table = pa.table(
            {"a": sets.ids(left), "b": sets.ids(right), "jaccard": similarity[true], "left": left, "right": right},
            schema=PAIR,
        )
        pq.write_table(table, outbox.file(PAIRS, len(table)), compression="zstd")
        clusters = _clusters(edges[true], column(links, "a"), column(links, "b"))
        with Dealer(outbox.file(CLUSTERS, len(clusters), ".arrow"), CLUSTERED, len(self._census.groups)) as dealer:
            dealer.add(clusters, self._census.group_of(column(clusters, "document")))
        return {"candidates": len(edges), "pairs": len(table), "clustered": len(clusters)}


def completed(edges: np.ndarray) -> np.ndarray:
    """int64[m, 2], sorted, each once: candidate pairs (lower number first), and of components of up to FIRST_OF_BUCKET
    documents all other pairs too.

    Two texts that meet in no bucket often have a neighbour in common; to compare them costs next to nothing.
    """
    nodes, root = components(edges)
    _, of_root, size = np.unique(root, return_inverse=True, return_counts=True)
    small = np.flatnonzero(size[of_root] <= FIRST_OF_BUCKET)
    small = small[np.argsort(root[small], kind="stable")]
    pairs = [np.stack([nodes[small[one]], nodes[small[other]]], axis=1) for one, other in meetings(root[small])]
    return np.unique(np.concatenate([edges, *pairs]), axis=0)


def _clusters(edges: np.ndarray, copies: np.ndarray, nodes: np.ndarray) -> pa.Table:
    """Every document of the components that verified pairs and equal texts make, with its node and the root."""
    members, root = components(np.concatenate([edges, np.stack([copies, nodes], axis=1)]))
    node = members.copy()
    node[np.searchsorted(members, copies)] = nodes
    return pa.table({"document": members, "node": node, "root": root}, schema=CLUSTERED)


class _Sets:
    """Sets of shingles that lie in mapped files; those of some pairs at a time are copied together and compared."""

    def __init__(self, batches: Sequence[pa.RecordBatch]):
        self._batches = batches
        documents = [column(batch, "document") for batch in batches]
        self._document = joined(documents, np.int64)
        self._batch = np.repeat(np.arange(len(batches)), [len(one) for one in documents])
        self._row = joined([np.arange(len(one)) for one in documents], np.int64)
        sizes = [batch["shingles"].value_lengths().to_numpy(zero_copy_only=False) for batch in batches]
        self._size = joined(sizes, np.int64)
        self._order = np.argsort(self._document)

    def _find(self, documents: np.ndarray) -> np.ndarray:
        return self._order[np.searchsorted(self._document, documents, sorter=self._order)]

    def ids(self, documents: np.ndarray) -> pa.Array:
        ids = pa.chunked_array([batch["id"] for batch in self._batches], pa.string()).combine_chunks()
        return ids.take(pa.array(self._find(documents)))

    def jaccards(self, edges: np.ndarray) -> np.ndarray:
        """float64[m], for pairs sorted by their first document."""
        result = np.zeros(len(edges))
        start = 0
        while start < len(edges):
            end = self._reach(edges, start)
            documents, places = np.unique(edges[start:end], return_inverse=True)
            places = places.reshape(-1, 2)
            at = self._find(documents)
            values = np.concatenate([self._shingles(one) for one in at.tolist()])
            offsets = np.concatenate([[0], np.cumsum(self._size[at])])
            result[start:end] = jaccards(values, offsets, places[:, 0].copy(), places[:, 1].copy())
            start = end
        return result

    def _reach(self, edges: np.ndarray, start: int) -> int:
        """Where the pairs end whose sets, together, are about CHUNK; at least one pair."""
        sizes = self._size[self._find(edges[start : start + CHUNK // 16].reshape(-1))].reshape(-1, 2).sum(axis=1)
        return start + max(1, int(np.searchsorted(np.cumsum(sizes), CHUNK)))

    def _shingles(self, at: int) -> np.ndarray:
        column = self._batches[int(self._batch[at])]["shingles"]
        offsets = column.offsets
        row = int(self._row[at])
        values = column.values.slice(offsets[row].as_py(), offsets[row + 1].as_py() - offsets[row].as_py())
        return values.to_numpy()
