"""Learning merges: which pair of neighbouring tokens becomes one token next, until there are enough.

One procedure serves byte-pair encoding (the most frequent pair), WordPiece (the pair that raises the likelihood of the
corpus most) and vocabularies that grow (the words begin as tokens of an older vocabulary). Pairs wait in a heap under
what they were worth when they were put there; what is worth less by the time it comes up goes back. Ties are broken by
the bytes of the two tokens or, as the tokenizers library breaks them, by their ids.
"""

from typing import Literal, NamedTuple

import numpy as np

from ..curate.dedup.shingle import compiled
from .merge import DEAD, Corpus, first_pairs, merge, no_pairs, no_step
from .tables import hash_bytes, longer

Score = Literal["frequency", "likelihood", "gain"]
_SCORES = ("frequency", "likelihood", "gain")
_LIKELIHOOD, _GAIN = 1, 2


class Learned(NamedTuple):
    """Tokens that were learned, behind those that were there."""

    merges: np.ndarray  # int32[merges, 2]: the two tokens that become token `base + i`
    counts: np.ndarray  # int64[merges], how often the pair stood together then
    pieces: list[bytes]  # of all tokens, those that were there among them
    uses: np.ndarray  # int64, how often each token stands in the corpus in the end


def learn(
    corpus: Corpus,
    base: list[bytes],
    steps: int,
    min_frequency: int = 2,
    max_characters: int = 0,
    score: Score = "frequency",
    prefix: int = 0,
    ties: Literal["bytes", "ids"] = "bytes",
) -> Learned:
    """Up to `steps` merges over a corpus whose slots are ids of `base`.

    `max_characters` limits a token's length (0: none), `prefix` is the length of the mark of continuations ("##") that
    a right token begins with. A token that is there already is never made again, so that what `base` holds is also what
    is forbidden. The next pair ab is that of the largest score, f counting occurrences and N all tokens:

    - frequency: f(ab), as byte-pair encoding has it (Sennrich et al. 2016);
    - likelihood: f(ab) / (f(a) f(b)), WordPiece's (Schuster and Nakajima 2012) as it is commonly given;
    - gain: by how much the merge raises the log-likelihood of the corpus under a unigram model, the sum of
      f(t) ln(f(t) / N) over all tokens t.

    Pairs below `min_frequency` are left alone.
    """
    lengths = [len(piece) for piece in base]
    arena = np.zeros(max(sum(lengths), 1) + 64 * (steps + 1), np.uint8)
    joined = b"".join(base)
    arena[: len(joined)] = np.frombuffer(joined, np.uint8)
    bounds = np.zeros(len(base) + steps + 1, np.int64)
    bounds[1 : len(base) + 1] = np.cumsum(lengths)
    merges, counts, uses, arena, bounds = _learn(
        corpus, arena, bounds, len(base), steps, max(min_frequency, 1), max_characters, _SCORES.index(score), prefix,
        ties == "bytes",
    )  # fmt: skip
    whole, places = arena.tobytes(), bounds[: len(base) + len(merges) + 1].tolist()
    pieces = base + [whole[places[i] : places[i + 1]] for i in range(len(base), len(places) - 1)]
    return Learned(merges, counts, pieces, uses)


@compiled
def _compare(arena, bounds, a, b):
    """Negative, zero or positive as the bytes of token a stand before, equal or behind those of token b."""
    start_a, start_b = bounds[a], bounds[b]
    length_a, length_b = bounds[a + 1] - start_a, bounds[b + 1] - start_b
    for offset in range(min(length_a, length_b)):
        difference = np.int64(arena[start_a + offset]) - np.int64(arena[start_b + offset])
        if difference:
            return difference
    return length_a - length_b


@compiled
def _better(priority, pair, other_worth, other, pairs, arena, bounds, by_bytes):
    """Whether a pair comes before another."""
    if priority != other_worth:
        return priority > other_worth
    a, b = pairs.left[pair], pairs.left[other]
    if a == b:
        a, b = pairs.right[pair], pairs.right[other]
    if by_bytes:
        return _compare(arena, bounds, a, b) < 0
    return a < b


