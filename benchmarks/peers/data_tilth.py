"""Batches as a rank of `tilth train run` reads them, out of token shards or of Parquet; prints one JSON line.

--data are token shards, or Parquet files, which --workers processes tokenize as they are read. --run is a folder for
what is prepared; where it is there already, of the same data, it is taken. `index` is the seconds of that: data
found and verified, pools and plan made.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reading import arguments, timed


def main() -> None:
    given = arguments(
        str(__doc__),
        data={"nargs": "+", "required": True},
        run={"type": Path, "required": True},
        tokenizer={"help": "its directory; the stream needs one"},
        vocab_size={"type": int, "required": True},
        resets={"action": "store_true", "help": "positions and attention start anew at each document"},
    )
    from tilth.tokenize.tokenizer import load
    from tilth.train.batches import Batches, Cut, Share
    from tilth.train.outline import outline
    from tilth.train.prepare import prepare, settle, source
    from tilth.train.recipe import TrainRecipe

    recipe = TrainRecipe.model_validate(
        {
            "model": {"preset": "tiny", "vocab_size": given.vocab_size, "max_length": given.length},
            "batch": {"size": given.size, "micro": given.size, "length": given.length},
            "steps": given.start + 1 + given.warm + given.batches,
            "language": {"reset": given.resets},
            "stream": {"workers": given.workers},
        }
    )
    objective, cut = recipe.objective(), Cut(given.size, given.size, 1, 0)
    told: dict[str, Any] = {}

    def opened() -> Iterator[dict[str, Any]]:
        begun = time.perf_counter()
        given.run.mkdir(parents=True, exist_ok=True)
        tokenizer = load(given.tokenizer) if given.tokenizer else None
        material = prepare(recipe, tokenizer, given.data, [], given.run)
        settle(given.run)
        made = outline(recipe, material, "data", 1e6)
        stream = recipe.stream.model_copy(update={"lanes": made.lanes})
        told["index"] = round(time.perf_counter() - begun, 4)
        own, plan = recipe.model_copy(update={"stream": stream}), made.plan
        samples: Any = source(given.run, plan, own, material.stream, given.data, given.tokenizer, 0, 1)
        if material.stream:
            stack.callback(samples.close)

        def read(step: int) -> Share:
            at = plan.at(step)
            seeds = [(recipe.seed, at.segment, at.step * given.size + slot) for slot in cut.slots]
            return Share(samples.read(at, cut.slots), seeds, cut.micro, samples.state())

        batches = stack.enter_context(Batches(read, objective.arrays))
        for step in range(given.start, plan.steps):
            yield from batches.of_step(step, step + 1 if step + 1 < plan.steps else None)

    with contextlib.ExitStack() as stack:
        timed(opened, given, told)


if __name__ == "__main__":
    main()
