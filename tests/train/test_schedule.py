"""Learning rates: as Megatron's and torch's where they have the same courses; whole, whatever is chained; on tokens."""

import math
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from tilth.errors import RecipeError, UsageError
from tilth.recipe import validated
from tilth.train import device
from tilth.train.schedule import RATE, Course, Piece, ScheduleOptions, Tail, pieces, rate, schedule

STEPS = 400
SIZE = 4096  # tokens in a step
WHOLE = STEPS * SIZE


def options(**values: Any) -> ScheduleOptions:
    return validated(ScheduleOptions, values, "schedule")


def rates(of: tuple[Piece, ...], steps: int = STEPS) -> list[float]:
    """What each step is taken with."""
    return [rate(of, (step + 1) * SIZE) for step in range(steps)]


# --- as others have it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [1, 37, 200])
@pytest.mark.parametrize(
    ("course", "theirs"),
    [
        *[(one, one) for one in ("constant", "linear", "cosine")],
        ("inverse-sqrt", "inverse-square-root"),
        *[(f"wsd {tail}", "WSD") for tail in get_args(Tail)],
    ],
)
def test_rates_equal_those_of_megatron(course, theirs, warm):
    device.enter()
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    name, _, tail = course.partition(" ")
    optimizer: Any = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=6e-4,
        min_lr=1.2e-4,
        lr_warmup_steps=warm,
        lr_decay_steps=STEPS,
        lr_decay_style=theirs,
        start_wd=0.0,
        end_wd=0.0,
        wd_incr_steps=STEPS,
        wd_incr_style="constant",
        wsd_decay_steps=80,
        lr_wsd_decay_style=tail.replace("-", "_"),
    )
    expected = []
    for _ in range(STEPS):
        scheduler.step(1)
        expected.append(optimizer.param_groups[0]["lr"])
    ours = options(rate=6e-4, floor=0.2, warmup=warm / STEPS, course=name, decay=0.2, tail=tail or "linear")
    assert rates(pieces(ours, WHOLE)) == pytest.approx(expected, rel=1e-9)


