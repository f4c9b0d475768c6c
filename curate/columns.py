"""Labels of one unit as the columns that rules look at: those that are stored, and those that follow from them."""

from collections.abc import Iterable

import pyarrow as pa

from .clean import CLEANED, cleaned
from .recipe import CurateRecipe
from .run import Run

LINES = ["lines.flags", "lines.words", "lines.sentences", "lines.edited_words"]


def label_columns(run: Run, recipe: CurateRecipe, key: str, asked: Iterable[str]) -> dict[str, pa.Array]:
    """The labels `asked` for, of the unit `key`; `cleaned.*` under the recipe's line rules."""
    names = list(dict.fromkeys(asked))
    derived = [name.removeprefix("cleaned.") for name in names if name.startswith("cleaned.")]
    stored = [name for name in names if not name.startswith("cleaned.")]
    table = run.table(key, dict.fromkeys([*stored, *(LINES if derived else [])]))
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    if derived:
        left = cleaned(*(columns[name] for name in LINES), rules=recipe.line_rules)
        columns |= {f"cleaned.{name}": pa.array(left[name]) for name in CLEANED if name in derived}
    return columns
