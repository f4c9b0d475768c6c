"""Passages of a text that may stand elsewhere in the corpus: lines, runs of sentences, runs of tokens.

What is here sees one text at a time and gives each passage a 128-bit key and its place, in characters; passes bring
equal keys of all documents together. All hashing is numpy over whole documents, with no Python call for a passage.
"""

import functools
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..segment import CONTROL, DIGIT, PUNCTUATION, SPACE, SYMBOL, VISIBLE, Segmented

_UNCOUNTED = PUNCTUATION | SYMBOL | CONTROL | SPACE
_DIGIT_ZERO = np.uint32(ord("0"))
_LOW = np.uint64(2**32 - 1)
_KEY = np.uint64(0x9E3779B97F4A7C15)  # seeds of the two halves of a hash: any two numbers do
_CHECK = np.uint64(0xBB67AE8584CAA73B)
_PAIR = np.uint64(0xD1342543DE82EF95)  # a multiplier of a good linear congruential generator (Steele and Vigna 2021)


class PassageOptions(BaseModel):
    """Which repeated passages are looked for in the whole corpus. The first of each stays, the others are cut."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lines: bool = Field(
        default=False,
        description="lines equal but for case, digits and what is neither letter nor digit (CCNet, Wenzek et al. 2020)",
    )
    sentences: bool = Field(
        default=False, description="runs of three sentences, equal in the same sense (C4, Raffel et al. 2020)"
    )
    substrings: bool = Field(default=False, description="runs of substring_tokens words, wherever they begin and end")
    min_line_chars: int = Field(
        default=1,
        ge=1,
        description="letters and digits that a line needs to be looked at. CCNet has no limit, so that 'Share' goes; "
        "but in a large corpus every short line stands twice, also those of lists, tables and code, which 10 spares "
        "(of 859 pages, lines below 10 were 29 % of the repeated lines and 5 % of their text)",
    )
    sentence_window: int = Field(default=3, ge=1, description="sentences of a run; 3 is C4's number")
    substring_tokens: int = Field(
        default=50, ge=2, description="words of a run (characters of Chinese and the like); 50 as in Lee et al. 2022"
    )

    def any(self) -> bool:
        """Whether any are looked for."""
        return self.lines or self.sentences or self.substrings


class Passages(NamedTuple):
    """Passages of one text in order; all arrays have one entry a passage. `keys` and `checks` are a 128-bit hash."""

    keys: np.ndarray  # uint64
    checks: np.ndarray  # uint64
    starts: np.ndarray  # int64, offset of the first character
    ends: np.ndarray  # int64, offset behind the last


class Anchors(NamedTuple):
    """Some runs of length // 2 tokens of one text, in order."""

    keys: np.ndarray  # uint64, hash of the run
    tokens: np.ndarray  # int64, number of the run's first token


def line_passages(document: Segmented, options: PassageOptions) -> Passages:
    """Each line that is long enough, from its first visible character to its last.

    Lines are compared in lower case, each digit as 0, without punctuation, symbols, control characters and white
    space. CCNet keeps some symbols and white space; without them a rule of a table or of a heading is no line.
    """
    keys, checks, sizes, starts, ends = _normalised(document, document.line_bounds[:-1])
    return Passages(*(part[sizes >= options.min_line_chars] for part in (keys, checks, starts, ends)))


def sentence_passages(document: Segmented, options: PassageOptions) -> Passages:
    """Every run of `sentence_window` sentences, normalised like lines; a text with fewer has none. Sentences without
    letter or digit do not count."""
    keys, checks, _, starts, ends = _normalised(document, document.sentences)
    window = options.sentence_window
    keys, checks = _runs(keys, window), _runs(checks, window)
    return Passages(keys, checks, starts[: len(keys)], ends[window - 1 :])


