"""Tokens and shingles of a document: what exact and near duplicates are told by.

A shingle is `ngram` consecutive tokens joined by one space. All tokens of a text lie joined in one buffer, so that a
shingle is a slice of it and no Python object is made for one. True Jaccard similarities are computed here too.
"""

import functools
import unicodedata
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numba import njit

from ..segment import UNSPACED, _tables
from .options import ShingleOptions

# Kinds of a character; what is kept is at least a WORD.
_SEPARATOR = np.uint8(0)
_MARK = np.uint8(1)  # a combining mark: part of the token before it, a separator where there is none
_WORD = np.uint8(2)  # part of a run
_IDEOGRAPH = np.uint8(3)  # a token of its own, but part of a run that a WORD character began
_CHARACTER = np.uint8(4)  # a token of its own

_IDEOGRAPHS = (slice(0x3400, 0xA000), slice(0x3040, 0x3100), slice(0xAC00, 0xD7B0))
_EAST_ASIAN = (slice(0x2E80, 0xA000), slice(0xF900, 0x10000))

SLACK = 72  # bytes that SHA-1's blocks reach behind the last token
_SPACE = np.uint8(ord(" "))
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: odd, and its bits are evenly spread
_SHIFT = np.uint64(32)


def compiled(function: Callable[..., Any]) -> Any:
    """The function compiled by numba, once a machine where numba's cache can be written: beside this file or, where
    that cannot, in the user's cache folder; once a process where neither can."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


class Tokens(NamedTuple):
    """The tokens of a text: token i is `joined[bounds[i] : bounds[i + 1] - 1]`."""

    buffer: np.ndarray  # uint8, `joined` and behind it at least SLACK bytes of any value
    bounds: np.ndarray  # int64, where each token begins, and behind the last the length of `joined` plus one

    @property
    def joined(self) -> np.ndarray:
        """uint8, the UTF-8 of all tokens with one space between two."""
        return self.buffer[: max(0, self.bounds[-1] - 1)]

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return len(self.bounds) - 1

    def strings(self) -> list[str]:
        """Each token as a string."""
        return self.joined.tobytes().decode().split(" ") if self.size else []

    def shingles(self, ngram: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each shingle begins and where it ends in the buffer (int64): `size - ngram + 1` of them; one, of all
        tokens, where there are fewer than `ngram`; none where there is no token."""
        ngram = min(ngram, self.size)
        if not ngram:
            return self.bounds[:0], self.bounds[:0]
        return self.bounds[:-ngram], self.bounds[ngram:] - 1


@functools.cache
def _kinds(unit: str) -> np.ndarray:
    """Kind of each code point (uint8); built once a process, in about 0.1 s."""
    kinds = np.full(0x110000, _SEPARATOR)
    for point in chain(range(0x40000), range(0xE0100, 0xE01F0)):  # planes 4 to 13 are unassigned; variation selectors
        character = chr(point)
        if character.isalnum():
            kinds[point] = _WORD if unit != "characters" else _CHARACTER
        elif unicodedata.category(character)[0] == "M":
            kinds[point] = _MARK
    if unit == "auto":
        unspaced = (kinds == _WORD) & ((_tables()[0] & UNSPACED) != 0)
        for block in _EAST_ASIAN:  # iteration marks, Bopomofo, half-width kana: runs, but for the ideographs proper
            unspaced[block] = False
        kinds[unspaced] = _CHARACTER
        within = np.array([_CHARACTER, _MARK, _IDEOGRAPH])  # the blocks' few signs, as the middle dot, end a run
        for block in _IDEOGRAPHS:
            kinds[block] = within[kinds[block]]
    return kinds