def of_torch(make: Callable[[Any], Any], steps: int = STEPS) -> list[float]:
    """What a scheduler of torch has after 1, 2, ... steps, from a rate of 6e-4."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=6e-4)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR calls its own in a way that torch deprecates
        scheduler = make(optimizer)
        for _ in range(steps):
            optimizer.step()
            scheduler.step()
            found.append(optimizer.param_groups[0]["lr"])
    return found


def test_a_line_and_a_cosine_equal_those_of_torch():
    line = of_torch(lambda one: lr_scheduler.LinearLR(one, 1.0, 0.25, STEPS))
    ours = options(rate=6e-4, warmup=0, course="linear", floor=0.25)
    assert rates(pieces(ours, WHOLE)) == pytest.approx(line, rel=1e-9)

    cosine = of_torch(lambda one: lr_scheduler.CosineAnnealingLR(one, STEPS, 6e-5))
    assert rates(pieces(options(rate=6e-4, warmup=0), WHOLE)) == pytest.approx(cosine, rel=1e-9)


@pytest.mark.parametrize(("first", "stretch"), [(100, 1), (80, 2)])
def test_cosine_cycles_equal_the_warm_restarts_of_torch(first, stretch):
    lengths = {1: [100] * 4, 2: [80, 160, 320]}[stretch]
    steps = sum(lengths)
    theirs = of_torch(lambda one: lr_scheduler.CosineAnnealingWarmRestarts(one, first, stretch, 6e-5), steps)
    ours = options(rate=6e-4, warmup=0, course="cosine-cycles", cycles=len(lengths), stretch=stretch)
    found = rates(pieces(ours, steps * SIZE), steps)
    # with a period's last step torch is at the next one's top already; here that step has what the period comes to
    ends = {sum(lengths[: number + 1]) - 1 for number in range(len(lengths))}
    inside = [step for step in range(steps) if step not in ends]
    assert [found[step] for step in inside] == pytest.approx([theirs[step] for step in inside], rel=1e-9)
    assert [found[step] for step in ends] == pytest.approx([6e-5] * len(ends), rel=1e-9)


def test_stages_equal_the_sequences_of_torch():
    def make(optimizer: Any) -> Any:
        parts = [
            lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 100),
            lr_scheduler.ConstantLR(optimizer, 1.0, 100),
            lr_scheduler.CosineAnnealingLR(optimizer, 200, 6e-5),
        ]
        return lr_scheduler.SequentialLR(optimizer, parts, [100, 200])

    warm = pieces(options(rate=6e-4, warmup=1, course="constant"), 100 * SIZE, start=6e-5)
    chained = schedule(
        [
            (options(rate=6e-5, warmup=0, course="constant"), 1),
            (options(rate=6e-4, warmup=1, course="constant"), 100 * SIZE - 1),
            (options(warmup=0, course="constant"), 100 * SIZE),
            (options(warmup=0), 200 * SIZE),
        ]
    )
    expected = of_torch(make)
    assert rates(warm, 100) == pytest.approx(expected[:100], rel=1e-9)
    assert rates(chained)[100:] == pytest.approx(expected[100:], rel=1e-9)


# --- what holds for all ---------------------------------------------------------------------------------------------


@st.composite
def stages(draw: st.DrawFn) -> tuple[ScheduleOptions, int]:
    course = draw(st.sampled_from(get_args(Course)))
    tokens = draw(st.integers(10**3, 10**13))
    warmup, stable, decay = draw(
        st.sampled_from([(0.0, 0.1, 0.1), (0.01, 0.1, 0.2), (0.3, 0.4, 0.3), (0.2, 0.0, 0.8), (0.0, 0.0, 1.0)])
    )
    if course == "inverse-sqrt":
        warmup = max(warmup, 0.01)
    if draw(st.booleans()):  # the same in tokens
        warmup, stable, decay = (max(one * tokens, 2.0) if one else 0.0 for one in (warmup, stable, decay * 0.99))
    made = options(
        rate=draw(st.sampled_from([None, 1e-5, 3e-4, 1e-2])),
        warmup=warmup,
        course=course,
        floor=draw(st.sampled_from([0.05, 0.1, 0.5, 1.0])),
        cycles=draw(st.integers(1, 8)),
        stretch=draw(st.sampled_from([0.5, 1.0, 1.3, 2.0])),
        damping=1.0,
        stable=stable,
        decay=decay,
        tail=draw(st.sampled_from(get_args(Tail))),
    )
    return made, tokens


@given(st.lists(stages(), min_size=1, max_size=4))
@settings(max_examples=200)
def test_pieces_leave_no_gap_and_jump_only_where_a_course_begins_anew(plan):
    found = schedule(plan)
    assert found[0].first == 0
    assert found[-1].last == sum(tokens for _, tokens in plan)
    starts = {sum(tokens for _, tokens in plan[:number]): made for number, (made, _) in enumerate(plan)}
    for before, after in pairwise(found):
        assert before.first < before.last == after.first < after.last
        course = starts.get(after.first)
        if course:  # a stage: on from where the rate was, or up or down at once
            jumps = course.warmup == 0
        else:
            inside = next(made for first, made in reversed(starts.items()) if first < after.first)
            cycle = after.shape == "cosine" and inside.course in ("cosine-cycles", "wcsd")
            jumps = cycle or (inside.course == "wcsd" and not inside.warmup)
        if not jumps:
            assert after.start == pytest.approx(before.end, rel=1e-6)
    for piece in found:
        low, high = sorted((piece.start, piece.end))
        middle = (piece.first + piece.last) / 2
        assert low * (1 - 1e-9) <= rate(found, middle) <= high * (1 + 1e-9)
        assert rate(found, piece.last) == pytest.approx(piece.end, rel=1e-9)
        assert rate(found, math.nextafter(piece.first, math.inf)) == pytest.approx(
            piece.start, rel=5e-3, abs=1e-5 * high
        )


@given(st.lists(stages(), min_size=1, max_size=4), st.integers(1, 40))
@settings(max_examples=100)
def test_a_rate_is_above_0_and_stays_at_the_end(plan, steps):
    found = schedule(plan)
    whole = found[-1].last
    assert all(rate(found, whole * (step + 1) / steps) > 0 for step in range(steps))
    assert rate(found, whole) == rate(found, whole * 2) == pytest.approx(found[-1].end)


@given(stages(), st.lists(st.integers(1, 64), min_size=1, max_size=50))
@settings(max_examples=100)
def test_a_batch_ramp_does_not_bend_a_course(stage, sizes):
    """However steps cut the tokens: where as many have been seen, the rate is the same, and the end is reached."""
    course, _ = stage
    tokens = sum(sizes) * 1000
    course = course.model_copy(update={"warmup": 0.1, "stable": 0.1, "decay": 0.2})
    found = pieces(course, tokens)
    even = {seen: rate(found, seen) for seen in range(1000, tokens + 1, 1000)}
    seen = 0
    for size in sizes:
        seen += size * 1000
        assert rate(found, seen) == even[seen]
    assert rate(found, seen) == found[-1].end


# --- each course ----------------------------------------------------------------------------------------------------


def test_a_run_warms_up_from_0_and_falls_to_the_floor():
    found = pieces(options(rate=1.0, warmup=0.1), 100)
    assert [rate(found, seen) for seen in (1, 10, 55, 100)] == pytest.approx([0.1, 1.0, 0.55, 0.1])
    stays = pieces(options(rate=1.0, warmup=0, course="wsd", decay=0.2, floor=0), 10)
    assert [rate(stays, seen) for seen in (1, 8, 9, 10)] == pytest.approx([1.0, 1.0, 0.5, 0.0])


def test_wcsd_cycles_for_most_of_the_run_then_rises_stays_and_falls():
    found = pieces(options(rate=1.0, course="wcsd", warmup=0.05, cycles=3, stable=0.1, decay=0.2, tail="cosine"), 1000)
    shapes = [(round(one.first), round(one.last), one.shape, one.start, pytest.approx(one.end)) for one in found]
    assert shapes == [
        (0, 50, "linear", 0.0, 1.0),
        (50, 250, "cosine", 1.0, 0.1),
        (250, 450, "cosine", 1.0, 0.1),
        (450, 650, "cosine", 1.0, 0.1),
        (650, 700, "linear", 0.1, 1.0),
        (700, 800, "linear", 1.0, 1.0),
        (800, 1000, "cosine", 1.0, 0.1),
    ]


def test_cycles_may_become_longer_and_lower():
    found = pieces(options(rate=1.0, warmup=0, course="cosine-cycles", cycles=3, stretch=2, damping=0.5), 700)
    assert [(one.first, one.last, one.start) for one in found] == [(0, 100, 1.0), (100, 300, 0.5), (300, 700, 0.25)]


def test_inverse_sqrt_ends_at_its_floor_or_never():
    found = pieces(options(rate=1.0, warmup=100, course="inverse-sqrt", floor=0.5), 1000)
    assert [rate(found, seen) for seen in (100, 225, 400, 401, 1000)] == pytest.approx([1, 100 / 150, 0.5, 0.5, 0.5])
    unending = pieces(options(rate=1.0, warmup=100, course="inverse-sqrt", floor=0), 10**9)
    assert rate(unending, 10**8) == pytest.approx(1e-3)


def test_more_than_1_is_a_number_of_tokens_and_1_is_all_of_them():
    assert pieces(options(rate=1.0, warmup=2e8, course="constant"), 10**9)[0].last == 2e8
    assert pieces(options(rate=1.0, warmup=1, course="constant"), 10**9) == (Piece(0, 10**9, "linear", 0.0, 1.0),)
    anneal = pieces(options(rate=1.0, warmup=0, course="wsd", decay=1, tail="minus-sqrt", floor=0), 100, 500)
    assert anneal == (Piece(500, 600, "minus-sqrt", 1.0, 0.0),)


def test_a_stage_goes_on_from_where_the_one_before_ended():
    found = schedule(
        [
            (options(warmup=0.1, course="wsd", decay=0.5), 1000),  # the default rate, down to a tenth
            (options(warmup=0, course="constant"), 1000),  # on with that
            (options(rate=1e-3, warmup=0.5, course="cosine", floor=0), 1000),  # up again, in a line
            (options(rate=1e-4, warmup=0, course="constant"), 1000),  # at once
        ]
    )
    seen = {1000: RATE / 10, 1001: RATE / 10, 2250: (RATE / 10 + 1e-3) / 2, 2500: 1e-3, 3000: 0.0, 3001: 1e-4}
    assert [rate(found, tokens) for tokens in seen] == pytest.approx([*seen.values()])


# --- what cannot be meant -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"course": "wsd", "warmup": 0.5, "decay": 0.6},
            "warmup 0.5, decay 0.6 are shares of 1.1, more than the whole",
        ),
        ({"course": "wcsd", "stable": 0.9, "decay": 0.2}, "stable 0.9, decay 0.2 are shares of 1.11"),
        ({"course": "inverse-sqrt", "warmup": 0}, "give it a warmup"),
        ({"course": "cosine-cycles", "damping": 0.1, "cycles": 3}, "damping 0.1 brings the last of 3 cycles below"),
        ({"course": "cosin"}, "course"),
        ({"rate": 0}, "rate"),
        ({"warm_up": 0.1}, "did you mean warmup"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(values, message):
    with pytest.raises(RecipeError, match=message):
        options(**values)


def test_a_stage_too_short_for_its_spans_is_refused_with_both_numbers():
    with pytest.raises(UsageError, match=r"warmup 2e\+09 take 2,000,000,000 tokens of a stage of 1,000,000,000"):
        pieces(options(warmup=2e9), 10**9)
    with pytest.raises(UsageError, match=r"warmup 0.5, decay 6e\+08 take 1,100,000,000 tokens of a stage of"):
        pieces(options(course="wsd", warmup=0.5, decay=6e8), 10**9)


def test_a_stage_after_a_rate_of_0_has_to_name_one():
    with pytest.raises(UsageError, match="come to 0 after 1,000 tokens, and the next stage names none"):
        schedule([(options(floor=0), 1000), (options(), 1000)])


def test_a_thousand_stages_are_found_as_fast_as_one():
    """By halving, not by looking at each."""

    class Counted(tuple):
        looked = 0

        def __getitem__(self, index: Any) -> Any:
            Counted.looked += 1
            return super().__getitem__(index)

    found = Counted(schedule([(options(rate=1e-3, warmup=0), 1000)] * 1000))
    assert rate(found, 500_500) == pytest.approx(1e-3 * 0.55)
    assert Counted.looked <= math.log2(len(found)) + 3
