"""Score cards side by side: a text table for the terminal, and one HTML page.

The page stands alone, has no script and asks the network for nothing. Measuring happens in `score`; what lives here is
wording, numbers for people and the geometry of bars. Names, labels and tokens may be hostile text.
"""

import functools
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jinja2 import Environment, StrictUndefined

from ..curate.report import count, inline, percent, size, width

Result = Mapping[str, Any]  # what `score.Scorer.result` gives

COUNTED = 20  # a run of so many equal characters is counted, not shown
RARE = 0.001  # scripts with less than this share everywhere are shown as one
COLORS = 6  # tokenizers beyond these take the colours of the first ones again
_LABELLED = (
    "bytes_per_token",
    "characters_per_token",
    "tokens_per_word",
    "tokens_per_han_character",
    "partial_share",
    "unknown_share",
    "round_trip_failures",
)
_VISIBLE = {" ": "·", "\t": "→", "\n": "↵", "\r": "←"}


def decimal(value: float | None) -> str:
    """A ratio with two decimals, which align in a column; a dash where there is none."""
    return "–" if value is None else f"{value:.2f}"


def share(value: float | None) -> str:
    """A share as a percentage; a dash where there is none."""
    return "–" if value is None else percent(value, 1)


class Measure(NamedTuple):
    """A figure of a score card, and which way it is better."""

    key: str
    name: str
    show: Callable[[Any], str]
    better: Literal["more", "less", ""] = ""


MEASURES = (
    Measure("documents", "Documents", count),
    Measure("bytes", "Text", size),
    Measure("tokens", "Tokens", count),
    Measure("bytes_per_token", "Bytes per token", decimal, "more"),
    Measure("characters_per_token", "Characters per token", decimal, "more"),
    Measure("tokens_per_word", "Tokens per word", decimal, "less"),
    Measure("tokens_per_han_character", "Tokens per Han character", decimal, "less"),
    Measure("partial_share", "Tokens that are parts of characters", share, "less"),
    Measure("unknown_share", "Unknown tokens", share, "less"),
    Measure("round_trip_failures", "Round-trip failures", count, "less"),
    Measure("normalized", "Changed by normalisation only", count),
    Measure("megabytes_per_second", "MB/s while encoding", decimal, "more"),
)
VOCABULARY = (
    Measure("size", "Size", count),
    Measure("specials", "Special tokens", count),
    Measure("added", "Added tokens", count),
    Measure("partial", "Parts of characters", count),
    Measure("unused", "Unused on these texts", count),
    Measure("dead", "Dead: no text gives them", count, "less"),
    Measure("duplicates", "Several ids of the same bytes", count, "less"),
)


class Row(NamedTuple):
    """One row of a comparison: a value for each tokenizer, and which of them are the best."""

    name: str
    values: list[str]
    best: list[bool]


class Group(NamedTuple):
    """Rows under a heading."""

    name: str
    rows: list[Row]


def compare(results: Sequence[Result]) -> list[Group]:
    """Tokenizers side by side: all texts, the vocabularies, then what tells most about each label."""
    totals = [result["total"] for result in results]
    groups = [Group("All texts", [_row(measure.name, measure, totals) for measure in MEASURES])]
    groups.append(Group("Vocabulary", [_row(measure.name, measure, _counts(results)) for measure in VOCABULARY]))
    for measure in MEASURES:
        if measure.key in _LABELLED:
            rows = [
                _row(label, measure, [result["labels"].get(label) for result in results]) for label in labels(results)
            ]
            rows = [row for row in rows if set(row.values) != {"–"}]
            if rows:
                groups.append(Group(measure.name, rows))
    return groups


def _counts(results: Sequence[Result]) -> list[dict[str, int]]:
    """The vocabularies' figures, groups of tokens as how many there are."""
    return [
        {
            measure.key: found["tokens"] if isinstance(found := result["vocabulary"][measure.key], Mapping) else found
            for measure in VOCABULARY
        }
        for result in results
    ]


def labels(results: Sequence[Result]) -> list[str]:
    """The labels of any of them, in alphabetical order."""
    return sorted({label for result in results for label in result["labels"]})


