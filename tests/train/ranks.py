"""Real ranks for tests: processes that form a group once and go through many cases, each with its own parallel sizes.

`spawn(world, work, cases)` returns what `work(case)` gave on rank 0 for each case.
"""

import os
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as processes

from tilth.train.data.shards import Sample


def spawn(world: int, work: Callable[[Any], Any], cases: Sequence[Any]) -> list[Any]:
    """`work` has to be importable; it is called with each case, on every rank, inside the process group."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        processes.spawn(_rank, (world, work, cases, folder), nprocs=world)  # pyright: ignore[reportPrivateImportUsage]
        return torch.load(Path(folder, "results"), weights_only=False)


def _rank(rank: int, world: int, work: Callable[[Any], Any], cases: Sequence[Any], folder: str) -> None:
    torch.set_num_threads(1)
    results = []
    try:
        import torch.distributed as dist

        from tilth.train import device

        device.enter()
        for number, case in enumerate(cases):
            # groups of their own each time: those of earlier cases would go on polling in their threads
            dist.init_process_group("gloo", init_method=f"file://{folder}/{number}", rank=rank, world_size=world)
            results.append(work(case))
            dist.barrier()
            dist.destroy_process_group()
        if rank == 0:
            torch.save(results, Path(folder, "results"))
    except Exception:
        traceback.print_exc()
        raise


def regroup(options: Any) -> None:
    """Megatron's groups for other parallel sizes; the earlier ones go, or their threads would go on polling."""
    import torch.distributed as dist
    from megatron.core import parallel_state

    from tilth.train import parallel

    parallel_state.destroy_model_parallel()
    for group in list(dist.distributed_c10d._world.pg_map):
        if group is not dist.group.WORLD:
            dist.destroy_process_group(group)
    parallel.groups(options)


class Drawn:
    """Samples drawn by their number: documents of several lengths, two sources."""

    sources = ("a", "b")

    def __init__(self, vocab: int, length: int):
        self.vocab, self.length = vocab, length

    def sample(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        tokens = rng.integers(0, self.vocab, self.length + 1)
        documents = 1 + (np.arange(self.length + 1) >= rng.integers(1, self.length)).astype(np.int32)
        return Sample(tokens, documents, index % 2)


def reading(source: Any, cut: Any, seed: int = 0) -> Callable[[int], Any]:
    """What a rank reads in a step: samples by number, one step's behind the other's."""
    from tilth.train.batches import Share

    def read(step: int) -> Any:
        numbers = [step * cut.size + slot for slot in cut.slots]
        return Share([source.sample(number) for number in numbers], [(seed, number) for number in numbers], cut.micro)

    return read


def batches_of(source: Any, arrays: Any, cut: Any, step: int) -> list[Any]:
    """The micro-batches of a step."""
    from tilth.train.batches import Batches

    with Batches(reading(source, cut), arrays) as batches:
        return batches.of_step(step)


def whole(chunks: Sequence[Any], of: Callable[[Any], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every rank's parts of what `of` gives for each parameter, put together by their global names and places."""
    import torch.distributed as dist

    from tilth.train.model.initial import sharded

    parts: dict[Any, Any] = {}
    for chunk in chunks:
        kept = {parameter: parameter.data for parameter in chunk.parameters()}
        for parameter in kept:
            parameter.data = of(parameter)
        for each in sharded(chunk):
            parts[each.key, tuple(each.global_offset)] = (
                each.data.clone().float(), tuple(each.global_shape), each.prepend_axis_num,
            )  # fmt: skip
        for parameter, data in kept.items():
            parameter.data = data
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, parts)
    result: dict[str, torch.Tensor] = {}
    for found in everyone:
        for (key, offset), (part, shape, axes) in found.items():
            full = result.setdefault(key, torch.full(shape, torch.nan))
            sizes = [1] * axes + list(part.shape)
            place = tuple(slice(start, start + size) for start, size in zip(offset, sizes, strict=True))
            full[place] = part.view(sizes)
    return result
