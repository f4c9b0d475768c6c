"""The plan: stages as steps, shares as samples, and which data a step reads, before the first step is taken."""

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tilth.errors import RecipeError
from tilth.train.data.order import DataStep, Segment
from tilth.train.guard import Window, joined
from tilth.train.plan import Known, Plan, Rise, Rung, Stage, Stretch, apportioned, compiled, course, rises, visits
from tilth.train.schedule import ScheduleOptions, rate, schedule


def known(count: int) -> list[Known]:
    return [Known(f"pool{number}", 100, 128) for number in range(count)]


def plan_of(*parts: tuple[int, int, int, list[float]], pools: list[Known] | None = None) -> Plan:
    """Of stages of one segment each: steps, size, length and shares."""
    stretches, found, step, tokens = [], [], 0, 0
    for number, (steps, size, length, _) in enumerate(parts):
        stretches.append(Stretch(f"stage{number}", step, steps, steps * size * length, "all"))
        found.append(Rise(number, step, steps, size, length, tokens))
        step, tokens = step + steps, tokens + steps * size * length
    pools = pools or known(len(parts[0][3]))
    stored = {length >> halved: (length >> halved) + 10 for _, _, length, _ in parts for halved in range(4)}
    return compiled(stretches, found, stored, [np.array(share) for *_, share in parts], pools)


# --- Stages as steps ------------------------------------------------------------------------------------------------


def test_a_stage_has_the_steps_that_come_nearest_to_its_tokens() -> None:
    stages = {"first": Stage(tokens=10_000), "second": Stage(tokens=0.5, size=2, length=64)}
    stretches, found = rises(stages, 8, 128, 40_000)
    assert found == [Rise(0, 0, 10, 8, 128, 0), Rise(1, 10, 156, 2, 64, 10_240)]
    assert stretches == [Stretch("first", 0, 10, 10_240, "all"), Stretch("second", 10, 156, 19_968, "all")]
    assert rises({"tiny": Stage(tokens=3)}, 8, 128, None)[1] == [Rise(0, 0, 1, 8, 128, 0)], "one step at least"


def test_a_ramp_is_the_beginning_of_its_stage_in_sizes_and_lengths() -> None:
    ramp = (Rung(tokens=0.1, size=4, length=32), Rung(tokens=2048, size=8), Rung(tokens=0.2, length=64))
    stretches, found = rises({"only": Stage(tokens=20_480, ramp=ramp)}, 16, 128, None)
    assert found == [
        Rise(0, 0, 16, 4, 32, 0),  # 2,048 tokens
        Rise(0, 16, 2, 8, 128, 2048),
        Rise(0, 18, 4, 16, 64, 4096),
        Rise(0, 22, 6, 16, 128, 8192),
    ]
    assert stretches == [Stretch("only", 0, 28, 20_480, "all")]
    assert rises({"only": Stage(tokens=20_480, ramp=(Rung(tokens=10, size=8),))}, 16, 128, None)[1] == [
        Rise(0, 0, 10, 16, 128, 0)
    ], "a rung of less than half a step is none"


rungs = st.lists(st.tuples(st.floats(0.01, 0.3), st.integers(1, 64), st.integers(8, 64)), max_size=3)
told = st.lists(
    st.tuples(st.integers(1, 10**7), st.integers(1, 64), st.integers(8, 256), rungs), min_size=1, max_size=4
)


