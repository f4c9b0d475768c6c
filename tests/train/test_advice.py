"""Advice: each rule speaks where a training goes against it, with its reason, and is silent where not."""

from typing import Any

import pytest

from tilth.train.advice import (
    BATCHES,
    INSTRUCT_GPT,
    Seen,
    Stage,
    Training,
    advice,
    batch_notes,
    sft_epochs,
    sft_rate,
    told,
    usual_rates,
)
from tilth.train.schedule import ScheduleOptions

STEP = 4e6  # tokens
SIZES = {"bert": (1.1e8, 3.5e8, 4e9), "gpt": (1.2e8, 1.3e9, 6.7e9), "t5": (2.2e8, 7.7e8, 1.1e10)}


def stage(name: str = "all", tokens: float = 1e12, **values: Any) -> Stage:
    of = {key: values.pop(key) for key in ("same_data", "sft_share", "step") if key in values}
    return Stage(name, tokens, **{"step": STEP, **of}, schedule=ScheduleOptions(**values))


def training(*stages: Stage, **values: Any) -> Training:
    return Training(**{"family": "gpt", "parameters": 6.7e9, "stages": stages, **values})


def continued(*stages: Stage, **values: Any) -> Training:
    return training(*stages, continued=True, **values)


def of(rule: str, lines: list[str]) -> list[str]:
    return [line for line in lines if rule in line]


def test_a_usual_pretraining_is_told_nothing():
    """LLaMA 7B's, with an annealing stage that has some instructions in its mixture."""
    stable = stage("stable", 9e11, rate=3e-4, warmup=0.01, course="constant")
    annealing = stage("annealing", 1e11, warmup=0, course="linear", same_data=True, sft_share=0.2)
    assert advice(training(stable, annealing, unique=8e11, seen=[Seen("web", 1.2), Seen("books", 4)])) == []


def test_a_usual_continuation_is_told_nothing():
    assert advice(continued(stage(rate=3e-6, warmup=0.05))) == []


@pytest.mark.parametrize("family", ["bert", "gpt", "t5"])
@pytest.mark.parametrize("size", [0, 1, 2])
def test_a_rate_outside_what_is_usual_for_the_size_and_family_is_told(family, size):
    parameters = SIZES[family][size]
    whose, (low, high) = usual_rates(family, parameters)

    def lines(rate: float) -> list[str]:
        told = advice(continued(stage(rate=rate), family=family, parameters=parameters))
        return of(f"that {whose} is usually continued with", told)

    assert lines(low) == lines(high) == []
    assert [line.split(" the ")[0] for line in lines(low * 0.9)] == [f"rate {told(low * 0.9)} is below"]
    assert [line.split(" the ")[0] for line in lines(high * 1.1)] == [f"rate {told(high * 1.1)} is above"]


def test_rates_of_continuing_are_those_of_the_models_that_the_rule_names():
    assert usual_rates("bert", 1.1e8) == ("BERT-base", (2e-5, 3e-5))
    assert usual_rates("gpt", 1.24e8) == ("GPT-2", (1e-5, 2e-5))
    assert usual_rates("bert", 3.55e8) == ("RoBERTa-large", (1e-5, 1.5e-5))
    assert usual_rates("gpt", 1.3e9) == ("GPT-Neo", (5e-6, 1e-5))
    assert usual_rates("t5", 1.1e10) == ("T5", (5e-6, 1e-5))
    assert usual_rates("gpt", 1.75e11) == ("GPT-3", (1e-6, 5e-6))
    assert usual_rates("t5", 2.2e8) == ("small models", (1e-5, 5e-5))


@pytest.mark.parametrize(("rate", "side"), [(1e-4, "below"), (3e-4, "within"), (7e-4, "above")])
def test_where_the_table_and_the_study_contradict_the_line_says_so(rate, side):
    [line] = of("usually continued", advice(continued(stage(rate=rate, warmup=0.05))))
    assert "Gupta et al. 2023 disagree: they continued a GPT of 410M parameters with 1.5e-4 to 6e-4" in line
    assert f"and this is {side} that" in line
    assert "more of the old is forgotten" in line
    bert = advice(continued(stage(rate=rate, warmup=0.05), family="bert"))
    assert of("usually continued", bert)
    assert not of("410M", bert)


def test_a_rate_from_scratch_is_not_held_against_those_of_continuing():
    assert not of("usually continued", advice(training(stage(rate=3e-4))))


