"""Line rules: what labels announce is what the text becomes, in datatrove's order."""

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