@settings(deadline=None)
@given(told)
def test_steps_follow_one_another_and_each_stage_is_within_a_step_of_its_tokens(drawn) -> None:
    stages = {
        f"{number}": Stage(
            tokens=tokens + 1,
            size=size,
            length=length,
            ramp=tuple(Rung(tokens=share, size=min(size, own), length=own_length) for share, own, own_length in ramp),
        )
        for number, (tokens, size, length, ramp) in enumerate(drawn)
    }
    stretches, found = rises(stages, 1, 8, None)
    step = seen = 0
    for each in found:
        assert (each.first, each.tokens) == (step, seen)
        assert each.steps >= 1
        step, seen = step + each.steps, seen + each.steps * each.size * each.length
    for stretch, (tokens, size, length, _) in zip(stretches, drawn, strict=True):
        own = [each for each in found if stretches[each.stage] is stretch]
        assert (stretch.first, stretch.steps) == (own[0].first, sum(each.steps for each in own))
        assert stretch.tokens == sum(each.steps * each.size * each.length for each in own)
        assert (own[-1].size, own[-1].length) == (size, length)
        longest = max(each.size * each.length for each in own)
        assert abs(stretch.tokens - (tokens + 1)) <= longest / 2 or own[-1].steps == 1


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage(tokens=0.5), r"stages.only.tokens: 0.5 is a share, of what\? set tokens, or give a number of tokens"),
        (Stage(tokens=1000, ramp=(Rung(tokens=0.5), Rung(tokens=500))), "ramp is as long as its 1,000 tokens"),
        (
            Stage(tokens=1000, ramp=(Rung(tokens=1.0),)),
            "only: its ramp is as long as its 1,000 tokens; make it shorter",
        ),
    ],
)
def test_a_share_of_nothing_and_a_ramp_without_end_are_refused(stage, message) -> None:
    with pytest.raises(RecipeError, match=message):
        rises({"only": stage}, 8, 16, None)


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"tokens": 9, "size": 0}, {"tokens": 9, "length": 7}, {}])
def test_a_stage_of_nothing_is_refused(wrong) -> None:
    with pytest.raises(ValidationError):
        Stage(**wrong)


# --- Shares as samples ----------------------------------------------------------------------------------------------

weights = st.lists(st.floats(0, 1) | st.sampled_from([0.0, 1 / 3, 1e-9]), min_size=1, max_size=12)


@settings(deadline=None)
@given(st.integers(0, 10**9), weights)
def test_a_total_in_parts_is_the_total_and_each_part_is_its_share_to_one(total, told) -> None:
    assume(sum(told) > 1e-6)
    parts = apportioned(total, told)
    assert sum(parts) == total
    for part, weight in zip(parts, told, strict=True):
        assert abs(part - total * weight / sum(told)) < 1 + 1e-6
        assert part >= 0
        assert weight or not part, "what has no share gets nothing"


def test_the_largest_remainders_are_rounded_up() -> None:
    assert apportioned(10, [1, 1, 1]) == [4, 3, 3]
    assert apportioned(10, [0.28, 0.36, 0.36]) == [3, 4, 3]
    assert apportioned(7, [0, 5]) == [0, 7]


stages = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9), st.sampled_from([64, 128])), min_size=1, max_size=4)


@settings(deadline=None)
@given(stages, st.data())
def test_a_segment_has_a_sample_for_each_place_and_each_pools_share_exactly(drawn, data) -> None:
    pools = data.draw(st.integers(1, 5))
    shares = [data.draw(st.lists(st.floats(0.001, 1), min_size=pools, max_size=pools)) for _ in drawn]
    plan = plan_of(*((*one, share) for one, share in zip(drawn, shares, strict=True)))
    assert len(plan.segments) == len(drawn)
    for segment, share in zip(plan.segments, shares, strict=True):
        total = segment.steps * segment.size
        assert sum(segment.counts) == total
        assert np.abs(np.array(segment.counts) - np.array(share) / sum(share) * total).max() < 1
        assert segment.length == segment.model_length + 10, "as the objective stores it"
    assert plan.steps == sum(steps for steps, *_ in drawn)
    assert plan.tokens == sum(steps * size * length for steps, size, length in drawn)
    assert plan.longest == max(length for *_, length in drawn)


