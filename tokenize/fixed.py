"""Rows of one length, truncated and padded: what BERT and GPT take where documents are not packed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tilth.errors import UsageError


class Frame(NamedTuple):
    """Ids of the special tokens that stand around a text."""

    begin: int | None  # BERT's [CLS]; GPT has none
    end: int  # BERT's [SEP], GPT's end of text
    pad: int


class Fixed(NamedTuple):
    """n texts as rows of one length."""

    ids: np.ndarray  # int32[n, length]
    mask: np.ndarray  # bool[n, length], false where a row is padded


def fixed(ids: Sequence[np.ndarray], length: int, around: Frame) -> Fixed:
    """The ids of texts, which have no special tokens, as rows of `length`: begin and end around each, padded behind.

    A longer text loses its end, never its special tokens. Raises UsageError for a length that they alone exceed.
    """
    start = 0 if around.begin is None else 1
    room = length - start - 1
    if room < 0:
        raise UsageError(f"rows of {length} tokens have no room for {start + 1} special ones; ask for longer rows")
    kept = np.array([min(len(one), room) for one in ids], np.int64)
    rows = np.full((len(ids), length), around.pad, np.int32)
    columns, ends = np.arange(length), (start + kept)[:, None]
    rows[(columns >= start) & (columns < ends)] = np.concatenate([np.zeros(0, np.int32), *(one[:room] for one in ids)])
    np.put_along_axis(rows, ends, around.end, axis=1)
    if around.begin is not None:
        rows[:, 0] = around.begin
    return Fixed(rows, columns <= ends)


def around(ids: np.ndarray, lengths: np.ndarray, begin: int | None, end: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The documents with a token before or behind each, and their new lengths."""
    longer = lengths + (begin is not None) + (end is not None)
    stops = np.cumsum(longer)
    made = np.empty(int(longer.sum()), np.int32)
    inner = np.ones(len(made), bool)
    for token, places in ((begin, stops - longer), (end, stops - 1)):
        if token is not None:
            made[places] = token
            inner[places] = False
    made[inner] = ids
    return made, longer
