"""What a sample becomes: targets and their weights, what is hidden, and spans that can be put back."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_shards import Pass

from tilth.errors import InputError, UsageError
from tilth.tokenize.encode import write_index
from tilth.tokenize.formats import from_bert
from tilth.tokenize.tokenizer import Tokenizer
from tilth.train.data.shards import Sample
from tilth.train.objective.language import LanguageModel
from tilth.train.objective.masked import MaskedModel
from tilth.train.objective.spans import SpanCorruption, spans, text_to_text

PAD, UNK, CLS, SEP, MASK = range(5)  # of the vocabulary below
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(195))]
END, FILL = 1, 0  # of the encoder with a decoder
SENTINELS = tuple(range(999, 899, -1))

documents = st.lists(st.integers(0, 9), min_size=1, max_size=6)  # lengths of documents in a sample


def sample(lengths: list[int], padding: int = 0, source: int = 0, first: int = 100) -> Sample:
    """Documents of those lengths, with tokens that count up from `first`, and padding."""
    numbers = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    tokens = np.concatenate([np.arange(first, first + len(numbers)), np.zeros(padding, np.int64)])
    return Sample(tokens, np.concatenate([numbers, np.zeros(padding)]).astype(np.int32), source)


def tokenizer(tokens: list[str] = BERT, config: dict[str, Any] | None = None) -> Tokenizer:
    return Tokenizer(from_bert("\n".join(tokens).encode(), "bert"), config, "mine")


def alike(one: dict[str, np.ndarray], other: dict[str, np.ndarray], rows: slice | int) -> bool:
    """Whether `one` is those rows of `other`."""
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key][rows]) for key in one)


# --- Language model -------------------------------------------------------------------------------------------------


def test_a_label_is_the_next_token_and_nothing_is_foretold_across_documents() -> None:
    made = LanguageModel().arrays([sample([3, 1, 2], padding=2, source=4)])
    assert made["tokens"].tolist() == [[100, 101, 102, 103, 104, 105, 0]]
    assert made["labels"].tolist() == [[101, 102, 103, 104, 105, 0, 0]]
    assert made["documents"].tolist() == [[1, 1, 1, 2, 3, 3, 0]]
    assert made["positions"].tolist() == [[0, 1, 2, 0, 0, 1, 0]]
    assert made["weights"].tolist() == [[1, 1, 0, 0, 1, 0, 0]]
    assert made["sources"].tolist() == [4]
    kinds = {key: value.dtype.name for key, value in made.items()}
    whole = dict.fromkeys(["tokens", "labels", "positions", "sources"], "int64")
    assert kinds == {**whole, "documents": "int32", "weights": "float32"}


def test_without_reset_a_sample_is_one_text() -> None:
    made = LanguageModel(reset=False).arrays([sample([3, 1, 2], padding=2)])
    assert made["documents"].tolist() == [[1, 1, 1, 1, 1, 1, 0]]
    assert made["positions"].tolist() == [[0, 1, 2, 3, 4, 5, 0]]
    assert made["weights"].tolist() == [[1, 1, 1, 1, 1, 0, 0]]


@given(st.lists(documents, min_size=1, max_size=4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_each_row_is_what_a_plain_loop_makes_of_its_sample(rows, reset) -> None:
    longest = max(map(sum, rows)) + 2
    samples = [sample(lengths, longest - sum(lengths), source) for source, lengths in enumerate(rows)]
    made = LanguageModel(reset=reset).arrays(samples)
    for row, one in enumerate(samples):
        place = 0
        for at in range(longest - 1):
            here, after = one.documents[at], one.documents[at + 1]
            place = (
                0
                if not at or (one.documents[at - 1] != here if reset else not here and one.documents[at - 1])
                else place + 1
            )
            assert made["positions"][row, at] == place
            assert made["weights"][row, at] == (here > 0 and (after == here if reset else after > 0))
            assert made["labels"][row, at] == one.tokens[at + 1]
        assert alike(LanguageModel(reset=reset).arrays([one]), made, slice(row, row + 1))


@pytest.mark.parametrize("length", [1, 4, 10])
def test_each_token_of_a_pass_counts_once_as_a_label(length, tmp_path) -> None:
    lengths = [4, 1, 7, 2, 2, 5]
    tokens = np.arange(21, dtype=np.uint16)  # each of them once
    tokens.tofile(tmp_path / "x.bin")
    write_index(tmp_path / "x.idx", np.array(lengths, np.int64), tokens.dtype)
    shards = Pass([str(tmp_path)], length)
    firsts = np.cumsum([0, *lengths])[:-1]
    for reset in (False, True):
        made = LanguageModel(reset=reset).arrays([shards.sample(index) for index in range(len(shards))])
        counted = np.sort(made["labels"][made["weights"] > 0]).tolist()
        assert counted == np.setdiff1d(tokens[1:], firsts if reset else []).tolist()


# --- Masked language model ------------------------------------------------------------------------------------------


def masked(**options: Any) -> MaskedModel:
    return MaskedModel(**options).fitted(tokenizer(), len(BERT))


def long_samples(rows: int, length: int) -> list[Sample]:
    chance = np.random.default_rng(3)
    ones = np.ones(length + 1, np.int32)
    return [Sample(chance.integers(0, len(BERT), length + 1), ones, 0) for _ in range(rows)]  # special ones among them


def seeds(count: int, first: int = 0) -> list[tuple[int, ...]]:
    return [(7, index) for index in range(first, first + count)]


def test_text_stands_between_cls_and_sep_and_padding_behind() -> None:
    objective = masked()
    assert objective.length(8) == 6
    made = objective.arrays([sample([3, 4]), sample([3, 1], padding=3), sample([7])], seeds(3))
    texts = [[CLS, 100, 101, 102, 103, 104, 105, SEP], [CLS, 100, 101, 102, 103, SEP, PAD, PAD]]
    assert made["labels"].tolist() == [*texts, texts[0]]
    assert made["documents"].tolist() == [[1, 1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 2, 2, 0, 0], [1] * 8]
    assert made["positions"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 0, 1, 0, 1], [*range(8)]]
    crossing = masked(reset=False).arrays([sample([3, 4])], seeds(1))
    assert crossing["positions"].tolist() == [[*range(8)]]
    assert crossing["documents"].tolist() == [[1] * 8]


def test_shards_that_have_cls_and_sep_are_taken_as_they_are() -> None:
    objective = masked(framed=False)
    assert objective.length(8) == 8
    stored = Sample(np.array([CLS, 100, 101, SEP, PAD, CLS]), np.array([1, 1, 1, 1, 0, 2], np.int32), 0)
    made = objective.arrays([stored], seeds(1))
    assert made["labels"].tolist() == [[CLS, 100, 101, SEP, PAD]]
    assert made["documents"].tolist() == [[1, 1, 1, 1, 0]]
    assert made["weights"][0, [0, 3, 4]].tolist() == [0, 0, 0]


@pytest.mark.parametrize("share", [0.15, 0.4, 1.0, 1e-6])
def test_as_many_tokens_as_asked_are_predicted_and_none_of_them_is_special(share) -> None:
    made = masked(share=share).arrays(long_samples(40, 126), seeds(40))
    ordinary = made["labels"] > MASK
    chosen = made["weights"] > 0
    assert not (chosen & ~ordinary).any()
    assert chosen.sum(axis=1).tolist() == [max(1, round(share * count)) for count in ordinary.sum(axis=1)]
    assert np.array_equal(made["tokens"][~chosen], made["labels"][~chosen])


def test_of_these_80_percent_are_masked_10_replaced_and_10_left() -> None:
    made = masked().arrays(long_samples(400, 510), seeds(400))
    chosen = made["weights"] > 0
    tokens, labels = made["tokens"][chosen], made["labels"][chosen]
    hidden, kept = (tokens == MASK).mean(), (tokens == labels).mean()
    assert chosen.sum() > 25_000
    assert hidden == pytest.approx(0.8, abs=0.01)
    assert kept == pytest.approx(0.1, abs=0.01)
    put_in = tokens[(tokens != MASK) & (tokens != labels)]
    assert np.array_equal(np.unique(put_in), np.arange(MASK + 1, len(BERT))), "any word, and nothing special"
    where = np.flatnonzero(chosen.sum(axis=0))
    assert (where[0], where[-1], len(where)) == (1, 510, 510), "any place"


def test_all_or_none_may_be_masked_or_replaced() -> None:
    rows = long_samples(3, 126)
    for masked_share, replaced in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0)):
        made = masked(masked=masked_share, replaced=replaced).arrays(rows, seeds(3))
        tokens, labels = (made[key][made["weights"] > 0] for key in ("tokens", "labels"))
        assert (tokens == MASK).all() == (masked_share == 1)
        assert (tokens == labels).all() == (masked_share == replaced == 0)


def test_what_is_hidden_follows_from_the_samples_seed_in_any_batch() -> None:
    rows = long_samples(6, 62)
    made = masked().arrays(rows, seeds(6))
    assert alike(masked().arrays(rows[2:4], seeds(2, 2)), made, slice(2, 4))
    again = masked().arrays([rows[0]] * 2, [(7, 0), (7, 1)])["weights"]
    assert not np.array_equal(again[0], again[1])
    shared = masked().arrays([rows[0], rows[0]], [(7, 0), (8, 0)])["weights"]
    assert not np.array_equal(shared[0], shared[1])


def test_a_sample_with_nothing_to_hide_predicts_nothing() -> None:
    special = Sample(np.full(9, UNK), np.ones(9, np.int32), 0)
    made = masked().arrays([sample([], padding=9), special, sample([1], padding=8)], seeds(3))
    assert made["weights"].sum(axis=1).tolist() == [0, 0, 1]
    assert not made["documents"][0].any()


def test_a_masked_model_needs_its_tokens_and_room() -> None:
    with pytest.raises(UsageError, match=r"mine: has no mask token, .* name it as mask_token in tokenizer_config.json"):
        MaskedModel().fitted(tokenizer([token for token in BERT if token != "[MASK]"]), 199)
    told = MaskedModel(mask=7, begin=8).fitted(tokenizer([token for token in BERT if token != "[MASK]"]), 199)
    assert (told.begin, told.mask, told.vocab_size) == (8, 7, 199)
    assert {7, 8, PAD, UNK, SEP} <= set(told.special)
    with pytest.raises(UsageError, match="2 tokens has no room"):
        masked().length(2)
    with pytest.raises(ValidationError, match="at most 1 in all"):
        MaskedModel(masked=0.9, replaced=0.2)


# --- Span corruption ------------------------------------------------------------------------------------------------


def corruption(**options: Any) -> SpanCorruption:
    return SpanCorruption(**{"end": END, "pad": FILL, "sentinels": SENTINELS, **options})


def put_back(made: dict[str, np.ndarray], row: int) -> list[int]:
    """The text that the two sides of a row make together."""
    inputs = made["tokens"][row][made["documents"][row] > 0].tolist()
    targets = made["labels"][row][made["weights"][row] > 0].tolist()
    assert (inputs.pop(), targets.pop()) == (END, END)
    order = [token for token in targets if token in SENTINELS]
    assert order == list(SENTINELS[: len(order)]), "sentinels come in order"
    assert [token for token in inputs if token in SENTINELS] == order[:-1]
    assert targets[-1] == order[-1], "one more closes the last span"
    bounds = [targets.index(token) for token in order]
    taken = {order[at]: targets[bounds[at] + 1 : bounds[at + 1]] for at in range(len(order) - 1)}
    assert all(taken.values()), "no span is empty"
    return [token for one in inputs for token in taken.get(one, [one])]


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.floats(0.01, 0.5),
    st.floats(1, 6),
    st.integers(0, 2**64),
)
@settings(max_examples=150, deadline=None)
def test_both_sides_together_are_the_text(lengths, density, mean_span, seed) -> None:
    objective = corruption(density=density, mean_span=mean_span)
    longest = max(lengths)
    rows = [sample([length // 2, length - length // 2], longest - length + 1) for length in lengths]
    made = objective.arrays(rows, [(seed, row) for row in range(len(rows))])
    full = objective.sizes(longest)
    assert made["tokens"].shape == made["documents"].shape == (len(rows), full.encoder)
    assert {made[key].shape for key in ("labels", "weights", "decoder_tokens")} == {(len(rows), full.decoder)}
    for row, length in enumerate(lengths):
        assert put_back(made, row) == rows[row].tokens[:length].tolist()
        size = objective.sizes(length)
        there = made["decoder_documents"][row]
        assert (made["documents"][row].sum(), there.sum()) == (size.encoder, size.decoder)
        assert np.array_equal(there > 0, made["weights"][row] > 0)
        told = made["labels"][row][there > 0].tolist()
        assert made["decoder_tokens"][row].tolist() == [FILL, *told[:-1], *[FILL] * (full.decoder - size.decoder)]
        inner = made["tokens"][row][made["documents"][row] > 0]
        assert np.isin(inner, SENTINELS).sum() == size.spans


@given(st.integers(2, 3000), st.floats(0.01, 0.5), st.floats(1, 10))
@settings(max_examples=200, deadline=None)
def test_a_text_fills_the_encoder_exactly(model_length, density, mean_span) -> None:
    objective = corruption(density=density, mean_span=mean_span, sentinels=())
    tokens = objective.length(model_length)
    assert objective.sizes(tokens).encoder == model_length
    assert objective.sizes(tokens + 1).encoder == model_length + 1


def test_sizes_are_those_of_the_paper() -> None:
    """Its code makes inputs of 512 tokens from 568, and targets of 114, which have no last sentinel there."""
    assert corruption().length(512) == 568
    assert corruption().sizes(568) == (85, 28, 512, 114 + 1)


def test_spans_are_as_likely_at_either_end_as_anywhere() -> None:
    size = corruption().sizes(60)
    drawn = np.mean([spans(np.random.default_rng(seed), 60, size) for seed in range(8000)], axis=0)
    assert drawn.mean() == pytest.approx(size.noise / 60)
    assert drawn[:5].mean() == pytest.approx(drawn[-5:].mean(), abs=0.015)
    assert 0.05 < drawn.min() <= drawn.max() < 0.25


def test_spans_follow_from_the_samples_seed_in_any_batch() -> None:
    rows = [sample([200, 101]), sample([301]), sample([150], padding=151), sample([1, 300])]
    made = corruption().arrays(rows, seeds(4))
    assert alike(corruption().arrays(rows[1:3], seeds(2, 1)), made, slice(1, 3))
    again = corruption().arrays([rows[0]] * 2, seeds(2))["tokens"]
    assert not np.array_equal(again[0], again[1])


def test_a_sample_of_padding_alone_counts_for_nothing() -> None:
    made = corruption().arrays([sample([20], padding=1), sample([], padding=21)], seeds(2))
    assert [made[key][1].sum() for key in ("weights", "documents", "decoder_documents")] == [0, 0, 0]


def test_sentinels_are_the_tokenizers_or_ids_above_it() -> None:
    extra = [f"<extra_id_{number}>" for number in range(3)]
    spec = from_bert("\n".join(BERT + extra).encode(), "bert")
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    rows = [{"id": 200 + at, "content": token, **flags, "special": True} for at, token in enumerate(extra)]
    named = Tokenizer({**spec, "added_tokens": [*spec["added_tokens"], *rows]}, {"eos_token": "[SEP]"})
    assert SpanCorruption().fitted(named, 256) == SpanCorruption(end=SEP, pad=PAD, sentinels=(200, 201, 202))
    plain = tokenizer(config={"eos_token": "[SEP]"})
    assert SpanCorruption().fitted(plain, 210).sentinels == tuple(range(209, 199, -1))
    assert SpanCorruption().fitted(plain, 1000).sentinels == SENTINELS
    assert SpanCorruption(sentinels=(9, 8), end=5).fitted(plain, 200).sentinels == (9, 8)
    with pytest.raises(UsageError, match=r"mine: its 200 ids leave none for sentinels; set model.vocab_size to 300"):
        SpanCorruption().fitted(plain, 200)
    with pytest.raises(UsageError, match="mine: has no eos token"):
        SpanCorruption().fitted(tokenizer(), 300)


def test_what_cannot_be_corrupted_is_told() -> None:
    with pytest.raises(UsageError, match="28 spans need 29 sentinels, there are 28"):
        corruption(sentinels=SENTINELS[:28]).length(512)
    assert corruption(sentinels=SENTINELS[:29]).length(512) == 568
    with pytest.raises(UsageError, match="reads 1 tokens has no room"):
        corruption().length(1)
    with pytest.raises(InputError, match="token id 900, which is a sentinel, stands in the text"):
        corruption().arrays([sample([30], first=890)], seeds(1))


# --- Text to text ---------------------------------------------------------------------------------------------------


def test_pairs_of_texts_are_cut_and_filled_on_both_sides() -> None:
    pairs = [(np.array([10, 11]), np.array([20])), (np.array([12, 13, 14, 15]), np.array([], np.int64))]
    made = text_to_text(pairs, 4, 3, END, FILL)
    assert made["tokens"].tolist() == [[10, 11, END, FILL], [12, 13, 14, END]]
    assert made["documents"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert made["labels"].tolist() == [[20, END, FILL], [END, FILL, FILL]]
    assert made["decoder_tokens"].tolist() == [[FILL, 20, FILL], [FILL, FILL, FILL]]
    assert made["decoder_documents"].tolist() == [[1, 1, 0], [1, 0, 0]]
    assert made["weights"].tolist() == [[1, 1, 0], [1, 0, 0]]
    kinds = {key: value.dtype.name for key, value in corruption().arrays([sample([9])], seeds(1)).items()}
    assert {key: value.dtype.name for key, value in made.items()} == {k: v for k, v in kinds.items() if k != "sources"}
