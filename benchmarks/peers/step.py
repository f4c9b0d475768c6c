"""What every contestant of train_step.py shares: the shape, the batches, the clock, and the one line that it prints."""

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Shape(NamedTuple):
    """A LLaMA-like decoder and its batch. The default has 31.2 million parameters."""

    layers: int = 8
    hidden: int = 512
    heads: int = 8
    kv_heads: int = 4
    ffn: int = 1344
    vocab: int = 8192
    length: int = 512
    micro: int = 4  # sequences in a micro-batch
    accumulate: int = 2  # micro-batches in a step

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.length * self.micro * self.accumulate


LEARNING_RATE, WEIGHT_DECAY, BETAS, CLIP, EPS = 1e-3, 0.1, (0.9, 0.95), 1.0, 1e-5  # eps: of the norms


def arguments(description: str, **more: dict[str, Any]) -> argparse.Namespace:
    """Reads the command line, and sets this process's threads and the precision of float32 products."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16; plain_step.py: autocast too")
    parser.add_argument("--matmul", default="highest", help="of torch.set_float32_matmul_precision")
    parser.add_argument("--threads", type=int, default=2, help="0: as torch has it")
    parser.add_argument("--steps", type=int, default=3, help="timed, after --warm")
    parser.add_argument("--warm", type=int, default=1)
    parser.add_argument("--profile", type=int, default=0, help="prints so many rows of torch's profiler")
    for name, default in Shape()._asdict().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    for name, options in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **options)
    given = parser.parse_args()
    if given.threads:
        os.environ.setdefault("OMP_NUM_THREADS", str(given.threads))
    import torch

    if given.threads:
        torch.set_num_threads(given.threads)
    torch.set_float32_matmul_precision(given.matmul)
    return given


def shape_of(given: argparse.Namespace) -> Shape:
    return Shape(**{name: getattr(given, name) for name in Shape._fields})


def batches(shape: Shape, device: Any = "cpu") -> list[Any]:
    """A step's micro-batches of random tokens, int64[micro, length + 1] each: the same in every step."""
    import torch

    generator = torch.Generator().manual_seed(0)
    size = (shape.accumulate, shape.micro, shape.length + 1)
    return list(torch.randint(0, shape.vocab, size, generator=generator).to(device))


def timed(step: Callable[[], float], given: argparse.Namespace, tokens: int, **told: Any) -> None:
    """Runs `step`, which gives its loss and leaves nothing unfinished on the device, and prints what it took."""
    losses = [step() for _ in range(given.warm)]
    if given.profile:
        profiled(step, given.profile)
    walls, faults = [], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    cpu = time.process_time()
    for _ in range(given.steps):
        start = time.perf_counter()
        losses.append(step())
        walls.append(time.perf_counter() - start)
    used = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "tokens_per_second": round(tokens / statistics.median(walls), 1),
        "walls": [round(wall, 4) for wall in walls],
        "cpu_seconds": round((time.process_time() - cpu) / given.steps, 3),
        "page_faults": (used.ru_minflt - faults) // given.steps,
        "peak_mb": used.ru_maxrss // 1024,
        "losses": [round(loss, 5) for loss in losses],
    }
    import torch

    if torch.cuda.is_available():
        found["gpu_peak_mb"] = torch.cuda.max_memory_allocated() >> 20
    print(json.dumps({**told, **found}), flush=True)


def profiled(step: Callable[[], float], rows: int) -> None:
    """Prints where one step's time goes, to the standard error."""
    import sys

    import torch

    with torch.profiler.profile() as profiler:
        step()
    table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=rows, max_name_column_width=60)
    print(table, file=sys.stderr)
