"""A table with given sums of rows and columns that is as near as can be to the sizes it starts from."""

import numpy as np

ROUNDS = 100_000
CLOSE = 1e-13  # of the whole, which is 1


def fitted(sizes: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray | None:
    """`sizes` (float64[r, c], not negative) scaled by row and by column until its sums are `rows` and `columns`, which
    are 1 in all; None where no such table has its zeros where `sizes` has.

    This is the table nearest to `sizes` by relative entropy (Csiszar 1975). A cell that no table with these sums can
    have becomes 0 first: the scaling would approach it without end.
    """
    table = np.where(_possible(sizes > 0, rows, columns), sizes, 0.0)
    if not table.any():
        return None
    for _ in range(ROUNDS):
        table *= _ratio(rows, table.sum(1))[:, None]
        table *= _ratio(columns, table.sum(0))[None, :]
        if np.abs(table.sum(1) - rows).max() < CLOSE:
            return table
    return table if np.abs(table.sum(1) - rows).max() < 1e-6 and np.abs(table.sum(0) - columns).max() < 1e-6 else None


def unmet(sizes: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[list[int], list[int]]:
    """Why `fitted` found none: rows that have nothing outside certain columns, and those columns, whose sum is less
    than that of the rows by as much as can be."""
    from scipy.optimize import linprog

    row, column = np.nonzero(sizes > 0)
    cells = np.arange(len(row))
    limits = np.zeros((len(rows) + len(columns), len(row)))
    limits[row, cells] = limits[len(rows) + column, cells] = 1
    # The most that can be placed; its dual is a smallest cut, which names the rows and columns in the way.
    most = linprog(-np.ones(len(row)), limits, np.concatenate([rows, columns]), method="highs-ds")
    cut = -most.ineqlin.marginals > 0.5
    held = np.flatnonzero(~cut[: len(rows)] & (rows > 0))
    return held.tolist(), np.flatnonzero((sizes[held] > 0).any(0)).tolist()


def _possible(there: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """bool[r, c]: cells that are more than 0 in some table with these sums; none where there is no table."""
    from scipy.optimize import linprog

    there = there & (rows > 0)[:, None] & (columns > 0)[None, :]
    row, column = np.nonzero(there)
    n = len(row)
    # Unknown are the cells of a table times one scale, each as `low`, which is 1 at most, and the rest of it; and the
    # scale. Where the sum of `low` is greatest, it is 1 in every cell that can be more than 0, and 0 in the others
    # (Freund, Roundy and Todd 1985).
    sums = np.zeros((len(rows) + len(columns), 2 * n + 1))
    for first in (0, n):
        sums[row, first + np.arange(n)] = sums[len(rows) + column, first + np.arange(n)] = 1
    sums[:, -1] = -np.concatenate([rows, columns])
    bounds = [(0, 1)] * n + [(0, None)] * n + [(1, None)]
    found = linprog(-np.concatenate([np.ones(n), np.zeros(n + 1)]), A_eq=sums, b_eq=np.zeros(len(sums)), bounds=bounds)
    possible = np.zeros(there.shape, bool)
    if found.success:
        possible[row, column] = found.x[:n] > 0.5
    return possible


def _ratio(wanted: np.ndarray, there: np.ndarray) -> np.ndarray:
    return np.divide(wanted, there, out=np.zeros(len(wanted)), where=there > 0)
