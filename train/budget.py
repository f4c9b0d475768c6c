"""What a training takes, before it is begun: time, tokens, the best split of a budget, the memory of PPO; as one plan.

Arithmetic on what `sizes` counts. The plan is a dict that JSON can hold; `cli` prints it.
"""

import math
from typing import Any, Literal, NamedTuple

from tilth.errors import UsageError

from .model.options import ModelOptions
from .parallel import ParallelOptions
from .sizes import Flops, Step, flops, memory, parameters

DAY = 86_400.0  # seconds
MFU = 0.4  # of large runs: GPT-3 21%, Gopher 33%, PaLM 46% (Chowdhery et al. 2022, table 3)
FAR = 2.0  # times more or fewer tokens than 20 for each parameter that a plan speaks of


class Device(NamedTuple):
    """An accelerator, as its maker describes it: dense, without sparsity."""

    peak: float  # operations a second in bf16 or fp16
    peak_fp32: float  # and for float32 matrices (TF32, where there is one)
    memory: float  # bytes


DEVICES = {
    "v100": Device(125e12, 15.7e12, 32e9),  # fp16 alone
    "a100": Device(312e12, 156e12, 80e9),
    "h100": Device(989e12, 494e12, 80e9),  # SXM
    "h200": Device(989e12, 494e12, 141e9),
}


def seconds(operations: float, devices: int, peak: float, mfu: float = MFU) -> float:
    """How long `operations` take on `devices` of `peak` operations a second, used to the share `mfu`."""
    return operations / (devices * peak * mfu)


# --- Tokens for a model, and a model for a budget -------------------------------------------------------------------


class Rule(NamedTuple):
    """How many tokens a parameter is trained with."""

    tokens: float
    source: str


RULES = (
    Rule(1.7, "GPT-3: 300B tokens for 175B parameters (Brown et al. 2020)"),
    Rule(20.0, "Chinchilla: 1.4T tokens for 70B parameters (Hoffmann et al. 2022)"),
)


class LossFit(NamedTuple):
    """Loss of a model of N parameters after D tokens: floor + a / N^alpha + b / D^beta, in nats a token."""

    floor: float
    a: float
    b: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        return self.floor + self.a / parameters**self.alpha + self.b / tokens**self.beta

    def optimum(self, operations: float) -> tuple[float, float]:
        """Parameters and tokens of the lowest loss for 6ND = `operations` (Hoffmann et al. 2022, equation 4)."""
        exponents = self.alpha + self.beta
        scale = (self.alpha * self.a / (self.beta * self.b)) ** (1 / exponents)
        size = scale * (operations / 6) ** (self.beta / exponents)
        return size, operations / 6 / size


# Hoffmann et al. 2022, approach 3. The paper prints 1.69, 0.34 and 0.28; so rounded they give 32B for Gopher's compute,
# where its table has 40B. These digits stand in its source (Besiroglu et al. 2024).
HOFFMANN = LossFit(1.6934, 406.4, 410.7, 0.3392, 0.2849)
BESIROGLU = LossFit(1.8172, 482.01, 2085.43, 0.3478, 0.3658)  # Besiroglu et al. 2024: the same data, fitted again


def optimal(operations: float) -> dict[str, dict[str, float]]:
    """Parameters and tokens that make the best of 6ND = `operations`: by 20 tokens for each parameter, which is what
    approaches 1 and 2 of Hoffmann et al. 2022 come to; by their approach 3 as published, which asks for more tokens
    than they used themselves; and by the later fit to their data, which agrees with the rule again."""
    rule = math.sqrt(operations / (6 * RULES[1].tokens))
    splits = {
        "rule": (rule, RULES[1].tokens * rule),
        "hoffmann": HOFFMANN.optimum(operations),
        "besiroglu": BESIROGLU.optimum(operations),
    }
    return {
        name: {"parameters": size, "tokens": tokens, "per_parameter": tokens / size}
        for name, (size, tokens) in splits.items()
    }


def token_rules(count: int, tokens: float) -> dict[str, Any]:
    """`tokens` for a model of `count` parameters beside both rules, with a warning where 20 is far away, or None."""
    ratio, rule = tokens / count, RULES[1].tokens
    told = f"{human(tokens)} tokens are {ratio:.3g} for each parameter, far from the {rule:g} that make the best of "
    fitting = f"{human(tokens / rule)} parameters would suit them, and {human(count * rule)} tokens this model"
    warning = None
    if ratio < rule / FAR:
        warning = f"{told}the compute: {fitting}"
    elif ratio > rule * FAR:
        warning = f"{told}the compute of training: {fitting}; more is right for a model that is used a lot"
    rules = [{"per_parameter": each.tokens, "tokens": each.tokens * count, "source": each.source} for each in RULES]
    return {"tokens": tokens, "per_parameter": ratio, "rules": rules, "warning": warning}


