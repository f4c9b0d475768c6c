"""Rules decide on labels, in order, and say by which value and threshold."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tilth.curate.rules import Rule, judge

COLUMNS = {
    "gopher.words": pa.array([10, 50, 100_001, None]),
    "lang.code": pa.array(["en", "zh", "de", None]),
    "lang.script": pa.array(["Latn", "Hani", "Latn", "Zyyy"]),
}


def failed(**rule):
    return Rule.model_validate(rule).failed(COLUMNS).tolist()


def test_limits_themselves_pass_and_what_was_not_measured_passes():
    assert failed(label="gopher.words", min=50, max=100_000) == [True, False, True, False]
    assert failed(label="gopher.words", min=10, max=100_001) == [False] * 4


def test_values_can_be_required_or_refused():
    assert failed(label="lang.code", **{"in": ["en"]}) == [False, True, True, False]
    assert failed(label="lang.code", not_in=["en"]) == [True, False, False, False]


def test_a_rule_speaks_only_of_the_documents_it_is_for():
    assert failed(label="gopher.words", min=60, when={"lang.script": ["Hani"]}) == [False, True, False, False]
    assert failed(label="gopher.words", min=60, unless={"lang.script": ["Hani"]}) == [True, False, False, False]


def test_the_first_rule_decides_and_the_others_are_kept_beside_it():
    rules = {
        "words": Rule(label="gopher.words", min=20),
        "language": Rule.model_validate({"label": "lang.code", "in": ["zh"]}),
        "more-words": Rule(label="gopher.words", min=60),
    }
    verdicts = judge(COLUMNS, rules, 4)
    assert verdicts.first.tolist() == [0, 2, 1, -1]
    assert verdicts.value == ["10", "50", "de", None]
    assert verdicts.also == [["language", "more-words"], [], [], []]


def test_without_rules_all_stay():
    assert judge(COLUMNS, {}, 4).first.tolist() == [-1] * 4
    assert judge({"x": pa.array([], pa.int64())}, {"r": Rule(label="x", min=1)}, 0).first.tolist() == []


def test_a_rule_that_tests_nothing_is_refused():
    with pytest.raises(ValidationError, match="one of min, max, in, not_in"):
        Rule(label="gopher.words")


def test_a_rule_is_told_as_a_person_would_say_it():
    assert Rule(label="gopher.words", min=50, max=100_000).test() == "50 ≤ gopher.words ≤ 100,000"
    assert Rule(label="repetition.top_2_gram", max=0.2).test() == "repetition.top_2_gram ≤ 0.2"
    assert Rule.model_validate({"label": "lang.code", "in": ["en", "de"]}).test() == "lang.code in en, de"


@given(
    st.integers(-5, 5) | st.none(),
    st.sampled_from(["en", "zh", ""]) | st.none(),
    st.sampled_from(
        [
            {"label": "x", "min": 0, "max": 3},
            {"label": "x", "min": 0, "when": {"code": ["zh", ""]}},
            {"label": "x", "max": 0, "unless": {"code": ["zh"]}},
            {"label": "code", "in": ["en", ""]},
            {"label": "code", "not_in": ["en"], "when": {"x": ["1", "2"]}},
        ]
    ),
)
def test_one_document_is_judged_as_a_column_would_be(number, code, rule):
    rule = Rule.model_validate(rule)
    columns = {"x": pa.array([number], pa.int64()), "code": pa.array([code], pa.string())}
    assert rule.fails({"x": number, "code": code}) == rule.failed(columns)[0]


@given(
    st.lists(st.integers(-5, 5) | st.none(), max_size=30),
    st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), max_size=5),
)
def test_columns_are_judged_as_single_values_would_be(values, limits):
    limits = [(min(pair), max(pair)) for pair in limits]
    rules = {f"rule-{place}": Rule(label="x", min=low, max=high) for place, (low, high) in enumerate(limits)}
    verdicts = judge({"x": pa.array(values, pa.int64())}, rules, len(values))
    for place, value in enumerate(values):
        wrong = [i for i, (low, high) in enumerate(limits) if value is not None and not low <= value <= high]
        assert verdicts.first[place] == (wrong[0] if wrong else -1)
        assert np.flatnonzero(verdicts.failed[:, place]).tolist() == wrong
