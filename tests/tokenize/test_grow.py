"""Vocabularies that grow and shrink: what stays is cut as before, what is new is reached, what went is not missed."""

import copy
import functools
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vocabularies import TEXT, added, by_library, changed, small

from tilth.errors import UsageError
from tilth.tokenize.assemble import assemble
from tilth.tokenize.bpe import Vocabulary
from tilth.tokenize.formats import around
from tilth.tokenize.grow import Growth, derivations, removable, without
from tilth.tokenize.recipe import TokenizerRecipe
from tilth.tokenize.tokenizer import Tokenizer, byte_of, load, written

LETTERS = "ab石é"
TEXTS = st.lists(st.text("ab石é ", max_size=24), max_size=12)
PIECES = st.lists(st.text(LETTERS, min_size=1, max_size=6), max_size=10, unique=True)
REAL = {"llama": "dolma/llama-test-tokenizer.json.gz", "llama 3": "dclm/meta-llama-3-8B.tiktoken.gz"}
MORE = {"neox": "dclm/EleutherAI_gpt-neox-20b.tiktoken.gz", **REAL}


@functools.cache
def alphabet(family: str) -> Tokenizer:
    """A vocabulary without merges; on characters, without é."""
    if family == "byte-bpe":
        pieces = [b"<|endoftext|>", *(bytes([byte]) for byte in range(256))]
        return assemble(Vocabulary(pieces, 1, [], 257), TokenizerRecipe(vocab_size=257))
    pieces = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
    pieces += [letter.encode() for letter in "▁ab石"]
    return assemble(Vocabulary(pieces, 3, [], len(pieces)), TokenizerRecipe(algorithm="bpe", vocab_size=len(pieces)))


@st.composite
def vocabularies(draw: Any) -> Tokenizer:
    """Of either family, with merges as nobody would learn them: some never reached, some in several ways."""
    base = alphabet(draw(st.sampled_from(["byte-bpe", "bpe"])))
    vocabulary, merges = dict(base.spec["model"]["vocab"]), []
    tokens = [written(byte) for byte in (b"a", b"b", b" ", *(bytes([one]) for one in "石é".encode()))]
    tokens = tokens if base.family == "byte-bpe" else ["▁", "a", "b", "石"]
    for _ in range(draw(st.integers(0, 14))):
        left, right = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if (left, right) not in merges and len(left + right) < 9:
            merges.append((left, right))
            tokens.append(left + right)
            vocabulary.setdefault(left + right, len(vocabulary))
    whole = base.family == "byte-bpe" and draw(st.booleans())
    old = draw(st.booleans())  # as older files write merges
    listed = [" ".join(pair) if old else list(pair) for pair in merges]
    return changed(base, vocab=vocabulary, merges=listed, ignore_merges=whole)


def text_of(tokenizer: Tokenizer, token: str) -> str | None:
    """The text that gives the token alone; none for parts of characters, and what has no space before it."""
    if tokenizer.family == "byte-bpe":
        try:
            return tokenizer.bytes_of(token).decode()
        except UnicodeDecodeError:
            return None
    return token[1:].replace("▁", " ") if token[0] == "▁" and len(token) > 1 else None


def assert_reached(growth: Growth, grown: Tokenizer) -> None:
    """Each new token: by the growing encoder, by the library's model, by the whole tokenizer where a text can be it."""
    for token in growth.new():
        index = growth.vocabulary[token]
        assert growth.segment(token) == [index]
        assert grown.segment(token) == [index]
        text = text_of(grown, token)
        if text is not None:
            assert grown.encode([text])[0].tolist() == [index]
            assert by_library(grown, [text]) == [[index]]
            assert grown.decode([index]) == text


def old_parts(base: Tokenizer, grown: Tokenizer) -> dict[int, list[int]]:
    """What the old vocabulary makes of each new token, by its id. Old ids are what they were."""
    old, now = base.spec["model"]["vocab"], grown.spec["model"]["vocab"]
    assert {token: now[token] for token in old} == old
    return {index: base.segment(token) for token, index in now.items() if token not in old}


def assert_only_joined(base: Tokenizer, grown: Tokenizer, parts: dict[int, list[int]], texts: list[str]) -> None:
    """The new segmentation is the old one with neighbours joined: with old parts for new tokens it is the old one."""
    for before, after in zip(base.encode(texts), grown.encode(texts), strict=True):
        assert [part for index in after.tolist() for part in parts.get(index, [index])] == before.tolist()
    assert [one.tolist() for one in grown.encode(texts)] == by_library(grown, texts)


