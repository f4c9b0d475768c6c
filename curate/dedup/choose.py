"""Of documents that say the same, which one stays: passes over labels, done anew when rules change.

The order is: kept by an earlier run; passes the other rules; best quality; earliest; smallest id. In that order a text
stays unless it is similar, by a verified pair, to one that stays already. So whatever is dropped has a text beside it
that is kept and as similar as the threshold says; a chain of small changes is not dropped for its first link.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from tilth.work import Outbox

from ..recipe import CurateRecipe
from ..run import Run
from .census import Census, Part, kept
from .exact import firsts, halves, leads
from .near import CLUSTERED, CLUSTERS, PAIRS
from .order import UNKNOWN, minutes, qualities
from .shingle import compiled
from .shuffle import Dealer, column, gathered, ranges
from .stages import passing

LARGEST = 10  # clusters that a partition names

MEMBERS, CHOSEN = "dedup/members", "dedup/chosen"
ADDRESSES, ADDRESSED = "dedup/addresses", "dedup/addressed"

RANKED = [
    ("document", pa.int64()),
    ("id", pa.string()),
    ("passes", pa.bool_()),
    ("quality", pa.float64()),
    ("minute", pa.int64()),
]
MEMBER = pa.schema([*RANKED, ("node", pa.int64()), ("root", pa.int64())])
ADDRESS = pa.schema([*RANKED, ("key", pa.uint64()), ("check", pa.uint64())])
CHOICE = pa.schema(
    [
        ("document", pa.int64()),
        ("copy", pa.int64()),  # numbers of the two that stay, whose ids follow: ids may meet those of earlier runs
        ("near", pa.int64()),
        ("copy_of", pa.string()),
        ("near_of", pa.string()),
        ("similarity", pa.float64()),
        ("cluster", pa.string()),
        ("size", pa.int64()),
    ]
)
# `url` is the number of the document whose id is `url_of`
OF_URL = pa.schema([("document", pa.int64()), ("url", pa.int64()), ("url_of", pa.string())])


class _Ranker:
    """What the order of documents asks for, part by part."""

    def __init__(self, census: Census, recipe: CurateRecipe):
        self.runs = [Run(folder) for folder in census.folders]
        self.recipe = recipe

    def ranked(self, part: Part, last: int = 0, known: Mapping[str, pa.Array] | None = None) -> pa.Table:
        """All documents of a part; what an earlier run kept passes."""
        run = self.runs[part.run]
        labels = run.table(part.key, ["id", "timestamp"])
        judged = partial(passing, run, self.recipe, part.key, part.documents, last, known)
        passes = kept(run, part.key) if part.run else judged()
        return pa.table(
            {
                "document": np.arange(part.first, part.first + part.documents),
                "id": labels["id"],
                "passes": passes,
                "quality": qualities(run, part, self.recipe.dedup.quality),
                "minute": minutes(labels["timestamp"]),
            },
            schema=pa.schema(RANKED),
        )


def order_of(table: pa.Table, own: int) -> np.ndarray:
    """int64[n]: places of the rows of a RANKED table in the order in which they would stay."""
    ids = table["id"].to_numpy(zero_copy_only=False)
    fixed = column(table, "document") >= own
    passes = table["passes"].to_numpy(zero_copy_only=False)
    by_id = np.argsort(ids.astype("U32"), kind="stable")
    keys = (column(table, "minute"), -column(table, "quality"), ~passes, ~fixed)
    return by_id[np.lexsort([key[by_id] for key in keys])]


class AddressWorker:
    """Deals the canonical URLs of one group's documents."""

    def __init__(self, census: Census, recipe: CurateRecipe, count: int):
        self._census = census
        self._ranker = _Ranker(census, recipe)
        self._count = count

    def __call__(self, payload: int, outbox: Outbox) -> Mapping[str, Any]:
        with Dealer(outbox.file(ADDRESSES, 0, ".arrow"), ADDRESS, self._count) as dealer:
            for part in self._census.groups[payload]:
                ranked = self._ranker.ranked(part)
                run = self._ranker.runs[part.run]
                addresses = run.table(part.key, ["url_labels.canonical"])["url_labels.canonical"].fill_null("")
                texts = addresses.to_pylist()
                present = np.array([bool(text) for text in texts], bool)
                if part.run:
                    present &= ranked["passes"].to_numpy(zero_copy_only=False)
                chosen = np.flatnonzero(present)
                key, check = halves([xxhash.xxh3_128_hexdigest(texts[index].encode()) for index in chosen.tolist()])
                table = ranked.take(chosen).append_column("key", pa.array(key)).append_column("check", pa.array(check))
                dealer.add(table, ranges(key, self._count))
        return {"addresses": dealer.rows}


