"""Tokens and shingles of text of many scripts, and Jaccard similarities by them."""

import csv
import gzip
import json
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tilth.curate.dedup.options import ShingleOptions
from tilth.curate.dedup.shingle import Tokens, compiled, jaccards, shingle_set, text_key, tokenise

AUTO = ShingleOptions()
WORDS = ShingleOptions(unit="words")
CHARACTERS = ShingleOptions(unit="characters")
COMMON = re.compile(r"[\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]|[^\W_]+")

# Latin, Greek, Cyrillic, Hangul letters, signs, emoji; all of East Asia in the basic plane, with full and half width.
BLOCKS = [(0, 0x24F), (0x370, 0x52F), (0x1100, 0x11FF), (0x2000, 0x2BFF), (0x2E80, 0xA4CF), (0xAC00, 0xD7FF)]
BLOCKS += [(0xF900, 0xFFFF), (0x1F300, 0x1F6FF)]
EUROPE_AND_EAST_ASIA = st.text(st.one_of([st.characters(min_codepoint=a, max_codepoint=b) for a, b in BLOCKS]))
FEW_WORDS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "ä", "的", "了"]), max_size=20).map(" ".join)


def tokens(text: str, options: ShingleOptions = AUTO) -> list[str]:
    return tokenise(text, options).strings()


def shingles(text: str, options: ShingleOptions) -> list[str]:
    made = tokenise(text, options)
    return [made.joined[a:b].tobytes().decode() for a, b in zip(*made.shingles(options.ngram), strict=True)]


def test_tokens_are_lower_case_runs_of_letters_and_digits() -> None:
    assert tokens("Don't STOP_here: 3.5 km² – Ärger №7") == ["don", "t", "stop", "here", "3", "5", "km²", "ärger", "7"]


def test_of_scripts_without_spaces_each_character_is_a_token() -> None:
    assert tokens("春眠不觉晓。ひらカナ 한국어 X") == [*"春眠不觉晓ひらカナ한국어x"]
    assert tokens("ไทย5 ລາວ မြန် 𠀋𠀌") == ["ไ", "ท", "ย", "5", "ລ", "າ", "ວ", "မြ", "န်", "𠀋", "𠀌"]


