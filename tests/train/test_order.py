"""The order of samples: integers that can be turned round, even at any place, and as quick at 10^12 as at 0."""

import itertools
import math
import random
import time
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tilth.train.data.order import Place, Visit, counted, joined, key_of, permuted, split, unpermuted

HUGE = 10**13
keys = st.integers(0, 2**64 - 1)
mixtures = st.lists(st.integers(0, 40) | st.integers(0, 3), min_size=1, max_size=12).filter(any)


# --- The permutation ------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 400), keys)
def test_a_permutation_puts_each_index_at_a_place_of_its_own_and_is_turned_round(size, key) -> None:
    places = [permuted(index, size, key) for index in range(size)]
    assert sorted(places) == list(range(size))
    assert [unpermuted(place, size, key) for place in places] == list(range(size))


@pytest.mark.parametrize("size", [63, 64, 65, 4**6 - 1, 4**6, 4**6 + 1])
def test_around_powers_of_four_it_is_a_permutation_too(size) -> None:
    assert sorted(permuted(index, size, 9) for index in range(size)) == list(range(size))


@settings(deadline=None)
@given(st.integers(1, HUGE).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))), keys)
@example((HUGE, HUGE - 1), 0)
@example((2**42, 2**42 - 1), 2**64 - 1)
@example((1, 0), 5)
def test_of_any_size_it_stays_within_and_is_turned_round(drawn, key) -> None:
    size, index = drawn
    place = permuted(index, size, key)
    assert 0 <= place < size
    assert unpermuted(place, size, key) == index
    assert permuted(unpermuted(index, size, key), size, key) == index


def test_another_key_is_another_order() -> None:
    orders = {tuple(permuted(index, 50, key) for index in range(50)) for key in range(500)}
    assert len(orders) == 500
    told = {key_of(seed, pool, epoch) for seed in (0, 1) for pool in ("a", "b", "a\0", "语") for epoch in range(50)}
    assert len(told) == 2 * 4 * 50
    assert key_of(7, "web", 2) == key_of(7, "web", 2)
    key_of(0, "half \udc80", 0)  # any name that a part can have