# --- Growing --------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(vocabularies(), PIECES, TEXTS, st.booleans())
def test_spliced_and_bridged_tokens_are_reached_and_old_text_is_only_joined(
    base: Tokenizer, pieces: list[str], texts: list[str], bridges: bool
) -> None:
    growth = Growth(base)
    tokens = [token for piece in pieces if (token := growth.token_of(piece.encode()))]
    missed = growth.splice(tokens)
    if bridges:
        missed = [token for token in missed if not growth.bridge(token)]
    assert set(tokens) - growth.taken == set(missed) - growth.taken
    assert_reached(growth, growth.grown())
    assert_only_joined(base, growth.grown(), old_parts(base, growth.grown()), [*texts, *pieces])


@settings(max_examples=100, deadline=None)
@given(vocabularies(), TEXTS, st.lists(st.integers(0, 99), max_size=12))
def test_tokens_learned_from_neighbours_of_a_text_are_reached_whatever_is_learned_after_them(
    base: Tokenizer, texts: list[str], choices: list[int]
) -> None:
    growth = Growth(base)
    words = [written(text.encode()) if base.family == "byte-bpe" else text.replace(" ", "▁") for text in texts]
    for choice in choices:
        names = {index: token for token, index in growth.vocabulary.items()}
        neighbours = [pair for word in words for pair in pairwise(names[index] for index in growth.segment(word))]
        neighbours = [pair for pair in neighbours if not any(byte_of(part) for part in pair)]
        neighbours = [(left, right) for left, right in neighbours if left + right not in growth.taken]
        if neighbours:
            growth.add_merge(*neighbours[choice % len(neighbours)])
    grown = growth.grown()
    assert all(growth.segment(token) == grown.segment(token) == [growth.vocabulary[token]] for token in growth.new())
    assert_only_joined(base, grown, old_parts(base, grown), texts)


@settings(max_examples=40, deadline=None)
@given(vocabularies(), TEXTS)
def test_a_kept_token_has_an_id_and_no_text_leads_to_it(base: Tokenizer, texts: list[str]) -> None:
    growth = Growth(changed(base, ignore_merges=False))
    index = growth.keep("bbbbbbbbbb")
    grown = growth.grown()
    assert grown.vocabulary["bbbbbbbbbb"] == index == base.size
    for before, after in zip(base.encode([*texts, "bbbbbbbbbb"]), grown.encode([*texts, "bbbbbbbbbb"]), strict=True):
        assert index not in after
        assert base.decode(before) == grown.decode(after)


def test_free_ids_are_given_first_in_their_order_then_new_ones() -> None:
    growth = Growth(alphabet("byte-bpe"), free=[300, 290])
    assert growth.splice(["ab", "abb", "abba", "ab"]) == []
    assert [growth.vocabulary[token] for token in ("ab", "abb", "abba")] == [300, 290, 301]
    assert growth.new() == ["ab", "abb", "abba"]


def test_long_tokens_can_be_bridged_into_a_vocabulary_that_has_nothing_but_bytes() -> None:
    words = [f"{first}{second}" * 30 for first in "abcdefghij" for second in "klmnopqrst"]
    growth = Growth(alphabet("byte-bpe"))
    assert growth.splice(words) == words
    assert all(growth.bridge(word) for word in words)
    grown = growth.grown()
    assert [one.tolist() for one in grown.encode(words)] == [[grown.vocabulary[word]] for word in words]
    assert by_library(grown, words) == [[grown.vocabulary[word]] for word in words]


def test_a_character_that_was_bytes_gets_an_id_and_stands_in_longer_tokens() -> None:
    growth = Growth(alphabet("bpe"))
    assert growth.splice(["éa", "é", "▁éa"]) == []
    grown = growth.grown()
    assert grown.encode(["éa é"])[0].tolist() == [grown.vocabulary[token] for token in ("▁éa", "▁", "é")]
    assert growth.splice(["鎌石"]) == ["鎌石"]
    assert growth.bridge("鎌石")
    assert growth.segment("鎌石") == [growth.vocabulary["鎌石"]]