def test_buckets_take_turns_and_keep_the_tokens_of_a_step() -> None:
    pools = [Known("a", 9, 138), Known("a", 9, 74, 1), Known("b", 9, 74, 1), Known("b", 9, 42, 2), Known("c", 9, 138)]
    plan = plan_of((100, 8, 128, [0.4, 0.1, 0.2, 0.3, 0.0]), (10, 4, 128, [0, 1.0, 0, 0, 0]), pools=pools)
    assert [(one.first, one.steps, one.size, one.model_length, one.length) for one in plan.segments] == [
        (0, 40, 8, 128, 138), (0, 30, 16, 64, 74), (0, 30, 32, 32, 42), (100, 10, 8, 64, 74)
    ]  # fmt: skip
    assert [one.counts for one in plan.segments] == [
        (320, 0, 0, 0, 0), (0, 160, 320, 0, 0), (0, 0, 0, 960, 0), (0, 80, 0, 0, 0)
    ]  # fmt: skip
    turns = [plan.at(step).segment for step in range(100)]
    for first in range(0, 100, 10):
        assert [turns[first : first + 10].count(each) for each in range(3)] == [4, 3, 3]
    assert [plan.tokens_before(step) for step in (0, 1, 50, 100, 103)] == [0, 1024, 51_200, 102_400, 102_400 + 3 * 512]
    assert (plan.steps, plan.tokens) == (110, 102_400 + 5120)


# --- Steps and their data -------------------------------------------------------------------------------------------


def bucketed(steps: list[int]) -> Plan:
    """A plan of one stage with a segment for each length class, and one stage behind it."""
    segments = [Segment(0, 0, each, 4 << at, 64 >> at, 64 >> at, 0, (each * 4 << at,)) for at, each in enumerate(steps)]
    total = sum(steps)
    segments.append(Segment(1, total, 3, 2, 64, 64, total * 256, (6,)))
    return Plan([Stretch("one", 0, total, total * 256, "all"), Stretch("two", total, 3, 384, "all")], segments)


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_each_step_has_data_of_its_own_and_data_its_step(steps) -> None:
    plan = bucketed(steps)
    found = [plan.at(step) for step in range(plan.steps)]
    assert sorted(found) == [
        DataStep(number, at) for number, one in enumerate(plan.segments) for at in range(one.steps)
    ]
    assert [plan.position(at) for at in found] == list(range(plan.steps))
    clock = itertools.accumulate(
        plan.segments[at.segment].size * plan.segments[at.segment].model_length for at in found
    )
    assert [plan.tokens_before(step) for step in range(plan.steps + 1)] == [0, *clock]
    assert [plan.stage_at(step) for step in range(plan.steps)] == [plan.segments[at.segment].stage for at in found]


windows = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=4)


def passed(drawn: list[tuple[int, int]]) -> list[Window]:
    return joined((first, first + more) for first, more in drawn)


@settings(deadline=None)
@given(st.lists(st.integers(1, 15), min_size=1, max_size=3), windows)
def test_data_that_is_passed_over_is_not_read_and_what_lacks_is_the_segments_first_again(steps, drawn) -> None:
    plan, over = bucketed(steps), passed(drawn)
    for first, stop in ((0, sum(steps)), (sum(steps), plan.steps)):
        reads = [plan.reads(step, over) for step in range(first, stop)]
        there = [place for place in range(first, stop) if not any(low <= place <= high for low, high in over)]
        expected = there or list(range(first, stop))  # all of it passed over: what else is there
        assert reads == [expected[at % len(expected)] for at in range(stop - first)]
    for position in range(plan.steps):
        assert plan.read_in(position, over) == [
            step for step in range(plan.steps) if plan.reads(step, over) == position
        ]


def test_without_a_window_a_step_reads_what_was_planned_for_it() -> None:
    plan = bucketed([5, 7])
    assert [plan.reads(step, []) for step in range(plan.steps)] == list(range(plan.steps))
    assert [plan.reads(step, [(2, 4)]) for step in range(12)] == [0, 1, 5, 6, 7, 8, 9, 10, 11, 0, 1, 5]