@compiled
def _join(text, kinds, buffer, bounds):
    """Writes the tokens of a text in UTF-8 (which may hold surrogates) as `Tokens` holds them; returns their number."""
    end = count = position = 0
    open_ = in_word = False
    while position < len(text):
        point = np.int64(text[position])
        width = 1
        if point >= 0x80:
            width = 2 + (point >= 0xE0) + (point >= 0xF0)
            point &= 0xFF >> (width + 1)
            for offset in range(1, width):
                point = point << 6 | text[position + offset] & 0x3F
        kind = kinds[point]
        begins = kind == _CHARACTER or (kind >= _WORD and not in_word)
        kept = kind >= _WORD or (kind == _MARK and open_)
        in_word = kind == _WORD or (in_word and kept and kind != _CHARACTER)
        open_ = kept
        if begins:
            if count:
                buffer[end] = _SPACE
                end += 1
            bounds[count] = end
            count += 1
        if kept:
            for offset in range(width):
                buffer[end + offset] = text[position + offset]
            end += width
        position += width
    bounds[count] = end + 1
    return count


def tokenise(text: str, options: ShingleOptions) -> Tokens:
    """The tokens of the text in lower case; any string will do. The combining marks aside, auto tokens of Latin,
    Cyrillic, Chinese, Japanese and Korean text are those that near-duplicate detection commonly takes from the regular
    expression `[\\u3400-\\u9fff\\u3040-\\u30ff\\uac00-\\ud7af]|[^\\W_]+`: a run that began with another letter takes
    ideographs in."""
    encoded = np.frombuffer(text.lower().encode("utf-8", "surrogatepass"), np.uint8)
    buffer = np.empty(2 * len(encoded) + SLACK, np.uint8)
    bounds = np.empty(len(encoded) + 1, np.int64)
    count = _join(encoded, _kinds(options.unit), buffer, bounds)
    return Tokens(buffer, bounds[: count + 1])


def text_key(tokens: Tokens) -> str:
    """32 hexadecimal digits, the xxh3_128 of the tokens joined by spaces; empty where there is no token."""
    return xxhash.xxh3_128_hexdigest(tokens.joined.data) if tokens.size else ""


@compiled
def _shingle_hashes(joined, bounds, ngram):
    """uint64, a hash of each shingle. Every step is a bijection of the running hash and of the value taken in."""
    tokens = np.empty(len(bounds) - 1, np.uint64)
    for token in range(len(tokens)):
        value = np.uint64(bounds[token + 1] - bounds[token])
        for position in range(bounds[token], bounds[token + 1] - 1):
            value = (value ^ np.uint64(joined[position])) * _MULTIPLIER
            value ^= value >> _SHIFT
        tokens[token] = value
    hashes = np.full(len(tokens) - ngram + 1, np.uint64(ngram))
    for offset in range(ngram):
        for index in range(len(hashes)):
            value = (hashes[index] ^ tokens[index + offset]) * _MULTIPLIER
            hashes[index] = value ^ (value >> _SHIFT)
    return hashes


def shingle_set(text: str, options: ShingleOptions) -> np.ndarray:
    """uint64[shingles], sorted and each once: hashes of the text's shingles, for true Jaccard similarities."""
    tokens = tokenise(text, options)
    if not tokens.size:
        return np.zeros(0, np.uint64)
    hashes = np.sort(_shingle_hashes(tokens.joined, tokens.bounds, min(options.ngram, tokens.size)))
    return hashes[np.append(True, hashes[1:] != hashes[:-1])]  # np.unique takes ten times as long


@compiled
def jaccards(values, offsets, left, right):
    """float64[pairs], the Jaccard similarity of sets `left[i]` and `right[i]`, 0.0 where both are empty. Set k is the
    slice `values[offsets[k] : offsets[k + 1]]`, sorted and each value once."""
    similarities = np.zeros(len(left))
    for pair in range(len(left)):
        i, i_end = offsets[left[pair]], offsets[left[pair] + 1]
        j, j_end = offsets[right[pair]], offsets[right[pair] + 1]
        together = i_end - i + j_end - j
        common = 0
        while i < i_end and j < j_end:
            a, b = values[i], values[j]
            common += a == b
            i += a <= b
            j += b <= a
        if together:
            similarities[pair] = common / (together - common)
    return similarities
