"""The page of a training run: what was trained, its curves, what happened on the way, where the time went.

The page stands alone, has no script and asks the network for nothing. Everything it shows was written by `seen` and
`profile`; what lives here is wording, numbers for people and the geometry of curves. Names may be hostile text.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import orjson
import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from tilth import rundir
from tilth.storage import Folder

from ..curate.report import count, inline, number, percent, size, width
from .curves import Scale, Tick, Values, limits, path, smoothed, thinned
from .profile import PROFILE
from .seen import amount, curves, duration, events, validations

REPORT = "report.html"
POINTS = 1000  # of a curve that are drawn
COLORS = 6  # labels and sources beyond these are in the tables alone
LISTED = 200  # events in the table
MARKED = ("rollback", "spike", "skip", "checkpoint")  # events that stand on the curves
TAIL = 100  # the final loss is the mean of the last step in so many, and of ten at least


def write_report(folder: Folder) -> None:
    """Writes `report.html` into a run's folder, from what the run has kept there so far."""
    manifest = rundir.read(folder) if folder.exists(rundir.MANIFEST) else {"name": "", "request": {}}
    profile = orjson.loads(folder.read(PROFILE)) if folder.exists(PROFILE) else None
    page = render_training(manifest, curves(folder), validations(folder), events(folder), profile)
    folder.write(REPORT, page.encode("utf-8", "replace"))


def render_training(
    manifest: Mapping[str, Any],
    steps: Mapping[str, Values],
    held_out: Mapping[str, Mapping[str, Values]],
    happened: Sequence[Mapping[str, Any]],
    profile: Mapping[str, Any] | None,
) -> str:
    """The whole page as text; equal arguments give equal bytes. The arguments are what `rundir.read`, `seen.curves`,
    `seen.validations` and `seen.events` give, and the contents of `profile.json`."""
    start = next((event for event in reversed(happened) if event["event"] == "start"), {})
    listed = [event for event in happened if event["event"] not in ("checkpoint", "start")]
    return _template().render(
        name=manifest["name"],
        about=start.get("about") or {},
        recipe=yaml.safe_dump(manifest["request"], sort_keys=False, allow_unicode=True) if manifest["request"] else "",
        steps=start.get("steps"),
        final=final(steps, held_out),
        charts=charts(steps, held_out, happened),
        sources=_last_by_source(steps),
        kinds=[(kind, len([one for one in happened if one["event"] == kind])) for kind in MARKED],
        events=[(event, details(event)) for event in listed],
        profile=profile,
    )


# --- Figures --------------------------------------------------------------------------------------------------------


def final(steps: Mapping[str, Values], held_out: Mapping[str, Mapping[str, Values]]) -> dict[str, Any]:
    """The numbers that a run is remembered by; None for what it did not measure."""
    if not steps:
        return {"step": 0}
    last = slice(-_tail(len(steps["step"])), None)
    seconds = np.nansum(steps["step_seconds"])
    labels = {label: _held_out(found) for label, found in held_out.items()}
    weights = [one["tokens"] or 0 for one in labels.values()]
    told = sum(weights) > 0 and all(one["loss"] is not None for one in labels.values())
    losses = [one["loss"] for one in labels.values()]
    return {
        "step": int(steps["step"][-1]),
        "tokens": int(steps["tokens"][-1]),
        "loss": _known(np.nanmean, steps["loss"][last]) if "loss" in steps else None,
        "tail": _tail(len(steps["step"])),
        "labels": labels,
        "validation": float(np.average(losses, weights=weights)) if told else None,
        "tokens_per_second": _known(np.nanmedian, steps.get("tokens_per_second")),
        "mfu": _known(np.nanmedian, steps.get("mfu")),
        "memory": _known(np.nanmax, steps.get("memory")),
        "seconds": float(seconds),
        "waiting": float(np.nansum(steps["data_seconds"])) if "data_seconds" in steps else None,
        "skipped": int(steps["skipped"].sum()),
        "broken": int(np.isnan(steps["loss"]).sum()) if "loss" in steps else 0,
    }