@compiled
def _push(heap, items, size, priority, pair, pairs, arena, bounds, by_bytes):
    """Adds a pair to the heap, which has room, and returns its size."""
    place = size
    while place:
        parent = (place - 1) // 2
        if not _better(priority, pair, heap[parent], items[parent], pairs, arena, bounds, by_bytes):
            break
        heap[place], items[place] = heap[parent], items[parent]
        place = parent
    heap[place], items[place] = priority, pair
    return size + 1


@compiled
def _pop(heap, items, size, pairs, arena, bounds, by_bytes):
    """Takes the first pair off the heap; returns it, its priority, and the heap's size."""
    priority, pair = heap[0], items[0]
    size -= 1
    last_worth, last = heap[size], items[size]
    place = 0
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and _better(
            heap[child + 1], items[child + 1], heap[child], items[child], pairs, arena, bounds, by_bytes
        ):
            child += 1
        if not _better(heap[child], items[child], last_worth, last, pairs, arena, bounds, by_bytes):
            break
        heap[place], items[place] = heap[child], items[child]
        place = child
    heap[place], items[place] = last_worth, last
    return pair, priority, size


@compiled
def _x_ln_x(x):
    return x * np.log(x) if x > 0 else 0.0


@compiled
def _worth(pairs, pair, uses, whole, score):
    """The score of a pair; `whole` is the number of all tokens."""
    count = np.float64(pairs.counts[pair])
    if score == 0 or count <= 0:
        return count
    a, b = np.float64(uses[pairs.left[pair]]), np.float64(uses[pairs.right[pair]])
    if score == _LIKELIHOOD:
        return count / (a * b)
    if pairs.left[pair] == pairs.right[pair]:
        change = _x_ln_x(a - 2 * count) - _x_ln_x(a)
    else:
        change = _x_ln_x(a - count) - _x_ln_x(a) + _x_ln_x(b - count) - _x_ln_x(b)
    return change + _x_ln_x(count) - _x_ln_x(whole - count) + _x_ln_x(whole)


@compiled
def _offer(pair, queue, pairs, uses, whole, arena, bounds, rule):
    """Puts a pair into the queue if it is frequent enough; returns the queue."""
    if pairs.counts[pair] < rule.least:
        return queue
    heap, items, size = queue
    if size == len(heap):
        heap, items = longer(heap, 2 * size + 1024), longer(items, 2 * size + 1024)
    worth = _worth(pairs, pair, uses, whole, rule.score)
    return heap, items, _push(heap, items, size, worth, np.int32(pair), pairs, arena, bounds, rule.by_bytes)


@compiled
def _string_slot(table, arena, bounds, token):
    """Where the token's bytes stand in the hash table of strings, or would."""
    mask = np.uint64(len(table) - 1)
    slot = hash_bytes(arena, bounds[token], bounds[token + 1]) & mask
    while table[slot] >= 0 and _compare(arena, bounds, table[slot], token):
        slot = (slot + np.uint64(1)) & mask
    return slot


class _Rule(NamedTuple):
    """What decides which pair is next."""

    least: int
    longest: int
    score: int
    prefix: int
    by_bytes: bool


@compiled
def _characters(arena, start, end):
    """Characters in that range, as the bytes tell that begin one."""
    found = 0
    for place in range(start, end):
        found += (arena[place] & 0xC0) != 0x80
    return found


@compiled
def _spell(a, b, token, arena, bounds, prefix):
    """Writes what two tokens make together as that of `token`; returns the arena and how many characters it is."""
    start, middle = bounds[token], bounds[token] + bounds[a + 1] - bounds[a]
    end = middle + bounds[b + 1] - bounds[b] - prefix
    if end > len(arena):
        arena = longer(arena, 2 * end)
    arena[start:middle] = arena[bounds[a] : bounds[a + 1]]
    arena[middle:end] = arena[bounds[b] + prefix : bounds[b + 1]]
    bounds[token + 1] = end
    length = _characters(arena, start, end)
    marked = prefix > 0 and arena[start] == 35 and arena[start + 1] == 35
    return arena, length - prefix if marked else length


