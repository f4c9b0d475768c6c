"""A training step as `tilth train run` takes it, by `tilth.train.loop.Trainer`; prints one JSON line.

--tensor, --pipeline and --data-parallel start so many processes; the line is then rank 0's.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from step import BETAS, CLIP, EPS, LEARNING_RATE, WEIGHT_DECAY, Shape, arguments, batches, shape_of, timed

from tilth.train import device, launch, parallel
from tilth.train.data.shards import Sample
from tilth.train.parallel import ParallelOptions
from tilth.train.recipe import TrainRecipe


def recipe_of(given: argparse.Namespace, shape: Shape) -> TrainRecipe:
    return TrainRecipe.model_validate(
        {
            "model": {
                "layers": shape.layers,
                "hidden": shape.hidden,
                "heads": shape.heads,
                "kv_heads": shape.kv_heads,
                "ffn": shape.ffn,
                "vocab_size": shape.vocab,
                "max_length": shape.length,
                "norm_eps": EPS,
            },
            "batch": {"size": shape.micro * shape.accumulate, "micro": shape.micro, "length": shape.length},
            "precision": given.precision,
            "matmul": given.matmul,
            "recompute": given.recompute,
            "optimizer": {"weight_decay": WEIGHT_DECAY, "beta1": BETAS[0], "beta2": BETAS[1], "clip": CLIP},
            "parallel": {"tensor": given.tensor, "pipeline": given.pipeline, "data": given.data_parallel},
        }
    )


def main() -> None:
    more: dict[str, Any] = {name: {"type": int, "default": 1} for name in ("tensor", "pipeline", "data_parallel")}
    given = arguments(str(__doc__), **more, recompute={"default": "none"})
    recipe = recipe_of(given, shape_of(given))
    seat, world = launch.surroundings(), recipe.parallel.world
    if seat is not None:
        measured(given, recipe, seat)
    elif world == 1:
        with launch.alone() as seat:
            measured(given, recipe, seat)
    else:
        with tempfile.TemporaryDirectory() as folder:
            launch.run_local([sys.executable, *sys.argv], world, Path(folder))


def measured(given: argparse.Namespace, recipe: TrainRecipe, seat: launch.Seat) -> None:
    """Takes the steps; rank 0 prints, the others' lines go to logs that nobody reads."""
    shape = shape_of(given)
    parallel.start(recipe.parallel, seat)
    from tilth.train.batches import on_device
    from tilth.train.loop import Objective, Trainer

    trainer = Trainer(recipe, Objective(recipe.objective().arrays), ["random"])
    millions = sum(weight.numel() for chunk in trainer.chunks for weight in chunk.parameters()) / 1e6
    ones = np.ones(shape.length + 1, np.int32)
    made = [recipe.objective().arrays([Sample(np.asarray(row), ones, 0) for row in rows]) for rows in batches(shape)]
    share = len(made) // recipe.parallel.data
    mine = made[trainer.place.data * share : (trainer.place.data + 1) * share]
    count = 0

    def step() -> float:
        nonlocal count
        found = trainer.gradients(count, [on_device(arrays) for arrays in mine])
        trainer.update(LEARNING_RATE)
        device.synchronize()
        count += 1
        return found.loss

    told = {"millions": round(millions, 1), "precision": given.precision, "matmul": given.matmul}
    timed(step, given, shape.tokens, **told, parallel=_name(recipe.parallel))
    parallel.stop()


def _name(options: ParallelOptions) -> str:
    return f"tp{options.tensor} pp{options.pipeline} dp{options.data}"


if __name__ == "__main__":
    main()
