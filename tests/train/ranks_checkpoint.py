"""What ranks do in the tests of checkpoints: `work` for `ranks.spawn`, and a process that saves until it is killed."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ranks import Drawn, reading, regroup

from tilth.errors import TilthError
from tilth.train.checkpoint import CheckpointOptions

VOCAB, LENGTH, SIZE = 200, 32, 8
MODEL = {
    "layers": 4, "hidden": 64, "heads": 8, "kv_heads": 4, "ffn": 128, "vocab_size": VOCAB, "max_length": LENGTH,
    "vocab_multiple": 128,
}  # fmt: skip
EXPERTS = {**MODEL, "experts": {"number": 4}}
TIED = {**MODEL, "tied": True, "bias": True, "norm": "layer", "positions": "learned", "activation": "gelu"}
TINY = {**MODEL, "layers": 2}  # 1.3 MB with its optimizer


class Setting(NamedTuple):
    """A training run for tests: the way that it is split, and what makes it another."""

    parallel: Mapping[str, Any]
    precision: str = "fp32"
    optimizer: str = "adamw"
    model: Mapping[str, Any] = MODEL


class Training:
    """The real trainer on drawn samples, with one process group's parallel sizes at a time."""

    def __init__(self, setting: Setting):
        from tilth.train.batches import Cut
        from tilth.train.loop import Objective, Trainer
        from tilth.train.objective.language import LanguageModel
        from tilth.train.recipe import TrainRecipe

        recipe = TrainRecipe.model_validate(
            {
                "model": setting.model,
                "parallel": setting.parallel,
                "precision": setting.precision,
                "optimizer": {"name": setting.optimizer},
                "batch": {"size": SIZE, "micro": 2, "length": LENGTH},
            }
        )
        regroup(recipe.parallel)
        self.objective = LanguageModel()
        self.trainer = Trainer(recipe, Objective(self.objective.arrays), Drawn.sources)
        self.cut = Cut(SIZE, 2, self.trainer.place.data_size, self.trainer.place.data)
        self.model, self.optimizer = self.trainer.model, self.trainer.optimizer

    def run(self, first: int, end: int) -> list[float]:
        """The losses of steps first..end."""
        from tilth.train.batches import Batches

        losses = []
        with Batches(reading(Drawn(VOCAB - 20, LENGTH), self.cut), self.objective.arrays) as batches:
            for step in range(first, end):
                measured = self.trainer.gradients(step, batches.of_step(step))
                losses.append(measured.loss)
                if measured.grad_norm is None:  # the loss scaler of fp16 is still looking for its scale
                    self.trainer.skip()
                else:
                    self.trainer.update(1e-2)
        return losses

    def tensors(self) -> list[torch.Tensor]:
        """This rank's parts of the model and its optimizer, in order, with the optimizer's counts."""
        from tilth.train.sharded import counts, tensors

        found = tensors(self.model, self.optimizer)
        known = counts(self.optimizer)
        numbers = [known["numbers"], *known["scalers"]]
        kept = [torch.as_tensor(each[name]) for each in numbers for name in sorted(each)]
        return [part.data.clone() for key in sorted(found) for part in found[key]] + kept  # pyright: ignore[reportOptionalMemberAccess]

    def checkpoints(self, folder: str, **options: Any):
        from tilth.train.checkpoint import Checkpoints

        return Checkpoints(folder, CheckpointOptions(**options))

    def save(self, folder: str, step: int) -> None:
        self.checkpoints(folder).save(step, self.model, self.optimizer, {"step": step})

    def load(self, folder: str, step: int) -> "Training":
        assert self.checkpoints(folder).load(step, self.model, self.optimizer) == {"step": step}
        return self


def work(case: tuple[str, Any]) -> Any:
    """One case by the name of its function."""
    return globals()[case[0]](*case[1:])


def everywhere(value: bool) -> bool:
    import torch.distributed as dist

    flag = torch.tensor(float(value))
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag)


def same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    """Whether all are equal bit for bit, on all ranks."""
    return everywhere(len(some) == len(others) and all(map(torch.equal, some, others)))


def refusal(work: Any) -> str:
    """The error that `work` raises, on every rank alike."""
    import torch.distributed as dist

    try:
        work()
    except TilthError as error:
        told = f"{type(error).__name__}: {error}"
    else:
        told = "nothing was raised"
    lines: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(lines, told)
    return lines[0] if len(set(lines)) == 1 else f"ranks differ: {lines}"


def resumed(folder: str, setting: Setting) -> tuple[list[float], list[float], bool, bool]:
    """Six steps at a stretch, and six with a stop after the third; whether what is trained is the same bits at three
    and at six."""
    straight = Training(setting)
    losses = straight.run(0, 6)
    stopped = Training(setting)
    before = stopped.run(0, 3)
    stopped.save(folder, 3)
    again = Training(setting).load(folder, 3)
    at_three = same(stopped.tensors(), again.tensors())
    return losses, before + again.run(3, 6), at_three, same(straight.tensors(), again.tensors())


