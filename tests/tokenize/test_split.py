"""Where text is cut: the state machines against the engines that cut by regular expression."""

import functools
import gzip
import unicodedata
from itertools import pairwise, product

import pytest
import regex
import tiktoken
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import normalizers, pre_tokenizers

from tilth.tokenize.split import (
    HAN,
    HIRAGANA,
    KATAKANA,
    METASPACE,
    SplitOptions,
    Splitter,
    known_patterns,
    regular_expression,
)

OPTIONS = [
    SplitOptions(pattern=pattern, marks=marks, digits=digits, scripts=scripts, cjk_limit=limit)
    for pattern, marks, digits, (scripts, limit) in product(
        ("gpt2", "gpt4"), (False, True), range(4), ((False, 0), (True, 0), (True, 2), (True, 8))
    )
]
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TIKTOKEN_GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
TIKTOKEN_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)

PROVOKING = [
    *"'’` \t\v\f\r\n\x1c\x1d\x1e\x1f\x00\x7f\x85\xa0\u200b\u2028\u2029\u202f\u3000\ufeff",
    *["'s", "'S", "'t", "'T", "'m", "'d", "'D", "'ll", "'lL", "'LL", "'ve", "'Ve", "'re", "'RE", "'l", "'v", "'r"],
    *["'\u017f", "'\ufb06", "'\u0149", "'l\u017f", "don't", "''s", "\u212a", "\u1e9e", "İ"],
    *["  ", "   ", "\r\n", "\n\r", "\n \n", " \n", "\n  "],
    *"0123٣५๔𝟗Ⅷ½²〇①",
    *"aZéßжيא",
    *["a\u0301", "\u0301", "\u0300\u0302", "\u20dd", "\ufe0f"],
    *["हिन्दी", "\u093f", "\u094d", "ไทย", "\u0e34", "ที่", "กำ", "မြန်"],
    *"中文字々〆〇〻㐀﨎豈𠀀𪜶𬺰𰀀𱍐\U0002ebf0\u303b",
    *["ひらがな", "ゝ", "ゟ", "カタカナ", "ー", "ヽ", "・", "ｶﾞ", "ｰ", "ﾟ", "ㇰ", "\u3099", "𛀁", "𛄠"],
    *["한국어", "\u1100\u1161", "ㄱ", "ㄅ", "👩‍👩‍👧", "🇨🇳", "👍🏽", "\U000e0061", "\ue000", "\U0010ffff"],
    *["\u0378", "\u0558", "\u088f", "\u1c89", "\u1acf", "\ua7ce"],
    *["\U0001e5d0", "\U00016d40", "\U0001fae9", "\U0003fffd"],
    *["!", "...", "--", "$", "<", "_", "。", "、", "(", "€", METASPACE],
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PROVOKING) | st.text(max_size=4), max_size=24).map("".join)
TORTURE = " ".join(PROVOKING) + "".join(PROVOKING) + "".join(reversed(PROVOKING)) + "\n".join(PROVOKING) + " \n "


@functools.cache
def splitter(options: SplitOptions) -> Splitter:
    return Splitter(options)


def cut(options: SplitOptions, text: str) -> list[str]:
    return [word.decode() for word in splitter(options).words(text)]


@functools.cache
def _oniguruma(pattern: str) -> pre_tokenizers.Split:
    return pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")


def by_tokenizers(pattern: str, text: str) -> list[str]:
    return [word for word, _ in _oniguruma(pattern).pre_tokenize_str(text)]


