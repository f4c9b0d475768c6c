"""Pools: the documents of one part of a mixture as cells, from which samples are cut; files, mapped into memory.

A cell is what the longest samples of a plan are: so many neighbouring tokens of the pool's documents, one behind the
other; or, where documents are packed, one bin of whole documents. Shorter samples are pieces of a cell. What a sample
lacks is padding. 16 bytes a document are all that is kept of them.
"""

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .shards import Piece, Sample, Store


class Columns(NamedTuple):
    """Pieces of documents, one behind the other."""

    begins: np.ndarray  # int64[pieces]: address of the first token
    stops: np.ndarray  # int64[pieces]: tokens of the pool up to the piece's end
    whole: np.ndarray | None = None  # int64[pieces]: tokens that are not padding; None: all of them
    labels: np.ndarray | None = None  # int32[pieces]: index into the sources, where the pool is of several
    starts: np.ndarray | None = None  # int64[bins + 1]: each bin's first piece; None: the pool is cut, not packed

    def save(self, stem: Path) -> None:
        """Writes what there is, a file each."""
        for name, column in self._asdict().items():
            if column is not None:
                np.save(f"{stem}.{name}.npy", column)

    @classmethod
    def load(cls, stem: Path) -> "Columns":
        """The same, mapped into memory."""
        places = {name: Path(f"{stem}.{name}.npy") for name in cls._fields}
        return cls(**{name: np.asarray(np.load(place, "r")) for name, place in places.items() if place.exists()})


class Pool:
    """The documents of one pool in cells of `length` tokens."""

    def __init__(self, store: Store, columns: Columns, length: int, source: int):
        self._store, self._length, self._source = store, length, source
        self._begins, self._stops, self._whole, self._labels, self._starts = columns

    @property
    def tokens(self) -> int:
        return int(self._stops[-1]) if len(self._stops) else 0

    @cached_property
    def cells(self) -> int:
        """In one epoch. The last one may end with padding, so that nothing is left out."""
        if self._starts is not None:
            return len(self._starts) - 1
        return max(-(-(self.tokens - 1) // self._length), 1) if self.tokens else 0

    def sample(self, cell: int, piece: int, length: int) -> Sample:
        """A piece of a cell: the tokens from piece * length to (piece + 1) * length, this one too."""
        first, stop = self._bounds(cell, piece, length)
        if first >= stop:
            return Sample(np.zeros(length + 1, np.int64), np.zeros(length + 1, np.int32), self._source)
        at, inner, counts = self._parts(first, stop)
        read = stop - first
        tokens = self._store.read(self._begins[at] + inner, counts)
        documents = np.repeat(np.arange(1, len(counts) + 1, dtype=np.int32), counts)
        if read <= length:
            tokens, documents = (np.pad(each, (0, length + 1 - read)) for each in (tokens, documents))
        if self._whole is not None:
            place = np.arange(read) + np.repeat(inner - np.cumsum(counts) + counts, counts)  # within its document
            documents[:read][place >= np.repeat(self._whole[at], counts)] = 0
        source = self._source if self._labels is None else int(self._labels[at.start])
        return Sample(tokens, documents, source)

    def pieces(self, cell: int, piece: int, length: int) -> list[Piece]:
        """What is in it, by the documents' names."""
        first, stop = self._bounds(cell, piece, length)
        if first >= stop:
            return []
        at, inner, counts = self._parts(first, stop)
        return self._store.pieces(self._begins[at] + inner, counts)

    def found(self, first: int, stop: int, length: int) -> Iterator[tuple[int, int]]:
        """Cells, and pieces of them of that length, that read a token of the addresses from `first` to `stop`."""
        counts = np.diff(self._stops, prepend=0)
        for at in np.flatnonzero((self._begins < stop) & (self._begins + counts > first)).tolist():
            behind = int(self._stops[at])
            ahead = behind - int(counts[at])
            for cell in self._cells_of(at, ahead, behind):
                begin, end = self._cell(cell)
                for piece in range(-(-self._length // length)):
                    low = begin + piece * length
                    if low < behind and min(low + length + 1, end) > max(ahead, low):
                        yield cell, piece

    def padding(self) -> int:
        """Places in an epoch's cells that hold no token."""
        missing = self.cells * self._length + self.cells * (self._starts is not None) - self.tokens
        if self._starts is None:
            missing += bool(self.cells)  # the last token of all is a target alone
        if self._whole is not None:
            missing += self.tokens - int(np.sum(self._whole))
        return max(missing, 0)

    def _cell(self, cell: int) -> tuple[int, int]:
        """Tokens of the pool that a cell reads: the first, and what is behind the last, which is a target alone."""
        if self._starts is None:
            return cell * self._length, min((cell + 1) * self._length + 1, self.tokens)
        first, stop = int(self._starts[cell]), int(self._starts[cell + 1])
        return (int(self._stops[first - 1]) if first else 0), int(self._stops[stop - 1])

    def _cells_of(self, at: int, first: int, stop: int) -> range:
        """Cells that have a token of a piece."""
        if self._starts is None:
            return range(max(first - 1, 0) // self._length, min((stop - 1) // self._length + 1, self.cells))
        cell = int(np.searchsorted(self._starts, at, side="right")) - 1
        return range(cell, cell + 1)

    def _bounds(self, cell: int, piece: int, length: int) -> tuple[int, int]:
        begin, end = self._cell(cell)
        first = begin + piece * length
        return first, min(first + length + 1, end)

    def _parts(self, first: int, stop: int) -> tuple[slice, np.ndarray, np.ndarray]:
        """Pieces that hold the tokens from `first` to before `stop`, at which of its tokens each is taken up, and how
        many are taken (int64)."""
        low = int(self._stops.searchsorted(first, "right"))
        at = slice(low, int(self._stops.searchsorted(stop - 1, "right")) + 1)
        stops = self._stops[at]
        begins = np.empty(len(stops), np.int64)
        begins[0], begins[1:] = (self._stops[at.start - 1] if at.start else 0), stops[:-1]
        inner = np.maximum(first - begins, 0)
        return at, inner, np.minimum(stops, stop) - begins - inner


class HeldOut:
    """Samples of the documents that are held out, source by source; each source's last one is padded, so that no token
    is left out."""

    def __init__(self, pools: "list[Pool]", length: int):
        self._pools, self._length = pools, length
        self._firsts = np.cumsum([0, *(pool.cells for pool in pools)])  # number of each pool's first sample, and of all
        self.tokens = sum(pool.tokens for pool in pools)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def numbers(self, most: int | None = None) -> list[int]:
        """The samples, source by source; of each source the first `most`."""
        bounds = self._firsts.tolist()
        return [
            number
            for first, stop in pairwise(bounds)
            for number in range(first, stop if most is None else min(stop, first + most))
        ]

    def sample(self, index: int) -> Sample:
        pool, cell = self._found(index)
        return pool.sample(cell, 0, self._length)

    def pieces(self, index: int) -> list[Piece]:
        pool, cell = self._found(index)
        return pool.pieces(cell, 0, self._length)

    def _found(self, index: int) -> tuple[Pool, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} held out")
        at = int(np.searchsorted(self._firsts, index, side="right")) - 1
        return self._pools[at], index - int(self._firsts[at])


def pool_of(store: Store, about: dict[str, Any], folder: Path) -> Pool:
    """The pool that an entry of the index tells of."""
    return Pool(store, Columns.load(folder / about["file"]), about["length"], about["source"])
