"""Two kernels for CPUs, where the general ones leave time: causal attention, and rotary positions.

Both are what their names say, to rounding; GPUs have better ones. Measured by `benchmarks/train_step.py`.
"""

import math
from typing import Any

import torch
from torch import Tensor

BLOCK = 64  # rows of queries at a time: their scores stay in the cache


class CausalAttention(torch.autograd.Function):
    """Softmax attention in blocks of queries, each over the keys up to its end: half of the square is never computed.

    Nothing of the scores is kept: backward computes each block's again. Query heads that share a head of keys are rows
    of one product. Scores are rounded to the inputs' type before the softmax.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """[b, heads, s, d] of queries [b, heads, s, d], keys and values [b, groups, s, d]."""
        b, heads, s, d = query.shape
        groups = key.shape[1]
        query = (query * scale).reshape(b * groups, heads // groups, s, d)
        key, value = key.reshape(b * groups, s, d), value.reshape(b * groups, s, d)
        out = torch.empty_like(query)
        for start in range(0, s, BLOCK):
            stop = min(start + BLOCK, s)
            chances = _chances(query[:, :, start:stop], key[:, :stop], start)
            out[:, :, start:stop] = torch.bmm(chances, value[:, :stop]).view(b * groups, -1, stop - start, d)
        ctx.save_for_backward(query, key, value)
        ctx.scale, ctx.shapes = scale, ((b, heads, s, d), (b, groups, s, d))
        return out.view(b, heads, s, d)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value = ctx.saved_tensors
        n, rows, s, d = query.shape
        gradient = gradient.reshape(query.shape)
        to_query, to_key, to_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for start in range(0, s, BLOCK):
            stop = min(start + BLOCK, s)
            chances = _chances(query[:, :, start:stop], key[:, :stop], start)
            asked = query[:, :, start:stop].reshape(n, -1, d)
            given = gradient[:, :, start:stop].reshape(n, -1, d)
            to_value[:, :stop].baddbmm_(chances.transpose(1, 2), given)
            to_scores = torch.bmm(given, value[:, :stop].transpose(1, 2))
            to_scores = torch.ops.aten._softmax_backward_data(to_scores, chances, -1, chances.dtype)
            to_query[:, :, start:stop] = torch.bmm(to_scores, key[:, :stop]).view(n, rows, stop - start, d)
            to_key[:, :stop].baddbmm_(to_scores.transpose(1, 2), asked)
        queries, keys = ctx.shapes
        return to_query.mul_(ctx.scale).view(queries), to_key.view(keys), to_value.view(keys), None


def _chances(query: Tensor, key: Tensor, start: int) -> Tensor:
    """[n, rows x block, seen]: the softmax of a block of queries [n, rows, block, d], from position `start` on, over
    keys [n, seen, d]."""
    n, rows, block, d = query.shape
    scores = torch.bmm(query.reshape(n, rows * block, d), key.transpose(1, 2))
    later = torch.full((block, block), -math.inf, dtype=scores.dtype).triu_(1)
    scores.view(n, rows, block, -1)[..., start:].add_(later)
    return torch.softmax(scores, -1, out=scores)


class Rotation(torch.autograd.Function):
    """Turns pairs (x_i, x_{i + n}) of a head by an angle for each position: forth, and back in backward."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[s, b, heads, d] of the same; cos and sin [s, 1, 1, n], 2 n <= d: what is beyond is not turned."""
        ctx.save_for_backward(cos, sin)
        return _turned(values, cos, sin)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        return _turned(gradient, cos, -sin), None, None


def _turned(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out, n = torch.empty_like(values), cos.shape[-1]
    first, second = values[..., :n], values[..., n : 2 * n]
    torch.mul(first, cos, out=out[..., :n]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., n : 2 * n]).addcmul_(first, sin)
    out[..., 2 * n :] = values[..., 2 * n :]
    return out


class Angles:
    """The cosines and sines of Megatron-core's frequencies; those of the last ones asked for are kept, since all layers
    ask for the same."""

    def __init__(self) -> None:
        self._of: tuple[Tensor, torch.dtype] | None = None

    def __call__(self, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if self._of is None or self._of[0] is not frequencies or self._of[1] != dtype:
            half = frequencies[..., : frequencies.shape[-1] // 2]
            self._of = (frequencies, dtype)
            self._found = half.cos().to(dtype), half.sin().to(dtype)
        return self._found


_angles = Angles()


def rotate(values: Tensor, frequencies: Tensor, *_: Any, **__: Any) -> Tensor:
    """Megatron-core's `apply_rotary_pos_emb` for [s, b, heads, d] and frequencies [s, 1, 1, d'], whose halves are
    equal."""
    return Rotation.apply(values, *_angles(frequencies, values.dtype))
