"""Guards: which steps are taken, skipped, undone; and that a resumed run decides as one that never stopped."""

import math
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.errors import RecipeError
from tilth.recipe import validated
from tilth.train.guard import FLOOR, OVERFLOWS, Guard, GuardOptions, Verdict, data_step, joined

NAN, INF = math.nan, math.inf
numbers = st.one_of(st.floats(0.5, 3), st.floats(0, 2.0**127), st.just(NAN), st.just(INF))


def guarded(steps: int = 64, **options: Any) -> Guard:
    """A guard that has seen steps 0 to `steps` - 1, losses and norms of mean 2 and standard deviation 1."""
    guard = Guard(GuardOptions(**options))
    for step in range(steps):
        assert guard.decide(step, 1.0 + step % 2 * 2, 3.0 - step % 2 * 2) == Verdict("go")
    return guard


def stored(state: dict[str, Any]) -> dict[str, Any]:
    """The state as a checkpoint gives it back."""
    return orjson.loads(orjson.dumps(state))


@pytest.mark.parametrize("sigma", [4.0, 6.0])
@pytest.mark.parametrize("of", ["loss", "gradient norm"])
def test_a_spike_is_what_lies_beyond_sigma_and_nothing_below(of, sigma):
    edge = 2 + sigma
    beyond = math.nextafter(edge, INF)
    guard = guarded(sigma=sigma)
    assert guard.decide(64, *((beyond, 2.0) if of == "loss" else (2.0, beyond))).action == "skip"
    assert guarded(sigma=sigma).decide(64, *((edge, 2.0) if of == "loss" else (2.0, edge))) == Verdict("go")
    verdict = guard.decide(65, *((9.5, 2.0) if of == "loss" else (2.0, 9.5)))
    assert verdict == Verdict("skip", f"{of} 9.5 is 7.5 standard deviations above the last 64: 2 ± 1")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_number_that_is_none_is_skipped_from_the_first_step_on(value):
    guard = Guard(GuardOptions())
    assert guard.decide(0, value, 1.0) == Verdict("skip", f"loss is {value}")
    assert guard.decide(1, 2.0, value) == Verdict("skip", f"gradient norm is {value}")
    assert guard.decide(2, value, None) == Verdict("skip", f"loss is {value}")
    assert guard.skipped == 3


def test_what_was_skipped_does_not_enter_the_history():
    guard = guarded()
    before = guard.state()
    for step, pair in enumerate([(NAN, 2.0), (2.0, INF), (100.0, 2.0), (2.0, 100.0)], 64):
        assert guard.decide(step, *pair).action == "skip"
    after = guard.state()
    assert [after["losses"], after["grad_norms"]] == [before["losses"], before["grad_norms"]]


def test_nothing_is_a_spike_before_there_is_a_history():
    assert guarded(31).decide(31, 1000.0, 1000.0) == Verdict("go")
    assert guarded(32).decide(32, 1000.0, 1000.0).action == "skip"
    assert guarded(4, history=4).decide(4, 1000.0, 1000.0).action == "skip"


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=200))
def test_a_loss_that_falls_is_never_a_spike_however_fast(losses):
    guard = Guard(GuardOptions(history=2))
    for step, loss in enumerate(sorted(losses, reverse=True)):
        assert guard.decide(step, loss, loss) == Verdict("go")


def test_only_the_last_window_of_steps_counts():
    """A loss of 9 is usual at the beginning of training, and a spike once 128 steps have passed below 2."""
    guard = Guard(GuardOptions())
    for step in range(400):
        assert guard.decide(step, 1.5 + 9 * math.exp(-step / 20) + 0.1 * math.sin(step), 1.0).action == "go"
    assert len(guard.state()["losses"]) == 128
    assert guard.decide(400, 9.0, 1.0).action == "skip"


def test_a_loss_at_rest_may_tremble():
    still = Guard(GuardOptions())
    for step in range(128):
        still.decide(step, 2.5, 0.5)
    state = still.state()
    assert Guard(GuardOptions(), state).decide(128, 2.5 * (1 + 5.9 * FLOOR), 0.5) == Verdict("go")
    assert Guard(GuardOptions(), state).decide(128, 2.5 * (1 + 6.1 * FLOOR), 0.5).action == "skip"


