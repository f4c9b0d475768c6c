"""Pairs of neighbouring tokens in a corpus of words: where they stand, how often, and what a merge changes.

A word is a run of slots. A token takes as many slots as it has symbols and stands in the first and in the last of them,
so that both neighbours are found without links. All places of a pair arise in one step, that of its younger token, so
that they are written down once, in ascending order; whether one still holds is seen when it is visited, since no older
token comes back.
"""

from typing import NamedTuple

import numpy as np

from ..curate.dedup.shingle import compiled
from .tables import SHIFT, longer, spread

SEPARATOR = np.int32(-1)  # the slot between two words
DEAD = np.int64(-(2**62))  # count of a pair that may never become a token
_INSIDE = np.int32(-2)  # a slot where a token began that is the right part of another now


class Corpus(NamedTuple):
    """Words as runs of symbols, the most frequent first."""

    slots: np.ndarray  # int32, token ids, SEPARATOR before, between and behind words; learning changes it
    ends: np.ndarray  # int64, where slots of one count end, ascending
    counts: np.ndarray  # int64, that count: how often the words before `ends` occur


class Pairs(NamedTuple):
    """All pairs of neighbours that there ever were."""

    table: np.ndarray  # int32, slots of a hash table, a power of two of them: index of a pair or -1
    left: np.ndarray  # int32
    right: np.ndarray  # int32
    counts: np.ndarray  # int64
    start: np.ndarray  # int64, where its places begin in the list of places
    stop: np.ndarray  # int64, and where they end
    next_left: np.ndarray  # int32, another pair with the same left token or -1
    next_right: np.ndarray  # int32, another pair with the same right token or -1


class Step(NamedTuple):
    """What one merge finds beside the places where it is done; by token, or by place visited."""

    gains: np.ndarray  # int64[tokens], how often the token stood there
    numbers: np.ndarray  # int64[tokens], at how many places; behind that, where the next of them is written
    tokens: np.ndarray  # int32, each token that stood there, once
    neighbours: np.ndarray  # int32, the token at each place visited
    places: np.ndarray  # int32, where the pair with it begins


@compiled
def _weight(place, ends, counts):
    """How often the word at that slot occurs; most are in the last group, the rarest words."""
    low, high = 0, len(ends) - 1
    if high > 0 and place >= ends[high - 1]:
        return counts[high]
    while low < high:
        middle = (low + high) // 2
        if place < ends[middle]:
            high = middle
        else:
            low = middle + 1
    return counts[low]


@compiled
def _slot(table, left, right, a, b):
    """Where the pair stands in the hash table, or would."""
    mask = np.uint64(len(table) - 1)
    slot = spread(np.uint64(a) << SHIFT | np.uint64(b)) & mask
    while table[slot] >= 0 and (left[table[slot]] != a or right[table[slot]] != b):
        slot = (slot + np.uint64(1)) & mask
    return slot


@compiled
def _roomy(pairs, size):
    """The same pairs, with room for twice as many."""
    room = 2 * len(pairs.left)
    left, right = longer(pairs.left, room), longer(pairs.right, room)
    table = np.full(4 * room, -1, np.int32)
    for pair in range(size):
        table[_slot(table, left, right, left[pair], right[pair])] = pair
    return Pairs(
        table,
        left,
        right,
        longer(pairs.counts, room),
        longer(pairs.start, room),
        longer(pairs.stop, room),
        longer(pairs.next_left, room),
        longer(pairs.next_right, room),
    )


@compiled
def _pair(pairs, size, a, b, by_left, by_right):
    """The index of the pair of tokens a and b, and how many pairs there are then: perhaps one more."""
    slot = _slot(pairs.table, pairs.left, pairs.right, a, b)
    pair = pairs.table[slot]
    if pair >= 0:
        return pair, size
    pairs.table[slot] = size
    pairs.left[size], pairs.right[size] = a, b
    pairs.counts[size], pairs.start[size], pairs.stop[size] = 0, 0, 0
    pairs.next_left[size], by_left[a] = by_left[a], size
    pairs.next_right[size], by_right[b] = by_right[b], size
    return np.int32(size), size + 1


@compiled
def _beside(step, found, known, token, place, weight):
    """Writes down that `token` stands beside a place; returns how many were written and how many different tokens."""
    if step.numbers[token] == 0:
        step.tokens[known] = token
        known += 1
    step.numbers[token] += 1
    step.gains[token] += weight
    step.neighbours[found], step.places[found] = token, place
    return found + 1, known


@compiled
def _replace(pair, token, pairs, places, slots, ends, counts, widths, left, right):
    """Puts `token` wherever the pair stands; returns how often that is, and how much was written to left and right."""
    a, b = pairs.left[pair], pairs.right[pair]
    visited = places[pairs.start[pair] : pairs.stop[pair]]  # ascending, so that in aaa the first two become one
    total = np.int64(0)
    found_left, known_left, found_right, known_right = 0, 0, 0, 0
    for place in visited:
        middle = place + widths[a]
        if slots[place] != a or slots[middle] != b:
            continue
        end = middle + widths[b]
        weight = _weight(place, ends, counts)
        before, after = slots[place - 1], slots[end]
        if before >= 0:
            found_left, known_left = _beside(left, found_left, known_left, before, place - widths[before], weight)
        if after >= 0:
            found_right, known_right = _beside(right, found_right, known_right, after, place, weight)
        slots[middle] = _INSIDE
        slots[place] = slots[end - 1] = token
        total += weight
    return total, found_left, known_left, found_right, known_right


