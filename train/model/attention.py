"""Attention over torch's fused kernels: causal or not, by document, in a window, with ALiBi.

`attend` is a function of tensors; `CoreAttention` is what Megatron-core's layers call. What they pass as a mask is here
the number of each position's document [b, s], so that no [s, s] tensor is made: on a CPU documents are attended one by
one and windows in blocks; on a GPU flex attention skips what is masked.
"""

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from megatron.core import parallel_state, tensor_parallel
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from .on_cpu import CausalAttention

STEP = 256  # integers up to which bfloat16 holds exactly: positions are given in two parts


class Pattern(NamedTuple):
    """Who sees whom, beside documents."""

    causal: bool
    window: int | None = None  # a token sees itself and window - 1 before it
    alibi: bool = False


def slopes(heads: int) -> list[float]:
    """ALiBi's slope of each head (Press et al. 2022, section 3): a geometric sequence from 2^(-8/n) for n heads; where
    n is no power of two, that of the power below, and every other one of twice that power."""
    power = 2 ** int(math.log2(heads))
    first = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    return first + [2 ** (-4 * (head + 1) / power) for head in range(0, 2 * (heads - power), 2)]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: Pattern,
    documents: Tensor | None = None,
    slope: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """[b, heads, s, d] of queries [b, heads, s, d] over keys and values [b, groups, s, d].

    `documents` int[b, s]: positions of another number do not see each other, those of 0 see and are seen by nothing and
    get zeros; a document's positions stand together. `slope` float[heads]: ALiBi's, for the heads given. Scores are
    scaled by 1 / sqrt(d).
    """
    scale = query.shape[-1] ** -0.5
    if query.is_cuda and (documents is not None or pattern.window):
        return flex(query, key, value, pattern, documents, slope, scale)
    width = value.shape[-1]
    if slope is not None:
        query, key, value = with_positions(query, key, value, slope, scale)
    run = functools.partial(_plain_or_banded, pattern=pattern, scale=scale, dropout=dropout)
    if documents is None:
        return run(query, key, value)[..., :width]
    return _by_document(run, query, key, value, documents)[..., :width]


