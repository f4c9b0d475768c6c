"""The masked language model: hidden tokens are predicted from all the others (Devlin et al. 2019, section 3.1)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tilth.errors import UsageError

from .language import Arrays, positions, stacked

if TYPE_CHECKING:
    from ...tokenize.tokenizer import Tokenizer
    from ..data.shards import Sample

_ROLES = {"begin": "cls", "end": "sep", "mask": "mask", "pad": "pad"}


class MaskedModel(BaseModel):
    """What a sample becomes for an encoder (BERT): [CLS] text [SEP], some of its tokens hidden."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(default=0.15, gt=0, le=1, description="of the tokens, that is to be predicted (BERT: 0.15)")
    masked: float = Field(default=0.8, ge=0, le=1, description="of these, that becomes [MASK] (BERT: 0.8)")
    replaced: float = Field(default=0.1, ge=0, le=1, description="that becomes another token (BERT: 0.1); others stay")
    framed: bool = Field(
        default=True, description="whether [CLS] and [SEP] are put around; not if the shards have them"
    )
    reset: bool = Field(default=True, description="whether attention and positions start anew at each document")
    begin: int | None = Field(default=None, ge=0, description="id of [CLS]; default: the tokenizer's")
    end: int | None = Field(default=None, ge=0, description="id of [SEP]; default: the tokenizer's")
    mask: int | None = Field(default=None, ge=0, description="id of [MASK]; default: the tokenizer's")
    pad: int | None = Field(default=None, ge=0, description="id of [PAD]; default: the tokenizer's")
    special: tuple[int, ...] = Field(default=(), description="ids never hidden, nor put in; default: the tokenizer's")
    vocab_size: int | None = Field(default=None, ge=1, description="ids there are; default: the tokenizer's")

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.masked + self.replaced > 1:
            raise ValueError(
                f"masked {self.masked:g} and replaced {self.replaced:g} are shares of one: at most 1 in all"
            )
        return self

    def length(self, model_length: int) -> int:
        """Tokens of a stored sample for a model that reads `model_length`. Raises UsageError where there is no room."""
        room = model_length - 2 * self.framed
        if room < 1:
            raise UsageError(f"a sequence of {model_length} tokens has no room between [CLS] and [SEP]")
        return room

    def fitted(self, tokenizer: "Tokenizer", vocab_size: int) -> Self:
        """The same with the tokenizer's ids where none are told. Raises UsageError for a token that it lacks."""
        found = {"vocab_size": self.vocab_size or tokenizer.size}
        for field, role in _ROLES.items():
            told = getattr(self, field)
            if told is None and role not in tokenizer.roles:
                advice = f"name it as {role}_token in tokenizer_config.json, or its id as {field}"
                raise UsageError(f"{tokenizer.name}: has no {role} token, which masked training needs; {advice}")
            found[field] = tokenizer.roles[role] if told is None else told
        special = {*self.special, *tokenizer.specials.values(), *(found[field] for field in _ROLES)}
        return self.model_copy(update={**found, "special": tuple(sorted(special))})

    def arrays(self, samples: Sequence["Sample"], seeds: Sequence[tuple[int, ...]]) -> Arrays:
        """The batch [b, s]: tokens (some hidden), labels (as they were), positions (int64), documents (int32, 0 is
        padding), weights (float32: 1 where a token is to be predicted), and sources (int64[b]).

        A sample's last token, which is the next one's first, is left to that. What is hidden follows from the sample's
        seed alone, one a sample: it is the same in any batch. Of n tokens that are neither special nor padding,
        round(share * n) are chosen, but at least one.
        """
        begin, end, mask, pad = self._ids()
        ids, documents, sources = self._framed(samples, begin, end, pad)
        special = np.zeros(self.vocab_size or 0, bool)
        special[list(self.special)] = True
        chance = np.stack([np.random.default_rng(seed).random((3, ids.shape[1])) for seed in seeds], axis=1)
        open_to = (documents > 0) & ~special[ids]
        numbers = open_to.sum(axis=1)
        wanted = np.where(numbers > 0, np.maximum(np.rint(self.share * numbers), 1), 0).astype(np.int64)
        draws = np.where(open_to, chance[0], 2.0)  # the smallest are chosen
        limits = np.take_along_axis(np.sort(draws, axis=1), np.maximum(wanted - 1, 0)[:, None], axis=1)
        chosen = open_to & (draws <= limits)
        ordinary = np.flatnonzero(~special)
        hidden = np.where(chosen & (chance[1] < self.masked), mask, ids)
        swapped = chosen & (chance[1] >= self.masked) & (chance[1] < self.masked + self.replaced)
        hidden[swapped] = ordinary[(chance[2][swapped] * len(ordinary)).astype(np.int64)]
        return {
            "tokens": hidden,
            "labels": ids,
            "positions": positions(documents),
            "documents": documents,
            "weights": chosen.astype(np.float32),
            "sources": sources,
        }

    def _ids(self) -> list[int]:
        """Of [CLS], [SEP], [MASK] and [PAD]."""
        ids = [id_ for id_ in (self.begin, self.end, self.mask, self.pad) if id_ is not None]
        assert len(ids) == len(_ROLES), "`fitted` sees to it"
        return ids

    def _framed(
        self, samples: Sequence["Sample"], begin: int, end: int, pad: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ids int64[b, s], documents int32[b, s] and sources, with [CLS] and [SEP] in the first and last document."""
        tokens, documents, sources = stacked(samples)
        tokens, documents = tokens[:, :-1], documents[:, :-1]
        if not self.reset:
            documents = (documents > 0).astype(np.int32)
        tokens = np.where(documents > 0, tokens, pad)
        if not self.framed:
            return tokens, documents, sources
        length = tokens.shape[1]
        ends = length - np.argmax(documents[:, ::-1] > 0, axis=1)[:, None]  # behind the last token, which is no padding
        ids = np.pad(tokens, ((0, 0), (1, 1)), constant_values=pad)
        ids[:, 0] = begin
        np.put_along_axis(ids, ends + 1, end, axis=1)
        around = np.pad(documents, ((0, 0), (1, 1)))
        around[:, 0] = documents[:, 0]
        np.put_along_axis(around, ends + 1, np.take_along_axis(documents, ends - 1, axis=1), axis=1)
        return ids, around, sources