class AddressedWorker:
    """Of the documents of each canonical URL in one range of keys, names the one that stays."""

    def __init__(self, census: Census, recipe: CurateRecipe, sources: Sequence[str], count: int):
        self._census = census
        self._newest = recipe.dedup.url_keep == "newest"
        self._sources = sources
        self._count = count

    def __call__(self, payload: int, outbox: Outbox) -> Mapping[str, Any]:
        census = self._census
        table = gathered(census.folders[0], ADDRESSES, self._sources, payload, self._count, ADDRESS)
        if self._newest:
            minute = column(table, "minute")
            newest = {"minute": np.where(minute < UNKNOWN, -minute, minute), "quality": np.zeros(len(table))}
            table = pa.table({name: table[name] for name in ADDRESS.names} | newest, schema=ADDRESS)
        table = table.take(order_of(table, census.own))
        document, key, check = (column(table, name) for name in ("document", "key", "check"))
        rank = np.lexsort((check, key))  # stable: within a URL the order stays
        first = firsts(key[rank], check[rank])
        later = ~first & (document[rank] < census.own)
        lead = rank[leads(first)][later]
        found = pa.table(
            {"document": document[rank][later], "url": document[lead], "url_of": table["id"].take(lead)},
            schema=OF_URL,
        )
        with Dealer(outbox.file(ADDRESSED, len(found), ".arrow"), OF_URL, len(census.groups)) as dealer:
            dealer.add(found, census.group_of(column(found, "document")))
        return {"copies": len(found)}


def of_url(census: Census, sources: Sequence[str], group: int) -> pa.Table:
    """What AddressedWorker found of a group's documents."""
    return gathered(census.folders[0], ADDRESSED, sources, group, len(census.groups), OF_URL)


class MemberWorker:
    """Sends the members of clusters, with their rank, to where their component was verified."""

    def __init__(self, census: Census, recipe: CurateRecipe, verified: Sequence[str], addressed: Sequence[str]):
        self._census = census
        self._ranker = _Ranker(census, recipe)
        self._verified = verified
        self._addressed = addressed

    def __call__(self, payload: int, outbox: Outbox) -> Mapping[str, Any]:
        census, folder = self._census, self._census.folders[0]
        found = [gathered(folder, CLUSTERS, [key], payload, len(census.groups), CLUSTERED) for key in self._verified]
        clustered = pa.concat_tables([CLUSTERED.empty_table(), *found]).combine_chunks()
        partition = np.repeat(np.arange(len(found)), [len(one) for one in found])
        document = column(clustered, "document")
        url_of = of_url(census, self._addressed, payload)
        with Dealer(outbox.file(MEMBERS, len(clustered), ".arrow"), MEMBER, max(1, len(found))) as dealer:
            for part in census.groups[payload]:
                mine = np.flatnonzero(part.holds(document))
                if len(mine):
                    known = {"dup.url_of": spread(url_of, "url_of", part, "")} if not part.run else None
                    ranked = self._ranker.ranked(part, 1, known).take(document[mine] - part.first)
                    rows = clustered.take(mine)
                    table = ranked.append_column("node", rows["node"]).append_column("root", rows["root"])
                    dealer.add(table, partition[mine])
        return {"members": len(clustered)}


def spread(table: pa.Table, name: str, part: Part, missing: Any) -> pa.Array:
    """One entry for each document of a part: what `table` says of it, or `missing`."""
    document = column(table, "document")
    rows = np.flatnonzero(part.holds(document))
    at = np.full(part.documents, -1, np.int64)
    at[document[rows] - part.first] = rows
    taken = table[name].combine_chunks().take(pa.array(at, mask=at < 0))
    return taken if missing is None else taken.fill_null(missing)


class ChooseWorker:
    """Names, for the members of the clusters of one partition, the document that stays in their place."""

    def __init__(self, census: Census, groups: Sequence[str], count: int):
        self._census = census
        self._groups = groups
        self._count = count

    def __call__(self, payload: tuple[int, str], outbox: Outbox) -> Mapping[str, Any]:
        partition, key = payload
        census, folder = self._census, self._census.folders[0]
        members = gathered(folder, MEMBERS, self._groups, partition, self._count, MEMBER)
        with folder.open(f"{PAIRS}/{key}.parquet") as file:
            pairs = pq.read_table(file, columns=["left", "right", "jaccard"])
        members = members.take(order_of(members, census.own))
        chosen = choose(members, pairs, census.own)
        with Dealer(outbox.file(CHOSEN, len(chosen), ".arrow"), CHOICE, len(census.groups)) as dealer:
            dealer.add(chosen, census.group_of(column(chosen, "document")))
        named = chosen.append_column("id", members.filter(pc.less(members["document"], census.own))["id"])
        return {"members": len(chosen), **_clusters(named, census)}


def _clusters(chosen: pa.Table, census: Census) -> dict[str, Any]:
    """How many clusters there are of each size, by the least of a range of sizes; and the largest, to be looked at."""
    found = chosen.group_by("cluster").aggregate([("size", "max")])
    ranked = found.sort_by([("size_max", "descending"), ("cluster", "ascending")]).slice(0, LARGEST).to_pylist()
    sizes: dict[str, dict[str, int]] = {}
    for size, count in zip(*np.unique(column(found, "size_max"), return_counts=True), strict=True):
        least = size if size <= 4 else (1 << int(size - 1).bit_length() - 1) + 1  # 5 to 8, 9 to 16, ...
        one = sizes.setdefault(str(least), {"clusters": 0, "documents": 0})
        one["clusters"] += int(count)
        one["documents"] += int(count * size)
    largest = [
        {"cluster": row["cluster"], "size": row["size_max"], **_excerpt(chosen, row["cluster"], census)}
        for row in ranked
    ]
    return {"sizes": sizes, "largest": largest}


