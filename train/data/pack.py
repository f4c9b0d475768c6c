"""Documents into samples: packed best-fit, padded alone, in classes of length; and what each way wastes.

All of it follows from the documents' lengths: no token is looked at. Concatenate and cut needs no plan, which is why
only its figures are here; it is done in `pools.py`.

A model that reads `length` tokens is given samples of `length + overlap` tokens. `overlap` is 1 for a language model,
whose last token is a target alone, and 0 for objectives that leave a sample's last token to the next one. It is also
how many tokens two pieces of a document have in common. So each token of a document but the first is a target once.
"""

from typing import NamedTuple

import numpy as np

from ...curate.dedup.shingle import compiled

WINDOW = 2**17  # pieces that are packed together: neighbours stay near, and memory is bounded
_WIDTHS = 512  # of length classes, among which `bounds` chooses


class Figures(NamedTuple):
    """What a way to make samples of documents costs."""

    samples: int
    places: int  # for tokens, in all samples
    padding: int  # of these
    lost: int  # tokens that are in no sample
    cut: int  # documents that no sample has whole

    @property
    def padding_share(self) -> float:
        return self.padding / self.places if self.places else 0.0


class Bins(NamedTuple):
    """Samples as pieces of documents: sample i has the pieces `starts[i]` to `starts[i + 1]`, documents ascending."""

    documents: np.ndarray  # int64[pieces]: index of the document
    firsts: np.ndarray  # int64[pieces]: the piece's first token, counted within the document
    counts: np.ndarray  # int64[pieces]: its tokens
    starts: np.ndarray  # int64[samples + 1]
    figures: Figures


def best_fit(lengths: np.ndarray, length: int, overlap: int = 1, window: int = WINDOW) -> Bins:
    """Packs documents of those lengths (int64) whole where they fit into a sample; nothing is dropped.

    Longer ones are first cut into pieces of a sample's size, of which the last is what is left. In every window of
    neighbouring pieces the largest come first, each into the sample with the least room that it fits into (Ding et al.
    2024, "Fewer Truncations Improve Language Modeling"). A window's samples follow from its pieces alone.
    """
    lengths, size = np.asarray(lengths, np.int64), length + overlap
    documents, firsts, counts = _pieces(lengths, length, overlap)
    bins, made = np.empty(len(counts), np.int64), 0
    for first in range(0, len(counts), window):
        part = slice(first, first + window)
        made = _fill(counts[part], np.argsort(-counts[part], kind="stable"), size, made, bins[part])
    order = np.argsort(bins, kind="stable")
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(bins, minlength=made), dtype=np.int64)])
    figures = Figures(made, made * size, made * size - int(counts.sum()), 0, int((lengths > size).sum()))
    return Bins(documents[order], firsts[order], counts[order], starts, figures)


def padded(lengths: np.ndarray, length: int, overlap: int = 1) -> Bins:
    """One document a sample, cut at the sample's size: what is behind is lost."""
    lengths, size = np.asarray(lengths, np.int64), length + overlap
    documents = np.flatnonzero(lengths)
    counts = np.minimum(lengths[documents], size)
    places, tokens = len(documents) * size, int(counts.sum())
    figures = Figures(len(documents), places, places - tokens, int(lengths.sum()) - tokens, int((lengths > size).sum()))
    return Bins(documents, np.zeros_like(documents), counts, np.arange(len(documents) + 1), figures)