def resharded(folder: str, settings: list[Setting]) -> list[tuple[list[float], bool]]:
    """Each setting loads what the one before saved, saves it again and trains on: the losses, and whether the two
    checkpoints hold the same."""
    first = Training(settings[0])
    first.run(0, 3)
    first.save(f"{folder}/0", 3)
    expected = stored(f"{folder}/0", 3)
    results = [(first.run(3, 6), True)]
    for number, setting in enumerate(settings[1:], start=1):
        training = Training(setting).load(f"{folder}/{number - 1}", 3)
        training.save(f"{folder}/{number}", 3)
        found = stored(f"{folder}/{number}", 3)
        equal = found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)
        results.append((training.run(3, 6), everywhere(equal)))
    return results


def stored(folder: str, step: int) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, whole, as Megatron-core reads them; and the optimizer's counts."""
    from megatron.core.dist_checkpointing import load_plain_tensors

    found = load_plain_tensors(f"{folder}/checkpoints/step-{step:08d}")
    numbers = found.pop("optimizer")["numbers"]
    return {**found, **{f"optimizer.{name}": torch.tensor(value) for name, value in numbers.items()}}


def in_another_precision(folder: str) -> tuple[bool, bool, bool]:
    """From bf16 to float32 and back: whether float32 weights stay the same, and the bf16 ones are their rounding."""
    half = Training(Setting({"data": 2, "shard_optimizer": True}, "bf16"))
    half.run(0, 2)
    half.save(f"{folder}/half", 2)
    full = Training(Setting({"tensor": 2})).load(f"{folder}/half", 2)
    full.save(f"{folder}/full", 2)
    there, then = stored(f"{folder}/half", 2), stored(f"{folder}/full", 2)
    weights = [key for key in then if not key.startswith("optimizer.")]
    copies = all(torch.equal(then[key], there[f"optimizer.state.fp32_param.{key}"]) for key in weights)
    back = Training(Setting({"data": 2}, "bf16")).load(f"{folder}/full", 2)
    back.save(f"{folder}/back", 2)
    again = stored(f"{folder}/back", 2)
    rounded = all(torch.equal(again[key], then[key].bfloat16()) for key in weights)
    return (
        everywhere(copies),
        everywhere(rounded),
        everywhere(all(torch.equal(again[key], there[key]) for key in there)),
    )


def read_by_megatron(folder: str) -> bool:
    """Whether Megatron-core's own loading, with its defaults, gives the saved weights at another split."""
    from megatron.core import dist_checkpointing

    saved = Training(Setting({"tensor": 2, "sequence": True}))
    saved.run(0, 1)
    saved.save(folder, 1)
    expected = Training(Setting({"pipeline": 2})).load(folder, 1).trainer.chunks[0].state_dict()
    fresh = Training(Setting({"pipeline": 2})).trainer.chunks[0]
    read: Any = dist_checkpointing.load({"model": fresh.sharded_state_dict()}, f"{folder}/checkpoints/step-00000001")
    fresh.load_state_dict(read["model"])
    found = fresh.state_dict()
    keys = [key for key, value in expected.items() if isinstance(value, torch.Tensor)]
    return everywhere(len(keys) > 5 and all(torch.equal(expected[key], found[key]) for key in keys))


def of_the_model_alone(folder: str) -> tuple[bool, bool]:
    """Whether the weights are those that were saved, and the optimizer is as new."""
    saved = Training(Setting({"tensor": 2}, "bf16"))
    saved.run(0, 2)
    saved.save(folder, 2)
    fresh = Training(Setting({"tensor": 2}, "bf16"))
    fresh.checkpoints(folder).load(2, fresh.model)
    weights = [list(each.trainer.chunks[0].parameters()) for each in (saved, fresh)]
    equal = same(*([each.detach() for each in some] for some in weights))
    return equal, not any(each.optimizer.state for each in fresh.optimizer.chained_optimizers)


def asynchronous(folder: str) -> tuple[list[int], list[int], bool]:
    """Training goes on while a checkpoint is written: what is committed at once and in the end, and whether it holds
    what was there at the time."""
    training = Training(Setting({"data": 2, "shard_optimizer": True}))
    training.run(0, 2)
    then = training.tensors()
    checkpoints = training.checkpoints(folder, asynchronous=True)
    from tilth.train.checkpoint import steps

    checkpoints.save(2, training.model, training.optimizer, {"step": 2})
    at_once = steps(folder)
    for step in range(2, 5):
        training.run(step, step + 1)
        checkpoints.finish(poll=True)
    checkpoints.save(5, training.model, training.optimizer, {"step": 5}, wait=True)
    again = Training(Setting({"data": 2, "shard_optimizer": True})).load(folder, 2)
    return at_once, steps(folder), same(then, again.tensors())