def with_positions(
    query: Tensor, key: Tensor, value: Tensor, slope: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """ALiBi without a bias: as a row's softmax does not change by a constant, slope x (j - i) may be slope x j, and
    that is a product of two more dimensions of query and key. j is given as j // 256 and j % 256, both exact in
    bfloat16. The width grows by 8, with zeros, since fused kernels want a multiple of it, and values of the same.
    """
    b, heads, s, _ = query.shape
    by_head = (slope / scale).to(query.dtype).view(1, heads, 1, 1).expand(b, heads, s, 1)
    at = torch.arange(key.shape[2], device=key.device)
    parts = torch.stack([at // STEP, at % STEP], dim=-1).to(key.dtype).expand(b, key.shape[1], -1, 2)
    return (
        F.pad(torch.cat([query, by_head * STEP, by_head], dim=-1), (0, 6)),
        F.pad(torch.cat([key, parts], dim=-1), (0, 6)),
        F.pad(value, (0, 8)),
    )


def _plain_or_banded(
    query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, scale: float, dropout: float
) -> Tensor:
    """[b, heads, s, d] without documents."""
    options: dict[str, Any] = {"scale": scale, "dropout_p": dropout, "enable_gqa": query.shape[1] != key.shape[1]}
    window, s = pattern.window, query.shape[2]
    if not window or s <= window:
        if pattern.causal and not pattern.alibi and not dropout and not query.is_cuda:
            return CausalAttention.apply(query, key, value, scale)
        return F.scaled_dot_product_attention(query, key, value, is_causal=pattern.causal, **options)
    whole = pattern._replace(window=None)
    first = _plain_or_banded(query[:, :, :window], key[:, :, :window], value[:, :, :window], whole, scale, dropout)
    # every further block of queries sees its own block of keys and the one before: a band, the same for each
    blocks = -(-s // window)
    query, key, value = (F.pad(each, (0, 0, 0, blocks * window - s)) for each in (query, key, value))
    inner = query[:, :, window:].unflatten(2, (blocks - 1, window))
    doubled = [each.unfold(2, 2 * window, window).transpose(-1, -2) for each in (key, value)]
    at = torch.arange(window, device=query.device)[:, None]
    seen = torch.arange(2 * window, device=query.device)[None]
    band = (seen > at) & (seen <= at + window)
    rows = [each.transpose(1, 2).flatten(0, 1) for each in (inner, *doubled)]  # [b x blocks, heads, window, d]
    rest = F.scaled_dot_product_attention(*rows, attn_mask=band, **options)
    rest = rest.unflatten(0, (-1, blocks - 1)).transpose(1, 2).flatten(2, 3)
    return torch.cat([first, rest], dim=2)[:, :, :s]


def _by_document(run: Any, query: Tensor, key: Tensor, value: Tensor, documents: Tensor) -> Tensor:
    """`run` for each document by itself."""
    lengths, kept = pieces(documents)
    b, _, s, _ = query.shape
    # [heads, b x s, d], cut along the positions; one backward puts the pieces together again
    cut = [each.transpose(0, 1).flatten(1, 2).split(lengths, dim=1) for each in (query, key, value)]
    done = [
        run(q[None], k[None], v[None])[0] if keep else v.new_zeros(q.shape[0], q.shape[1], v.shape[2])
        for q, k, v, keep in zip(*cut, kept, strict=True)
    ]
    return torch.cat(done, dim=1).unflatten(1, (b, s)).transpose(0, 1)


def pieces(documents: Tensor) -> tuple[list[int], list[bool]]:
    """Lengths of the runs of one document over all rows of int[b, s], and whether each is one (0 is none)."""
    flat = documents.flatten()
    starts = torch.ones_like(flat, dtype=torch.bool)
    starts[1:] = flat[1:] != flat[:-1]
    starts[:: documents.shape[1]] = True
    places = starts.nonzero().flatten()
    lengths = torch.diff(places, append=torch.tensor([len(flat)], device=flat.device))
    return lengths.tolist(), (flat[places] != 0).tolist()


def flex(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: Pattern,
    documents: Tensor | None,
    slope: Tensor | None,
    scale: float,
) -> Tensor:
    """`attend` by flex attention: one kernel, compiled, that leaves out the blocks in which nothing is seen."""
    from torch.nn.attention.flex_attention import flex_attention

    mask = _blocks(_Key(documents), pattern, query.shape[0], query.shape[2], query.device)

    def steeper(score: Tensor, _: Tensor, head: Tensor, at: Tensor, seen: Tensor) -> Tensor:
        assert slope is not None
        return score + slope[head] * (seen - at)

    kernel = _compiled(flex_attention) if query.is_cuda else flex_attention
    out = kernel(
        query,
        key,
        value,
        score_mod=steeper if slope is not None else None,
        block_mask=mask,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out if documents is None else out.masked_fill((documents == 0)[:, None, :, None], 0)


class _Key:
    """A tensor as a key: equal while it is the same memory, unchanged. All layers of a step share one mask."""

    def __init__(self, tensor: Tensor | None):
        self.tensor = tensor
        self._at = None if tensor is None else (tensor.data_ptr(), tensor._version, tuple(tensor.shape))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._at == other._at

    def __hash__(self) -> int:
        return hash(self._at)


@functools.lru_cache(maxsize=4)  # holds the documents too, so that their memory is not given to others meanwhile
def _blocks(key: _Key, pattern: Pattern, b: int, s: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    documents = key.tensor

    def sees(row: Tensor, _: Tensor, at: Tensor, seen: Tensor) -> Tensor:
        allowed = at >= seen if pattern.causal else at >= 0
        if pattern.window:
            allowed = allowed & (at - seen < pattern.window)
        return allowed if documents is None else allowed & (documents[row, at] == documents[row, seen])

    return create_block_mask(sees, b if documents is not None else None, None, s, s, device=device)


@functools.cache
def _compiled(kernel: Any) -> Any:
    return torch.compile(kernel, dynamic=False)


class CoreAttention(MegatronModule):
    """What Megatron-core's attention layers call between the projections."""

    def __init__(
        self, config: Any, layer_number: int, attn_mask_type: AttnMaskType, attention_type: str,
        window: int | None = None, alibi: bool = False, **_: Any,
    ):  # fmt: skip
        super().__init__(config=config)
        self._pattern = Pattern(attn_mask_type == AttnMaskType.causal, window, alibi)
        self._cross = attention_type == "cross"
        heads = slopes(config.num_attention_heads) if alibi else []
        self.register_buffer("slopes", torch.tensor(self._of_this_rank(heads)), persistent=False)

    @staticmethod
    def _of_this_rank(heads: Sequence[float]) -> Sequence[float]:
        size = parallel_state.get_tensor_model_parallel_world_size()
        share = len(heads) // size
        rank = parallel_state.get_tensor_model_parallel_rank()
        return heads[rank * share : (rank + 1) * share]

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None, *_: Any,
        attention_bias: Tensor | None = None, **__: Any,
    ) -> Tensor:  # fmt: skip
        """[s, b, heads x d] of queries [s, b, heads, d], keys and values [s, b, groups, d], documents int[b, s]."""
        query, key, value = (each.permute(1, 2, 0, 3) for each in (query, key, value))
        dropout = self.config.attention_dropout if self.training else 0.0
        # each tensor rank drops other weights: its heads are others; sequence parallelism has seen to that already
        tracker: Any = tensor_parallel.get_cuda_rng_tracker()
        fork = tracker.fork() if dropout and not self.config.sequence_parallel else contextlib.nullcontext()
        with fork, torch.profiler.record_function("attention"):  # which profile.py looks for
            if self._cross or attention_bias is not None:
                out = self._biased(query, key, value, documents, attention_bias, dropout)
            else:
                slope: Any = self.slopes if self._pattern.alibi else None
                out = attend(query, key, value, self._pattern, documents, slope, dropout)
        return out.permute(2, 0, 1, 3).flatten(2)

    def _biased(
        self, query: Tensor, key: Tensor, value: Tensor, documents: Tensor | None, bias: Tensor | None, dropout: float
    ) -> Tensor:
        """T5's: a learned bias for each distance, keys of padding left out."""
        mask = bias
        if self._pattern.causal and bias is not None:
            size = bias.shape[-2:]
            mask = bias.masked_fill(torch.ones(size, dtype=torch.bool, device=bias.device).triu(1), -torch.inf)
        if documents is not None:
            # a row that is all padding sees it: a softmax over nothing is no number
            padding = ((documents == 0) & (documents != 0).any(dim=1, keepdim=True))[:, None, None]
            mask = ~padding if mask is None else mask.masked_fill(padding, -torch.inf)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, enable_gqa=query.shape[1] != key.shape[1]
        )
