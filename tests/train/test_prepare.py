"""What stands before the first step: data of one kind, written once, in its place only when a run is begun."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_shards import foreign

from tilth.errors import InputError, RecipeError, UsageError
from tilth.train.data.tokens import TokenSource
from tilth.train.outline import outline
from tilth.train.plan import Plan
from tilth.train.prepare import DATA, Material, beside, is_parquet, prepare, settle
from tilth.train.recipe import TrainRecipe

MODEL = {"layers": 1, "hidden": 16, "heads": 2, "vocab_size": 100, "max_length": 16}


def recipe(**told: Any) -> TrainRecipe:
    batch = {"size": 4, "micro": 2, "length": 16}
    return TrainRecipe.model_validate({"model": MODEL, "batch": batch, "steps": 10} | told)


class Prepared(NamedTuple):
    material: Material
    plan: Plan
    drawing: dict[str, Any]

    @property
    def key(self) -> dict[str, Any]:
        return self.material.key


def prepared(place: str, folder: Path | None, **told: Any) -> Prepared:
    chosen = recipe(**told)
    material = prepare(chosen, None, [place], [], folder)
    made = outline(chosen, material, "mine", 1e6)
    return Prepared(material, made.plan, made.drawing)


@pytest.fixture
def shards(tmp_path) -> str:
    chance = np.random.default_rng(0)
    for number in range(3):
        foreign(tmp_path / f"shards/{number}", [chance.integers(0, 100, each).tolist() for each in [5, 30, 80] * 20])
    return str(tmp_path / "shards")


# --- Of which kind --------------------------------------------------------------------------------------------------


def test_parquet_is_told_from_token_shards_by_what_is_there(tmp_path, shards) -> None:
    table = pa.table({"text": ["a"]})
    (tmp_path / "deep/er").mkdir(parents=True)
    pq.write_table(table, tmp_path / "deep/er/one.parquet")
    (tmp_path / "empty").mkdir()
    for command in ("curate run", "tokenize encode"):
        folder = tmp_path / command
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"tilth": "0", "command": command, "request": {}}))
        pq.write_table(table, folder / "one.parquet")
    for place, expected in [
        (tmp_path / "deep", True), (tmp_path / "deep/er/one.parquet", True), (f"file://{tmp_path}/deep", True),
        ("s3://soil/corpus", True), ("https://example.org/x.pq", True), (tmp_path / "curate run", True),
        (tmp_path / "tokenize encode", False), (shards, False), (f"{shards}/0", False), (f"{shards}/0.bin", False),
        (tmp_path / "empty", False), (tmp_path / "nowhere", False),
    ]:  # fmt: skip
        assert is_parquet([str(place)]) is expected, place
    pq.write_table(table, f"{shards}/beside.parquet")
    assert not is_parquet([shards]), "a folder of .bin files is one of shards"
    assert not is_parquet([])
    assert is_parquet([str(tmp_path / "deep"), "s3://soil/corpus"])


def test_parquet_and_shards_together_are_refused(shards) -> None:
    with pytest.raises(
        InputError, match=r"s3://soil/x is Parquet and .*/shards token shards; encode the one, or leave"
    ):
        is_parquet([shards, "s3://soil/x"])


# --- In its place ---------------------------------------------------------------------------------------------------


def test_what_is_prepared_stands_beside_the_run_until_it_is_begun(tmp_path, shards) -> None:
    run = tmp_path / "runs/mine"
    run.mkdir(parents=True)
    made = prepared(shards, run)
    assert beside(run).parent == run.parent
    assert beside(run).is_dir()
    assert not (run / DATA).exists()
    settle(run)
    assert not beside(run).exists()
    source = TokenSource(run / DATA, made.plan, 0)
    assert len(source.read(made.plan.at(9), range(4))) == 4
    settle(run)
    assert (run / DATA / "index.json").is_file(), "where nothing was prepared, what is there stays"


def test_the_same_is_not_written_again_and_another_is(tmp_path, shards) -> None:
    run = tmp_path / "mine"
    run.mkdir()
    first = prepared(shards, run)
    settle(run)
    again = prepared(shards, run)
    assert not beside(run).exists()
    assert (again.plan.segments, again.key) == (first.plan.segments, first.key)
    before = (run / DATA / "index.json").read_bytes()
    for told in (
        {"packing": "best-fit"},
        {"validation": {"share": 0.2}},
        {"batch": {"size": 4, "micro": 2, "length": 8}},
    ):
        other = prepared(shards, run, **told)
        assert other.key != first.key
        assert beside(run).is_dir()
        assert (run / DATA / "index.json").read_bytes() == before, "another run's, until it is settled"
    settle(run)
    assert (run / DATA / "index.json").read_bytes() != before
    assert prepared(shards, run, optimizer={"weight_decay": 0.2}).key == first.key


def test_what_was_left_half_written_is_made_anew(tmp_path, shards) -> None:
    run = tmp_path / "mine"
    run.mkdir()
    beside(run).mkdir()
    (beside(run) / "index.json").write_text("torn")
    made = prepared(shards, run)
    settle(run)
    assert TokenSource(run / DATA, made.plan, 0).read(made.plan.at(0), range(1))


def test_shards_that_were_moved_are_found_where_they_are(tmp_path, shards) -> None:
    run = tmp_path / "mine"
    run.mkdir()
    first = prepared(shards, run)
    settle(run)
    shutil.move(shards, tmp_path / "moved")
    again = prepared(str(tmp_path / "moved"), run)
    settle(run)
    assert again.key == first.key, "the same run"
    assert TokenSource(run / DATA, again.plan, 0).read(again.plan.at(0), range(1))


def test_what_was_prepared_is_read_from_any_folder(tmp_path, shards, monkeypatch) -> None:
    run = tmp_path / "mine"
    run.mkdir()
    monkeypatch.chdir(tmp_path)
    made = prepared("shards", run)
    settle(run)
    monkeypatch.chdir("/")
    assert TokenSource(run / DATA, made.plan, 0).read(made.plan.at(0), range(1))


def test_changed_data_have_another_key_and_a_plan_alone_writes_nothing(tmp_path, shards) -> None:
    before = set(tmp_path.iterdir())
    first = prepared(shards, None)
    foreign(Path(shards) / "2", [[1, 2, 3]] * 30)
    assert prepared(shards, None).key != first.key
    assert set(tmp_path.iterdir()) == before


# --- What cannot be met ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "kind", "message"),
    [
        ({"validation": {"share": 1e-9}}, InputError, "validation.share 1e-09 of 180 documents holds none; ask for"),
        ({"model": {**MODEL, "vocab_size": 50}}, InputError, r"\.bin: token id \d+ is beyond the model's vocabulary"),
    ],
)
def test_what_cannot_be_met_is_told_before_anything_runs(told, kind, message, shards) -> None:
    with pytest.raises(kind, match=message) as raised:
        prepared(shards, None, **told)
    assert "\n" not in str(raised.value)


def test_a_corrupt_shard_is_named_before_training(tmp_path, shards) -> None:
    with open(f"{shards}/1.bin", "ab") as file:
        file.write(b"\0")
    with pytest.raises(InputError, match=r"shards/1\.bin: has \d+ bytes for"):
        prepared(shards, tmp_path / "mine")
    assert not beside(tmp_path / "mine").exists()


def test_one_pass_is_planned_where_nothing_else_is_told(shards) -> None:
    made = prepared(shards, None, steps=None)
    assert made.material.tokens == 3 * 20 * 115
    assert 0 <= made.plan.tokens - made.material.tokens < 64 + 16, "the last sample is padded"
    assert (made.drawing["tokens"], made.drawing["steps"]) == (made.plan.tokens, made.plan.steps)
    assert made.drawing["pools"][0]["epochs"][-1] == pytest.approx(1, abs=0.02)


# --- A mixture, from the recipe to the samples ----------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path) -> list[str]:
    """A place with much text and one with little."""
    chance = np.random.default_rng(1)
    for name, count in (("web", 120), ("books", 12)):
        documents = [chance.integers(0, 100, each).tolist() for each in chance.choice([5, 30, 80], count)]
        foreign(tmp_path / name / f"{name}-0", documents)
    return [str(tmp_path / name) for name in ("web", "books")]


def staged(places: list[str], folder: Path | None, **told: Any) -> Prepared:
    parts = {Path(place).name: {"data": [place], "max_epochs": 40} for place in places}
    stages = {
        "stable": {"tokens": 100 * 4 * 8, "length": 8, "mixture": {"web": 60, "books": 40}},
        "annealing": {"tokens": 300 * 4 * 16, "mixture": {"web": 1, "books": 3}},
    }
    chosen = recipe(**{"steps": None, "parts": parts, "stages": stages} | told)
    material = prepare(chosen, None, places, [], folder)
    made = outline(chosen, material, "mine", 1e6)
    return Prepared(material, made.plan, made.drawing)


def test_each_stage_reads_the_mixture_that_it_asks_for(tmp_path, mixed) -> None:
    run = tmp_path / "mine"
    run.mkdir()
    made = staged(mixed, run)
    settle(run)
    source = TokenSource(run / DATA, made.plan, 0)
    assert source.sources == ["web", "books"]
    asked, found = ({"web": 0.6, "books": 0.4}, {"web": 0.25, "books": 0.75}), [Counter[str](), Counter[str]()]
    last: dict[str, int] = {}
    for step in range(made.plan.steps):
        for pool, epoch, pieces in source.pieces(made.plan.at(step), range(4)):
            assert all(piece.id.startswith(pool) for piece in pieces)
            assert epoch >= last.get(pool, 1)
            last[pool] = epoch
            found[made.plan.stage_at(step)][pool] += 1
    for shares, counts in zip(asked, found, strict=True):
        for pool, share in shares.items():
            assert abs(counts[pool] / counts.total() - share) < 0.001
    told = {pool["name"]: pool["epochs"] for pool in made.drawing["pools"]}
    assert {pool: -(-told[pool][-1] // 1) for pool in last} == last, "as often as the plan said"


def test_parts_are_told_by_what_shards_know_themselves(mixed) -> None:
    for condition, other in (("tokens > 20", "short"), ("label = 'books-0'", "web"), ("place LIKE '%/books'", "web")):
        parts = {"some": {"where": condition}, other: {}}
        found = prepare(recipe(parts=parts), None, mixed, [], None)
        assert [pool.name for pool in found.pools] == ["some", other]
        assert all(pool.documents for pool in found.pools)
        assert sum(pool.documents for pool in found.pools) == 132
    with pytest.raises(RecipeError, match=r"parts\.some\.where: there is no label quality"):
        prepare(recipe(parts={"some": {"where": "quality.score > 1"}}), None, mixed, [], None)
    by_label = recipe(languages={"web-0": 1, "books-0": 1}, language_label="label")
    assert [pool.name for pool in prepare(by_label, None, mixed, [], None).pools] == ["all/web-0", "all/books-0"]


def test_a_pool_that_would_be_seen_too_often_is_refused(tmp_path, mixed) -> None:
    parts = {"web": {"data": [mixed[0]]}, "books": {"data": [mixed[1]], "max_epochs": 4}}
    with pytest.raises(UsageError, match="books") as raised:
        staged(mixed, tmp_path / "mine", parts=parts)
    assert "4" in str(raised.value)
