"""The micro-batches that a rank reads in a step: which samples, as tensors, made while the step before is computed."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch

from . import device
from .data.order import DataStep
from .data.shards import Sample

Arrays = dict[str, np.ndarray]
MakeArrays = Callable[[Sequence[Sample], Sequence[tuple[int, ...]]], Arrays]
Batch = dict[str, Any]  # tensors by name, batch first


class Held(Protocol):
    """Samples that are never trained on, by number."""

    def numbers(self, most: int | None = None) -> list[int]: ...
    def sample(self, index: int) -> Sample: ...


class Source(Protocol):
    """The samples of a plan: what a step's slots hold is the same for any ranks, and whenever it is read."""

    sources: list[str]

    def held_out(self, most: int | None) -> Held: ...
    def read(self, at: DataStep, slots: range) -> list[Sample]: ...
    def state(self) -> dict[str, Any] | None: ...  # what a later start needs to read on; None: nothing
    def load(self, state: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


class Share(NamedTuple):
    """What a rank reads in a step."""

    samples: Sequence[Sample]
    seeds: Sequence[tuple[int, ...]]  # one a sample
    micro: int  # samples of a micro-batch
    state: Any = None  # of the source, once these are read


class Cut(NamedTuple):
    """How a global batch of `size` sequences falls to ranks and micro-batches: each rank has neighbouring ones."""

    size: int
    micro: int
    ranks: int
    rank: int

    @property
    def slots(self) -> range:
        share = self.size // self.ranks
        return range(self.rank * share, (self.rank + 1) * share)


class Batches:
    """Reads a step's micro-batches, and in a thread those of the next one.

    `read` gives the share of a step. What its samples become depends on their seeds alone: not on ranks, micro-batches
    or when they are read.
    """

    def __init__(self, read: Callable[[int], Share], arrays: MakeArrays):
        self._get, self._arrays = read, arrays
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[tuple[list[Arrays], Any, float]]] | None = None
        self.state: Any = None  # of the source, behind the step that was read last
        self.padding = 0.0  # share of that step's places that hold no token

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def of_step(self, step: int, then: int | None = None) -> list[Batch]:
        """The micro-batches of a step; those of step `then` are begun."""
        if self._next is None or self._next[0] != step:
            self._next = (step, self._thread.submit(self._read, step))
        made, self.state, self.padding = self._next[1].result()
        self._next = None if then is None else (then, self._thread.submit(self._read, then))
        return [on_device(each) for each in made]

    def forget(self) -> None:
        """Waits for what is being read, and leaves it."""
        if self._next is not None and not self._next[1].cancel():
            self._next[1].exception()
        self._next = self.state = None

    def _read(self, step: int) -> tuple[list[Arrays], Any, float]:
        share = self._get(step)
        made = self._arrays(share.samples, share.seeds)
        padding = float((made["documents"] == 0).mean()) if "documents" in made else 0.0
        return cut_up(made, share.micro), share.state, padding


def cut_up(arrays: Arrays, micro: int) -> list[Arrays]:
    """So many rows at a time."""
    rows = len(next(iter(arrays.values())))
    return [{name: each[at : at + micro] for name, each in arrays.items()} for at in range(0, rows, micro)]


def held_out(arrays: MakeArrays, held: Held, numbers: Sequence[int], cut: Cut, seed: int) -> list[Batch]:
    """This rank's micro-batches of those samples, equally many on every rank: what is filled up weighs nothing."""
    each = cut.micro * cut.ranks
    filled = [*numbers, *[numbers[0]] * (-len(numbers) % each)]
    mine = cut._replace(size=len(filled)).slots
    chosen = [filled[slot] for slot in mine]
    made = arrays([held.sample(number) for number in chosen], [(seed, number) for number in chosen])
    made["weights"][[slot >= len(numbers) for slot in mine]] = 0
    return [on_device(part) for part in cut_up(made, cut.micro)]


def on_device(arrays: Arrays) -> Batch:
    """Tensors of one micro-batch. Where each row is one document, whole, the model is not told of documents: attention
    has nothing to leave out."""
    tensors: Batch = {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in arrays.items()}
    for name in ("documents", "decoder_documents"):
        if name in arrays and (arrays[name] == 1).all():
            del tensors[name]
    here = device.here()
    return {name: each.to(here, non_blocking=True) for name, each in tensors.items()}
