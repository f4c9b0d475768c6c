"""A start from an own checkpoint with another vocabulary: old rows go where their tokens are now, new ones are made.

`tilth tokenize expand` says in expansion.json which rows are old and which are new, and `tokenize.embed` makes rows.
Here is what that means for a model that is split: each rank that has a part of the embedding or of the output head
reads the checkpoint's matrix whole, makes the new one and keeps its part. Ranks compute alike, so nothing is sent.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import Field
from scipy import sparse

from tilth.errors import InputError, UsageError

from ..tokenize import expansion as expansions
from ..tokenize.embed import EmbedOptions, mixture, resized
from ..tokenize.expansion import EXPANSION, Expansion
from . import checkpoint
from .model.options import ModelOptions
from .rows import BY_TOKEN

if TYPE_CHECKING:
    from .sharded import Stored, Tensors


class GrowOptions(EmbedOptions):
    """How rows are made for the tokens that the start's tokenizer did not have."""

    multiple: int = Field(default=1, ge=1, le=1, description="stays 1: model.vocab_multiple fills the rows up")
    vectors: str | None = Field(
        default=None, description="of focus: a .npy, float32[tokens, width], of tilth.tokenize.embed.train_vectors"
    )


class Growth(NamedTuple):
    """From a checkpoint's vocabulary to a model's; what `Checkpoints.load` does with the rows."""

    expansion: Expansion
    mixed: sparse.csr_array  # what new rows are made of
    options: EmbedOptions
    rows: int  # of the model, padding included

    def grown(self, old: np.ndarray) -> np.ndarray:
        """float32[rows, ...] of a checkpoint's float32[old rows, ...]: of a matrix, or of a bias.

        Old rows keep their bits, and new ones are what `tokenize.embed` makes. What stood beyond the old tokenizer's
        (T5's sentinels, padding that has learned to be improbable) goes behind the new one's. Further padding is the
        mean of the old rows, which takes at most its share of a softmax over the vocabulary (Hewitt 2021).
        """
        expansion, options = self.expansion, self.options.model_copy(update={"multiple": self.rows})
        matrix = old
        if old.ndim == 1:  # a bias is mixed as rows are, but it has no length, and chance adds nothing to it
            method = "mean" if options.method == "random" else options.method
            options, matrix = options.model_copy(update={"method": method, "norm": "kept"}), old[:, None]
        result, _ = resized(matrix, expansion, self.mixed, options)
        beyond = matrix[expansion.base_size :][: self.rows - expansion.size]
        result[expansion.size :][: len(beyond)] = beyond
        return result.reshape(self.rows, *old.shape[1:])

    def asked(self, wanted: "Tensors", stored: "Stored") -> "Tensors":
        """What to read for `wanted`: in place of parts of what grows, all that the checkpoint has of it.

        That is float32, in main memory; `sharded.sources` then takes the most exact weights that there are. Raises
        UsageError for fewer rows than the expansion speaks of.
        """
        import torch
        from megatron.core.dist_checkpointing.mapping import ShardedTensor

        from .sharded import MASTER

        read = dict(wanted)
        for key in self._growing(wanted):
            if key not in stored:  # which is refused with all else that is missing
                continue
            rows, base = stored[key][0][0], self.expansion.base_size
            if rows < base:
                raise UsageError(f"{key} has {rows:,} rows in the checkpoint, and the expansion is of {base:,} tokens")
            whole = torch.empty(rows, *wanted[key][0].global_shape[1:], device="cpu")
            read[key] = [ShardedTensor.from_rank_offsets(key, whole, replica_id=0)]
            read.pop(f"{MASTER}{key}", None)
        return read

    def fill(self, wanted: "Tensors", read: "Tensors") -> None:
        """Puts what `asked` read, grown, into this rank's parts: weights, and an optimizer's float32 copies of them."""
        import torch

        from .sharded import MASTER

        for key in self._growing(wanted):
            old = read[key][0].data
            assert old is not None
            new = torch.from_numpy(self.grown(old.numpy()))
            for part in (*wanted[key], *wanted.get(f"{MASTER}{key}", ())):
                assert part.data is not None
                offset, size = part.global_offset, part.local_shape
                place = tuple(slice(at, at + many) for at, many in zip(offset, size, strict=True))
                part.data.copy_(new[place])

    def _growing(self, wanted: "Tensors") -> list[str]:
        """The weights that have an entry for each token; a scalar head has one row."""
        from .sharded import STATE

        return [
            key
            for key, parts in wanted.items()
            if key.endswith(BY_TOKEN) and not key.startswith(STATE) and parts[0].global_shape[0] == self.rows
        ]


def growth(tokenizer: str | Path | None, start: str, options: GrowOptions | None, model: ModelOptions) -> Growth | None:
    """How the checkpoint at `start` becomes `model`, whose tokenizer's directory has an expansion.json. Without
    `options` nothing is to grow, and there is none.

    Raises ModelError where that file is missing, InputError or UsageError, with the numbers, where the checkpoint is
    not of the tokenizer that was expanded, or the options do not fit.
    """
    size = model.vocab_size
    assert size is not None
    before = checkpoint.read_state(*checkpoint.found_at(start))["model"]["vocab_size"]
    if options is None:
        if before != size:
            raise InputError(
                f"{start} has {before:,} tokens and the model {size:,}; if its tokenizer was expanded, say how new "
                "rows are made, such as 'grow={method: subword}'"
            )
        return None
    if tokenizer is None:
        raise UsageError("grow: name the expanded tokenizer's directory with --tokenizer")
    expansion, place = expansions.read(tokenizer), Path(tokenizer, EXPANSION)
    beyond = before - expansion.base_size  # T5's sentinels, or what a recipe asked for
    if beyond < 0 or size != expansion.size + beyond:
        fits = f"makes {expansion.size + beyond:,} of them" if beyond >= 0 else "does not fit"
        raise InputError(
            f"{start} has {before:,} tokens and the model {size:,}; {place} goes from {expansion.base_size:,} to "
            f"{expansion.size:,}, which {fits}: start from a run with the tokenizer that was expanded, and leave "
            "model.vocab_size away"
        )
    mixed = mixture(expansion, options, _vectors(options.vectors))
    return Growth(expansion, mixed, EmbedOptions(**options.model_dump(exclude={"vectors"})), model.rows())


def _vectors(place: str | None) -> np.ndarray | None:
    try:
        return None if place is None else np.load(place, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: not readable as vectors ({error})") from error
