"""The learning rate of a step: a pure function of how far training has come."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ScheduleOptions(BaseModel):
    """Warm-up, then a course from `rate` to `rate` x `floor`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float = Field(default=3e-4, gt=0, description="the highest learning rate")
    warmup: float = Field(default=0.01, ge=0, lt=1, description="share of the steps in which the rate rises from 0")
    course: Literal["cosine", "linear", "constant", "wsd"] = Field(
        default="cosine", description="how it falls; wsd: it stays, and falls in the last share `decay` of the steps"
    )
    floor: float = Field(default=0.1, ge=0, le=1, description="share of the rate that is left at the end (LLaMA: 0.1)")
    decay: float = Field(
        default=0.1, gt=0, le=1, description="wsd: share of the steps in which it falls (MiniCPM: 0.1)"
    )

    @model_validator(mode="after")
    def _fits(self) -> "ScheduleOptions":
        if self.course == "wsd" and self.warmup + self.decay > 1:
            raise ValueError(f"warmup {self.warmup:g} and decay {self.decay:g} are more than the whole run")
        return self


def rate(options: ScheduleOptions, step: int, steps: int) -> float:
    """The learning rate of step `step` of `steps`, both from 0: the first one's is already above 0, and the floor is
    reached by the last."""
    done = step + 1
    warm = options.warmup * steps
    if done < warm:
        return options.rate * done / warm
    if options.course == "wsd":
        warm = max(warm, steps * (1 - options.decay))
        if done <= warm:
            return options.rate
    gone = min((done - warm) / max(steps - warm, 1e-9), 1.0)
    left = {"constant": 1.0, "cosine": (1 + math.cos(math.pi * gone)) / 2}.get(options.course, 1 - gone)
    return options.rate * (options.floor + (1 - options.floor) * left)
