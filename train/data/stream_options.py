"""How a corpus in Parquet is read. Here alone, so that a recipe knows it without all that reading needs."""

from pydantic import BaseModel, ConfigDict, Field

LANES = 8


class StreamOptions(BaseModel):
    """How a corpus in Parquet is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lanes: int | None = Field(
        default=None,
        ge=1,
        description="places at which the corpus is read at once: a multiple of the data-parallel ranks, and a divisor "
        "of the batch sizes; the order of samples depends on it; default: 8, or what of it divides the batch sizes",
    )
    workers: int = Field(
        default=2,
        ge=0,
        description="processes of each rank that read and tokenize ahead; 0: none, the reading thread does it itself",
    )
