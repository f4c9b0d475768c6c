"""The plan of a run: stages, compiled into segments of steps that are alike, whole before the first step is taken.

A stage has its tokens, mixture, batch size, sequence length and learning rate; a ramp makes it grow into these. What a
step reads and how many tokens were seen before it follow from the plan and the step's number.
"""

import bisect
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tilth.errors import RecipeError

from .data.order import DataStep, Segment, Visit, joined, split
from .guard import Window, data_step
from .schedule import Piece, ScheduleOptions, schedule

HOLD = ScheduleOptions(course="constant", warmup=0)  # the rate stays what it is
MOST_BUCKETS = 4  # lengths of samples that are bucketed: the longest, halved again and again


class Rung(BaseModel):
    """The beginning of a stage, with a smaller batch or shorter sequences."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: float = Field(gt=0, description="how long; up to 1 it is a share of the stage's tokens")
    size: int | None = Field(default=None, ge=1, description="sequences in a step; default: the stage's")
    length: int | None = Field(default=None, ge=8, description="tokens in a sequence; default: the stage's")


class Stage(BaseModel):
    """Some training with one mixture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: float = Field(gt=0, description="how long; up to 1 it is a share of the recipe's tokens")
    mixture: dict[str, float] = Field(default={}, description="weight of each part; default: the recipe's mixture")
    languages: dict[str, float] = Field(
        default={}, description="weight of each language, such as {zh: 6, en: 4}; default: the recipe's"
    )
    size: int | None = Field(default=None, ge=1, description="sequences in a step; default: batch.size")
    length: int | None = Field(default=None, ge=8, description="tokens in a sequence; default: batch.length")
    ramp: tuple[Rung, ...] = Field(default=(), description="how the stage begins, one rung after the other")
    schedule: ScheduleOptions | None = Field(
        default=None, description="the learning rate of this stage; default: the recipe's schedule, over all stages"
    )
    rows: Literal["all", "new"] = Field(
        default="all", description="new: only the rows of the embedding and the head that a grown tokenizer added"
    )


class Rise(NamedTuple):
    """Steps of a stage that have one batch size and one length."""

    stage: int
    first: int
    steps: int
    size: int
    length: int
    tokens: int  # seen before


class Stretch(NamedTuple):
    """One stage, compiled."""

    name: str
    first: int  # step
    steps: int
    tokens: int
    rows: str


class Known(NamedTuple):
    """What a plan needs to know of a pool."""

    name: str
    cells: int  # in an epoch
    length: int  # tokens of a cell
    bucket: int = 0  # the pool's samples are as often halved


class Plan:
    """Segments in order, and what follows from them. Those that begin with the same step take turns in it: samples of
    several length classes."""

    def __init__(self, stages: Sequence[Stretch], segments: Sequence[Segment]):
        self.stages, self.segments = list(stages), list(segments)
        self._groups: list[list[int]] = []
        for number, segment in enumerate(self.segments):
            if self._groups and self.segments[self._groups[-1][0]].first == segment.first:
                self._groups[-1].append(number)
            else:
                self._groups.append([number])
        self._firsts = [self.segments[group[0]].first for group in self._groups]
        self.steps = self._firsts[-1] + self._steps_of(self._groups[-1])
        self.tokens = self.tokens_before(self.steps)

    @classmethod
    def load(cls, about: Mapping[str, Any]) -> Self:
        segments = [Segment(*each[:-1], counts=tuple(each[-1])) for each in about["segments"]]
        return cls([Stretch(*each) for each in about["stages"]], segments)

    def about(self) -> dict[str, Any]:
        """What `load` needs, fit for JSON."""
        return {"stages": self.stages, "segments": self.segments}

    def tokens_before(self, step: int) -> int:
        """Tokens of the sequences of all steps before this one."""
        first = self.segments[self._groups[self._group_at(step)][0]]
        return first.tokens + (step - first.first) * first.size * first.model_length

    def stage_at(self, step: int) -> int:
        return self.segments[self._groups[self._group_at(step)][0]].stage

    def at(self, position: int) -> DataStep:
        """The data that is planned for a step."""
        group = self._groups[self._group_at(position)]
        within = position - self.segments[group[0]].first
        if len(group) == 1:
            return DataStep(group[0], within)
        chosen, number = split(within, [self.segments[each].steps for each in group])
        return DataStep(group[chosen], number)

    def position(self, at: DataStep) -> int:
        """The step for which some data is planned."""
        group = next(group for group in self._groups if at.segment in group)
        counts = [self.segments[each].steps for each in group]
        return self.segments[group[0]].first + joined(group.index(at.segment), at.step, counts)

    def reads(self, step: int, passed_over: Iterable[Window]) -> int:
        """The step whose planned data this one reads. Of the data that a rollback passes over none is read; what lacks
        at the end of a segment is its first again, so that each segment keeps its mixture and its length."""
        first, _, here, left = self._passed_over(step, passed_over)
        return first + data_step((step - first) % left, here)

    def read_in(self, position: int, passed_over: Iterable[Window]) -> list[int]:
        """The steps that read the data planned for a step: `reads` turned round."""
        first, steps, here, left = self._passed_over(position, passed_over)
        if any(low <= position - first <= high for low, high in here):
            return []
        before = sum(high - low + 1 for low, high in here if high < position - first)
        return list(range(position - before, first + steps, left))

    def _passed_over(self, step: int, windows: Iterable[Window]) -> tuple[int, int, list[Window], int]:
        """Of the segment of a step: its first, how many, the windows within it, and how many these leave."""
        group = self._group_at(step)
        first, steps = self._firsts[group], self._steps_of(self._groups[group])
        here = [(max(low - first, 0), min(high - first, steps - 1)) for low, high in windows]
        here = [(low, high) for low, high in here if low <= high]
        left = steps - sum(high - low + 1 for low, high in here)
        return (first, steps, here, left) if left > 0 else (first, steps, [], steps)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(segment.model_length for segment in self.segments)

    def _group_at(self, step: int) -> int:
        return bisect.bisect_right(self._firsts, step) - 1

    def _steps_of(self, group: Sequence[int]) -> int:
        return sum(self.segments[each].steps for each in group)


