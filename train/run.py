"""A training run: what is asked for is checked whole, with the numbers, before any process starts; then the ranks run.

The request's identity (model, data, objective, optimizer, schedule, seed) stands in `run.json`; what may change from
one start to the next (parallel sizes, micro-batches, what is shown) stands in `job.json`, which the ranks read.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tilth import rundir
from tilth.errors import InputError, UsageError
from tilth.storage import Folder

from ..tokenize.tokenizer import Tokenizer, absolute, load
from . import checkpoint, grown, launch, optimizer, parallel, plan_report, rows, seen, sizes
from .model.options import ModelOptions, presets
from .outline import outline, sketch
from .prepare import beside, prepare, settle
from .rank import JOB, Job, take_part, train
from .recipe import TrainRecipe

COMMAND = "train run"
STATS = "stats.json"
PLAN = "plan.html"
ADVICE = "choose another --output, or --fresh to start over"
# parts of a recipe that do not decide what is learned
FREE = ("parallel", "recompute", "checkpoint", "guard", "seen", "verify")


class Launch(NamedTuple):
    """How the ranks are started: here, or on the Ray cluster at `ray`."""

    ray: str | None = None
    restarts: int = 3  # on Ray: how often a lost worker's group is started anew


def run(
    data: Sequence[str],
    tokenizer: str | None,
    output: Folder,
    name: str,
    recipe: TrainRecipe,
    how: Launch,
    quiet: bool = False,
    fresh: bool = False,
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains the recipe's model on token shards or Parquet, from the last checkpoint in `output` if there is one.

    Returns what `stats.json` holds. Raises UsageError, InputError, DirectoryConflict before anything is started.
    """
    if not output.local:
        raise UsageError(f"{output.url}: a training run is written to a local or shared folder, not to a URL")
    rundir.refuse_foreign(output)
    seat = None if how.ray is not None else launch.surroundings()
    if seat is not None and seat.rank:
        take_part(recipe, output.url, seat)
        return {}
    with output.lock():
        try:
            job, identity, drawing = prepared(data, labels, tokenizer, output, recipe, name, quiet)
            if fresh:
                rundir.start_over(output, COMMAND)
            rundir.claim(output, COMMAND, identity, name, ADVICE)
            settle(Path(output.url))
        finally:
            shutil.rmtree(beside(Path(output.url)), ignore_errors=True)
        latest = max(checkpoint.steps(output.url), default=None)
        if latest == drawing["steps"] and output.exists(STATS) and seat is None:  # other ranks would wait for this one
            return orjson.loads(output.read(STATS))
        output.write(JOB, orjson.dumps(job.model_dump(mode="json"), option=orjson.OPT_INDENT_2))
        output.write(PLAN, plan_report.render_plan(drawing).encode("utf-8", "replace"))
        if not quiet:
            print(plan_report.plan_text(drawing), file=sys.stderr)
        ended = started(job, seat, how)
        return finished(job, output, ended)


def planned(
    recipe: TrainRecipe, data: Sequence[str], labels: Sequence[str], place: str | None, name: str
) -> dict[str, Any] | None:
    """The plan of a recipe as it is drawn; without data, as far as it is known then: None where they would say how long
    the training is."""
    tokenizer = load(place) if place else None
    if not data:
        model = recipe.planned() if tokenizer is None else fitted(recipe, tokenizer).model
        return sketch(recipe, name, sizes.parameters(model)["total"])
    recipe = fitted(recipe, tokenizer)
    found = prepare(recipe, tokenizer, data, labels, None)
    return outline(recipe, found, name, sizes.parameters(recipe.model)["total"]).drawing


def started(job: Job, seat: launch.Seat | None, how: Launch) -> bool:
    """Runs the ranks; False where a signal ended them before the end."""
    world = job.recipe.parallel.world
    if how.ray is not None:
        from .on_ray import run_on_ray

        run_on_ray(["-m", "tilth.train.rank", job.folder], world, how.ray, Path(job.folder), how.restarts)
    elif seat is not None:
        return train(job, seat)
    elif world == 1:
        with launch.alone() as seat:
            return train(job, seat)
    else:
        launch.run_local([sys.executable, "-m", "tilth.train.rank", job.folder], world, Path(job.folder))
    return max(checkpoint.steps(job.folder), default=0) == job.plan_steps()


