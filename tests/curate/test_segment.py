"""Segmentation: right on real sentences of many scripts, and total on any string."""

import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.curate import segment as module
from tilth.curate.segment import ALPHABETIC, DIGIT, SPACE, TERMINAL_MARKS, UPPER, segment

ANY_TEXT = st.one_of(
    st.text(st.characters(codec=None), max_size=200),  # lone surrogates, NUL and unassigned code points among them
    st.text(" \n\t.,-|/+'’…。，a1éß中文かなไทยह👨‍👩‍👧\0\ud800\u200b\u0301\u2028\r", max_size=200),
    st.lists(st.sampled_from(["www.a.org/b", "https://", "U.S.", "|---|", "--x", "/usr", "1/2", "你好。", "..."])).map(
        "".join
    ),
)


def words(text):
    tokens = segment(text).tokens
    return [string for string, is_word in zip(tokens.strings, tokens.are_words, strict=True) if is_word]


def test_words_of_english_are_told_from_marks():
    assert words("The cat isn't here, is it?") == ["The", "cat", "isn't", "here", "is", "it"]
    assert segment("Well, yes.").tokens.strings == ["Well", ",", "yes", "."]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我们今天去北京大学。", ["我们", "今天", "去", "北京大学"]),
        ("ภาษาไทยง่าย", ["ภาษา", "ไทย", "ง่าย"]),
        ("東京に行きました", ["東京", "に", "行き", "ました"]),
    ],
)
def test_scripts_without_spaces_are_cut_by_dictionary(text, expected):
    found = words(text)
    assert "".join(found) == text.rstrip("。")
    assert len(set(found) & set(expected)) >= 2, found


def test_khmer_lao_and_burmese_are_cut_into_several_words():
    for text in ("ភាសាខ្មែរជាភាសា", "ພາສາລາວແມ່ນພາສາ", "မြန်မာဘာသာစကား"):
        assert len(words(text)) > 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Wait... what", ["Wait", "...", "what"]),
        ("|---|---|", ["|---|---|"]),
        ("J. Smith of the U.S. came", ["J.", "Smith", "of", "the", "U.S.", "came"]),
        ("It ended.", ["It", "ended", "."]),
        ("ls -v --all /usr", ["ls", "-v", "--all", "/usr"]),
        ("and/or 1/2 1914–1918 Ctrl+C", ["and", "/", "or", "1/2", "1914–1918", "Ctrl+C"]),
        ("see https://a.org/b?c=1, there", ["see", "https://a.org/b?c=1", ",", "there"]),
    ],
)
def test_what_a_reader_sees_as_one_thing_is_one_token(text, expected):
    assert segment(text).tokens.strings == expected


def test_a_sentence_ends_at_its_mark_and_at_a_newline():
    document = segment("One is here. Two is here! Three\nFour。五个。\n\n")
    assert document.per_line(document.sentences).tolist() == [3, 2, 0, 0]


def test_lines_and_paragraphs():
    document = segment("a b\n\nc\nd e f\n")
    assert document.lines == ["a b", "", "c", "d e f", ""]
    assert document.line_bounds.tolist() == [0, 4, 5, 7, 13, 14]
    assert document.per_line(document.spaced_starts).tolist() == [2, 0, 1, 3, 0]
    assert document.paragraphs == ["a b", "c\nd e f"]


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("plain words", "Latn"),
        ("простые слова", "Cyrl"),
        ("我们使用的软件", "Hani"),
        ("LibreOffice Writer 中的键盘快捷方式和样式", "Hani"),
        ("これは日本語です", "Jpan"),
        ("한국어 문장", "Kore"),
        ("ประโยคภาษาไทย", "Thai"),
        ("هذه جملة", "Arab"),
        ("यह वाक्य है", "Deva"),
        ("123 ... !", "Zyyy"),
        ("", "Zyyy"),
        ("𠀀𠀁𪛖", "Hani"),
        ("ＦＵＬＬ", "Latn"),
    ],
)
def test_the_script_is_that_of_most_of_the_text(text, script):
    assert segment(text).script == script


def test_a_mostly_chinese_line_is_told_from_an_english_one_that_quotes_a_word():
    document = segment("启动 LibreOffice 应用程序\nThe word 道 means way in Chinese.\n\n12")
    assert document.unspaced_lines.tolist() == [True, False, False, False]


def test_terminal_marks_are_of_all_scripts():
    assert set(".!?。！？।؟።។") <= TERMINAL_MARKS
    assert not set(",;:、，'\"") & TERMINAL_MARKS


def test_class_table_agrees_with_python_on_every_code_point():
    classes, scripts = module._tables()
    for point in range(0x110000):
        character = chr(point)
        bits = int(classes[point])
        if point < 0x20000 or character.isalpha() or character.isspace() or character.isdigit():
            wanted = ALPHABETIC * character.isalpha() | DIGIT * character.isdigit() | UPPER * character.isupper()
            unassigned_han = 0x20000 <= point < 0x40000
            assert unassigned_han or bits & (ALPHABETIC | DIGIT | UPPER) == wanted, hex(point)
            assert bool(bits & SPACE) == character.isspace(), hex(point)
    assert all(scripts[ord(letter)] for letter in string.ascii_letters)


@given(ANY_TEXT)
def test_pieces_lie_where_they_say_whatever_the_text(text):
    document = segment(text)
    for tokens in (document.tokens, document.spaced):
        assert len({len(part) for part in (tokens.strings, tokens.starts, tokens.lengths, tokens.ids)}) == 1
        numbers = zip(tokens.strings, tokens.starts.tolist(), tokens.lengths.tolist(), strict=True)
        for token, start, length in numbers:
            assert token == document._encodable[start : start + length] or token == text[start : start + length]
            assert token.strip()
        assert [list(tokens.vocabulary)[index] for index in tokens.ids.tolist()] == tokens.strings
        assert np.all(np.diff(tokens.starts) > 0)
    assert document.spaced.strings == text.split()
    visible = "".join(text.split())
    assert len("".join("".join(document.tokens.strings).split())) == len(visible)
    assert np.all(np.diff(document.sentences) > 0)
    assert document.line_bounds[-1] == len(text) + 1
    assert document.count(ALPHABETIC) == sum(document.letters.values())
    assert document.per_line(document.spaced_starts).tolist() == [len(line.split()) for line in text.split("\n")]
    assert isinstance(document.script, str)
    assert len(document.unspaced_lines) == len(document.lines)


def test_a_line_of_a_million_characters_is_cut():
    for unit in ("word ", "汉字", "a", "\0", "[1]"):
        document = segment(unit * (1_000_000 // len(unit)))
        assert len(document.tokens.ids) > 0
        assert len(document.lines) == 1
