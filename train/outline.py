"""A recipe and its data as a plan: every stage's shares, compiled, checked whole, and told in words and numbers."""

from collections.abc import Mapping, Sequence
from math import gcd
from typing import Any, NamedTuple

import numpy as np

from tilth.errors import UsageError

from ..curate import mix
from . import advice, plan, schedule
from .data.stream_options import LANES
from .plan import Plan, Rise, Stage, Stretch
from .prepare import Material
from .recipe import TrainRecipe

POINTS = 400  # of the learning rate that are drawn
SFT = "sft"  # how the name of a part begins that holds instructions with their answers


class Outline(NamedTuple):
    """A plan that can be run."""

    plan: Plan
    lanes: int  # of a stream
    drawing: dict[str, Any]  # what `plan_report` draws


class _Course(NamedTuple):
    """The stages of a recipe, with what each has."""

    stages: Mapping[str, Stage]
    stretches: list[Stretch]
    rises: list[Rise]
    shares: list[np.ndarray]  # float64[pools] each

    def first(self, stage: int) -> Rise:
        return next(rise for rise in self.rises if rise.stage == stage)


def outline(recipe: TrainRecipe, material: Material, name: str, parameters: float) -> Outline:
    """The plan of a recipe with this material.

    Raises RecipeError for a mixture that cannot be, and UsageError for a pool that would be seen too often (where the
    recipe tells parts), or lanes that do not divide.
    """
    longest = recipe.lengths()[0]
    one_pass = material.tokens if material.stream else sum(each.cells for each in material.classes) * longest
    course = _course(recipe, material.pools, one_pass)
    shares = [_spread(share, material) for share in course.shares]
    objective = recipe.objective()
    stored = {length: objective.length(length) for length in recipe.lengths()}
    made = plan.compiled(course.stretches, course.rises, stored, shares, material.classes)
    rows = _exposure(course, material.pools)
    if recipe.parts:
        mix.check(rows)
    lanes = recipe.stream.lanes or gcd(LANES, *(segment.size for segment in made.segments))
    if material.stream:
        _check_lanes(made, lanes, recipe.parallel.data)
    drawing = _drawing(recipe, course, rows, name, parameters, again=material.again)
    drawing |= {"packing": material.packing, "notes": [*material.notes, *_pieces(made, max(stored.values()))]}
    for pool in drawing["pools"]:
        pool["estimated"] = material.stream
    return Outline(made, lanes, drawing)


def sketch(recipe: TrainRecipe, name: str, parameters: float) -> dict[str, Any] | None:
    """What can be drawn of a recipe without its data: None where these say how long it trains."""
    if not (recipe.stages or recipe.tokens or recipe.steps):
        return None
    parts = recipe.parts or {"all": mix.Part()}
    alike = [mix.Pool(part, part, None, None, 1.0, None, 0, 1, each.max_epochs) for part, each in parts.items()]
    plain = {key: stage.model_copy(update={"languages": {}}) for key, stage in recipe.stages.items()}
    course = _course(recipe.model_copy(update={"stages": plain, "languages": {}}), alike, 0)
    notes = ["How much there is of each part, and how often it is seen, is told with --data"] if recipe.parts else []
    drawing = _drawing(recipe, course, _exposure(course, alike), name, parameters, sized=False)
    unknown = [
        pool | {"tokens": 0, "epochs": [0.0] * len(course.stages), "estimated": False} for pool in drawing["pools"]
    ]
    return drawing | {"pools": unknown, "packing": None, "notes": notes}


def _course(recipe: TrainRecipe, pools: Sequence[mix.Pool], one_pass: float) -> _Course:
    stages = recipe.staged(one_pass)
    stretches, rises = plan.rises(stages, recipe.batch.size, recipe.batch.length, recipe.tokens)
    return _Course(stages, stretches, rises, [_shares(recipe, stage, pools) for stage in stages.values()])


def _shares(recipe: TrainRecipe, stage: Stage, pools: Sequence[mix.Pool]) -> np.ndarray:
    """Of a stage's tokens, for each pool. Where no weights are told, parts weigh as they are large."""
    mixture = stage.mixture or recipe.mixture
    if not mixture:
        sizes: dict[str, float] = {}
        for pool in pools:
            sizes[pool.part] = sizes.get(pool.part, 0.0) + pool.tokens
        mixture = {part: size for part, size in sizes.items() if size}
    return mix.shares(pools, mixture, stage.languages or recipe.languages or None)


def _spread(share: np.ndarray, material: Material) -> np.ndarray:
    """The shares of pools, given on to their length classes by the places that these take."""
    of = np.array(material.of_pool)
    sums = np.bincount(of, material.places, len(share))
    return share[of] * np.divide(material.places, sums[of], out=np.zeros(len(of)), where=sums[of] > 0)


def _exposure(course: _Course, pools: Sequence[mix.Pool]) -> list[mix.Exposure]:
    stages = zip(course.stretches, course.shares, strict=True)
    return mix.exposure(pools, [(stretch.name, float(stretch.tokens), share) for stretch, share in stages])