@pytest.mark.parametrize(
    ("warmup", "amiss"),
    [
        (0, "a warm-up of 0 steps, 0 of the training, is short"),
        (0.004, "a warm-up of 1,000 steps, 0.004 of the training, is short"),
        (0.008, ""),  # 2,000 steps
        (0.015, ""),  # a usual share, if 3,750 steps
        (0.02, "a warm-up of 5,000 steps, 0.02 of the training, is long"),
    ],
)
def test_a_warm_up_that_is_unusual_both_as_steps_and_as_share_is_told(warmup, amiss):
    lines = of("a warm-up", advice(training(stage(rate=3e-4, warmup=warmup))))
    assert len(lines) == bool(amiss)
    for line in lines:
        assert line.startswith(amiss)
        assert "0.01 to 0.015 is usual, about 2,000 steps, and more with a higher rate" in line
        assert "Given enough training its length leaves no trace" in line


@pytest.mark.parametrize(("parameters", "low", "high"), [(1.2e8, 1e3, 1e4), (1e9, 5e3, 2e4), (1e11, 1e4, 5e4)])
def test_a_warm_up_of_a_continuation_is_held_against_that_of_its_size(parameters, low, high):
    def lines(steps: float) -> list[str]:
        whole = stage(rate=1e-5, warmup=steps * STEP, tokens=1e6 * STEP)
        return of("a warm-up", advice(continued(whole, parameters=parameters)))

    assert lines(low) == lines(high) == []
    [short], [long] = lines(low - 1), lines(high + 1)
    assert "is short" in short
    assert "is long" in long
    assert f"usually continued with {low:,.0f} to {high:,.0f} steps" in short


def test_where_steps_and_share_of_a_warm_up_contradict_the_line_says_so():
    whole = stage(rate=3e-6, warmup=0.01)  # 2,500 steps
    [line] = of("a warm-up", advice(continued(whole)))
    assert "the other custom, 0.01 to 0.015 of the training, disagrees: it has that" in line
    assert "disagrees" not in "".join(advice(continued(stage(rate=3e-6, warmup=0.02))))


def test_a_warm_up_given_in_steps_by_mistake_is_told():
    [line] = of("counts tokens", advice(training(stage(rate=3e-4, warmup=2000))))
    assert line.startswith("stage all: its warm-up of 2,000 tokens is over within the first step of 4,000,000")
    assert not of("counts tokens", advice(training(stage(rate=3e-4, warmup=2000 * STEP))))
    assert not of("counts tokens", advice(training(stage(rate=3e-4, warmup=0))))


def test_little_data_with_a_high_rate_or_a_short_warm_up_is_told():
    def lines(rate: float, warmup: float, tokens: float = 5e9, **values: Any) -> list[str]:
        return of("with so little", advice(training(stage(tokens=tokens, rate=rate, warmup=warmup), **values)))

    assert lines(1.2e-4, 0.01) == []
    [high] = lines(3e-4, 0.01)
    assert high.startswith("5B different tokens are 0.75 for each parameter (GPT-3: 1.7)")
    assert high.endswith("rate 3e-4 is higher than 1.2e-4, that of GPT-3's model of 6.7B")
    [short] = lines(1.2e-4, 0.001)
    assert short.endswith("a warm-up of 1 step, 0.001 of the training, is short")
    [both] = lines(3e-4, 0.001)
    assert both.endswith(f"{high.partition('; ')[2]} and {short.partition('; ')[2]}")
    assert lines(3e-4, 0.01, tokens=1e12) == []
    assert len(lines(3e-4, 0.01, tokens=1e12, unique=5e9)) == 1
    assert lines(2e-3, 0.05, tokens=1e6, parameters=3e6) == []  # no large model is as small: nothing to go by


def test_little_data_of_a_continuation_is_held_against_what_is_usual_for_it():
    def lines(rate: float) -> list[str]:
        return of("with so little", advice(continued(stage(tokens=5e9, rate=rate, warmup=12_000, step=0.5))))

    assert lines(2e-6) == []
    [line] = lines(4e-6)
    assert line.endswith("rate 4e-6 is higher than 2.24e-6, the middle of what is usual for GPT-3")