@pytest.mark.parametrize("size", [5, 10, 100, 4097])
def test_each_place_is_as_likely_as_another_for_every_index(size) -> None:
    """Chi-square of an index's places over many keys, in at most 20 bins; and of where its neighbour goes."""
    draws, bins = 1500, min(size, 20)
    for index in (0, size // 2, size - 1):
        found = Counter(permuted(index, size, key_of(3, "x", epoch)) * bins // size for epoch in range(draws))
        _even(found, [len(range(-(-b * size // bins), -(-(b + 1) * size // bins))) / size for b in range(bins)], draws)
    if size < 20:
        return
    apart = [(permuted(1, size, key) - permuted(0, size, key)) % size for key in range(draws)]
    assert 0 not in apart
    _even(Counter((each - 1) * 10 // (size - 1) for each in apart), [0.1] * 10, draws, slack=0.2)


def test_one_order_keeps_no_neighbours_together() -> None:
    places = [permuted(index, 20_000, 77) for index in range(20_000)]
    near = sum(abs(one - other) < 200 for one, other in itertools.pairwise(places))
    assert abs(near - 0.02 * 20_000) < 5 * math.sqrt(0.02 * 20_000)
    halves = sum(place < 10_000 for place in places[:10_000])
    assert abs(halves - 5000) < 5 * math.sqrt(20_000 / 16)


def _even(found: Counter[int], shares: list[float], draws: int, slack: float = 0.0) -> None:
    """A chi-square below 6 standard deviations above what chance gives (and so far beyond it as shares are rough)."""
    assert sum(found.values()) == draws
    square = sum((found[b] - share * draws) ** 2 / (share * draws) for b, share in enumerate(shares))
    degrees = len(shares) - 1
    assert square < (degrees + 6 * math.sqrt(2 * degrees)) * (1 + slack), (square, degrees)


# --- Which pool -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(mixtures)
def test_pools_have_their_samples_in_order_and_their_numbers_exactly(counts) -> None:
    had = [0] * len(counts)
    for position in range(sum(counts)):
        assert counted(position, counts) == had
        pool, ordinal = split(position, counts)
        assert ordinal == had[pool]
        assert joined(pool, ordinal, counts) == position
        had[pool] += 1
    assert had == counts == counted(sum(counts), counts)
    with pytest.raises(IndexError):
        split(sum(counts), counts)


def bound(pools: int) -> float:
    """How far a pool may be from its share: each split rounds by half a sample, of which a pool that is shared out
    after others has its part: at most a half, a third, a quarter, ... as it is none of the larger ones."""
    return (1 + sum(1 / number for number in range(1, pools))) / 2 if pools > 1 else 0.5


@settings(deadline=None)
@given(mixtures, st.data())
def test_at_every_position_each_pool_has_had_its_share_but_for_a_sample_or_so(counts, data) -> None:
    total = sum(counts)
    position = data.draw(st.integers(0, total))
    for had, count in zip(counted(position, counts), counts, strict=True):
        assert abs(had - position * count / total) <= bound(sum(each > 0 for each in counts)) + 1e-9


@pytest.mark.parametrize("pools", [2, 20, 100])
@pytest.mark.parametrize("spread", [0, 1, 4])
def test_of_many_pools_of_any_sizes_none_is_two_samples_from_its_share(pools, spread) -> None:
    chance = random.Random(pools + spread)
    counts = [int(10 ** chance.uniform(6 - spread, 6)) for _ in range(pools)]
    total = sum(counts)
    for position in [chance.randrange(total) for _ in range(200)]:
        had = counted(position, counts)
        assert sum(had) == position
        assert max(abs(each - position * count / total) for each, count in zip(had, counts, strict=True)) < 1.6


@pytest.mark.parametrize("counts", [[20] * 50 + [9000], [9000] + [20] * 50, [3000, *[20] * 50, 6000]])
def test_small_pools_do_not_all_come_at_the_same_time(counts) -> None:
    small = [counts[split(position, counts)[0]] == 20 for position in range(sum(counts))]
    batches = [sum(small[first : first + 100]) for first in range(0, 9900, 100)]
    assert min(batches) >= 9
    assert max(batches) <= 11


# --- A visit --------------------------------------------------------------------------------------------------------

segments = st.lists(st.tuples(st.integers(1, 60), st.sampled_from([1, 2, 3, 4])), min_size=1, max_size=6)


@settings(deadline=None)
@given(st.integers(1, 15), segments)
def test_visits_go_on_where_others_ended_and_read_each_piece_of_an_epoch_once(cells, told) -> None:
    """Only of a visit's last cells pieces may be left: those who come later begin with a cell of their own."""
    first, read = 0, Counter[tuple[int, int, int, int]]()
    pieces_of: dict[int, int] = {}  # of each cell, counted through all epochs
    left = 0
    for samples, pieces in told:
        visit = Visit(first, samples, cells, pieces)
        places = [visit.place(ordinal) for ordinal in range(samples)]
        assert [visit.ordinal(place) for place in places] == list(range(samples))
        assert len(set(places)) == samples
        for place in places:
            assert 0 <= place.turn < cells
            assert 0 <= place.piece < pieces
            cell = place.epoch * cells + place.turn
            assert first <= cell < visit.stop
            assert pieces_of.setdefault(cell, pieces) == pieces
            read[place.epoch, place.turn, place.piece, pieces] += 1
        assert [place.epoch for place in places] == sorted(place.epoch for place in places)
        left += (visit.stop - first) * pieces - samples
        assert (visit.stop - first) * pieces - samples < pieces
        first = visit.stop
    assert set(read.values()) == {1}
    wanted = sum(pieces_of.values())
    assert set(pieces_of) == set(range(first))
    assert len(read) == wanted - left


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(0, 40), st.integers(1, 60), st.integers(1, 4), st.data())
def test_what_a_visit_does_not_read_has_no_number(cells, first, samples, pieces, data) -> None:
    visit = Visit(first, samples, cells, pieces)
    read = {visit.place(ordinal): ordinal for ordinal in range(samples)}
    epoch = data.draw(st.integers(0, (first + samples) // cells + 1))
    place = Place(epoch, data.draw(st.integers(0, cells - 1)), data.draw(st.integers(0, pieces - 1)))
    assert visit.ordinal(place) == read.get(place)


def test_of_long_cells_the_first_pieces_come_first() -> None:
    visit = Visit(3, 6, 5, 2)  # two cells of the first epoch, one of the second
    assert [visit.place(each) for each in range(6)] == [
        Place(0, 3, 0), Place(0, 4, 0), Place(0, 3, 1), Place(0, 4, 1), Place(1, 0, 0), Place(1, 0, 1)
    ]  # fmt: skip


# --- Its cost -------------------------------------------------------------------------------------------------------


def test_any_position_of_ten_to_the_thirteen_is_found_in_a_millisecond() -> None:
    counts = [HUGE * share // 100 for share in (60, 25, 10, 4, 1)]
    visit = Visit(10**6, counts[0], 10**11, 4)
    small = Visit(0, counts[0], 7)  # ever so many epochs

    def there_and_back(position: int) -> None:
        pool, ordinal = split(position, counts)
        for each in (visit, small):
            place = each.place(ordinal)
            key = key_of(1, "web", place.epoch)
            cell = permuted(place.turn, each.cells, key)
            assert each.ordinal(place._replace(turn=unpermuted(cell, each.cells, key))) == ordinal
        assert joined(pool, ordinal, counts) == position

    taken = []
    for position in range(10**12, 10**12 + 50):
        begun = time.process_time()
        there_and_back(position)
        taken.append(time.process_time() - begun)
    assert sorted(taken)[25] < 1e-3
