"""Token shards as a source: the mixture that was asked for, each document once an epoch, for any ranks at any step."""

import itertools
import random
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from test_shards import foreign

from tilth.tokenize.encode import write_index
from tilth.train.batches import Cut
from tilth.train.data.build import Chosen, How, build
from tilth.train.data.order import DataStep
from tilth.train.data.shards import Piece, TokenShards
from tilth.train.data.tokens import TokenSource, known_of
from tilth.train.plan import Known, Plan, Stage, compiled, rises

SIZE = 8
SHARES = np.array([0.6, 0.4])
STAGES = {
    "short": Stage(tokens=60 * SIZE * 64, length=64),
    "long": Stage(tokens=150 * SIZE * 128),
    "end": Stage(tokens=40 * 16 * 128, size=16),
}


class Made(NamedTuple):
    folder: Path
    plan: Plan
    lengths: dict[str, int]  # of each document
    pools: dict[str, set[str]]  # its documents

    def source(self, seed: int = 3) -> TokenSource:
        return TokenSource(self.folder, self.plan, seed)


def prepared(
    folder: Path, packing: str, stages: dict[str, Stage] = STAGES, lengths: tuple[int, ...] = (128, 64)
) -> Made:
    """Two pools, of which one has many documents and one few, so that it is seen again and again."""
    chance = random.Random(1)
    files = [[chance.choice([3, 40, 90, 200]) for _ in range(count)] for count in (500, 60, 500)]
    for number, file in enumerate(files):
        foreign(folder / f"shards/file{number}", [[chance.randrange(60_000) for _ in range(each)] for each in file])
    shards = TokenShards([str(folder / "shards")])
    ids = list(itertools.chain.from_iterable(shards.ids()))
    few = np.arange(500, 560)
    chosen = [Chosen("web", np.setdiff1d(np.arange(len(ids)), few)), Chosen("books", few)]
    data = folder / "data"
    data.mkdir()
    made = build(shards, chosen, np.zeros(len(ids), bool), How(packing, lengths), False, data)
    of, places = (
        np.array([each["source"] for each in made]),
        np.array([each["cells"] * each["length"] for each in made]),
    )
    share = SHARES[of] * places / np.bincount(of, places)[of]  # a pool's, given on to its length classes
    stretches, found = rises(stages, SIZE, 128, None)
    plan = compiled(
        stretches, found, {each: each for each in lengths}, [share] * len(stages), list(map(known_of, made))
    )
    names = {each.name: {ids[at] for at in each.documents.tolist()} for each in chosen}
    return Made(data, plan, dict(zip(ids, shards.table.lengths.tolist(), strict=True)), names)


@pytest.fixture(scope="module", params=["concat", "best-fit"])
def made(request, tmp_path_factory) -> Made:
    return prepared(tmp_path_factory.mktemp(request.param), request.param)


def slots(plan: Plan, at: DataStep) -> range:
    return range(plan.segments[at.segment].size)


def read(source: TokenSource) -> list[tuple[int, int, str, int, list[Piece]]]:
    """All samples of the plan in order: step, slot, pool, epoch, pieces."""
    found = []
    for step in range(source.plan.steps):
        at = source.plan.at(step)
        for slot, one in enumerate(source.pieces(at, slots(source.plan, at))):
            found.append((step, slot, *one))
    return found


# --- The mixture ----------------------------------------------------------------------------------------------------


def test_the_mixture_is_the_asked_one_within_a_thousandth_in_every_stage_and_step_by_step(made) -> None:
    source = made.source()
    by_stage: dict[int, Counter[str]] = defaultdict(Counter)
    steps: dict[int, int] = Counter()
    for step, _, pool, *_ in read(source):
        by_stage[made.plan.stage_at(step)][pool] += 1
        steps[step] += pool == "web"
    assert sum(map(Counter.total, by_stage.values())) == 60 * 8 + 150 * 8 + 40 * 16
    for found in by_stage.values():
        assert abs(found["web"] / found.total() - 0.6) < 0.001
    size = [made.plan.segments[made.plan.at(step).segment].size for step in range(made.plan.steps)]
    assert all(abs(web - 0.6 * size[step]) <= 1 for step, web in steps.items()), "no step is of one pool"


def test_a_sample_is_of_the_pool_and_the_documents_that_are_told(made) -> None:
    source = made.source()
    tokens = TokenShards([str(made.folder.parent / "shards")]).store
    for step in range(0, made.plan.steps, 7):
        at = made.plan.at(step)
        length = made.plan.segments[at.segment].length
        samples, told = source.read(at, slots(made.plan, at)), source.pieces(at, slots(made.plan, at))
        for sample, (pool, _, pieces) in zip(samples, told, strict=True):
            assert source.sources[sample.source] == pool
            assert sample.tokens.shape == (length + 1,)
            assert {piece.id for piece in pieces} <= made.pools[pool]
            starts = np.array([tokens.spans(piece.id)[0][0] + piece.first for piece in pieces])
            counts = np.array([piece.stop - piece.first for piece in pieces])
            assert sample.tokens[sample.documents > 0].tolist() == tokens.read(starts, counts).tolist()