def test_combining_marks_belong_to_the_token_before_them() -> None:
    assert tokens("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert tokens("ที่นี่") == ["ที่", "นี่"]
    assert tokens("cafe\u0301s") == ["cafe\u0301s"]
    assert tokens("が葛\U000e0100飾") == ["が", "葛\U000e0100", "飾"]


def test_a_mark_with_no_token_before_it_is_none() -> None:
    assert tokens("❤\ufe0f \u0301 a") == ["a"]


def test_words_take_runs_of_every_script_and_characters_single_ones() -> None:
    text = "Ab 12 春眠不觉晓 हिन्"
    assert tokens(text, WORDS) == ["ab", "12", "春眠不觉晓", "हिन्"]
    assert tokens(text, CHARACTERS) == ["a", "b", "1", "2", *"春眠不觉晓", "हि", "न्"]


@settings(deadline=None)
@given(EUROPE_AND_EAST_ASIA)
@example("使用Python编程・佐々木さんは〇〇年にㅋㅋㅋ 한국어abc")
def test_tokens_of_text_without_marks_are_those_of_the_common_regular_expression(text: str) -> None:
    text = "".join(c for c in text.lower() if unicodedata.category(c)[0] != "M")
    assert tokens(text) == COMMON.findall(text.lower())


@pytest.mark.realdata
def test_jaccards_of_real_pairs_are_those_of_the_reference(data: Path) -> None:
    folder = data / "dedup/git-history"
    with gzip.open(folder / "docs.jsonl.gz", "rt") as lines:
        documents = [json.loads(line) for line in lines]
    with gzip.open(folder / "pairs.tsv.gz", "rt") as lines:
        pairs = list(csv.DictReader(lines, delimiter="\t"))
    number = {document["id"]: index for index, document in enumerate(documents)}
    sets = [shingle_set(document["text"], AUTO) for document in documents]
    offsets = np.cumsum([0, *map(len, sets)])
    left, right = (np.array([number[pair[side]] for pair in pairs]) for side in ("id1", "id2"))
    expected = np.array([float(pair["jaccard"]) for pair in pairs])
    assert np.abs(jaccards(np.concatenate(sets), offsets, left, right) - expected).max() < 6e-7  # they have six digits


@pytest.mark.realdata
def test_real_documents_have_the_tokens_that_their_reference_similarities_were_computed_from(data: Path) -> None:
    compared = 0
    with gzip.open(data / "dedup/git-history/docs.jsonl.gz", "rt") as lines:
        for line in lines:
            text = json.loads(line)["text"].lower()
            if not any(unicodedata.category(c)[0] == "M" for c in set(text)):
                assert tokens(text) == COMMON.findall(text)
                compared += 1
    assert compared > 500


@settings(deadline=None)
@given(st.text(st.characters(categories=None)), st.sampled_from([AUTO, WORDS, CHARACTERS]))
@example("\ud800\udfff", AUTO)
@example("\0", AUTO)
@example("İ", CHARACTERS)
def test_any_string_has_tokens_that_are_parts_of_it_in_order(text: str, options: ShingleOptions) -> None:
    lowered, place = text.lower(), 0
    for token in tokens(text, options):
        assert token
        place = lowered.index(token, place) + len(token)
    made = tokenise(text, options)
    assert len(text_key(made)) == (32 if made.size else 0)
    assert len(made.buffer) >= len(made.joined) + 72


def test_a_token_of_ten_megabytes_is_one_token() -> None:
    assert tokenise("a" * 10**7, AUTO).size == 1
    assert len(shingle_set("a" * 10**7, AUTO)) == 1


def test_a_shingle_is_ngram_tokens_joined_by_spaces() -> None:
    assert shingles("One, two; three FOUR", ShingleOptions(ngram=3)) == ["one two three", "two three four"]
    assert shingles("One, two", ShingleOptions(ngram=3)) == ["one two"]
    assert shingles("?!", ShingleOptions(ngram=3)) == []


def test_texts_have_the_same_key_where_their_tokens_are_the_same() -> None:
    key = text_key(tokenise("To be, or not to be.", AUTO))
    assert re.fullmatch("[0-9a-f]{32}", key)
    assert key == text_key(tokenise("TO BE -- or not\nto be", AUTO))
    assert key != text_key(tokenise("to be or nott o be", AUTO))
    assert text_key(tokenise("...", AUTO)) == ""


def test_shingle_sets_are_sorted_and_hold_each_shingle_once() -> None:
    values = shingle_set("a b c d e " * 50, AUTO)
    assert values.dtype == np.uint64
    assert values.tolist() == sorted(set(values.tolist()))
    assert len(values) == 5
    assert shingle_set("?", AUTO).tolist() == []


def test_the_hash_of_a_shingle_knows_the_order_and_the_bounds_of_its_tokens() -> None:
    options = ShingleOptions(ngram=3)
    texts = ["a b c", "c b a", "ab c", "a bc", "abc", "a b", "b a", "aa b", "a ab", "a a", "a a a", "a", "0 a", "\0a b"]
    hashes = {tuple(shingle_set(text, options).tolist()) for text in texts}
    assert len(hashes) == len(texts) - 1  # NUL separates: the last is "a b"


@settings(deadline=None)
@given(st.lists(FEW_WORDS, min_size=2, max_size=6), st.integers(1, 4))
def test_jaccards_are_those_of_the_sets_of_strings(texts: list[str], ngram: int) -> None:
    options = ShingleOptions(ngram=ngram)
    sets = [shingle_set(text, options) for text in texts]
    plain = [set(shingles(text, options)) for text in texts]
    assert list(map(len, sets)) == list(map(len, plain))
    offsets = np.cumsum([0, *map(len, sets)])
    left, right = np.divmod(np.arange(len(texts) ** 2), len(texts))
    expected = [len(plain[i] & plain[j]) / max(1, len(plain[i] | plain[j])) for i, j in zip(left, right, strict=True)]
    assert jaccards(np.concatenate(sets), offsets, left, right).tolist() == expected


def test_two_empty_sets_have_nothing_in_common() -> None:
    empty, zero = np.zeros(0, np.uint64), np.zeros(1, np.int64)
    assert jaccards(empty, np.zeros(2, np.int64), zero, zero).tolist() == [0.0]


def test_tokens_of_no_text_have_no_shingles() -> None:
    nothing = tokenise("", AUTO)
    assert isinstance(nothing, Tokens)
    assert (nothing.size, nothing.strings(), len(nothing.joined)) == (0, [], 0)
    assert [len(bounds) for bounds in nothing.shingles(5)] == [0, 0]


def test_code_is_compiled_where_nothing_can_be_cached() -> None:
    scope: dict = {}
    exec("def twice(number): return 2 * number", scope)  # of no file, for which numba finds no cache folder
    assert compiled(scope["twice"])(21) == 42
