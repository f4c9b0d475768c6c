"""The curation report: the figures of a run and a few of its documents as one HTML page.

The page stands alone: styles and charts are inside it, it has no script, and a content policy forbids it any
request. Counting and sampling happen elsewhere; what lives here is wording, numbers for people and the geometry of
bars and histograms.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import groupby
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

SAMPLE_CHARS = 600
SAMPLES_BYTES = 400_000  # all sample texts together: keeps the page below 1.5 MB for a recipe of 60 rules
INLINE_CHARS = 180
LINK_CHARS = 500

# What no HTML page may hold, or what has no glyph: controls, lone surrogates.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
# Embeddings, overrides and isolates: inside a line they could reorder the words of the page around them.
_BIDI_CONTROLS = re.compile(r"[\u202a-\u202e\u2066-\u2069]")
_BLANK_LINES = re.compile(r"\n\s*\n")


def render_report(stats: Mapping[str, Any], samples: Mapping[str, Any]) -> str:
    """The whole page as text; equal arguments give equal bytes.

    `stats` holds `recipe`, `tilth`, `inputs`, `totals`, `failures`, `rules`, `funnel`, `lines`, `histograms`,
    `languages`, `domains` and `duplicates` (None where none were looked for); `samples` holds `kept`, by rule and by
    reason `dropped` and `failed`, and `clusters`. Everything in both may be hostile text. A key that is missing raises
    `jinja2.UndefinedError`.
    """
    rules = {rule["rule"]: rule for rule in stats["rules"]}
    dropped = samples["dropped"]
    groups = [(name, dropped[name]) for name in rules if name in dropped]
    groups += [(name, chosen) for name, chosen in dropped.items() if name not in rules]
    members = sum(len(cluster["members"]) for cluster in samples["clusters"])
    shown = len(samples["kept"]) + sum(len(chosen) for _, chosen in groups) + members
    return _template().render(
        stats=stats,
        totals=stats["totals"],
        rules=rules,
        funnel=list(funnel_rows(stats["funnel"])),
        charts=[draw_histogram(histogram) for histogram in stats["histograms"]],
        kept=samples["kept"],
        dropped=groups,
        failed=samples["failed"],
        clusters=samples["clusters"],
        text_bytes=SAMPLES_BYTES // max(1, shown),
    )


# --- Numbers and text, as a person reads them -----------------------------------------------------------------------


def count(number: int) -> str:
    """A whole number with thousands separators: 98,035,231."""
    return f"{number:,}"


def size(number: float) -> str:
    """Bytes in decimal units with three significant digits: 98.0 MB."""
    if number < 1000:
        return f"{number:.0f} B"
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        number /= 1000
        if number < 999.5 or unit == "PB":
            break
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:,.{digits}f} {unit}"


def percent(part: float, whole: float) -> str:
    """A share that reads 0% or 100% only where it is exactly that; a share of nothing is a dash."""
    if whole <= 0:
        return "–"
    share = 100 * part / whole
    if share == 0 or share >= 100:
        return f"{share:.0f}%"
    if share < 0.095:
        return f"{share:.2f}%" if share >= 0.005 else "<0.01%"
    return f"{share:.1f}%" if share < 99.95 else ">99.9%"


def number(value: Any) -> str:
    """A label's value or a threshold: whole numbers with separators, others with four significant digits."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def short_number(value: float) -> str:
    """A number for an axis: 0.05, 200, 1.5k, 100k, 2M."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{suffix}"
    return f"{value:.3g}"


def width(part: float, whole: float) -> str:
    """The length of a bar as a CSS percentage, between 0% and 100%."""
    return f"{min(100.0, max(0.0, 100 * part / whole)) if whole > 0 else 0:.2f}%"


def inline(value: Any) -> Any:
    """What any expression of the template prints: strings without unprintable characters and never longer than a line
    or two, however long the foreign text is."""
    if value is None:
        return "–"
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    if len(value) > INLINE_CHARS:
        value = f"{value[: INLINE_CHARS * 2 // 3]}…{value[-INLINE_CHARS // 3 :]}"
    return _BIDI_CONTROLS.sub("", _UNPRINTABLE.sub("\ufffd", value))


def passage(text: str, chars: int, limit: int) -> Markup:
    """The beginning of a text of `chars` characters, escaped: at most `limit` bytes of HTML, with a mark where cut."""
    whole = chars <= min(len(text), SAMPLE_CHARS)
    start = text[:SAMPLE_CHARS].strip().replace("\r\n", "\n").replace("\r", "\n")
    start = _BLANK_LINES.sub("\n\n", _UNPRINTABLE.sub("\ufffd", start))
    while (taken := len(escape(start).encode())) > limit:
        start, whole = start[: len(start) * limit // taken], False
    return escape(start if whole else f"{start} …")


def link(url: str | None) -> str | None:
    """The address if it may be followed: http or https and of a sane length; None for every other scheme."""
    plain = url is not None and len(url) <= LINK_CHARS and url.lower().startswith(("http://", "https://"))
    return url if plain else None


def sizes(least: int) -> str:
    """The range of cluster sizes that begins so: single ones up to 4, then each twice as far as the one before."""
    return count(least) if least <= 4 else f"{count(least)} to {count(2 * (least - 1))}"


# --- Geometry -------------------------------------------------------------------------------------------------------


class FunnelRow(NamedTuple):
    """One row of the funnel: a step, or a run of rules that removed nothing."""

    step: Mapping[str, Any] | None
    bytes_whole: int  # what the byte bar's full length stands for
    documents_whole: int
    idle: tuple[str, ...] = ()


def funnel_rows(funnel: Sequence[Mapping[str, Any]]) -> Iterator[FunnelRow]:
    """Steps in order; neighbouring rules that removed nothing share a row. Bars of bytes are measured against the
    largest step of the same unit, since HTML and text differ by an order of magnitude."""
    documents_whole = max((step["documents"] + step["removed"] for step in funnel), default=0)
    bytes_whole: dict[str, int] = {}
    for step in funnel:
        bytes_whole[step["unit"]] = max(bytes_whole.get(step["unit"], 0), step["bytes"] + step["removed_bytes"])
    for idle, steps in groupby(funnel, lambda step: step["kind"] == "rule" and not step["removed"]):
        if idle:
            yield FunnelRow(None, 0, 0, tuple(step["step"] for step in steps))
        else:
            yield from (FunnelRow(step, bytes_whole[step["unit"]], documents_whole) for step in steps)


class Bar(NamedTuple):
    """One bin: its place in pixels and what it holds."""

    x: float
    width: float
    kept_height: float
    dropped_height: float
    title: str


class Tick(NamedTuple):
    """A mark on an axis, in pixels."""

    at: float
    text: str


class Threshold(NamedTuple):
    """The line of a bound, its caption, and the tinted band on the side that is dropped, in pixels."""

    text: str
    line: float | None  # None where the bound lies outside the range drawn
    band_x: float
    band_width: float
    anchor: str
    text_x: float
    text_y: float


class Chart(NamedTuple):
    """A histogram ready to be drawn: see `draw_histogram`."""

    label: str
    rule: str | None
    bars: list[Bar]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    thresholds: list[Threshold]
    top: float
    logarithmic: bool
    summary: str  # the text alternative


CHART_WIDTH, CHART_HEIGHT, CAPTION_ROW = 360, 170, 14
LEFT, RIGHT, BOTTOM = 38, 352, 150


def draw_histogram(histogram: Mapping[str, Any]) -> Chart:
    """Places bins, axes and thresholds of one label's histogram in a box of CHART_WIDTH x CHART_HEIGHT pixels."""
    edges: Sequence[float] = histogram["edges"]
    kept, dropped = histogram["kept"], histogram["dropped"]
    axis = _Axis(edges, histogram["scale"] == "log")
    highest = max((a + b for a, b in zip(kept, dropped, strict=True)), default=0)
    bounds = [(which, histogram[which]) for which in ("min", "max") if histogram[which] is not None]
    top = 8 + CAPTION_ROW * len(bounds)
    step = max(1, _nice_step(highest / 4))
    steps = max(1, math.ceil(highest / step))
    scale = (BOTTOM - top) / (step * steps)
    bars = []
    for low, high, k, d in zip(edges[:-1], edges[1:], kept, dropped, strict=True):
        if k or d:
            # A bin with one document among millions is still drawn, a pixel high.
            grow = max(1.0, 1.0 / ((k + d) * scale))
            x, wide = axis(low), axis(high) - axis(low)
            title = f"{number(low)} to {number(high)}: {count(k)} kept, {count(d)} dropped"
            bars.append(Bar(_px(x), _px(max(0.5, wide - 0.6)), _px(k * scale * grow), _px(d * scale * grow), title))
    y_ticks = [Tick(_px(BOTTOM - scale * i * step), short_number(i * step)) for i in range(steps + 1)]
    return Chart(
        label=histogram["label"],
        rule=histogram["rule"],
        bars=bars,
        x_ticks=[Tick(_px(axis(value)), short_number(value)) for value in axis.ticks()],
        y_ticks=y_ticks,
        thresholds=[_threshold(row, which, bound, edges, axis) for row, (which, bound) in enumerate(bounds)],
        top=top,
        logarithmic=axis.logarithmic,
        summary=_describe(histogram, bounds),
    )


