"""Training mixtures: what the parts of one are, what share each of their pools gets, and how often each will be seen.

A mixture has named parts: disjoint sets of documents. A part may split into pools, by a label's value, by quality or by
language. Which documents are in which pool is found in `mix_pools.py`; here are the options, and the arithmetic on
counts of documents and tokens.
"""

import difflib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tilth.errors import RecipeError, UsageError

from .mix_fit import fitted, unmet

OTHERS = "*"  # in shares: every value that is not named
LISTED = 5  # of many things that are wrong alike


class Span(BaseModel):
    """The values of a label that will do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: float | None = Field(default=None, allow_inf_nan=False, description="the least value; default: any")
    max: float | None = Field(default=None, allow_inf_nan=False, description="the largest value; default: any")

    @model_validator(mode="after")
    def _tests_something(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a threshold needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: nothing would be left")
        return self


class Rank(BaseModel):
    """The best of a part by several labels together, each as its percent rank within the part: no label's scale counts.

    A document's score is the weighted sum; a label that is null ranks with the worst, and ties go by id.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: dict[str, float] = Field(min_length=1, description="weight of each label; negative where less is better")
    keep: float = Field(gt=0, le=1, description="share of the part's tokens that stays, the best first")

    @field_validator("by")
    @classmethod
    def _sound(cls, by: dict[str, float]) -> dict[str, float]:
        if any(not math.isfinite(weight) or not weight for weight in by.values()):
            raise ValueError("weights are finite and not 0")
        return by


class Balance(BaseModel):
    """A part that splits by the values of a label, such as a topic, whose shares are told. No value is "none"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str = Field(description="the label; `place` for where the documents come from")
    to: dict[str, float] | Literal["even"] = Field(
        default="even",
        description="share of each value, '*' for all others together (without it they are left out); or even: of "
        "each value as much",
    )

    @field_validator("to")
    @classmethod
    def _sound(cls, to: dict[str, float] | str) -> dict[str, float] | str:
        if isinstance(to, dict):
            _check_weights(to)
        return to


class Strata(BaseModel):
    """A part that splits by a label such as quality, and what is better is seen more often (GPT-3, Brown et al. 2020,
    section 2.2: weights that are not the sizes)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str = Field(description="the label; a document without it is in the lowest stratum")
    bounds: tuple[float, ...] = Field(min_length=1, description="where a new stratum begins, from low to high")
    often: tuple[float, ...] = Field(description="how often a document of each is seen beside one of the others")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not all(low < high for low, high in itertools.pairwise(self.bounds)):
            raise ValueError("bounds rise from one to the next")
        if len(self.often) != len(self.bounds) + 1:
            raise ValueError(
                f"{len(self.bounds)} bounds make {len(self.bounds) + 1} strata; often has {len(self.often)}"
            )
        if any(not 0 <= one < math.inf for one in self.often) or not any(self.often):
            raise ValueError("often has no negative number, and one that is more than 0")
        return self

    def names(self) -> list[str]:
        bounds = [f"{bound:g}" for bound in self.bounds]
        between = [f"{low}-{high}" for low, high in itertools.pairwise(bounds)]
        return [f"<{bounds[0]}", *between, f">={bounds[-1]}"]