def _excerpt(chosen: pa.Table, cluster: str, census: Census) -> dict[str, Any]:
    """Of a cluster, the document that stands for most others, for how many, and it and the two least like it: their
    similarity, and where they are stored. What an earlier run kept is named only."""
    own = chosen.filter(pc.equal(chosen["cluster"], cluster))
    replaced = own.filter(pc.not_equal(own["near_of"], ""))
    standing = replaced.group_by(["near", "near_of"]).aggregate([("id", "count")])
    if not len(standing):
        return {"lead": None, "standing": 0, "members": []}
    order = [("id_count", "descending"), ("near_of", "ascending"), ("near", "ascending")]
    first = standing.sort_by(order).slice(0, 1).to_pylist()[0]
    others = replaced.filter(pc.equal(replaced["near"], first["near"]))
    others = others.sort_by([("similarity", "ascending"), ("id", "ascending")])
    shown = pa.concat_tables([own.filter(pc.equal(own["document"], first["near"])), others.slice(0, 2)]).to_pylist()
    members = []
    for row in shown:
        group = census.groups[int(census.group_of(np.array(row["document"])))]
        part = next(part for part in reversed(group) if part.first <= row["document"])
        place = {"unit": part.key, "row": row["document"] - part.first}
        members.append({"id": row["id"], "similarity": row["similarity"], **place})
    return {"lead": first["near_of"], "standing": first["id_count"], "members": members}


def choose(members: pa.Table, pairs: pa.Table, own: int) -> pa.Table:
    """What stands for each of this run's `members`, a MEMBER table in the order in which they would stay.

    `pairs` are verified: numbers of two nodes (`left`, `right`) and their similarity. A cluster is named after this
    run's documents alone: an earlier run's may have an id of this one.
    """
    document, node, root = (column(members, name) for name in ("document", "node", "root"))
    ids = members["id"].combine_chunks()
    nodes, first = np.unique(node, return_index=True)  # first: the member that would stay of each text
    rank = np.argsort(first)  # texts in the order of those members
    vertex = np.empty(len(nodes), np.int64)
    vertex[rank] = np.arange(len(nodes))
    best = first[rank]
    left, right = (vertex[np.searchsorted(nodes, column(pairs, name))] for name in ("left", "right"))
    starts, neighbours, values = _adjacency(left, right, column(pairs, "jaccard"), len(nodes))
    owner, similarity = _dominating(starts, neighbours, values, document[best] >= own)

    mine = vertex[np.searchsorted(nodes, node)]
    alone = mine == owner[mine]
    stays = best[owner[mine]]
    is_best = np.arange(len(members)) == best[mine]
    near = ~alone | ~is_best
    texts = ids.to_numpy(zero_copy_only=False).astype("U32")
    _, of_root, size = np.unique(root, return_inverse=True, return_counts=True)
    by_id = np.argsort(texts)
    by_id = by_id[document[by_id] < own]
    named, smallest = np.unique(of_root[by_id], return_index=True)
    names = np.zeros(len(size), texts.dtype)
    names[named] = texts[by_id][smallest]
    chosen = pa.table(
        {
            "document": document,
            "copy": document[best[mine]],
            "near": document[stays],
            "copy_of": pa.array(np.where(is_best, "", texts[best[mine]])),
            "near_of": pa.array(np.where(near, texts[stays], "")),
            "similarity": pa.array(np.where(alone, 1.0, similarity[mine]), mask=~near),
            "cluster": pa.array(names[of_root]),
            "size": pa.array(size[of_root]),
        },
        schema=CHOICE,
    )
    return chosen.filter(pa.array(document < own))


def _adjacency(
    left: np.ndarray, right: np.ndarray, values: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of `count` vertices: where each one's neighbours start, the neighbours, and the values of those edges."""
    ends, others = np.concatenate([left, right]), np.concatenate([right, left])
    rank = np.lexsort((others, ends))
    return np.searchsorted(ends[rank], np.arange(count + 1)), others[rank], np.concatenate([values, values])[rank]


@compiled
def _dominating(starts, neighbours, values, fixed):
    """For vertices in the order in which they would stay: the one that stands for each, and the value of that edge.

    A vertex stands for itself unless a neighbour does already; one that is `fixed` always does.
    """
    owner = np.full(len(fixed), -1, np.int64)
    similarity = np.ones(len(fixed), np.float64)
    for vertex in range(len(fixed)):
        if owner[vertex] >= 0 and not fixed[vertex]:
            continue
        owner[vertex] = vertex
        similarity[vertex] = 1.0
        for edge in range(starts[vertex], starts[vertex + 1]):
            neighbour = neighbours[edge]
            if owner[neighbour] < 0:
                owner[neighbour] = vertex
                similarity[neighbour] = values[edge]
    return owner, similarity