class _Axis:
    """Maps values to pixels. On a logarithmic axis a first edge of 0 stands as far below the next edge as that one
    stands below its own next."""

    def __init__(self, edges: Sequence[float], logarithmic: bool) -> None:
        positive = [edge for edge in edges if edge > 0]
        self.logarithmic = logarithmic and len(positive) >= 2
        self.low, self.high = edges[0], edges[-1]
        self.with_zero = self.logarithmic and self.low <= 0
        if self.with_zero:
            self.low = positive[0] ** 2 / positive[1]
        self.first = positive[0] if self.with_zero else self.low

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / ((self.high - self.low) or 1)
        return LEFT + (RIGHT - LEFT) * share

    def ticks(self) -> list[float]:
        """Some round values; powers of ten on a logarithmic axis, with 2 and 5 between few of them."""
        if not self.logarithmic:
            step = _nice_step((self.high - self.low) / 6) or 1
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            return [round(i * step, 12) for i in range(first, last + 1)]
        decades = range(math.floor(math.log10(self.first)), math.ceil(math.log10(self.high)) + 1)
        every = math.ceil(len(decades) / 7)
        factors = (1, 2, 5) if len(decades) <= 3 else (1,)
        values = [factor * 10.0**decade for decade in decades[::every] for factor in factors]
        values = [value for value in values if self.first * 0.999 <= value <= self.high * 1.001]
        return [0.0, *values] if self.with_zero and self(self.first) - LEFT > 9 else values


