"""Token shards as a source of samples: any step's, by any rank, without what was read before."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from ..plan import Known, Plan, visits
from .build import INDEX
from .order import DataStep, Place, joined, key_of, permuted, split, unpermuted
from .pools import HeldOut, pool_of
from .shards import Piece, Sample, Store


class TokenSource:
    """The samples of a plan, from the pools that were written into `folder` when the run was prepared.

    `sources` are the names that losses are told by. Nothing is read before a sample asks for it.
    """

    def __init__(self, folder: Path, plan: Plan, seed: int):
        about = orjson.loads((folder / INDEX).read_bytes())
        store = Store.opened(about["store"])
        self.sources: list[str] = about["sources"]
        self.plan, self._seed, self._store = plan, seed, store
        self.pools = [pool_of(store, each, folder) for each in about["pools"]]
        self.known = [known_of(each) for each in about["pools"]]
        self._visits = visits(plan.segments, self.known)
        self.held = HeldOut([pool_of(store, each, folder) for each in about["held"]], about["length"])

    def read(self, at: DataStep, slots: range) -> list[Sample]:
        """The samples of a step's slots."""
        length = self.plan.segments[at.segment].length
        return [self.pools[pool].sample(cell, piece, length) for pool, cell, piece, _ in self._places(at, slots)]

    def pieces(self, at: DataStep, slots: range) -> list[tuple[str, int, list[Piece]]]:
        """Of each slot the pool, the epoch (from 1), and the documents that it reads."""
        length = self.plan.segments[at.segment].length
        return [
            (self.known[pool].name, epoch + 1, self.pools[pool].pieces(cell, piece, length))
            for pool, cell, piece, epoch in self._places(at, slots)
        ]

    def reading(self, id_: str) -> Iterator[tuple[DataStep, int]]:
        """Where a document is read: the data of a step, and the slot in it."""
        spans = self._store.spans(id_)
        for number, segment in enumerate(self.plan.segments):
            for pool, visit in enumerate(self._visits[number]):
                if visit is None:
                    continue
                cells = {each for span in spans for each in self.pools[pool].found(*span, segment.length)}
                epochs = range(visit.first // visit.cells, -(-visit.stop // visit.cells))
                for epoch in epochs:
                    key = key_of(self._seed, self.known[pool].name, epoch)
                    for cell, piece in cells:
                        ordinal = visit.ordinal(Place(epoch, unpermuted(cell, visit.cells, key), piece))
                        if ordinal is not None:
                            step, slot = divmod(joined(pool, ordinal, segment.counts), segment.size)
                            yield DataStep(number, step), slot

    def held_out(self, most: int | None) -> HeldOut:
        """Samples that are never trained on; of each source there are at least `most`, or all."""
        return self.held

    def state(self) -> None:
        """Nothing: what a step reads follows from its number."""

    def load(self, state: dict[str, Any]) -> None:
        """Nothing to be done."""

    def close(self) -> None:
        """Nothing to be done."""

    def _places(self, at: DataStep, slots: range) -> Iterator[tuple[int, int, int, int]]:
        """Pool, cell, piece and epoch of each slot."""
        segment = self.plan.segments[at.segment]
        for slot in slots:
            pool, ordinal = split(at.step * segment.size + slot, segment.counts)
            visit = self._visits[at.segment][pool]
            assert visit is not None, "a sample of a pool is a visit to it"
            place = visit.place(ordinal)
            key = key_of(self._seed, self.known[pool].name, place.epoch)
            yield pool, permuted(place.turn, visit.cells, key), place.piece, place.epoch


def known_of(about: dict[str, Any]) -> Known:
    return Known(about["name"], about["cells"], about["length"], about["bucket"])