def anchors(document: Segmented, length: int) -> Anchors:
    """The runs of k = length // 2 tokens that winnowing selects (Schleimer, Wilkerson and Aiken 2003).

    Of the k-token runs in a window of `length` tokens the one with the least hash is selected, of several the
    rightmost. That depends on nothing outside the window: if the window stands twice in a corpus, even in one document
    and overlapping itself, its anchor is selected at both places. About 2 / (length - k + 2) of all runs are selected;
    in a text that repeats one word, all.
    """
    fingerprints = _runs(_hashes(*_lowered_tokens(document), _KEY), length // 2)
    selected = _selected(fingerprints, length)
    tokens = selected[np.flatnonzero(np.diff(selected, prepend=-1))]
    return Anchors(fingerprints[tokens], tokens)


def windows(document: Segmented, length: int, repeated_anchors: np.ndarray) -> Passages:
    """Every run of `length` tokens whose anchor stands elsewhere, given the `tokens` (int64) of these anchors.

    So of all documents together, this gives every run that stands twice and a few more, which the keys tell apart. A
    passage reaches from its first token to its last with the marks at both: see `_extents`.
    """
    codes, begins = _lowered_tokens(document)
    keys, checks = _hashes(codes, begins, _KEY), _hashes(codes, begins, _CHECK)
    selected = _selected(_runs(keys, length // 2), length)
    chosen = np.flatnonzero(np.isin(selected, repeated_anchors))
    keys, checks = _runs(keys, length), _runs(checks, length)
    starts, ends = _extents(document)
    return Passages(keys[chosen], checks[chosen], starts[chosen], ends[chosen + length - 1])


def repeated(starts: np.ndarray, ends: np.ndarray, first: np.ndarray) -> list[tuple[int, int]]:
    """What to cut from one document: sorted spans without overlap, of the union of the later occurrences (`first` is
    False) less the union of the first ones. `starts` and `ends` are int64[n], in any order; `first` is bool[n].

    So the first occurrence of every passage stays whole, also where it overlaps later ones of others or its own
    ("la la la ..."). What else is left of a later occurrence is part of some first one: where a repeated run stands
    beside or within a longer one that is new here, up to a passage less one token of it stays at each side. Of 859
    pages' repeated runs of 50 tokens 1.4 % stand whole twice for that; if first ones were not spared none would, but
    8 % would be left in pieces only.
    """
    offsets = np.concatenate((starts, ends))
    sign = np.repeat((1, -1), len(starts))
    places, inverse = np.unique(offsets, return_inverse=True)
    later = np.bincount(inverse, sign * np.tile(~first, 2), len(places)).cumsum()
    firsts = np.bincount(inverse, sign * np.tile(first, 2), len(places)).cumsum()
    cut = (later > 0) & (firsts == 0)
    edges = np.flatnonzero(np.diff(cut, prepend=False))
    return list(zip(places[edges[::2]].tolist(), places[edges[1::2]].tolist(), strict=True))


@functools.cache
def _lowered() -> np.ndarray:
    """uint32, the lower case of each code point, whatever stands around it; built once a process, in about 0.03 s."""
    lowered = np.arange(0x110000, dtype=np.uint32)
    lowered[:0x20000] = [ord(chr(point).lower()[0]) for point in range(0x20000)]  # two only for a dotted capital I
    lowered[ord("ς")] = ord("σ")  # at the end of a word; the capital is the same
    return lowered


def _normalised(document: Segmented, bounds: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of the text's pieces that begin at `bounds`, those with a letter or digit: their hash as keys and checks, how
    many characters count, and where the first visible one is and the last ends."""
    counted = np.flatnonzero((document.classes & _UNCOUNTED) == 0)
    digits = (document.classes[counted] & DIGIT) != 0
    codes = np.where(digits, _DIGIT_ZERO, _lowered()[document.code_points[counted]])
    bounds = np.append(bounds, len(document.text))
    cuts = np.searchsorted(counted, bounds)
    pieces = np.flatnonzero(np.diff(cuts))
    visible = np.flatnonzero(document.classes & VISIBLE)
    starts = visible[np.searchsorted(visible, bounds[pieces])]
    ends = visible[np.searchsorted(visible, bounds[pieces + 1]) - 1] + 1
    keys, checks = _hashes(codes, cuts[pieces], _KEY), _hashes(codes, cuts[pieces], _CHECK)
    return keys, checks, np.diff(cuts)[pieces], starts, ends


def _lowered_tokens(document: Segmented) -> tuple[np.ndarray, np.ndarray]:
    """The characters of all tokens in lower case (uint32), and where in there each token begins (int64)."""
    begins, kept = _tokens(document)
    positions = np.flatnonzero(kept)
    return _lowered()[document.code_points[positions]], np.searchsorted(positions, begins)


def _tokens(document: Segmented) -> tuple[np.ndarray, np.ndarray]:
    """Where the tokens of `shingle.tokenise` begin (int64), and which characters are part of one (bool)."""
    # needs numba, which a command line's help does not
    from .shingle import _CHARACTER, _MARK, _SEPARATOR, _WORD, _kinds

    kinds = _kinds("auto")[document.code_points]
    separated = _last(kinds == _SEPARATOR)
    kept = (kinds >= _WORD) | ((kinds == _MARK) & (_last(kinds >= _WORD) > separated))
    in_word = _last(kinds == _WORD) > np.maximum(separated, _last(kinds == _CHARACTER))
    begins = kinds >= _WORD
    begins[1:] &= (kinds[1:] == _CHARACTER) | ~in_word[:-1]
    return np.flatnonzero(begins), kept


def _last(holds: np.ndarray) -> np.ndarray:
    """int32, for each place the last one up to it where that holds, counted from 1; 0 where there is none."""
    return np.maximum.accumulate(holds * np.arange(1, len(holds) + 1, dtype=np.int32))


def _extents(document: Segmented) -> tuple[np.ndarray, np.ndarray]:
    """int64 twice, where each token begins and ends, with the marks that a reader takes to it, so that no full stop or
    bracket is left over where it was cut: up to the first white space marks belong to the token before them, from there
    on to the one behind. Every visible character belongs to one token then."""
    begins, kept = _tokens(document)
    if not len(begins):
        return begins, begins
    positions = np.flatnonzero(kept)
    ends = positions[np.append(np.searchsorted(positions, begins)[1:], len(positions)) - 1] + 1
    visible = (document.classes & VISIBLE) != 0
    shown, blank = np.flatnonzero(visible), np.append(np.flatnonzero(~visible), len(visible))
    ends = np.minimum(blank[np.searchsorted(blank, ends)], np.append(begins[1:], len(visible)))
    starts = shown[np.searchsorted(shown, np.append(0, ends[:-1]))]
    ends[-1] = shown[-1] + 1
    return starts, ends


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64, a bijection of uint64 that spreads every bit over all; in place."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _hashes(codes: np.ndarray, starts: np.ndarray, seed: np.uint64) -> np.ndarray:
    """uint64, a hash of each piece of `codes` (uint32); pieces begin at `starts` and none is empty.

    As in Zobrist hashing: the sum of a random number for each code at each place in the piece, mixed once more.
    """
    if not len(starts):
        return np.zeros(0, np.uint64)
    places = np.arange(len(codes)) - np.repeat(starts, np.diff(starts, append=len(codes)))
    values = codes.astype(np.uint64) << np.uint64(32) | places.astype(np.uint64)
    return _mixed(np.add.reduceat(_mixed(values + seed), starts))


def _runs(hashes: np.ndarray, length: int) -> np.ndarray:
    """uint64[n - length + 1], a hash of each `length` consecutive hashes, put together from runs of 1, 2, 4 ..."""
    count = max(len(hashes) - length + 1, 0)
    run, taken = hashes[:count], 0
    size = 1
    while count:
        if length & size:
            part = hashes[taken : taken + count]
            run = _mixed(run * _PAIR + part) if taken else part
            taken += size
        if taken == length:
            break
        hashes = _mixed(hashes[:-size] * _PAIR + hashes[size:])
        size *= 2
    return run


def _selected(fingerprints: np.ndarray, length: int) -> np.ndarray:
    """int64, ascending: for each window of `length` tokens the run of length // 2 that stands for it: that with the
    least fingerprint, as far as 32 bits tell, of several the rightmost."""
    window = length - length // 2 + 1  # runs in a window
    count = max(len(fingerprints) - window + 1, 0)
    places = np.arange(len(fingerprints), dtype=np.uint64)
    least = fingerprints & ~_LOW | (_LOW - places)
    size = 1
    while count and 2 * size <= window:
        least = np.minimum(least[:-size], least[size:])
        size *= 2
    least = np.minimum(least[:count], least[window - size : window - size + count])
    return (_LOW - (least & _LOW)).astype(np.int64)
