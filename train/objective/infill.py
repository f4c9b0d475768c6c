"""Fill in the middle: documents rearranged so that a decoder learns to put in what is missing (Bavarian et al. 2022).

A document is cut at two places, and its middle moved behind the rest: as prefix, suffix, middle (PSM) or as suffix,
prefix, middle (SPM), with a sentinel before each part. What is predicted and what is attended to stays as it was.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tilth.errors import UsageError

if TYPE_CHECKING:
    from ...tokenize.tokenizer import Tokenizer

SHORTEST = 12  # tokens of the shortest text that is rearranged, as each time three make way for the sentinels
_PARTS = "prefix", "middle", "suffix"
_USUAL_NAMES = "<|fim_{}|>", "<fim_{}>"  # of Qwen and tiktoken's cl100k; of StarCoder

Stretch = tuple[np.ndarray, np.ndarray]  # of each run: where it has something of the text, and how much of it


class Infill(BaseModel):
    """Which documents are rearranged, and with which tokens.

    It is done to what a sample has of each document (context-level, section 3.2), and cuts between tokens. Such a piece
    keeps its place and its number of tokens: the sentinels displace the last three of its text. The tokens that begin
    and end a document stay first and last. Pieces of less than SHORTEST tokens of text stay as they are, and those with
    one of the sentinels in them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float = Field(default=0.5, ge=0, le=1, description="share of documents that is rearranged (paper: 0.5)")
    spm: float = Field(
        default=0.5, ge=0, le=1, description="of these, share as suffix, prefix, middle; the others are prefix first"
    )
    prefix: str | int | None = Field(
        default=None, description="token before the prefix, by name or id; default: <|fim_prefix|> or <fim_prefix>"
    )
    middle: str | int | None = Field(default=None, description="token before the middle; default: <|fim_middle|>, ...")
    suffix: str | int | None = Field(default=None, description="token before the suffix; default: <|fim_suffix|>, ...")
    begin: int | None = Field(default=None, ge=0, description="id that begins documents; default: the tokenizer's bos")
    end: int | None = Field(default=None, ge=0, description="id that ends documents; default: the tokenizer's eos")

    def fitted(self, tokenizer: "Tokenizer", vocab_size: int) -> Self:
        """The same with the tokenizer's ids. Raises UsageError for a token that it or the model lacks."""
        found = {part: self._id(part, tokenizer, vocab_size) for part in _PARTS}
        if len({*found.values()}) < len(found):
            told = ", ".join(f"{part} {id_}" for part, id_ in found.items())
            raise UsageError(f"infill: {told} must be three tokens")
        ends = {
            "begin": tokenizer.roles.get("bos") if self.begin is None else self.begin,
            "end": tokenizer.roles.get("eos") if self.end is None else self.end,
        }
        return self.model_copy(update={**found, **ends})

    def ids(self) -> tuple[int, int, int]:
        """Of the tokens before prefix, middle and suffix. Raises UsageError where only a tokenizer can tell them."""
        if not (isinstance(self.prefix, int) and isinstance(self.middle, int) and isinstance(self.suffix, int)):
            raise UsageError(
                "infill needs the tokenizer's special tokens; name it with --tokenizer, or the tokens' ids"
            )
        return self.prefix, self.middle, self.suffix

    def rearranged(self, tokens: np.ndarray, documents: np.ndarray, seeds: Sequence[tuple[int, ...]]) -> np.ndarray:
        """The tokens of samples, int64[b, s], some documents' (int32[b, s], 0 is padding) rearranged.

        What becomes of a sample follows from its seed alone, one a sample: it is the same in any batch. Both cuts are
        drawn evenly from all places, the ends of the text too.
        """
        prefix, middle, suffix = self.ids()
        text, (begins, counts) = tokens.ravel(), _runs(documents)
        chance = _chances(begins // tokens.shape[1], len(tokens), seeds)
        first = text[begins] == (-1 if self.begin is None else self.begin)
        last = text[begins + counts - 1] == (-1 if self.end is None else self.end)
        inner = counts - first - last
        sentinel = (text == prefix) | (text == middle) | (text == suffix)
        chosen = (documents.ravel()[begins] > 0) & (chance[:, 0] < self.rate) & (inner >= SHORTEST)
        chosen &= ~np.logical_or.reduceat(sentinel, begins)
        left = inner - 3  # what the sentinels leave of the text
        one, two = np.sort((chance[:, 2:] * (left + 1)[:, None]).astype(np.int64), axis=1).T
        at = begins + first
        ends = (begins, first), (at + inner, last)
        stretches = (at, one), (at + one, two - one), (at + two, left - two)
        starts, sizes = _layout(ends, stretches, chance[:, 1] < self.spm, len(text))
        starts[~chosen, 0], sizes[~chosen, 0], sizes[~chosen, 1:] = begins[~chosen], counts[~chosen], 0
        starts, sizes = starts.ravel(), sizes.ravel()  # of stretches in the order in which they stand now
        source = np.repeat(starts - np.cumsum(sizes) + sizes, sizes) + np.arange(len(text))
        return np.concatenate([text, np.array([prefix, middle, suffix])])[source].reshape(tokens.shape)

    def _id(self, part: str, tokenizer: "Tokenizer", vocab_size: int) -> int:
        told = getattr(self, part)
        if isinstance(told, int):
            if not 0 <= told < vocab_size:
                raise UsageError(f"infill: {part} {told} is no id of a vocabulary of {vocab_size}")
            return told
        names = [told] if told else [name.format(part) for name in _USUAL_NAMES]
        found = next((tokenizer.specials[name] for name in names if name in tokenizer.specials), None)
        if found is None:
            advice = f"name one that it has as infill.{part}, or give it one"
            raise UsageError(f"{tokenizer.name}: has no special token {' or '.join(names)}; {advice}")
        return found


def _runs(documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each stretch of one number within a row of [b, s]: its first place, counted over all rows, and its size."""
    parted = np.ones(documents.shape, bool)
    parted[:, 1:] = documents[:, 1:] != documents[:, :-1]
    begins = np.flatnonzero(parted)
    return begins, np.diff(begins, append=documents.size)


def _chances(rows: np.ndarray, count: int, seeds: Sequence[tuple[int, ...]]) -> np.ndarray:
    """float64[runs, 4] in [0, 1), of each of `count` rows by its own seed: whether and how a run is rearranged, and two
    cuts. `rows` are the runs' rows."""
    pairs = zip(seeds, np.bincount(rows, minlength=count).tolist(), strict=True)
    return np.concatenate([np.random.default_rng(seed).random((runs, 4)) for seed, runs in pairs])


def _layout(
    ends: tuple[Stretch, Stretch], stretches: tuple[Stretch, Stretch, Stretch], spm: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Starts and sizes, int64[runs, 8], of what each run is put together from when it is rearranged.

    Given are the tokens that begin and end it, its prefix, middle and suffix, which runs are suffix first, and the size
    of the text, behind which the three sentinels stand.
    """
    one = np.ones(len(spm), np.int64)
    (begin, end), (prefix, middle, suffix) = ends, stretches
    before, amid, behind = ((one * (size + place), one) for place in range(3))
    psm = np.array([begin, before, prefix, behind, suffix, amid, middle, end])
    joint = np.array([begin, before, behind, suffix, amid, prefix, middle, end])
    layout = np.where(spm, joint, psm)
    return layout[:, 0].T.copy(), layout[:, 1].T.copy()
