"""OUT SHAPE...: what the logs of gpu.sh come to."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from step import arguments, shape_of

from tilth.train import device
from tilth.train.model.options import ModelOptions
from tilth.train.sizes import flops_per_token


def main() -> None:
    folder = Path(sys.argv.pop(1))
    shape = shape_of(arguments(str(__doc__)))
    print((folder / "machine.log").read_text().strip())
    for line in (folder / "parts.txt").read_text().splitlines():
        name, code, seconds = line.split()
        print(f"{name:<22}{'ok' if code == '0' else f'FAILED ({code})':<14}{seconds:>4} s")
    cpu, gpu = (told(folder / f"agree-{where}.log") for where in ("cpu", "gpu"))
    if cpu and gpu:
        off = max(abs(one - other) for one, other in zip(cpu["losses"], gpu["losses"], strict=True))
        print(f"CPU and GPU: losses of {len(cpu['losses'])} steps differ by {off:.1e} at most (1e-3 is allowed)")
    found = {each: told(folder / f"speed-{each}.log") for each in ("tilth", "plain-compile", "plain-eager")}
    if not any(found.values()):
        return
    device.enter()
    rate = max(device.matmul_rate(torch.bfloat16, size) for size in (4096, 8192))
    print(f"bfloat16 matrix products: {rate / 1e12:.1f} TFLOP/s measured")
    model = ModelOptions(
        layers=shape.layers, hidden=shape.hidden, heads=shape.heads, kv_heads=shape.kv_heads, ffn=shape.ffn,
        vocab_size=shape.vocab, max_length=shape.length,
    )  # fmt: skip
    each_token = flops_per_token(model, shape.length)
    for name, numbers in found.items():
        if numbers:
            speed = numbers["tokens_per_second"]
            share = speed * each_token / rate
            memory = numbers.get("gpu_peak_mb", 0) / 1024
            print(f"{name:<16}{numbers['millions']:>8,.0f}M{speed:>12,.0f} tokens/s  MFU {share:.1%}  {memory:.1f} GiB")
    if found["tilth"] and found["plain-compile"]:
        ratio = found["tilth"]["tokens_per_second"] / found["plain-compile"]["tokens_per_second"]
        print(f"tilth to compiled plain torch: {ratio:.3f}")


def told(log: Path) -> dict[str, Any] | None:
    """The JSON line at the end of a log, if there is one."""
    lines = log.read_text().splitlines() if log.exists() else []
    return next((json.loads(line) for line in reversed(lines) if line.startswith("{")), None)


if __name__ == "__main__":
    main()
