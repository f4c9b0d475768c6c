"""Reading further than trained: ALiBi keeps its perplexity, learned positions do not (Press et al. 2022, figure 1).

    python benchmarks/alibi.py --data FOLDER [--steps 300] [--ways alibi learned rope]

FOLDER is the folder of real data (TILTH_DATA); the bytes of its English text are the tokens. Models of 1.3 million
parameters, alike but for their positions, are trained on sequences of 128 bytes and read the same held-out text in
windows of 128, 256 and 512 that do not overlap. Learned positions have rows for 512, of which training sees 128.
"""

import argparse
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from texts import texts

from tilth.train import launch, parallel
from tilth.train.data.shards import Sample
from tilth.train.parallel import ParallelOptions
from tilth.train.recipe import TrainRecipe
from tilth.train.schedule import ScheduleOptions, rate

TRAINED, READ = 128, (128, 256, 512)
BATCH = 32  # sequences in a step
HELD_OUT = 2**17  # bytes
SCHEDULE = ScheduleOptions(rate=2e-3, warmup=0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("TILTH_DATA"), help="default: TILTH_DATA")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--ways", nargs="+", default=["alibi", "learned", "rope"])
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("where is the text? name its folder with --data, or set TILTH_DATA")
    text = np.frombuffer("\n".join(texts(Path(arguments.data) / "text" / "en")).encode(), np.uint8).astype(np.int64)
    training, held_out = text[: -HELD_OUT - 1], text[-HELD_OUT - 1 :]
    with launch.alone() as seat:
        parallel.start(ParallelOptions(), seat)
        print(
            f"{'perplexity a byte':<18}" + "".join(f"{f'at {length}':>10}" for length in READ) + f"{'256 to 128':>12}"
        )
        for positions in arguments.ways:
            began = time.time()
            found = [math.exp(loss) for loss in losses(positions, training, held_out, arguments.steps)]
            row = "".join(f"{each:>10.3f}" for each in found)
            print(f"{positions:<18}{row}{found[1] / found[0] - 1:>+12.1%}   {time.time() - began:.0f} s", flush=True)
        parallel.stop()


def losses(positions: str, training: np.ndarray, held_out: np.ndarray, steps: int) -> list[float]:
    """Trains a model with these positions; its loss on the held-out text at each of READ."""
    from tilth.train.batches import on_device
    from tilth.train.loop import Objective, Trainer

    recipe = recipe_of(positions)
    objective = recipe.objective()
    trainer = Trainer(recipe, Objective(objective.arrays), ["text"])
    chance = np.random.default_rng(0)
    for step in range(steps):
        samples = [sample(training, at, TRAINED) for at in chance.integers(0, len(training) - TRAINED, BATCH)]
        trainer.gradients(step, [on_device(objective.arrays(samples))])
        trainer.update(rate(SCHEDULE, step, steps))
    found = []
    for length in READ:
        rows = [sample(held_out, at, length) for at in range(0, HELD_OUT, length)]
        many = BATCH * TRAINED // length
        batches = [on_device(objective.arrays(rows[at : at + many])) for at in range(0, len(rows), many)]
        found.append(trainer.evaluate(batches).loss)
    return found


def recipe_of(positions: str) -> TrainRecipe:
    model: dict[str, Any] = {
        "layers": 6,
        "hidden": 128,
        "heads": 4,
        "ffn": 344,
        "vocab_size": 256,
        "max_length": max(READ),
        "positions": positions,
        "tied": True,
    }
    batch = {"size": BATCH, "micro": BATCH, "length": TRAINED}
    return TrainRecipe.model_validate({"model": model, "batch": batch, "precision": "fp32", "matmul": "high"})


def sample(tokens: np.ndarray, at: int, length: int) -> Sample:
    """One document of so many tokens, and the one behind it."""
    return Sample(tokens[at : at + length + 1], np.ones(length + 1, np.int32), 0)


if __name__ == "__main__":
    main()