# --- From stages to segments ------------------------------------------------------------------------------------------


def rises(
    stages: Mapping[str, Stage], size: int, length: int, tokens: float | None
) -> tuple[list[Stretch], list[Rise]]:
    """Stages as runs of steps: a rung has as many as come nearest to its tokens, counted from the stage's beginning.

    Raises RecipeError for shares of nothing, and ramps that are longer than their stage.
    """
    shared = sum(stage.tokens for stage in stages.values() if stage.tokens <= 1)
    if shared > 1 + 1e-6:
        raise RecipeError(f"stages: their shares of the tokens are {shared:g} together; make them 1")
    stretches: list[Stretch] = []
    found: list[Rise] = []
    step = seen = 0
    for number, (name, stage) in enumerate(stages.items()):
        whole = _amount(stage.tokens, tokens, f"stages.{name}.tokens", "tokens")
        own_size, own_length = stage.size or size, stage.length or length
        ramp = [_amount(rung.tokens, whole, f"stages.{name}.ramp", "tokens") for rung in stage.ramp]
        if sum(ramp) >= whole:
            raise RecipeError(f"stages.{name}: its ramp is as long as its {whole:,.0f} tokens; make it shorter")
        cuts = [(rung.size or own_size, rung.length or own_length) for rung in stage.ramp]
        begun, first = seen, step
        for due, (each_size, each_length) in zip(
            [*np.cumsum(ramp), whole], [*cuts, (own_size, own_length)], strict=True
        ):
            steps = round((due - (seen - begun)) / (each_size * each_length))
            if due == whole:
                steps = max(steps, 1)  # a stage has one at least
            if steps > 0:  # a rung of less than half a step is none: a recipe is tried on little data first
                found.append(Rise(number, step, steps, each_size, each_length, seen))
                step, seen = step + steps, seen + steps * each_size * each_length
        stretches.append(Stretch(name, first, step - first, seen - begun, stage.rows))
    return stretches, found


def compiled(
    stretches: Sequence[Stretch],
    found: Sequence[Rise],
    stored: Mapping[int, int],
    shares: Sequence[np.ndarray],
    pools: Sequence[Known],
) -> Plan:
    """The plan. `stored` gives the tokens of a stored sample for each model length, `shares` float64[pools] of the
    samples' tokens for each stage.

    Pools whose samples are halved get segments of their own, which take turns with the others': as many sequences more
    as they are shorter. A pool's share in a segment is exact to a sample, that of a length class to a step.
    """
    segments: list[Segment] = []
    buckets = np.array([pool.bucket for pool in pools])
    for rise in found:
        share = shares[rise.stage]
        classes = [int(each) for each in np.unique(buckets) if share[buckets == each].sum() > 0]
        steps = apportioned(rise.steps, [share[buckets == each].sum() for each in classes])
        for bucket, part in zip(classes, steps, strict=True):
            if not part:
                continue
            size, length = rise.size << bucket, rise.length >> bucket
            counts = apportioned(part * size, np.where(buckets == bucket, share, 0.0))
            segments.append(
                Segment(rise.stage, rise.first, part, size, stored[length], length, rise.tokens, tuple(counts))
            )
    return Plan(stretches, segments)


def visits(segments: Sequence[Segment], pools: Sequence[Known]) -> list[list[Visit | None]]:
    """What each segment reads of each pool, with what those before it have read counted. None: nothing."""
    cursors = [0] * len(pools)
    found: list[list[Visit | None]] = []
    for segment in segments:
        row: list[Visit | None] = []
        for number, (pool, samples) in enumerate(zip(pools, segment.counts, strict=True)):
            visit = None
            if samples:
                visit = Visit(cursors[number], samples, pool.cells, -(-pool.length // segment.length))
                cursors[number] = visit.stop
            row.append(visit)
        found.append(row)
    return found


def apportioned(total: int, weights: Sequence[float] | np.ndarray) -> list[int]:
    """A total in whole parts that come nearest to the weights: the largest remainders are rounded up."""
    exact = np.asarray(weights, np.float64)
    exact = exact / exact.sum() * total
    parts = np.floor(exact).astype(np.int64)
    for at in np.argsort(parts - exact, kind="stable")[: total - int(parts.sum())]:
        parts[at] += 1
    return parts.tolist()


def _amount(value: float, of: float | None, where: str, what: str) -> float:
    """Tokens that are told as a number or, up to 1, as a share."""
    if value > 1:
        return value
    if of is None:
        raise RecipeError(f"{where}: {value:g} is a share, of what? set {what}, or give a number of tokens")
    return value * of


def course(stages: Mapping[str, Stage], stretches: Sequence[Stretch], whole: ScheduleOptions) -> tuple[Piece, ...]:
    """The learning rate of all stages: by the recipe's schedule over the whole, or stage by stage where any has its
    own; one that has none then goes on with the rate that it finds, the first one with the recipe's schedule."""
    if not any(stage.schedule for stage in stages.values()):
        return schedule([(whole, sum(each.tokens for each in stretches))])
    return schedule(
        [
            (stage.schedule or (HOLD if number else whole), stretch.tokens)
            for number, (stage, stretch) in enumerate(zip(stages.values(), stretches, strict=True))
        ]
    )
