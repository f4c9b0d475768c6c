"""Losses of tokens from a model's output, with the vocabulary split over ranks and never gathered."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

CACHED = 2**18  # logits that are worked on at once on a CPU


class Loss(NamedTuple):
    """What an objective makes of one micro-batch."""

    total: Tensor  # sum over the tokens that count; the loop divides by their number in the whole batch
    tokens: Tensor  # int: that number in this micro-batch
    rows: Tensor  # [b, 2]: each sequence's total and number, for the loss by source
    figures: Mapping[str, Tensor] = MappingProxyType({})  # further sums over tokens, shown as means


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """float32[b, s]: minus the log-probability of each label, from logits [s, b, rows / tensor] and labels [b, s].

    Backward writes the gradient over the logits: what else reads them has to do so before.
    """
    from megatron.core import parallel_state

    group, rank = None, 0
    if parallel_state.get_tensor_model_parallel_world_size() > 1:
        group, rank = parallel_state.get_tensor_model_parallel_group(), parallel_state.get_tensor_model_parallel_rank()
    flat = labels.t().flatten()
    losses = _TokenLosses.apply(logits.flatten(0, 1), flat - rank * logits.shape[-1], group)
    return losses.view(labels.shape[1], labels.shape[0]).t()


def log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """float32[b, s]: the log-probability of each label, as `token_losses` takes them."""
    return -token_losses(logits, labels)


def token_loss(logits: Tensor, batch: dict[str, Any]) -> Loss:
    """The loss of language models of every kind: `labels` [b, s] where `weights` [b, s] are 1."""
    weights = batch["weights"]
    losses = token_losses(logits, batch["labels"]) * weights
    rows = torch.stack([losses.detach().sum(dim=1), weights.sum(dim=1)], dim=1)
    return Loss(losses.sum(), weights.sum().int(), rows)


class _TokenLosses(torch.autograd.Function):
    """log(sum(exp(logits))) - logits[label] of each row, over the ranks of a group that share the vocabulary.

    Each rank finds the level, log(sum(exp)), of its own logits; from the largest of these and the sum the common one
    follows. With the label's logit, from the rank that has it, three numbers a row go between ranks. Rows are taken a
    few at a time, so that they stay in a CPU's cache and no copy of all logits is made; on a GPU all at once.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, group: Any) -> Tensor:
        """float32[n] of logits [n, rows of this rank] and labels [n], counted from this rank's first row."""
        at_once = len(logits) if logits.is_cuda else max(1, CACHED // logits.shape[1])
        own_level = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        for part, out in zip(logits.split(at_once), own_level.split(at_once), strict=True):
            first = part[:, 0].float()
            torch.sub(first, part.log_softmax(dim=1, dtype=torch.float32)[:, 0], out=out)  # one kernel for all of it
        here = (labels >= 0) & (labels < logits.shape[1])
        own = labels.where(here, 0)
        chosen = logits.gather(1, own[:, None])[:, 0].float().where(here, 0)
        level = own_level
        if group is not None:
            top = own_level.clone()
            torch.distributed.all_reduce(top, op=torch.distributed.ReduceOp.MAX, group=group)
            both = torch.stack([(own_level - top).exp_(), chosen])
            torch.distributed.all_reduce(both, group=group)
            level, chosen = top.add_(both[0].log_()), both[1]
        ctx.save_for_backward(logits, own, here, (own_level - level).exp_())
        ctx.at_once = at_once
        return level - chosen

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits, own, here, share = ctx.saved_tensors
        scale, taken = gradient * share, -gradient.where(here, 0)
        for part, label, factor, minus in zip(
            *(each.split(ctx.at_once) for each in (logits, own, scale, taken)), strict=True
        ):
            chances = torch.softmax(part, dim=1, dtype=torch.float32).mul_(factor[:, None])
            part.copy_(chances.scatter_add_(1, label[:, None], minus[:, None]))
        return logits, None, None
