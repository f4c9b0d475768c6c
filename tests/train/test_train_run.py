"""`tilth train run` as a user calls it: what it writes, how it goes on, and what it refuses before anything starts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from test_shards import WORDS, corpus  # noqa: F401 # the fixture

from tilth.errors import DirectoryConflict, InputError, UsageError
from tilth.recipe import changed
from tilth.storage import Folder
from tilth.train import run as room
from tilth.train.recipe import TrainRecipe
from tilth.train.seen import TIMING

SMALL: dict[str, Any] = {
    "model": {"layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn": 64, "max_length": 64, "dropout": 0.1},
    "batch": {"size": 4, "micro": 2, "length": 32},
    "steps": 8,
    "precision": "fp32",
    "schedule": {"rate": 0.01},
    "guard": {"on_spike": "ignore"},
    "checkpoint": {"every": 2},
    "validation": {"share": 0.1, "every": 4},
}


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def recipe_file(tmp_path) -> Path:
    place = tmp_path / "small.yaml"
    place.write_text(json.dumps(SMALL))  # JSON is YAML
    return place


def tilth(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tilth.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD, **more)


def arguments(corpus: Any, recipe: Path, output: Path, *settings: str) -> list[str]:  # noqa: F811
    folder = corpus.folder
    places = ["--data", str(folder / "shards"), "--tokenizer", str(folder / "tok"), "--output", str(output)]
    return ["train", "run", "--recipe", str(recipe), *places, *(f"--set={each}" for each in settings)]


def lines(output: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock tells."""
    found = [orjson.loads(line) for line in (output / "metrics.jsonl").read_bytes().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMING} for line in found]


def weights(output: Path) -> dict[str, Any]:
    """Hashes of the last checkpoint's tensors, the optimizer's among them."""
    last = max((output / "checkpoints").iterdir())
    files = orjson.loads((last / "manifest.json").read_bytes())
    found = {name: entry["sha256"] for name, entry in files.items() if name.endswith(".distcp")}
    assert found
    return found


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_ends_as_if_nothing_had_been(corpus, recipe_file, tmp_path):  # noqa: F811
    """kill -9 at random moments: while it starts, between steps, while it saves."""
    import random

    chance = random.Random(1)
    given = arguments(corpus, recipe_file, tmp_path / "whole", "steps=60")
    done = tilth(*given, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["complete"]
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "tilth.cli.main", *arguments(corpus, recipe_file, killed, "steps=60")]
    metrics = killed / "metrics.jsonl"
    for kill in range(10):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=ONE_THREAD)
        before = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        goal = min(before + chance.randrange(1, 7), 58)
        until = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until and kill:  # the first dies while it starts
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= goal:
                break
            time.sleep(0.002)
        time.sleep(chance.random() * 0.02 if kill else 1.5)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    last = tilth(*command[3:])
    assert last.returncode == 0, last.stderr
    assert lines(killed) == lines(tmp_path / "whole")
    assert weights(killed) == weights(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_goes_on_with_other_parallel_sizes(corpus, recipe_file, tmp_path):  # noqa: F811
    """Two ranks by tensors, then two by data with a sharded optimizer, then one. No dropout: that is drawn by rank."""
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    plain = ["model={layers: 2, hidden: 32, heads: 4, kv_heads: 2, ffn: 64, max_length: 64}", "steps=12"]
    assert tilth(*arguments(corpus, recipe_file, whole, *plain)).returncode == 0
    for split, stop in (("{tensor: 2}", 4), ("{data: 2, shard_optimizer: true}", 8), ("{}", 12)):
        given = arguments(corpus, recipe_file, moved, *plain, f"parallel={split}")
        process = subprocess.Popen(
            [sys.executable, "-m", "tilth.cli.main", *given], stderr=subprocess.PIPE, text=True,
            env=ONE_THREAD,
        )  # fmt: skip
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until and stop < 12:
            if (moved / f"checkpoints/step-{stop:08d}").exists():
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.005)
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told
    expected, found = lines(whole), lines(moved)
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for one, other in zip(found, expected, strict=True):
        if "loss" in other:
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
            assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


