"""A training run: what is asked for is checked whole, with the numbers, before any process starts; then the ranks run.

The request's identity (model, data, objective, optimizer, schedule, seed) stands in `run.json`; what may change from
one start to the next (parallel sizes, micro-batches, what is shown) stands in `job.json`, which the ranks read.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tilth import rundir
from tilth.errors import InputError, UsageError
from tilth.storage import Folder

from ..tokenize.tokenizer import Tokenizer, load
from . import checkpoint, launch, optimizer, parallel, rows, seen, sizes
from .data.shards import TokenShards
from .model.options import ModelOptions, presets
from .rank import JOB, Job, train
from .recipe import TrainRecipe

COMMAND = "train run"
STATS = "stats.json"
ADVICE = "choose another --output, or --fresh to start over"
FREE = ("parallel", "recompute", "checkpoint", "guard", "seen")  # parts of a recipe that do not decide what is learned


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
) -> dict[str, Any]:
    """Trains the recipe's model on token shards, from the last checkpoint in `output` if there is one.

    Returns what `stats.json` holds. Raises UsageError, InputError, DirectoryConflict before anything is started.
    """
    if not output.local:
        raise UsageError(f"{output.url}: a training run is written to a local or shared folder, not to a URL")
    rundir.refuse_foreign(output)
    job, identity = prepared(data, tokenizer, output, recipe, quiet)
    seat = None if how.ray is not None else launch.surroundings()
    if seat is not None and seat.rank:
        if output.exists(rundir.MANIFEST) and not fresh:
            rundir.claim(output, COMMAND, identity, name, ADVICE)
        train(job, seat)
        return {}
    with output.lock():
        if fresh:
            rundir.start_over(output, COMMAND)
        rundir.claim(output, COMMAND, identity, name, ADVICE)
        latest = max(checkpoint.steps(output.url), default=None)
        if latest == job.steps and output.exists(STATS) and seat is None:  # other ranks would wait for this one
            return orjson.loads(output.read(STATS))
        output.write(JOB, orjson.dumps(job.model_dump(mode="json"), option=orjson.OPT_INDENT_2))
        ended = started(job, seat, how)
        return finished(job, output, ended)


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
    return max(checkpoint.steps(job.folder), default=0) == job.steps


def finished(job: Job, output: Folder, complete: bool) -> dict[str, Any]:
    """The run's last word: its numbers in `stats.json`, its curves in `report.html`."""
    from .report import final, write_report

    curves, held_out = seen.curves(output), seen.validations(output)
    stats = {
        "complete": complete,
        "steps": max(checkpoint.steps(output.url), default=0),
        "of": job.steps,
        **final(curves, held_out),
        "about": job.about,
    }
    output.write(STATS, orjson.dumps(stats, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
    write_report(output)
    return stats


def prepared(
    data: Sequence[str], place: str | None, output: Folder, recipe: TrainRecipe, quiet: bool
) -> tuple[Job, dict[str, Any]]:
    """The checked job, and what tells this run from others."""
    tokenizer = load(place) if place else None
    recipe = fitted(recipe, tokenizer)
    model, batch = recipe.model, recipe.batch
    objective = recipe.objective()
    shards = TokenShards(data, objective.length(batch.length), recipe.validation.share, recipe.seed)
    if tokenizer and shards.digest and shards.digest != tokenizer.digest:
        raise InputError(f"the shards were encoded by {shards.tokenizer}, another tokenizer than {place}")
    assert model.vocab_size is not None
    shards.check(model.vocab_size)
    steps = recipe.step_count(len(shards))
    decoder = recipe.decoder_length()
    parallel.fit(model, recipe.parallel, batch.length, decoder)
    optimizer.fit(recipe.optimizer, recipe.parallel, new_rows_only=bool(recipe.new_rows))
    seen.check(recipe.seen, steps)
    chosen_rows = _rows(recipe, model)
    if recipe.start:
        checkpoint.found_at(recipe.start)
    counts = sizes.parameters(model)
    about = {
        "model": model.preset or model.family,
        "parameters": counts["total"],
        "data": ", ".join(data),
        "tokens in the data": shards.tokens,
        "passes over it": round(steps * batch.size / len(shards), 3),
    }
    flops = sizes.flops_per_token(model, batch.length, decoder)
    job = Job(
        recipe=recipe, data=[str(Path(each).absolute()) for each in data], folder=output.url, steps=steps,
        about=about, flops_per_token=flops, rows=chosen_rows, quiet=quiet,
    )  # fmt: skip
    chosen = recipe.model_dump(mode="json", exclude={*FREE, "batch", "description"})
    identity = {
        "recipe": {**chosen, "batch": {"size": batch.size, "length": batch.length}},
        "steps": steps,
        "data": shards.fingerprint,
        "tokenizer": tokenizer.digest if tokenizer else None,
    }
    return job, identity


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


def _rows(recipe: TrainRecipe, model: ModelOptions) -> list[int]:
    """The rows that alone are trained, if any."""
    if not recipe.new_rows:
        return []
    found = rows.read_rows(recipe.new_rows)
    if max(found) >= model.rows():
        raise InputError(f"{recipe.new_rows}: names row {max(found)}, the model's embedding has {model.rows()}")
    return found
