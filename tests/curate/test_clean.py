"""Line rules: what labels announce is what the text becomes, in datatrove's order."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.curate.clean import CLEANED, RULES, clean, cleaned
from tilth.curate.label.lines import EDITS, MARKS, Lines, lines
from tilth.curate.segment import segment
from tilth.document import struct_of
from tilth.errors import RecipeError

C4 = (
    "c4-long-word",
    "c4-citation",
    "c4-no-terminal-punctuation",
    "c4-few-words",
    "c4-lorem-ipsum",
    "c4-javascript",
    "c4-curly-bracket",
    "c4-policy",
)
REFINEDWEB = tuple(rule for rule in RULES if rule.startswith("refinedweb"))

LINES = st.sampled_from(
    [
        "",
        "  ",
        "A good line of text. And one more!",
        "No end here",
        "Short.",
        "SHOUTING ALL DAY LONG.",
        "12",
        "4 likes",
        "It is so [3] they say [edit].",
        "[7]",
        "Enable javascript { now.",
        "Lorem ipsum dolor sit amet.",
        "a { b } c d.",
        "Sign-in and read more...",
        "items in cart",
        "More at https://garden.example/soil and www.garden.example.",
        "We value your privacy policy here.",
        "我们今天去公园散步。天气很好！",
        "我们去公园[2]散步。",
        "阅读",
    ]
)
TEXT = st.lists(LINES, max_size=12).map("\n".join)


def measure(texts, rules):
    columns = pa.array([lines(segment(text))._asdict() for text in texts], struct_of(Lines)).flatten()
    return cleaned(*columns, rules=rules)


@settings(max_examples=200)
@given(TEXT, st.lists(st.sampled_from(RULES), unique=True))
def test_the_text_is_left_as_its_labels_announced(text, rules):
    left, counts = clean(text, lines(segment(text)).flags, rules)
    announced = {name: values[0] for name, values in measure([text], rules).items()}
    after = segment(left)
    assert announced["lines"] == sum(bool(line.strip()) for line in after.lines)
    assert announced["words"] == sum(lines(after).words)
    removing = [rule for rule in rules if rule not in EDITS and rule not in MARKS]
    before = sum(bool(line.strip()) for line in text.split("\n"))
    removed = sum(counts.get(rule, 0) for rule in removing)
    assert removed + announced["lines"] <= before
    if not set(rules) & set(EDITS):
        assert removed + announced["lines"] == before
        assert announced["sentences"] == len(after.sentences)
    total = sum(lines(segment(text)).words)
    assert announced["removed_words_share"] == pytest.approx(1 - announced["words"] / total if total else 0)


@settings(max_examples=50)
@given(st.lists(TEXT, min_size=1, max_size=6), st.sampled_from([C4, REFINEDWEB, ()]))
def test_a_batch_is_measured_as_each_document_alone(texts, rules):
    together = measure(texts, rules)
    assert list(together) == list(CLEANED)
    for index, text in enumerate(texts):
        for name, values in measure([text], rules).items():
            assert together[name][index] == values[0], name


def test_a_slice_of_a_column_is_measured_like_the_whole():
    texts = ["A good line of text.", "No end", "Two good lines.\nare here, friend."]
    columns = pa.array([lines(segment(text))._asdict() for text in texts], struct_of(Lines)).flatten()
    whole = cleaned(*columns, rules=C4)
    part = cleaned(*(column.slice(1) for column in columns), rules=C4)
    for name in CLEANED:
        assert np.array_equal(part[name], whole[name][1:])


def test_marks_count_only_on_lines_that_are_still_there():
    def marked(text, rules=C4):
        values = measure([text], rules)
        return bool(values["lorem_ipsum"][0]), bool(values["curly_bracket"][0])

    assert marked("Lorem ipsum is here.\nA { is here too.") == (True, True)
    assert marked("lorem ipsum without an end\n{ nor this") == (False, False)
    assert marked("Enable javascript { here.") == (False, False)  # javascript goes before the bracket is looked for
    assert marked("Enable javascript lorem ipsum here.") == (True, False)  # but after lorem ipsum
    assert marked("Our privacy policy { is here.") == (False, True)  # and policy goes after both
    assert marked("A { is here.", ("c4-few-words",)) == (False, False)


def test_removed_words_are_a_share_of_all_words():
    values = measure(["ALL CAPITALS GO HERE.\nThis line of six words stays.\n3 likes"], REFINEDWEB)
    assert values["words"][0] == 6
    assert values["removed_words_share"][0] == pytest.approx(6 / 12)


def test_blank_lines_stay_between_paragraphs_and_nowhere_else():
    text = "\n\nOne good line.\n\n\nGONE ENTIRELY NOW.\n\nAnother good line.\n4 likes\n\n"
    left, counts = clean(text, lines(segment(text)).flags, REFINEDWEB)
    assert left == "One good line.\n\nAnother good line."
    assert counts == {"refinedweb-uppercase": 1, "refinedweb-counter": 1}


def test_a_line_is_counted_under_the_first_rule_that_removes_it():
    text = "12"
    flags = lines(segment(text)).flags
    assert clean(text, flags, ["refinedweb-digits", "refinedweb-one-word"])[1] == {"refinedweb-digits": 1}
    assert clean(text, flags, ["refinedweb-one-word", "refinedweb-digits"])[1] == {"refinedweb-one-word": 1}


def test_edits_take_out_only_what_they_name():
    text = "It is so[1] they say [citation needed].\nThe story goes on Read more...\nSign-in"
    left, counts = clean(text, lines(segment(text)).flags, tuple(EDITS))
    assert left == "It is so they say .\nThe story goes on"
    assert counts == {"c4-citation": 1, "refinedweb-read-more": 1, "refinedweb-sign-in": 1}


def test_an_unknown_rule_is_named():
    with pytest.raises(RecipeError, match="c4-nonsense"):
        clean("text", [0], ["c4-nonsense"])


def test_many_edits_of_one_line_are_counted_as_they_are_made():
    text = "The soil " + " ".join(["was [1] turned"] * 300) + "."
    rules = ["c4-citation"]
    cleaned_text, _ = clean(text, lines(segment(text)).flags, rules)
    assert measure([text], rules)["words"].tolist() == [len(cleaned_text.split())]


def test_addresses_go_and_their_words_with_them():
    text = "See https://garden.example/soil and www.garden.example for more of it, as we said before."
    cleaned_text, counts = clean(text, lines(segment(text)).flags, ["refinedweb-url"])
    assert "garden.example" not in cleaned_text
    assert counts == {"refinedweb-url": 1}
    assert measure([text], ["refinedweb-url"])["words"].tolist() == [len(cleaned_text.split())]


def edges(text, places):
    """Sorted spans without overlap, between places taken two at a time."""
    places = sorted({min(place, len(text)) for place in places})
    return list(zip(places[::2], places[1::2], strict=False))


def outside(text, spans):
    """What stands outside the spans, line breaks included, character by character."""
    cut = {at for start, end in spans for at in range(start, end)}
    return "".join(character for at, character in enumerate(text) if at not in cut or character == "\n")


ANY = st.one_of(TEXT, st.text(" \n\t\u3000\r\u2028ab.中ดี\0\ud800", max_size=60))
PLACES = st.lists(st.integers(0, 100), max_size=10)


@settings(max_examples=300)
@given(ANY, PLACES)
def test_a_cut_takes_the_spans_and_nothing_else_that_is_visible(text, places):
    spans = edges(text, places)
    left, counts = clean(text, [0] * (text.count("\n") + 1), (), spans)
    expected = ["".join(line.split()) for line in outside(text, spans).split("\n")]
    assert ["".join(line.split()) for line in left.split("\n") if line.strip()] == list(filter(None, expected))
    assert counts.get("repeated", 0) == sum(bool(text[start:end].strip()) for start, end in spans)
    rest = iter(text)
    assert all(character in rest for character in left)  # in this order


@given(ANY, PLACES, st.lists(st.sampled_from(RULES), unique=True))
def test_spans_of_nothing_visible_change_nothing(text, places, rules):
    flags = lines(segment(text)).flags
    blank = [(start, end) for start, end in edges(text, places) if not text[start:end].strip()]
    assert clean(text, flags, rules, blank) == clean(text, flags, rules)


@given(st.lists(st.sampled_from(["one", "two,", "  ", "\n", "three."]), max_size=20), st.sets(st.integers(0, 19)))
def test_words_beside_a_cut_stay_words(words, cut):
    starts = np.cumsum([0, *(len(word) + 1 for word in words)]).tolist()
    spans = [(starts[at], starts[at] + len(word)) for at, word in enumerate(words) if at in cut]
    text = " ".join(words)
    left, _ = clean(text, [0] * (text.count("\n") + 1), (), spans)
    assert left.split() == [word for at, word in enumerate(words) if at not in cut and word.strip()]


@settings(max_examples=200)
@given(TEXT, st.sets(st.integers(0, 40)), st.lists(st.sampled_from(RULES), unique=True))
def test_rules_see_the_flags_of_the_lines_that_a_cut_leaves(text, cut, rules):
    flags = lines(segment(text)).flags
    spans = [word.span() for number, word in enumerate(re.finditer(r"\S+", text)) if number in cut]
    left, counts = clean(text, flags, rules, spans)
    rest = outside(text, spans)
    expected, counted = clean(
        rest, [bits if line.strip() else 0 for line, bits in zip(rest.split("\n"), flags, strict=True)], rules
    )
    assert [line.split() for line in left.split("\n") if line] == [
        line.split() for line in expected.split("\n") if line
    ]
    assert counts == counted | ({"repeated": len(spans)} if spans else {})


@pytest.mark.parametrize(
    ("text", "passages", "left"),
    [
        ("First. The same. Last.", ["The same."], "First. Last."),
        ("The same. Last.", ["The same."], "Last."),
        ("First. The same.", ["The same."], "First."),
        ("  - The same. Last.", ["The same."], "  - Last."),
        ("First. The same. Last.", [" The same. "], "First. Last."),  # white space of the span's own is no loss
        ("A b c d e.", ["b", "d"], "A c e."),
        ("One.\nThe same\nline. Two.\n\nThree.", ["same\nline."], "One.\nThe\nTwo.\n\nThree."),
        ("One.\n\nThe same.\n\nTwo.", ["The same."], "One.\n\nTwo."),
        ("One.\nThe same.\nTwo.", ["The same."], "One.\nTwo."),
        ("The same.\n\nas ever.", ["The same.\n\nas ever."], ""),
        ("今天下雨。欢迎关注我们。明天晴。", ["欢迎关注我们。"], "今天下雨。明天晴。"),
        ("ฝนตกวันนี้ สงวนลิขสิทธิ์ พรุ่งนี้แดดออก", ["สงวนลิขสิทธิ์"], "ฝนตกวันนี้ พรุ่งนี้แดดออก"),
    ],
)
def test_what_a_cut_leaves_reads_on(text, passages, left):
    spans = [(text.index(passage), text.index(passage) + len(passage)) for passage in passages]
    assert clean(text, [0] * (text.count("\n") + 1), (), spans) == (left, {"repeated": len(spans)})
