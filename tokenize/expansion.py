"""What a changed vocabulary means to a model: which rows stay, where they go, and which have to be made.

`expansion.json` holds it and travels with the tokenizer that it made. How vocabularies are changed is the matter of
`expand`; what becomes of a model's matrices, that of `embed`.
"""

from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tilth.errors import ModelError

EXPANSION = "expansion.json"


class Expansion(BaseModel):
    """From a base tokenizer to a new one. Every id of the new one is either an old token's or among `new_rows`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["add", "replace", "prune"] = Field(description="how the vocabulary was changed")
    base_size: int = Field(ge=1, description="ids of the base tokenizer")
    size: int = Field(ge=1, description="ids of the new tokenizer")
    old_to_new: tuple[int, ...] | None = Field(
        default=None, description="new id of each base id, -1 for a token that went; null: every id stays"
    )
    new_rows: tuple[int, ...] = Field(description="ids of the new tokenizer whose rows have to be made, ascending")
    parts: tuple[tuple[int, ...], ...] = Field(
        description="for each new row, what the base tokenizer makes of its token (base ids)"
    )
    counts: tuple[int, ...] | None = Field(default=None, description="uses of each new id on the corpus")
    base_counts: tuple[int, ...] | None = Field(
        default=None, description="uses of each base id on the corpus, as the base tokenizer encodes it"
    )

    @property
    def moves(self) -> np.ndarray:
        """int64[base_size]: the new id of each base id, -1 for a token that went."""
        return np.arange(self.base_size) if self.old_to_new is None else np.array(self.old_to_new, np.int64)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        lengths = (
            ("old_to_new", self.old_to_new, self.base_size),
            ("parts", self.parts, len(self.new_rows)),
            ("counts", self.counts, self.size),
            ("base_counts", self.base_counts, self.base_size),
        )
        for name, values, length in lengths:
            if values is not None and len(values) != length:
                raise ValueError(f"{name} has {len(values):,} entries, {length:,} are due")
        if any(not 0 <= part < self.base_size for parts in self.parts for part in parts):
            raise ValueError(f"parts name an id that is none of the {self.base_size:,} base ids")
        if any(after <= before for before, after in zip(self.new_rows, self.new_rows[1:], strict=False)):
            raise ValueError("new_rows do not ascend")
        moves = self.moves
        filled = np.sort(np.concatenate((moves[moves != -1], np.array(self.new_rows, np.int64))))
        if not np.array_equal(filled, np.arange(self.size)):
            raise ValueError(f"old_to_new and new_rows do not fill the ids 0 to {self.size - 1:,}, each once")
        return self


def read(folder: str | Path) -> Expansion:
    """The expansion that made the tokenizer in `folder`. Raises ModelError where none is told, or told wrongly."""
    place = Path(folder) / EXPANSION
    try:
        return Expansion.model_validate_json(place.read_bytes())
    except OSError as error:
        reason = f"{error.strerror or error}; name a tokenizer that an expansion made"
        raise ModelError(f"{place}: cannot be read ({reason})") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelError(f"{place}: no expansion ({where + ': ' if where else ''}{first['msg']})") from error
