"""Which of several documents that say the same stays: the best, then the earliest, then that of the smallest id."""

import numpy as np
import pyarrow as pa

from ..run import Run
from .census import Part

_MINUTE = 60 * 10**6
_FIRST = 10_519_200  # 1990-01-01 in minutes since 1970
UNKNOWN = 2**26 - 1  # in 2117; where no time is known


def minutes(timestamps: pa.ChunkedArray) -> np.ndarray:
    """int64[n]: minutes since 1990; UNKNOWN where the time is unknown."""
    values = timestamps.cast(pa.int64()).fill_null(2**62).to_numpy()
    return np.clip(values // _MINUTE - _FIRST, 0, UNKNOWN)


def qualities(run: Run, part: Part, label: str | None) -> np.ndarray:
    """float64[n]: the quality label of a part's documents; 0 without a label, minus infinity where it is null."""
    if label is None or part.run:
        return np.zeros(part.documents)
    values = run.table(part.key, [label])[label].cast(pa.float64()).to_numpy()
    return np.where(np.isnan(values), -np.inf, values)


def order_keys(earlier: bool, quality: np.ndarray, when: np.ndarray, ids: list[str]) -> np.ndarray:
    """uint64[n], ascending in the order in which documents would stay, as far as 64 bits tell.

    A bit for those of earlier runs, 16 for quality (as a bfloat16), 26 for the minute, 21 for the beginning of the id.
    """
    bits = quality.astype(np.float32).view(np.uint32)
    ascending = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)) >> 16
    key = np.full(len(ids), 0 if earlier else 1, np.uint64)
    key = key << np.uint64(16) | (np.uint32(0xFFFF) - ascending).astype(np.uint64)
    key = key << np.uint64(26) | when.astype(np.uint64)
    return key << np.uint64(21) | np.array([int(one[:8], 16) >> 11 for one in ids], np.uint64)


def unjudged_order(run: Run, part: Part, quality: str | None) -> np.ndarray:
    """uint64[n]: the order of a part's documents, whatever rules say of them."""
    labels = run.table(part.key, ["id", "timestamp"])
    ids = labels["id"].to_pylist()
    return order_keys(part.run > 0, qualities(run, part, quality), minutes(labels["timestamp"]), ids)