def _tail(length: int) -> int:
    return min(length, max(10, length // TAIL))


def _held_out(found: Mapping[str, Values]) -> dict[str, Any]:
    """One label's last measurement, and its lowest loss with the step of it."""
    losses, last = found["loss"], {key: _known(np.max, found[key][-1:]) for key in ("loss", "perplexity", "tokens")}
    if np.isnan(losses).all():
        return {**last, "step": int(found["step"][-1]), "best": None, "best_step": None}
    best = int(np.nanargmin(losses))
    return {**last, "step": int(found["step"][-1]), "best": losses[best], "best_step": int(found["step"][best])}


def _known(of: Callable[[Values], Any], values: Values | None) -> float | None:
    if values is None or not np.isfinite(values).any():
        return None
    return float(of(values[np.isfinite(values)]))


def _last_by_source(steps: Mapping[str, Values]) -> list[tuple[str, float | None, int]]:
    """For each source its name, the mean of its last losses, and the steps that held some of it."""
    found = {key.removeprefix("sources/"): values for key, values in steps.items() if key.startswith("sources/")}
    seen = {name: values[np.isfinite(values)] for name, values in found.items()}
    return [
        (name, _known(np.mean, values[-_tail(len(values)) :] if len(values) else None), len(values))
        for name, values in sorted(seen.items())
    ]


def details(event: Mapping[str, Any]) -> str:
    """What an event holds besides its kind, step and time, in words."""
    rest = {key: value for key, value in event.items() if key not in ("event", "step", "time", "reason")}
    told = [str(event["reason"])] if event.get("reason") else []
    return "; ".join([*told, *(f"{key.replace('_', ' ')} {number(value)}" for key, value in rest.items())])


def decimal(value: float | None) -> str:
    """A loss or a perplexity with four significant digits; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:#.4g}" if value < 1e4 else f"{value:.2e}"


def spent(seconds: float) -> str:
    """A time as hours, minutes and seconds; a short one in seconds."""
    return duration(seconds) if seconds >= 60 else f"{seconds:.3g} s"


# --- Geometry -------------------------------------------------------------------------------------------------------

WIDE, NARROW = (1120, 320), (552, 210)  # pixels of a chart
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 38  # around the curves


class Curve(NamedTuple):
    """One line of a chart."""

    name: str
    kind: str  # its class
    x: Values
    y: Values
    dots: bool = False


class Mark(NamedTuple):
    """An event on the axis of tokens, in pixels."""

    at: float
    kind: str
    text: str


class Chart(NamedTuple):
    """Curves over tokens, ready to be drawn."""

    title: str
    width: float
    height: float
    paths: list[tuple[str, str]]  # class and path
    dots: list[tuple[str, float, float, str]]  # class, place and what it says
    legend: list[tuple[str, str]]  # class and name
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marks: list[Mark]
    note: str
    summary: str  # the text alternative

    @property
    def right(self) -> float:
        return self.width - RIGHT

    @property
    def bottom(self) -> float:
        return self.height - BOTTOM


def draw(
    title: str,
    found: Sequence[Curve],
    show: Callable[[float], str],
    *,
    most: float,
    marks: Sequence[tuple[float, str, str]] = (),
    wide: bool = False,
    from_zero: bool = True,
    wide_range: bool = False,
) -> Chart:
    """Places curves over tokens, from 0 to `most`. With `wide_range` the axis is logarithmic where the values span more
    than two powers of ten."""
    wide_by_high = WIDE if wide else NARROW
    bottom, right = wide_by_high[1] - BOTTOM, wide_by_high[0] - RIGHT
    values = np.concatenate([np.zeros(0), *(curve.y for curve in found)])
    positive = values[np.isfinite(values) & (values > 0)]
    inner = np.quantile(positive, (0.001, 0.999)) if len(positive) else np.ones(2)
    if wide_range and inner[1] > 100 * inner[0]:
        low, high, cut = float(positive.min()) * 0.8, float(positive.max()) * 1.25, False
        y_scale = Scale(low, high, bottom, TOP, True)
    else:
        low, high, cut = limits(values, from_zero)
        y_scale = Scale(low, high, bottom, TOP)
    x_scale = Scale(0.0, most or 1.0, LEFT, right)
    paths, dots = [], []
    for curve in found:
        x, y = thinned(curve.x, curve.y, POINTS)
        at, up = x_scale(x), y_scale(y)
        paths.append((curve.kind, path(at, up)))
        if curve.dots and len(x) <= 60:
            told = zip(at, up, y, strict=True)
            dots += [(curve.kind, a, b, f"{curve.name}: {show(c)}") for a, b, c in told if np.isfinite(b)]
    beyond = int(((values > high) | (values < low)).sum()) if cut else 0
    note = ""
    if beyond:
        note = f"{count(beyond)} beyond the axis, all from {number(np.nanmin(values))} to {number(np.nanmax(values))}"
    ends = [f"{c.name} {show(k[0])} to {show(k[-1])}" for c in found if len(k := c.y[np.isfinite(c.y)])]
    return Chart(
        title=title + (" (logarithmic)" if y_scale.logarithmic else ""),
        width=wide_by_high[0],
        height=wide_by_high[1],
        paths=paths,
        dots=dots,
        legend=[(curve.kind, curve.name) for curve in found] if len(found) > 1 else [],
        x_ticks=[Tick(float(x_scale(np.array(v))), amount(v)) for v in x_scale.ticks(8 if wide else 5)],
        y_ticks=[Tick(float(y_scale(np.array(v))), show(v)) for v in y_scale.ticks(6 if wide else 4)],
        marks=_placed(marks, x_scale),
        note=note,
        summary="; ".join(ends) or "no values",
    )


def _placed(marks: Sequence[tuple[float, str, str]], scale: Scale) -> list[Mark]:
    """Marks by pixel: of several of one kind at one place, one."""
    found: dict[tuple[str, float], Mark] = {}
    for at, kind, text in marks:
        pixel = float(np.round(scale(np.array(at))))
        found.setdefault((kind, pixel), Mark(pixel, kind, text))
    return sorted(found.values(), key=lambda mark: (-MARKED.index(mark.kind), mark.at))


def charts(
    steps: Mapping[str, Values], held_out: Mapping[str, Mapping[str, Values]], happened: Sequence[Mapping[str, Any]]
) -> dict[str, Chart]:
    """Every chart for which there are numbers, by name."""
    if not steps:
        return {}
    tokens = steps["tokens"].astype(float)
    most = float(tokens[-1])
    at = functools.partial(np.interp, xp=np.r_[0, steps["step"]], fp=np.r_[0.0, tokens])
    marks = [
        (float(at(event["step"])), event["event"], f"{event['event']} at step {event['step']:,}")
        for event in happened
        if event["event"] in MARKED
    ]
    plot = functools.partial(draw, most=most)

    found: dict[str, Chart] = {}
    if "loss" in steps:
        lines = [Curve("training", "raw", tokens, steps["loss"])]
        lines.append(Curve("training, smoothed", "smooth", *smoothed(tokens, steps["loss"])))
        lines += [
            Curve(f"validation: {label}", f"c{index}", at(one["step"]), one["loss"], dots=True)
            for index, (label, one) in enumerate(list(held_out.items())[:COLORS])
        ]
        lines = [line for line in lines if len(line.x)]
        found["loss"] = plot("Loss, nats per token", lines, _plain, marks=marks, wide=True, from_zero=False)
    sources = sorted(key for key in steps if key.startswith("sources/"))[:COLORS]
    if sources:
        lines = []
        for index, key in enumerate(sources):
            known = np.isfinite(steps[key])  # a step need not hold something of each source
            x, y = smoothed(tokens[known], steps[key][known])
            if not len(x):
                x, y = tokens[known], steps[key][known]
            lines.append(Curve(key.removeprefix("sources/"), f"c{index}", x, y, dots=True))
        found["sources"] = plot("Training loss, nats per token", lines, _plain, wide=True, from_zero=False)
    for key, title, show in (
        ("lr", "Learning rate", _plain),
        ("grad_norm", "Gradient norm, before clipping", _plain),
        ("tokens_per_second", "Tokens per second", amount),
        ("mfu", "Model FLOPs utilisation", _share),
        ("memory", "Memory of rank 0, at its peak", size),
        ("waiting", "Share of time waiting for data", _share),
    ):
        values = _waiting(steps) if key == "waiting" else steps.get(key)
        if values is not None and np.isfinite(values).any():
            raw, smooth = Curve(title, "raw", tokens, values), Curve("smoothed", "smooth", *smoothed(tokens, values))
            lines = [raw._replace(kind="smooth")] if key in ("lr", "memory") or not len(smooth.x) else [raw, smooth]
            norm = key == "grad_norm"
            found[key] = plot(title, lines, show, marks=marks if norm else (), wide_range=norm)._replace(legend=[])
    return found


def _waiting(steps: Mapping[str, Values]) -> Values | None:
    if "data_seconds" not in steps:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        return steps["data_seconds"] / steps["step_seconds"]


def _plain(value: float) -> str:
    return f"{value:.3g}"


def _share(value: float) -> str:
    return f"{value:.3g}%" if (value := value * 100) < 0.995 and value else f"{value:.0f}%"


# --- The page -------------------------------------------------------------------------------------------------------


def listing(text: str) -> Markup:
    """A text of several lines, escaped: each cut where it is very long, and all where there are very many."""
    lines = text.splitlines()
    shown = [escape(inline(line)) for line in lines[:1000]]
    return Markup("\n").join(shown + ([Markup(f"… {len(lines) - 1000} more lines")] if len(lines) > 1000 else []))


@functools.cache
def _template() -> Any:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=inline
    )
    filters = (count, size, percent, number, width, decimal, amount, spent, listing)
    environment.filters |= {function.__name__: function for function in filters}
    environment.globals |= {"colors": COLORS, "left": LEFT, "top": TOP, "listed": LISTED}
    return environment.from_string(files("tilth.train").joinpath("report.html.j2").read_text("utf-8"))
