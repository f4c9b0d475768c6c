"""A plan of training in rows and words: what its stages, batches and pools are, as a person reads them.

Pure functions of the plan as plain data, for the picture, the page and the text of `plan_report`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup, escape
from rich.cells import cell_len, set_cell_size

from ..curate.report import count, percent
from .seen import amount

COLORS = 8  # pools with a color of their own; beyond them the largest have one, and the others share one
NEAR = 0.9  # of the most epochs that a pool may be seen: from here on it is marked
NAME = 28  # cells of a name in the picture and in the text

PACKED = {
    "concat": "Documents are joined end to end and cut to length",
    "best-fit": "Whole documents are fitted together, and only those longer than a sample are cut",
    "padded": "Each document is a sample of its own, padded or cut to length",
    "buckets": "Documents of like length share a batch, padded to the length of their bucket",
}


class Batch(NamedTuple):
    """What the batches of some steps are, from the first of them to the last, in words."""

    tokens: str  # a step
    sequences: str
    length: str


class StageRow(NamedTuple):
    """A stage as the tables have it."""

    stage: Mapping[str, Any]
    batch: Batch


class PoolRow(NamedTuple):
    """A pool as the tables have it."""

    name: str
    kind: str  # its color's class
    documents: int
    tokens: int
    estimated: bool
    trained: float  # tokens of the training that are its
    shares: list[float]  # of each stage
    epochs: list[float]  # after each stage
    cap: float

    def mark(self, epochs: float) -> str:
        """Where so many epochs lie, as a class: "over" the cap, "near" it, or nothing to be said."""
        return "over" if epochs > self.cap * (1 + 1e-9) else "near" if epochs >= self.cap * NEAR else ""


def batch_span(segments: Sequence[Mapping[str, Any]]) -> Batch:
    """The batches of some segments, which follow each other."""
    return Batch(
        tokens=_span([segment["tokens"] / max(segment["steps"], 1) for segment in segments], amount),
        sequences=_span([segment["size"] for segment in segments], count),
        length=_span([segment["length"] for segment in segments], count),
    )


def _span(values: Sequence[float], show: Callable[[Any], str]) -> str:
    """The least and the greatest value, the one that comes first in front."""
    if not values:
        return "–"
    low, high = sorted((min(values), max(values)), key=list(values).index)
    return show(low) if show(low) == show(high) else f"{show(low)}–{show(high)}"


def stage_rows(plan: Mapping[str, Any]) -> list[StageRow]:
    """A row for each stage, in order."""
    of = [[one for one in plan["segments"] if one["stage"] == index] for index in range(len(plan["stages"]))]
    return [StageRow(stage, batch_span(some)) for stage, some in zip(plan["stages"], of, strict=True)]


def pool_rows(plan: Mapping[str, Any]) -> list[PoolRow]:
    """A row for each pool, in the plan's order."""
    stages = plan["stages"]
    shares = {pool["name"]: [stage["mixture"].get(pool["name"], 0.0) for stage in stages] for pool in plan["pools"]}
    trained = {
        name: sum(share * stage["tokens"] for share, stage in zip(some, stages, strict=True))
        for name, some in shares.items()
    }
    own = len(trained) if len(trained) <= COLORS else COLORS - 1
    largest = sorted(trained, key=lambda name: -trained[name])[:own]
    kinds = {name: f"c{index}" for index, name in enumerate(name for name in trained if name in largest)}
    return [
        PoolRow(
            name=(name := pool["name"]),
            kind=kinds.get(name, "others"),
            documents=pool["documents"],
            tokens=pool["tokens"],
            estimated=pool["estimated"],
            trained=trained[name],
            shares=shares[name],
            epochs=pool["epochs"],
            cap=pool["max_epochs"],
        )
        for pool in plan["pools"]
    ]


class Stack(NamedTuple):
    """What has one color in the mixture: a pool, or all the small ones."""

    kind: str
    name: str
    shares: list[float]  # of each stage


def stacks(pools: Sequence[PoolRow]) -> list[Stack]:
    """The pools as they are stacked: those with a color of their own in order, then the others as one."""
    others = [pool for pool in pools if pool.kind == "others"]
    found = [Stack(pool.kind, pool.name, pool.shares) for pool in pools if pool.kind != "others"]
    if others:
        shares = [sum(some, 0.0) for some in zip(*(pool.shares for pool in others), strict=True)]
        found.append(Stack("others", f"{len(others)} others", shares))
    return found


def packed(packing: Mapping[str, Any] | None) -> str:
    """How samples are made of documents and what that costs, as a sentence or two."""
    if packing is None:
        return ""
    lost = f"{amount(packing['lost'])} tokens are" if packing["lost"] else "no token is"
    padding = f"{percent(packing['padding'], 1)} of all positions" if packing["padding"] else "Nothing"
    return f"{PACKED[packing['how']]}. {padding} is padding, and {lost} left out."


def rate(value: float) -> str:
    """A learning rate as a recipe has it: 3e-4."""
    if value == 0 or value >= 0.1:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def portion(share: float) -> str:
    """A pool's share of a stage: 60%, 12.5%; a dash where it has none."""
    return percent(share, 1).replace(".0%", "%") if share else "–"


def times(epochs: float) -> str:
    """How often a pool has been seen: 0.84, 12.5."""
    return "<0.01" if 0 < epochs < 0.005 else f"{epochs:.2f}" if epochs < 9.995 else f"{epochs:,.1f}"


def sentence(text: str) -> Markup:
    """A text of our own, whole however long it is, with names in it that may be hostile."""
    return escape(on_one_line(text))


def on_one_line(text: str) -> str:
    """A text without line breaks and what else has no glyph."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def short(name: str) -> str:
    """A name that fits on a line beside others."""
    plain = on_one_line(name) or "–"
    return plain if cell_len(plain) <= NAME else set_cell_size(plain, NAME - 1).rstrip() + "…"
