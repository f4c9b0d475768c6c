"""The micro-batches that a rank reads in a step: which samples, as tensors, made while the step before is computed."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch

from . import device
from .data.shards import Sample

Arrays = dict[str, np.ndarray]
MakeArrays = Callable[[Sequence[Sample], Sequence[tuple[int, ...]]], Arrays]
Batch = dict[str, Any]  # tensors by name, batch first


class Source(Protocol):
    """Samples by number: a pure function, so that any rank can read any step."""

    sources: list[str]

    def sample(self, index: int) -> Sample: ...


class Cut(NamedTuple):
    """How a global batch of `size` sequences falls to ranks and micro-batches: each rank has neighbouring ones."""

    size: int
    micro: int
    ranks: int
    rank: int

    def of_step(self, data_step: int) -> range:
        """Numbers of the samples that this rank reads in a step."""
        share = self.size // self.ranks
        first = data_step * self.size + self.rank * share
        return range(first, first + share)


class Batches:
    """Reads a step's micro-batches, and in a thread those of the next one.

    What a sample becomes depends on its number and the seed alone: not on ranks, micro-batches or when it is read.
    """

    def __init__(self, source: Source, arrays: MakeArrays, cut: Cut, seed: int):
        self._source, self._arrays, self._cut, self._seed = source, arrays, cut, seed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[list[Arrays]]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def of_step(self, data_step: int, then: int | None = None) -> list[Batch]:
        """The micro-batches of a step; those of step `then` are begun."""
        if self._next is None or self._next[0] != data_step:
            self._next = (data_step, self._thread.submit(self._read, data_step))
        made = self._next[1].result()
        self._next = None if then is None else (then, self._thread.submit(self._read, then))
        return [on_device(each) for each in made]

    def _read(self, data_step: int) -> list[Arrays]:
        numbers = self._cut.of_step(data_step)
        return cut_up(self._arrays, self._source, numbers, self._cut.micro, self._seed)


def cut_up(arrays: MakeArrays, source: Any, numbers: Iterable[int], micro: int, seed: int) -> list[Arrays]:
    """Arrays of so many samples at a time."""
    numbers = list(numbers)
    made = arrays([source.sample(number) for number in numbers], [(seed, number) for number in numbers])
    return [
        {name: each[first : first + micro] for name, each in made.items()} for first in range(0, len(numbers), micro)
    ]


def held_out(arrays: MakeArrays, source: Any, numbers: Sequence[int], cut: Cut, seed: int) -> list[Batch]:
    """This rank's micro-batches of those samples, equally many on every rank: what is filled up weighs nothing."""
    each = cut.micro * cut.ranks
    filled = [*numbers, *[numbers[0]] * (-len(numbers) % each)]
    share = len(filled) // cut.ranks
    mine = filled[cut.rank * share : (cut.rank + 1) * share]
    batches = [on_device(made) for made in cut_up(arrays, source, mine, cut.micro, seed)]
    for place in range(cut.rank * share, (cut.rank + 1) * share):
        if place >= len(numbers):
            batch, row = divmod(place - cut.rank * share, cut.micro)
            batches[batch]["weights"][row] = 0
    return batches


def on_device(arrays: Arrays) -> Batch:
    """Tensors of one micro-batch. Where each row is one document, whole, the model is not told of documents: attention
    has nothing to leave out."""
    tensors: Batch = {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in arrays.items()}
    for name in ("documents", "decoder_documents"):
        if name in arrays and (arrays[name] == 1).all():
            del tensors[name]
    here = device.here()
    return {name: each.to(here, non_blocking=True) for name, each in tensors.items()}