# --- Epochs ---------------------------------------------------------------------------------------------------------


def test_each_token_of_an_epoch_is_read_once_and_what_one_stage_has_read_counts_in_the_next(made) -> None:
    source = made.source()
    covered: dict[tuple[str, int], Counter[tuple[str, int]]] = defaultdict(Counter)
    epochs: dict[str, list[int]] = defaultdict(list)
    stages: dict[tuple[str, int], set[int]] = defaultdict(set)
    for step, _, pool, epoch, pieces in read(source):
        count = sum(piece.stop - piece.first for piece in pieces)
        length = made.plan.segments[made.plan.at(step).segment].length
        targets = [(piece.id, at) for piece in pieces for at in range(piece.first, piece.stop)]
        # a full sample's last token is the next one's first
        covered[pool, epoch].update(targets[:-1] if count == length + 1 else targets)
        epochs[pool].append(epoch)
        stages[pool, epoch].add(made.plan.stage_at(step))
    for pool, numbers in epochs.items():
        assert numbers == sorted(numbers), "one epoch after the other"
        assert set(numbers) == set(range(1, max(numbers) + 1))
        whole = {(id_, at) for id_ in made.pools[pool] for at in range(made.lengths[id_])}
        for epoch in range(1, max(numbers)):  # the last one is not read to its end
            found = covered[pool, epoch]
            twice = sum(found.values()) - len(found)
            assert found.keys() <= whole
            # a packed bin has its own last token, which no other sample begins with
            assert len(whole) - len(found) <= len(whole) * 0.01, "but for what is a target alone"
            assert not twice or "best-fit" in str(made.folder)
            ids = {id_ for id_, _ in found}
            assert ids == made.pools[pool], "every document"
    assert max(epochs["books"]) > 10
    assert any(len(found) > 1 for found in stages.values()), "an epoch goes on in the next stage"


def test_concatenated_every_token_of_every_full_epoch_is_read_exactly_once(tmp_path) -> None:
    """With samples of one length nothing is left: as many as two whole epochs, counted by the places in the shards."""
    one = prepared(
        tmp_path, "concat", {"first": Stage(tokens=150 * 8 * 128), "second": Stage(tokens=100 * 8 * 128)}, (128,)
    )
    source = one.source()
    cells = {known.name: known.cells for known in source.known}
    covered: dict[tuple[str, int], Counter[tuple[str, int]]] = defaultdict(Counter)
    samples: Counter[tuple[str, int]] = Counter()
    for _, _, pool, epoch, pieces in read(source):
        targets = [(piece.id, at) for piece in pieces for at in range(piece.first, piece.stop)]
        covered[pool, epoch].update(targets[:-1] if len(targets) == 129 else targets)
        samples[pool, epoch] += 1
    full = [key for key, count in samples.items() if count == cells[key[0]]]
    assert len(full) > 10
    assert {"web", "books"} == {pool for pool, _ in full}
    for pool, epoch in full:
        expected = sum(one.lengths[id_] for id_ in one.pools[pool])
        assert set(covered[pool, epoch].values()) == {1}
        assert len(covered[pool, epoch]) in (expected, expected - 1)  # where the last token fills a sample


def test_each_epoch_has_another_order_and_so_has_each_seed(made) -> None:
    def order(seed: int) -> dict[int, list[str]]:
        orders: dict[int, list[str]] = defaultdict(list)
        for _, _, pool, epoch, pieces in read(made.source(seed)):
            if pool == "books":
                orders[epoch].append(pieces[0].id if pieces else "")
        return orders

    one, other = order(3), order(4)
    assert one[4] != one[5]
    assert one[4] != other[4]
    assert one == order(3)


# --- Any ranks, any step --------------------------------------------------------------------------------------------


def test_the_sequence_of_samples_is_equal_for_any_ranks_and_in_whatever_order_steps_are_asked_for(made) -> None:
    steps = list(range(made.plan.steps))
    found: dict[tuple[int, bool], dict[int, list[tuple[str, int, list[Piece]]]]] = {}
    for ranks in (1, 2, 4):
        for mixed in (False, True):
            if mixed:
                random.Random(ranks).shuffle(steps)
            source, told = made.source(), {}
            for step in steps[:60] if mixed else steps:
                at = made.plan.at(step)
                cut = Cut(made.plan.segments[at.segment].size, 1, ranks, 0)
                told[step] = [one for rank in range(ranks) for one in source.pieces(at, cut._replace(rank=rank).slots)]
            found[ranks, mixed] = told
    whole = found[1, False]
    assert found[2, False] == found[4, False] == whole
    for ranks in (1, 2, 4):
        assert all(one == whole[step] for step, one in found[ranks, True].items())


