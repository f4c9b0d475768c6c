"""Which sample a training step reads: arithmetic on integers, with nothing stored and nothing drawn.

A plan is a row of segments, in each of which all steps are alike. `split` says of which pool a segment's sample is, and
which of that pool's samples in the segment; a `Visit` says where that is: in which epoch, in which of the pool's cells
(a cell is as long as the plan's longest sample), and which piece of the cell, where samples are shorter. The cells of
an epoch come in the order of a keyed permutation. All of it can be turned round: `joined`, `Visit.ordinal` and
`unpermuted` find the sample that reads a given place.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

_TURNS = [turn * 0xD1342543DE82EF95 for turn in range(6)]  # what the key grows by in each
_MASK = 2**64 - 1
_SMALLEST = 6  # bits of the smallest domain: fewer give the rounds too little to mix


class Segment(NamedTuple):
    """Steps that are alike."""

    stage: int  # index of the stage
    first: int  # the first of its steps
    steps: int
    size: int  # sequences in a step, over all ranks
    length: int  # tokens of a stored sample: what the objective wants for the model's length
    model_length: int  # tokens of a sequence, as the model reads it
    tokens: int  # seen before it, in the model's sequences: the clock of schedules
    counts: tuple[int, ...]  # samples of each pool; their sum is steps * size


class DataStep(NamedTuple):
    """The data of one step."""

    segment: int  # index into the plan's segments
    step: int  # within the segment, from 0


class Place(NamedTuple):
    """Where a sample stands in its pool."""

    epoch: int
    turn: int  # the cell's place in the order of the epoch
    piece: int  # of the cell


class Visit(NamedTuple):
    """What one segment reads of a pool: so many samples, from cell `first` on. Cells are counted through all epochs.

    Of each cell first the first piece is read, then of each the second, and so on, epoch by epoch: neighbours in a long
    cell do not stand in one batch.
    """

    first: int
    samples: int
    cells: int  # of one epoch
    pieces: int = 1  # samples in a cell

    @property
    def stop(self) -> int:
        """The first cell that is left to those who come later."""
        return self.first - -self.samples // self.pieces

    def place(self, ordinal: int) -> Place:
        """Where the sample of that number in the segment stands."""
        at, ahead = self.first, self.cells - self.first % self.cells  # cells that its first epoch still has
        if ordinal >= ahead * self.pieces:
            passed, ordinal = divmod(ordinal - ahead * self.pieces, self.cells * self.pieces)
            at += ahead + passed * self.cells
        epoch, turn = divmod(at, self.cells)
        piece, beyond = divmod(ordinal, min(self.cells - turn, self.stop - at))
        return Place(epoch, turn + beyond, piece)

    def ordinal(self, place: Place) -> int | None:
        """The number of the sample that stands there; None if the segment does not read it."""
        cell = place.epoch * self.cells + place.turn
        if not self.first <= cell < self.stop:
            return None
        begin = max(place.epoch * self.cells, self.first)
        width = min((place.epoch + 1) * self.cells, self.stop) - begin
        number = (begin - self.first) * self.pieces + place.piece * width + cell - begin
        return number if number < self.samples else None


def key_of(seed: int, pool: str, epoch: int) -> int:
    """The key of a pool's order in an epoch."""
    return xxh3_64_intdigest(f"{seed}\0{pool}\0{epoch}".encode("utf-8", "surrogatepass"))


# --- Which pool ------------------------------------------------------------------------------------------------------


def split(position: int, counts: Sequence[int]) -> tuple[int, int]:
    """The pool of a segment's sample, and the number of the sample in the pool, both from 0.

    Pools come as evenly as their numbers let them: the largest, of n in R samples, has had round(m n / R) of any first
    m, and what is left is shared out among the others in the same way. At the end each has had its number exactly.
    """
    left = sum(counts)
    if not 0 <= position < left:
        raise IndexError(f"sample {position} of a segment of {left}")
    for pool in _largest_first(tuple(counts)):
        count = counts[pool]
        had = _had(position, count, left)
        if _had(position + 1, count, left) > had:
            return pool, had
        position -= had
        left -= count
    raise AssertionError("every sample is of a pool")


def counted(position: int, counts: Sequence[int]) -> list[int]:
    """How many samples of each pool stand before a position."""
    left, found = sum(counts), [0] * len(counts)
    for pool in _largest_first(tuple(counts)):
        found[pool] = _had(position, counts[pool], left)
        position -= found[pool]
        left -= counts[pool]
    return found


def joined(pool: int, ordinal: int, counts: Sequence[int]) -> int:
    """The position of a pool's sample: `split` turned round."""
    left, before = sum(counts), []  # what is shared out before the pool, and among how many samples
    for other in _largest_first(tuple(counts)):
        if other == pool:
            break
        before.append((counts[other], left))
        left -= counts[other]
    position = -(-(2 * ordinal + 1) * left // (2 * counts[pool])) - 1
    for count, of in reversed(before):
        position = _other(position, count, of)
    return position


@lru_cache(maxsize=64)
def _largest_first(counts: tuple[int, ...]) -> list[int]:
    """Pools in the order in which they are shared out: small ones last, or all of them would come at the same time."""
    return sorted(range(len(counts)), key=lambda pool: -counts[pool])


def _had(position: int, count: int, of: int) -> int:
    return (2 * position * count + of) // (2 * of) if of else 0


def _other(ordinal: int, count: int, of: int) -> int:
    """The position of the sample that is the ordinal-th which is not the pool's."""
    low, high = ordinal, of - 1
    while low < high:
        middle = (low + high) // 2
        if middle + 1 - _had(middle + 1, count, of) > ordinal:
            high = middle
        else:
            low = middle + 1
    return low


# --- In which order --------------------------------------------------------------------------------------------------


def permuted(index: int, size: int, key: int) -> int:
    """Where a keyed permutation of range(size) puts `index`.

    A Feistel network over the next power of four, walked on until it falls below `size` (Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains", sections 3 and 5): fewer than four turns on average.
    """
    half = _half(size)
    while True:
        left, right = index >> half, index & (1 << half) - 1
        for turn in _TURNS:
            left, right = right, left ^ _mixed(right, key + turn, half)
        index = left << half | right
        if index < size:
            return index


def unpermuted(place: int, size: int, key: int) -> int:
    """The index that `permuted` puts at that place."""
    half = _half(size)
    while True:
        left, right = place >> half, place & (1 << half) - 1
        for turn in reversed(_TURNS):
            left, right = right ^ _mixed(left, key + turn, half), left
        place = left << half | right
        if place < size:
            return place


def _half(size: int) -> int:
    return (max((size - 1).bit_length(), _SMALLEST) + 1) // 2


def _mixed(value: int, key: int, half: int) -> int:
    """So many bits of a hash (the finalizer of splitmix64; Steele et al. 2014)."""
    mixed = value * 0x9E3779B97F4A7C15 + key & _MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
    return (mixed ^ mixed >> 31) >> (64 - half)
