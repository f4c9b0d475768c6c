"""Numbers for documents: 0, 1, ... through the units of a run in the order of their keys, then on through earlier runs.

Passes speak of documents by these numbers, which sort and pack better than ids; what a run leaves behind names ids.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from tilth.storage import Folder
from tilth.work import Unit

from ..run import Run
from .shuffle import MOST_PARTITIONS

GROUP_DOCUMENTS = 100_000
GROUP_BYTES = 64 * 2**20  # of text


class Part(NamedTuple):
    """One unit of the first pass of some run, and the numbers of its documents: first, first + 1, ..."""

    run: int  # place of the run in `Census.folders`
    key: str
    first: int
    documents: int
    bytes: int  # of their text

    def holds(self, numbers: np.ndarray) -> np.ndarray:
        """bool[n]: the document is one of this part's."""
        return (numbers >= self.first) & (numbers < self.first + self.documents)


class Census(NamedTuple):
    """All documents that are looked at. Those numbered `own` and higher are earlier runs': what they kept stays."""

    folders: tuple[Folder, ...]  # this run's, then those of earlier runs
    groups: tuple[tuple[Part, ...], ...]  # parts in order, together about GROUP_DOCUMENTS or GROUP_BYTES
    own: int  # documents of this run
    documents: int
    bytes: int

    @classmethod
    def of(cls, run: Run, earlier: Sequence[Run] = ()) -> "Census":
        parts: list[Part] = []
        own = 0
        for place, one in enumerate((run, *earlier)):
            for key, record in sorted(one.documents.items()):
                first = parts[-1].first + parts[-1].documents if parts else 0
                if record["counts"]["documents"]:
                    counts = record["counts"]
                    parts.append(Part(place, key, first, counts["documents"], counts["document_bytes"]))
            if place == 0:
                own = sum(part.documents for part in parts)
        documents, size = sum(part.documents for part in parts), sum(part.bytes for part in parts)
        folders = tuple(one.folder for one in (run, *earlier))
        return cls(folders, _grouped(parts, documents, size), own, documents, size)

    def units(self, all_runs: bool = False) -> list[Unit]:
        """A unit for each group, whose payload is its number; without `all_runs` those of this run only."""
        chosen = [index for index, group in enumerate(self.groups) if all_runs or group[0].run == 0]
        return [Unit(f"group-{index:05d}", index, sum(part.bytes for part in self.groups[index])) for index in chosen]

    def group_of(self, numbers: np.ndarray) -> np.ndarray:
        """int64[n]: the group of each document."""
        firsts = np.array([group[0].first for group in self.groups], np.int64)
        return np.searchsorted(firsts, numbers, side="right") - 1

    def span(self, group: int) -> tuple[int, int]:
        """The numbers [low, high) of a group's documents."""
        last = self.groups[group][-1]
        return self.groups[group][0].first, last.first + last.documents


def kept(run: Run, key: str) -> np.ndarray:
    """bool a document of that unit: the run kept it."""
    with run.opened(f"decisions/{key}.parquet") as file:
        return pq.read_table(file, columns=["kept"])["kept"].to_numpy()


def _grouped(parts: list[Part], documents: int, size: int) -> tuple[tuple[Part, ...], ...]:
    """Groups do not mix runs; they grow with the whole, so that there are never more than some thousand."""
    most_documents = max(GROUP_DOCUMENTS, documents // MOST_PARTITIONS)
    most_bytes = max(GROUP_BYTES, size // MOST_PARTITIONS)
    groups: list[list[Part]] = []
    held = bytes_held = 0
    for part in parts:
        full = held + part.documents > most_documents or bytes_held + part.bytes > most_bytes
        if not groups or full or part.run != groups[-1][0].run:
            groups.append([])
            held = bytes_held = 0
        groups[-1].append(part)
        held, bytes_held = held + part.documents, bytes_held + part.bytes
    return tuple(map(tuple, groups))
