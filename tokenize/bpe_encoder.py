"""BPE at work, compiled: the ids that the tokenizers library gives, several times as fast.

A word that was seen before is looked up; any other is merged pair by pair in the order of ranks. A vocabulary on
characters has no words (SentencePiece merges whole texts), but no merge can join two characters that no merge has at
its seam: there the text is cut, which changes nothing, and words are short again.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ..curate.dedup.shingle import compiled
from .split import Splitter, decode
from .tables import SHIFT, hash_bytes, same_bytes, spread

_CACHED = 64  # bytes of the longest word that is remembered
_REMEMBERED = 2**18  # words
_FEW = 96  # symbols of a word in which the best pair is looked for one by one
_NOTHING = np.uint64(0xFFFFFFFFFFFFFFFF)
_NEVER = np.int64(2**62)


class Merges(NamedTuple):
    """Ranks and results of merges, by pair."""

    keys: np.ndarray  # uint64, a hash table: left << 32 | right, _NOTHING where there is none
    values: np.ndarray  # int64, rank << 32 | id


class Memory(NamedTuple):
    """Words and their ids."""

    table: np.ndarray  # int32, a hash table of entries or -1
    hashes: np.ndarray  # uint64 by entry
    words: np.ndarray  # int64[entries + 1], where the entry's word begins in `text`
    ids: np.ndarray  # int64[entries + 1], where its ids begin in `tokens`
    text: np.ndarray  # uint8
    tokens: np.ndarray  # int32
    size: np.ndarray  # int64[1], entries


class BpeEncoder:
    """Encodes with a vocabulary of merges.

    `symbols` are the ids of characters (int32[0x110000], -1 for none) or, with a `splitter`, of bytes (int32[256]);
    `fallback` those of the bytes of characters that have none. `merges` are int32[n, 3]: pairs of ids and the id that
    they become, in the order of their ranks; of a pair that comes twice the last counts, as in the tokenizers library.
    `seams` are pairs of code points that stand where a merge joins; `whole` words become their id without being merged.
    """

    def __init__(
        self,
        symbols: np.ndarray,
        merges: np.ndarray,
        splitter: Splitter | None = None,
        fallback: np.ndarray | None = None,
        seams: Sequence[tuple[int, int]] = (),
        whole: Mapping[bytes, int] = MappingProxyType({}),
    ):
        self._symbols = symbols
        self._fallback = np.zeros(0, np.int32) if fallback is None else fallback
        self._splitter = splitter
        self._merges = _table(merges)
        self._ranks = len(merges)
        self._seams = _set(seams)
        self._memory = _memory(_REMEMBERED, 16 * _REMEMBERED, 8 * _REMEMBERED)
        self._whole = _memory(len(whole) + 2, sum(map(len, whole)), len(whole))
        for word, token in whole.items():
            _keep(self._whole, np.frombuffer(word, np.uint8), np.array([token], np.int32))

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """int32 ids of all texts, one behind the other, and how many each has (int64)."""
        if self._splitter:
            text, ends, counts = self._splitter(list(texts))
        else:
            encoded = [one.encode("utf-8", "replace") for one in texts]
            text = np.frombuffer(b"".join(encoded), np.uint8)
            bounds = np.cumsum([0, *map(len, encoded)])
            ends, counts = np.empty(len(text), np.int64), np.empty(len(texts), np.int64)
            ends = ends[: _cuts(text, bounds, self._seams, ends, counts)]
        ids, lengths = np.empty(len(text), np.int32), np.empty(len(texts), np.int64)
        total = _encode(
            text, ends, counts, self._symbols, self._fallback, self._merges, self._whole, self._memory, ids, lengths
        )
        return ids[:total], lengths

    def words(self, text: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same of words that stand one behind the other in `text` (uint8) and begin at `bounds` (int64[n + 1]);
        they are not cut any further, and need not be valid UTF-8 if symbols are bytes."""
        ids, lengths = np.empty(len(text), np.int32), np.empty(len(bounds) - 1, np.int64)
        counts = np.ones(len(lengths), np.int64)
        total = _encode(
            text,
            bounds[1:],
            counts,
            self._symbols,
            self._fallback,
            self._merges,
            self._whole,
            self._memory,
            ids,
            lengths,
        )
        return ids[:total], lengths

    def segment(self, piece: bytes) -> list[int]:
        """Ids of one word, by merging alone."""
        text = np.frombuffer(piece, np.uint8)
        return _segment(text, self._symbols, self._fallback, self._merges).tolist()

    def add_merge(self, left: int, right: int, made: int) -> None:
        """One more merge, behind all others."""
        if 2 * self._ranks >= len(self._merges.keys):
            self._merges = _longer(self._merges)
        _fill(np.array([[left, right, made]], np.int64), self._ranks, *self._merges)
        self._ranks += 1
        self._forget()

    def add_symbol(self, character: str, made: int) -> None:
        """An id for one character more."""
        self._symbols[ord(character)] = made
        self._forget()

    def _forget(self) -> None:
        if self._memory.size[0]:
            self._memory.table[:] = -1
            self._memory.size[0] = 0