# --- PPO ------------------------------------------------------------------------------------------------------------

# bytes for a trained parameter
ADAM_MIXED = 16  # 2 weight, 2 gradient, 4 float32 copy, 4 + 4 Adam (Rajbhandari et al. 2020 (ZeRO), section 3.1)
ADAM_MEGATRON = 18  # the same with gradients in float32
ADAM_FLOAT = 16  # all in float32: 4 weight, 4 gradient, 4 + 4 Adam
QUOTED = 240e9  # bytes that courses tell for a 7B model with a 7B reward model


class PpoModel(NamedTuple):
    name: str
    trained: bool
    parameters: int
    bytes: int


def ppo(actor: int, reward: int, trained: int = ADAM_MIXED, frozen: int = 2, shared: bool = False) -> list[PpoModel]:
    """PPO's models with the bytes of their weights and optimizers, from parameter counts; activations come on top.

    Actor and critic are trained, at `trained` bytes a parameter; ref, a copy of the actor, and the reward model are
    frozen, at `frozen`. The critic begins as the reward model. `shared`: actor and critic are one backbone with two
    heads (three models instead of four).
    """
    learners = [("actor and critic", actor)] if shared else [("actor", actor), ("critic", reward)]
    models = [(name, True, count) for name, count in learners] + [("ref", False, actor), ("reward", False, reward)]
    return [PpoModel(name, train, count, count * (trained if train else frozen)) for name, train, count in models]


def ppo_readings(model: ModelOptions) -> list[dict[str, Any]]:
    """What PPO with a model and a reward model of its shape takes, under several assumptions; of a 7B model one of
    them makes the 240 GB that are quoted: LLaMA-7B's true count, and no output matrix on critic and reward model."""
    full, scalar = parameters(model)["total"], parameters(model.model_copy(update={"head": "scalar"}))["total"]
    unit = 10**9 if full >= 10**9 else 10**6
    about = max(1, round(full / unit)) * unit
    assumed = {
        "bf16 with Adam: 16 bytes trained, 2 frozen": ppo(full, scalar),
        f"the same, four times {human(about)} parameters": ppo(about, about),
        "float32 gradients: 18 bytes trained, 2 frozen": ppo(full, scalar, ADAM_MEGATRON),
        "all in float32: 16 bytes trained, 4 frozen": ppo(full, scalar, ADAM_FLOAT, 4),
        "bf16 with Adam, one backbone for actor and critic": ppo(full, scalar, shared=True),
    }
    return [
        {"assumption": name, "bytes": sum(each.bytes for each in models), "models": [each._asdict() for each in models]}
        for name, models in assumed.items()
    ]


# --- Rough budgets --------------------------------------------------------------------------------------------------

Stage = Literal["pretraining", "sft", "reward", "rl"]


class Budget(NamedTuple):
    """What a stage of training takes, roughly, from and to."""

    tokens: tuple[float, float] | None  # None: made while it runs
    parameters: tuple[float, float]
    devices: int  # A100
    days: tuple[float, float]


# The ranges that a course quotes from a chat with Claude 3, "for reference only". They contradict themselves: 1B
# parameters on 100B tokens are done by 1,000 A100 in less than two hours, 1,000B on 1T in a year and a half.
BUDGETS: dict[Stage, Budget] = {
    "pretraining": Budget((100e9, 1e12), (1e9, 1e12), 1000, (50, 200)),
    "sft": Budget((10e6, 100e6), (1e9, 1e12), 10, (5, 20)),
    "reward": Budget((1e6, 10e6), (100e6, 1e9), 10, (2, 10)),
    "rl": Budget(None, (1e9, 1e12), 20, (10, 50)),
}


def beside_budgets(stage: Stage, count: float, tokens: float, operations: float, mfu: float = MFU) -> dict[str, Any]:
    """The rough budgets, and where a plan lies in that of its stage: below, within or above each range. Its days are
    those on the budget's A100s at `mfu`."""
    budget = BUDGETS[stage]
    days = seconds(operations, budget.devices, DEVICES["a100"].peak, mfu) / DAY
    ours = {"tokens": (tokens, budget.tokens), "parameters": (count, budget.parameters), "days": (days, budget.days)}
    return {
        "stage": stage,
        "ours": {name: {"value": value, "lies": _lies(value, span)} for name, (value, span) in ours.items() if span},
        "table": {name: each._asdict() for name, each in BUDGETS.items()},
    }


