"""The language model: each token is predicted from those before it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from .infill import Infill

if TYPE_CHECKING:
    from ...tokenize.tokenizer import Tokenizer
    from ..data.shards import Sample

Arrays = dict[str, np.ndarray]


class LanguageModel(BaseModel):
    """What a sample becomes for a decoder (GPT)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reset: bool = Field(
        default=True, description="whether attention and positions start anew at each document of a sample"
    )
    infill: Infill | None = Field(default=None, description="fill in the middle; default: texts are read as they stand")

    def length(self, model_length: int) -> int:
        """Tokens of a stored sample for a model that reads `model_length`."""
        return model_length

    def fitted(self, tokenizer: "Tokenizer", vocab_size: int) -> Self:
        """The same with the tokenizer's ids, which only `infill` needs. Raises UsageError for a token that it lacks."""
        if self.infill is None:
            return self
        return self.model_copy(update={"infill": self.infill.fitted(tokenizer, vocab_size)})

    def arrays(self, samples: Sequence["Sample"], seeds: Sequence[tuple[int, ...]] = ()) -> Arrays:
        """The batch [b, s]: tokens, labels, positions (int64), documents (int32, 0 is padding), weights (float32: 1
        where the loss counts), and sources (int64[b]). Only `infill` leaves anything to chance, and needs `seeds`, one
        a sample.

        The label of a token is the next one. It counts where neither is padding and, with `reset`, both are of one
        document: the end of one tells nothing of the next.
        """
        tokens, documents, sources = stacked(samples)
        if self.infill is not None:
            tokens = self.infill.rearranged(tokens, documents, seeds)
        if not self.reset:
            documents = (documents > 0).astype(np.int32)
        here, after = documents[:, :-1], documents[:, 1:]
        return {
            "tokens": tokens[:, :-1],
            "labels": tokens[:, 1:],
            "positions": positions(here),
            "documents": here,
            "weights": ((here == after) & (here > 0)).astype(np.float32),
            "sources": sources,
        }


def stacked(samples: Sequence["Sample"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens int64[b, length + 1], documents int32[b, length + 1] and sources int64[b] of b samples."""
    tokens = np.stack([sample.tokens for sample in samples])
    documents = np.stack([sample.documents for sample in samples])
    return tokens, documents, np.array([sample.source for sample in samples], np.int64)


def positions(documents: np.ndarray) -> np.ndarray:
    """int64[b, s]: how far each token is behind the first of its document in the row, from document numbers [b, s]."""
    places = np.arange(documents.shape[1])
    if (documents == documents[:, :1]).all():
        return np.tile(places, (len(documents), 1))
    starts = np.zeros(documents.shape, np.int64)
    starts[:, 1:] = np.where(documents[:, 1:] != documents[:, :-1], places[1:], 0)
    return places - np.maximum.accumulate(starts, axis=1)