def _memory(entries: int, text: int, tokens: int) -> Memory:
    """Room for so many words, for their bytes, and for their ids."""
    return Memory(
        np.full(_size_for(entries), -1, np.int32),
        np.empty(entries, np.uint64),
        np.zeros(entries + 1, np.int64),
        np.zeros(entries + 1, np.int64),
        np.empty(text, np.uint8),
        np.empty(tokens, np.int32),
        np.zeros(1, np.int64),
    )


def _size_for(entries: int) -> int:
    return 1 << (2 * entries + 2).bit_length()


def _table(merges: np.ndarray) -> Merges:
    keys = np.full(_size_for(len(merges)), _NOTHING)
    values = np.zeros(len(keys), np.int64)
    _fill(merges.astype(np.int64).reshape(-1, 3), 0, keys, values)
    return Merges(keys, values)


def _longer(merges: Merges) -> Merges:
    keys = np.full(2 * len(merges.keys), _NOTHING)
    values = np.zeros(len(keys), np.int64)
    _refill(merges, keys, values)
    return Merges(keys, values)


def _set(seams: Sequence[tuple[int, int]]) -> np.ndarray:
    keys = np.full(_size_for(len(seams)), _NOTHING)
    if seams:
        _fill_set(np.array(sorted(seams), np.int64), keys)
    return keys


@compiled
def _place(keys, key):
    mask = np.uint64(len(keys) - 1)
    slot = spread(key) & mask
    while keys[slot] != key and keys[slot] != _NOTHING:
        slot = (slot + np.uint64(1)) & mask
    return slot


@compiled
def _fill(merges, first, keys, values):
    for index in range(len(merges)):
        key = np.uint64(merges[index, 0]) << SHIFT | np.uint64(merges[index, 1])
        slot = _place(keys, key)
        keys[slot] = key
        values[slot] = np.int64(first + index) << 32 | merges[index, 2]


@compiled
def _refill(merges, keys, values):
    for index in range(len(merges.keys)):
        if merges.keys[index] != _NOTHING:
            slot = _place(keys, merges.keys[index])
            keys[slot] = merges.keys[index]
            values[slot] = merges.values[index]


@compiled
def _fill_set(pairs, keys):
    for index in range(len(pairs)):
        key = np.uint64(pairs[index, 0]) << SHIFT | np.uint64(pairs[index, 1])
        keys[_place(keys, key)] = key


@compiled
def _found(merges, left, right):
    """Rank and id of a pair, or _NEVER."""
    key = np.uint64(left) << SHIFT | np.uint64(right)
    slot = _place(merges.keys, key)
    return merges.values[slot] if merges.keys[slot] == key else _NEVER


@compiled
def _cuts(text, bounds, seams, ends, counts):
    """Writes where a text may be cut without changing how it is merged; returns how many words there are."""
    total = 0
    for index in range(len(bounds) - 1):
        before = total
        position, end = bounds[index], bounds[index + 1]
        last = -1
        while position < end:
            point, width = decode(text, position)
            if last >= 0:
                key = np.uint64(last) << SHIFT | np.uint64(point)
                if seams[_place(seams, key)] != key:
                    ends[total] = position
                    total += 1
            last = point
            position += width
        if end > bounds[index]:
            ends[total] = end
            total += 1
        counts[index] = total - before
    return total


@compiled
def _recall(memory, text, start, end, value):
    """The entry of a word, or -1."""
    mask = np.uint64(len(memory.table) - 1)
    slot = value & mask
    while memory.table[slot] >= 0:
        entry = memory.table[slot]
        begin, length = memory.words[entry], memory.words[entry + 1] - memory.words[entry]
        if (
            memory.hashes[entry] == value
            and length == end - start
            and same_bytes(text, start, memory.text, begin, length)
        ):
            return entry
        slot = (slot + np.uint64(1)) & mask
    return -1


@compiled
def _remember(memory, text, start, end, value, ids, number):
    """Adds a word with its ids; a full memory is emptied first."""
    size = memory.size[0]
    full = size + 1 >= len(memory.hashes)
    if full or memory.words[size] + end - start > len(memory.text) or memory.ids[size] + number > len(memory.tokens):
        memory.table[:] = -1
        size = np.int64(0)
    mask = np.uint64(len(memory.table) - 1)
    slot = value & mask
    while memory.table[slot] >= 0:
        slot = (slot + np.uint64(1)) & mask
    memory.table[slot] = size
    memory.hashes[size] = value
    memory.text[memory.words[size] : memory.words[size] + end - start] = text[start:end]
    memory.words[size + 1] = memory.words[size] + end - start
    memory.tokens[memory.ids[size] : memory.ids[size] + number] = ids[:number]
    memory.ids[size + 1] = memory.ids[size] + number
    memory.size[0] = size + 1


@compiled
def _keep(memory, word, ids):
    _remember(memory, word, 0, len(word), hash_bytes(word, 0, len(word)), ids, len(ids))