@compiled
def _settle(step, found, known, old, token, on_left, least, pairs, size, places, used, by_left, by_right):
    """Moves counts from the pairs with the `old` token to those with the new one, on one side, and writes the places of
    these behind those `used`; returns how many pairs and places there are then. There is room for both.

    A pair is at its most frequent when it arises: one that is too rare then is not even written down.
    """
    for index in range(known):
        other = step.tokens[index]
        gain, number = step.gains[other], step.numbers[other]
        a, b = (other, old) if on_left else (old, other)
        before = pairs.table[_slot(pairs.table, pairs.left, pairs.right, a, b)]
        if before >= 0:
            pairs.counts[before] -= gain
        step.gains[other], step.numbers[other] = 0, -1
        if gain >= least:
            a, b = (other, token) if on_left else (token, other)
            pair, size = _pair(pairs, size, a, b, by_left, by_right)
            pairs.counts[pair] = gain
            pairs.start[pair], pairs.stop[pair] = used, used + number
            step.numbers[other], used = used, used + number
    for index in range(found):
        other = step.neighbours[index]
        if step.numbers[other] >= 0:
            places[step.numbers[other]] = step.places[index]
            step.numbers[other] += 1
    for index in range(known):
        step.numbers[step.tokens[index]] = 0
    return size, used


@compiled
def first_pairs(corpus, least, pairs, by_left, by_right, uses):
    """All pairs of the corpus that are frequent, and their places; uses of each token are counted too."""
    slots, ends, counts = corpus.slots, corpus.ends, corpus.counts
    size = np.int64(0)
    owner = np.full(len(slots), -1, np.int32)
    for place in range(len(slots) - 1):
        if slots[place] < 0:
            continue
        weight = _weight(place, ends, counts)
        uses[slots[place]] += weight
        if slots[place + 1] >= 0:
            if size == len(pairs.left):
                pairs = _roomy(pairs, size)
            pair, size = _pair(pairs, size, slots[place], slots[place + 1], by_left, by_right)
            pairs.counts[pair] += weight
            pairs.stop[pair] += 1
            owner[place] = pair
    used = np.int64(0)
    for pair in range(size):
        number = pairs.stop[pair] if pairs.counts[pair] >= least else 0
        pairs.start[pair] = pairs.stop[pair] = used
        used += number
    # Each merge writes two places for each token that it takes away, at most: so much and no more will ever be used.
    places = np.empty(used + 2 * len(slots), np.int32)
    for place in range(len(slots)):
        pair = owner[place]
        if pair >= 0 and pairs.counts[pair] >= least:
            places[pairs.stop[pair]] = place
            pairs.stop[pair] += 1
    return pairs, size, places, used


@compiled
def no_step(tokens):
    nothing = np.empty(0, np.int32)
    return Step(np.zeros(tokens, np.int64), np.zeros(tokens, np.int64), np.empty(tokens, np.int32), nothing, nothing)


@compiled
def _wide(step, visits):
    """The same with room for so many places."""
    if visits <= len(step.places):
        return step
    room = visits + visits // 4
    return Step(step.gains, step.numbers, step.tokens, np.empty(room, np.int32), np.empty(room, np.int32))


@compiled
def no_pairs():
    """Room for pairs."""
    room = np.int64(1 << 16)
    return Pairs(
        np.full(4 * room, -1, np.int32), np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int64),
        np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int32), np.empty(room, np.int32),
    )  # fmt: skip


@compiled
def merge(pair, token, least, pairs, size, places, used, left, right, corpus, widths, by_left, by_right):
    """Puts `token` wherever a pair stands, with all that follows from it; returns how often that is, and pairs, places
    and both sides with how much of them is used."""
    a, b = pairs.left[pair], pairs.right[pair]
    visits = pairs.stop[pair] - pairs.start[pair]
    left, right = _wide(left, visits), _wide(right, visits)
    total, found, others, found_right, others_right = _replace(
        pair, token, pairs, places, corpus.slots, corpus.ends, corpus.counts, widths, left, right
    )
    pairs.counts[pair] = DEAD
    while size + others + others_right > len(pairs.left):
        pairs = _roomy(pairs, size)
    # The right side first: the left one may take from what it finds there, where the token stands beside itself.
    size, used = _settle(
        right, found_right, others_right, b, token, False, least, pairs, size, places, used, by_left, by_right
    )
    size, used = _settle(left, found, others, a, token, True, least, pairs, size, places, used, by_left, by_right)
    return total, pairs, size, used, left, right
