"""Documents into samples: nothing lost, nothing twice, little padding, and figures that a plain count confirms."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.train.data.pack import Bins, best_fit, bounds, bucketed, buckets, concatenated, padded
from tilth.train.data.shards import Sample
from tilth.train.objective.language import LanguageModel

documents = st.lists(st.integers(0, 40), min_size=1, max_size=30).map(lambda lengths: np.array(lengths, np.int64))
lengths_of_model = st.integers(1, 20)
overlaps = st.integers(0, 1)


def web(count: int, seed: int = 0) -> np.ndarray:
    """Lengths as web pages have them."""
    return np.maximum(1, np.random.default_rng(seed).lognormal(np.log(450), 1.1, count)).astype(np.int64)


def rows(bins: Bins) -> list[list[tuple[int, int, int]]]:
    """The pieces of each sample: document, first token, tokens."""
    pieces = list(zip(bins.documents.tolist(), bins.firsts.tolist(), bins.counts.tolist(), strict=True))
    return [pieces[first:stop] for first, stop in zip(bins.starts[:-1], bins.starts[1:], strict=True)]


def whole(bins: Bins, lengths: np.ndarray) -> set[int]:
    """Documents that a sample has whole."""
    return {document for row in rows(bins) for document, _, count in row if count == lengths[document]}


@given(documents, lengths_of_model, overlaps, st.sampled_from([1, 3, 7, 1000]))
@settings(max_examples=150, deadline=None)
def test_best_fit_has_every_token_and_says_what_it_costs(lengths, length, overlap, window) -> None:
    bins, size = best_fit(lengths, length, overlap, window), length + overlap
    seen = [np.zeros(count, int) for count in lengths]
    for row in rows(bins):
        assert 0 < sum(count for _, _, count in row) <= size
        assert [piece[:2] for piece in row] == sorted(piece[:2] for piece in row)
        for document, first, count in row:
            assert count > 0
            assert first % length == 0
            seen[document][first : first + count] += 1
    for count, times in zip(lengths, seen, strict=True):
        shared = np.arange(count) % length == 0 if overlap else np.zeros(count, bool)  # between two pieces
        if overlap and count:
            shared[[0, -1]] = False
        assert np.array_equal(times, 1 + shared)
    figures = bins.figures
    assert figures.samples == len(bins.starts) - 1
    assert (figures.places, figures.lost) == (figures.samples * size, 0)
    assert figures.places - figures.padding == bins.counts.sum()
    assert figures.cut == np.count_nonzero(lengths) - len(whole(bins, lengths))


@given(documents, lengths_of_model)
@settings(max_examples=60, deadline=None)
def test_each_token_but_a_documents_first_is_a_target_once(lengths, length) -> None:
    text = np.arange(lengths.sum())  # each of them once
    begins = np.cumsum(lengths) - lengths
    made = []
    for row in rows(best_fit(lengths, length)):
        tokens, numbers = np.zeros(length + 1, np.int64), np.zeros(length + 1, np.int32)
        at = 0
        for number, (document, first, count) in enumerate(row, 1):
            tokens[at : at + count] = text[begins[document] + first :][:count]
            numbers[at : at + count] = number
            at += count
        made.append(Sample(tokens, numbers, 0))
    if made:
        batch = LanguageModel().arrays(made)
        targets = np.sort(batch["labels"][batch["weights"] > 0])
        assert np.array_equal(targets, np.setdiff1d(text, begins[lengths > 0]))


def test_a_piece_goes_where_it_leaves_the_least_room() -> None:
    bins = best_fit(np.array([6, 7, 3, 4, 2, 1, 10]), 10, overlap=0)
    assert rows(bins) == [[(6, 0, 10)], [(1, 0, 7), (2, 0, 3)], [(0, 0, 6), (3, 0, 4)], [(4, 0, 2), (5, 0, 1)]]


@given(documents, lengths_of_model)
@settings(max_examples=100, deadline=None)
def test_a_new_sample_is_begun_only_for_what_fits_into_none(lengths, length) -> None:
    """Held against the plain rule: piece by piece, the largest first, over all samples that there are."""
    size = length + 1
    rooms: list[int] = []
    for count in sorted(best_fit(lengths, length).counts.tolist(), reverse=True):
        fitting = [place for place, room in enumerate(rooms) if room >= count]
        if fitting:
            rooms[min(fitting, key=lambda place: rooms[place])] -= count
        else:
            rooms.append(size - count)
    found = [size - sum(count for _, _, count in row) for row in rows(best_fit(lengths, length))]
    assert sorted(found) == sorted(rooms)


def test_pages_are_packed_nearly_without_padding_and_neighbours_stay_near() -> None:
    lengths = web(60_000)
    bins = best_fit(lengths, 2048, window=20_000)
    assert bins.figures.padding_share < 0.001
    spread = np.maximum.reduceat(bins.documents, bins.starts[:-1]) - bins.documents[bins.starts[:-1]]
    assert spread.max() < 20_000


def test_a_window_is_packed_by_what_is_in_it_alone() -> None:
    lengths = np.minimum(web(3000), 2000)  # a piece each
    apart = [rows(best_fit(part, 2048)) for part in (lengths[:1000], lengths[1000:2000], lengths[2000:])]
    moved = [
        [[(number + 1000 * at, *piece) for number, *piece in row] for row in part] for at, part in enumerate(apart)
    ]
    assert rows(best_fit(lengths, 2048, window=1000)) == [row for part in moved for row in part]


@given(documents, lengths_of_model, overlaps)
def test_padded_samples_have_the_head_of_each_document(lengths, length, overlap) -> None:
    bins, size = padded(lengths, length, overlap), length + overlap
    there = [(number, 0, min(count, size)) for number, count in enumerate(lengths.tolist()) if count]
    assert rows(bins) == [[piece] for piece in there]
    kept = sum(count for _, _, count in there)
    cut = sum(count > size for count in lengths.tolist())
    assert bins.figures == (len(there), len(there) * size, len(there) * size - kept, lengths.sum() - kept, cut)


@given(documents, lengths_of_model, overlaps)
def test_the_figures_of_concatenation_are_those_of_a_plain_cut(lengths, length, overlap) -> None:
    of = np.repeat(np.arange(len(lengths)), lengths)  # the document of each token
    samples = [of[first : first + length + overlap] for first in range(0, max(len(of) - overlap, len(of) > 0), length)]
    uncut = {number for row in samples for number in set(row) if (row == number).sum() == lengths[number]}
    figures = concatenated(lengths, length, overlap)
    assert figures.samples == len(samples)
    assert figures.places - figures.padding == len(of)
    assert figures.padding == (length + overlap - len(samples[-1]) if samples else 0)
    assert figures.cut == np.count_nonzero(lengths) - len(uncut)


@given(documents.filter(np.any), st.sampled_from([8, 24, 30, 32]), st.integers(1, 4), overlaps)
@settings(max_examples=100, deadline=None)
def test_no_other_classes_of_length_lose_less_to_padding(lengths, length, number, overlap) -> None:
    found = bounds(lengths, length, number, overlap)
    assert len(found) <= number
    assert all(bound % 8 == 0 or bound == length for bound in found)
    assert found.tolist() == sorted(set(found.tolist()))
    widths = sorted({*range(8, length, 8), length})
    kept = np.minimum(lengths, length + overlap)[lengths > 0]  # what is beyond the length is lost in any case
    wide = [width for width in widths if width + overlap >= kept.max()]
    ways = [chosen for few in range(1, number + 1) for chosen in combinations(widths, few) if chosen[-1] in wide]
    least = min(bucketed(kept, np.array(way), overlap).padding for way in ways)
    assert bucketed(lengths, found, overlap).padding == least


@given(documents, overlaps)
def test_a_document_is_of_the_first_class_that_it_fits_into(lengths, overlap) -> None:
    classes = np.array([8, 16, 24])
    expected = [next((at for at in range(3) if count <= classes[at] + overlap), 2) for count in lengths]
    assert buckets(lengths, classes, overlap).tolist() == expected
    figures = bucketed(lengths, classes, overlap)
    pairs = [(count, classes[at] + overlap) for count, at in zip(lengths, expected, strict=True) if count]
    assert figures.places == sum(size for _, size in pairs)
    assert figures.padding == sum(max(0, size - count) for count, size in pairs)
    assert figures.lost == sum(max(0, count - size) for count, size in pairs)


@pytest.mark.parametrize("length", [2048, 131072])  # the latter with more than 512 multiples of 8
def test_classes_of_length_are_found_at_once_and_save_most_of_the_padding(length) -> None:
    lengths = web(50_000)
    alone, classed = padded(lengths, length).figures, bucketed(lengths, bounds(lengths, length, 8))
    assert classed.lost == alone.lost
    assert classed.padding_share < 0.35 < 0.65 < alone.padding_share


def test_a_pool_without_tokens_makes_no_samples() -> None:
    nothing = np.zeros(3, np.int64)
    assert [best_fit(nothing, 8).figures, padded(nothing, 8).figures, concatenated(nothing, 8)] == [(0, 0, 0, 0, 0)] * 3
    assert best_fit(nothing, 8).figures.padding_share == 0
