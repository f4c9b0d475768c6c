"""A LLaMA-like decoder's training step in plain torch, written by hand to be fast; prints one JSON line.

Fused attention, norms and AdamW; the gate and the up projection in one product, query, key and value in another.
--precision fp32; autocast: bfloat16 by torch's autocast over float32 weights; bf16: bfloat16 weights, with a float32
copy that the optimizer works on. --mode compile: the model and its loss go through torch.compile.
"""

from typing import Any

import torch
import torch.nn.functional as F
from step import BETAS, CLIP, EPS, LEARNING_RATE, WEIGHT_DECAY, Shape, arguments, batches, shape_of, timed
from torch import Tensor, nn


def rotation(length: int, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, width] of rotary positions; the sine's first half is negative, see `rotated`."""
    angles = torch.outer(torch.arange(length), 10_000.0 ** (-torch.arange(0, width, 2) / width))
    return torch.cat([angles.cos(), angles.cos()], -1), torch.cat([-angles.sin(), angles.sin()], -1)


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    return torch.addcmul(x * cosine, x.roll(x.shape[-1] // 2, -1), sine)


class Layer(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape, self.width = shape, shape.hidden // shape.heads
        self.attention_norm, self.feed_norm = (nn.RMSNorm(shape.hidden, EPS) for _ in range(2))
        self.qkv = nn.Linear(shape.hidden, (shape.heads + 2 * shape.kv_heads) * self.width, bias=False)
        self.out = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.gate_up = nn.Linear(shape.hidden, 2 * shape.ffn, bias=False)
        self.down = nn.Linear(shape.ffn, shape.hidden, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        heads, groups = self.shape.heads, self.shape.kv_heads
        mixed = self.qkv(self.attention_norm(x)).unflatten(-1, (heads + 2 * groups, self.width)).transpose(1, 2)
        both, value = mixed.split([heads + groups, groups], dim=1)
        query, key = rotated(both, cosine, sine).split([heads, groups], dim=1)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=heads != groups)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.feed_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    cosine: Tensor
    sine: Tensor

    def __init__(self, shape: Shape):
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, EPS)
        self.head = nn.Linear(shape.hidden, shape.vocab, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                outputs = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, 0, 0.02 / (2 * shape.layers) ** 0.5 if outputs else 0.02)
        for name, values in zip(("cosine", "sine"), rotation(shape.length, shape.hidden // shape.heads), strict=True):
            self.register_buffer(name, values, persistent=False)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """The mean loss."""
        x = self.embedding(tokens)
        cosine, sine = (
            each.to(torch.bfloat16 if torch.is_autocast_enabled(x.device.type) else x.dtype)
            for each in (self.cosine, self.sine)
        )
        for layer in self.layers:
            x = layer(x, cosine, sine)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1).float(), labels.flatten())


class Master:
    """AdamW over a float32 copy of bfloat16 weights."""

    def __init__(self, weights: list[nn.Parameter], **options: Any):
        self.weights = weights
        self.copies = [nn.Parameter(weight.detach().float()) for weight in weights]
        self.gradients = [torch.zeros_like(copy) for copy in self.copies]  # accumulated in float32
        for copy, gradient in zip(self.copies, self.gradients, strict=True):
            copy.grad = gradient
        self.optimizer = torch.optim.AdamW(self.copies, **options)

    def take(self) -> None:
        """Moves a micro-batch's gradients to the copies."""
        torch._foreach_add_(self.gradients, [weight.grad for weight in self.weights])
        for weight in self.weights:
            weight.grad = None

    def step(self) -> None:
        nn.utils.clip_grad_norm_(self.copies, CLIP)
        self.optimizer.step()
        torch._foreach_copy_([weight.data for weight in self.weights], [copy.data for copy in self.copies])
        torch._foreach_zero_(self.gradients)


def main() -> None:
    modes: dict[str, Any] = {"choices": ("eager", "compile"), "default": "eager"}
    given = arguments(str(__doc__), mode=modes, device={"default": "cpu"})
    shape, device = shape_of(given), torch.device(given.device)
    torch.manual_seed(0)
    model = Decoder(shape).to(device)
    if given.precision == "bf16":
        model.to(torch.bfloat16)
    weights = list(model.parameters())
    options = {"lr": LEARNING_RATE, "betas": BETAS, "weight_decay": WEIGHT_DECAY, "fused": True}
    master = Master(weights, **options) if given.precision == "bf16" else None
    optimizer = None if master else torch.optim.AdamW(weights, **options)
    run = torch.compile(model) if given.mode == "compile" else model
    data = batches(shape, device)

    def step() -> float:
        total = torch.zeros((), device=device)
        for tokens in data:
            with torch.autocast(device.type, torch.bfloat16, enabled=given.precision == "autocast"):
                loss = run(tokens[:, :-1], tokens[:, 1:]) / shape.accumulate
            loss.backward()
            total += loss.detach()
            if master:
                master.take()
        if master:
            master.step()
        else:
            assert optimizer
            nn.utils.clip_grad_norm_(weights, CLIP)
            optimizer.step()
            optimizer.zero_grad()
        return float(total)

    millions = sum(weight.numel() for weight in weights) / 1e6
    timed(step, given, shape.tokens, millions=round(millions, 1), precision=given.precision, matmul=given.matmul)


if __name__ == "__main__":
    main()
