"""MinHash signatures, bit for bit those of `datasketch`, and the bands they are compared by.

The SHA-1 of all shingles of a document is computed at once, 64 of them side by side so that the compiler uses vector
instructions; so are the permutations. Measured on 19 MB of manuals and prose in four languages, one core with AVX-512:
97 MB/s from text to signature, 16 times a loop over datasketch's `update_batch`; with AVX2 63 MB/s. An English shingle
takes 60 ns: 30 for its tokens, 25 for SHA-1, 7 for 112 permutations.
"""

from typing import NamedTuple

import datasketch
import numpy as np
from datasketch.lsh import _optimal_param
from numba import njit

from tilth.errors import InputError

from .options import MinHashOptions
from .shingle import compiled, text_key, tokenise

_LANES = 64  # messages hashed side by side: their state, 42 KB, stays in the innermost cache
_PART = 2048  # hash values permuted at a time: 16 KB

# Rows of the SHA-1 state: 80 of the message schedule, then the history of the working variable a. The other four are
# earlier values of it: b one step back, c, d and e two to four steps back and rotated by 30 bits.
_HISTORY = 80
_ROWS = _HISTORY + 85
_INITIAL = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_FINALISERS = {  # of MurmurHash3: shift, multiplier, shift, multiplier, shift
    32: np.array([16, 0x85EBCA6B, 13, 0xC2B2AE35, 16], np.uint32),
    64: np.array([33, 0xFF51AFD7ED558CCD, 33, 0xC4CEB9FE1A85EC53, 33], np.uint64),
}


class Sketch(NamedTuple):
    """What the duplicates of a document are found by."""

    tokens: int
    text_key: str  # 32 hexadecimal digits, the same for texts of the same tokens; empty where there is no token
    signature: np.ndarray | None  # uint64[permutations] or uint32[permutations]; None where there is no token


class Sketcher:
    """Makes the sketches of documents, with the permutations that datasketch draws."""

    def __init__(self, options: MinHashOptions) -> None:
        self._options = options
        empty = datasketch.MinHash(options.permutations, seed=options.seed, scheme=options.scheme)
        self._multipliers, self._increments = np.asarray(empty.permutations)

    def __call__(self, text: str) -> Sketch:
        """The sketch of a text; any string will do."""
        tokens = tokenise(text, self._options)
        if not tokens.size:
            return Sketch(0, "", None)
        hashes = sha1_hashes(tokens.buffer, *tokens.shingles(self._options.ngram), self._options.bits)
        signature = _minima(hashes, _FINALISERS[self._options.bits], self._multipliers, self._increments)
        return Sketch(tokens.size, text_key(tokens), signature)


def opened(signature: np.ndarray, options: MinHashOptions) -> datasketch.MinHash:
    """A stored signature as datasketch's object."""
    return datasketch.MinHash(seed=options.seed, hashvalues=signature, scheme=options.scheme)


def bands_and_rows(threshold: float, permutations: int) -> tuple[int, int]:
    """How many bands of how many rows tell best the pairs whose Jaccard similarity is at least the threshold from the
    others: datasketch's optimiser, bands * rows <= permutations. Pairs are verified, so that one compared in vain costs
    time only: one that is missed weighs nine times as much."""
    return _optimal_param(threshold, permutations, 0.1, 0.9)


def candidate_probability(jaccard: float, bands: int, rows: int) -> float:
    """How probably a pair of this Jaccard similarity agrees in a whole band: 1 - (1 - J^rows)^bands."""
    return 1 - (1 - jaccard**rows) ** bands


def curve(bands: int, rows: int) -> list[tuple[float, float]]:
    """Jaccard similarity, from 0.3 to 1 by 0.05, and the probability that such a pair becomes a candidate."""
    return [(step / 20, candidate_probability(step / 20, bands, rows)) for step in range(6, 21)]


