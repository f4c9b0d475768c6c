"""Merges that are learned, against the same said plainly: everything counted anew in each step."""

import math
import random
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tilth.tokenize.learn import Learned, learn
from tilth.tokenize.merge import SEPARATOR, Corpus

CUT = -1  # in a word: what has no symbol there


class Plain(NamedTuple):
    """What `learned_plainly` gives."""

    merges: list[tuple[int, int]]
    counts: list[int]
    pieces: list[bytes]
    uses: list[int]


def learned_plainly(
    words: list[tuple[list[int], int]],
    base: list[bytes],
    steps: int,
    min_frequency: int = 2,
    max_characters: int = 0,
    score: str = "frequency",
    prefix: int = 0,
    ties: str = "bytes",
) -> Plain:
    words = [(list(word), count) for word, count in words]
    pieces, merges, counts = list(base), [], []
    while len(merges) < steps:
        uses, pairs = Counter(), Counter()
        for word, count in words:
            for token in word:
                uses[token] += count
            for pair in pairwise(word):
                pairs[pair] += 0 if CUT in pair else count
        candidates = []
        for (a, b), count in pairs.items():
            if count < max(min_frequency, 1):
                continue
            made = pieces[a] + pieces[b][prefix:]
            shown = made[prefix:] if prefix and made.startswith(b"##") else made
            if made in pieces or (max_characters and len(shown.decode()) > max_characters):
                continue
            worth = Fraction(count, uses[a] * uses[b]) if score == "likelihood" else count
            order = (pieces[a], pieces[b]) if ties == "bytes" else (a, b)
            candidates.append((-worth, order, (a, b), made))
        if not candidates:
            break
        *_, pair, made = min(candidates)
        merges.append(pair)
        pieces.append(made)
        counts.append(sum(count * joined(word, pair, len(pieces) - 1) for word, count in words))
    uses = Counter()
    for word, count in words:
        uses.update({token: count * number for token, number in Counter(word).items()})
    return Plain(merges, counts, pieces, [uses[token] for token in range(len(pieces))])


def joined(word: list[int], pair: tuple[int, int], token: int) -> int:
    """Puts `token` for each pair in the word, from its beginning on; returns how often."""
    place = found = 0
    while place + 1 < len(word):
        if (word[place], word[place + 1]) == pair:
            word[place : place + 2] = [token]
            found += 1
        place += 1
    return found


def corpus_of(words: list[tuple[list[int], int]]) -> Corpus:
    ordered = sorted(words, key=lambda entry: -entry[1])
    slots, ends, counts = [int(SEPARATOR)], [], []
    for word, count in ordered:
        slots += [*word, int(SEPARATOR)]
        if counts and counts[-1] == count:
            ends[-1] = len(slots)
        else:
            ends.append(len(slots))
            counts.append(count)
    return Corpus(np.array(slots, np.int32), np.array(ends, np.int64), np.array(counts, np.int64))


def agree(found: Learned, plain: Plain) -> None:
    assert found.pieces == plain.pieces
    assert [tuple(pair) for pair in found.merges.tolist()] == plain.merges
    assert found.counts.tolist() == plain.counts
    assert found.uses.tolist() == plain.uses


LETTERS = [letter.encode() for letter in "bcaé中"]  # in no order, so that ties by bytes and by ids differ
QUICK = settings(max_examples=150, deadline=None)


def words_of(symbols: int, shortest: int = 0, cuts: bool = True) -> st.SearchStrategy:
    symbol = st.integers(CUT if cuts else 0, symbols - 1)
    word = st.lists(symbol, min_size=shortest, max_size=9)
    return st.lists(st.tuples(word, st.integers(1, 6)), max_size=12)


ASKED = st.fixed_dictionaries(
    {
        "steps": st.integers(0, 25),
        "min_frequency": st.integers(0, 5),
        "max_characters": st.sampled_from([0, 0, 2, 3]),
        "score": st.sampled_from(["frequency", "likelihood"]),
        "ties": st.sampled_from(["bytes", "ids"]),
    }
)


