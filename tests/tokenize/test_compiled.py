"""The compiled encoder gives the ids of the tokenizers library, or leaves the work to it."""

import copy
import functools
import gzip
import random
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from vocabularies import SMALL, TEXT, added, by_library, changed, small

from tilth.tokenize.tokenizer import Tokenizer, load, written

REAL = {
    "llama": ("dolma/llama-test-tokenizer.json.gz", None),
    "llama 3": ("dclm/meta-llama-3-8B.tiktoken.gz", "gpt4"),
    "neox": ("dclm/EleutherAI_gpt-neox-20b.tiktoken.gz", "gpt2"),
    "gpt-neo": ("dolma/gpt-neo-test-tokenizer.json.gz", None),
}
FRAGMENTS = (
    *(
        "the ",
        "ing",
        " wall",
        "WALL",
        "'s",
        "'LL",
        "'ſ",
        "don't",
        "1",
        "23",
        "4567",
        "½",
        "--",
        "...",
        "==",
        "<|",
        "|>",
    ),
    *("石头", "墙", "ヤギ", "ー", "दीवार", "\u093e", "ไร่", "돌", "\u1112\u1161\u11ab", "e\u0301", "é", "ﬁ", "𠮷"),
    *(" ", "  ", "\n", "\r\n", "\t", "\x85", "\u2028", "\u3000", "\x00", "\x1c", "\x7f", "\ufeff", "\xad"),
    *("<|endoftext|>", "<s>", "</s>", "<unk>", "<0x41>", "<0x0A>", "▁", "▁▁▁", "Ġ", "Ċ", "##", "🌾", "👩\u200d🌾"),
)
# Python's Unicode is newer than that of the tokenizers library: only what both know is normalised alike.
CHARACTERS = st.characters(exclude_categories=["Cs"]).filter(lambda one: unicodedata.ucd_3_2_0.category(one) != "Cn")
TEXTS = st.lists(
    st.one_of(
        st.lists(st.one_of(st.sampled_from(FRAGMENTS), CHARACTERS), max_size=25).map("".join),
        st.text(CHARACTERS, max_size=40),
    ),
    max_size=4,
)
LONG = {
    "one letter": "a" * 100_000,
    "a few letters": "".join(random.Random(3).choices("abdest", k=100_000)),
    "Han": "".join(random.Random(4).choices("石头墙土羊山田", k=100_000)),
    "spaces": " " * 100_000,
    "metaspaces": "▁" * 100_000,
    "digits": "7" * 100_000,
    "newlines": "\n" * 100_000,
    "marks": "a" + "\u0301" * 100_000,
    "emoji": "🌾" * 50_000,
}


@functools.cache
def real(data: Path, name: str) -> Tokenizer:
    file, pattern = REAL[name]
    return load(data / "tokenizers" / file, pattern)


def assert_same(tokenizer: Tokenizer, texts: list[str]) -> None:
    """The compiled encoder itself, and what chooses between it and the library."""
    assert tokenizer.compiled is not None
    expected = by_library(tokenizer, texts)
    assert [one.tolist() for one in tokenizer.encode(texts)] == expected
    if not tokenizer.added:
        ids, lengths = tokenizer.compiled.encode(texts)
        assert ids.dtype == np.int32
        assert lengths.tolist() == [len(one) for one in expected]
        assert ids.tolist() == [index for one in expected for index in one]


# --- The same ids ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=60, deadline=None)
@given(texts=TEXTS)
@example(texts=[])
@example(texts=["", " ", "", "\n"])
@example(texts=["<|endoftext|>", "<s>a</s>", "a<|endoftext|>b"])
@example(texts=[TEXT])
def test_a_small_vocabulary_gives_the_ids_of_the_library(name: str, texts: list[str]) -> None:
    assert_same(small(name), texts)


@pytest.mark.realdata
@pytest.mark.parametrize("name", REAL)
@settings(max_examples=60, deadline=None)
@given(texts=TEXTS)
@example(texts=["  two spaces,    four", "\t\tx", "|||IP_ADDRESS||| of a▁|||EMAIL_ADDRESS|||"])
def test_a_real_vocabulary_gives_the_ids_of_the_library(data: Path, name: str, texts: list[str]) -> None:
    assert_same(real(data, name), texts)


@pytest.mark.realdata
@pytest.mark.parametrize("name", REAL)
def test_real_text_gives_the_ids_of_the_library(data: Path, name: str) -> None:
    places = ["ja/wagahaiwa_nekodearu.txt.gz", "zh-hant/debian-handbook.zh-TW.txt.gz", "en/wiki_demo.txt.gz"]
    places += [f"debian-reference/debian-reference.{code}.txt.gz" for code in ("de", "fr", "zh-cn")]
    texts = [gzip.decompress((data / "text" / place).read_bytes()).decode()[:150_000] for place in places]
    assert_same(real(data, name), [line for text in texts for line in text.splitlines(keepends=True)] + texts[:2])