def _lies(value: float, span: tuple[float, float]) -> str:
    return "below" if value < span[0] else "above" if value > span[1] else "within"


# --- The plan -------------------------------------------------------------------------------------------------------


def plan(
    model: ModelOptions,
    parallel: ParallelOptions,
    step: Step,
    *,
    tokens: float | None = None,
    device: str = "a100",
    peak: float | None = None,
    device_memory: float | None = None,
    devices: int | None = None,
    mfu: float = MFU,
    stage: Stage = "pretraining",
) -> dict[str, Any]:
    """Everything a training takes, as values for JSON; sizes in bytes, times in seconds.

    `tokens` in all (default: 20 for each active parameter). `device` is one of DEVICES, of which `peak` (operations a
    second) and `device_memory` (bytes) may be given instead; `devices` at work (default: those of `parallel`). `mfu` is
    assumed. Raises UsageError for a device that is not known, or sizes that do not fit.
    """
    known = _device(device)
    own_peak, devices, room = peak, devices or parallel.world, device_memory or known.memory
    peak = own_peak or (known.peak_fp32 if step.precision == "fp32" else known.peak)
    counts, cost = parameters(model), flops(model, step.length, step.decoder_length)
    tokens = tokens or RULES[1].tokens * counts["active"]
    stages = memory(model, parallel, step)
    fullest = max(stages, key=lambda row: row["total"])
    operations = cost.total * tokens
    duration = seconds(operations, devices, peak, mfu)
    advice = token_rules(counts["active"], tokens)
    decoder = model.family == "gpt"  # what the laws and PPO are about
    return {
        "model": {"preset": model.preset, "family": model.family, "parameters": counts},
        "flops": _cost(cost, step.length, operations),
        "memory": {
            "precision": step.precision,
            "optimizer": step.optimizer,
            "recompute": step.recompute,
            "stages": stages,
            "peak": fullest["total"],
            "device_memory": room,
            "fits": fullest["total"] <= room,
        },
        "time": {
            "device": "given" if own_peak else device,
            "devices": devices,
            "peak": peak,
            "mfu": mfu,
            "seconds": duration,
            "tokens_per_second": tokens / duration,
            "device_days": duration * devices / DAY,
        },
        "tokens": advice,
        "optimal": _splits(counts["active"], tokens, operations) if decoder else None,
        "ppo": {"quoted_for_7b": QUOTED, "readings": ppo_readings(model)} if decoder else None,
        "budgets": beside_budgets(stage, counts["total"], tokens, operations, mfu),
        "warnings": list(
            _warnings(model, parallel, fullest, room, advice if decoder and stage == "pretraining" else {})
        ),
    }


def _device(name: str) -> Device:
    if name not in DEVICES:
        raise UsageError(f"device {name}: not known; there are {', '.join(DEVICES)}, or give its peak and memory")
    return DEVICES[name]


def _cost(cost: Flops, length: int, operations: float) -> dict[str, float]:
    return {
        "per_token": cost.total,
        "total": operations,
        "length": length,
        "attention_share": cost.attention_share,
        "scores_share": cost.scores_share,
        "even_length": length * (cost.others + cost.projections) / cost.scores,  # where scores cost as much as the rest
    }


def _splits(count: int, tokens: float, operations: float) -> dict[str, Any]:
    best = optimal(operations)
    lowest = BESIROGLU.loss(best["besiroglu"]["parameters"], best["besiroglu"]["tokens"])
    return {"splits": best, "loss": BESIROGLU.loss(count, tokens), "lowest_loss": lowest}


def _warnings(model: ModelOptions, parallel: ParallelOptions, fullest: dict[str, int], room: float, advice: Any) -> Any:
    if fullest["total"] > room:
        yield (
            f"stage {fullest['stage']} needs {fullest['total'] / 1e9:.1f} GB, the device has {room / 1e9:.0f}: raise "
            f"parallel.tensor ({parallel.tensor}) or parallel.pipeline ({parallel.pipeline}), split the optimizer "
            "(parallel.shard_optimizer), recompute, or take a smaller micro-batch"
        )
    if model.heads > 1 and model.kv_channels >= model.hidden:
        yield (
            f"head_size {model.kv_channels} is as wide as the model ({model.hidden}), for each of {model.heads} heads; "
            f"usual is hidden / heads = {model.hidden // model.heads}"
        )
    if advice.get("warning"):
        yield advice["warning"]


def human(number: float) -> str:
    """A count with three digits and a letter: 6.74B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
