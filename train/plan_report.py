"""The plan of a training before its first step: one picture over its tokens, as a page, and its tables as text.

Learning rate, batch size, sequence length and mixture share one axis of tokens, so that a person sees what meets what.
The page stands alone, has no script and asks the network for nothing. What is planned was decided elsewhere; what lives
here is the geometry of the picture, the page and the text; `plan_rows` has the words. Names may be hostile text.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, StrictUndefined
from rich.cells import cell_len

from ..curate.report import count, inline, number, percent
from .curves import Scale, Tick, Values, path
from .plan_rows import (
    COLORS,
    batch_span,
    on_one_line,
    packed,
    pool_rows,
    portion,
    rate,
    sentence,
    short,
    stacks,
    stage_rows,
    times,
)
from .seen import amount

EPOCHS_SHOWN = 6  # stages whose epochs the text has; of more, it has the last alone


def render_plan(plan: Mapping[str, Any]) -> str:
    """The whole page as text; equal plans give equal bytes.

    `plan` holds `name`, `about`, `tokens`, `steps`, `stages`, `segments`, `rates`, `pools`, `packing` (None where it
    is not known), `advice` and `notes`. A key that is missing raises `KeyError` or `jinja2.UndefinedError`.
    """
    pools, pictures = pool_rows(plan), [picture(plan, width) for width in WIDTHS]
    return _template().render(
        plan=plan,
        stages=stage_rows(plan),
        pools=pools,
        sized=any(pool.tokens for pool in pools),
        most=max(pools, key=lambda pool: pool.epochs[-1] / pool.cap, default=None),
        legend=stacks(pools),
        pictures=pictures,
        numbered=any(one.numbered for one in pictures),
        batch=batch_span(plan["segments"]),
        rates=(max((rate for _, rate in plan["rates"]), default=0.0), plan["rates"][-1][1] if plan["rates"] else 0.0),
        packed=packed(plan["packing"]),
    )


# --- Geometry -------------------------------------------------------------------------------------------------------

WIDTHS = (1120, 400)  # pixels of the picture on a wide page, and of the one on a narrow page
LEFT, RIGHT = 62, 14  # around the panels
TITLE = 22  # height of the first panel's title, below which the stages' names stand
ROW, ROWS = 17, 3  # height of a row of stages' names, and most rows
CAPTION, AXIS = 32, 38  # above each panel, and below the last
RATE, BATCH, LENGTH, MIXTURE = 150, 110, 64, 190  # heights of the panels
CELL = 6.9  # width of a character; of a wide one, half


class Box(NamedTuple):
    """A pool's part of a stage; `text` stands in it, `title` shows on it."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    title: str
    text: str


class Stretch(NamedTuple):
    """A stage on the axis of tokens."""

    x: float
    width: float
    title: str


class Label(NamedTuple):
    """What a batch is made of, above its line."""

    x: float
    y: float
    text: str


class Name(NamedTuple):
    """A stage's name at the head of its line."""

    x: float
    y: float
    text: str
    line: float  # where the stage begins
    top: float  # of the line


class Panel(NamedTuple):
    """One of the curves, with an axis of its own."""

    title: str
    note: str
    top: float
    bottom: float
    ticks: list[Tick]
    path: str = ""
    labels: Sequence[Label] = ()
    boxes: Sequence[Box] = ()


class Picture(NamedTuple):
    """The plan over its tokens, ready to be drawn."""

    width: float
    height: float
    right: float
    bottom: float
    panels: list[Panel]
    stages: list[Stretch]
    names: list[Name]
    numbered: bool  # the names are numbers, since they have no room
    ticks: list[Tick]
    summary: str  # the text alternative


def picture(plan: Mapping[str, Any], width: float) -> Picture:
    """Places the panels below each other, `width` pixels wide: learning rate, tokens a step, sequence length where
    there are several, mixture."""
    right, segments = width - RIGHT, plan["segments"]
    x = Scale(0.0, plan["tokens"] or 1, LEFT, right)
    names, numbered, rows = stage_names(plan["stages"], x)
    rates = np.array(plan["rates"], float).reshape(-1, 2)
    batch = batch_span(segments)
    lengths = sorted({segment["length"] for segment in segments})

    panels = [rate_panel(rates, x, CAPTION + ROW * rows)]
    panels.append(batch_panel(segments, x, panels[-1].bottom + CAPTION))
    if len(lengths) > 1:
        panels.append(length_panel(segments, lengths, x, panels[-1].bottom + CAPTION))
    panels.append(mixture_panel(plan, x, panels[-1].bottom + CAPTION))
    bottom = panels[-1].bottom
    summary = (
        f"learning rate {panels[0].note}; tokens a step {batch.tokens}; sequences of {batch.length}; "
        "the mixture is in the table of pools"
    )
    ticks = [Tick(_at(x, value), amount(value)) for value in x.ticks(10 if width > 600 else 4)]
    return Picture(width, bottom + AXIS, right, bottom, panels, stretches(plan, x), names, numbered, ticks, summary)


