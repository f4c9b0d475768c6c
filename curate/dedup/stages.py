"""Which rules wait for which duplicates: a document that another rule drops must not stand for others.

So rules on labels that are known before go first; then those on `dup.url_of`, among what is left; then those on equal
and similar texts; then those on repeated passages. What one stage drops represents nothing in the next.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from ..columns import label_columns
from ..recipe import CurateRecipe
from ..rules import Rule, labels_of
from ..run import Run
from .options import COPY_LABELS, PASSAGE_LABELS, URL_LABELS


def stage(rule: Rule) -> int:
    """When a rule can be applied: 0 at once, 1 to 3 after the stage that finds the last of its labels."""
    stages = (URL_LABELS, COPY_LABELS, PASSAGE_LABELS)
    return max((number for number, labels in enumerate(stages, 1) for one in rule.labels() if one in labels), default=0)


def passing(
    run: Run, recipe: CurateRecipe, key: str, rows: int, last: int, known: Mapping[str, pa.Array] | None = None
) -> np.ndarray:
    """bool a document of the unit `key`: it passes the rules up to stage `last`, whose labels are `known`."""
    rules = [rule for rule in recipe.rules.values() if stage(rule) <= last]
    given = known or {}
    columns = label_columns(run, recipe, key, [label for label in labels_of(rules) if label not in given]) | dict(given)
    passes = np.ones(rows, bool)
    for rule in rules:
        passes &= ~rule.failed(columns)
    return passes