def concatenated(lengths: np.ndarray, length: int, overlap: int = 1) -> Figures:
    """Of documents one behind the other, cut into samples wherever one ends; the last is filled up with padding."""
    lengths = np.asarray(lengths, np.int64)
    stops = np.cumsum(lengths)
    tokens = int(lengths.sum())
    samples = int(_numbers(np.array([tokens]), length, overlap)[0])
    places = samples * length + overlap if samples else 0
    cut = (lengths > 0) & (stops > ((stops - lengths) // length + 1) * length + overlap)
    return Figures(samples, places, places - tokens, 0, int(cut.sum()))


def bounds(lengths: np.ndarray, length: int, number: int, overlap: int = 1) -> np.ndarray:
    """At most `number` length classes that lose least to padding: int64, ascending, what the model reads in each.

    The best that there are among multiples of 8 (of more, where there would be over 512 of them) and `length` itself,
    by dynamic programming over where the last class begins.
    """
    lengths = np.asarray(lengths, np.int64)
    needed = np.clip(lengths[lengths > 0] - overlap, 1, length)
    step = 8 * -(-length // (8 * _WIDTHS))
    widths = np.minimum(np.arange(1, -(-int(needed.max()) // step) + 1) * step, length)
    there = np.concatenate([[0], np.cumsum(np.bincount((needed - 1) // step))])  # documents below each width
    # places of a class that begins behind width i - 1 and ends with width j; none where i > j
    cost = np.where(np.tri(len(widths), k=-1, dtype=bool), np.inf, (there[1:] - there[:-1, None]) * widths)
    least, begins = cost[0], list[np.ndarray]()
    for _ in range(min(number, len(widths)) - 1):
        totals = least[:-1, None] + cost[1:]
        begins.append(totals.argmin(axis=0))
        least = totals.min(axis=0)
    at = [len(widths) - 1]
    for begin in reversed(begins):
        at.append(int(begin[at[-1]]))
    return widths[at[::-1]]


def buckets(lengths: np.ndarray, bounds: np.ndarray, overlap: int = 1) -> np.ndarray:
    """int64[documents]: the length class of each: the first that it fits into, the last for those that fit in none."""
    return np.minimum(np.searchsorted(bounds + overlap, lengths), len(bounds) - 1)


def bucketed(lengths: np.ndarray, bounds: np.ndarray, overlap: int = 1) -> Figures:
    """Of documents each padded to the size of its class; what is beyond the last is lost."""
    lengths = np.asarray(lengths, np.int64)
    lengths = lengths[lengths > 0]
    sizes = bounds[buckets(lengths, bounds, overlap)] + overlap
    places, tokens = int(sizes.sum()), int(np.minimum(lengths, sizes).sum())
    return Figures(len(lengths), places, places - tokens, int(lengths.sum()) - tokens, int((lengths > sizes).sum()))


def _numbers(lengths: np.ndarray, length: int, overlap: int) -> np.ndarray:
    """How many pieces each document makes; none, if it is empty."""
    return np.where(lengths > 0, np.maximum(1, -(-(lengths - overlap) // length)), 0)


def _pieces(lengths: np.ndarray, length: int, overlap: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Document, first token and tokens of each piece, in the documents' order (int64)."""
    numbers = _numbers(lengths, length, overlap)
    documents = np.repeat(np.arange(len(lengths)), numbers)
    firsts = (np.arange(len(documents)) - np.repeat(np.cumsum(numbers) - numbers, numbers)) * length
    return documents, firsts, np.minimum(lengths[documents] - firsts, length + overlap)


@compiled
def _fill(counts, order, size, made, bins):
    """Gives each piece, in that order, the bin with the least room that it fits into, or a new one; new ones are
    numbered from `made` on. Fills `bins`; returns the number behind the last.

    The bins with equal room are a stack; a tree over all sizes of room finds the next that has any.
    """
    leaves = 1
    while leaves <= size:
        leaves *= 2
    some = np.zeros(2 * leaves, np.bool_)  # of each node: whether there is a bin below; leaf `leaves + r` is room r
    top = np.full(size + 1, -1, np.int64)  # the last bin with that room
    under = np.empty(len(counts), np.int64)  # of each bin: the one below it in its stack
    first = made
    for piece in order:
        count = counts[piece]
        node = leaves + count
        if not some[node]:
            while node > 1 and (node & 1 or not some[node + 1]):
                node >>= 1
            if node > 1:
                node += 1
                while node < leaves:
                    node *= 2
                    if not some[node]:
                        node += 1
        if node > 1:
            room = node - leaves
            bin_ = top[room]
            top[room] = under[bin_ - first]
            if top[room] < 0:
                some[node] = False
                while node > 1 and not some[node ^ 1]:
                    node >>= 1
                    some[node] = False
        else:
            room, bin_ = size, made
            made += 1
        bins[piece] = bin_
        left = room - count
        if left:
            under[bin_ - first] = top[left]
            top[left] = bin_
            node = leaves + left
            while node and not some[node]:
                some[node] = True
                node >>= 1
    return made
