"""What experience says against a training before it runs: rates, warm-ups, repeats, fine-tuning as a stage.

Rules of thumb and findings of papers, as lines with their reasons; nothing here refuses a run. Pure functions of plain
numbers. Some rules contradict each other, and the line then says so: which one holds for a model, only trying tells.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from .budget import RULES, human
from .model.options import Family
from .schedule import Piece, ScheduleOptions, highest, pieces

Range = tuple[float, float]


class Stage(NamedTuple):
    """What advice has to know of a stage."""

    name: str
    tokens: float
    step: float  # tokens in a step; with a ramp, in the first
    schedule: ScheduleOptions
    same_data: bool = False  # the mixture is that of the stage before; of the first: of what the start was trained on
    sft_share: float = 0.0  # of its tokens: instructions with their answers

    @property
    def sft(self) -> bool:
        """Whether it is fine-tuning, and not pretraining with instructions in its mixture (MiniCPM's annealing)."""
        return self.sft_share > 0.5


class Seen(NamedTuple):
    """How often training sees a part of its data."""

    name: str
    times: float
    documents: int = 0  # 0: not known
    sft: bool = False


class Training(NamedTuple):
    """What advice has to know of a training."""

    family: Family
    parameters: float
    stages: Sequence[Stage]
    continued: bool = False  # it starts from a trained model
    unique: float | None = None  # tokens of its data, each counted once
    seen: Sequence[Seen] = ()


class Run(NamedTuple):
    """A stage with its rates."""

    stage: Stage
    before: float  # the rate where the stage before ended; 0 for the first
    top: float  # the highest of its own
    pieces: tuple[Piece, ...]

    @property
    def warm(self) -> float:
        """Tokens of its warm-up, where that goes up; no course begins so."""
        one = self.pieces[0]
        return one.last - one.first if one.start < one.end else 0.0


def advice(training: Training) -> list[str]:
    """What speaks against a training, a line each; nothing where nothing does. Errors are those of `pieces`."""
    runs: list[Run] = []
    first = before = 0.0
    for stage in training.stages:
        found = pieces(stage.schedule, stage.tokens, first, before)
        runs.append(Run(stage, before, highest(stage.schedule, before), found))
        first, before = found[-1].last, found[-1].end
    top = _pretrained_at(runs)
    lines = [*_rate(training, top), *_warmup(training, runs[0]), *_little_data(training, top, runs[0])]
    for number, run in enumerate(runs):
        of_stage = (
            *_counted_in_tokens(run.stage),
            *_rewarmed(run, number > 0, training.continued),
            *_raised(run),
            *_sft(run, _pretrained_at(runs[:number])),
        )
        lines += [f"stage {run.stage.name}: {line}" for line in of_stage]
    return lines + [line for part in training.seen for line in _repeats(part)]


# --- the rate -------------------------------------------------------------------------------------------------------


class Usual(NamedTuple):
    """What models of a size are usually continued with."""

    up_to: float  # parameters
    models: str
    rates: Range
    warmup: Range  # steps
    named: Mapping[Family, tuple[str, Range]]  # a model of the family, and its rates


# Handed down among practitioners, without a paper. They name models; where one size ends is set between those.
USUAL = (
    Usual(
        3e8,
        "small models",
        (1e-5, 5e-5),
        (1_000, 10_000),
        {"bert": ("BERT-base", (2e-5, 3e-5)), "gpt": ("GPT-2", (1e-5, 2e-5))},
    ),
    Usual(
        3e9,
        "medium models",
        (5e-6, 2e-5),
        (5_000, 20_000),
        {"bert": ("RoBERTa-large", (1e-5, 1.5e-5)), "gpt": ("GPT-Neo", (5e-6, 1e-5))},
    ),
    Usual(
        math.inf,
        "large models",
        (1e-6, 1e-5),
        (10_000, 50_000),
        {"t5": ("T5", (5e-6, 1e-5)), "gpt": ("GPT-3", (1e-6, 5e-6))},
    ),
)
GUPTA = "Gupta et al. 2023"  # "Continual pre-training of large language models: how to (re)warm your model?"
STUDIED = (1.5e-4, 6e-4)  # the highest rates with which they continued a GPT of 410M parameters
# parameters and rate from scratch: Brown et al. 2020, table 2.1
GPT_3 = {125e6: 6e-4, 350e6: 3e-4, 760e6: 2.5e-4, 1.3e9: 2e-4, 2.7e9: 1.6e-4, 6.7e9: 1.2e-4, 13e9: 1e-4, 175e9: 6e-5}


def usual(parameters: float) -> Usual:
    """What a model of that size is usually continued with."""
    return next(one for one in USUAL if parameters <= one.up_to)


def usual_rates(family: Family, parameters: float) -> tuple[str, Range]:
    """The rates it is usually continued with, of a model of its family and size, or else of its size; and whose."""
    size = usual(parameters)
    return size.named.get(family, (size.models, size.rates))


def _rate(training: Training, top: float) -> Iterator[str]:
    whose, rates = usual_rates(training.family, training.parameters)
    if not training.continued or not top or _side(top, rates) == "within":
        return
    size = usual(training.parameters)
    line = f"rate {told(top)} is {_side(top, rates)} the {_range(rates)} that {whose} is usually continued with"
    if whose != size.models:
        line += f" ({size.models} in all: {_range(size.rates)})"
    if training.family == "gpt":
        line += (
            f"; {GUPTA} disagree: they continued a GPT of 410M parameters with {_range(STUDIED)}, and this is "
            f"{_side(top, STUDIED)} that"
        )
    yield f"{line}. The higher the rate, the better the new text is learned, and the more of the old is forgotten"


def _little_data(training: Training, top: float, first: Run) -> Iterator[str]:
    """Little data is fewer tokens for each parameter than any large model was made with: GPT-3's."""
    whole = _tokens(training)
    unique = min(training.unique or whole, whole)
    few = RULES[0].tokens
    if not top or unique >= few * training.parameters:
        return
    wrong = []
    if training.continued:
        whose, rates = usual_rates(training.family, training.parameters)
        limit, source = math.sqrt(rates[0] * rates[1]), f"the middle of what is usual for {whose}"
    elif training.parameters >= 1e8:
        size = min(GPT_3, key=lambda one: abs(math.log(one / training.parameters)))
        limit, source = GPT_3[size], f"that of GPT-3's model of {human(size)}"
    else:
        limit, source = math.inf, ""
    if top > limit * (1 + 1e-9):
        wrong.append(f"rate {told(top)} is higher than {told(limit)}, {source}")
    if _amiss(training, first) == "short":
        wrong.append(f"a warm-up of {_warm(training, first)} is short")
    if wrong:
        yield (
            f"{human(unique)} different tokens are {unique / training.parameters:.2g} for each parameter (GPT-3: "
            f"{few:g}): with so little a lower rate and a longer warm-up keep it steady and from learning by heart; "
            f"{' and '.join(wrong)}"
        )


# --- the warm-up ----------------------------------------------------------------------------------------------------

WARM_SHARE, WARM_STEPS = (0.01, 0.015), 2_000  # of pretraining: two ways in which the same custom is told


def _warm(training: Training, run: Run) -> str:
    steps = f"{run.warm / run.stage.step:,.0f}"
    return f"{steps} {'step' if steps == '1' else 'steps'}, {run.warm / _tokens(training):.2g} of the training,"


def _amiss(training: Training, run: Run) -> str:
    """Whether the warm-up at the beginning is "short" or "long"; "" where neither, or where no rule is about it."""
    steps, share = run.warm / run.stage.step, run.warm / _tokens(training)
    if run.stage.sft or (training.continued and run.stage.same_data):
        return ""
    if training.continued:
        side = _side(steps, usual(training.parameters).warmup)
        return {"below": "short", "above": "long", "within": ""}[side]
    sides = {_side(steps, (WARM_STEPS, WARM_STEPS)), _side(share, WARM_SHARE)}
    return "short" if sides == {"below"} else "long" if sides == {"above"} else ""


def _warmup(training: Training, run: Run) -> Iterator[str]:
    amiss = _amiss(training, run)
    if not amiss:
        return
    line = f"a warm-up of {_warm(training, run)} is {amiss}: "
    if not training.continued:
        line += f"{_range(WARM_SHARE)} is usual, about {WARM_STEPS:,} steps, and more with a higher rate"
    else:
        size = usual(training.parameters)
        line += f"{size.models} are usually continued with {size.warmup[0]:,.0f} to {size.warmup[1]:,.0f} steps"
        if _side(run.warm / _tokens(training), WARM_SHARE) == "within":
            line += f"; the other custom, {_range(WARM_SHARE)} of the training, disagrees: it has that"
    yield f"{line}. Given enough training its length leaves no trace ({GUPTA})"


def _counted_in_tokens(stage: Stage) -> Iterator[str]:
    if 1 < stage.schedule.warmup < stage.step:
        yield (
            f"its warm-up of {stage.schedule.warmup:,.0f} tokens is over within the first step of {stage.step:,.0f}: "
            f"warmup counts tokens, not steps"
        )


HURTS = f"was found to hurt, the more the higher the rate; it helps where the data changes ({GUPTA})"


def _rewarmed(run: Run, later: bool, continued: bool) -> Iterator[str]:
    again = later or (continued and run.warm)  # where the start's training ended is not known
    if run.stage.same_data and again and _above(run.top, run.before):
        data = "the data of the stage before" if later else "the data that the start was trained on"
        yield f"the rate rises again, from {told(run.before)} to {told(run.top)}, on {data}: this {HURTS}"


def _raised(run: Run) -> Iterator[str]:
    """Courses that rise after they have fallen."""
    rises = sum(
        one.end <= one.start and _above(max(after.start, after.end), one.end)
        for one, after in pairwise(run.pieces[1:] if run.stage.schedule.warmup else run.pieces)
    )
    if rises:
        times = "once" if rises == 1 else f"{rises} times"
        yield (
            f"{run.stage.schedule.course} raises the rate {times} on the same data: meant to leave poor minima behind, "
            f"but a new warm-up on the same data {HURTS}. Try one cosine or wsd beside it"
        )


# --- data seen often ------------------------------------------------------------------------------------------------

SFT_LARGE = 100_000  # samples


def sft_epochs(samples: int) -> int | None:
    """Epochs in which fine-tuning on so many samples usually converges; None for a smaller set, which takes more: until
    its loss has come to rest, for learning by heart is the lesser evil."""
    return 2 if samples > SFT_LARGE else None


def _repeats(part: Seen) -> Iterator[str]:
    times = f"{part.name} is seen {part.times:.3g} times"
    if part.sft:
        epochs = sft_epochs(part.documents)
        if epochs and part.times > epochs:
            yield f"{times}: of more than {SFT_LARGE:,} samples {epochs} epochs are usually enough to converge"
        elif not epochs and part.documents and part.times < 2:
            yield (
                f"{times}: so few samples ({part.documents:,}) usually take more epochs, until the loss has converged "
                f"(InstructGPT: 16); 4 as the most is a rule for the text of pretraining"
            )
    elif part.times > 4:
        yield (
            f"{times}: up to 4 times text is worth about as much as new text, then less and less, and after 40 next to "
            f"nothing (Muennighoff et al. 2023)"
        )


# --- fine-tuning ----------------------------------------------------------------------------------------------------


class Sft(NamedTuple):
    """What a model was fine-tuned with."""

    model: str
    epochs: int
    dropout: float  # of residuals
    rate: float
    batch: int  # samples


# Ouyang et al. 2022, appendix C.1
INSTRUCT_GPT = (
    Sft("InstructGPT 1.3B and 6B", 16, 0.2, 9.65e-6, 32),
    Sft("InstructGPT 175B", 16, 0.2, 5.03e-6, 8),
)


def sft_rate(pretrained_at: float) -> float:
    """The usual rate of fine-tuning on a set that is not large: a tenth of pretraining's highest (9e-5: 9e-6)."""
    return 0.1 * pretrained_at


def _sft(run: Run, pretrained_at: float) -> Iterator[str]:
    if not run.stage.sft:
        return
    usual = sft_rate(pretrained_at)
    if usual and _side(run.top, (usual / 2, usual * 2)) != "within":
        small, large = INSTRUCT_GPT
        yield (
            f"rate {told(run.top)}: fine-tuning on a set that is not large usually has a tenth of pretraining's, here "
            f"{told(usual)} ({small.model} had {told(small.rate)}, 175B {told(large.rate)})"
        )
    if run.warm > WARM_SHARE[0] * run.stage.tokens * (1 + 1e-9):
        yield (
            f"a warm-up of {run.warm / run.stage.tokens:.2g} of it is long: fine-tuning has few samples, and takes a "
            f"smaller share than the {_range(WARM_SHARE)} of pretraining, unless its rate is high"
        )


# --- batches --------------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """A published batch size."""

    model: str
    sequences: int | None  # None: only tokens are told
    tokens: float
    hardware: str
    note: str = ""


BATCHES = (
    Batch("BERT", 256, 256 * 512, "16 TPU chips, 4 days", "Devlin et al. 2019"),
    Batch("GPT-3", None, 3.2e6, "V100", "tokens, not sequences; Brown et al. 2020, table 2.1"),
    Batch("T5", 2048, 2048 * 512, "256 TPU chips", "Raffel et al. 2020, section 3.7; 128 before that"),
    Batch("Megatron-LM", 1920, 1920 * 2048, "1,024 V100 as told", "Smith et al. 2022 have this size, on A100"),
    Batch("PaLM", 1024, 1024 * 2048, "6,144 TPU chips", "Chowdhery et al. 2022: a ramp from 512 to 2,048"),
)


def batch_notes() -> list[str]:
    """Published batch sizes, a line each, to hold one's own against."""
    return [
        f"{one.model}: {f'{one.sequences:,} sequences, ' if one.sequences else ''}{human(one.tokens)} tokens a step "
        f"({one.hardware}; {one.note})"
        for one in BATCHES
    ]


# --- shared by the rules --------------------------------------------------------------------------------------------


def told(rate: float) -> str:
    """A rate as people write it: 3e-4."""
    digits, exponent = f"{rate:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}" if rate else "0"


def _range(of: Range) -> str:
    return " to ".join(told(one) if one < 0.01 else f"{one:g}" for one in of)


def _side(value: float, of: Range) -> str:
    low, high = of
    return "below" if value < low * (1 - 1e-9) else "above" if value > high * (1 + 1e-9) else "within"


def _above(rate: float, other: float) -> bool:
    return rate > other * (1 + 1e-6)


def _pretrained_at(runs: Sequence[Run]) -> float:
    """The highest rate of the stages that are no fine-tuning; 0 where there is none."""
    return max((run.top for run in runs if not run.stage.sft), default=0.0)


def _tokens(training: Training) -> float:
    return sum(stage.tokens for stage in training.stages)
