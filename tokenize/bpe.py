"""Byte-pair encoding from word counts: on bytes (GPT-2), on characters with byte fallback (SentencePiece), and on
characters that begin a word or continue one (WordPiece).

A vocabulary is a list of pieces and the merges that make them. Special tokens come first, then the alphabet in the
order of its bytes, then what was learned in its order: the same counts give the same vocabulary, byte for byte.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tilth.errors import UsageError

from ..curate.dedup.shingle import compiled
from .count import Counts
from .learn import Score, learn
from .merge import SEPARATOR, Corpus
from .split import METASPACE, decode

CONTINUATION = "##"


class LearnOptions(BaseModel):
    """What becomes a token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_frequency: int = Field(default=2, ge=1, description="a pair that is rarer becomes no token")
    max_token_length: int = Field(default=0, ge=0, description="characters in a token, at most; 0 for any number")
    character_coverage: float = Field(
        default=0.9995,
        gt=0,
        le=1,
        description="share of all characters that are in the alphabet, where it has characters",
    )
    score: Score = Field(
        default="likelihood",
        description="WordPiece: which token is next, by f(ab)/(f(a)f(b)) (likelihood), by the rise of the corpus' "
        "log-likelihood (gain), or by f(ab) alone as tokenizers does (frequency)",
    )
    ties: Literal["bytes", "ids"] = Field(
        default="bytes",
        description="which of equally frequent pairs comes first: by their bytes, or as tokenizers does",
    )
    required: tuple[str, ...] = Field(default=(), description="words or parts of words that become tokens in any case")


class Vocabulary(NamedTuple):
    """What was learned."""

    pieces: list[bytes]  # by id; special tokens are those before `alphabet`
    alphabet: int  # id of the first piece that is no special token
    merges: list[tuple[int, int]]  # in order; the merge number i makes piece `learned + i`
    learned: int  # id of the first piece that was learned

    def shortened(self, size: int) -> "Vocabulary":
        """Only the first pieces; what was learned last goes first."""
        return self._replace(pieces=self.pieces[:size], merges=self.merges[: max(size - self.learned, 0)])


def byte_bpe(counts: Counts, size: int, specials: Sequence[str], options: LearnOptions) -> Vocabulary:
    """Byte-level BPE: the 256 bytes are the alphabet."""
    base = [special.encode() for special in specials] + [bytes([byte]) for byte in range(256)]

    def lay(order: np.ndarray, slots: np.ndarray) -> None:
        _lay_bytes(counts.text, counts.bounds, order, len(specials), slots)

    corpus = _corpus(counts.counts, np.diff(counts.bounds), lay)
    return _learned(corpus, base, len(specials), size, options)


def fallback_bpe(counts: Counts, size: int, specials: Sequence[str], options: LearnOptions) -> Vocabulary:
    """BPE on characters: the alphabet is the 256 bytes, written `<0x00>`, for what has no character of its own, and the
    most frequent characters, as many as cover the share that the options ask for.

    The metaspace is always among them: as bytes it would come back as itself and not as a space.
    """
    fallback = [f"<0x{byte:02X}>".encode() for byte in range(256)]
    base = [special.encode() for special in specials] + fallback
    frequent = frequent_characters(character_uses(counts), options.character_coverage)
    alphabet = sorted({*frequent, ord(METASPACE)})
    symbols = np.full(0x110000, SEPARATOR)
    symbols[alphabet] = np.arange(len(alphabet)) + len(base)
    base += [chr(point).encode() for point in alphabet]
    return _learned(_character_corpus(counts, symbols, symbols), base, len(specials), size, options)


def wordpiece(counts: Counts, size: int, specials: Sequence[str], options: LearnOptions) -> Vocabulary:
    """WordPiece: characters that begin a word, and those that continue one, which are marked with `##`."""
    uses = character_uses(counts)
    covered = frequent_characters(uses, options.character_coverage)
    begins = np.zeros(0x110000, bool)
    follows = np.zeros(0x110000, bool)
    _places(counts.text, counts.bounds, begins, follows)
    first = [point for point in covered if begins[point]]
    rest = [point for point in covered if follows[point]]
    base = [special.encode() for special in specials]
    at_first, at_rest = np.full(0x110000, SEPARATOR), np.full(0x110000, SEPARATOR)
    at_first[first] = np.arange(len(first)) + len(base)
    at_rest[rest] = np.arange(len(rest)) + len(base) + len(first)
    base += [chr(point).encode() for point in first] + [(CONTINUATION + chr(point)).encode() for point in rest]
    corpus = _character_corpus(counts, at_first, at_rest)
    return _learned(corpus, base, len(specials), size, options, prefix=len(CONTINUATION))