def test_a_loss_of_nothing_gives_no_measure():
    guard = Guard(GuardOptions())
    for step in range(128):
        guard.decide(step, 0.0, 0.0)
    assert guard.decide(128, 1e-9, 1e-9) == Verdict("go")


def test_a_gradient_beyond_the_limit_is_skipped_whatever_came_before():
    for on_spike in ("skip", "rollback", "ignore"):
        guard = Guard(GuardOptions(grad_norm_limit=5, on_spike=on_spike))
        assert guard.decide(0, 2.0, 5.0) == Verdict("go")
        assert guard.decide(1, 2.0, 5.5) == Verdict("skip", "gradient norm 5.5 is beyond the limit of 5")


def test_an_ignored_spike_is_taken_and_told():
    guard = guarded(on_spike="ignore")
    verdict = guard.decide(64, 9.5, 2.0)
    assert verdict.action == "go"
    assert "7.5 standard deviations" in verdict.reason
    assert guard.state()["losses"][-1] == 9.5
    assert guard.decide(65, NAN, 2.0).action == "skip"


def test_patience_ends_with_so_many_skipped_in_a_row():
    guard = guarded(patience=4, max_skipped=1)
    for start in (64, 68):  # the good step between them begins the count anew
        actions = [guard.decide(start + at, NAN, 2.0).action for at in range(3)]
        assert actions == ["skip"] * 3
        assert guard.decide(start + 3, 2.0, 2.0).action == "go"
    verdicts = [guard.decide(step, 100.0, 2.0) for step in range(72, 76)]
    assert [verdict.action for verdict in verdicts] == ["skip"] * 3 + ["stop"]
    assert "4 steps skipped in a row" in verdicts[-1].reason


def test_patience_ends_with_too_large_a_share_of_skipped_steps():
    guard = guarded(max_skipped=0.1)  # 12.8 of 128
    actions = [guard.decide(step, 2.0 if step % 5 else NAN, 2.0).action for step in range(65, 165)]
    assert [action for action in actions if action != "go"][:13] == ["skip"] * 12 + ["stop"]
    rare = guarded(max_skipped=0.1)
    assert {rare.decide(step, 2.0 if step % 11 else NAN, 2.0).action for step in range(64, 2000)} == {"go", "skip"}
    assert rare.skipped == len([step for step in range(64, 2000) if step % 11 == 0])


def test_a_loss_scaler_may_search_for_its_scale():
    guard = Guard(GuardOptions(patience=3))
    assert {guard.decide(step, 9.0, None).action for step in range(40)} == {"skip"}
    assert guard.decide(40, 9.0, 1.0) == Verdict("go")
    verdicts = [guard.decide(step, 9.0, None).action for step in range(41, 41 + OVERFLOWS)]
    assert verdicts == ["skip"] * (OVERFLOWS - 1) + ["stop"]
    assert [Guard(GuardOptions(patience=2)).decide(0, NAN, None).reason] == ["loss is nan"]


@given(st.lists(st.tuples(numbers, st.one_of(numbers, st.none())), max_size=60), st.data())
@settings(max_examples=60)
def test_a_resumed_run_decides_bit_for_bit_as_one_that_never_stopped(pairs, data):
    options = GuardOptions(
        window=16,
        history=4,
        sigma=2,
        on_spike=data.draw(st.sampled_from(["skip", "rollback", "ignore"])),
        max_skipped=0.5,
        patience=4,
    )
    cut = data.draw(st.integers(0, len(pairs)))
    whole, first = Guard(options), Guard(options)
    expected = [whole.decide(step, *pair) for step, pair in enumerate(pairs)]
    found = [first.decide(step, *pair) for step, pair in enumerate(pairs[:cut])]
    second = Guard(options, stored(first.state()))
    found += [second.decide(step, *pair) for step, pair in enumerate(pairs[cut:], cut)]
    assert found == expected
    assert stored(second.state()) == stored(whole.state())


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=6))
def test_data_steps_are_all_those_outside_the_windows_in_order(drawn):
    windows = [(first, first + length) for first, length in drawn]
    hidden = {step for first, last in windows for step in range(first, last + 1)}
    expected = [step for step in range(200) if step not in hidden][:100]
    assert [data_step(step, joined(windows)) for step in range(100)] == expected