def _threshold(row: int, which: str, bound: float, edges: Sequence[float], axis: _Axis) -> Threshold:
    x = axis(bound)
    start, end = (LEFT, x) if which == "min" else (x, RIGHT)
    # The caption stands beside its line, on the side with room; the two bounds of one label take a row each.
    anchor = "start" if x < (LEFT + RIGHT) / 2 else "end"
    text_x = x + 4 if anchor == "start" else x - 4
    text_y = 12 + CAPTION_ROW * row
    inside = edges[0] <= bound <= edges[-1]
    text = f"{which} {number(bound)}"
    if bound < edges[0]:
        text = f"← {text}"
    elif bound > edges[-1]:
        text = f"{text} →"
    return Threshold(text, _px(x) if inside else None, _px(start), _px(end - start), anchor, _px(text_x), text_y)


def _describe(histogram: Mapping[str, Any], bounds: Sequence[tuple[str, float]]) -> str:
    total = [a + b for a, b in zip(histogram["kept"], histogram["dropped"], strict=True)]
    if not sum(total):
        return "no documents"
    edges, most = histogram["edges"], max(range(len(total)), key=total.__getitem__)
    limits = "; ".join(f"{which}imum {number(bound)}" for which, bound in bounds)
    return (
        f"{count(sum(histogram['kept']))} kept, {count(sum(histogram['dropped']))} dropped, "
        f"from {number(edges[0])} to {number(edges[-1])}; "
        f"highest bar {number(edges[most])} to {number(edges[most + 1])} with {count(total[most])}"
        f"{'; ' + limits if limits else ''}"
    )


def _nice_step(step: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `step`; 0 for 0."""
    if step <= 0:
        return 0
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)


def _px(value: float) -> float:
    return round(value, 1)


@functools.cache
def _template() -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=inline
    )
    filters = (count, size, percent, number, width, passage, link, sizes)
    environment.filters |= {function.__name__: function for function in filters}
    environment.globals |= {"chart_width": CHART_WIDTH, "chart_height": CHART_HEIGHT}
    environment.globals |= {"left": LEFT, "right": RIGHT, "bottom": BOTTOM}
    return environment.from_string(files("tilth.curate").joinpath("report.html.j2").read_text("utf-8"))