def test_the_tokens_of_a_slot_are_equal_whoever_reads_it(made) -> None:
    at = made.plan.at(100)
    whole = made.source().read(at, range(8))
    parts = [made.source().read(at, Cut(8, 2, 4, rank).slots) for rank in range(4)]
    for one, other in zip(whole, itertools.chain.from_iterable(parts), strict=True):
        assert one.source == other.source
        assert np.array_equal(one.tokens, other.tokens)
        assert np.array_equal(one.documents, other.documents)


# --- Which step saw a document --------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", ["concat", "best-fit", "padded", "buckets"])
def test_the_steps_that_read_a_document_are_found_as_by_looking_at_all(packing, tmp_path) -> None:
    lengths = {"concat": (128, 64), "best-fit": (128, 64), "padded": (128,), "buckets": (128, 64, 32)}[packing]
    stages = (
        STAGES if len(lengths) == 2 else {"only": Stage(tokens=100 * SIZE * 128), "more": Stage(tokens=50 * SIZE * 128)}
    )
    one = prepared(tmp_path, packing, stages, lengths)
    source = one.source()
    looked: dict[str, set[tuple[DataStep, int]]] = defaultdict(set)
    for step, slot, _, _, pieces in read(source):
        for piece in pieces:
            looked[piece.id].add((one.plan.at(step), slot))
    chance = random.Random(0)
    for id_ in [*chance.sample(sorted(one.pools["web"]), 12), *chance.sample(sorted(one.pools["books"]), 12)]:
        found = list(source.reading(id_))
        assert len(found) == len(set(found))
        assert set(found) == looked[id_]
    assert any(len(looked[id_]) > 5 for id_ in one.pools["books"])
    assert not list(source.reading("nobody"))


def test_a_step_that_reads_two_documents_of_one_name_is_found_once(tmp_path) -> None:
    place = foreign(tmp_path / "x", [[1, 2], [3, 4, 5]])
    shards = TokenShards([place] * 9)
    build(shards, [Chosen("all", np.arange(18))], np.zeros(18, bool), How("concat", [16]), True, tmp_path)
    stretches, found = rises({"only": Stage(tokens=96)}, 2, 16, None)
    plan = compiled(stretches, found, {16: 16}, [np.ones(1)], [Known("all", 3, 16)])
    found = sorted(TokenSource(tmp_path, plan, 0).reading("x-1"))
    assert found == [(DataStep(0, step), slot) for step in range(3) for slot in range(2)]


# --- Buckets --------------------------------------------------------------------------------------------------------


def test_steps_of_shorter_samples_have_as_many_more_of_them(tmp_path) -> None:
    one = prepared(tmp_path, "buckets", {"only": Stage(tokens=200 * SIZE * 128)}, (128, 64, 32))
    source, seen = one.source(), Counter[tuple[str, int, str]]()
    for step in range(one.plan.steps):
        at = one.plan.at(step)
        samples = source.read(at, slots(one.plan, at))
        assert len({sample.tokens.shape for sample in samples}) == 1
        assert len(samples) * (len(samples[0].tokens) - 1) == SIZE * 128
        for pool, epoch, pieces in source.pieces(at, slots(one.plan, at)):
            assert len(pieces) == 1
            seen[pool, epoch, pieces[0].id] += 1
    assert set(seen.values()) == {1}, "a document is read once an epoch"
    ids = {id_ for _, epoch, id_ in seen if epoch == 1}
    assert len(ids & one.pools["books"]) == len(one.pools["books"])


# --- What opening costs ---------------------------------------------------------------------------------------------


def test_opening_and_the_first_step_take_no_time_that_grows_with_the_tokens(tmp_path) -> None:
    """Shards of 2 x 10^10 tokens, all zeros, that take no room on the disk."""
    places, documents = [], 1000
    for number in range(10):
        place = tmp_path / f"shards/{number}"
        foreign(place, [[0]])
        write_index(Path(f"{place}.idx"), np.full(documents, 2 * 10**6), np.dtype(np.uint16))
        with open(f"{place}.bin", "wb") as file:
            file.truncate(documents * 2 * 10**6 * 2)
        places.append(str(place))
    shards = TokenShards(places)
    data = tmp_path / "data"
    data.mkdir()
    everything = [Chosen("all", np.arange(len(shards)))]
    made = build(shards, everything, np.zeros(len(shards), bool), How("concat", [4096]), True, data)
    assert made[0]["tokens"] == 2 * 10**10
    stretches, found = rises({"only": Stage(tokens=2e10)}, 256, 4096, None)
    plan = compiled(stretches, found, {4096: 4096}, [np.ones(1)], [known_of(made[0])])
    begun = time.process_time()
    source = TokenSource(data, plan, 0)
    source.read(plan.at(0), range(4))
    source.read(plan.at(plan.steps - 1), range(4))
    assert time.process_time() - begun < 1