@pytest.mark.slow
def test_sigterm_saves_and_ends_well_and_the_page_is_there(corpus, recipe_file, tmp_path):  # noqa: F811
    output = tmp_path / "run"
    given = arguments(corpus, recipe_file, output, "steps=5000", "checkpoint.every=5000")
    process = subprocess.Popen(
        [sys.executable, "-m", "tilth.cli.main", *given], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while process.poll() is None and not (output / "metrics.jsonl").exists():
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    out, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert "stopped, and saved" in out
    (saved,) = (output / "checkpoints").iterdir()
    assert 0 < int(saved.name.removeprefix("step-")) < 5000
    assert "loss" in (output / "report.html").read_text()
    assert not orjson.loads((output / "stats.json").read_bytes())["complete"]


def prepared(corpus: Any, tmp_path: Path, *settings: str, data: str = "shards", tokenizer: bool = True):  # noqa: F811
    recipe = changed(TrainRecipe, SMALL, settings, "small")
    place = str(corpus.folder / "tok") if tokenizer else None
    return room.prepared([str(corpus.folder / data)], [], place, Folder(tmp_path / "run"), recipe, "small", quiet=True)


REFUSED = {
    "parallel.tensor=3": "parallel.tensor=3 does not divide 4 heads",
    "parallel.tensor=4": "parallel.tensor=4 does not divide kv_heads 2",
    "parallel.pipeline=3": "pipeline=3 does not divide 2 layers",
    "parallel={pipeline: 2, virtual: 2}": "parallel.pipeline x parallel.virtual = 4 does not divide 2 layers",
    "parallel.data=3": "batch.size 4 is not a multiple of batch.micro 2 x parallel.data 3",
    "parallel.expert=2": "must divide data x context",
    "model.positions=learned batch.length=128": "sequence length 128 is longer than the model's 64 learned positions",
    "model.vocab_size=20": f"has {WORDS + 5} tokens, the model's embedding model.vocab_size=20",
    "optimizer.name=lamb parallel={data: 2, shard_optimizer: true}": "lamb needs the norms of whole layers",
    "steps=3 tokens=1e6": "steps and tokens or stages both say how long to train",
    "model.layers=0": "model.layers",
    "model.layer=2": "unknown key model.layer; did you mean layers?",
    "batch.length=100000": "training tokens",
    "seen.tensorboard=true": "pip install tensorboard",
    "new_rows=nowhere.json": "nowhere.json",
    "start=nowhere": "nowhere",
}


@pytest.mark.parametrize("settings", REFUSED)
def test_what_does_not_fit_is_refused_with_the_numbers_before_anything_starts(corpus, tmp_path, settings):  # noqa: F811
    given = (
        settings.split(" ") if "{" not in settings else [settings] if " p" not in settings else settings.split(" ", 1)
    )
    with pytest.raises((UsageError, InputError)) as refused:
        prepared(corpus, tmp_path, *given)
    assert REFUSED[settings] in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_other_shards_than_the_tokenizers_are_refused(corpus, tmp_path):  # noqa: F811
    other = tmp_path / "tok"
    from tilth.tokenize.export import write_directory
    from tilth.tokenize.formats import from_bert
    from tilth.tokenize.tokenizer import Tokenizer

    write_directory(other, Tokenizer(from_bert(b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nother", "bert")))
    recipe, folder = changed(TrainRecipe, SMALL, (), "small"), Folder(tmp_path / "run")
    with pytest.raises(InputError, match="another tokenizer"):
        room.prepared([str(corpus.folder / "shards")], [], str(other), folder, recipe, "small", quiet=True)


def test_a_run_is_itself_at_any_split_and_another_with_another_rate(corpus, tmp_path):  # noqa: F811
    from tilth import rundir

    folder = Folder(tmp_path / "run")
    _, identity, _ = prepared(corpus, tmp_path)
    rundir.claim(folder, room.COMMAND, identity, "small", room.ADVICE)
    for same in ("parallel.tensor=2", "batch.micro=1", "recompute=full", "checkpoint.every=7", "seen.log_every=2"):
        rundir.claim(folder, room.COMMAND, prepared(corpus, tmp_path, same)[1], "small", room.ADVICE)
    for other in ("schedule.rate=0.02", "seed=1", "steps=9", "batch.size=2", "model.layers=3"):
        with pytest.raises(DirectoryConflict, match=r"holds another run"):
            rundir.claim(folder, room.COMMAND, prepared(corpus, tmp_path, other)[1], "small", room.ADVICE)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "t5"])
def test_encoders_train_too(corpus, recipe_file, tmp_path, family):  # noqa: F811
    shape = {"bert": "positions: learned, norm: layer, activation: gelu, bias: true", "t5": "positions: relative"}
    model = f"model={{family: {family}, layers: 1, hidden: 32, heads: 4, max_length: 64, tied: true, {shape[family]}}}"
    more = ["spans.end=3"] if family == "t5" else []
    done = tilth(*arguments(corpus, recipe_file, tmp_path / "run", model, "steps=30", *more))
    assert done.returncode == 0, done.stderr
    losses = [line["loss"] for line in lines(tmp_path / "run") if "loss" in line]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_spikes_roll_back_and_too_many_end_the_run(corpus, recipe_file, tmp_path):  # noqa: F811
    """Noise counts as a spike here: two rollbacks to the last checkpoint, over the data since, and then an end."""
    guard = "guard={on_spike: rollback, sigma: 0.5, history: 4, window: 8, pass_over: 3, max_rollbacks: 2}"
    done = tilth(*arguments(corpus, recipe_file, tmp_path / "run", "steps=400", "checkpoint.every=5", guard))
    assert done.returncode == 1
    assert "rolled back 2 times before (max_rollbacks)" in done.stderr
    events = [orjson.loads(line) for line in (tmp_path / "run/events.jsonl").read_bytes().splitlines()]
    first, second = (event for event in events if event["event"] == "rollback")
    assert first["passed_over"][1] - first["passed_over"][0] >= 2
    assert second["passed_over"][0] >= first["passed_over"][0]
    steps = [line["step"] for line in lines(tmp_path / "run") if "loss" in line]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_too_many_skipped_steps_end_the_run(corpus, recipe_file, tmp_path):  # noqa: F811
    given = arguments(corpus, recipe_file, tmp_path / "run", "guard={grad_norm_limit: 1.0e-6, patience: 3}")
    done = tilth(*given)
    assert done.returncode == 1
    assert "beyond the limit of 1e-06; it is the last of 3 steps skipped in a row (patience)" in done.stderr
    assert all(line["skipped"] for line in lines(tmp_path / "run"))