def finished(job: Job, output: Folder, complete: bool) -> dict[str, Any]:
    """The run's last word: its numbers in `stats.json`, its curves in `report.html`."""
    from .report import final, write_report

    curves, held_out = seen.curves(output), seen.validations(output)
    stats = {
        "complete": complete,
        "steps": max(checkpoint.steps(output.url), default=0),
        "of": job.plan_steps(),
        **final(curves, held_out),
        "about": job.about,
    }
    output.write(STATS, orjson.dumps(stats, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
    write_report(output)
    return stats


def prepared(
    data: Sequence[str],
    labels: Sequence[str],
    place: str | None,
    output: Folder,
    recipe: TrainRecipe,
    name: str,
    quiet: bool,
) -> tuple[Job, dict[str, Any], dict[str, Any]]:
    """The checked job, what tells this run from others, and its plan as it is drawn."""
    tokenizer = load(place) if place else None
    recipe = fitted(recipe, tokenizer)
    model, length, decoder = recipe.model, recipe.lengths()[0], recipe.decoder_length()
    parallel.fit(model, recipe.parallel, length, decoder)
    chosen_rows = _rows(recipe, model, place)
    optimizer.fit(recipe.optimizer, recipe.parallel, new_rows_only=bool(chosen_rows))
    if recipe.start:
        grown.growth(place, recipe.start, recipe.grow, model)
    counts = sizes.parameters(model)
    found = prepare(recipe, tokenizer, data, labels, Path(output.url))
    made = outline(recipe, found, name, counts["total"])
    recipe = recipe.model_copy(update={"stream": recipe.stream.model_copy(update={"lanes": made.lanes})})
    seen.check(recipe.seen, made.plan.steps)
    about = {
        "model": model.preset or model.family,
        "parameters": counts["total"],
        "data": ", ".join(data),
        "tokens in the data": found.tokens,
        "passes over it": round(made.plan.tokens / found.tokens, 3),
    }
    job = Job(
        recipe=recipe, data=[absolute(each) for each in data], folder=output.url, plan=made.plan.about(),
        stream=found.stream, tokenizer=absolute(place) if place else None, about=about,
        flops_per_token=sizes.flops_per_token(model, length, decoder), rows=chosen_rows, quiet=quiet,
    )  # fmt: skip
    left_out = {**dict.fromkeys((*FREE, "batch", "description"), True), "stream": {"workers"} if found.stream else True}
    chosen = recipe.model_dump(mode="json", exclude=left_out)
    identity = {
        "recipe": {**chosen, "batch": {"size": recipe.batch.size, "length": recipe.batch.length}},
        "steps": made.plan.steps,
        "data": found.key,
        "tokenizer": tokenizer.digest if tokenizer else None,
    }
    return job, identity, made.drawing


def fitted(recipe: TrainRecipe, tokenizer: Tokenizer | None) -> TrainRecipe:
    """The recipe with the tokenizer's size and special tokens filled in. A preset's vocabulary gives way to it."""
    model = recipe.model
    if tokenizer is None:
        if model.vocab_size is None:
            raise UsageError(
                "how large is the vocabulary? name the tokenizer with --tokenizer, or set model.vocab_size"
            )
        if model.family != "gpt":
            raise UsageError(f"{model.family} needs the tokenizer's special tokens; name it with --tokenizer")
        if recipe.language.infill:
            recipe.language.infill.ids()
        return recipe
    of_preset = model.preset and model.vocab_size == presets()[model.preset]["model"].get("vocab_size")
    if model.vocab_size is None or of_preset:
        extra = 0 if model.family != "t5" else 100  # sentinels, where the tokenizer has none
        model = model.model_copy(update={"vocab_size": tokenizer.size + extra})
    elif model.vocab_size < tokenizer.size:
        raise UsageError(
            f"{tokenizer.name} has {tokenizer.size} tokens, the model's embedding model.vocab_size={model.vocab_size}; "
            "leave model.vocab_size away"
        )
    assert model.vocab_size is not None
    part = {"gpt": "language", "bert": "masked", "t5": "spans"}[model.family]
    return recipe.model_copy(update={"model": model, part: recipe.objective().fitted(tokenizer, model.vocab_size)})


def _rows(recipe: TrainRecipe, model: ModelOptions, place: str | None) -> list[int]:
    """The rows that alone are trained, throughout or in some stages."""
    staged = [name for name, stage in recipe.stages.items() if stage.rows == "new"]
    file = recipe.new_rows or (str(Path(place, "expansion.json")) if place and staged else None)
    if file is None:
        if staged:
            raise UsageError(f"stages.{staged[0]}.rows: which rows are new? name the expanded tokenizer, or new_rows")
        return []
    if staged and not recipe.new_rows and not Path(file).exists():
        raise UsageError(f"stages.{staged[0]}.rows: {place} is no expanded tokenizer (no {Path(file).name})")
    found = rows.read_rows(file)
    if max(found) >= model.rows():
        raise InputError(f"{file}: names row {max(found)}, the model's embedding has {model.rows()}")
    return found