def by_tiktoken(pattern: str, text: str) -> list[str]:
    """tiktoken makes a word of the vocabulary one token: here every part of the text, up to a length, is in it."""
    parts = {text[start:end] for start in range(len(text)) for end in range(start + 1, min(len(text), start + 80) + 1)}
    ranks = {bytes([byte]): byte for byte in range(256)}
    for part in sorted(parts):
        ranks.setdefault(part.encode(), len(ranks))
    encoding = tiktoken.Encoding("parts", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return [token.decode() for token in encoding.decode_tokens_bytes(encoding.encode_ordinary(text))]


def by_regex(pattern: str, text: str) -> list[str]:
    return regex.findall(pattern, text, regex.VERSION1)


def settled(text: str) -> str:
    """The text without code points that Python's Unicode lacks: an engine's age says whether they are letters."""
    return "".join(character for character in text if unicodedata.category(character) != "Cn")


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: regular_expression(options)[-20:])
def test_every_combination_of_options_cuts_as_its_expression_does_in_all_engines(options):
    pattern = regular_expression(options)
    ours = cut(options, TORTURE)
    assert "".join(ours) == TORTURE
    assert ours == by_tokenizers(pattern, TORTURE)
    assert cut(options, settled(TORTURE)) == by_regex(pattern, settled(TORTURE))


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(OPTIONS), TEXTS)
@example(OPTIONS[-1], "")
@example(OPTIONS[-1], "\r \n")
def test_words_are_those_of_tokenizers_and_of_regex(options, text):
    pattern = regular_expression(options)
    ours = cut(options, text)
    assert "".join(ours) == text
    assert ours == by_tokenizers(pattern, text)
    assert cut(options, settled(text)) == by_regex(pattern, settled(text))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(OPTIONS), TEXTS)
def test_words_are_those_of_tiktoken(options, text):
    assert cut(options, text) == by_tiktoken(regular_expression(options), text)


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
@pytest.mark.parametrize("marks", [False, True])
def test_letters_marks_and_numbers_of_all_of_unicode_are_those_of_tokenizers(pattern, marks):
    options = SplitOptions(pattern=pattern, marks=marks)
    letters = [chr(point) for point in range(0x33480) if not 0xD800 <= point < 0xF900 and not 0x4E10 <= point < 0x9F00]
    text = "".join(letters) + "!".join(letters[:0x3000])
    assert cut(options, text) == by_tokenizers(regular_expression(options), text)


def test_scripts_are_unicode_s_but_for_the_signs_that_kana_share():
    every = settled("".join(map(chr, [*range(0xD800), *range(0xE000, 0x10000), *range(0x20000, 0x32400)])))
    for ranges, script in ((HAN, "Han"), (HIRAGANA, "Hiragana"), (KATAKANA, "Katakana")):
        letters = regex.findall(rf"[\p{{Script={script}}}&&\p{{L}}]", every, regex.VERSION1)
        assert {*regex.findall(f"[{ranges}]", every)} - {*"ー\uff70\uff9e\uff9f"} == {*letters} - {"\u303b"}


@pytest.mark.parametrize(
    ("pattern", "options"),
    [
        (GPT2, SplitOptions(pattern="gpt2", marks=False, digits=0)),
        (TIKTOKEN_GPT2, SplitOptions(pattern="gpt2", marks=False, digits=0)),
        (LLAMA3, SplitOptions(pattern="gpt4", marks=False, digits=3)),
        (LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"), SplitOptions(pattern="gpt4", marks=False, digits=1)),
    ],
    ids=["GPT-2", "tiktoken's GPT-2", "Llama 3", "Qwen"],
)
def test_published_expressions_are_known(pattern, options):
    assert known_patterns()[pattern] == options


def test_what_cl100k_does_at_the_end_of_a_text_is_not_taken_for_what_we_do():
    assert TIKTOKEN_CL100K not in known_patterns()
    assert by_tiktoken(TIKTOKEN_CL100K, "a\n ") == ["a", "\n "]
    assert by_tiktoken(LLAMA3, "a\n ") == ["a", "\n", " "] == cut(SplitOptions(pattern="gpt4"), "a\n ")


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(sorted(known_patterns())), TEXTS)
def test_known_expressions_cut_as_their_options(pattern, text):
    assert cut(known_patterns()[pattern], text) == by_tokenizers(pattern, text)


