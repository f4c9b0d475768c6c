"""Documents with one key: equal texts, or one canonical URL. Keys are dealt by range, and a range is sorted in memory.

A range holds about PARTITION documents, 110 bytes each while it is sorted, whatever there are in all; those of one key
are not divided.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tilth.work import Outbox

from ..run import Run
from .census import Census, Part, kept
from .order import unjudged_order
from .shuffle import Dealer, column, gathered, ranges

KEYS, COPIES = "dedup/keys", "dedup/exact"
PARTITION = 2_000_000  # documents

KEYED = pa.schema([("key", pa.uint64()), ("check", pa.uint64()), ("order", pa.uint64()), ("document", pa.int64())])
COPY = pa.schema([("a", pa.int64()), ("b", pa.int64())])  # a copy, and its node


class KeyWorker:
    """Deals the text keys of one group of documents."""

    def __init__(self, census: Census, quality: str | None, count: int):
        self._census = census
        self._runs = [Run(folder) for folder in census.folders]
        self._quality = quality
        self._count = count

    def __call__(self, payload: int, outbox: Outbox) -> Mapping[str, Any]:
        place = outbox.file(KEYS, 0, ".arrow")
        with Dealer(place, KEYED, self._count) as dealer:
            for part in self._census.groups[payload]:
                table = keyed(self._runs[part.run], part, self._quality)
                dealer.add(table, ranges(column(table, "key"), self._count))
        return {"documents": dealer.rows}


def keyed(run: Run, part: Part, quality: str | None) -> pa.Table:
    """The text keys of one part's documents that have one; of an earlier run's, those that it kept."""
    texts = run.table(part.key, ["dup.exact"])["dup.exact"].fill_null("").to_pylist()
    order = unjudged_order(run, part, quality)
    present = np.array([bool(text) for text in texts], bool)
    if part.run:
        present &= kept(run, part.key)
    chosen = np.flatnonzero(present)
    key, check = halves([texts[index] for index in chosen.tolist()])
    return pa.table({"key": key, "check": check, "order": order[chosen], "document": part.first + chosen}, schema=KEYED)


def halves(keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Keys of 32 hex digits as two uint64[n]."""
    both = np.frombuffer(bytes.fromhex("".join(keys)), ">u8").astype(np.uint64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


class CopyWorker:
    """Finds equal texts in one range of keys: each but the first in order, with that first one as its node."""

    def __init__(self, census: Census, sources: Sequence[str], count: int):
        self._census = census
        self._sources = sources
        self._count = count

    def __call__(self, payload: int, outbox: Outbox) -> Mapping[str, Any]:
        folder = self._census.folders[0]
        table = gathered(folder, KEYS, self._sources, payload, self._count, KEYED)
        key, check, order, document = (column(table, name) for name in KEYED.names)
        rank = np.lexsort((document, order, check, key))
        first = firsts(key[rank], check[rank])
        node = document[rank][leads(first)]
        copies = pa.table({"a": document[rank][~first], "b": node[~first]}, schema=COPY)
        place = outbox.file(COPIES, len(copies), ".arrow")
        with Dealer(place, COPY, len(self._census.groups)) as dealer:
            dealer.add(copies, self._census.group_of(column(copies, "a")))
        return {"copies": len(copies)}


def firsts(*keys: np.ndarray) -> np.ndarray:
    """bool[n]: where sorted keys change, the beginning among them."""
    change = np.ones(len(keys[0]), bool)
    change[1:] = False
    for key in keys:
        change[1:] |= key[1:] != key[:-1]
    return change


def leads(first: np.ndarray) -> np.ndarray:
    """int64[n]: where the run of equal keys begins that each place belongs to."""
    return np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))