def test_a_second_warm_up_on_the_same_data_is_told():
    first = stage("one", rate=3e-4)
    lines = advice(training(first, stage("two", rate=3e-4, same_data=True)))
    assert lines == [
        "stage two: the rate rises again, from 3e-5 to 3e-4, on the data of the stage before: this was found to hurt, "
        "the more the higher the rate; it helps where the data changes (Gupta et al. 2023)"
    ]
    assert of("rises again", advice(training(first, stage("two", rate=3e-4, warmup=0, same_data=True))))
    assert advice(training(first, stage("two", rate=3e-4))) == []  # other data
    assert advice(training(first, stage("two", same_data=True))) == []  # goes on at 3e-5
    assert advice(training(first, stage("two", rate=3e-5, same_data=True))) == []


def test_continuing_on_what_the_start_was_trained_on_is_told():
    [line] = of("rises again", advice(continued(stage(rate=3e-6, same_data=True))))
    assert "on the data that the start was trained on" in line
    assert not of("rises again", advice(continued(stage(rate=3e-6))))
    assert advice(continued(stage(rate=3e-6, warmup=0, same_data=True))) == []


@pytest.mark.parametrize(
    ("values", "times"),
    [
        ({"course": "cosine-cycles", "cycles": 4}, "3 times"),
        ({"course": "cosine-cycles", "cycles": 2}, "once"),
        ({"course": "cosine-cycles", "cycles": 1}, ""),
        ({"course": "wcsd", "cycles": 3}, "3 times"),
        ({"course": "cosine"}, ""),
        ({"course": "wsd"}, ""),
    ],
)
def test_a_course_that_raises_the_rate_again_is_told_that_the_findings_contradict(values, times):
    lines = of("raises the rate", advice(training(stage(rate=3e-4, **values))))
    assert len(lines) == bool(times)
    assert all(f"{values['course']} raises the rate {times} on the same data" in line for line in lines)


def test_repeats_beyond_4_are_told():
    def lines(*seen: Seen) -> list[str]:
        return advice(training(stage(rate=3e-4), seen=seen))

    assert lines(Seen("web", 4.0), Seen("books", 0.2)) == []
    [line] = lines(Seen("web", 1), Seen("books", 6.25))
    assert line.startswith("books is seen 6.25 times: up to 4 times")


def test_epochs_of_instructions_follow_their_number():
    def lines(times: float, documents: int) -> list[str]:
        return advice(training(stage(rate=3e-4), seen=[Seen("chat", times, documents, sft=True)]))

    assert (sft_epochs(200_000), sft_epochs(20_000)) == (2, None)
    assert lines(2, 200_000) == lines(16, 20_000) == lines(1, 0) == []
    assert lines(3, 200_000)[0].endswith("of more than 100,000 samples 2 epochs are usually enough to converge")
    assert "so few samples (20,000) usually take more epochs" in lines(1, 20_000)[0]


def test_fine_tuning_as_a_stage_has_a_tenth_of_the_rate_and_a_short_warm_up():
    def lines(rate: float, warmup: float = 0.005, share: float = 1.0, floor: float = 0.5) -> list[str]:
        last = stage("sft", 1e9, rate=rate, warmup=warmup, sft_share=share)
        return of("fine-tuning", advice(training(stage(rate=9e-5, floor=floor), last)))

    assert sft_rate(9e-5) == pytest.approx(9e-6)
    assert lines(9e-6) == []
    assert lines(9e-5, 0.05, share=0.3) == []  # a mixture, no fine-tuning
    [rate] = lines(9e-5)
    assert rate == (
        "stage sft: rate 9e-5: fine-tuning on a set that is not large usually has a tenth of pretraining's, here 9e-6 "
        "(InstructGPT 1.3B and 6B had 9.65e-6, 175B 5.03e-6)"
    )
    [warm] = lines(9e-6, 0.03, floor=0.0)
    assert warm.startswith("stage sft: a warm-up of 0.03 of it is long")


def test_published_settings_are_as_published():
    assert [(one.epochs, one.dropout, one.rate, one.batch) for one in INSTRUCT_GPT] == [
        (16, 0.2, 9.65e-6, 32),
        (16, 0.2, 5.03e-6, 8),
    ]
    assert {one.model: one.sequences or one.tokens for one in BATCHES} == {
        "BERT": 256,
        "GPT-3": 3.2e6,
        "T5": 2048,
        "Megatron-LM": 1920,
        "PaLM": 1024,
    }
    assert batch_notes()[1].startswith("GPT-3: 3.2M tokens a step (V100; tokens, not sequences")


@pytest.mark.parametrize(("rate", "written"), [(3e-4, "3e-4"), (1.5e-5, "1.5e-5"), (9.65e-6, "9.65e-6"), (0, "0")])
def test_rates_are_told_as_people_write_them(rate, written):
    assert told(rate) == written
