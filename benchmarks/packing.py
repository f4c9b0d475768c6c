"""What padding costs, and what packing saves: shares of padding, and tokens lost, of four ways to make samples.

    python benchmarks/packing.py

First the example that packing is for: batches whose longest document has 1000 tokens, and whose mean is 200. Then a
million web pages, in samples of 2048 tokens. Lengths alone are used, no text.
"""

import time
from collections.abc import Callable

import numpy as np

from tilth.train.data.pack import Bins, Figures, best_fit, bounds, bucketed, concatenated, padded

CLASSES = 8  # of length


def main() -> None:
    best_fit(np.array([1]), 1)  # compiled before the clock runs
    report("batches of 64, longest 1000 tokens, mean 200", batches(), 1000)
    report("web pages", pages(), 2048)


def batches() -> np.ndarray:
    """A thousand batches of 64 documents, each with the lengths 1000 * (i / 64)^4.21 for i = 1 to 64: 1000 tokens the
    longest, 200 the mean. Padded to its longest, a batch is padded to 1000."""
    batch = np.maximum(1, np.rint(1000 * (np.arange(1, 65) / 64) ** 4.21)).astype(np.int64)
    return np.random.default_rng(0).permuted(np.tile(batch, (1000, 1)), axis=1).ravel()


def pages() -> np.ndarray:
    """A million lengths, lognormal as those of web pages about are: median 450 tokens, mean 820, 8% beyond 2048."""
    return np.maximum(1, np.random.default_rng(0).lognormal(np.log(450), 1.1, 10**6)).astype(np.int64)


def report(name: str, lengths: np.ndarray, length: int) -> None:
    print(f"{name}: {len(lengths):,} documents, {lengths.sum():,} tokens, mean {lengths.mean():.0f}, ", end="")
    print(f"longest {lengths.max():,}; samples of {length}")
    print(f"  {'':<22}{'samples':>12}{'padding':>10}{'tokens lost':>13}{'documents cut':>15}{'seconds':>10}")
    ways: dict[str, Callable[[], Bins | Figures]] = {
        "padded": lambda: padded(lengths, length),
        f"{CLASSES} length classes": lambda: bucketed(lengths, bounds(lengths, length, CLASSES)),
        "packed best-fit": lambda: best_fit(lengths, length),
        "concatenated and cut": lambda: concatenated(lengths, length),
    }
    for way, make in ways.items():
        began = time.perf_counter()
        made = make()
        seconds = time.perf_counter() - began
        figures = made.figures if isinstance(made, Bins) else made
        lost, cut = figures.lost / lengths.sum(), figures.cut / len(lengths)
        shares = f"{figures.padding_share:>10.3%}{lost:>13.2%}{cut:>15.2%}"
        print(f"  {way:<22}{figures.samples:>12,}{shares}{seconds:>10.3f}")


if __name__ == "__main__":
    main()
