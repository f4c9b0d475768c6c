"""Every kind of attention on this machine's device in bfloat16 and float32 beside the CPU's in float64; ends with an
error where one differs, in its result or a gradient, by more than its number format allows."""

import itertools
import sys

import torch

from tilth.train import device

device.enter()

from tilth.train.model.attention import Pattern, attend, slopes  # noqa: E402

LENGTH, HEADS, GROUPS, WIDTH = 320, 4, 2, 64
LIMITS = {torch.float32: 2e-3, torch.bfloat16: 3e-2}  # of the largest value; float32 products may be TF32 on a GPU


def main() -> None:
    documents = torch.tensor([[1] * 100 + [2] * 150 + [3] * 70, [1] * 3 + [2] * 217 + [0] * 100], dtype=torch.int32)
    worst = 0.0
    for dtype, window, alibi, packed in itertools.product(LIMITS, (None, 64), (False, True), (None, documents)):
        pattern = Pattern(True, window, alibi)
        expected = tried(pattern, packed, torch.float64, torch.device("cpu"))
        found = tried(pattern, packed, dtype, device.here())
        off = max(
            float((one.cpu().double() - other).abs().max() / other.abs().max())
            for one, other in zip(found, expected, strict=True)
        )
        worst = max(worst, off / LIMITS[dtype])
        verdict = "ok" if off < LIMITS[dtype] else "WRONG"
        print(
            f"{verdict:<6}{dtype} window {window} alibi {alibi} documents {packed is not None}: {off:.1e}", flush=True
        )
    sys.exit(int(worst > 1))


def tried(
    pattern: Pattern, documents: torch.Tensor | None, dtype: torch.dtype, where: torch.device
) -> list[torch.Tensor]:
    """The result and the gradients of query, key and value."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, heads, LENGTH, WIDTH) for heads in (HEADS, GROUPS, GROUPS))
    inputs = [torch.randn(shape, generator=generator).to(where, dtype).requires_grad_() for shape in shapes]
    slope = torch.tensor(slopes(HEADS), device=where) if pattern.alibi else None
    out = attend(*inputs, pattern, None if documents is None else documents.to(where), slope)
    out.backward(torch.randn(out.shape, generator=generator).to(where, dtype))
    return [out.detach(), *(each.grad for each in inputs if each.grad is not None)]


if __name__ == "__main__":
    main()
