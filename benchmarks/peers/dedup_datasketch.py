"""INPUT.jsonl OUTPUT: a plain loop with datasketch, whose signatures are tilth's: 112 values of 64 bits in 14 bands."""

import sys

from datasketch import MinHash, MinHashLSH
from dedup_loop import BANDS, PERMUTATIONS, ROWS, deduplicate, shingles

EMPTY = MinHash(PERMUTATIONS, scheme="affine64")


def sign(text: str) -> MinHash:
    signature = EMPTY.copy()
    signature.update_batch([shingle.encode() for shingle in shingles(text)])
    return signature


if __name__ == "__main__":
    deduplicate(*sys.argv[1:], sign, MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, ROWS)))
