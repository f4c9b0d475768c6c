"""What becomes of a step whose loss or gradient looks wrong: it is taken or skipped, the run goes back or stops.

The decision falls after backward and before the optimizer moves. It rests on two numbers that every rank knows alike
and on a state that travels in every checkpoint: all ranks decide the same, and a resumed run as an uninterrupted one.
Nothing here touches a tensor, a file or a process: signals and hung ranks are in `watch.py`.
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

FLOOR = 0.005  # of the mean: the least that counts as one standard deviation, see `_limit`
OVERFLOWS = 64  # a loss scaler comes from 2**32 down to 1 in 32 halvings; twice as many are no search any more

Window = tuple[int, int]  # data steps passed over: the first and the last
Reads = Callable[[int, Iterable[Window]], int]


class GuardOptions(BaseModel):
    """When a step is not trusted, and what happens then."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: int = Field(default=128, ge=2, description="trusted steps that a loss and a gradient norm are held against")
    sigma: float = Field(default=6.0, gt=0, description="standard deviations above their mean that make a spike (OLMo)")
    history: int = Field(default=32, ge=2, description="trusted steps before anything is called a spike")
    on_spike: Literal["skip", "rollback", "ignore"] = Field(
        default="skip",
        description="skip: the optimizer does not move, the data goes on; rollback: the last checkpoint is loaded, and "
        "the data since then is passed over; ignore: the step is taken, and told. Batches of a few hundred tokens that "
        "hold rare data alone look like spikes: ignore them there, or the rare is never learned",
    )
    grad_norm_limit: float | None = Field(
        default=None, gt=0, description="gradient norm, before clipping, beyond which a step is skipped; default: none"
    )
    patience: int = Field(default=10, ge=1, description="steps skipped in a row that end the run")
    max_skipped: float = Field(
        default=0.1, gt=0, le=1, description="share of the last `window` steps beyond which skipping ends the run"
    )
    pass_over: int = Field(
        default=200, ge=1, description="least number of steps' data that a rollback passes over (PaLM: 200 to 500)"
    )
    max_rollbacks: int = Field(default=20, ge=0, description="rollbacks that a run may have (PaLM had about 20 spikes)")
    hang_seconds: float = Field(
        default=600, gt=0, description="without a step for so long a rank is hung: it shows its stacks and ends"
    )
    slow_seconds: float = Field(
        default=1800, gt=0, description="the same for what takes longer: the first step, saving, loading"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.history > self.window:
            raise ValueError(f"history {self.history} is more than the window of {self.window} steps can hold")
        return self


class Verdict(NamedTuple):
    """What the loop does with a step, and why."""

    action: Literal["go", "skip", "rollback", "stop"]
    reason: str = ""  # with the numbers; empty for a step with nothing to tell


class Guard:
    """Judges each step by those before it.

    `state()` belongs into every checkpoint; `Guard(options, state)` goes on from there with the same decisions, bit for
    bit. Only steps that were taken enter the history: one bad value must not make the next one look usual. A jump that
    stays, as from harder data, therefore does not become usual either, and ends the run after `patience` steps.
    """

    def __init__(self, options: GuardOptions, state: Mapping[str, Any] | None = None, reads: Reads | None = None):
        """`reads` says which data a step reads, given what was passed over; default: `data_step`."""
        self.options, self._reads = options, reads or data_step
        self._take(state or {})

    def _take(self, state: Mapping[str, Any]) -> None:
        self._losses: deque[float] = deque(state.get("losses", ()), self.options.window)
        self._grad_norms: deque[float] = deque(state.get("grad_norms", ()), self.options.window)
        self._in_row: int = state.get("in_row", 0)  # skipped, but for overflows
        self._recent: list[int] = list(state.get("recent", ()))  # those skipped among the last `window` steps
        self._overflows: int = state.get("overflows", 0)  # in a row
        self.skipped: int = state.get("skipped", 0)  # of all steps, overflows included
        self.rollbacks: int = state.get("rollbacks", 0)
        self.passed_over: list[Window] = [(first, last) for first, last in state.get("passed_over", ())]

    def state(self) -> dict[str, Any]:
        """Numbers and lists of numbers, fit for JSON."""
        return {
            "losses": list(self._losses),
            "grad_norms": list(self._grad_norms),
            "in_row": self._in_row,
            "overflows": self._overflows,
            "recent": list(self._recent),
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
            "passed_over": [list(window) for window in self.passed_over],
        }

    def decide(self, step: int, loss: float, grad_norm: float | None) -> Verdict:
        """What to do with this step; steps come in order.

        `loss` is the global batch's mean. `grad_norm` is the norm of the whole gradient before clipping, or None where
        a loss scaler (fp16) found an overflow: that is its way to find its scale, and counts against no patience.
        """
        if grad_norm is None and math.isfinite(loss):
            return self._overflow()
        self._overflows = 0
        broken = self._broken(loss, grad_norm)
        if broken or grad_norm is None:
            return self._skip(step, broken)
        spike = self._spike(loss, grad_norm)
        if spike and self.options.on_spike == "skip":
            return self._skip(step, spike)
        if spike and self.options.on_spike == "rollback":
            if self.rollbacks < self.options.max_rollbacks:
                return Verdict("rollback", spike)
            return Verdict("stop", f"{spike}; the run was rolled back {self.rollbacks} times before (max_rollbacks)")
        self._losses.append(loss)
        self._grad_norms.append(grad_norm)
        self._in_row = 0
        return Verdict("go", spike)

    def data_step(self, step: int) -> int:
        """Which data this step of training reads."""
        return self._reads(step, self.passed_over)

    def anew(self) -> None:
        """Other data begins: what was usual before tells nothing of it."""
        self._losses.clear()
        self._grad_norms.clear()

    def roll_back(self, state: Mapping[str, Any], resume: int, spike: int) -> Window:
        """Takes over the `state` of a checkpoint after a spike at step `spike`; training goes on with step `resume`.

        What was passed over and how often the run was rolled back stays known. Returns the window that is passed over
        now, in data steps: what was read from `resume` on up to the spike, and more to make it `pass_over`.
        """
        first = self.data_step(resume)
        window = (first, max(self.data_step(spike), first + self.options.pass_over - 1))
        kept = {"rollbacks": self.rollbacks + 1, "passed_over": joined([*self.passed_over, window])}
        self._take({**state, **kept})
        return window

    def _broken(self, loss: float, grad_norm: float | None) -> str:
        """Why no step may be taken with these numbers, whatever came before; "" where nothing speaks against it."""
        if not math.isfinite(loss):
            return f"loss is {loss}"
        if grad_norm is None or not math.isfinite(grad_norm):
            return f"gradient norm is {grad_norm}"
        limit = self.options.grad_norm_limit
        if limit is not None and grad_norm > limit:
            return f"gradient norm {grad_norm:.4g} is beyond the limit of {limit:g}"
        return ""

    def _spike(self, loss: float, grad_norm: float) -> str:
        """What stands out from the history; "" for nothing. Only upwards: a loss that falls fast is no fault."""
        for name, value, past in (("loss", loss, self._losses), ("gradient norm", grad_norm, self._grad_norms)):
            if len(past) >= self.options.history:
                mean, deviation = spread(past)
                if deviation and value > mean + self.options.sigma * deviation:  # 0 where all are 0: no scale to go by
                    far = f"{(value - mean) / deviation:.1f} standard deviations"
                    return f"{name} {value:.4g} is {far} above the last {len(past)}: {mean:.4g} ± {deviation:.2g}"
        return ""

    def _overflow(self) -> Verdict:
        self.skipped += 1
        self._overflows += 1
        reason = f"the loss scaler found an overflow, {self._overflows} in a row"
        return Verdict("skip" if self._overflows < OVERFLOWS else "stop", reason)

    def _skip(self, step: int, wrong: str) -> Verdict:
        options = self.options
        self.skipped += 1
        self._in_row += 1
        self._recent = [one for one in self._recent if step - options.window < one < step] + [step]
        if self._in_row >= options.patience:
            return Verdict("stop", f"{wrong}; it is the last of {self._in_row} steps skipped in a row (patience)")
        if len(self._recent) > options.max_skipped * options.window:
            many = f"{len(self._recent)} of the last {options.window} steps were skipped"
            return Verdict("stop", f"{wrong}; {many}, more than a share of {options.max_skipped:g} (max_skipped)")
        return Verdict("skip", wrong)


def spread(values: Collection[float]) -> tuple[float, float]:
    """Mean and (population) standard deviation, the latter at least FLOOR of the mean.

    A loss that has come to rest has next to no deviation, and its smallest tremble would be many sigma. With the floor,
    6 sigma are never less than 3% of the mean: 0.08 nats at a loss of 2.6, which is less than any spike worth a name.
    Sums are exact (fsum), so the order of the values plays no part.
    """
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    return mean, max(deviation, FLOOR * abs(mean))


def data_step(step: int, passed_over: Iterable[Window]) -> int:
    """The `step`-th of all data steps that lie in no window; both count from 0, windows are as `joined` gives them."""
    for first, last in passed_over:
        if step >= first:
            step += last - first + 1
    return step


def joined(windows: Iterable[Window]) -> list[Window]:
    """The same data steps in windows that ascend and neither overlap nor touch."""
    result: list[Window] = []
    for first, last in sorted(windows):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return result
