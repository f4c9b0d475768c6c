"""First weights that do not depend on how a model is split.

A weight's values follow from the seed and its name alone: each rank draws the whole of a matrix, layer by layer, with a
generator of that name, and keeps its part. What its part is says the model's sharded state dict, the same description
that checkpoints are written from. Draws are the CPU's on every device, so that a laptop and a GPU begin alike.
"""

import math
import zlib
from collections.abc import Iterator
from typing import Any

import torch

OUTPUTS = ("linear_proj.weight", "linear_fc2.weight")  # what adds to the residual stream


def initialize(model: Any, seed: int, std: float, layers: int) -> None:
    """Fills the matrices of a model chunk with N(0, std), those that write to the residual stream with
    N(0, std / sqrt(2 layers)) (GPT-2's rule); biases are 0, and norms stay 1."""
    with torch.no_grad():
        for tensor in sharded(model):
            shape, offset = list(tensor.global_shape), list(tensor.global_offset)
            which, shape, offset = (
                offset[: tensor.prepend_axis_num], shape[tensor.prepend_axis_num :], offset[tensor.prepend_axis_num :],
            )  # fmt: skip
            if tensor.key.endswith(".bias"):
                tensor.data.zero_()
            if len(shape) < 2:
                continue
            generator = torch.Generator().manual_seed(seed_of(seed, f"{tensor.key} {which}"))
            deviation = std / math.sqrt(2 * layers) if tensor.key.endswith(OUTPUTS) else std
            whole = torch.empty(shape).normal_(0, deviation, generator=generator)
            part = tuple(slice(start, start + size) for start, size in zip(offset, tensor.local_shape, strict=True))
            tensor.data.copy_(whole[part].view_as(tensor.data))


def seed_of(seed: int, name: str) -> int:
    return (seed * 0x9E3779B1 + zlib.crc32(name.encode())) % 2**63


def sharded(model: Any) -> Iterator[Any]:
    """The ShardedTensors of a model chunk; each one's data is the parameter itself, or a view of a part of it."""
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories

    state = model.sharded_state_dict(prefix="")
    apply_factories(state)
    return (each for each in nested_values(state) if isinstance(each, ShardedTensor))