class Part(BaseModel):
    """A named set of documents: those that meet its condition and are in no earlier part.

    They are then thinned: the short ones go, then duplicates, then all but the best.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    where: str | None = Field(
        default=None,
        description="DuckDB condition on labels, tokens and place, such as lang.code = 'zh' AND quality.score > 0.5; "
        "default: whatever no earlier part took",
    )
    data: tuple[str, ...] | None = Field(default=None, description="only from these data places; default: from any")
    thresholds: dict[str, Span] = Field(
        default={}, description="and whose labels are within these; a label that is null is not"
    )
    shortest: int | None = Field(default=None, ge=1, description="tokens; shorter documents are left out")
    longest: int | None = Field(default=None, ge=1, description="tokens; longer documents are cut to so many")
    unique: str | None = Field(
        default=None,
        description="of documents with the same value of this label, such as dup.cluster, only the first by id stays; "
        "all stay that have none",
    )
    rank: Rank | None = Field(default=None, description="only the best by several labels; default: all")
    balance: Balance | None = Field(default=None, description="shares within the part by a label's value")
    strata: Strata | None = Field(default=None, description="how often within the part by quality")
    max_epochs: float = Field(
        default=4,
        gt=0,
        allow_inf_nan=False,
        description="how often any of its pools may be seen in the whole plan. Up to 4 repeats are nearly as good as "
        "new text; then gains fade, and at 40 they are about none (Muennighoff et al. 2023)",
    )

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.shortest and self.longest and self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest:,} is above longest {self.longest:,}")
        return self


class Pool(NamedTuple):
    """Documents that are sampled alike: a part, or what it splits into."""

    name: str  # the part's, then what tells the pool from others of the part: web/law/zh
    part: str
    value: str | None  # of the label that the part is balanced by; "*" for others
    target: float | None  # share of that value within the part
    often: float  # weight of a token beside others of the part
    language: str | None  # "*" for those that no ratio names; None where nothing splits by language
    documents: int
    tokens: int  # in one epoch: of long documents only what stays
    max_epochs: float


class Exposure(NamedTuple):
    """How much of a pool a plan asks for."""

    pool: Pool
    shares: tuple[float, ...]  # by stage, of the stage's tokens
    asked: tuple[float, ...]  # tokens by stage
    epochs: tuple[float, ...]  # seen by the end of each stage


def shares(
    pools: Sequence[Pool], mixture: Mapping[str, float], languages: Mapping[str, float] | None = None
) -> np.ndarray:
    """Each pool's share of a stage's tokens: float64[pools], sum 1.

    `mixture` has the weight of each part (any sum; a part that it does not name has none). A part's share goes to its
    values as `balance` tells, and there by tokens times `often`. `languages` has the ratio of languages over the whole
    stage: shares of parts, of values and of languages then hold at once, and nothing else of what the sizes give is
    changed (iterative proportional fitting, Deming and Stephan 1940).

    Raises RecipeError for a part that does not exist or has no documents, and for a ratio that cannot be met.
    """
    parts = list(dict.fromkeys(pool.part for pool in pools))
    for name in mixture:
        if name not in parts:
            raise RecipeError(f"mixture: there is no part {name}{near(name, parts)}")
    _check_weights(mixture, "mixture: ")
    rows = {(pool.part, pool.value): 1.0 if pool.target is None else pool.target for pool in pools}
    names = [f"{part}/{value}" if value else part for part, value in rows]
    asked = np.array([mixture.get(part, 0) * target for (part, _), target in rows.items()])
    asked /= asked.sum()
    row_of = np.array([list(rows).index((pool.part, pool.value)) for pool in pools])
    weight = np.array([pool.tokens * pool.often for pool in pools], float)
    for row in np.flatnonzero((np.bincount(row_of, weight, len(rows)) == 0) & (asked > 0)).tolist():
        raise RecipeError(f"mixture: {names[row]} is to have {asked[row]:.3%} of the tokens, but there are none in it")

    columns: list[str] = list(dict.fromkeys([*(languages or {}), OTHERS]))
    column_of = np.array([columns.index(pool.language if pool.language in columns else OTHERS) for pool in pools])
    sizes = np.zeros((len(rows), len(columns)))
    np.add.at(sizes, (row_of, column_of), weight)
    table = asked[:, None] if languages is None else _by_language(sizes, asked, languages, names, columns)
    found = table[row_of, column_of] * np.divide(
        weight, sizes[row_of, column_of], out=np.zeros(len(pools)), where=weight > 0
    )
    return found / found.sum()


def _by_language(
    sizes: np.ndarray, asked: np.ndarray, languages: Mapping[str, float], names: Sequence[str], columns: Sequence[str]
) -> np.ndarray:
    """Shares by row and language, float64[rows, columns], from the tokens of each."""
    _check_weights(languages, "languages: ")
    ratio = np.array([languages.get(column, 0) for column in columns], float)
    ratio /= ratio.sum()
    table = fitted(sizes, asked, ratio)
    if table is None:
        held, within = unmet(sizes, asked, ratio)
        spoken = _listed(columns[one] for one in within if ratio[one]) or _listed(columns[one] for one in within)
        have = f"{_listed(names[row] for row in held)} {'has' if len(held) == 1 else 'have together'}"
        raise RecipeError(
            f"languages: cannot be met: {have} {asked[held].sum():.2%} of the tokens, and documents only in {spoken}, "
            f"whose share is to be {ratio[within].sum():.2%}: {asked[held].sum() - ratio[within].sum():.2%} too much"
        )
    return table


def exposure(pools: Sequence[Pool], stages: Sequence[tuple[str, float, np.ndarray]]) -> list[Exposure]:
    """What a plan asks of each pool. A stage is its name, its tokens, and the share of each pool (float64[pools])."""
    rows = []
    for index, pool in enumerate(pools):
        own = tuple(float(share[index]) for _, _, share in stages)
        asked = tuple(tokens * share for (_, tokens, _), share in zip(stages, own, strict=True))
        seen = np.cumsum(asked).tolist()
        epochs = tuple(so_far / pool.tokens if pool.tokens else (math.inf if so_far else 0.0) for so_far in seen)
        rows.append(Exposure(pool, own, asked, epochs))
    return rows


def check(rows: Sequence[Exposure]) -> None:
    """Raises UsageError where a pool would be seen more often than it may, with the numbers and what to do."""
    over = [row for row in rows if row.epochs and row.epochs[-1] > row.pool.max_epochs * (1 + 1e-9)]
    if not over:
        return
    worst = max(over, key=lambda row: row.epochs[-1] / row.pool.max_epochs)
    pool, asked = worst.pool, math.fsum(worst.asked)
    if not pool.tokens:
        raise UsageError(f"mixture: {pool.name} is to give {amount(asked)} tokens, but no document is in it")
    others = _listed(
        f"{row.pool.name} ({row.epochs[-1]:.3g} of {row.pool.max_epochs:g})" for row in over if row is not worst
    )
    raise UsageError(
        f"mixture: {pool.name} has {amount(pool.tokens)} tokens, and {amount(asked)} are asked of it: it would be seen "
        f"{worst.epochs[-1]:.3g} times, and may be {pool.max_epochs:g} times ({amount(pool.tokens * pool.max_epochs)} "
        f"tokens); train on fewer tokens, give it a smaller share, or raise parts.{pool.part}.max_epochs (beyond 4 "
        f"repeats teach less and less, at 40 nothing)" + (f"; too often too: {others}" if others else "")
    )


def amount(tokens: float) -> str:
    """A count of tokens with three digits: 1.25B."""
    for factor, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if tokens >= factor * 0.9995:
            return f"{tokens / factor:.3g}{suffix}"
    return f"{tokens:.3g}"


def near(name: str, names: Iterable[str]) -> str:
    """What was meant, for the end of an error: the nearest name, else those that there are."""
    names = list(names)
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else f"; there are {_listed(names) or 'none'}"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _check_weights(weights: Mapping[str, float], where: str = "") -> None:
    if any(not 0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
        raise RecipeError(f"{where}shares are finite and not negative, and one of them is more than 0")