@QUICK
@given(words=words_of(len(LETTERS)), asked=ASKED)
@example([([0, 0, 0, 0, 0, 0, 0], 3), ([0, 0, 0], 2)], {"steps": 5})
@example([([0, 1, 0, 1, 0, 1, 0], 3), ([1, 0, 1, 0, 0, 1], 2)], {"steps": 9})
@example([([0] * 31, 1), ([1, 0, 0, 1] * 4, 1)], {"steps": 20, "min_frequency": 1, "score": "likelihood"})
@example([([2], 9), ([2, 1], 2), ([0, 1], 2)], {"steps": 2, "score": "likelihood"})
def test_merges_counts_pieces_and_uses_are_those_of_counting_anew(words, asked):
    agree(learn(corpus_of(words), list(LETTERS), **asked), learned_plainly(words, LETTERS, **asked))


@QUICK
@given(words=words_of(2, 1), asked=ASKED)
def test_words_of_two_letters_that_repeat_are_cut_from_their_beginning(words, asked):
    agree(learn(corpus_of(words), [b"b", b"a"], **asked), learned_plainly(words, [b"b", b"a"], **asked))


@QUICK
@given(
    words=words_of(3, 1),
    there=st.lists(st.sampled_from([b"ba", b"aa", b"bab", b"cb", b"abc"]), max_size=3),
    asked=ASKED,
)
def test_what_the_vocabulary_holds_already_is_never_made_again(words, there, asked):
    base = [b"b", b"a", b"c", *dict.fromkeys(there)]
    found = learn(corpus_of(words), list(base), **asked)
    agree(found, learned_plainly(words, base, **asked))
    assert len(set(found.pieces)) == len(found.pieces)


@QUICK
@given(words=words_of(4, 1), asked=ASKED, data=st.data())
def test_older_tokens_of_any_length_are_joined_like_letters(words, asked, data):
    """As an existing vocabulary is grown."""
    base = [b"ab", "中é".encode(), b"x", "é".encode()]
    agree(learn(corpus_of(words), list(base), **asked), learned_plainly(words, base, **asked))


@QUICK
@given(words=words_of(3, 1, cuts=False), asked=ASKED)
def test_continuations_are_joined_without_their_mark(words, asked):
    base = [b"b", b"a", "é".encode(), b"##b", b"##a", "##é".encode()]
    marked = [([word[0], *(symbol + 3 for symbol in word[1:])], count) for word, count in words]
    found = learn(corpus_of(marked), list(base), prefix=2, **asked)
    agree(found, learned_plainly(marked, base, prefix=2, **asked))
    assert all(piece.count(b"##") <= 1 for piece in found.pieces)


def test_likelihood_prefers_what_says_more_to_what_is_frequent():
    """q is always before u, e is everywhere: f(qu)/(f(q)f(u)) = 1/3, f(te)/(f(t)f(e)) = 5/(5*11)."""
    base = [b"t", b"e", b"q", b"u"]
    words = [([0, 1], 5), ([2, 3], 3), ([1, 1, 1], 2)]
    frequent, likely = (learn(corpus_of(words), list(base), 1, score=score) for score in ("frequency", "likelihood"))
    assert (frequent.pieces[-1], likely.pieces[-1]) == (b"te", b"qu")


@pytest.mark.parametrize("score", ["frequency", "likelihood"])
def test_many_merges_over_many_words_are_those_of_counting_anew(score):
    """So many that older priorities are cleared away in between."""
    chance = random.Random(2)
    words = [(chance.choices(range(10), k=chance.randint(1, 12)), chance.randint(1, 9)) for _ in range(300)]
    base = [letter.encode() for letter in "ejbcaghifd"]
    found = learn(corpus_of(words), list(base), 250, score=score)
    agree(found, learned_plainly(words, base, 250, score=score))
    assert len(found.merges) == 250


def test_words_of_one_letter_count_as_occurrences_of_it():
    """a alone is frequent, so that ab says less than cd, which is as rare."""
    words = [([0], 100), ([0, 1], 4), ([2, 3], 4)]
    found = learn(corpus_of(words), [b"a", b"b", b"c", b"d"], 1, score="likelihood")
    assert found.pieces[-1] == b"cd"
    assert found.uses.tolist() == [104, 4, 0, 0, 4]


def test_ties_are_broken_by_bytes_or_by_ids():
    words = [([0, 1], 3), ([2, 3], 3)]
    base = [b"z", b"z2", b"a", b"a2"]
    assert learn(corpus_of(words), base, 1, ties="bytes").pieces[-1] == b"aa2"
    assert learn(corpus_of(words), base, 1, ties="ids").pieces[-1] == b"zz2"


