"""Training on a CPU, two threads: tokens per second beside plain torch and stock Megatron-core, start and checkpoints.

    python benchmarks/train_step.py [--only step parallel start] [--rounds 3] [--steps 2]

step      a LLaMA-like decoder of 31.2 million parameters: 8 layers, hidden 512, 8 heads over 4 of keys and values, ffn
          1344, vocabulary 8192, sequences of 512, 2 micro-batches of 4 a step; AdamW, gradients clipped at 1. float32
          with products of precision highest and medium, and bfloat16, where plain torch has two ways and its better one
          counts. Each measurement in a process of its own, the allocator tuned for all; medians of rounds, whose
          order turns. A ratio is the median of the rounds' ratios, with the smallest and the largest behind it.
parallel  the same model over two processes of one thread: TP 2, PP 2, DP 2; bfloat16.
start     `tilth train run` with the recipe tiny on random tokens, from the command to its first step; and what writing
          a checkpoint of the 31 million parameters takes.

Use it on a quiet machine. All of it takes about ten minutes, step eight of them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PEERS = Path(__file__).parent / "peers"
PARTS = ("step", "parallel", "start")
VOCABULARY = 8192
# glibc keeps large blocks instead of giving them back and taking them anew in each step: 3 to 4% for plain torch
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36), "MALLOC_TOP_PAD_": str(2**26)}
MODEL = "model={layers: 8, hidden: 512, heads: 8, kv_heads: 4, ffn: 1344, vocab_size: 8192, max_length: 512}"


class Way(NamedTuple):
    """One contestant in one precision."""

    who: str
    script: str
    precision: str  # as the script has it
    matmul: str = "highest"


WAYS = {
    "float32, highest": [Way(who, f"{who}_step.py", "fp32") for who in ("tilth", "plain", "megatron_stock")],
    "float32, medium": [Way(who, f"{who}_step.py", "fp32", "medium") for who in ("tilth", "plain", "megatron_stock")],
    "bfloat16": [
        Way("tilth", "tilth_step.py", "bf16"),
        Way("plain", "plain_step.py", "autocast"),
        Way("plain", "plain_step.py", "bf16"),
        Way("megatron_stock", "megatron_stock_step.py", "bf16"),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="timed in each process, after one to warm up")
    arguments = parser.parse_args()
    for name in arguments.only:
        for line in globals()[name](arguments):
            print(line, flush=True)


def step(arguments: argparse.Namespace) -> Iterator[str]:
    """The table, row by row."""
    heads = "".join(f"{head:>18}" for head in ("tilth", "plain torch", "stock Megatron", "to plain", "to stock"))
    yield f"{'tokens per second':<18}{heads}"
    for precision, ways in WAYS.items():
        found: dict[Way, list[float]] = {way: [] for way in ways}
        for number in range(arguments.rounds):
            for way in ways if number % 2 == 0 else reversed(ways):
                found[way].append(measured(way, arguments.steps)["tokens_per_second"])
        best: dict[str, list[float]] = {}
        for way, speeds in found.items():
            best[way.who] = max(best.get(way.who, [0.0]), speeds, key=statistics.median)
        row = "".join(f"{spread(speeds):>18}" for speeds in best.values())
        ratios = "".join(f"{paired(best['tilth'], best[who]):>18}" for who in ("plain", "megatron_stock"))
        yield f"{precision:<18}{row}{ratios}"


def parallel(arguments: argparse.Namespace) -> Iterator[str]:
    """Two processes, and one with two threads beside them."""
    way = WAYS["bfloat16"][0]
    alone = measured(way, arguments.steps)["tokens_per_second"]
    yield f"{'two processes':<18}{'tokens per second':>18}{'to one process':>18}"
    yield f"{'1 x 2 threads':<18}{alone:>18,.0f}{1:>18.3f}"
    for name in ("tensor", "pipeline", "data-parallel"):
        found = measured(way, arguments.steps, f"--{name}=2", threads=1)["tokens_per_second"]
        yield f"{name:<18}{found:>18,.0f}{found / alone:>18.3f}"


def start(_: argparse.Namespace) -> Iterator[str]:
    """Seconds of `tilth train run` as a user waits for them."""
    with tempfile.TemporaryDirectory() as folder:
        data = random_shards(Path(folder, "data"), 300_000)
        firsts = [first_step(data, Path(folder, f"tiny-{attempt}")) for attempt in range(2)]
        yield f"start to first step: {statistics.median(firsts):.1f} s ({min(firsts):.1f} to {max(firsts):.1f})"
        run = Path(folder, "checkpoints")
        settings = [MODEL, "batch={size: 8, micro: 4, length: 512}", "steps=3", "checkpoint.every=1"]
        subprocess.run(command(data, run, "precision=bf16", *settings), check=True, stdout=subprocess.DEVNULL)
        writes = [event["seconds"] for event in lines(run / "events.jsonl") if event.get("event") == "checkpoint"]
        steps = [line["step_seconds"] for line in lines(run / "metrics.jsonl") if "step_seconds" in line]
        size = max(sum(file.stat().st_size for file in at.rglob("*")) for at in (run / "checkpoints").glob("step-*"))
        write, one = statistics.median(writes), statistics.median(steps)
        share = write / (100 * one + write)
        yield f"a checkpoint of {size / 1e6:.0f} MB: {write:.2f} s, a step {one:.2f} s; one in 100 steps: {share:.2%}"


def measured(way: Way, steps: int, *more: str, threads: int = 2) -> dict[str, Any]:
    """What one process tells of its steps."""
    command = [sys.executable, str(PEERS / way.script), f"--precision={way.precision}", f"--matmul={way.matmul}"]
    command += [f"--threads={threads}", f"--steps={steps}", *more]
    environ = os.environ | ALLOCATOR | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def spread(speeds: Sequence[float]) -> str:
    """The median, and how far the rounds lie apart."""
    off = (max(speeds) - min(speeds)) / 2 / statistics.median(speeds)
    return f"{statistics.median(speeds):,.0f} ±{off:.1%}"


def paired(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The median of the rounds' ratios, the smallest and the largest. A machine's speed drifts by more than what is
    told apart here: only what was measured one after the other compares."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.2f}-{max(ratios):.2f})"


def command(data: Path, output: Path, *settings: str) -> list[str]:
    program = [
        sys.executable,
        "-m",
        "tilth.cli.main",
        "train",
        "run",
        f"--data={data}",
        f"--output={output}",
        "--quiet",
    ]
    return [*program, *(f"--set={each}" for each in ("validation.share=0", *settings))]


def first_step(data: Path, run: Path) -> float:
    """Seconds from the command to the first line of its metrics."""
    begun, metrics = time.time(), run / "metrics.jsonl"
    asked = command(data, run, "model={preset: tiny, vocab_size: 8192}", "steps=50")
    process = subprocess.Popen(asked, stdout=subprocess.DEVNULL)
    try:
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(asked)} ended with {process.returncode} before its first step")
            time.sleep(0.01)
        return time.time() - begun
    finally:
        process.kill()
        process.wait()


def random_shards(folder: Path, count: int) -> Path:
    """So many random tokens as one of Megatron's pairs of files, in documents of 1,000."""
    folder.mkdir()
    lengths = np.full(count // 1000, 1000, np.int32)
    np.random.default_rng(0).integers(0, VOCABULARY, lengths.sum(), dtype=np.uint16).tofile(folder / "random.bin")
    with open(folder / "random.idx", "wb") as file:
        file.write(b"MMIDIDX\x00\x00" + (1).to_bytes(8, "little") + bytes([8]))  # version 1, uint16
        file.write(len(lengths).to_bytes(8, "little") + (len(lengths) + 1).to_bytes(8, "little"))
        lengths.tofile(file)
        (2 * (np.cumsum(lengths, dtype=np.int64) - lengths)).tofile(file)
        np.arange(len(lengths) + 1, dtype=np.int64).tofile(file)
    return folder


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
