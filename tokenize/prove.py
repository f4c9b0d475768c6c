"""What is promised of a changed vocabulary, checked on every token and every word that was counted; and what is told of
it.

The promises: each new token is reached, ids that stay mean what they meant, and a word without a new token is cut as it
was.
"""

import contextlib
from typing import Any, Literal

import numpy as np

from tilth.errors import TilthError

from .change import Change, Segmented, segmented
from .compiled import Compiled
from .count import Counts
from .expansion import Expansion
from .grow import changeable
from .split import METASPACE
from .tokenizer import Tokenizer

_METASPACE = METASPACE.encode()


def proved(change: Change, kept: bool, counts: Counts, old_counts: Counts) -> dict[str, Any]:
    """What is told of the change on the words of new and of older text, either of which may be empty.

    Raises TilthError where something that was promised does not hold; that each new token is reached is no promise
    where those that are not were `kept`.
    """
    base, grown, moves, new = change.base, change.grown, change.moves, change.new
    before, after = changeable(base, base.compiled), changeable(grown, grown.compiled)
    dead = [index for index in new if not _is_reached(after, grown, index)]
    if dead and not kept:
        raise TilthError(f"{len(dead)} new tokens cannot be reached, the first is {grown.tokens[dead[0]]!r}")
    for index in np.flatnonzero(moves >= 0).tolist():
        if grown.tokens[moves[index]] != base.tokens[index]:
            raise TilthError(f"the id {index} of {base.tokens[index]!r} became {grown.tokens[moves[index]]!r}")
    removed = int((moves < 0).sum())
    told: dict[str, Any] = {
        "base_size": base.size,
        "size": grown.size,
        "pieces": len(base.spec["model"]["vocab"]) - removed + len(new),
        "new": len(new),
        "removed": removed,
        "dead": len(dead),
    }
    for name, words in (("new_text", counts), ("old_text", old_counts)):
        if len(words.counts):
            old, now = segmented(before.encoder, words), segmented(after.encoder, words)
            told[name] = _compared(old, now, change, words)
            if words is counts:
                told["unused"] = int((now.uses(grown.size)[new] == 0).sum())
    return told


def _is_reached(encoder: Compiled, tokenizer: Tokenizer, index: int) -> bool:
    """Whether the bytes of a token give its id, as a text of their own where they are one."""
    piece = _bytes(tokenizer, index)
    if tokenizer.family == "byte-bpe":
        with contextlib.suppress(UnicodeDecodeError):
            return encoder.encode([piece.decode()])[0].tolist() == [index]
    return encoder.encoder.segment(piece) == [index]


def _compared(old: Segmented, now: Segmented, change: Change, words: Counts) -> dict[str, Any]:
    """How words were cut and are cut now. Raises TilthError for one without a new token that is cut otherwise."""
    is_new = np.zeros(change.grown.size, bool)
    is_new[change.new] = True
    touched = now.holds(is_new) | old.holds(change.moves < 0)
    same = ~touched
    longer = same & (old.lengths != now.lengths)
    if not longer.any():
        as_before = change.moves[old.ids[np.repeat(same, old.lengths)]]
        differs = as_before != now.ids[np.repeat(same, now.lengths)]
        longer[np.repeat(np.flatnonzero(same), old.lengths[same])[differs]] = True
    if longer.any():
        word = words.words()[int(np.flatnonzero(longer)[0])]
        raise TilthError(f"{word.decode(errors='replace')!r} has no new token and is cut otherwise")
    size = int((np.diff(words.bounds) * words.counts).sum())
    if change.base.family == "bpe":  # a metaspace takes three bytes and stands for one
        spaces = np.flatnonzero(
            (words.text[:-2] == _METASPACE[0]) & (words.text[1:-1] == _METASPACE[1]) & (words.text[2:] == _METASPACE[2])
        )
        size -= 2 * int(words.counts[np.searchsorted(words.bounds, spaces, side="right") - 1].sum())
    return {
        "words": int(words.counts.sum()),
        "words_cut_otherwise": round(float(words.counts[touched].sum() / words.counts.sum()), 6),
        "bytes_per_token": {"before": round(size / old.tokens(), 4), "after": round(size / now.tokens(), 4)},
    }


def expansion_of(change: Change, method: Literal["add", "replace", "prune"], counts: Counts) -> Expansion:
    """What a model's embedding has to know of the change; with uses of tokens where there are words."""
    base, grown = change.base, change.grown
    before, after = changeable(base, base.compiled), changeable(grown, grown.compiled)
    known = len(counts.counts) > 0
    return Expansion(
        method=method,
        base_size=base.size,
        size=grown.size,
        old_to_new=None if method == "add" else tuple(change.moves.tolist()),
        new_rows=tuple(change.new),
        parts=tuple(tuple(before.encoder.segment(_bytes(grown, index))) for index in change.new),
        counts=tuple(segmented(after.encoder, counts).uses(grown.size).tolist()) if known else None,
        base_counts=tuple(segmented(before.encoder, counts).uses(base.size).tolist()) if known else None,
    )


def _bytes(tokenizer: Tokenizer, index: int) -> bytes:
    """What the encoder is given for a token: bytes, or characters with their metaspaces."""
    token = tokenizer.tokens[index]
    return tokenizer.bytes_of(token) if tokenizer.family == "byte-bpe" else token.encode()