def _row(name: str, measure: Measure, figures: Sequence[Mapping[str, Any] | None]) -> Row:
    values = [None if found is None else found[measure.key] for found in figures]
    shown = ["–" if value is None else measure.show(value) for value in values]
    known = [value for value in values if value is not None]
    best = [False] * len(values)
    if measure.better and len(known) > 1 and min(known) < max(known):
        winner = max(known) if measure.better == "more" else min(known)
        best = [value is not None and measure.show(value) == measure.show(winner) for value in values]
    return Row(name, shown, best)


def table(results: Sequence[Result]) -> str:
    """The comparison as lines of text for a terminal."""
    names = [printable(result["tokenizer"]) for result in results]
    groups = [
        (group.name, [(printable(row.name), row.values) for row in group.rows])
        for group in compare(results)
        if group.rows
    ]
    first = max(len(name) for heading, rows in groups for name in (heading, *(name for name, _ in rows))) + 2
    widths = [
        max([len(name), *(len(values[column]) for _, rows in groups for _, values in rows)])
        for column, name in enumerate(names)
    ]

    def line(name: str, values: Sequence[str]) -> str:
        return name.ljust(first) + "".join(f"  {value:>{width}}" for value, width in zip(values, widths, strict=True))

    lines: list[str] = []
    for heading, rows in groups:
        lines += [*([""] if lines else []), line(heading, names)]
        lines += [line(f"  {name}", values) for name, values in rows]
    return "\n".join(lines) + "\n"


# --- Tokens as people can see them ----------------------------------------------------------------------------------


def printable(text: str) -> str:
    """A name on one line: what has no glyph, or would move its neighbours, as its code point."""
    return str(inline("".join(character if character == " " else _sign(character) for character in text)))


def visible(text: str) -> str:
    """A token: white space as signs, long runs of one character counted, what has no glyph as its code point, and a
    ring for a mark to sit on that would sit on its neighbour."""
    runs = [(_VISIBLE.get(character) or _sign(character), len(list(run))) for character, run in groupby(text)]
    shown = "".join(sign * times if times < COUNTED else f"{sign}×{times} " for sign, times in runs)
    ring = "◌" if text and unicodedata.category(text[0])[0] == "M" else ""
    return str(inline(ring + shown.removesuffix(" ")))


def _sign(character: str) -> str:
    return f"[U+{ord(character):04X}]" if unicodedata.category(character)[0] in "CZ" else character


# --- Geometry -------------------------------------------------------------------------------------------------------

CHART_WIDTH, LABEL_WIDTH, BAR_HEIGHT, BAR_GAP = 760, 130, 13, 12
HISTOGRAM_WIDTH, HISTOGRAM_HEIGHT, LONGEST = 360, 150, 16
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 352, 10, 128


class Bar(NamedTuple):
    """A rectangle in pixels, its class, and what it says."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    text: str


class LabelChart(NamedTuple):
    """Bytes per token by label, a bar a tokenizer."""

    height: float
    labels: list[tuple[float, str]]  # where each label's text stands
    bars: list[Bar]


def draw_labels(results: Sequence[Result]) -> LabelChart:
    """Places a group of bars for each label, one under the other."""
    found = {
        label: [(result["labels"].get(label) or {}).get("bytes_per_token") for result in results]
        for label in labels(results)
    }
    most = max((value for values in found.values() for value in values if value), default=0)
    scale = (CHART_WIDTH - LABEL_WIDTH - 50) / most if most else 0
    bars, names, y = [], [], 0.0
    for label, values in found.items():
        names.append((y + len(values) * BAR_HEIGHT / 2 + 4, label))
        for column, value in enumerate(values):
            text, long = decimal(value), round((value or 0) * scale, 1)
            bars.append(Bar(LABEL_WIDTH, y, long, BAR_HEIGHT - 2, f"c{column % COLORS}", text))
            y += BAR_HEIGHT
        y += BAR_GAP
    return LabelChart(max(0.0, y - BAR_GAP), names, bars)


class LengthChart(NamedTuple):
    """How long the tokens of one vocabulary are."""

    tokenizer: str
    bars: list[Bar]  # of the vocabulary, then of the texts
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    summary: str


def draw_lengths(result: Result, column: int) -> LengthChart:
    """Shares of tokens by characters: each length has a bar in the tokenizer's colour and one for the texts."""
    vocabulary, texts = [0] * (LONGEST + 1), [0] * (LONGEST + 1)
    for row in result["vocabulary"]["lengths"]:
        at = min(row["characters"], LONGEST + 1) - 1
        vocabulary[at] += row["tokens"]
        texts[at] += row["uses"]
    shares = [[part / max(1, sum(parts)) for part in parts] for parts in (vocabulary, texts)]
    most = max(0.1, *(max(parts) for parts in shares))
    step = 0.1 if most <= 0.4 else 0.2
    scale, wide = (_BOTTOM - _TOP) / most, (_RIGHT - _LEFT) / (LONGEST + 1)
    bars, names = [], [str(length) for length in range(1, LONGEST + 1)] + [f"{LONGEST + 1}+"]
    kinds = ((f"c{column % COLORS}", "the vocabulary"), ("texts", "the texts"))
    for second, (parts, (kind, of)) in enumerate(zip(shares, kinds, strict=True)):
        for at, part in enumerate(parts):
            high = round(part * scale, 1)
            x = round(_LEFT + at * wide + 1 + second * (wide - 2) / 2, 1)
            text = f"{names[at]} characters: {percent(part, 1)} of {of}"
            bars.append(Bar(x, round(_BOTTOM - high, 1), round((wide - 2) / 2, 1), high, kind, text))
    x_ticks = [(round(_LEFT + (at + 0.5) * wide, 1), name) for at, name in enumerate(names) if at % 2 == 0]
    y_ticks = [(round(_BOTTOM - i * step * scale, 1), f"{i * step:.0%}") for i in range(int(most / step + 1e-9) + 1)]
    most_at = max(range(len(names)), key=vocabulary.__getitem__)
    summary = f"most frequent in the vocabulary: {names[most_at]} characters, {percent(shares[0][most_at], 1)}"
    return LengthChart(result["tokenizer"], bars, x_ticks, y_ticks, summary)


