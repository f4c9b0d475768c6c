"""The deciding pass: labels and rules become one row a document, kept or dropped, with rule, value and threshold."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.work import Outbox

from .columns import label_columns
from .recipe import CurateRecipe, label_types
from .rules import Rule, Verdicts, judge, labels_of
from .run import Run

DECISIONS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("rule", pa.string()),
        pa.field("label", pa.string()),
        pa.field("value", pa.string()),
        pa.field("test", pa.string()),
        pa.field("also", pa.list_(pa.string())),
        pa.field("language", pa.string()),
        pa.field("domain", pa.string()),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)
BASIS = ["id", "lang.code", "url_labels.domain", "length.bytes"]


class DecideWorker:
    """Judges the documents of one unit of the first pass."""

    def __init__(self, run: Run, recipe: CurateRecipe):
        self._run = run
        self._recipe = recipe

    def __call__(self, payload: str, outbox: Outbox) -> Mapping[str, Any]:
        columns = self.columns(payload)
        verdicts = judge(columns, self._recipe.rules, len(columns["id"]))
        table = self._table(columns, verdicts)
        pq.write_table(table, outbox.file("decisions", len(table)), compression="zstd")
        return tally(columns, verdicts, self._recipe.rules)

    def columns(self, key: str) -> dict[str, pa.Array]:
        """What a decision tells of its document, and every label that the rules ask for."""
        return label_columns(self._run, self._recipe, key, [*BASIS, *labels_of(self._recipe.rules.values())])

    def _table(self, columns: Mapping[str, pa.Array], verdicts: Verdicts) -> pa.Table:
        rules = self._recipe.rules
        names = [*rules, None]  # -1, no rule, is the last
        labels = [*(rule.label for rule in rules.values()), None]
        tests = [*(rule.test() for rule in rules.values()), None]
        first = verdicts.first.tolist()
        return pa.table(
            {
                "id": columns["id"],
                "kept": pa.array(verdicts.first < 0),
                "rule": pa.array([names[index] for index in first], pa.string()),
                "label": pa.array([labels[index] for index in first], pa.string()),
                "value": pa.array(verdicts.value, pa.string()),
                "test": pa.array([tests[index] for index in first], pa.string()),
                "also": pa.array(verdicts.also, pa.list_(pa.string())),
                "language": columns["lang.code"],
                "domain": columns["url_labels.domain"],
                "bytes": columns["length.bytes"],
            },
            schema=DECISIONS,
        )


def tally(columns: Mapping[str, pa.Array], verdicts: Verdicts, rules: Mapping[str, Rule]) -> dict[str, Any]:
    """What the report shows, as counts that add up over units."""
    size = columns["length.bytes"].to_numpy(zero_copy_only=False)
    kept = verdicts.first < 0
    fails = verdicts.failed.sum(axis=0)
    per_rule = {}
    for index, name in enumerate(rules):
        decided = verdicts.first == index
        per_rule[name] = {
            "decided": int(decided.sum()),
            "decided_bytes": int(size[decided].sum()),
            "would_drop": int(verdicts.failed[index].sum()),
            "alone": int((verdicts.failed[index] & (fails == 1)).sum()),
        }
    types, histograms = label_types(), {}
    for name, rule in rules.items():
        if rule.min is not None or rule.max is not None:
            edges = bins(rule, types[rule.label])
            values = columns[rule.label].cast(pa.float64()).to_numpy(zero_copy_only=False)
            told = rule.applies(columns) & ~np.isnan(values)
            place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
            histograms[name] = {"kept": _counts(place[told & kept]), "dropped": _counts(place[told & ~kept])}
    return {
        "documents": len(kept),
        "kept": int(kept.sum()),
        "kept_bytes": int(size[kept].sum()),
        "rules": per_rule,
        "histograms": histograms,
        "languages": _languages(columns["lang.code"], kept, size),
    }


def bins(rule: Rule, kind: pa.DataType) -> np.ndarray:
    """Edges of the histogram of a rule's label: counts by powers of ten, shares on a range that shows the threshold.

    They depend on the recipe alone, so that the histograms of all units add up. The last bin takes what lies beyond.
    """
    if pa.types.is_integer(kind):
        return np.concatenate([[0.0], 10.0 ** np.arange(0, 7.01, 0.125)])
    limit = max(rule.min or 0, rule.max or 0) or 0.25
    shares = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    highest = min(share for share in shares if share >= min(1, 3 * limit)) if limit <= 1 else 2 * limit
    return np.linspace(0, highest, 51)


def _counts(places: np.ndarray) -> dict[str, int]:
    """How often each bin occurs, by its number; bins that do not are left out."""
    counts = np.bincount(places)
    return {str(place): int(counts[place]) for place in np.flatnonzero(counts).tolist()}


def _languages(codes: pa.Array, kept: np.ndarray, size: np.ndarray) -> dict[str, dict[str, int]]:
    table = pa.table(
        {
            "code": codes.fill_null(""),
            "documents": pa.array(np.ones(len(kept), int)),
            "kept": pa.array(kept.astype(int)),
        }
    )
    table = table.append_column("bytes", pa.array(size))
    sums = table.group_by("code").aggregate([("documents", "sum"), ("kept", "sum"), ("bytes", "sum")]).to_pylist()
    return {
        row["code"]: {"documents": row["documents_sum"], "kept": row["kept_sum"], "bytes": row["bytes_sum"]}
        for row in sorted(sums, key=lambda row: row["code"])
    }
