"""Pools: every token where its way of packing puts it, pieces by the documents' names, and found again from a name."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_shards import Built, built, foreign, parts

from tilth.errors import InputError
from tilth.train.data.build import Chosen, How, build
from tilth.train.data.pools import Pool
from tilth.train.data.shards import Store, TokenShards

PACKINGS = ("concat", "best-fit", "padded", "buckets")
DRAWN = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Case(NamedTuple):
    """Two pools of some documents, of which some are held out and some are in neither pool."""

    files: list[list[int]]  # lengths of documents, of each file
    of: list[int]  # pool of each document that is not empty: 0, 1, or 2 for none
    held: list[bool]
    longest: int | None  # of the first pool
    how: How


@st.composite
def cases(draw: Any) -> Case:
    files = draw(st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=8), min_size=1, max_size=3))
    count = sum(length > 0 for file in files for length in file)
    of = draw(st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=count, max_size=count))
    held = draw(st.lists(st.sampled_from([False, False, False, True]), min_size=count, max_size=count))
    packing = draw(st.sampled_from(PACKINGS))
    lengths = [8, 4, 2] if packing == "buckets" else [draw(st.integers(1, 12))]
    return Case(files, of, held, draw(st.none() | st.integers(1, 25)), How(packing, lengths, draw(st.integers(0, 1))))


def made(folder: Path, case: Case) -> tuple[Built, dict[str, list[int]], list[str]] | None:
    """The pools, the tokens of each document, and the ids in order; None where there is too little for one sample."""
    shutil.rmtree(folder / "any", ignore_errors=True)
    told, next_token = {}, 1
    for number, lengths in enumerate(case.files):
        documents = []
        for at, length in enumerate(lengths):  # each token is another one
            documents.append(list(range(next_token, next_token + length)))
            next_token += length
            if length:
                told[f"file{number}-{at}"] = documents[-1]
        foreign(folder / f"any/file{number}", documents)
    ids, of = list(told), np.array(case.of, int)
    chosen = [Chosen("first", np.flatnonzero(of == 0), case.longest), Chosen("second", np.flatnonzero(of == 1))]
    try:
        pools = built(TokenShards([str(folder / "any")]), case.how, chosen, np.array(case.held, bool), by_label=False)
    except InputError as error:
        if "do not make one sample" in str(error):
            return None
        raise
    for at, id_ in enumerate(ids):
        if case.of[at] == 0:
            told[id_] = told[id_][: case.longest]
    return pools, told, ids


def tokens_of(pool: Pool, cell: int, length: int) -> list[int]:
    """What is not padding."""
    sample = pool.sample(cell, 0, length)
    count = int((sample.documents > 0).sum())
    assert (sample.documents[:count] > 0).all(), "padding stands behind"
    assert not sample.tokens[count:].any()
    return sample.tokens[:count].tolist()


@given(cases())
@DRAWN
def test_a_pool_has_its_own_documents_and_none_that_is_held_out_whatever_the_packing(tmp_path, case) -> None:
    if (found := made(tmp_path, case)) is None:
        return
    pools, told, ids = found
    own = [{id_ for id_, of in zip(ids, case.of, strict=True) if of == number} for number in (0, 1)]
    held = {id_ for id_, held in zip(ids, case.held, strict=True) if held}
    seen: list[set[str]] = [set(), set()]
    for pool, about in zip(pools.pools, pools.about, strict=True):
        for cell in range(pool.cells):
            sample, pieces = pool.sample(cell, 0, about["length"]), pool.pieces(cell, 0, about["length"])
            assert parts(sample) == [told[piece.id][piece.first : piece.stop] for piece in pieces]
            assert pools.sources[sample.source] == about["name"]
            seen[sample.source].update(piece.id for piece in pieces)
    assert seen == [ids - held for ids in own]
    kept: list[set[str]] = [set(), set()]
    for number in range(len(pools.held)):
        sample, pieces = pools.held.sample(number), pools.held.pieces(number)
        assert parts(sample) == [told[piece.id][piece.first : piece.stop] for piece in pieces]
        kept[sample.source].update(piece.id for piece in pieces)
    assert kept == [ids & held for ids in own]


@given(cases())
@DRAWN
def test_each_packing_keeps_its_promise_and_tells_what_it_costs(tmp_path, case) -> None:
    if (found := made(tmp_path, case)) is None:
        return
    pools, told, ids = found
    packing, lengths, overlap = case.how
    lost: Counter[str] = Counter()
    for pool, about in zip(pools.pools, pools.about, strict=True):
        length, cells = about["length"], [tokens_of(pool, cell, about["length"]) for cell in range(pool.cells)]
        pieces = [piece for cell in range(pool.cells) for piece in pool.pieces(cell, 0, length)]
        assert (about["cells"], about["tokens"]) == (pool.cells, pool.tokens)
        if packing == "concat":  # one behind the other; a cell's last token is the next one's first
            stream = [*cells[0], *(token for cell in cells[1:] for token in cell[1:])] if cells else []
            own = [
                id_ for id_, of, held in zip(ids, case.of, case.held, strict=True) if about["source"] == of and not held
            ]
            assert stream == [token for id_ in own for token in told[id_]]
            assert all(len(cell) == length + 1 for cell in cells[:-1])
            places = pool.cells * length + 1 if pool.cells else 0
            assert about["padding"] == places - pool.tokens
        else:
            assert about["padding"] == sum(length + 1 - len(cell) for cell in cells)
            assert all(len(cell) <= length + overlap for cell in cells)
        if packing == "best-fit":
            assert all(piece.first == 0 or len(told[piece.id]) > length + overlap for piece in pieces), "cut in need"
        if packing in ("padded", "buckets"):
            assert len({piece.id for piece in pieces}) == len(pieces) == pool.cells, "one document a sample"
            assert all((piece.first, piece.stop) == (0, min(len(told[piece.id]), length + overlap)) for piece in pieces)
            lost[about["name"]] += about["lost"] - sum(len(told[piece.id]) - piece.stop for piece in pieces)
        if packing == "buckets":
            assert length == lengths[about["bucket"]]
            smaller = [each + overlap for each in lengths if each < length]
            assert all(len(told[piece.id]) > max(smaller, default=0) for piece in pieces), (
                "in the smallest that holds it"
            )
    assert not any(lost.values())
    if packing == "best-fit":  # all of each document, and twice only what two of its pieces have in common
        read = Counter(
            token for pool in pools.pools for cell in range(pool.cells) for token in tokens_of(pool, cell, lengths[0])
        )
        own = [id_ for id_, of, held in zip(ids, case.of, case.held, strict=True) if of < 2 and not held]
        assert read.keys() == {token for id_ in own for token in told[id_]}
        again = sum(max(0, -(-(len(told[id_]) - overlap) // lengths[0]) - 1) * overlap for id_ in own)
        assert sum(read.values()) - len(read) == again


@given(cases(), st.integers(1, 12))
@DRAWN
def test_the_cells_and_pieces_that_read_a_document_are_found_as_by_looking_at_all(tmp_path, case, length) -> None:
    if (found := made(tmp_path, case)) is None:
        return
    pools, _, ids = found
    store = TokenShards([str(tmp_path / "any")]).store
    for pool, about in zip(pools.pools, pools.about, strict=True):
        width = min(length, about["length"])
        looked = {
            (piece.id, cell, number)
            for cell in range(pool.cells)
            for number in range(-(-about["length"] // width))
            for piece in pool.pieces(cell, number, width)
        }
        quick = [(id_, *at) for id_ in ids for span in store.spans(id_) for at in pool.found(*span, width)]
        assert set(quick) == looked
        assert len(quick) == len(looked), "each once"


@given(cases(), st.integers(1, 12))
@DRAWN
def test_the_pieces_of_a_cell_are_its_tokens_and_each_has_the_next_ones_first(tmp_path, case, length) -> None:
    if (found := made(tmp_path, case)) is None:
        return
    for pool, about in zip(found[0].pools, found[0].about, strict=True):
        width = min(length, about["length"])
        for cell in range(pool.cells):
            whole = tokens_of(pool, cell, about["length"])
            for number in range(-(-about["length"] // width)):
                sample, first = pool.sample(cell, number, width), number * width
                expected = whole[first : first + width + 1]
                assert sample.tokens.tolist() == expected + [0] * (width + 1 - len(expected))
                assert (sample.documents > 0).tolist() == [True] * len(expected) + [False] * (width + 1 - len(expected))


def test_all_tokens_of_a_document_of_one_name_are_found_in_every_shard_that_has_it(tmp_path) -> None:
    place = foreign(tmp_path / "x", [[1, 2], [3, 4, 5]])
    spans = TokenShards([place, place]).store.spans("x-1")
    assert spans == [(2, 5), (7, 10)]
    assert TokenShards([place]).store.spans("y-1") == []


# --- What losses are told by ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("by_label", [True, False])
def test_losses_are_told_by_label_or_by_pool(files, by_label, tmp_path) -> None:
    for number in range(files):
        foreign(tmp_path / f"file{number}", [[number + 1] * 9] * 4)
    shards = TokenShards([str(tmp_path)])
    chosen = [Chosen("even", np.arange(0, len(shards), 2)), Chosen("odd", np.arange(1, len(shards), 2))]
    held = np.arange(len(shards)) % 4 > 1
    pools = built(shards, How("padded", [8]), chosen, held, by_label)
    samples = [pool.sample(cell, 0, 8) for pool in pools.pools for cell in range(pool.cells)]
    samples += [pools.held.sample(number) for number in pools.held.numbers()]
    assert len(samples) == len(shards)
    if by_label:
        assert pools.sources == [f"file{number}" for number in range(files)]
        assert all(pools.sources[each.source] == f"file{each.tokens[0] - 1}" for each in samples)
    else:
        assert pools.sources == ["even", "odd"]
        assert [each.source for each in samples] == [0] * files + [1] * files + [0] * files + [1] * files


def test_of_the_held_out_so_many_of_each_source_are_numbered(tmp_path) -> None:
    foreign(tmp_path / "a", [[1] * 30, [2] * 3])
    foreign(tmp_path / "b", [[3] * 5, [4] * 7])
    held = np.array([True, False, True, True])
    shards = TokenShards([str(tmp_path)])
    with pytest.raises(
        InputError, match=r"3 training tokens \(beside 3 documents held out\) do not make one sample of 5"
    ):
        built(shards, How("concat", [4]), held=held)
    pools = built(shards, How("concat", [2]), held=held)
    assert (len(pools.held), pools.held.tokens) == (15 + 6, 42)
    assert pools.held.numbers() == list(range(21))
    assert pools.held.numbers(2) == [0, 1, 15, 16]
    assert [pools.sources[pools.held.sample(number).source] for number in pools.held.numbers(1)] == ["a", "b"]
    assert {piece.id for number in range(21) for piece in pools.held.pieces(number)} == {"a-0", "b-0", "b-1"}


# --- On disk --------------------------------------------------------------------------------------------------------


def test_shards_that_changed_since_a_run_was_prepared_are_refused_when_they_are_opened(tmp_path) -> None:
    place = foreign(tmp_path / "x", [[1, 2, 3]])
    about = TokenShards([place]).store.about()
    assert Store.opened(about).read(np.array([1]), np.array([2])).tolist() == [2, 3]
    with open(f"{place}.bin", "ab") as file:
        file.write(b"\0\0")
    with pytest.raises(InputError, match=r"x\.bin: has 8 bytes, and had 6 when the run was prepared"):
        Store.opened(about)
    Path(f"{place}.bin").unlink()
    with pytest.raises(InputError, match=r"x\.bin: cannot be read .*every machine must see it at this path"):
        Store.opened(about)


def test_sixteen_bytes_are_kept_of_a_document(tmp_path) -> None:
    place = foreign(tmp_path / "x", [[1, 2, 3]] * 1000)
    shards = TokenShards([place])
    (tmp_path / "data").mkdir()
    build(shards, [Chosen("all", np.arange(1000))], np.zeros(1000, bool), How("concat", [8]), True, tmp_path / "data")
    assert sum(file.stat().st_size for file in (tmp_path / "data").iterdir()) < 16 * 1000 + 2000