def test_a_tokenizer_of_another_family_is_refused_in_one_line() -> None:
    unigram = Tokenizer({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]]}}, name="zh.model")
    with pytest.raises(UsageError, match=r"^zh.model: cannot be changed, it is unigram; what can be is .*$"):
        Growth(unigram)
    with pytest.raises(UsageError, match="words are none that tilth knows"):
        Growth(Tokenizer({**small("gpt4").spec, "normalizer": {"type": "Lowercase"}}))


# --- Shrinking ------------------------------------------------------------------------------------------------------


def assert_cut_as_before(base: Tokenizer, ids: list[int], texts: list[str], renumber: bool) -> None:
    """Texts in which none of the ids occurs are cut as before; others still come back."""
    rest, moves = without(base, ids, renumber)
    assert (moves < 0).nonzero()[0].tolist() == sorted(ids)
    kept = {token: int(moves[index]) for token, index in base.spec["model"]["vocab"].items() if moves[index] >= 0}
    assert rest.spec["model"]["vocab"] == kept
    if renumber:
        assert moves[moves >= 0].tolist() == list(range(base.size - len(ids)))
        assert len(rest.vocabulary) == len(base.vocabulary) - len(ids)
    for text, before, after in zip(texts, base.encode(texts), rest.encode(texts), strict=True):
        if not np.isin(before, ids).any():
            assert after.tolist() == moves[before].tolist()
        assert rest.decode(after) == base.decode(before) == text
    assert [one.tolist() for one in rest.encode(texts)] == by_library(rest, texts)


@settings(max_examples=150, deadline=None)
@given(vocabularies(), TEXTS, st.lists(st.text("ab石é ", max_size=24), max_size=5), st.integers(0, 2), st.booleans())
def test_without_any_beginning_of_what_is_removable_all_text_that_does_not_use_it_is_cut_as_before(
    base: Tokenizer, corpus: list[str], texts: list[str], most: int, renumber: bool
) -> None:
    uses = np.bincount(np.concatenate([[0], *base.encode(corpus)]).astype(np.int64), minlength=base.size)
    order = removable(base, uses, most)
    assert len(set(order)) == len(order)
    assert all(uses[index] <= most for index in order)
    assert all(len(base.tokens[index]) > 1 and not byte_of(base.tokens[index]) for index in order)
    assert not set(order) & {*base.specials.values()}
    for number in range(len(order) + 1):
        assert_cut_as_before(base, order[:number], [*corpus, *texts], renumber)


def test_what_is_rarest_goes_first_and_of_that_the_youngest() -> None:
    merges = [["a", "b"], ["b", "a"], ["a", "a"], ["b", "b"], ["ab", "b"]]
    base = alphabet("byte-bpe")
    tokens = ["ab", "ba", "aa", "bb", "abb"]
    vocabulary = {**base.spec["model"]["vocab"], **{token: base.size + at for at, token in enumerate(tokens)}}
    base = changed(base, vocab=vocabulary, merges=merges)
    uses = np.zeros(base.size, np.int64)
    uses[[base.vocabulary[token] for token in tokens]] = [0, 3, 0, 0, 1]
    assert [base.tokens[index] for index in removable(base, uses, 2)] == ["bb", "aa", "abb", "ab"]
    assert [base.tokens[index] for index in removable(base, uses)] == ["bb", "aa"]  # abb is made of ab


def test_ids_close_up_in_the_post_processor_in_padding_and_among_added_tokens() -> None:
    base = small("gpt4")
    size = base.size
    tokens = [
        *base.spec["added_tokens"],
        added("[CLS]", size, special=True),
        added("[SEP]", size + 1, special=True),
        added("[goat]", size + 2),
    ]
    spec = copy.deepcopy({**base.spec, "added_tokens": tokens})
    template = around({"[CLS]": size, "[SEP]": size + 1}, "[CLS]", "[SEP]")
    spec["post_processor"] = {"type": "Sequence", "processors": [template]}
    spec["padding"] = {
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": size + 1, "pad_type_id": 0, "pad_token": "[SEP]",
    }  # fmt: skip
    base = Tokenizer(spec)
    order = removable(base, np.zeros(base.size, np.int64))
    rest, moves = without(base, order, renumber=True)
    assert rest.size == base.size - len(order) == len(rest.vocabulary)
    assert rest.specials == {token: moves[index] for token, index in base.specials.items()}
    assert rest.spec["padding"]["pad_id"] == rest.specials["[SEP]"]
    encoded = rest.library.encode("a[goat]").ids
    assert encoded == [rest.specials["[CLS]"], rest.vocabulary["a"], rest.added["[goat]"], rest.specials["[SEP]"]]
    bert = {"type": "BertProcessing", "sep": ["[SEP]", size + 1], "cls": ["[CLS]", size]}
    rest, _ = without(Tokenizer({**spec, "post_processor": bert}), order, renumber=True)
    assert rest.library.encode("a[goat]").ids == encoded
    assert base.spec["post_processor"] == spec["post_processor"], "the base itself stays"


