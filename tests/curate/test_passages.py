"""Repeated passages: every run that stands twice is found and nothing else, and the first of each stays."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tilth.curate.clean import clean
from tilth.curate.dedup import passages as module
from tilth.curate.dedup.passages import (
    PassageOptions,
    anchors,
    line_passages,
    repeated,
    sentence_passages,
    windows,
)
from tilth.curate.dedup.shingle import ShingleOptions, tokenise
from tilth.curate.segment import segment

OPTIONS = PassageOptions()
ANY_TEXT = st.one_of(
    st.text(st.characters(codec=None), max_size=200),
    st.text(" \n\t.,-|(“”1²éßİΣς中文かな가ไทยก็ำ\0\ud800\u200b\u0301\u2028\r_a", max_size=200),
    st.lists(st.sampled_from(["la", "Garden.", "soil,", "土。", "(rain)", "\n", "ดิน", "—"])).map(" ".join),
)
TEXTS = st.lists(
    st.lists(st.sampled_from(["soil", "rain", "Rain,", "\n(seed)", "土", "ดี"]), max_size=40).map(" ".join), max_size=5
)


def hashes(passages):
    return list(zip(passages.keys.tolist(), passages.checks.tolist(), strict=True))


def shown(text, passages):
    return [text[start:end] for start, end in zip(passages.starts.tolist(), passages.ends.tolist(), strict=True)]


def tokens_of(text):
    return tokenise(text, ShingleOptions()).strings()


def found(texts, length):
    """For each text: the windows that the two stages give, which of them stand twice, and which stand there first."""
    documents = [segment(text) for text in texts]
    marks = [anchors(document, length) for document in documents]
    often = Counter(key for mark in marks for key in mark.keys.tolist())
    known = [mark.tokens[[often[key] > 1 for key in mark.keys.tolist()]] for mark in marks]
    given_ = [windows(document, length, tokens) for document, tokens in zip(documents, known, strict=True)]
    count = Counter(key for passages in given_ for key in hashes(passages))
    seen = set()
    for passages in given_:
        again = np.array([count[key] > 1 for key in hashes(passages)], bool)
        first = np.array([key not in seen and not seen.add(key) for key in hashes(passages)], bool)
        yield passages, again, first


def cut(texts, length):
    """The texts without the runs that stand before."""
    for text, (passages, again, first) in zip(texts, found(texts, length), strict=True):
        spans = repeated(passages.starts[again], passages.ends[again], first[again])
        yield clean(text, [0] * (text.count("\n") + 1), (), spans)[0]


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(2, 9))
@example(["soil " * 30], 5)  # overlaps itself
@example(["rain soil " * 20, "soil rain " * 3], 8)
def test_the_runs_found_are_those_of_brute_force_over_all_pairs(texts, length):
    runs = [[tuple(one[at : at + length]) for at in range(len(one) - length + 1)] for one in map(tokens_of, texts)]
    places = [(document, at) for document, one in enumerate(runs) for at in range(len(one))]
    expected = [
        (document, runs[document][at])
        for document, at in places
        if any(runs[other][there] == runs[document][at] for other, there in places if (other, there) != (document, at))
    ]
    names, got = {}, []
    for document, (passages, again, _) in enumerate(found(texts, length)):
        for key, text in zip(hashes(passages), shown(texts[document], passages), strict=True):
            run = tuple(tokens_of(text))
            assert names.setdefault(key, run) == run  # one key, one run
        got += [(document, names[key]) for key, twice in zip(hashes(passages), again, strict=True) if twice]
    assert got == expected
    assert len(set(names.values())) == len(names)  # one run, one key


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(2, 9))
def test_every_repeated_run_stands_whole_after_the_cut(texts, length):
    def runs(some):
        tokens = map(tokens_of, some)
        return Counter(tuple(one[at : at + length]) for one in tokens for at in range(len(one) - length + 1))

    twice = {run for run, count in runs(texts).items() if count > 1}
    assert twice <= runs(cut(texts, length)).keys()


def test_a_copied_paragraph_stays_in_the_first_document_only():
    paragraph = "Compost warms the bed from below, and the worms (they are many) carry it down before the frost comes."
    texts = [
        f"Notes of one gardener.\n{paragraph}\nThey end here.",
        f"Quite another page, with “{paragraph}” in it.",
        paragraph.upper(),
    ]
    assert list(cut(texts, 10)) == [texts[0], "Quite another page, with in it.", ""]


def test_runs_of_chinese_and_thai_are_counted_in_characters():
    shared = "春天来了,园丁把堆肥铺在菜地上,等第一场雨。"
    left = list(cut([f"甲页说:{shared}", f"乙的话不同。{shared}完"], 15))
    assert left == [f"甲页说:{shared}", "乙的话不同。完"]
    shared = "ชาวสวนใส่ปุ๋ยหมักลงในแปลงผักก่อนฝนแรกของปี"
    left = list(cut([f"หน้าแรก {shared}", f"อีกหน้าหนึ่ง {shared}"], 20))
    assert left == [f"หน้าแรก {shared}", "อีกหน้าหนึ่ง"]


def test_of_a_word_repeated_for_ever_one_run_stays():
    text = "la " * 200
    assert list(cut([text], 50)) == [("la " * 50).strip()]
    assert list(cut(["la " * 60, text], 50)) == [("la " * 50).strip(), ""]


def test_anchors_are_few_and_the_same_wherever_a_run_stands():
    words = random.Random(5).choices([f"word{number}" for number in range(3000)], k=20_000)
    marks = anchors(segment(" ".join(words)), 50)
    assert len(marks.keys) == pytest.approx(20_000 * 2 / 27, rel=0.05)
    assert (np.diff(marks.tokens) > 0).all()
    inner = anchors(segment("Elsewhere, " + ", ".join(words[700:900]) + " and so on."), 50)
    here = dict(zip(marks.tokens.tolist(), marks.keys.tolist(), strict=True))
    there = dict(zip((inner.tokens + 699).tolist(), inner.keys.tolist(), strict=True))
    whole = range(750, 825)  # of which every window of 50 words is in both texts
    assert {at: here[at] for at in here if at in whole} == {at: there[at] for at in there if at in whole}


@given(ANY_TEXT)
def test_tokens_are_those_of_shingles(text):
    begins, kept = module._tokens(segment(text))
    strings = tokens_of(text)
    assert len(begins) == len(strings)
    whole = "".join(character for character, keep in zip(text, kept, strict=True) if keep)
    if not set(whole) & set("İΣς"):  # whose lower case is longer, or depends on what follows
        assert whole.lower() == "".join(strings)


def test_lower_case_makes_no_other_tokens():
    from tilth.curate.dedup.shingle import _kinds

    kinds = _kinds("auto")
    assert np.array_equal(kinds, kinds[module._lowered()])


@given(ANY_TEXT)
def test_every_passage_of_any_text_lies_in_it_and_begins_and_ends_visibly(text):
    document = segment(text)
    every = windows(document, 3, np.arange(len(text)))
    for one in (line_passages(document, OPTIONS), sentence_passages(document, OPTIONS), every):
        assert len(one.keys) == len(one.checks) == len(one.starts) == len(one.ends)
        assert (one.keys.dtype, one.checks.dtype) == (np.uint64, np.uint64)
        assert (one.starts.dtype, one.ends.dtype) == (np.int64, np.int64)
        assert (np.diff(one.starts) >= 0).all()
        for passage in shown(text, one):
            assert passage
            assert passage == passage.strip()
    assert len(every.keys) == max(len(tokens_of(text)) - 2, 0)


@given(ANY_TEXT)
def test_tokens_with_their_marks_are_the_whole_text(text):
    starts, ends = module._extents(segment(text))
    assert all(end <= start for end, start in zip(ends.tolist(), starts[1:].tolist(), strict=False))
    parts = [text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    assert "".join("".join(parts).split()) == ("".join(text.split()) if len(starts) else "")


def test_marks_go_with_their_word():
    text = "He said (softly): “Rain!” - then soil."
    starts, ends = module._extents(segment(text))
    assert [text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)] == [
        "He",
        "said",
        "(softly):",
        "“Rain!”",
        "- then",
        "soil.",
    ]


def test_lines_are_the_same_but_for_case_digits_and_marks():
    text = "Posted on 12 May\n\n  * posted ON 37 may!  \nPosted on 1 May\n———\n|---|\nShare\n版权所有。\n版权所有"
    passages = line_passages(segment(text), OPTIONS)
    assert shown(text, passages) == [
        "Posted on 12 May",
        "* posted ON 37 may!",
        "Posted on 1 May",
        "Share",
        "版权所有。",
        "版权所有",
    ]
    posted, again, other, share, chinese, bare = hashes(passages)
    assert posted == again
    assert chinese == bare
    assert len({posted, other, share, chinese}) == 4


def test_short_lines_are_looked_at_as_far_as_the_option_says():
    text = "Share\nShare it"
    assert shown(text, line_passages(segment(text), PassageOptions(min_line_chars=6))) == ["Share it"]


@given(ANY_TEXT)
def test_lines_have_equal_keys_exactly_if_they_are_equal_normalised(text):
    document = segment(text)
    passages = line_passages(document, OPTIONS)
    names = {}
    for key, line in zip(hashes(passages), shown(text, passages), strict=True):
        part = segment(line)
        codes = module._lowered()[part.code_points[(part.classes & module._UNCOUNTED) == 0]]
        name = "".join("0" if chr(code).isdigit() else chr(code) for code in codes.tolist())
        assert names.setdefault(key, name) == name
    assert len(set(names.values())) == len(names)


def test_sentences_are_taken_three_at_a_time():
    text = "One is here. Two  is\nhere!\n* * *\n三在这里。 Four is here."
    passages = sentence_passages(segment(text), OPTIONS)
    sentences = ["One is here.", "Two  is", "here!", "三在这里。", "Four is here."]
    starts = [text.index(sentence) for sentence in sentences]
    assert passages.starts.tolist() == starts[:3]
    assert shown(text, passages)[0] == "One is here. Two  is\nhere!"
    assert shown(text, passages)[2] == "here!\n* * *\n三在这里。 Four is here."
    again = sentence_passages(segment("Before it. ONE is here! TWO, is\nhere? Not this."), OPTIONS)
    assert hashes(again)[1] == hashes(passages)[0]
    assert len(set(hashes(again)) | set(hashes(passages))) == 5


def test_a_text_of_two_sentences_has_no_run_of_three():
    assert not len(sentence_passages(segment("One is here. Two is here. !!!"), OPTIONS).keys)
    assert len(sentence_passages(segment("One is here. Two is here."), PassageOptions(sentence_window=2)).keys) == 1


SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12), st.booleans()), max_size=12)


@given(SPANS)
def test_what_is_cut_is_the_later_less_the_first(spans):
    starts = np.array([start for start, _, _ in spans], np.int64)
    ends = np.array([start + size for start, size, _ in spans], np.int64)
    first = np.array([first for _, _, first in spans], bool)
    later_at, first_at = set(), set()
    for start, end, is_first in zip(starts.tolist(), ends.tolist(), first.tolist(), strict=True):
        (first_at if is_first else later_at).update(range(start, end))
    left = repeated(starts, ends, first)
    assert {at for start, end in left for at in range(start, end)} == later_at - first_at
    assert all(start < end for start, end in left)
    assert all(end < start for (_, end), (start, _) in pairwise(left))  # none touches the next