def band_keys(signatures: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """uint64[documents, bands] of the signatures [documents, permutations]: a hash of each band's number and values.
    Signatures that agree in all rows of a band have the same key there. Needs bands * rows <= permutations."""
    if bands * rows > signatures.shape[1]:
        raise InputError(
            f"{bands} bands of {rows} rows need {bands * rows} permutations: {signatures.shape[1]} are there"
        )
    return _band_keys(signatures, bands, rows)


def sha1_hashes(data: np.ndarray, starts: np.ndarray, stops: np.ndarray, bits: int) -> np.ndarray:
    """uint64 or uint32 (64 or 32 bits) a message: the first bytes of the SHA-1 of `data[starts[i] : stops[i]]`, as
    `datasketch.hashfunc.sha1_hash64` and `sha1_hash32` have them. Behind the last message `data` (uint8) needs SLACK
    bytes more, of any value."""
    return _sha1(data, starts, stops, np.empty(len(starts), f"uint{bits}"))


@njit
def _rotated(value, bits):
    return np.uint32(value << np.uint32(bits) | value >> np.uint32(32 - bits))


@njit
def _swapped(word):
    """The four bytes in reverse order."""
    pairs = (word & np.uint32(0x00FF00FF)) << np.uint32(8) | (word >> np.uint32(8)) & np.uint32(0x00FF00FF)
    return _rotated(np.uint32(pairs), 16)


@njit(inline="always")
def _choice(b, c, d):
    return d ^ b & (c ^ d)


@njit(inline="always")
def _parity(b, c, d):
    return b ^ c ^ d


@njit(inline="always")
def _majority(b, c, d):
    return b & c | d & (b | c)


@njit(inline="always")
def _rounds(state, first, constant, mix):
    """Twenty rounds of all lanes."""
    for t in range(first, first + 20):
        h = _HISTORY + t
        for lane in range(_LANES):
            a, b = state[h + 4, lane], state[h + 3, lane]
            c, d, e = _rotated(state[h + 2, lane], 30), _rotated(state[h + 1, lane], 30), _rotated(state[h, lane], 30)
            state[h + 5, lane] = np.uint32(_rotated(a, 5) + mix(b, c, d) + e + np.uint32(constant) + state[t, lane])


@njit
def _compress(state, digest):
    """SHA-1's compression (FIPS 180-4, 6.1.2) of one block a lane, which rows 0 to 15 of the state hold."""
    for t in range(16, 80):
        for lane in range(_LANES):
            mixed = state[t - 3, lane] ^ state[t - 8, lane] ^ state[t - 14, lane] ^ state[t - 16, lane]
            state[t, lane] = _rotated(mixed, 1)
    for row in range(5):
        back = _HISTORY + 4 - row
        for lane in range(_LANES):
            state[back, lane] = _rotated(digest[row, lane], 2) if row > 1 else digest[row, lane]
    _rounds(state, 0, 0x5A827999, _choice)
    _rounds(state, 20, 0x6ED9EBA1, _parity)
    _rounds(state, 40, 0x8F1BBCDC, _majority)
    _rounds(state, 60, 0xCA62C1D6, _parity)
    for row in range(5):
        last = _ROWS - 1 - row
        for lane in range(_LANES):
            digest[row, lane] += _rotated(state[last, lane], 30) if row > 1 else state[last, lane]


@njit
def _fill(block, places, data, position, stop):
    """Puts the message that reaches to `stop` into a block of 64 bytes, from `position` on, with the bit behind it."""
    left = stop - position
    inside = np.uint8(max(0, min(left, 64)))
    position = np.uint64(position)  # an index that cannot be negative; the loop is turned into vector instructions then
    for place in range(64):
        byte = data[position + np.uint64(place)]
        block[place] = byte if places[place] < inside else 0
    if 0 <= left < 64:
        block[left] = 0x80


@compiled
def _sha1(data, starts, stops, hashes):
    """Fills `hashes` and returns them. A lane that is done with its message takes the next one, so that messages of any
    lengths mix and no lane waits."""
    state = np.empty((_ROWS, _LANES), np.uint32)
    digest = np.empty((5, _LANES), np.uint32)
    blocks = np.zeros((_LANES, 64), np.uint8)
    words = blocks.view(np.uint32)
    places = np.arange(64).astype(np.uint8)  # of one byte, as what is compared with them
    messages = np.full(_LANES, -1)
    positions = np.zeros(_LANES, np.int64)
    taken = done = 0
    while done < len(starts):
        for lane in range(_LANES):
            if messages[lane] < 0 and taken < len(starts):
                messages[lane], positions[lane] = taken, starts[taken]
                taken += 1
                for row in range(5):
                    digest[row, lane] = _INITIAL[row]
            if messages[lane] >= 0:
                _fill(blocks[lane], places, data, positions[lane], stops[messages[lane]])
        for t in range(16):
            for lane in range(_LANES):
                state[t, lane] = _swapped(words[lane, t])
        for lane in range(_LANES):
            message = messages[lane]
            if message >= 0 and stops[message] - positions[lane] < 56:
                size = stops[message] - starts[message]
                state[14, lane] = size >> 29
                state[15, lane] = size << 3
        _compress(state, digest)
        for lane in range(_LANES):
            message = messages[lane]
            if message >= 0:
                if stops[message] - positions[lane] < 56:
                    high = np.uint64(_swapped(digest[1, lane])) << np.uint64(32)
                    hashes[message] = _swapped(digest[0, lane]) | high
                    messages[lane] = -1
                    done += 1
                positions[lane] += 64
    return hashes


@njit
def _finalised(value, constants):
    """MurmurHash3's finaliser."""
    kind = constants.dtype.type
    value = kind((value ^ value >> constants[0]) * constants[1])
    value = kind((value ^ value >> constants[2]) * constants[3])
    return kind(value ^ value >> constants[4])


@compiled
def _minima(hashes, finaliser, multipliers, increments):
    """The least of `multiplier * finalised hash + increment`, modulo 2^bits, by each permutation."""
    kind = hashes.dtype.type
    minima = np.full(len(multipliers), ~kind(0), hashes.dtype)
    part = np.empty(_PART, hashes.dtype)
    for first in range(0, len(hashes), _PART):
        size = min(_PART, len(hashes) - first)
        for index in range(size):
            part[index] = _finalised(hashes[first + index], finaliser)
        for k in range(len(multipliers)):
            multiplier, increment, least = multipliers[k], increments[k], minima[k]
            for index in range(size):
                least = min(least, kind(multiplier * part[index] + increment))
            minima[k] = least
    return minima


@compiled
def _band_keys(signatures, bands, rows):
    keys = np.empty((len(signatures), bands), np.uint64)
    for document in range(len(signatures)):
        for band in range(bands):
            key = np.uint64(band + 1)
            for row in range(band * rows, (band + 1) * rows):
                key = (key ^ np.uint64(signatures[document, row])) * _MULTIPLIER
                key ^= key >> np.uint64(32)
            keys[document, band] = key
    return keys
