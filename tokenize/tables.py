"""What the hash tables of compiled code are made of: hashes of bytes and of pairs, comparison, growth."""

import numpy as np

from ..curate.dedup.shingle import compiled

SHIFT = np.uint64(32)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: odd, and its bits are evenly spread


@compiled
def spread(key):
    """A hash of a uint64, for slots of a table."""
    value = key * _MULTIPLIER
    return value ^ (value >> SHIFT)


@compiled
def hash_bytes(text, start, end):
    """A hash (uint64) of the bytes in that range. Every step is a bijection of the hash so far and of the byte."""
    value = np.uint64(end - start)
    for position in range(start, end):
        value = spread(value ^ np.uint64(text[position]))
    return value


@compiled
def same_bytes(text, start, other, begin, length):
    """Whether so many bytes of two arrays are the same, from `start` of the one and `begin` of the other on."""
    for offset in range(length):  # noqa: SIM110 (numba knows no generators)
        if text[start + offset] != other[begin + offset]:
            return False
    return True


@compiled
def longer(array, size):
    """A copy with room for `size` values; those that are new may be anything."""
    copy = np.empty(size, array.dtype)
    copy[: len(array)] = array
    return copy