def test_a_plan_that_went_through_a_file_is_the_same() -> None:
    plan = plan_of((10, 4, 128, [0.5, 0.5]), (3, 2, 64, [0.9, 0.1]))
    again = Plan.load(json.loads(json.dumps(plan.about())))
    assert (again.stages, again.segments) == (plan.stages, plan.segments)
    assert (again.steps, again.tokens, again.longest) == (13, 10 * 512 + 3 * 128, 128)
    assert all(isinstance(one, Segment) and isinstance(one.counts, tuple) for one in again.segments)
    assert [again.at(step) for step in range(13)] == [plan.at(step) for step in range(13)]


def test_a_step_of_a_plan_of_ten_to_the_twelve_tokens_is_found_at_once() -> None:
    plan = plan_of(*((10**6, 4096, 4096, [0.2, 0.3, 0.5]) for _ in range(60)))
    assert plan.at(59_999_999) == DataStep(59, 999_999)
    assert plan.reads(30_000_000, [(29_999_990, 30_000_009)]) == 30_000_010
    assert plan.tokens == 60 * 10**6 * 2**24


# --- What segments read of a pool -----------------------------------------------------------------------------------


def test_what_one_segment_has_read_of_a_pool_counts_in_the_next() -> None:
    pools = [Known("web", 100, 138), Known("books", 7, 138)]
    plan = plan_of((10, 8, 64, [0.75, 0.25]), (10, 8, 128, [1.0, 0.0]), (10, 8, 128, [0.5, 0.5]), pools=pools)
    found = visits(plan.segments, pools)
    assert [[one and (one.first, one.stop, one.pieces) for one in row] for row in found] == [
        [(0, 30, 2), (0, 10, 2)], [(30, 110, 1), None], [(110, 150, 1), (10, 50, 1)]
    ]  # fmt: skip
    first = found[2][0]
    assert first is not None
    assert (first.place(0).epoch, first.place(0).turn) == (1, 10), "the second epoch, where the first stages left off"


# --- The learning rate ----------------------------------------------------------------------------------------------


def rates(stages: dict[str, Any], whole: ScheduleOptions) -> list[float]:
    stretches, _ = rises(stages, 1, 10, None)
    pieces = course(stages, stretches, whole)
    return [rate(pieces, tokens) for tokens in range(10, 310, 10)]


def test_a_schedule_goes_over_all_stages_where_none_has_its_own() -> None:
    whole = ScheduleOptions(rate=1.0, warmup=0, course="linear", floor=0)
    three = {name: Stage(tokens=100) for name in "abc"}
    assert rates(three, whole) == rates({"a": Stage(tokens=300)}, whole)
    assert rates(three, whole)[-1] == pytest.approx(0)


def test_a_stage_has_its_own_schedule_or_goes_on_with_the_rate_that_it_finds() -> None:
    fall = ScheduleOptions(warmup=0, course="linear", floor=0.1)
    whole = ScheduleOptions(rate=1.0, warmup=0, course="linear", floor=0.5)
    found = rates({"a": Stage(tokens=100), "b": Stage(tokens=100), "c": Stage(tokens=100, schedule=fall)}, whole)
    assert found[9:20] == pytest.approx([0.5] * 11), "the first has the recipe's, the second stays"
    assert (found[0], found[-1]) == pytest.approx((0.95, 0.05))
    stretches, _ = rises({"a": Stage(tokens=100, schedule=fall)}, 1, 10, None)
    assert course({"a": Stage(tokens=100, schedule=fall)}, stretches, whole) == schedule([(fall, 100)])


def test_a_batch_ramp_does_not_bend_the_rate() -> None:
    whole = ScheduleOptions(rate=1.0, course="cosine")
    plain, ramped = Stage(tokens=3200), Stage(tokens=3200, ramp=(Rung(tokens=0.25, size=2), Rung(tokens=800, length=8)))
    courses = [course({"a": each}, rises({"a": each}, 10, 16, None)[0], whole) for each in (plain, ramped)]
    assert courses[0] == courses[1]
