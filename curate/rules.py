"""Rules: labels and a recipe become decisions. They look at labels only, never at text, and at whole columns at once.

A document is dropped by the first rule it fails; the other rules it fails are kept beside that one, so that a rule's
own share can be told from its place in the order.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

Columns = Mapping[str, pa.Array]  # by label name, for instance "gopher.words"; all of one length


class Rule(BaseModel):
    """What a label's value has to be for a document to stay. A null label (nothing was measured) passes."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    label: str = Field(description="family and measure, for instance gopher.words")
    min: float | None = Field(default=None, allow_inf_nan=False, description="dropped below this")
    max: float | None = Field(default=None, allow_inf_nan=False, description="dropped above this")
    any_of: tuple[str, ...] | None = Field(default=None, alias="in", description="dropped unless one of these")
    none_of: tuple[str, ...] | None = Field(default=None, alias="not_in", description="dropped if one of these")
    when: dict[str, tuple[str, ...]] = Field(
        default={}, description="only where each of these labels has one of the values"
    )
    unless: dict[str, tuple[str, ...]] = Field(
        default={}, description="not where any of these labels has one of the values"
    )
    source: str = Field(default="", description="where the numbers come from")

    @model_validator(mode="after")
    def _tests_something(self) -> Self:
        if self.min is None and self.max is None and self.any_of is None and self.none_of is None:
            raise ValueError("a rule needs one of min, max, in, not_in")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: nothing would be left")
        if self.any_of == ():
            raise ValueError("in is empty: nothing would be left")
        return self

    def labels(self) -> list[str]:
        return [self.label, *self.when, *self.unless]

    def test(self) -> str:
        """What has to hold, for a person to read: `50 ≤ gopher.words ≤ 100,000`."""
        low = f"{self.min:,.12g} ≤ " if self.min is not None else ""
        high = f" ≤ {self.max:,.12g}" if self.max is not None else ""
        parts = [f"{low}{self.label}{high}"] if low or high else []
        parts += [f"{self.label} in {_listed(self.any_of)}"] if self.any_of is not None else []
        parts += [f"{self.label} not in {_listed(self.none_of)}"] if self.none_of is not None else []
        where = [f"where {label} in {_listed(values)}" for label, values in self.when.items()]
        where += [f"except where {label} in {_listed(values)}" for label, values in self.unless.items()]
        return " ".join([" and ".join(parts), *where])

    def failed(self, columns: Columns) -> np.ndarray:
        """bool[n]: which documents this rule would drop."""
        column = columns[self.label]
        failed = np.zeros(len(column), dtype=bool)
        if self.min is not None or self.max is not None:
            values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)  # null becomes NaN, which fails no test
            if self.min is not None:
                failed |= values < self.min
            if self.max is not None:
                failed |= values > self.max
        if self.any_of is not None:
            failed |= ~_among(column, self.any_of) & _known(column)
        if self.none_of is not None:
            failed |= _among(column, self.none_of)
        return failed & self.applies(columns)

    def fails(self, labels: Mapping[str, Any]) -> bool:
        """`failed` for the labels of one document, a hundred times as fast as columns of length one."""
        value = labels[self.label]
        if value is None or any(str(labels[label]) not in values for label, values in self.when.items()):
            return False
        if any(str(labels[label]) in values for label, values in self.unless.items()):
            return False
        return (
            (self.min is not None and value < self.min)
            or (self.max is not None and value > self.max)
            or (self.any_of is not None and value not in self.any_of)
            or (self.none_of is not None and value in self.none_of)
        )

    def applies(self, columns: Columns) -> np.ndarray:
        """bool[n]: which documents this rule speaks of."""
        speaks = np.ones(len(columns[self.label]), dtype=bool)
        for label, values in self.when.items():
            speaks &= _among(columns[label], values)
        for label, values in self.unless.items():
            speaks &= ~_among(columns[label], values)
        return speaks


def _listed(values: Sequence[str]) -> str:
    return ", ".join(value or "none" for value in values)


def _among(column: pa.Array, values: Sequence[str]) -> np.ndarray:
    texts = column.cast(pa.string())
    return pc.is_in(texts, value_set=pa.array(values, pa.string())).to_numpy(zero_copy_only=False)


def _known(column: pa.Array) -> np.ndarray:
    return pc.is_valid(column).to_numpy(zero_copy_only=False)


class Verdicts(NamedTuple):
    """What rules say of n documents. `failed` is bool[rules, n]; the lists have one entry a document."""

    failed: np.ndarray
    first: np.ndarray  # int[n]: the rule that decided, -1 where the document stays
    value: list[str | None]  # what that rule's label was, all digits of it
    also: list[list[str]]  # the other rules that would have dropped it


def judge(columns: Columns, rules: Mapping[str, Rule], documents: int) -> Verdicts:
    """Applies the rules, in order, to `documents` documents whose labels stand in `columns`."""
    names = list(rules)
    failed = np.zeros((len(names), documents), dtype=bool)
    for index, rule in enumerate(rules.values()):
        failed[index] = rule.failed(columns)
    dropped = failed.any(axis=0)
    first = np.where(dropped, failed.argmax(axis=0) if names else -1, -1)
    value: list[str | None] = [None] * documents
    also: list[list[str]] = [[] for _ in range(documents)]
    for document in np.flatnonzero(dropped).tolist():
        decided = int(first[document])
        found = columns[rules[names[decided]].label][document].as_py()
        value[document] = "" if found is None else str(found)
        also[document] = [names[index] for index in np.flatnonzero(failed[:, document]).tolist() if index != decided]
    return Verdicts(failed, first, value, also)


def shown(value: Any) -> str:
    """A label's value as a person reads it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value in ("", None) else str(value)


def labels_of(rules: Iterable[Rule]) -> list[str]:
    """Every label that the rules ask for, once, in order of first use."""
    return list(dict.fromkeys(label for rule in rules for label in rule.labels()))