@pytest.mark.parametrize("pattern", [pattern for pattern in known_patterns() if pattern.startswith("'(?")])
def test_what_others_write_cuts_as_its_options_in_tiktoken_too(pattern):
    text = TORTURE[: len(TORTURE) // 2]
    assert cut(known_patterns()[pattern], text) == by_tiktoken(pattern, text)
    assert cut(known_patterns()[pattern], TORTURE) == by_tokenizers(pattern, TORTURE)


@pytest.mark.realdata
@pytest.mark.parametrize("language", ["en", "ja", "zh-hans"])
@pytest.mark.parametrize(
    "options", [SplitOptions(pattern="gpt2"), SplitOptions(pattern="gpt4", scripts=True, cjk_limit=8)]
)
def test_real_text_is_cut_as_by_tokenizers(data, language, options):
    files = [file for file in sorted((data / "text" / language).rglob("*")) if file.is_file()]
    for file in files[:3]:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        text = content[:200_000].decode("utf-8", "ignore")
        assert cut(options, text) == by_tokenizers(regular_expression(options), text)


@settings(max_examples=500, deadline=None)
@given(TEXTS, st.booleans(), st.booleans())
def test_bert_s_words_are_those_of_tokenizers(text, lowercase, plain):
    if not plain:
        text = normalizers.BertNormalizer(lowercase=lowercase).normalize_str(text)
    theirs = [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)]
    assert cut(SplitOptions(pattern="bert"), text) == theirs


def test_bert_s_signs_are_those_of_tokenizers_in_all_of_unicode():
    text = "a".join(chr(point) for point in range(0x33480) if not 0xD800 <= point < 0xF900)
    theirs = [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)]
    assert cut(SplitOptions(pattern="bert"), text) == theirs


def _kind(character: str, marks: bool, scripts: bool) -> str:
    for ranges in (HAN, HIRAGANA, KATAKANA) if scripts else ():
        if regex.match(f"[{ranges}]", character):
            return ranges
    if regex.match(r"\s", character):
        return "newline" if character in "\r\n" else "space"
    category = unicodedata.category(character)[0]
    return {"L": "letter", "N": "number", "M": "letter" if marks else "other"}.get(category, "other")


@settings(max_examples=600, deadline=None)
@given(TEXTS.map(settled), st.booleans(), st.booleans(), st.sampled_from([None, 0, 1]), st.booleans())
def test_metaspace_cuts_where_two_neighbours_say_so(text, marks, scripts, digits, spaced):
    text = text.replace(" ", METASPACE) if spaced else text

    def apart(left: str, right: str) -> bool:
        if right == METASPACE:
            return left != METASPACE
        kinds = [_kind(one, marks, scripts) for one in (left, right)]
        if digits != 0 and "number" in kinds:
            return True
        return left != METASPACE and kinds[0] != kinds[1]

    words = [text[:1]] if text else []
    for left, right in pairwise(text):
        if apart(left, right):
            words.append(right)
        else:
            words[-1] += right
    assert cut(SplitOptions(pattern="metaspace", marks=marks, scripts=scripts, digits=digits), text) == words


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, max_size=5), st.sampled_from(["gpt2", "gpt4", "metaspace", "bert"]))
def test_texts_together_are_cut_as_each_alone(texts, pattern):
    together = splitter(SplitOptions(pattern=pattern))(texts)
    assert together.text.tobytes() == "".join(texts).encode()
    alone = [splitter(SplitOptions(pattern=pattern))([text]) for text in texts]
    assert together.counts.tolist() == [len(words.ends) for words in alone]
    starts = [sum(len(text.encode()) for text in texts[:index]) for index in range(len(texts))]
    shifted = [end + start for words, start in zip(alone, starts, strict=True) for end in words.ends.tolist()]
    assert together.ends.tolist() == shifted


def test_lone_surrogates_become_question_marks():
    assert cut(SplitOptions(pattern="gpt4"), "a\ud800b") == ["a", "?b"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"pattern": "gpt4", "cjk_limit": 3},
        {"pattern": "metaspace", "digits": 3},
        {"pattern": "metaspace", "scripts": True, "cjk_limit": 2},
        {"pattern": "bert", "digits": 1},
        {"pattern": "bert", "scripts": True},
        {"pattern": "gpt2", "digits": 4},
    ],
    ids=str,
)
def test_options_that_could_not_be_kept_are_refused(wrong):
    with pytest.raises(ValidationError):
        SplitOptions(**wrong)