def _check_lanes(made: Plan, lanes: int, ranks: int) -> None:
    """Raises UsageError where a stream's lanes do not fall evenly to the ranks, or a step's sequences to the lanes."""
    if lanes % ranks:
        raise UsageError(f"stream.lanes {lanes} is no multiple of parallel.data {ranks}; change one of these")
    for segment in made.segments:
        if segment.size % lanes:
            raise UsageError(f"batch.size {segment.size} is no multiple of stream.lanes {lanes}; change one of these")


# --- What is told of it -----------------------------------------------------------------------------------------------


def _drawing(
    recipe: TrainRecipe,
    course: _Course,
    rows: Sequence[mix.Exposure],
    name: str,
    parameters: float,
    sized: bool = True,
    again: bool = False,
) -> dict[str, Any]:
    """What `plan_report` draws. `sized`: whether the rows tell of data; `again`: of those that the start was trained
    on."""
    tokens = sum(stretch.tokens for stretch in course.stretches)
    return {
        "name": name,
        "about": {"model": recipe.model.preset or recipe.model.family, "parameters": int(parameters)},
        "tokens": tokens,
        "steps": sum(stretch.steps for stretch in course.stretches),
        "stages": _stages(recipe, course, rows),
        "segments": [
            {
                "stage": each.stage, "first": each.tokens, "tokens": each.steps * each.size * each.length,
                "step": each.first, "steps": each.steps, "size": each.size, "length": each.length,
            }
            for each in course.rises
        ],
        "rates": _points(plan.course(course.stages, course.stretches, recipe.schedule), tokens),
        "pools": [
            {
                "name": row.pool.name, "documents": row.pool.documents, "tokens": row.pool.tokens,
                "epochs": list(row.epochs), "max_epochs": row.pool.max_epochs,
            }
            for row in rows
        ],
        "advice": _advice(recipe, course, rows if sized else (), parameters, again),
    }  # fmt: skip


def _stages(recipe: TrainRecipe, course: _Course, rows: Sequence[mix.Exposure]) -> list[dict[str, Any]]:
    own = any(stage.schedule for stage in course.stages.values())
    made = []
    for number, (stage, stretch) in enumerate(zip(course.stages.values(), course.stretches, strict=True)):
        given = stage.schedule or (None if own and number else recipe.schedule)
        shares = {row.pool.name: share for row, share in zip(rows, course.shares[number].tolist(), strict=True)}
        made.append(
            {
                "name": stretch.name, "first": course.first(number).tokens, "tokens": stretch.tokens,
                "steps": stretch.steps, "rows": stretch.rows, "schedule": _told(given),
                "mixture": {pool: share for pool, share in shares.items() if share},
            }
        )  # fmt: skip
    return made


def _told(options: schedule.ScheduleOptions | None) -> str:
    if options is None:
        return "the rate stays"
    return options.course + (f", {advice.told(options.rate)}" if options.rate else "")


def _pieces(made: Plan, longest: int) -> list[str]:
    """What shorter samples cost that do not divide the longest."""
    notes = {}
    for segment in made.segments:
        count = -(-longest // segment.length)
        if count * segment.length > longest and segment.model_length < made.longest:
            lost = 1 - longest / (count * segment.length)
            notes[segment.model_length] = (
                f"Sequences of {segment.model_length} are cut from {made.longest} in {count} pieces, the last of which "
                f"ends with padding: {lost:.0%} of their places"
            )
    return list(notes.values())


def _points(pieces: Sequence[schedule.Piece], tokens: int) -> list[tuple[float, float]]:
    """Tokens and rate: every corner of the course, both sides of a jump, and points between."""
    edges = {edge for piece in pieces for edge in (piece.first, piece.last)}
    behind = {piece.first + (piece.last - piece.first) * 1e-9 for piece in pieces}
    at = sorted({*edges, *behind, *np.linspace(0, tokens, POINTS).tolist()})
    return [(each, schedule.rate(pieces, each)) for each in at]


def _advice(
    recipe: TrainRecipe, course: _Course, rows: Sequence[mix.Exposure], parameters: float, again: bool
) -> list[str]:
    """What experience says against it; without rows, as far as that does not depend on the data."""
    sft = np.array([row.pool.part.startswith(SFT) for row in rows], bool)
    own = any(stage.schedule for stage in course.stages.values())
    told = []
    for number, (stretch, stage) in enumerate(zip(course.stretches, course.stages.values(), strict=True)):
        given = stage.schedule or (plan.HOLD if own and number else recipe.schedule)
        share = course.shares[number]
        same = np.allclose(share, course.shares[number - 1]) if number else again
        step = course.first(number)
        of_sft = float(share[sft].sum()) if rows else 0.0
        told.append(advice.Stage(stretch.name, stretch.tokens, step.size * step.length, given, same, of_sft))
    if not own:  # one course over all
        told = [told[0]._replace(name="training", tokens=sum(each.tokens for each in told))]
    seen = [
        advice.Seen(row.pool.name, row.epochs[-1], row.pool.documents, bool(of))
        for row, of in zip(rows, sft, strict=True)
    ]
    unique = float(sum(row.pool.tokens for row in rows)) if rows else None
    return advice.advice(advice.Training(recipe.model.family, parameters, told, bool(recipe.start), unique, seen))