def kept(folder: str) -> list[list[int]]:
    """The steps that are there after each save."""
    from tilth.train.checkpoint import steps

    training = Training(Setting({"data": 2}, optimizer="sgd"))
    checkpoints = training.checkpoints(folder, keep_last=2, keep_every=3)
    there = []
    for step in range(1, 7):
        checkpoints.save(step, training.model, training.optimizer, {})
        there.append(steps(folder))
    return there


def refusals(folder: str) -> dict[str, str]:
    """What is said of checkpoints that do not fit."""
    training = Training(Setting({"tensor": 2}))
    training.save(folder, 1)
    others = {
        "vocabulary": Setting({"tensor": 2}, model={**MODEL, "vocab_size": 300}),
        "layers": Setting({"pipeline": 2}, model={**MODEL, "layers": 2}),
        "biases": Setting({"tensor": 2}, model={**MODEL, "bias": True}),
        "optimizer": Setting({"data": 2}, optimizer="sgd"),
    }
    told = {}
    for name, other in others.items():
        fresh = Training(other)
        before = fresh.tensors()
        told[name] = refusal(lambda fresh=fresh: fresh.load(folder, 1))
        assert same(before, fresh.tensors()), "a refused checkpoint leaves the model as it was"
    told["step"] = refusal(lambda: training.load(folder, 7))
    return told


def damaged(folder: str) -> dict[str, str]:
    """What is said of a checkpoint with a bit flipped, a file cut short, a file gone."""
    import torch.distributed as dist

    training = Training(Setting({"data": 2, "shard_optimizer": True}))
    for step in (1, 2):
        training.save(folder, step)
    path = Path(folder, "checkpoints", "step-00000002")
    kept = path.with_name("kept")

    def flip() -> None:
        data = bytearray((path / "__1_0.distcp").read_bytes())
        data[1000] ^= 1
        (path / "__1_0.distcp").write_bytes(data)

    told = {}
    for name, harm in {
        "flipped": flip,
        "cut": lambda: os.truncate(path / "__0_0.distcp", 5000),
        "gone": (path / "common.pt").unlink,
        "no manifest": (path / "manifest.json").unlink,
    }.items():
        if dist.get_rank() == 0:
            shutil.copytree(path, kept)
            harm()
        dist.barrier()
        told[name] = refusal(lambda: training.load(folder, 2))
        if dist.get_rank() == 0:
            shutil.rmtree(path)
            kept.rename(path)
        dist.barrier()
    training.load(folder, 2)
    return told


def disk_full(folder: str) -> tuple[str, list[int], list[str], str]:
    """On a disk with room for one checkpoint: what the second says, what is there, whether the first loads; and what an
    asynchronous one says."""
    from tilth.train.checkpoint import steps

    training = Training(Setting({"data": 2, "shard_optimizer": True}, model=TINY))
    training.save(folder, 1)
    told = refusal(lambda: training.save(folder, 2))
    later = training.checkpoints(folder, asynchronous=True)
    later.save(3, training.model, training.optimizer, {})
    told_later = refusal(later.finish)
    training.load(folder, 1)
    return told, steps(folder), sorted(os.listdir(Path(folder, "checkpoints"))), told_later


def save_on_and_on(folder: str, first: int) -> None:
    """Saves one checkpoint after the other, in a process of its own, until it is killed."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting{first}", rank=0, world_size=1)
    training = Training(Setting({}))
    checkpoints = training.checkpoints(folder, keep_last=2, asynchronous=first % 2 == 1)
    latest = checkpoints.latest() or 0
    if latest:
        checkpoints.load(latest, training.model, training.optimizer)
    for step in range(latest + 1, 10**6):
        checkpoints.save(step, training.model, training.optimizer, {"step": step})


def killed(folder: str, times: int) -> None:
    """Kills a process that saves, at other moments each time, and prints what stands then: the steps, and what is wrong
    with any of them."""
    import random

    from tilth.train import device
    from tilth.train.checkpoint import read_state, steps, verify

    device.enter()
    import tilth.train.loop  # noqa: F401 # once, for all that are forked

    draw = random.Random(0)
    for number in range(times):
        child = os.fork()
        if child == 0:
            save_on_and_on(folder, number)
        before = steps(folder)
        while steps(folder) == before:  # it has begun
            time.sleep(0.005)
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(draw.uniform(0, 0.2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        there = steps(folder)
        wrong = [line for step in there for line in verify(folder, step)]
        wrong += [f"state of {step}" for step in there if read_state(folder, step) != {"step": step}]
        print(len(there), there[-1], wrong, flush=True)


if __name__ == "__main__":
    killed(sys.argv[1], int(sys.argv[2]))