# --- The page -------------------------------------------------------------------------------------------------------


def render_scores(results: Sequence[Result]) -> str:
    """The whole page as text; equal arguments give equal bytes. A key that is missing raises `KeyError` or
    `jinja2.UndefinedError`."""
    everything, vocabulary, *by_label = compare(results)
    return _template().render(
        results=results,
        tables=[everything, vocabulary],
        by_label=by_label,
        label_chart=draw_labels(results),
        length_charts=[draw_lengths(result, column) for column, result in enumerate(results)],
        scripts=_scripts(results),
        cuts=[(name, _cuts(results, key)) for name, key in (("Digits", "digits"), ("White space", "white_space"))],
    )


def _scripts(results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row a script: for each tokenizer its shares of the vocabulary and of the tokens of the texts."""
    shares = []
    for result in results:
        rows = result["vocabulary"]["scripts"]
        tokens, uses = (max(1, sum(row[key] for row in rows)) for key in ("tokens", "uses"))
        shares.append({row["script"]: (row["tokens"] / tokens, row["uses"] / uses) for row in rows})
    scripts = {script: [each.get(script, (0.0, 0.0)) for each in shares] for each in shares for script in each}
    most = {script: max(max(cell) for cell in cells) for script, cells in scripts.items()}
    ordered = sorted(scripts, key=lambda script: (-most[script], script))
    table = [{"script": script, "cells": scripts[script]} for script in ordered if most[script] >= RARE]
    rare = [scripts[script] for script in ordered if most[script] < RARE]
    if rare:
        cells = [
            (sum(cell[0] for cell in column), sum(cell[1] for cell in column)) for column in zip(*rare, strict=True)
        ]
        table.append({"script": f"{len(rare)} more", "cells": cells})
    return table


def _cuts(results: Sequence[Result], key: str) -> list[dict[str, Any]]:
    """A row a sample: how each tokenizer cuts it."""
    texts = {sample["text"]: None for result in results for sample in result[key]}
    cut = [{sample["text"]: sample["tokens"] for sample in result[key]} for result in results]
    return [{"text": text, "cells": [samples.get(text) for samples in cut]} for text in texts]


@functools.cache
def _template() -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=inline
    )
    environment.filters |= {
        one.__name__: one for one in (count, size, percent, share, decimal, width, printable, visible)
    }
    environment.globals |= {"colors": COLORS, "chart_width": CHART_WIDTH, "label_width": LABEL_WIDTH}
    environment.globals |= {"histogram_width": HISTOGRAM_WIDTH, "histogram_height": HISTOGRAM_HEIGHT}
    environment.globals |= {"left": _LEFT, "right": _RIGHT, "bottom": _BOTTOM}
    return environment.from_string(Path(__file__).with_name("score.html.j2").read_text("utf-8"))