@compiled
def _next(queue, pairs, uses, whole, arena, bounds, rule):
    """Takes the best pair off the queue; returns it, -1 if there is none, and the queue."""
    heap, items, size = queue
    while size:
        pair, worth, size = _pop(heap, items, size, pairs, arena, bounds, rule.by_bytes)
        current = _worth(pairs, pair, uses, whole, rule.score)
        if pairs.counts[pair] < rule.least or current > worth:  # it became rare, or stands in the queue once more
            continue
        if current == worth:
            return pair, (heap, items, size)
        size = _push(heap, items, size, current, pair, pairs, arena, bounds, rule.by_bytes)
    return np.int32(-1), (heap, items, size)


@compiled
def _learn(corpus, arena, bounds, base, steps, least, longest, score, prefix, by_bytes):
    rule = _Rule(least, longest, score, prefix, by_bytes)
    most = base + steps
    by_left, by_right = np.full(most, -1, np.int32), np.full(most, -1, np.int32)
    widths, uses = np.ones(most, np.int32), np.zeros(most, np.int64)
    merges, gains = np.empty((steps, 2), np.int32), np.empty(steps, np.int64)
    left, right = no_step(most), no_step(most)
    pairs, size, places, used = first_pairs(corpus, least, no_pairs(), by_left, by_right, uses)
    whole = uses.sum()

    strings = np.full(1 << int(np.ceil(np.log2(2 * most + 2))), -1, np.int32)
    for token in range(base):
        strings[_string_slot(strings, arena, bounds, token)] = token
    queue = np.empty(1024, np.float64), np.empty(1024, np.int32), 0
    for pair in range(size):
        queue = _offer(pair, queue, pairs, uses, whole, arena, bounds, rule)

    tokens = base
    while tokens < most:
        pair, queue = _next(queue, pairs, uses, whole, arena, bounds, rule)
        if pair < 0:
            break
        a, b, known = pairs.left[pair], pairs.right[pair], size
        arena, length = _spell(a, b, tokens, arena, bounds, prefix)
        slot = _string_slot(strings, arena, bounds, tokens)
        if strings[slot] >= 0 or (longest and length > longest):
            pairs.counts[pair] = DEAD
            continue
        strings[slot] = tokens
        widths[tokens] = widths[a] + widths[b]
        total, pairs, size, used, left, right = merge(
            pair, np.int32(tokens), least, pairs, size, places, used, left, right, corpus, widths, by_left, by_right
        )
        merges[tokens - base, 0], merges[tokens - base, 1], gains[tokens - base] = a, b, total
        uses[tokens] = total
        uses[a] -= total
        uses[b] -= total
        whole -= total
        tokens += 1

        for new in range(known, size):
            queue = _offer(new, queue, pairs, uses, whole, arena, bounds, rule)
        if score:  # what is left of a and b is rarer now, so that their other pairs say more
            for token in (a, b):
                near = by_left[token]
                while near >= 0:
                    queue = _offer(near, queue, pairs, uses, whole, arena, bounds, rule)
                    near = pairs.next_left[near]
                near = by_right[token]
                while near >= 0:
                    queue = _offer(near, queue, pairs, uses, whole, arena, bounds, rule)
                    near = pairs.next_right[near]
            if queue[2] > 2 * size + 1024:  # most of that are pairs that stand there once more
                queue = queue[0], queue[1], 0
                for near in range(size):
                    queue = _offer(near, queue, pairs, uses, whole, arena, bounds, rule)
    return merges[: tokens - base], gains[: tokens - base], uses[:tokens], arena, bounds
