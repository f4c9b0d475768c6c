"""INPUT.jsonl OUTPUT: a plain loop with rensa, 112 values of 32 bits in 14 bands."""

import sys

from dedup_loop import BANDS, PERMUTATIONS, deduplicate, shingles
from rensa import RMinHash, RMinHashLSH


def sign(text: str) -> RMinHash:
    signature = RMinHash(num_perm=PERMUTATIONS, seed=1)
    signature.update(list(shingles(text)))
    return signature


if __name__ == "__main__":
    index = RMinHashLSH(threshold=0.7, num_perm=PERMUTATIONS, num_bands=BANDS)
    deduplicate(*sys.argv[1:], sign, index)
