"""Losses of tokens: against their definition, and with the vocabulary split over ranks."""

import pytest
import torch
import torch.nn.functional as F
from ranks import regroup, spawn

VOCAB, S, B = 96, 70, 3


def drawn(dtype=torch.float32):
    torch.manual_seed(0)
    return (3 * torch.randn(S, B, VOCAB)).to(dtype), torch.randint(0, VOCAB, (B, S)), torch.rand(B, S)


def losses_and_gradient(case):
    """With the vocabulary over as many ranks as there are."""
    import torch.distributed as dist

    from tilth.train.loss import token_losses
    from tilth.train.parallel import ParallelOptions

    world = dist.get_world_size()
    regroup(ParallelOptions(tensor=world))
    logits, labels, weights = drawn(case)
    share = VOCAB // world
    part = logits[..., dist.get_rank() * share :][..., :share].clone().requires_grad_()
    losses = token_losses(part + 0, labels)
    (losses * weights).sum().backward()
    parts = [None] * world
    dist.all_gather_object(parts, part.grad)
    return losses.detach(), torch.cat(parts, dim=-1)


@pytest.mark.parametrize("world", [1, 2])
def test_losses_are_the_definitions_however_the_vocabulary_is_split(world):
    for dtype, (losses, gradient) in zip(
        (torch.float32, torch.bfloat16), spawn(world, losses_and_gradient, [torch.float32, torch.bfloat16]), strict=True
    ):
        logits, labels, weights = drawn(dtype)
        logits = logits.float().requires_grad_()
        expected = F.cross_entropy(logits.permute(1, 2, 0), labels, reduction="none")
        (expected * weights).sum().backward()
        torch.testing.assert_close(losses, expected.detach(), rtol=1e-6, atol=1e-6)
        room = 1e-6 if dtype == torch.float32 else 4e-3
        torch.testing.assert_close(gradient.float(), logits.grad, rtol=room, atol=room)