@compiled
def _begin(text, start, end, symbols, fallback):
    """The ids that a word begins as, and how many there are."""
    begun, number = np.empty(end - start + 1, np.int32), 0
    if len(symbols) == 256:
        for position in range(start, end):
            begun[number] = symbols[text[position]]
            number += 1
        return begun, number
    position = start
    while position < end:
        point, width = decode(text, position)
        if symbols[point] >= 0:
            begun[number] = symbols[point]
            number += 1
        else:
            for offset in range(width):
                begun[number] = fallback[text[position + offset]]
                number += 1
        position += width
    return begun, number


@compiled
def _merged(symbols, number, merges, ids, total):
    """Writes the ids of a word behind `total` others, given what it begins as; returns how many there are then."""
    if number > _FEW:
        return _merged_long(symbols, number, merges, ids, total)
    ranks = np.empty(number, np.int64)
    for index in range(number - 1):
        ranks[index] = _found(merges, symbols[index], symbols[index + 1])
    while number > 1:
        best, at = _NEVER, 0
        for index in range(number - 1):
            if ranks[index] < best:
                best, at = ranks[index], index
        if best == _NEVER:
            break
        symbols[at] = np.int32(best & 0xFFFFFFFF)
        number -= 1
        for index in range(at + 1, number):
            symbols[index] = symbols[index + 1]
            ranks[index] = ranks[index + 1]
        if at > 0:
            ranks[at - 1] = _found(merges, symbols[at - 1], symbols[at])
        if at < number - 1:
            ranks[at] = _found(merges, symbols[at], symbols[at + 1])
    ids[total : total + number] = symbols[:number]
    return total + number


@compiled
def _segment(text, symbols, fallback, merges):
    ids = np.empty(len(text), np.int32)
    begun, number = _begin(text, 0, len(text), symbols, fallback)
    return ids[: _merged(begun, number, merges, ids, 0)]


@compiled
def _merged_long(symbols, number, merges, ids, total):
    """The same for long words: a heap of ranks and places, and links between what is left."""
    after, before = np.arange(1, number + 1), np.arange(-1, number - 1)
    heap, places, size = np.empty(3 * number, np.int64), np.empty(3 * number, np.int64), 0
    for place in range(number - 1):
        value = _found(merges, symbols[place], symbols[place + 1])
        if value != _NEVER:
            size = _push(heap, places, size, value, place)
    while size:
        value, place = heap[0], places[0]
        size = _pop(heap, places, size)
        follower = after[place]
        if symbols[place] < 0 or follower >= number:
            continue
        if _found(merges, symbols[place], symbols[follower]) != value:
            continue
        symbols[place] = np.int32(value & 0xFFFFFFFF)
        symbols[follower] = -1
        after[place] = after[follower]
        if after[place] < number:
            before[after[place]] = place
            value = _found(merges, symbols[place], symbols[after[place]])
            if value != _NEVER:
                size = _push(heap, places, size, value, place)
        if before[place] >= 0:
            value = _found(merges, symbols[before[place]], symbols[place])
            if value != _NEVER:
                size = _push(heap, places, size, value, before[place])
    place = 0
    while place < number:
        ids[total] = symbols[place]
        total += 1
        place = after[place]
    return total


@compiled
def _push(heap, places, size, value, place):
    at = size
    while at:
        parent = (at - 1) // 2
        if heap[parent] < value or (heap[parent] == value and places[parent] < place):
            break
        heap[at], places[at] = heap[parent], places[parent]
        at = parent
    heap[at], places[at] = value, place
    return size + 1


@compiled
def _pop(heap, places, size):
    size -= 1
    value, place = heap[size], places[size]
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        right = child + 1
        if right < size and (
            heap[right] < heap[child] or (heap[right] == heap[child] and places[right] < places[child])
        ):
            child = right
        if value < heap[child] or (value == heap[child] and place < places[child]):
            break
        heap[at], places[at] = heap[child], places[child]
        at = child
    heap[at], places[at] = value, place
    return size


@compiled
def _encode(text, ends, counts, symbols, fallback, merges, whole, memory, ids, lengths):
    """Writes the ids of all words and how many each text has; returns how many there are."""
    total, start, word = 0, 0, 0
    for index in range(len(counts)):
        before = total
        for _ in range(counts[index]):
            end = ends[word]
            word += 1
            short = end - start <= _CACHED
            value = hash_bytes(text, start, end) if short or whole.size[0] else np.uint64(0)
            entry = _recall(memory, text, start, end, value) if short else -1
            if entry >= 0:
                for place in range(memory.ids[entry], memory.ids[entry + 1]):
                    ids[total] = memory.tokens[place]
                    total += 1
            else:
                entry = _recall(whole, text, start, end, value) if whole.size[0] else -1
                if entry >= 0:
                    ids[total] = whole.tokens[entry]
                    after = total + 1
                else:
                    begun, number = _begin(text, start, end, symbols, fallback)
                    after = _merged(begun, number, merges, ids, total)
                if short:
                    _remember(memory, text, start, end, value, ids[total:after], after - total)
                total = after
            start = end
        lengths[index] = total - before
    return total
