"""RMSNorm and LayerNorm for Megatron-core's specs, with and without sequence parallelism.

Megatron's own stand-in for torch's norms refuses sequence parallelism. All that is missing there is a mark on the
weights: their gradients have to be summed over the tensor ranks, each of which has seen a part of the sequence.
"""

from typing import Any

import torch


class Norm:
    """Builds the norm that `config.normalization` names; called as Megatron-core calls a norm's class."""

    def __new__(cls, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any) -> torch.nn.Module:
        kind = torch.nn.RMSNorm if config.normalization == "RMSNorm" else torch.nn.LayerNorm
        norm = kind(hidden_size, eps=eps, dtype=config.params_dtype)
        for weight in norm.parameters():
            weight.sequence_parallel = config.sequence_parallel  # pyright: ignore[reportAttributeAccessIssue]
        return norm