def _at(scale: Scale, value: float) -> float:
    return float(scale(np.array(value, float)))


def _ends(x: Scale, some: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Where stages or segments that follow each other begin and end."""
    return _at(x, some[0]["first"]), _at(x, some[-1]["first"] + some[-1]["tokens"])


def stretches(plan: Mapping[str, Any], x: Scale) -> list[Stretch]:
    """The stages as they lie on the axis, with what each is."""
    found = []
    for stage, batch in stage_rows(plan):
        left, end = _ends(x, [stage])
        told = f"{batch.sequences} sequences of {batch.length}; {stage['schedule']}"
        title = f"{stage['name']}: {amount(stage['tokens'])} tokens, {count(stage['steps'])} steps; {told}"
        found.append(Stretch(left, round(end - left, 1), title))
    return found


def stage_names(stages: Sequence[Mapping[str, Any]], x: Scale) -> tuple[list[Name], bool, int]:
    """A name at the head of each stage's line, in up to `ROWS` rows, so that none covers another nor another's line;
    where they have no room, the numbers that have; whether they are numbers; and how many rows there are."""
    for numbered in (False, True):
        placed: list[tuple[float, float, int]] = []  # from, to and row
        names: list[Name] = []
        for index, stage in enumerate(stages):
            text = str(index + 1) if numbered else short(stage["name"])
            line, wide = _at(x, stage["first"]), CELL * cell_len(text) + 8
            left = max(LEFT, min(line, x.last - wide))
            row = max((below + 1 for start, end, below in placed if start < left + wide and left < end), default=0)
            if row < (1 if numbered else ROWS):
                placed.append((left, left + wide, row))
                top = TITLE + ROW * row
                names.append(Name(round(left + 4, 1), top + 12, text, line, top if left == line else top + 16))
        if numbered or len(names) == len(stages):
            return names, numbered, 1 + max((row for *_, row in placed), default=0)
    raise AssertionError("numbers are the last resort")


def rate_panel(rates: Values, x: Scale, top: float) -> Panel:
    """The learning rate, a line through the given points."""
    bottom = top + RATE
    y = Scale(0.0, float(rates[:, 1].max(initial=0.0)) * 1.06 or 1.0, bottom, top)
    note = f"up to {rate(rates[:, 1].max())}, {rate(rates[-1, 1])} at the end" if len(rates) else "not known"
    ticks = [Tick(_at(y, value), rate(value)) for value in y.ticks(5)]
    return Panel("Learning rate", note, top, bottom, ticks, path(x(rates[:, 0]), y(rates[:, 1])))


def batch_panel(segments: Sequence[Mapping[str, Any]], x: Scale, top: float) -> Panel:
    """Tokens a step, and in how many sequences where there is room to say so."""
    values = [segment["tokens"] / max(segment["steps"], 1) for segment in segments]
    bottom = top + BATCH
    y = Scale(0.0, max(values, default=0.0) * 1.25 or 1.0, bottom, top)  # room for what is written above the line
    labels = []
    for (size, length), some in groupby(segments, lambda segment: (segment["size"], segment["length"])):
        run, text = list(some), f"{count(size)} × {count(length)}"
        left, end = _ends(x, run)
        if end - left > CELL * len(text) + 10:
            labels.append(Label(left + 5, _at(y, run[0]["tokens"] / max(run[0]["steps"], 1)) - 5, text))
    ticks = [Tick(_at(y, value), amount(value)) for value in y.ticks(4)]
    return Panel("Tokens a step", "sequences × length", top, bottom, ticks, _steps(segments, values, x, y), labels)


def length_panel(segments: Sequence[Mapping[str, Any]], lengths: Sequence[int], x: Scale, top: float) -> Panel:
    """The sequence length, with the lengths that occur as its axis."""
    bottom = top + LENGTH
    y = Scale(0.0, lengths[-1] * 1.1, bottom, top)
    ticks: list[Tick] = []
    for length in (*reversed(lengths), 0):  # the longest first: it is never left out
        tick = Tick(_at(y, length), count(length))
        if not ticks or tick.at - ticks[-1].at >= 13:
            ticks.append(tick)
    line = _steps(segments, [segment["length"] for segment in segments], x, y)
    return Panel("Sequence length", "tokens", top, bottom, ticks, line)


def _steps(segments: Sequence[Mapping[str, Any]], values: Sequence[float], x: Scale, y: Scale) -> str:
    """A line that is level over each run of segments with one value."""
    at, up = [], []
    for value, some in groupby(zip(segments, values, strict=True), lambda pair: pair[1]):
        run = [segment for segment, _ in some]
        at += _ends(x, run)
        up += [value, value]
    return path(np.array(at), y(np.array(up, float)))


def mixture_panel(plan: Mapping[str, Any], x: Scale, top: float) -> Panel:
    """What each stage is made of, stacked from the bottom up."""
    y = Scale(0.0, 1.0, top + MIXTURE, top)
    boxes, found = [], stacks(pool_rows(plan))
    for index, stage in enumerate(plan["stages"]):
        left, end = _ends(x, [stage])
        below = 0.0
        for stack in found:
            share = stack.shares[index]
            if share > 0:
                high, low = _at(y, below + share), _at(y, below)
                told = portion(share)
                texts = (f"{short(stack.name)} {told}", told) if low - high >= 15 else ()
                text = next((text for text in texts if CELL * cell_len(text) + 10 < end - left), "")
                title = f"{stack.name}: {told} of {stage['name']}"
                boxes.append(Box(stack.kind, left, high, round(end - left, 1), round(low - high, 1), title, text))
            below += share
    ticks = [Tick(_at(y, share), f"{share:.0%}") for share in (0.0, 0.5, 1.0)]
    return Panel("Mixture", "share of the tokens", top, top + MIXTURE, ticks, boxes=boxes)


@functools.cache
def _template() -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=inline
    )
    filters = (count, number, percent, portion, amount, rate, times, sentence, short)
    environment.filters |= {function.__name__: function for function in filters}
    environment.globals |= {"colors": COLORS, "left": LEFT}
    return environment.from_string(files("tilth.train").joinpath("plan.html.j2").read_text("utf-8"))


# --- Text -----------------------------------------------------------------------------------------------------------


def plan_text(plan: Mapping[str, Any]) -> str:
    """The stages, the pools, the packing and the advice for a terminal."""
    stages, steps = plan["stages"], count(plan["steps"])
    yet = f"{len(stages)} stage{'' if len(stages) == 1 else 's'}"
    lines = [f"{short(plan['name'])}: {amount(plan['tokens'])} tokens in {steps} steps, {yet}"]
    lines += _aligned([("stage", "tokens", "steps", "sequences", "length", "tokens a step", ""), *_stage_lines(plan)])
    if any(pool["tokens"] for pool in plan["pools"]):
        lines += _aligned([*_pool_lines(plan)])
    if plan["packing"]:
        packing = plan["packing"]
        padding = f"{percent(packing['padding'], 1)} padding, {amount(packing['lost'])} tokens lost"
        lines.append(f"Packing: {packing['how']}, {padding}")
    lines += [on_one_line(note) for note in plan["notes"]]
    lines += [f"Note: {on_one_line(advice)}" for advice in plan["advice"]]
    return "\n".join(lines)


def _stage_lines(plan: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for stage, batch in stage_rows(plan):
        only = " (new rows only)" if stage["rows"] == "new" else ""
        told = on_one_line(stage["schedule"]) + only
        sizes = (batch.sequences, batch.length, batch.tokens)
        yield (short(stage["name"]), amount(stage["tokens"]), count(stage["steps"]), *sizes, told)


def _pool_lines(plan: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    stages = [short(stage["name"]) for stage in plan["stages"]]
    shown = len(stages) if len(stages) <= EPOCHS_SHOWN else 1
    heads = [f"epochs after {stages[0]}", *stages[1:]] if shown == len(stages) else ["epochs"]
    yield ("pool", "documents", "tokens", "share", *heads, "")
    for pool in pool_rows(plan):
        tokens = ("~" if pool.estimated else "") + amount(pool.tokens)
        mark = pool.mark(pool.epochs[-1])
        epochs = [times(one) for one in pool.epochs[-shown:]]
        share = percent(pool.trained, plan["tokens"])
        told = f"{mark} the cap of {number(pool.cap)}" if mark else ""
        yield (short(pool.name), count(pool.documents), tokens, share, *epochs, told)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns of text: the first and the last flush left, the others flush right."""
    widths = [max(cell_len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [" " * (width - cell_len(cell)) + cell for cell, width in zip(row, widths, strict=True)]
        first = row[0] + " " * (widths[0] - cell_len(row[0]))
        lines.append(("  " + "  ".join([first, *cells[1:-1], row[-1]])).rstrip())
    return lines