@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize("name", ["gpt4", "characters"])
def test_a_word_of_100_000_letters_takes_no_time_and_gives_the_same_ids(name: str, kind: str) -> None:
    tokenizer, text = small(name), LONG[kind]
    assert tokenizer.compiled is not None
    tokenizer.compiled.encode(["warm"])
    started = time.perf_counter()
    ids, _ = tokenizer.compiled.encode([text])
    assert time.perf_counter() - started < 0.4
    assert ids.tolist() == by_library(tokenizer, [text])[0]


@pytest.mark.parametrize("name", ["gpt2", "characters"])
@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(["石", "头", "the", "a", "墙土", "es"]), min_size=90, max_size=120))
def test_words_at_the_length_where_the_way_of_merging_changes_are_merged_alike(name: str, parts: list[str]) -> None:
    assert_same(small(name), ["".join(parts), "".join(parts)[:96], "".join(parts)[:97]])


def test_words_that_stand_without_text_are_cut_as_text_is() -> None:
    tokenizer = small("gpt4")
    assert tokenizer.compiled is not None
    words = tokenizer.compiled.splitter.words(TEXT)
    ids, lengths = tokenizer.compiled.encoder.words(
        np.frombuffer(b"".join(words), np.uint8), np.cumsum([0, *map(len, words)])
    )
    assert ids.tolist() == by_library(tokenizer, [TEXT])[0]
    assert lengths.tolist() == [len(tokenizer.compiled.encoder.segment(word)) for word in words]


def test_more_words_than_can_be_remembered_give_the_same_ids_and_so_do_the_first_of_them_again() -> None:
    tokenizer = small("gpt4 with marks")
    chance = random.Random(11)
    words = [" " + "".join(chance.choices("bcdfghjklmnpqrtvwxz", k=6)) for _ in range(300_000)]
    assert len(set(words)) > 2**18
    texts = ["".join(words[at : at + 50_000]) for at in range(0, len(words), 50_000)]
    assert_same(tokenizer, [*texts, texts[0], TEXT])


def test_special_tokens_are_never_read_out_of_text() -> None:
    for name, spelled in (("gpt4", "<|endoftext|>"), ("characters", "</s>")):
        tokenizer = small(name)
        special = tokenizer.specials[spelled]
        for text in (spelled, f"a{spelled}b", spelled * 3, f" {spelled}\n"):
            ids = tokenizer.encode([text])[0].tolist()
            assert special not in ids
            assert tokenizer.decode(ids) == text


def test_a_lone_surrogate_is_read_as_a_question_mark_by_both_encoders() -> None:
    for tokenizer in (small("gpt4"), small("characters"), changed(small("gpt4"), dropout=1.0)):
        torn, asked = tokenizer.encode(["wall\ud800", "wall?"])
        assert torn.tolist() == asked.tolist()


# --- Vocabularies with more than merges -----------------------------------------------------------------------------


def with_whole_words(words: list[str]) -> Tokenizer:
    """Words that are tokens although no merge makes them, as in Llama 3."""
    base = small("gpt4")
    vocabulary = dict(base.spec["model"]["vocab"])
    vocabulary |= {written(word.encode()): base.size + index for index, word in enumerate(words)}
    return changed(base, vocab=vocabulary, ignore_merges=True)


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS)
@example(texts=["quarry quarryman  quarry", "quarrymen"])
@example(texts=["quarryman's " + "x" * 70])
def test_words_that_are_tokens_without_merges_are_taken_whole(texts: list[str]) -> None:
    tokenizer = with_whole_words(["quarry", " quarryman", "石墙", "x" * 70, "é"])
    assert_same(tokenizer, texts)


def test_many_long_words_that_are_tokens_are_all_remembered() -> None:
    chance = random.Random(5)
    words = ["".join(chance.choices("bcdfghkmnp", k=chance.choice([8, 60, 400]))) for _ in range(400)]
    assert_same(with_whole_words(words), [*words, *(word + "q" for word in words)])


@pytest.mark.parametrize("name", ["gpt4", "characters"])
def test_of_a_merge_that_is_listed_twice_the_last_counts_as_in_the_library(name: str) -> None:
    merges = small(name).spec["model"]["merges"]
    tokenizer = changed(small(name), merges=[*merges, *merges[:40][::-1]])
    assert by_library(tokenizer, [TEXT]) != by_library(small(name), [TEXT])
    assert_same(tokenizer, [TEXT, *TEXT.split()])


