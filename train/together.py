"""All ranks of a run doing something together: small values exchanged, and what fails on one rank raised on all."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from tilth.errors import TilthError

T = TypeVar("T")


class Together:
    """Every method is called by all ranks. Values travel through main memory, past the GPUs."""

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo") if dist.get_backend() != "gloo" else None
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def all(self, value: T) -> list[T]:
        """Every rank's value, in order."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def gathered(self, value: T) -> list[T] | None:
        """The same on rank 0; None elsewhere."""
        values: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(value, values, dst=0, group=self._group)
        return values

    def first(self, value: T) -> T:
        """Rank 0's value."""
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    def every(self, value: bool) -> bool:
        """Whether it is true on all ranks."""
        flag = torch.tensor(int(value))
        dist.all_reduce(flag, dist.ReduceOp.MIN, group=self._group)
        return bool(flag)

    def do(self, work: Callable[[], T]) -> T:
        """What `work` gives on this rank; where it fails on any, the first of the errors on all."""
        result, error = None, None
        try:
            result = work()
        except Exception as caught:
            error = caught
        told = self.all(None if error is None else _told(error, self.rank))
        if error is not None and not isinstance(error, TilthError):
            raise error
        for kind, message in filter(None, told):
            raise kind(message)
        return result  # pyright: ignore[reportReturnType]

    def on_first(self, work: Callable[[], T]) -> T | None:
        """The same, with work for rank 0 alone."""
        return self.do(lambda: work() if self.rank == 0 else None)


def _told(error: Exception, rank: int) -> tuple[type[Exception], str]:
    if isinstance(error, TilthError):
        return type(error), str(error)
    return RuntimeError, f"rank {rank}: {type(error).__name__}: {error}"