def test_a_rollback_passes_over_what_was_read_since_the_checkpoint():
    guard = guarded(on_spike="rollback", pass_over=1)
    saved = stored(guard.state())  # after step 63
    for step in range(64, 70):
        guard.decide(step, 2.0, 2.0)
    assert guard.decide(70, 50.0, 2.0).action == "rollback"
    assert guard.roll_back(saved, resume=64, spike=70) == (64, 70)
    assert [guard.data_step(step) for step in (63, 64, 65)] == [63, 71, 72]
    assert guard.state() == {**saved, "rollbacks": 1, "passed_over": [[64, 70]]}
    assert guard.decide(64, 2.0, 2.0).action == "go"
    assert guard.decide(65, 50.0, 2.0).action == "rollback"
    assert guard.roll_back(saved, resume=64, spike=65) == (71, 72)
    assert guard.passed_over == [(64, 72)]
    assert guard.data_step(64) == 73


def test_a_rollback_passes_over_so_many_steps_at_least():
    guard = guarded(on_spike="rollback")
    assert guard.roll_back(guard.state(), resume=64, spike=70) == (64, 263)
    assert guard.roll_back(guard.state(), resume=64, spike=400) == (264, 600)


def test_rollbacks_come_to_an_end():
    guard = guarded(on_spike="rollback", max_rollbacks=2)
    saved = stored(guard.state())
    for _ in range(2):
        assert guard.decide(64, 50.0, 2.0).action == "rollback"
        guard.roll_back(saved, 64, 64)
    verdict = guard.decide(64, 50.0, 2.0)
    assert verdict.action == "stop"
    assert "rolled back 2 times" in verdict.reason


def trained(steps: int, killed_at: set[int]) -> tuple[list[int], Guard]:
    """The data steps that a model of `steps` steps has learned from, bad data at 52, 90 and 91; saved every 20 steps.

    A run that is killed before a step goes on from the last checkpoint.
    """
    options = GuardOptions(history=16, on_spike="rollback", pass_over=8)
    guard, learned, step = Guard(options), list[int](), 0
    saved: tuple[int, list[int], dict[str, Any]] = (0, [], guard.state())
    killed_at = set(killed_at)
    while step < steps:
        if step in killed_at:
            killed_at.remove(step)
            step, learned, guard = saved[0], [*saved[1]], Guard(options, stored(saved[2]))
            continue
        read = guard.data_step(step)
        loss = 30.0 if read in (52, 90, 91) else 2.0 + read % 7 / 10
        if guard.decide(step, loss, loss / 2).action == "rollback":
            guard.roll_back(stored(saved[2]), saved[0], step)
            step, learned = saved[0], [*saved[1]]
            continue
        learned.append(read)
        step += 1
        if step % 20 == 0:
            saved = (step, [*learned], guard.state())
    return learned, guard


@given(st.sets(st.integers(0, 119), max_size=4))
@settings(max_examples=40)
def test_each_data_step_is_learned_once_or_passed_over_wherever_the_run_was_killed(killed_at):
    learned, guard = trained(120, killed_at)
    # 52 is met at step 52: back to 40; 90 at step 77: back to 60, which then meets 91 at once and passes over 8
    assert guard.passed_over == [(40, 52), (73, 98)]
    hidden = {step for first, last in guard.passed_over for step in range(first, last + 1)}
    assert learned == [step for step in range(max(learned) + 1) if step not in hidden]
    assert not {52, 90, 91} & {*learned}
    undisturbed, its_guard = trained(120, set())
    assert (learned, guard.state()) == (undisturbed, its_guard.state())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"history": 200}, "history 200 is more than the window of 128 steps can hold"),
        ({"on_spike": "panic"}, "on_spike"),
        ({"pateince": 3}, "did you mean patience"),
        ({"patience": 0}, "patience"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(values, message):
    with pytest.raises(RecipeError, match=message):
        validated(GuardOptions, values, "guard")