def test_merges_that_older_files_write_as_one_text_are_read() -> None:
    for name in ("gpt4", "characters"):
        tokenizer = changed(small(name), merges=[" ".join(pair) for pair in small(name).spec["model"]["merges"]])
        assert_same(tokenizer, [TEXT])


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("name", ["gpt4", "gpt4, nfkc", "characters"])
@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.sampled_from(["[goat]", "a wall", "a▁wall", "[", "goat]", "ﬁ", "fi", " ", "x"]), max_size=6))
@example(parts=["[goat]"])
@example(parts=["x", " ", "a▁wall"])
@example(parts=["fi"])
def test_added_tokens_that_are_not_special_are_read_out_of_text(name: str, normalized: bool, parts: list[str]) -> None:
    base = small(name)
    contents = enumerate(("[goat]", "a wall", "ﬁ"), base.size)
    tokens = [added(content, index, normalized=normalized) for index, content in contents]
    tokenizer = Tokenizer({**base.spec, "added_tokens": [*base.spec["added_tokens"], *tokens]})
    text = "".join(parts)
    assert_same(tokenizer, [text])
    assert_same(tokenizer, [text, "a wall"])
    if not normalized:
        assert text.count("[goat]") == tokenizer.encode([text])[0].tolist().count(base.size)


# --- What it cannot do ----------------------------------------------------------------------------------------------


def section(name: str, of: str, content: Any) -> Tokenizer:
    return Tokenizer({**small(name).spec, of: content})


def with_byte_merge() -> Tokenizer:
    base = small("characters")
    vocabulary = {**base.spec["model"]["vocab"], "<0xE2><0x82>": base.size}
    return changed(base, vocab=vocabulary, merges=[*base.spec["model"]["merges"], ["<0xE2>", "<0x82>"]])


def without_bytes() -> Tokenizer:
    model = copy.deepcopy(small("gpt4").spec["model"])
    model["merges"] = [pair for pair in model["merges"] if "q" not in "".join(pair)]
    model["vocab"] = {token: index for token, index in model["vocab"].items() if "q" not in token}
    return Tokenizer({**small("gpt4").spec, "model": model})


def byte_level(**flags: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True, **flags}


def cut(pattern: str, behavior: str = "Isolated", **more: bool) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False, **more}
    return {"type": "Sequence", "pretokenizers": [split, byte_level(use_regex=False)]}


KNOWN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
DIGITS = {"type": "Digits", "individual_digits": True}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
FOREIGN = {
    "a regular expression that nobody knows": lambda: section("gpt4", "pre_tokenizer", cut(r"\p{L}{1,3}|[^\p{L}]")),
    "words that are removed": lambda: section("gpt4", "pre_tokenizer", cut(KNOWN, "Removed")),
    "words turned inside out": lambda: section("gpt4", "pre_tokenizer", cut(KNOWN, invert=True)),
    "words cut twice": lambda: section(
        "gpt4", "pre_tokenizer", {"type": "Sequence", "pretokenizers": [DIGITS, byte_level()]}
    ),
    "a prefix space": lambda: section("gpt4", "pre_tokenizer", byte_level(add_prefix_space=True)),
    "lower case": lambda: section("gpt4", "normalizer", {"type": "Lowercase"}),
    "nfd": lambda: section("gpt4", "normalizer", {"type": "NFD"}),
    "a prefix behind the metaspaces": lambda: section(
        "characters", "normalizer", {"type": "Sequence", "normalizers": [SPACES, {"type": "Prepend", "prepend": "▁"}]}
    ),
    "another prefix": lambda: section(
        "characters", "normalizer", {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "_"}, SPACES]}
    ),
    "metaspaces cut apart": lambda: section("characters", "pre_tokenizer", METASPACE),
    "no bytes to fall back to": lambda: changed(small("characters"), byte_fallback=False),
    "an end of words": lambda: changed(small("gpt4"), end_of_word_suffix="</w>"),
    "merges of bytes that are no characters": with_byte_merge,
    "a byte without a token": without_bytes,
}  # fmt: skip


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_what_it_cannot_do_exactly_is_left_to_the_library(make: Any) -> None:
    tokenizer = make()
    assert tokenizer.compiled is None
    texts = [TEXT, "", "€ wall's 1234", "quarry"]
    assert [one.tolist() for one in tokenizer.encode(texts)] == by_library(tokenizer, texts)


def test_chance_is_left_to_the_library_and_other_families_are() -> None:
    assert changed(small("gpt4"), dropout=0.1).compiled is None
    assert changed(small("gpt4"), dropout=0.0).compiled is not None
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["▁", -1.0], ["wall", -2.0]]}
    wordpiece = {"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##", "vocab": {"?": 0, "wall": 1}}
    for model in (unigram, {**wordpiece, "max_input_chars_per_word": 9}):
        tokenizer = Tokenizer({"added_tokens": [], "model": model})
        assert tokenizer.compiled is None
        assert tokenizer.encode(["wall"])[0].tolist() == by_library(tokenizer, ["wall"])[0]


def test_a_text_without_the_space_before_it_is_cut_so_where_the_spec_puts_none() -> None:
    tokenizer = section("characters", "normalizer", SPACES)
    assert_same(tokenizer, ["wall", " wall", "", "a  wall ", TEXT])
    assert tokenizer.encode(["wall"])[0].tolist() != small("characters").encode(["wall"])[0].tolist()
