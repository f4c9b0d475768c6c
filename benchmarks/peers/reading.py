"""What every contestant of data.py shares: its options, the clock, and the one line that it prints."""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

POINTS = 10  # of the measured batches, at which memory is looked at


def arguments(description: str, **more: dict[str, Any]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=2048, help="tokens of a sequence")
    parser.add_argument("--size", type=int, default=16, help="sequences of a batch")
    parser.add_argument("--batches", type=int, default=1000, help="on the clock; 0: the first one is all")
    parser.add_argument("--warm", type=int, default=10, help="before them")
    parser.add_argument("--start", type=int, default=0, help="the first batch, where the source can begin there")
    parser.add_argument("--workers", type=int, default=0, help="processes of torch's DataLoader")
    for name, options in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **options)
    return parser.parse_args()


def timed(
    opened: Callable[[], Iterator[Mapping[str, Any]]], given: argparse.Namespace, told: Mapping[str, Any] | None = None
) -> None:
    """Opens a source, reads batches whose first tensor is the tokens [size, length], and prints what that took.

    `first` is from opening to having the first batch, what was built for it (an index) included, imports not.
    `memory` is MB of this process and those that it started, in the course of the clocked batches: private memory, so
    without the pages of mapped files, which the system takes back as it likes.
    """
    begun = time.perf_counter()
    batches = opened()
    shape = tuple(next(iter(next(batches).values())).shape)
    first = time.perf_counter() - begun
    if shape != (given.size, given.length):
        raise SystemExit(f"batches of {shape}, not of {given.size, given.length}")
    found = {**(told or {}), "first": round(first, 4)}
    if given.batches:
        for _ in range(given.warm):
            next(batches)
        memory, every = [], max(1, given.batches // POINTS)
        before, begun = cpu_seconds(), time.perf_counter()
        for number in range(given.batches):
            next(batches)
            if number % every == every - 1:
                memory.append(round(private_mb()))
        seconds = time.perf_counter() - begun
        tokens = given.batches * given.size * given.length
        found |= {"tokens_per_second": round(tokens / seconds), "memory": memory}
        found["tokens_per_cpu_second"] = round(tokens / (cpu_seconds() - before))
    print(json.dumps(found), flush=True)


def private_mb() -> float:
    """Memory of this process and all below it in MB (2**20), what is shared counted once."""
    kilobytes = 0
    for process in processes():
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                kilobytes += int(line.split()[1])
    return kilobytes / 1024


def cpu_seconds() -> float:
    """CPU time of this process and all below it."""
    fields = [(process / "stat").read_text().rpartition(")")[2].split() for process in processes()]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def processes() -> Iterator[Path]:
    """This process and all below it, in /proc."""
    waiting = [os.getpid()]
    while waiting:
        yield (process := Path("/proc", str(waiting.pop())))
        for thread in (process / "task").iterdir():
            waiting += map(int, (thread / "children").read_text().split())
