"""Which documents of a part go, where it is freed of duplicates or only its best stay: functions of whole columns."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .mix import Rank


def copies(documents: pa.Table) -> np.ndarray:
    """bool[n]: documents that are not the first by id (then by row) of those with the same `low` and `high`, a hash in
    two halves; a null has no copies."""
    places = np.flatnonzero(pc.is_valid(documents["low"]).to_numpy())
    known = documents.filter(pc.is_valid(documents["low"])).select(["low", "high", "id", "row"])
    order = pc.sort_indices(known, [(name, "ascending") for name in known.column_names]).to_numpy()
    low, high = (known[name].to_numpy()[order] for name in ("low", "high"))
    found = np.zeros(len(documents), bool)
    found[places[order[1:][(low[1:] == low[:-1]) & (high[1:] == high[:-1])]]] = True
    return found


def worst(documents: pa.Table, rank: Rank) -> np.ndarray:
    """bool[n]: documents behind the one with which the best have their share of the tokens `kept`. The labels stand in
    x0, x1, ...; documents of one score go by id, then by row."""
    score = np.zeros(len(documents))
    for n, weight in enumerate(rank.by.values()):
        score += weight * percent_rank(documents[f"x{n}"].to_numpy(), -np.inf if weight > 0 else np.inf)
    table = pa.table({"score": score, "id": documents["id"], "row": documents["row"]})
    order = pc.sort_indices(table, [("score", "descending"), ("id", "ascending"), ("row", "ascending")]).to_numpy()
    kept = documents["kept"].to_numpy()[order]
    better = np.cumsum(kept) - kept
    found = np.empty(len(documents), bool)
    found[order] = better >= rank.keep * kept.sum()
    return found


def percent_rank(values: np.ndarray, unknown: float) -> np.ndarray:
    """float64[n]: of the other values, the share that is less (SQL's percent_rank); NaN counts as `unknown`."""
    values = np.where(np.isnan(values), unknown, values)
    return np.searchsorted(np.sort(values), values) / max(len(values) - 1, 1)
