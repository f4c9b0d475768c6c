"""The geometry of curves: values as pixels, round values for an axis, and paths that a page can hold.

Pure functions of numbers, for every page that draws: what is drawn, and in which words, is decided in `report` and
`plan_report`.
"""

import math
from typing import NamedTuple

import numpy as np

BLOCKS = 100  # points of a smoothed curve

Values = np.ndarray  # float64[n]


class Tick(NamedTuple):
    """A mark on an axis, in pixels."""

    at: float
    text: str


class Scale(NamedTuple):
    """Maps values to pixels."""

    low: float
    high: float
    first: float  # pixel of `low`
    last: float
    logarithmic: bool = False

    def __call__(self, values: Values) -> Values:
        low, high = self.low, self.high
        if self.logarithmic:
            with np.errstate(divide="ignore", invalid="ignore"):
                values, low, high = np.log(values), math.log(low), math.log(high)
        share = (values - low) / (high - low)
        return np.round(self.first + (self.last - self.first) * np.clip(share, -4, 5), 1)  # far out of sight

    def ticks(self, about: int) -> list[float]:
        """Some round values, about so many."""
        if not self.logarithmic:
            step = _round_step((self.high - self.low) / about)
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            return [round(i * step, 12) for i in range(first, last + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        every = math.ceil(len(decades) / (about + 2))
        factors = (1, 2, 5) if len(decades) <= 3 else (1,)
        values = [factor * 10.0**decade for decade in decades[::every] for factor in factors]
        return [value for value in values if self.low <= value <= self.high]


def _round_step(step: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)


def thinned(x: Values, y: Values, points: int) -> tuple[Values, Values]:
    """The least and the greatest of each stretch of the curve, and its ends: looks the same, with about `points`
    points. A stretch without a number stays a gap."""
    if len(x) <= points:
        return x, y
    chosen = {0, len(x) - 1}
    for some in np.array_split(np.arange(len(x)), points // 2):
        known = some[np.isfinite(y[some])]
        chosen |= {int(known[y[known].argmin()]), int(known[y[known].argmax()])} if len(known) else {int(some[0])}
    at = np.array(sorted(chosen))
    return x[at], y[at]


def smoothed(x: Values, y: Values) -> tuple[Values, Values]:
    """The median of each hundredth of a curve (of ten points, where it is short): no spike bends it. Empty for a curve
    too short to have one."""
    blocks = min(BLOCKS, len(x) // 10)
    if blocks < 5:
        return x[:0], y[:0]
    parts = [some for some in np.array_split(np.arange(len(x)), blocks) if np.isfinite(y[some]).any()]
    return np.array([x[some].mean() for some in parts]), np.array([np.nanmedian(y[some]) for some in parts])


def limits(values: Values, from_zero: bool) -> tuple[float, float, bool]:
    """Lowest and highest value of an axis, and whether it cuts some off: where a few lie so far out that the others
    would have less than an eighth of the height. An axis that need not begin at zero, a loss's, also leaves out how
    steeply the first steps fall, where all that follows would have less than a third."""
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0, False
    low, high = float(values.min()), float(values.max())
    most, share = (0.99, 8) if from_zero else (0.97, 3)
    inner, outer = (float(value) for value in np.quantile(values, (0.01, most)))
    inner = min(inner, 0.0) if from_zero else inner
    cut = outer > inner and high - low > share * (outer - inner)
    if cut:
        room = (outer - inner) / 3
        low, high = max(low, inner - room), min(high, outer + room)
    if from_zero:
        low = min(low, 0.0)
    spare = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return (low if low == 0 and from_zero else low - spare), high + spare, cut


def path(at: Values, up: Values) -> str:
    """An SVG path through the points, broken where there is no number; a lone point is a dot."""
    known = np.isfinite(up)
    parts = np.split(np.arange(len(at)), np.flatnonzero(np.diff(known)) + 1)
    lines = [[f"{at[i]:g} {up[i]:g}" for i in part] for part in parts if len(part) and known[part[0]]]
    return "".join(f"M{'L'.join(line)}" + ("h0" if len(line) == 1 else "") for line in lines)
