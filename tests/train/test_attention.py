"""Attention against its definition: dense scores, masked and biased one by one."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tilth.train import device

device.enter()

from tilth.train.model.attention import Pattern, attend, flex, pieces, slopes  # noqa: E402

S = 37
DOCUMENTS = torch.tensor([[1] * 10 + [2] * 15 + [3] * 12, [1] * 1 + [2] * 30 + [0] * 6], dtype=torch.int32)


def dense(query, key, value, pattern, documents=None, slope=None):
    """The definition, with [s, s] scores."""
    group = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(group, dim=1) for each in (key, value))
    at, seen = torch.arange(query.shape[2])[:, None], torch.arange(key.shape[2])[None]
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if slope is not None:
        scores = scores + slope.view(1, -1, 1, 1) * (seen - at)
    allowed = (at >= seen) if pattern.causal else torch.ones_like(at >= seen)
    if pattern.window:
        allowed = allowed & (at - seen < pattern.window)
    allowed = allowed[None]
    if documents is not None:
        allowed = allowed & (documents[:, :, None] == documents[:, None]) & (documents != 0)[:, :, None]
    weights = scores.masked_fill(~allowed[:, None], -torch.inf).softmax(dim=-1)
    return weights.nan_to_num(0) @ value


def drawn(heads, groups, dtype=torch.float64, s=S):
    torch.manual_seed(0)
    return [torch.randn(2, n, s, 16, dtype=dtype, requires_grad=True) for n in (heads, groups, groups)]


CASES = [
    pytest.param(Pattern(causal, window, alibi), documents, id=f"{causal}-{window}-{alibi}-{documents}")
    for causal, window, alibi in [
        (True, None, False), (False, None, False), (True, 1, False), (True, 8, False), (True, 36, False),
        (True, 100, False), (True, None, True), (True, 8, True),
    ]
    for documents in (False, True)
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "documents"), CASES)
@pytest.mark.parametrize("groups", [4, 2, 1])
def test_attention_is_its_definition_and_so_are_its_gradients(pattern, documents, groups):
    inputs = drawn(4, groups)
    told = DOCUMENTS if documents else None
    slope = torch.tensor(slopes(4), dtype=torch.float64) if pattern.alibi else None
    found = attend(*inputs, pattern, told, slope)
    expected = dense(*inputs, pattern, told, slope)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad((found * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        rtol=1e-8, atol=1e-8,
    )  # fmt: skip


@pytest.mark.parametrize(("pattern", "documents"), CASES)
def test_the_kernel_for_gpus_gives_the_same(pattern, documents):
    inputs = [each.detach().float() for each in drawn(4, 2)]
    told = DOCUMENTS if documents else None
    slope = torch.tensor(slopes(4)) if pattern.alibi else None
    found = flex(*inputs, pattern, told, slope, 16**-0.5)
    torch.testing.assert_close(found, dense(*inputs, pattern, told, slope), rtol=1e-4, atol=1e-5)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that an operation made."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.numel())
        return out


@pytest.mark.parametrize("pattern", [Pattern(True), Pattern(True, 64), Pattern(True, None, True), Pattern(False)])
@pytest.mark.parametrize("documents", [False, True])
def test_nothing_is_as_large_as_all_pairs_of_positions(pattern, documents):
    s = 2048
    inputs = drawn(2, 2, torch.float32, s)
    told = (torch.arange(s) // 700 + 1).expand(2, s).int() if documents else None
    with Largest() as largest:
        attend(*inputs, pattern, told, torch.tensor(slopes(2)) if pattern.alibi else None).sum().backward()
    assert largest.elements < s * s / 4


def test_alibi_holds_at_long_distances_in_half_precision():
    inputs = [each.detach() for each in drawn(4, 4, torch.float32, 5000)]
    slope = torch.tensor(slopes(4))
    exact = attend(*inputs, Pattern(True, None, True), None, slope)
    half = attend(*[each.bfloat16() for each in inputs], Pattern(True, None, True), None, slope)
    assert (half.float() - exact).abs().max() < 0.05


def test_slopes_are_the_papers():
    assert slopes(8) == [2**-n for n in range(1, 9)]
    assert slopes(16)[:2] == [2**-0.5, 2**-1]
    assert slopes(12) == [*slopes(8), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]


def test_pieces_end_where_rows_and_documents_do():
    lengths, kept = pieces(torch.tensor([[1, 1, 2], [2, 2, 0]]))
    assert lengths == [2, 1, 2, 1]
    assert kept == [True, True, True, False]


def test_positions_are_turned_as_megatron_turns_them():
    from megatron.core.models.common.embeddings.rope_utils import _apply_rotary_pos_emb_bshd

    from tilth.train.model.on_cpu import rotate

    torch.manual_seed(0)
    for share in (16, 8):  # a part of a head may stay as it is
        values = torch.randn(7, 2, 3, 16, dtype=torch.float64, requires_grad=True)
        angles = torch.randn(7, 1, 1, share // 2, dtype=torch.float64).repeat(1, 1, 1, 2)
        found, expected = rotate(values, angles), _apply_rotary_pos_emb_bshd(values, angles)
        torch.testing.assert_close(found, expected)
        weight = torch.randn_like(expected)
        torch.testing.assert_close(
            torch.autograd.grad((found * weight).sum(), values), torch.autograd.grad((expected * weight).sum(), values)
        )