def test_a_token_that_only_the_post_processor_names_is_not_removed() -> None:
    base = small("gpt4")
    named = base.tokens[-1]
    spec = {**base.spec, "post_processor": around({named: base.size - 1}, named, named)}
    assert base.size - 1 in removable(base, np.zeros(base.size, np.int64))
    assert base.size - 1 not in removable(Tokenizer(spec), np.zeros(base.size, np.int64))


def test_a_token_is_derived_through_what_its_bytes_pass_on_the_way() -> None:
    base = small("gpt4")
    growth = Growth(base)
    growth.splice(["abab"])
    growth.bridge("zzzz")
    grown = growth.grown()
    ways = derivations(grown)
    through = {grown.tokens[index] for index in ways[grown.vocabulary["zzzz"]]}
    assert through - {"z"} <= set(growth.new())
    assert ways[grown.vocabulary["z"]] == set()


# --- Real vocabularies ----------------------------------------------------------------------------------------------


@functools.cache
def real(data: Path, name: str) -> Tokenizer:
    return load(data / "tokenizers" / MORE[name], "gpt4")


@functools.cache
def real_grown(data: Path, name: str) -> tuple[Growth, Tokenizer, dict[int, list[int]]]:
    """With two thousand pieces of the Chinese model and the words of the text above; and the old parts of each."""
    base = real(data, name)
    growth = Growth(base)
    second = load(data / "tokenizers/chinese-llama/chinese_sp.model")
    pieces = [piece for piece in second.pieces[5000:7000] if piece] + [word.encode() for word in TEXT.split()]
    if base.family == "byte-bpe":
        pieces = [piece for piece in pieces if len(growth.compiled.splitter.words(piece.decode())) == 1]
    tokens = [token for piece in pieces if (token := growth.token_of(piece))]
    for token in growth.splice(tokens):
        growth.bridge(token)
    grown = growth.grown()
    return growth, grown, old_parts(base, grown)


@pytest.mark.realdata
@pytest.mark.parametrize("name", REAL)
def test_every_token_added_to_a_real_vocabulary_is_reached(data: Path, name: str) -> None:
    growth, grown, _ = real_grown(data, name)
    assert len(growth.new()) > 1500
    assert_reached(growth, grown)


@pytest.mark.realdata
@pytest.mark.parametrize("name", REAL)
@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.lists(st.one_of(st.sampled_from(TEXT.split()), st.text(max_size=3))).map(" ".join), max_size=3)
)
def test_text_is_only_joined_by_what_a_real_vocabulary_gained(data: Path, name: str, texts: list[str]) -> None:
    _, grown, parts = real_grown(data, name)
    assert_only_joined(real(data, name), grown, parts, texts)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["llama", "neox"])
def test_what_a_real_vocabulary_does_not_need_for_a_text_can_go(data: Path, name: str) -> None:
    base = real(data, name)
    order = removable(base, np.bincount(base.encode_flat([TEXT])[0], minlength=base.size))
    assert len(order) > 20_000
    for number in (len(order) // 2, len(order)):
        assert_cut_as_before(base, order[:number], [TEXT, *TEXT.split()], renumber=True)


@pytest.mark.realdata
def test_what_the_base_writes_in_one_byte_keeps_its_id(data):
    """LLaMA has no newline of its own, only its byte: text of any language has newlines."""
    growth = Growth(load(data / "tokenizers" / "dolma" / "llama-test-tokenizer.json.gz"))
    assert not growth.lacks("\n")
    assert growth.splice(["\n", "\n\n", "犁"]) == ["\n", "\n\n"]
    assert growth.bridge("\n")
    assert not growth.bridge("\n\n")
    assert growth.new() == ["犁"]
    assert growth.grown().encode(["a\nb"])[0].tolist() == growth.base.encode(["a\nb"])[0].tolist()
