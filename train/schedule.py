"""The learning rate: a pure function of the tokens that training has seen.

A course compiles into pieces, each a stretch of tokens with a shape between two rates; stages chain theirs. Steps play
no part, so that neither a batch ramp nor another sequence length can bend a course. `advice.py` has an opinion on
courses, `plan.py` draws them.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tilth.errors import UsageError

Course = Literal["constant", "linear", "cosine", "cosine-cycles", "inverse-sqrt", "wsd", "wcsd"]
Tail = Literal["linear", "cosine", "exponential", "minus-sqrt"]
Shape = Tail | Literal["inverse-sqrt"]

RATE = 3e-4  # of a run that names none: LLaMA 7B and 13B (Touvron et al. 2023, table 2)


class ScheduleOptions(BaseModel):
    """Warm-up, then a course from `rate` to `rate` x `floor`, over the tokens of a run or of a stage of it.

    `warmup`, `stable` and `decay` are shares of these tokens where they are at most 1, and numbers of tokens above.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float | None = Field(
        default=None,
        gt=0,
        description="the highest learning rate; default: where the stage before ended, 3e-4 at a run's beginning",
    )
    warmup: float = Field(
        default=0.01,
        ge=0,
        description="share or number of the tokens in which the rate goes in a line from 0, or from where the stage "
        "before ended, to `rate`; 0: it is there at once",
    )
    course: Course = Field(
        default="cosine",
        description="what follows; cosine-cycles: several cosines, each from the top; inverse-sqrt: as 1 / sqrt(tokens)"
        "; wsd: it stays, and falls at the end; wcsd: cosine cycles, then up to the top again, where it stays, and "
        "falls at the end",
    )
    floor: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of the rate that is left at the end (LLaMA: 0.1); inverse-sqrt: the least it may come to",
    )
    cycles: int = Field(
        default=4, ge=1, description="cosine-cycles, wcsd: how many (Loshchilov & Hutter 2017 restart 3 to 8 times)"
    )
    stretch: float = Field(
        default=1.0, gt=0, description="each cycle is so many times as long as the one before (Loshchilov & Hutter: 2)"
    )
    damping: float = Field(
        default=1.0, gt=0, le=1, description="each cycle's top is so many times as high as the one's before"
    )
    stable: float = Field(
        default=0.1, ge=0, description="wcsd: share or number of the tokens at the top, before the end's fall"
    )
    decay: float = Field(
        default=0.1,
        gt=0,
        description="wsd, wcsd: share or number of the tokens in which it falls at the end (MiniCPM: 0.1)",
    )
    tail: Tail = Field(
        default="linear",
        description="wsd, wcsd: how it falls at the end; exponential as in Megatron; minus-sqrt: 1 - sqrt(share gone), "
        "best in Hägele et al. 2024",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (shares := sum(one for one in _spans(self).values() if one <= 1)) > 1 + 1e-9:
            raise ValueError(f"{_told(_spans(self))} are shares of {shares:g}, more than the whole")
        if self.course == "inverse-sqrt" and not self.warmup:
            raise ValueError("inverse-sqrt falls with the tokens since the warm-up began: give it a warmup")
        if self.course in ("cosine-cycles", "wcsd") and self.damping ** (self.cycles - 1) < self.floor:
            raise ValueError(f"damping {self.damping:g} brings the last of {self.cycles} cycles below the floor")
        return self


class Piece(NamedTuple):
    """The rate between two numbers of tokens: in a shape from one rate to another, up or down."""

    first: float  # tokens seen where it begins
    last: float  # and where it ends; more than `first`
    shape: Shape
    start: float  # the rate at `first`
    end: float  # and at `last`


_Part = tuple[float, Shape, float, float]  # tokens, shape and both rates of what will be a piece


def rate(pieces: Sequence[Piece], tokens: float) -> float:
    """The learning rate of the step after which `tokens` have been seen, from the pieces of a run in their order.

    So the first step's is above 0 already, and the last step of a stage has what the stage comes to; where the rate
    jumps, the new one holds from the first step after. Beyond the end it stays. O(log n) for n pieces.
    """
    piece = pieces[min(bisect_left(pieces, tokens, key=lambda one: one.last), len(pieces) - 1)]
    gone = min(max((tokens - piece.first) / (piece.last - piece.first), 0.0), 1.0)
    if piece.shape == "inverse-sqrt":  # 1 / rate ** 2 goes in a line
        begun, done = piece.start**-2, piece.end**-2
        return (begun + (done - begun) * gone) ** -0.5
    return piece.end + (piece.start - piece.end) * _left(piece.shape, gone)


def schedule(stages: Sequence[tuple[ScheduleOptions, float]]) -> tuple[Piece, ...]:
    """The pieces of a run: of stages, each with its course and its tokens, one after the other."""
    result: tuple[Piece, ...] = ()
    for options, tokens in stages:
        first, start = (result[-1].last, result[-1].end) if result else (0, 0.0)
        result += pieces(options, tokens, first, start)
    return result


def highest(options: ScheduleOptions, start: float = 0.0) -> float:
    """The rate that a stage's course begins with, and has no higher; `start`: where the stage before ended."""
    return options.rate or start or RATE


def pieces(options: ScheduleOptions, tokens: float, first: float = 0, start: float = 0.0) -> tuple[Piece, ...]:
    """The pieces of one stage of `tokens` tokens, which begins when `first` have been seen and the rate is `start`.

    With a warm-up the rate goes on from `start`; without one it jumps to where the course begins. UsageError if the
    stage is too short for what its options give in tokens, or has no rate to go on from.
    """
    top = highest(options, start)
    if not options.rate and first and not start:
        raise UsageError(
            f"the rate has come to 0 after {first:,.0f} tokens, and the next stage names none: give it one"
        )
    given = _spans(options)
    spans = {name: one * tokens if one <= 1 else one for name, one in given.items()}
    if (needed := sum(spans.values())) > tokens * (1 + 1e-9):
        raise UsageError(f"{_told(given)} take {needed:,.0f} tokens of a stage of {tokens:,.0f}")
    warm = spans["warmup"]
    parts: list[_Part] = [(warm, "linear", start, top), *_course(options, top, max(tokens - needed, 0.0), spans)]
    return _joined(parts, first, first + tokens)


def _course(options: ScheduleOptions, top: float, rest: float, spans: dict[str, float]) -> list[_Part]:
    """What follows the warm-up; `rest` is what `spans` leave of the stage's tokens."""
    bottom, warm = options.floor * top, spans["warmup"]
    match options.course:
        case "constant":
            return [(rest, "linear", top, top)]
        case "linear":
            return [(rest, "linear", top, bottom)]
        case "cosine":
            return [(rest, "cosine", top, bottom)]
        case "cosine-cycles":
            return _cycles(options, top, rest)
        case "inverse-sqrt":
            # top x sqrt(warm / n), n tokens after the stage began (Vaswani et al. 2017, section 5.3), until it meets
            # the floor
            met = min(warm / options.floor**2 if options.floor else math.inf, warm + rest)
            return [(met - warm, "inverse-sqrt", top, top * math.sqrt(warm / met)), (rest, "linear", bottom, bottom)]
        case "wsd":
            return [(rest, "linear", top, top), (spans["decay"], options.tail, top, bottom)]
        case "wcsd":
            rise = min(warm, rest / 2)  # as long as the warm-up was
            return [
                *_cycles(options, top, rest - rise),
                (rise, "linear", bottom, top),
                (spans["stable"], "linear", top, top),
                (spans["decay"], options.tail, top, bottom),
            ]


def _cycles(options: ScheduleOptions, top: float, tokens: float) -> list[_Part]:
    """Cosines that each begin at the top again (Loshchilov & Hutter 2017, SGDR)."""
    lengths = [options.stretch**number for number in range(options.cycles)]
    return [
        (tokens * length / sum(lengths), "cosine", top * options.damping**number, top * options.floor)
        for number, length in enumerate(lengths)
    ]


def _joined(parts: Sequence[_Part], first: float, end: float) -> tuple[Piece, ...]:
    """Parts of a length each, one behind the other from `first` to `end`; without what is empty, or beyond the end."""
    result: list[Piece] = []
    at = first
    for length, shape, start, stop in parts:
        last = min(at + length, end)
        if last - at > 1e-12 * end:  # more than what is lost in adding
            result.append(Piece(at, last, shape, start, stop))
            at = last
    result[-1] = result[-1]._replace(last=end)
    return tuple(result)


def _left(shape: Tail, gone: float) -> float:
    """What is left of the way when `gone` of the tokens are gone, both from 0 to 1."""
    match shape:
        case "linear":
            return 1 - gone
        case "cosine":
            return (1 + math.cos(math.pi * gone)) / 2
        case "exponential":  # Megatron's: half of the way to twice as deep, so that it comes to its end
            return 2 * 0.5**gone - 1
        case "minus-sqrt":
            return 1 - math.sqrt(gone)


def _spans(options: ScheduleOptions) -> dict[str, float]:
    """The spans that the course has, as they were given."""
    names = {"wsd": ("warmup", "decay"), "wcsd": ("warmup", "stable", "decay")}.get(options.course, ("warmup",))
    return {name: getattr(options, name) for name in names}


def _told(spans: dict[str, float]) -> str:
    return ", ".join(f"{name} {one:g}" for name, one in spans.items())
