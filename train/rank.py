"""One rank of a training run, from the first step or the last checkpoint to the end; `python -m tilth.train.rank RUN`.

What is to be done stands in the run's folder, checked, before any rank starts (`run`). The ranks agree on everything
that decides what comes next: the checkpoint they go on from, the guard's verdict, whether a signal ends the run.
"""

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict

from tilth.errors import TilthError
from tilth.storage import Folder

from . import device, parallel
from .data.shards import TokenShards
from .guard import Guard, Verdict
from .launch import Seat, surroundings, tell
from .recipe import TrainRecipe
from .schedule import rate
from .seen import Seen
from .watch import StopRequested, Watchdog

JOB = "job.json"


class Job(BaseModel):
    """A checked request: everything that a rank has to know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: TrainRecipe
    data: list[str]
    folder: str
    steps: int
    about: dict[str, Any]
    flops_per_token: float
    rows: list[int] = []
    quiet: bool = False


class Rank:
    """What one process does of a run."""

    def __init__(self, job: Job, seat: Seat):
        from .checkpoint import Checkpoints
        from .loop import Objective, Trainer

        self.job, self.recipe, self.seat = job, job.recipe, seat
        recipe = self.recipe
        self.objective = recipe.objective()
        length = self.objective.length(recipe.batch.length)
        self.data = TokenShards(job.data, length, recipe.validation.share, recipe.seed)
        self.trainer = Trainer(recipe, Objective(self.objective.arrays), self.data.sources, job.rows)
        self.checkpoints = Checkpoints(job.folder, recipe.checkpoint)
        self.guard = Guard(recipe.guard)
        self.step = self._take_up()

    def _take_up(self) -> int:
        """The step to go on from, with the state that it had."""
        found = self.checkpoints.latest()
        if found is not None:
            self._load(found)
            return found
        if self.recipe.start:
            from .checkpoint import Checkpoints, found_at

            folder, step = found_at(self.recipe.start)
            Checkpoints(folder, self.recipe.checkpoint).load(step, self.trainer.model, None)
            self.trainer.optimizer.reload_model_params()
        if self.recipe.guard.on_spike == "rollback":
            self.save(0)
        return 0

    def _load(self, step: int) -> dict[str, Any]:
        state = self.checkpoints.load(step, self.trainer.model, self.trainer.optimizer)
        self.guard = Guard(self.recipe.guard, state["guard"])
        return state

    def save(self, step: int, wait: bool = False) -> None:
        state = {
            "step": step,
            "tokens": step * self.tokens_a_step,
            "guard": self.guard.state(),
            "model": self.recipe.model.model_dump(mode="json"),
            "parallel": self.recipe.parallel.model_dump(mode="json"),
            "precision": self.recipe.precision,
        }
        self.checkpoints.save(step, self.trainer.model, self.trainer.optimizer, state, wait)

    @property
    def cut(self) -> Any:
        from .batches import Cut

        place, batch = self.trainer.place, self.recipe.batch
        return Cut(batch.size, batch.micro, place.data_size, place.data)

    @property
    def tokens_a_step(self) -> int:
        return self.recipe.batch.size * self.recipe.batch.length

    def run(self) -> bool:
        """Trains to the end; False where a signal ended it before."""
        from .batches import Batches

        recipe, guard = self.recipe, self.recipe.guard
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(StopRequested())
            dog = stack.enter_context(
                Watchdog(Path(self.job.folder), self.seat.rank, guard.hang_seconds, guard.slow_seconds)
            )
            batches = stack.enter_context(Batches(self.data, self.objective.arrays, self.cut, recipe.seed))
            seen = stack.enter_context(self._seen()) if not self.seat.rank else None
            profiled = stack.enter_context(self._profiled())
            while self.step < self.job.steps:
                ended = self._step(batches, seen, dog)
                profiled()
                if _any(bool(stop)) and not ended:
                    self._save(seen, dog, wait=True)
                    if seen:
                        seen.event("stopped", self.step)
                    return False
            dog.beat(self.step, guard.slow_seconds)
            self.checkpoints.finish()
        return True

    def _step(self, batches: Any, seen: Seen | None, dog: Watchdog) -> bool:
        """One step; whether the run is complete with it."""
        start = time.perf_counter()
        data_step = self.guard.data_step(self.step)
        after = self.step + 1
        micro = batches.of_step(data_step, self.guard.data_step(after) if after < self.job.steps else None)
        waited = time.perf_counter() - start
        measured = self.trainer.gradients(self.step, micro)
        verdict = self.guard.decide(self.step, measured.loss, measured.grad_norm)
        learning_rate = rate(self.recipe.schedule, self.step, self.job.steps)
        if verdict.action == "go":
            self.trainer.update(learning_rate)
        else:
            self.trainer.skip()
        device.synchronize()
        took = time.perf_counter() - start
        if seen:
            line = {
                "step": after,
                "tokens": after * self.tokens_a_step,
                "loss": measured.loss,
                "lr": learning_rate,
                "grad_norm": measured.grad_norm,
                "tokens_per_second": self.tokens_a_step / took,
                "memory": device.peak_memory(),
                "data_seconds": waited,
                "step_seconds": took,
                "skipped": verdict.action != "go",
                "sources": {name: part.loss for name, part in measured.sources.items()},
                **measured.figures,
            }
            seen.step(line)
            if verdict.reason and verdict.action != "rollback":
                seen.event(verdict.action if verdict.action != "go" else "spike", after, reason=verdict.reason)
        return self._after(verdict, after, seen, dog)

    def _after(self, verdict: Verdict, after: int, seen: Seen | None, dog: Watchdog) -> bool:
        recipe = self.recipe
        if verdict.action == "stop":
            raise TilthError(f"training stopped at step {after}: {verdict.reason}")
        if verdict.action == "rollback":
            self._roll_back(verdict.reason, seen, dog)
            return False
        self.step = after
        done = after == self.job.steps
        if done or after % recipe.validation.every == 0:
            dog.beat(after, recipe.guard.slow_seconds)
            self._validate(seen)
        if done or (recipe.checkpoint.every and after % recipe.checkpoint.every == 0):
            self._save(seen, dog, wait=done)
        self.checkpoints.finish(poll=True)
        dog.beat(after)
        return done

    def _save(self, seen: Seen | None, dog: Watchdog, wait: bool) -> None:
        dog.beat(self.step, self.recipe.guard.slow_seconds)
        start = time.perf_counter()
        if self.checkpoints.latest() != self.step:
            self.save(self.step, wait)
        if seen:
            seen.event("checkpoint", self.step, seconds=round(time.perf_counter() - start, 3))

    def _roll_back(self, reason: str, seen: Seen | None, dog: Watchdog) -> None:
        """Back to the last checkpoint, over the data that led astray."""
        dog.beat(self.step, self.recipe.guard.slow_seconds)
        self.checkpoints.finish()
        to = self.checkpoints.latest()
        assert to is not None, "there is one of step 0"
        guard = self.guard
        state = self._load(to)
        window = guard.roll_back(state["guard"], to, self.step)
        self.guard = guard
        if seen:
            seen.resume(to)
            seen.event("rollback", to, reason=reason, spike=self.step + 1, passed_over=list(window))
        self.step = to

    def _validate(self, seen: Seen | None) -> None:
        held = self.data.held
        numbers = held.numbers(self.recipe.validation.most) if self.recipe.validation.share else []
        if not numbers:
            return
        from .batches import held_out

        batches = held_out(self.objective.arrays, held, numbers, self.cut, self.recipe.seed)
        measured = self.trainer.evaluate(batches)
        if seen:
            found = {
                name: {"loss": part.loss, "perplexity": math.exp(min(part.loss, 700)), "tokens": part.tokens}
                for name, part in measured.sources.items()
            }
            seen.validation(self.step, found)

    def _seen(self) -> Seen:
        world = self.recipe.parallel.world
        peak = device.matmul_rate(self.trainer.config.params_dtype) * world
        return Seen(
            Folder(self.job.folder),
            self.job.steps,
            self.job.steps * self.tokens_a_step,
            self.recipe.seen,
            step=self.step,
            about={**self.job.about, "device": device.name(), "ranks": world},
            flops_per_token=self.job.flops_per_token,
            peak_flops=peak,
            quiet=self.job.quiet,
        )

    @contextlib.contextmanager
    def _profiled(self) -> Iterator[Any]:
        from .profile import profiled

        with profiled(Folder(self.job.folder), None if self.seat.rank else self.recipe.seen.profile) as step:
            yield step


def _any(value: bool) -> bool:
    import torch

    return bool(parallel.agreed(torch.tensor([float(value)], device=device.here())).item())


def train(job: Job, seat: Seat) -> bool:
    """Takes this rank's part in a run; False where a signal ended it before its end."""
    parallel.start(job.recipe.parallel, seat)
    try:
        return Rank(job, seat).run()
    finally:
        parallel.stop()


def read(folder: str) -> Job:
    return Job.model_validate(orjson.loads(Folder(folder).read(JOB)))


def main() -> None:
    seat = surroundings()
    assert seat is not None, "a launcher says which rank this is"
    try:
        train(read(sys.argv[1]), seat)
    except TilthError as error:
        tell(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
