"""Fill in the middle: what is rearranged can be put back, and all else stays as it was."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.errors import RecipeError, UsageError
from tilth.recipe import validated
from tilth.tokenize.formats import from_bert
from tilth.tokenize.tokenizer import Tokenizer
from tilth.train.data.shards import Sample
from tilth.train.objective.infill import SHORTEST, Infill
from tilth.train.objective.language import LanguageModel

PREFIX, MIDDLE, SUFFIX, BEGIN, END, TEXT = range(1, 7)  # ids; TEXT and above are text


def infill(**options: Any) -> Infill:
    return Infill(**{"prefix": PREFIX, "middle": MIDDLE, "suffix": SUFFIX, "begin": BEGIN, "end": END, **options})


def sample(kinds: list[tuple[int, bool, bool]], padding: int, first: int = 1000) -> Sample:
    """Documents of so many tokens of text, with a begin and an end token or without, and padding."""
    texts, numbers = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    for number, (count, begun, ended) in enumerate(kinds, 1):
        text = np.concatenate([[BEGIN] * begun, np.arange(first, first + count), [END] * ended]).astype(np.int64)
        texts.append(text)
        numbers.append(np.full(len(text), number, np.int32))
        first += count
    blank = np.zeros(padding, np.int64)
    return Sample(np.concatenate([*texts, blank]), np.concatenate([*numbers, blank]).astype(np.int32), 0)


def pieces(one: Sample, tokens: np.ndarray) -> list[tuple[list[int], list[int]]]:
    """Of each document of a sample, its tokens as they were and as they became."""
    numbers = sorted({*one.documents.tolist()} - {0})
    return [(one.tokens[at].tolist(), tokens[at].tolist()) for at in (one.documents == number for number in numbers)]


def put_back(tokens: list[int]) -> tuple[str, list[int]]:
    """How a document was arranged, and its text in the order in which it was."""
    first, last = tokens[:1] == [BEGIN], tokens[-1:] == [END]
    inner = tokens[first : len(tokens) - last]
    if PREFIX not in inner:
        return "", tokens
    if inner[:2] == [PREFIX, SUFFIX]:
        suffix, behind = inner[2 : inner.index(MIDDLE)], inner[inner.index(MIDDLE) + 1 :]
        return "spm", [BEGIN] * first + behind + suffix + [END] * last
    at = inner.index(SUFFIX), inner.index(MIDDLE)
    assert inner[0] == PREFIX
    text = inner[1 : at[0]] + inner[at[1] + 1 :] + inner[at[0] + 1 : at[1]]
    return "psm", [BEGIN] * first + text + [END] * last


kinds = st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.booleans()), min_size=1, max_size=6)


@given(kinds, st.integers(1, 5), st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_what_is_rearranged_can_be_put_back_but_for_the_last_three_tokens_of_its_text(
    documents, padding, seed, rate, spm
) -> None:
    one = sample(documents, padding)
    made = infill(rate=rate, spm=spm).rearranged(one.tokens[None], one.documents[None], [(seed,)])[0]
    assert np.array_equal(made[one.documents == 0], one.tokens[one.documents == 0])
    for before, after in pieces(one, made):
        ended = before[-1:] == [END]
        way, back = put_back(after)
        assert len(after) == len(before)
        if way:
            assert len([token for token in before if token >= TEXT]) >= SHORTEST
            assert back == before[: len(before) - 3 - ended] + before[len(before) - ended :]
            assert sorted(token for token in after if token in (PREFIX, MIDDLE, SUFFIX)) == [PREFIX, MIDDLE, SUFFIX]
        else:
            assert after == before


def many(rows: int, shortest: int = 20) -> list[Sample]:
    return [sample([(shortest + at, False, True) for at in range(8)], 3, 1000 + row) for row in range(rows)]


@pytest.mark.parametrize(("rate", "spm"), [(0.5, 0.5), (0.9, 0.2), (1.0, 1.0), (1.0, 0.0)])
def test_as_many_documents_as_asked_are_rearranged_each_way(rate, spm) -> None:
    samples = many(500, 300)  # long ones: with an empty prefix the two ways are one
    made = LanguageModel(infill=infill(rate=rate, spm=spm)).arrays(samples, [(1, row) for row in range(500)])
    ways = [
        put_back(after)[0]
        for one, tokens in zip(samples, np.c_[made["tokens"], made["labels"][:, -1]], strict=True)
        for _, after in pieces(one, tokens)
    ]
    share = ways.count("psm") + ways.count("spm")
    assert share / len(ways) == pytest.approx(rate, abs=0.03)
    assert ways.count("spm") / share == pytest.approx(spm, abs=0.03)


def test_cuts_fall_evenly_on_all_places() -> None:
    samples = [sample([(23, False, False)], 0)] * 4000  # of which 20 are left
    objective = infill(rate=1, spm=0)
    tokens, documents = (np.stack(each) for each in zip(*((one.tokens, one.documents) for one in samples), strict=True))
    made = objective.rearranged(tokens, documents, [(5, row) for row in range(4000)])
    prefixes = np.argmax(made == SUFFIX, axis=1) - 1
    middles = 22 - np.argmax(made == MIDDLE, axis=1)
    cuts = np.bincount(prefixes, minlength=21) + np.bincount(prefixes + middles, minlength=21)
    assert np.abs(cuts - 8000 / 21).max() < 100  # five standard deviations


def test_the_sample_is_the_same_in_any_batch_and_another_with_another_seed() -> None:
    samples = [sample([(40, True, True), (count, False, True), (15, False, False)], 20 - count) for count in range(20)]
    seeds = [(3, row) for row in range(20)]
    model = LanguageModel(infill=infill())
    together = model.arrays(samples, seeds)
    for size in (1, 3, 20):
        for first in range(0, 20, size):
            part = slice(first, first + size)
            apart = model.arrays(samples[part], seeds[part])
            assert all(np.array_equal(apart[name], together[name][part]) for name in together)
    other = model.arrays(samples, [(4, row) for row in range(20)])
    assert (other["tokens"] != together["tokens"]).any(axis=1).sum() > 10


@pytest.mark.parametrize("reset", [True, False])
def test_positions_documents_and_weights_are_those_of_the_text_as_it_was(reset) -> None:
    samples, seeds = many(20), [(1, row) for row in range(20)]
    plain = LanguageModel(reset=reset).arrays(samples)
    made = LanguageModel(reset=reset, infill=infill()).arrays(samples, seeds)
    for name in ("positions", "documents", "weights", "sources"):
        assert np.array_equal(made[name], plain[name])
    assert np.array_equal(made["tokens"][:, 1:], made["labels"][:, :-1])
    assert (made["tokens"] != plain["tokens"]).any()
    never = LanguageModel(reset=reset, infill=infill(rate=0)).arrays(samples, seeds)
    assert all(np.array_equal(never[name], plain[name]) for name in plain)


def test_a_text_that_has_a_sentinel_stays_as_it_is() -> None:
    one = sample([(30, False, True), (30, False, True)], 1)
    one.tokens[7] = MIDDLE
    made = infill(rate=1).rearranged(one.tokens[None], one.documents[None], [(1,)])[0]
    (before, after), (text, other) = pieces(one, made)
    assert before == after
    assert text != other


def test_without_ends_the_text_is_all_that_there_is() -> None:
    one = sample([(30, True, True)], 0)
    made = infill(rate=1, begin=None, end=None, spm=0).rearranged(one.tokens[None], one.documents[None], [(1,)])[0]
    assert made[0] == PREFIX
    assert END not in made


# --- Tokens -----------------------------------------------------------------------------------------------------------


def tokenizer(*tokens: str, **config: Any) -> Tokenizer:
    """A tokenizer with these special tokens, from id 7 on."""
    made = Tokenizer(from_bert(b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n" + "\n".join(tokens).encode(), "bert"))
    marks = [{"content": token, "id": 7 + at, "special": True} for at, token in enumerate(tokens)]
    return Tokenizer({**made.spec, "added_tokens": [*made.spec["added_tokens"], *marks]}, config, "mine")


@pytest.mark.parametrize("names", ["<|fim_{}|>", "<fim_{}>"])
def test_tokens_of_the_usual_names_are_found(names) -> None:
    parts = [names.format(part) for part in ("middle", "suffix", "prefix")]
    model = LanguageModel(infill=Infill()).fitted(tokenizer(*parts, "</s>", "<s>"), 20)
    assert model.infill == Infill(prefix=9, middle=7, suffix=8, end=10, begin=11)
    assert validated(LanguageModel, model.model_dump(mode="json"), "language") == model  # as ranks get it


def test_tokens_may_be_named_or_told_by_id() -> None:
    found = Infill(prefix="<PRE>", suffix=15, middle="<MID>", end=3).fitted(tokenizer("<PRE>", "<MID>"), 20)
    assert found == Infill(prefix=7, suffix=15, middle=8, end=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"mine: has no special token <\|fim_suffix\|> or <fim_suffix>; name one that it has as infill.suffix"),
        ({"suffix": "<SUF>"}, "mine: has no special token <SUF>"),
        ({"suffix": 20}, "suffix 20 is no id of a vocabulary of 20"),
        ({"suffix": 7}, "prefix 7, middle 8, suffix 7 must be three tokens"),
    ],
)
def test_tokens_that_are_missing_are_named(options, message) -> None:
    with pytest.raises(UsageError, match=message):
        Infill(**options).fitted(tokenizer("<fim_prefix>", "<fim_middle>"), 20)


def test_without_a_tokenizer_all_ids_must_be_told() -> None:
    assert infill().ids() == (PREFIX, MIDDLE, SUFFIX)
    with pytest.raises(UsageError, match="name it with --tokenizer, or the tokens' ids"):
        Infill(prefix="<fim_prefix>", middle=1, suffix=2).ids()


def test_a_language_model_reads_texts_as_they_stand_unless_told_otherwise() -> None:
    assert LanguageModel().infill is None
    assert LanguageModel().fitted(tokenizer(), 20) == LanguageModel()
    with pytest.raises(RecipeError, match="rate"):
        validated(LanguageModel, {"infill": {"rate": 1.5}}, "language")
