"""Gopher's repetition measures (Rae et al. 2021, table A1): lines, paragraphs and n-grams that a document repeats.

What counts as repetition differs between systems: see `gopher.VARIANTS`. All shares are of characters unless the name
says `frac`, and none is above 1, though overlapping n-grams can cover a text more than once.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..segment import Segmented, Tokens
from .gopher import VARIANTS, GopherOptions, Variant, words_of

_LONGEST = 10
_TOP = (2, 3, 4)


class Repetition(NamedTuple):
    """Gopher's repetition measures, 0 (nothing repeats) to 1."""

    dup_line_frac: float  # share of lines
    dup_paragraph_frac: float
    dup_line_chars: float
    dup_paragraph_chars: float
    top_2_gram: float  # the most frequent 2-gram, all its occurrences
    top_3_gram: float
    top_4_gram: float
    dup_5_gram: float  # every 5-gram that occurs again
    dup_6_gram: float
    dup_7_gram: float
    dup_8_gram: float
    dup_9_gram: float
    dup_10_gram: float


def repetition(document: Segmented, options: GopherOptions) -> Repetition:
    """Repetition measures of one document; total on any text."""
    variant = VARIANTS[options.variant]
    line_frac, line_characters = _repeated_pieces(document, _lines(document, variant), variant)
    paragraph_frac, paragraph_characters = _repeated_pieces(document, document.paragraphs, variant)
    shares = _ngram_shares(document, variant)
    return Repetition(line_frac, paragraph_frac, line_characters, paragraph_characters, *shares)


def _lines(document: Segmented, variant: Variant) -> list[str]:
    lines = document.lines
    if variant.blank_lines == "all":
        return lines
    if variant.blank_lines == "none":
        return [line for line in lines if line.strip()]
    return [line for index, line in enumerate(lines) if line or index in (0, len(lines) - 1)]


def _repeated_pieces(document: Segmented, pieces: list[str], variant: Variant) -> tuple[float, float]:
    """Shares of the pieces and of characters that are repetition."""
    distinct = set(pieces)
    if len(distinct) == len(pieces):
        return 0.0, 0.0
    characters = sum(map(len, pieces))
    if variant.copies == "later":
        repeated, repeated_characters = len(pieces) - len(distinct), characters - sum(map(len, distinct))
    else:
        copied = [(piece, count) for piece, count in Counter(pieces).items() if count > 1]
        repeated, repeated_characters = sum(count for _, count in copied), sum(len(p) * count for p, count in copied)
    if variant.line_characters == "words":
        characters = int(document.spaced.lengths.sum())
    elif variant.line_characters == "text":
        characters = len(document.text)
    return repeated / len(pieces), min(repeated_characters / max(characters, 1), 1.0)


def _ngram_shares(document: Segmented, variant: Variant) -> list[float]:
    """Shares of the top n-grams (n = 2 to 4) and of the duplicate ones (5 to 10)."""
    words = words_of(document, variant.ngram_words)
    offsets = np.concatenate(([0], words.lengths.cumsum()))
    total = max(len(document.text) if variant.ngram_characters == "text" else int(offsets[-1]), 1)
    shares = []
    for n, starts, groups, counts in _repeating(words.ids):
        if len(words.ids) < n:
            share = variant.too_short
        elif n in _TOP:
            share = _top_characters(document, words, offsets, n, starts, counts[groups], variant) / total
        elif not len(starts):
            share = 0.0
        else:
            share = _duplicate_characters(offsets, n, starts, groups, variant)
            if variant.duplicates == "every":
                share /= max(int((offsets[n:] - offsets[:-n]).sum()), 1)
            else:
                share /= total
        shares.append(min(share, 1.0))
    return shares


def _repeating(ids: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """For n from 2 to 10: n, the starts of the n-grams that occur more than once (ascending), each one's group, and the
    groups' numbers of occurrences. Exact: a group is the pair of its first n-1 words' group and its last word, and an
    n-gram can repeat only where its first n-1 words do, so that each step looks at fewer starts than the one before."""
    starts, groups, counts = np.arange(len(ids)), ids, ids
    radix = int(ids.max(initial=0)) + 1
    for n in range(2, _LONGEST + 1):
        starts = starts[: np.searchsorted(starts, len(ids) - n, "right")]
        if len(starts):
            keys = groups[: len(starts)] * radix + ids[starts + n - 1]
            _, groups, counts = np.unique(keys, return_inverse=True, return_counts=True)
            repeats = counts[groups] > 1
            starts, groups = starts[repeats], groups[repeats]
        yield n, starts, groups[: len(starts)], counts


def _top_characters(
    document: Segmented,
    words: Tokens,
    offsets: np.ndarray,
    n: int,
    starts: np.ndarray,
    occurrences: np.ndarray,
    variant: Variant,
) -> int:
    """Characters of all occurrences of the most frequent n-gram, of which there is at least one."""
    count = int(occurrences.max(initial=1))
    if count == 1:
        if not variant.lone_top:
            return 0
        candidates = np.arange(len(words.ids) - n + 1) if variant.top_tie == "longest" else np.zeros(1, np.int64)
    else:
        candidates = starts[occurrences == count]
    lengths = offsets[candidates + n] - offsets[candidates]
    choice = int(lengths.argmax()) if variant.top_tie == "longest" else 0
    if variant.top_characters == "replaced":
        ngram = " ".join(words.strings[int(candidates[choice]) :][:n])
        return document.text.count(ngram) * len(ngram)
    spaces = n - 1 if variant.top_characters == "joined" else 0
    return (int(lengths[choice]) + spaces) * count


def _duplicate_characters(
    offsets: np.ndarray, n: int, starts: np.ndarray, groups: np.ndarray, variant: Variant
) -> float:
    """Characters of n-grams that occur again. `greedy`: reading on, an n-gram seen before counts and is stepped over.
    `every`: all copies, overlaps counted over and over. `covered`: words in any copy, once. `later`: words in any copy
    but the first, once, with the spaces between them."""
    if variant.duplicates == "greedy":
        return _greedy(offsets, n, starts.tolist(), groups.tolist())
    if variant.duplicates == "every":
        return int((offsets[starts + n] - offsets[starts]).sum())
    if variant.duplicates == "later":
        starts = np.delete(starts, np.unique(groups, return_index=True)[1])
    edges = np.zeros(len(offsets), np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + n, -1)
    covered = edges.cumsum()[:-1] > 0
    characters = int(np.diff(offsets)[covered].sum())
    if variant.duplicates == "later":
        runs = 1 + int(np.count_nonzero(np.diff(starts) >= n))
        characters += int(np.count_nonzero(covered)) - runs
    return characters


def _greedy(offsets: np.ndarray, n: int, starts: list[int], groups: list[int]) -> int:
    seen: set[int] = set()
    taken: list[int] = []
    free = 0
    for start, group in zip(starts, groups, strict=True):
        if start < free:
            continue
        if group in seen:
            taken.append(start)
            free = start + n
        else:
            seen.add(group)
    if not taken:
        return 0
    chosen = np.array(taken)
    return int((offsets[chosen + n] - offsets[chosen]).sum())