@pytest.mark.parametrize("score", ["frequency", "likelihood"])
@given(words=words_of(3, 1))
@settings(max_examples=40, deadline=None)
def test_counts_beyond_32_bits_give_the_merges_of_small_ones(words, score):
    """A pair's count is a sum that other libraries keep in 32 bits, which wrap."""
    scale = 2**34
    small = learn(corpus_of(words), LETTERS[:3], 12, 2, score=score)
    large = learn(corpus_of([(word, count * scale) for word, count in words]), LETTERS[:3], 12, 2 * scale, score=score)
    assert large.pieces == small.pieces
    assert large.counts.tolist() == [count * scale for count in small.counts.tolist()]
    assert large.uses.tolist() == [count * scale for count in small.uses.tolist()]


@settings(max_examples=60, deadline=None)
@given(words=words_of(3, 1), asked=ASKED, order=st.randoms(use_true_random=False))
def test_the_order_of_equally_frequent_words_changes_nothing(words, asked, order):
    shuffled = list(words)
    order.shuffle(shuffled)
    first, second = (learn(corpus_of(some), LETTERS[:3], **asked) for some in (words, shuffled))
    assert first.pieces == second.pieces
    assert first.merges.tolist() == second.merges.tolist()


def test_a_token_has_no_more_characters_than_asked_whatever_its_bytes():
    base = ["中".encode(), "文".encode()]
    found = learn(corpus_of([([0, 1] * 8, 5)]), base, 9, max_characters=3)
    assert {len(piece.decode()) for piece in found.pieces} == {1, 2}
    longer = learn(corpus_of([([0, 1] * 8, 5)]), base, 9, max_characters=4)
    assert max(len(piece.decode()) for piece in longer.pieces) == 4


def test_nothing_to_learn_from_gives_no_merges():
    for words in ([], [([], 3)], [([0], 3)], [([CUT, CUT], 3)], [([0, CUT, 1], 3)]):
        assert learn(corpus_of(words), [b"a", b"b"], 5).pieces == [b"a", b"b"]


def test_one_word_of_a_million_letters_is_learned_from():
    letters = np.random.default_rng(5).integers(0, 4, 1_000_000)
    corpus = corpus_of([(letters.tolist(), 1)])
    found = learn(corpus, [b"a", b"b", b"c", b"d"], 200)
    lengths = np.array([len(piece) for piece in found.pieces])
    assert len(found.merges) == 200
    assert int((found.uses * lengths).sum()) == 1_000_000


def test_a_million_times_one_letter_halves_itself():
    found = learn(corpus_of([([0] * 2**20, 1)]), [b"a"], 100)
    assert [len(piece) for piece in found.pieces] == [2**power for power in range(20)]
    assert found.uses.tolist() == [0] * 19 + [2]


def log_likelihood(words: list[tuple[list[int], int]]) -> float:
    """Of the words as tokens of a unigram model: the sum of f ln(f / N)."""
    uses = Counter()
    for word, count in words:
        for token in word:
            uses[token] += count
    whole = sum(uses.values())
    return sum(count * math.log(count / whole) for count in uses.values())


def merged_in(words: list[tuple[list[int], int]], pair: tuple[int, int], token: int) -> list[tuple[list[int], int]]:
    """The words with a token wherever the pair stands."""
    words = [(list(word), count) for word, count in words]
    for word, _ in words:
        joined(word, pair, token)
    return words


@given(words=st.lists(st.tuples(st.permutations(range(5)), st.integers(1, 9)), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_gain_takes_the_pair_that_raises_the_log_likelihood_most(words):
    """No letter comes twice in a word, so that no pair overlaps itself and each rise can be measured by merging."""
    found = learn(corpus_of(words), list(LETTERS[:5]), 4, 1, score="gain")
    state = [(list(word), count) for word, count in words]
    for number, merge in enumerate(found.merges.tolist()):
        candidates = {pair for word, _ in state for pair in pairwise(word)}
        rises = {pair: log_likelihood(merged_in(state, pair, 5 + number)) for pair in candidates}
        assert rises[tuple(merge)] >= max(rises.values()) - 1e-6
        state = merged_in(state, tuple(merge), 5 + number)