def _learned(
    corpus: Corpus, base: list[bytes], alphabet: int, size: int, options: LearnOptions, prefix: int = 0
) -> Vocabulary:
    if size <= len(base):
        what = f"{alphabet} special tokens and an alphabet of {len(base) - alphabet}"
        raise UsageError(f"vocab_size {size} leaves no room beside {what}; ask for more, or lower character_coverage")
    score = options.score if prefix else "frequency"
    found = learn(
        corpus,
        base,
        size - len(base),
        options.min_frequency,
        options.max_token_length,
        score,
        prefix,
        options.ties,
    )
    merges = [(int(left), int(right)) for left, right in found.merges.tolist()]
    return Vocabulary(found.pieces, alphabet, merges, len(base))


def _corpus(counts: np.ndarray, lengths: np.ndarray, lay: Callable[[np.ndarray, np.ndarray], None]) -> Corpus:
    """Words, the most frequent first, as `lay` writes them into the slots."""
    there = np.flatnonzero((lengths > 0) & (counts > 0))
    order = there[np.argsort(-counts[there], kind="stable")]
    size = int(lengths[order].sum()) + len(order) + 1
    if size >= 2**31:
        raise UsageError(f"the words take {size} symbols, and 2^31 are too many; raise count.min_count")
    slots = np.full(size, SEPARATOR)
    lay(order, slots)
    each = counts[order]
    last = np.flatnonzero(np.append(each[1:] != each[:-1], True)) if len(order) else order
    return Corpus(slots, np.cumsum(lengths[order] + 1)[last] + 1, each[last])


@compiled
def _lay_bytes(text, bounds, order, first, slots):
    place = 1
    for word in order:
        for position in range(bounds[word], bounds[word + 1]):
            slots[place] = first + text[position]
            place += 1
        place += 1


def character_uses(counts: Counts) -> np.ndarray:
    """int64[0x110000], how often each character occurs."""
    uses = np.zeros(0x110000, np.int64)
    _use(counts.text, counts.bounds, counts.counts, uses)
    return uses


def frequent_characters(uses: np.ndarray, coverage: float) -> list[int]:
    """The most frequent characters that together are that share of all, in the order of their code points."""
    order = np.lexsort((np.arange(len(uses)), -uses))
    order = order[uses[order] > 0]
    covered = np.cumsum(uses[order])
    if not len(order):
        return []
    enough = int(np.searchsorted(covered, coverage * covered[-1])) + 1
    return sorted(order[:enough].tolist())


def _character_corpus(counts: Counts, first: np.ndarray, rest: np.ndarray) -> Corpus:
    """The words with a symbol for each character; one that has none cuts its word."""
    lengths = np.empty(len(counts.counts), np.int64)
    _measure(counts.text, counts.bounds, lengths)
    return _corpus(
        counts.counts,
        lengths,
        lambda order, slots: _lay_characters(counts.text, counts.bounds, order, first, rest, slots),
    )


def token_corpus(ids: np.ndarray, lengths: np.ndarray, counts: np.ndarray, barred: np.ndarray) -> Corpus:
    """Words that are tokens already: `ids` of all words one behind the other, how many each has and how often it
    occurs. Tokens that are `barred` (bool by id) become part of no other: they cut their word."""
    starts = np.cumsum(lengths) - lengths
    return _corpus(counts, lengths, lambda order, slots: _lay_tokens(ids, starts, lengths, order, barred, slots))


@compiled
def _lay_tokens(ids, starts, lengths, order, barred, slots):
    place = 1
    for word in order:
        for index in range(starts[word], starts[word] + lengths[word]):
            if not barred[ids[index]]:
                slots[place] = ids[index]
            place += 1
        place += 1


@compiled
def _use(text, bounds, counts, uses):
    for word in range(len(counts)):
        position = bounds[word]
        while position < bounds[word + 1]:
            point, width = decode(text, position)
            uses[point] += counts[word]
            position += width


@compiled
def _places(text, bounds, begins, follows):
    for word in range(len(bounds) - 1):
        position = bounds[word]
        while position < bounds[word + 1]:
            point, width = decode(text, position)
            if position == bounds[word]:
                begins[point] = True
            else:
                follows[point] = True
            position += width


@compiled
def _measure(text, bounds, lengths):
    for word in range(len(lengths)):
        length = 0
        for position in range(bounds[word], bounds[word + 1]):
            length += (text[position] & 0xC0) != 0x80
        lengths[word] = length


@compiled
def _lay_characters(text, bounds, order, first, rest, slots):
    place = 1
    for word in order:
        position = bounds[word]
        while position < bounds[word + 1]:
            point, width = decode(text, position)
            slots[place] = first[point] if position == bounds[word] else rest[point]
            position += width
            place += 1
        place += 1
