"""One rank of a training run, from the first step or the last checkpoint to the end; `python -m tilth.train.rank RUN`.

What is to be done stands in the run's folder, checked, before any rank starts (`run`). The ranks agree on everything
that decides what comes next: the checkpoint they go on from, the guard's verdict, whether a signal ends the run.
"""

import contextlib
import gc
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import BaseModel, ConfigDict

from tilth.errors import TilthError
from tilth.storage import Folder

from . import checkpoint, device, parallel, plan
from .guard import Guard, Verdict
from .launch import Seat, surroundings, tell
from .plan import Plan
from .prepare import source
from .recipe import TrainRecipe
from .schedule import rate
from .seen import Seen
from .watch import StopRequested, Watchdog

if TYPE_CHECKING:
    from .batches import Batches, Cut, Held, Share
    from .loop import Trainer

JOB = "job.json"


class Job(BaseModel):
    """A checked request: everything that a rank has to know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: TrainRecipe
    data: list[str]
    folder: str
    plan: dict[str, Any]
    stream: bool = False  # the data are Parquet, and tokenized as they are read
    tokenizer: str | None = None
    about: dict[str, Any]
    flops_per_token: float
    rows: list[int] = []
    quiet: bool = False

    def plan_steps(self) -> int:
        return Plan.load(self.plan).steps


class Rank:
    """What one process does of a run."""

    def __init__(self, job: Job, seat: Seat):
        from .checkpoint import Checkpoints

        self.job, self.recipe, self.seat = job, job.recipe, seat
        recipe = self.recipe
        self.objective = recipe.objective()
        self.plan = Plan.load(job.plan)
        self.rates = plan.course(recipe.staged(0), self.plan.stages, recipe.schedule)
        place = parallel.Place()
        self.data = source(
            Path(job.folder), self.plan, recipe, job.stream, job.data, job.tokenizer, place.data, place.data_size
        )
        self.batches: Batches | None = None
        self.held: Held | None = None
        self.trainer = self._trainer(0)
        self.checkpoints = Checkpoints(job.folder, recipe.checkpoint)
        self.guard = Guard(recipe.guard, reads=self.plan.reads)
        self.step = 0
        self.step = self._take_up()

    def _trainer(self, step: int) -> "Trainer":
        """The trainer of a step. In a stage that trains new rows alone it is another one than in a stage that trains
        all, and so are the optimizer's buffers."""
        from .loop import Objective, Trainer

        rows = self.job.rows if self._rows(step) == "new" else ()
        return Trainer(self.recipe, Objective(self.objective.arrays), self.data.sources, rows)

    def _rows(self, step: int) -> str:
        """Which rows a step trains: all, or the new ones."""
        if any(stage.rows == "new" for stage in self.plan.stages):
            return self.plan.stages[self.plan.stage_at(step)].rows
        return "new" if self.job.rows else "all"

    def _rebuild(self, step: int) -> None:
        del self.trainer
        gc.collect()  # it has cycles: without this both would be in memory
        self.trainer = self._trainer(step)

    def _take_up(self) -> int:
        """The step to go on from, with the state that it had."""
        found = self.checkpoints.latest()
        if found is not None:
            self._load(found)
            return found
        recipe = self.recipe
        if recipe.start:
            from .checkpoint import Checkpoints, found_at
            from .grown import growth

            folder, step = found_at(recipe.start)
            grown = growth(self.job.tokenizer, recipe.start, recipe.grow, recipe.model)
            start = Checkpoints(folder, recipe.checkpoint)
            start.load(step, self.trainer.model, self.trainer.optimizer, fresh=True, growth=grown)
        if recipe.guard.on_spike == "rollback":
            self.save(0)
        return 0

    def _load(self, step: int) -> dict[str, Any]:
        """Goes on from a checkpoint. One of a stage that trained other rows gives its weights alone."""
        rows = self._rows(step)
        before = checkpoint.read_state(self.job.folder, step).get("rows", rows)
        if before != rows or self._rows(self.step) != rows:
            self._rebuild(step)
        model, optimizer = self.trainer.model, self.trainer.optimizer
        state = self.checkpoints.load(step, model, optimizer, fresh=before != rows)
        if state.get("data"):
            self.data.load(state["data"])
        self.guard = Guard(self.recipe.guard, state["guard"], self.plan.reads)
        if before != rows:
            self.guard.anew()
        return state

    def save(self, step: int, wait: bool = False) -> None:
        state = {
            "step": step,
            "tokens": self.plan.tokens_before(step),
            "guard": self.guard.state(),
            "data": self._data_state(),
            "rows": self._rows(max(step - 1, 0)),
            "model": self.recipe.model.model_dump(mode="json"),
            "parallel": self.recipe.parallel.model_dump(mode="json"),
            "precision": self.recipe.precision,
        }
        self.checkpoints.save(step, self.trainer.model, self.trainer.optimizer, state, wait)

    def _data_state(self) -> dict[str, Any] | None:
        """Where the source stands before the next step: all ranks' lanes; None where steps do not build on others."""
        mine = self.batches.state if self.batches and self.batches.state else self.data.state()
        if mine is None:
            return None
        everyones = self.checkpoints.together.all(mine["lanes"])
        return {**mine, "lanes": {lane: cursors for lanes in everyones for lane, cursors in lanes.items()}}

    def cut(self, size: int, length: int) -> "Cut":
        """How a step's sequences fall to ranks and micro-batches: of shorter ones a micro-batch takes more."""
        from .batches import Cut

        place, micro = self.trainer.place, self.recipe.batch.micro
        more = micro * (self.plan.longest // length)
        return Cut(size, micro if size // place.data_size % more else more, place.data_size, place.data)

    def read(self, step: int) -> "Share":
        """What this rank reads in a step."""
        from .batches import Share

        at = self.plan.at(self.guard.data_step(step))
        segment = self.plan.segments[at.segment]
        cut = self.cut(segment.size, segment.model_length)
        seeds = [(self.recipe.seed, at.segment, at.step * segment.size + slot) for slot in cut.slots]
        return Share(self.data.read(at, cut.slots), seeds, cut.micro, self.data.state())

    def run(self) -> bool:
        """Trains to the end; False where a signal ended it before."""
        from .batches import Batches

        guard = self.recipe.guard
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(StopRequested())
            dog = stack.enter_context(
                Watchdog(Path(self.job.folder), self.seat.rank, guard.hang_seconds, guard.slow_seconds)
            )
            stack.enter_context(contextlib.closing(self.data))
            self.batches = stack.enter_context(Batches(self.read, self.objective.arrays))
            seen = stack.enter_context(self._seen()) if not self.seat.rank else None
            profiled = stack.enter_context(self._profiled())
            while self.step < self.plan.steps:
                ended = self._step(seen, dog)
                profiled()
                if _any(bool(stop)) and not ended:
                    self._save(seen, dog, wait=True)
                    if seen:
                        seen.event("stopped", self.step)
                    return False
            dog.beat(self.step, guard.slow_seconds)
            self.checkpoints.finish()
        return True

    def _step(self, seen: Seen | None, dog: Watchdog) -> bool:
        """One step; whether the run is complete with it."""
        start = time.perf_counter()
        after = self.step + 1
        seen_before, tokens = self.plan.tokens_before(self.step), self.plan.tokens_before(after)
        assert self.batches is not None
        micro = self.batches.of_step(self.step, after if after < self.plan.steps else None)
        waited = time.perf_counter() - start
        measured = self.trainer.gradients(self.step, micro)
        verdict = self.guard.decide(self.step, measured.loss, measured.grad_norm)
        learning_rate = rate(self.rates, tokens)
        if verdict.action == "go":
            self.trainer.update(learning_rate)
        else:
            self.trainer.skip()
        device.synchronize()
        took = time.perf_counter() - start
        if seen:
            line = {
                "step": after,
                "tokens": tokens,
                "loss": measured.loss,
                "lr": learning_rate,
                "grad_norm": measured.grad_norm,
                "tokens_per_second": (tokens - seen_before) / took,
                "memory": device.peak_memory(),
                "data_seconds": waited,
                "padding": self.batches.padding,
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
        done = after == self.plan.steps
        if done or after % recipe.validation.every == 0:
            dog.beat(after, recipe.guard.slow_seconds)
            self._validate(seen)
        if not done and self.plan.stage_at(after) != self.plan.stage_at(after - 1):
            self.guard.anew()
            if seen:
                seen.event("stage", after, name=self.plan.stages[self.plan.stage_at(after)].name)
        other = not done and self._rows(after) != self._rows(after - 1)
        if done or other or (recipe.checkpoint.every and after % recipe.checkpoint.every == 0):
            self._save(seen, dog, wait=done or other)
        if other:
            self._rebuild(after)
            self.checkpoints.load(after, self.trainer.model, self.trainer.optimizer, fresh=True)
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
        assert self.batches is not None
        self.batches.forget()
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
        if not self.recipe.validation.share:
            return
        if self.held is None:
            self.held = self.data.held_out(self.recipe.validation.most)
        held, numbers = self.held, self.held.numbers(self.recipe.validation.most)
        if not numbers:
            return
        from .batches import held_out

        plain = self.objective.model_copy(update={"infill": None}) if self.recipe.language.infill else self.objective
        batches = held_out(plain.arrays, held, numbers, self.cut(0, self.plan.longest), self.recipe.seed)
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
            self.plan.steps,
            self.plan.tokens,
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


def take_part(recipe: TrainRecipe, folder: str, seat: Seat) -> bool:
    """The same for a rank beside the first, which prepares the run before it joins the others."""
    parallel.start(recipe.parallel, seat)
    try:
        return Rank(read(folder), seat).run()
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
