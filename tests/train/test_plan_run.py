"""`tilth train run` with stages, a mixture, ratios and ramps: the same order from both sources, however it is split,
killed and taken up; and `tilth train which`, which tells that order."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.multiprocessing as processes
from test_train_run import ONE_THREAD, lines, weights

from tilth.cli.main import main
from tilth.errors import DirectoryConflict, InputError
from tilth.progress import Progress
from tilth.recipe import changed, load_recipe
from tilth.storage import Folder
from tilth.tokenize.change import ExpandRecipe
from tilth.tokenize.encode import EncodeOptions, encode
from tilth.tokenize.expand import Places, expand
from tilth.tokenize.recipe import PACKAGE, TokenizerRecipe
from tilth.tokenize.tokenizer import load
from tilth.tokenize.train import train as train_tokenizer
from tilth.train import launch
from tilth.train import run as room
from tilth.train.prepare import beside
from tilth.train.recipe import TrainRecipe
from tilth.train.which import Reading, Slot
from tilth.work import WorkOptions

pytestmark = pytest.mark.slow

WORK = WorkOptions(in_process=True)
MODEL = {"layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn": 64, "max_length": 64}
PLAIN: dict[str, Any] = {
    "model": MODEL,
    "batch": {"size": 8, "micro": 2, "length": 32},
    "precision": "fp32",
    "schedule": {"rate": 0.01},
    "guard": {"on_spike": "ignore"},
    "checkpoint": {"every": 4, "keep_last": 50},
    "stream": {"lanes": 4, "workers": 0},
}
STAGED: dict[str, Any] = PLAIN | {
    "parts": {"chat": {"where": "url LIKE 'https://chat.%'"}, "law": {"where": "url LIKE '%law.example%'"}, "web": {}},
    "mixture": {"web": 8, "law": 2},
    "stages": {
        "first": {"tokens": 2600, "ramp": [{"tokens": 500, "size": 4, "length": 16}, {"tokens": 0.3, "length": 16}]},
        "stable": {"tokens": 4096, "mixture": {"web": 7, "law": 3}},
        "end": {
            "tokens": 0.25,
            "mixture": {"web": 4, "law": 3, "chat": 3},
            "languages": {"zh": 1, "en": 1},
            "schedule": {"course": "linear", "warmup": 0},
        },
    },
    "tokens": 8192,
    "checkpoint": {"every": 8, "keep_last": 50},
    "validation": {"share": 0.05, "every": 10, "most": 2},
}
MIXTURES = [{"web": 0.8, "law": 0.2}, {"web": 0.7, "law": 0.3}, {"web": 0.4, "law": 0.3, "chat": 0.3}]
SOURCES = ["shards", "data"]


class Document(NamedTuple):
    text: str
    url: str
    part: str
    language: str


class Corpus(NamedTuple):
    folder: Path  # has data/ (Parquet), shards/, tok/
    documents: dict[str, Document]  # by id


def parquet(folder: Path, documents: dict[str, Document]) -> Path:
    """The documents as a curated corpus: three files of some row groups."""
    folder.mkdir(parents=True)
    rows = [
        {"id": id_, "text": one.text, "url": one.url, "lang": {"code": one.language}} for id_, one in documents.items()
    ]
    third = -(-len(rows) // 3)
    for number in range(3):
        table = pa.Table.from_pylist(rows[number * third : number * third + third])
        pq.write_table(table, folder / f"part-{number}.parquet", row_group_size=40)
    return folder


def encoded(folder: Path, tokenizer: Path, output: Path) -> Path:
    options = changed(EncodeOptions, {}, ["read.id_field=id", "read.unit_bytes=4000", "shard_bytes=8000"], "encode")
    encode([str(folder)], str(tokenizer), Folder(output), options, WORK, Progress(quiet=True))
    return output


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """360 documents: a few chat, a fifth law, and half of each in Chinese."""
    torch.set_num_threads(1)  # as other processes have: sums are the same bits then
    folder, chance = tmp_path_factory.mktemp("plan"), random.Random(11)
    words = {
        "en": ["soil", "root", "leaf", "rain", "compost", "seed", "worm", "field"],
        "zh": ["土壤", "根", "叶子", "雨水", "堆肥", "种子", "蚯蚓", "田"],
    }
    documents = {}
    for number in range(360):
        part = chance.choices(["chat", "law", "web"], [0.3, 2, 7])[0]
        language = chance.choice(["zh", "en"])
        text = " ".join(chance.choices(words[language], k=chance.choice([1, 10, 25, 60])))
        documents[f"page-{number}"] = Document(text, f"https://{part}.example/{number}", part, language)
    data = parquet(folder / "data", documents)
    recipe = load_recipe(TokenizerRecipe, "byte-bpe", PACKAGE, ["vocab_size=300"])
    output = Folder(folder / "tok")
    train_tokenizer([str(data)], output, "b", recipe, WORK, Progress(output, quiet=True), sample=0)
    encoded(data, folder / "tok", folder / "shards")
    return Corpus(folder, documents)


def train(
    made: Corpus,
    source: Path | str,
    output: Path,
    recipe: dict[str, Any],
    *settings: str,
    tokenizer: Path | str = "tok",
) -> Path:
    """A run in this process, or this process' part in one."""
    chosen = changed(TrainRecipe, recipe, settings, "mine")
    places = [str(made.folder / source)], str(made.folder / tokenizer), Folder(output)
    room.run(*places, "mine", chosen, room.Launch(), quiet=True)
    return output


class Case(NamedTuple):
    """A run that two ranks do together."""

    source: str
    output: Path
    recipe: dict[str, Any]
    settings: Sequence[str]
    tokenizer: str | Path = "tok"


def together(made: Corpus, cases: Sequence[Case], folder: Path) -> None:
    """Runs by two ranks that a launcher has started, as torchrun does; they stay for all of them."""
    processes.spawn(_rank, (made, cases, folder), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]


def _rank(rank: int, made: Corpus, cases: Sequence[Case], folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    for number, case in enumerate(cases):
        os.environ |= launch.Seat(rank, 2, rank, 2, f"file://{folder}/meet-{number}").environ()
        train(made, case.source, case.output, case.recipe, *case.settings)


def killed(made: Corpus, cases: Iterable[tuple[Case, int]]) -> None:
    """Starts those runs by their command, and kills each -9 once it has told of so many lines of metrics."""
    running = []
    for case, goal in cases:
        case.output.parent.mkdir(exist_ok=True)
        file = case.output.with_suffix(".yaml")
        file.write_text(json.dumps(case.recipe))
        command = [sys.executable, "-m", "tilth.cli.main", "train", "run", "--recipe", str(file), "--quiet"]
        command += ["--data", str(made.folder / case.source), "--tokenizer", str(made.folder / case.tokenizer)]
        command += ["--output", str(case.output), *(f"--set={each}" for each in case.settings)]
        running.append(
            (subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ONE_THREAD), case.output, goal)
        )
    until = time.monotonic() + 120
    drawn: set[Path] = set()
    while running and time.monotonic() < until:
        for each in list(running):
            process, output, goal = each
            metrics = output / "metrics.jsonl"
            if output not in drawn and (output / room.PLAN).exists():
                drawn.add(output)
                assert not metrics.exists(), "the plan is drawn before the first step"
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= goal:
                process.kill()
            if process.poll() is not None:
                assert process.returncode == -signal.SIGKILL, process.communicate()[1]
                assert output in drawn
                running.remove(each)
        time.sleep(0.002)
    assert not running


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> dict[str, Path]:
    """The staged recipe, run in all the ways that must not matter: by its source and how it was run."""
    folder = tmp_path_factory.mktemp("runs")
    found = {f"{source} {how}": folder / f"{source}-{how}" for source in SOURCES for how in ("whole", "killed")}
    found |= {f"data {how}": folder / f"data-{how}" for how in ("two", "tensor", "workers")}
    killed(corpus, [(Case(each, found[f"{each} killed"], STAGED, ()), 18) for each in SOURCES])
    for source in SOURCES:
        assert Reading(str(found[f"{source} killed"])).done == 16
        train(corpus, source, found[f"{source} whole"], STAGED)
    train(corpus, "data", found["data workers"], STAGED, "stream.workers=1")
    two, workers = "parallel.data=2", "stream.workers=2"
    cases = [
        Case("shards", found["shards killed"], STAGED, [two]),
        Case("data", found["data killed"], STAGED, [two, workers]),
        Case("data", found["data two"], STAGED, [two]),
        Case("data", found["data tensor"], STAGED, ["parallel.tensor=2"]),
    ]
    together(corpus, cases, folder)
    return found


def read(run: Path) -> list[list[Slot]]:
    """What each step has read, in one go."""
    reading = Reading(str(run))
    if not reading.job.stream:
        return [reading.step(number) for number in range(1, reading.done + 1)]
    slots: dict[int, list[Slot]] = defaultdict(list)
    for slot in reading._streamed(1, reading.done):
        slots[slot.step].append(slot)
    return list(slots.values())


# --- The order ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_each_part_and_language_has_the_share_that_was_asked_for(corpus, runs, source):
    run = runs[f"{source} whole"]
    plan = Reading(str(run)).plan
    assert [(each.size, each.model_length) for each in plan.segments] == [(4, 16), (8, 16), (8, 32), (8, 32), (8, 32)]
    assert [stage.name for stage in plan.stages] == ["first", "stable", "end"]
    of: dict[int, list[Slot]] = defaultdict(list)
    for step in read(run):
        of[plan.at(step[0].step - 1).segment] += step
    for number, slots in of.items():
        parts, languages = (Counter(slot.pool.split("/")[place] for slot in slots) for place in (0, 1))
        stage = plan.segments[number].stage
        for part, share in MIXTURES[stage].items():
            assert abs(parts[part] - share * len(slots)) <= max(1, 0.001 * len(slots)), (number, part)
        assert set(parts) == set(MIXTURES[stage])
        if stage == 2:
            assert abs(languages["zh"] - 0.5 * len(slots)) <= 1
    for slot in (slot for slots in of.values() for slot in slots):
        part, language = slot.pool.split("/")
        told = [corpus.documents[piece.id] for piece in slot.pieces]  # none in half a cell that is all padding
        assert {(one.part, one.language) for one in told} <= {(part, language)}


@pytest.mark.parametrize("source", SOURCES)
def test_ranks_workers_and_a_kill_change_neither_order_nor_losses(runs, source):
    """Losses are told by pool too: equal ones, to what sums in another order differ by, are of equal samples."""
    whole = runs[f"{source} whole"]
    expected, documents = lines(whole), read(whole)
    assert any(slot.epoch > 1 for step in documents for slot in step), "some documents come again"
    assert sum("loss" in line for line in expected) == Reading(str(whole)).plan.steps
    for name, other in runs.items():
        if not name.startswith(source) or other == whole:
            continue
        assert read(other) == documents, name
        assert Reading(str(other)).step(30) == documents[29], "from a checkpoint on"
        found = lines(other)
        assert [line["step"] for line in found] == [line["step"] for line in expected]
        for one, wanted in zip(found, expected, strict=True):
            assert one.keys() == wanted.keys(), name
            if "loss" in wanted:
                assert (one["tokens"], one["lr"]) == (wanted["tokens"], wanted["lr"])
                assert one["loss"] == pytest.approx(wanted["loss"], rel=1e-4)
                assert one["sources"] == pytest.approx(wanted["sources"], rel=1e-3)


def test_processes_that_tokenize_change_not_one_bit(runs):
    assert lines(runs["data workers"]) == lines(runs["data whole"])
    assert weights(runs["data workers"]) == weights(runs["data whole"])


@pytest.mark.parametrize("source", SOURCES)
def test_an_epoch_has_each_token_of_each_document_once(corpus, tmp_path, source):
    """Each is read once as what the model is given; the last one of a sample is a target, and begins the next."""
    tokenizer = load(corpus.folder / "tok")
    there = {
        id_: len(ids) + 1
        for id_, ids in zip(
            corpus.documents, tokenizer.encode([one.text for one in corpus.documents.values()]), strict=True
        )
    }
    of_a_step = 32 * 32
    passes = f"steps={int(1.3 * sum(there.values()) / of_a_step) + 1}"
    run = train(
        corpus, source, tmp_path / "run", PLAIN, passes, "batch.size=32", "batch.micro=16", "checkpoint.every=100"
    )
    lanes: dict[int, list[Slot]] = defaultdict(list)
    for slot in (slot for step in read(run) for slot in step):
        lanes[slot.slot // 8 if source == "data" else 0].append(slot)
    seen, surely = Counter[tuple[str, int]](), Counter[tuple[str, int]]()
    for slots in lanes.values():
        first = [slot for slot in slots if slot.epoch == 1]
        assert len(first) < len(slots), "the second epoch begins in every lane"
        for slot in first:
            tokens = [(piece.id, at) for piece in slot.pieces for at in range(piece.first, piece.stop)][:32]
            seen.update(tokens)
            if source == "shards" or slot is not first[-1]:  # in which a lane goes on with the next epoch
                surely.update(tokens)
    missing = [(id_, at) for id_, count in there.items() for at in range(count) if not seen[id_, at]]
    last = 1 if source == "shards" else 0  # of all, which is a target alone
    assert len(missing) <= last
    assert max(surely.values()) == 1


# --- Refused ----------------------------------------------------------------------------------------------------------


def tilth(capsys, monkeypatch, *arguments: str) -> tuple[int, str, str]:
    """The command, in this process: its exit code, and what it says."""
    monkeypatch.setattr(sys, "argv", ["tilth", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All files with when they were written and what they hold."""
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


UNMET = {
    "stages.stable.tokens=1e6": "and may be 4 times",
    "parts.law.max_epochs=0.1": "raise parts.law.max_epochs",
    "mixture={lwa: 1}": "lwa is none of the parts; there are: chat, law, web",
    "parts.law.where=\"url LIK 'https'\"": "parts.law",
    "parts.law.where=\"lang.cod = 'zh'\"": 'parts.law.where: Could not find key "cod" in struct',
    "languages={zh: 3, fr: 7}": "languages: cannot be met",
    "stages.first.ramp=[{tokens: 3000, size: 4}]": "its ramp is as long as its 2,600 tokens",
    "stages.end.size=6": "batch.size 6 is not a multiple of batch.micro 2 x parallel.data 2",
    "packing=padded": "packing: padded samples have one length in all stages",
}


@pytest.mark.parametrize("asked", UNMET)
@pytest.mark.parametrize("source", SOURCES)
def test_what_cannot_be_met_is_told_in_a_line_and_nothing_is_written(
    corpus, tmp_path, capsys, monkeypatch, asked, source
):
    file, output = tmp_path / "mine.yaml", tmp_path / "run"
    file.write_text(json.dumps(STAGED))
    places = ["--data", str(corpus.folder / source), "--tokenizer", str(corpus.folder / "tok"), "--output", str(output)]
    code, out, err = tilth(
        capsys, monkeypatch, "train", "run", "--recipe", str(file), *places, "--set=parallel.data=2", f"--set={asked}"
    )
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert UNMET[asked] in err
    assert set(tmp_path.iterdir()) <= {file, output}
    assert {path.name for path in output.glob("*")} <= {".lock"}


def test_a_corrupt_shard_is_named_and_nothing_is_trained(corpus, runs, tmp_path):
    broken = tmp_path / "shards"
    shutil.copytree(corpus.folder / "shards", broken)
    file = min((broken / "shards").glob("*.bin"))
    tokens = bytearray(file.read_bytes())
    tokens[len(tokens) // 2] ^= 1
    file.write_bytes(tokens)
    before = tree(runs["shards whole"])
    for output in (tmp_path / "run", runs["shards whole"]):
        with pytest.raises(InputError, match=file.name):
            train(corpus, broken, output, STAGED)
    assert tree(runs["shards whole"]) == before
    file.write_bytes(tokens[:-2])
    with pytest.raises(InputError, match=file.name):
        train(corpus, broken, tmp_path / "run", STAGED)
    assert {path.name for path in (tmp_path / "run").glob("*")} <= {".lock"}


def test_a_torn_file_is_named_and_nothing_is_trained(corpus, tmp_path):
    broken = tmp_path / "data"
    shutil.copytree(corpus.folder / "data", broken)
    file = broken / "part-1.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"part-1.parquet: .* torn"):
        train(corpus, broken, tmp_path / "run", STAGED)
    assert {path.name for path in (tmp_path / "run").glob("*")} <= {".lock"}


def changed_corpus(corpus: Corpus, folder: Path, how: str) -> dict[str, Path]:
    """The corpus with one document more, or with one that has another word, by source."""
    documents = dict(corpus.documents)
    if how == "longer":
        documents["page-new"] = documents["page-0"]
    else:
        documents["page-7"] = documents["page-7"]._replace(text=documents["page-8"].text + " moss")
    data = parquet(folder / "data", documents)
    return {"data": data, "shards": encoded(data, corpus.folder / "tok", folder / "shards")}


def test_a_changed_corpus_is_refused_and_the_run_stays_as_it_is(corpus, runs, tmp_path):
    before = {source: tree(runs[f"{source} whole"]) for source in SOURCES}
    for how in ("longer", "other"):
        for source, place in changed_corpus(corpus, tmp_path / how, how).items():
            with pytest.raises(DirectoryConflict, match=r"holds another run: data"):
                train(corpus, place, runs[f"{source} whole"], STAGED)
    for source in SOURCES:
        copy = tmp_path / "copy" / source
        shutil.copytree(corpus.folder / source, copy)
        assert tree(runs[f"{source} whole"]) == before[source]
        train(corpus, copy, runs[f"{source} whole"], STAGED)  # which is the same, elsewhere


@pytest.mark.parametrize("source", SOURCES)
def test_another_recipe_is_refused_and_the_run_stays_as_it_is(corpus, runs, source):
    run = runs[f"{source} whole"]
    before = tree(run)
    for other in ("schedule.rate=0.02", "validation.share=0.1", "parts.law.shortest=5", "stages.end.tokens=0.2"):
        with pytest.raises(DirectoryConflict, match="holds another run"):
            train(corpus, source, run, STAGED, other)
        assert tree(run) == before, other
    if source == "data":
        with pytest.raises(DirectoryConflict, match="holds another run"):
            train(corpus, source, run, STAGED, "stream.lanes=2")
        assert tree(run) == before
    assert not beside(run).exists()


# --- Taken back -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_after_a_rollback_no_datum_is_read_twice_and_which_tells_what_was_read(corpus, tmp_path, source):
    """With a rate of next to nothing a loss tells the data that it is of. Noise counts as a spike."""
    still = ["schedule={rate: 1.0e-12}", "steps=40"]
    straight = train(corpus, source, tmp_path / "straight", PLAIN, *still)
    guard = "guard={on_spike: rollback, sigma: 2.5, history: 8, window: 16, pass_over: 3}"
    run = train(corpus, source, tmp_path / "run", PLAIN, *still, guard)
    events = [orjson.loads(line) for line in (run / "events.jsonl").read_bytes().splitlines()]
    windows = [event["passed_over"] for event in events if event["event"] == "rollback"]
    assert len(windows) > 1
    passed_over = {at for first, last in windows for at in range(first, last + 1)}
    left = [at for at in range(40) if at not in passed_over]
    losses, known = ([line["loss"] for line in lines(each) if "loss" in line] for each in (run, straight))
    documents, planned = ([[slot.pieces for slot in step] for step in read(each)] for each in (run, straight))
    assert losses[: len(left)] == pytest.approx([known[at] for at in left], rel=1e-6)
    assert documents[: len(left)] == [planned[at] for at in left]
    for step in (len(left), 40):  # from a checkpoint on
        assert [slot.pieces for slot in Reading(str(run)).step(step)] == documents[step - 1]
    rest = documents[len(left) :]
    if source == "shards":  # then the first again, for the segment has so many steps
        assert rest == documents[: len(rest)]
        assert losses[len(left) :] == losses[: len(rest)]
    else:  # the stream has more
        assert not [step for step in rest if step in documents[: len(left)]]


# --- Continued ------------------------------------------------------------------------------------------------------


def test_continued_training_is_the_same_bits_after_a_kill_in_its_first_stage(corpus, tmp_path):
    """New tokens' rows first, then all; four fifths law, and a replay of the rest."""
    start = train(corpus, "shards", tmp_path / "start", PLAIN, "steps=4")
    grown = Folder(tmp_path / "grown")
    law = tmp_path / "law.txt"
    law.write_text("\n".join(one.text for one in corpus.documents.values() if one.part == "law"))
    places = Places(str(corpus.folder / "tok"), inputs=[str(law)])
    told = load_recipe(ExpandRecipe, "expand", PACKAGE, ["tokens=8"])
    expand(places, grown, "expand", told, WORK, Progress(grown, quiet=True), sample=0)
    continued = PLAIN | {
        "start": str(start),
        "grow": {"method": "subword"},
        "parts": {"law": {"where": "url LIKE '%law%'"}, "general": {}},
        "mixture": {"law": 4, "general": 1},
        "stages": {"rows": {"tokens": 2560, "rows": "new"}, "all": {"tokens": 1024}},
    }
    whole = train(corpus, "data", tmp_path / "whole", continued, tokenizer=tmp_path / "grown")
    case = Case("data", tmp_path / "killed", continued, (), tmp_path / "grown")
    killed(corpus, [(case, 6)])
    assert Reading(str(case.output)).done == 4
    train(corpus, "data", case.output, continued, tokenizer=tmp_path / "grown")
    assert lines(case.output) == lines(whole)
    assert weights(case.output) == weights(whole)
    rows = [orjson.loads(file.read_bytes())["rows"] for file in sorted(whole.glob("checkpoints/*/state.json"))]
    assert rows == ["new"] * 3 + ["all"] * 2  # steps 4, 8, 10; 12, 14
    parts = Counter(slot.pool for step in read(whole) for slot in step)
    assert parts == {"law": 90, "general": 22}


# --- Asked about ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_which_tells_the_documents_of_a_step_and_the_steps_of_a_document(corpus, runs, capsys, monkeypatch, source):
    run = str(runs[f"{source} whole"])
    code, out, _ = tilth(capsys, monkeypatch, "train", "which", run, "--step", "20", "--json")
    told = json.loads(out)
    steps = read(runs[f"{source} whole"])
    assert (code, told["done"], len(told["slots"])) == (0, len(steps), 8)
    for slot, expected in zip(told["slots"], steps[19], strict=True):
        assert (slot["step"], slot["slot"], slot["pool"]) == (20, expected.slot, expected.pool)
        assert [piece["id"] for piece in slot["pieces"]] == [piece.id for piece in expected.pieces]
        assert all(piece["url"] == corpus.documents[piece["id"]].url for piece in slot["pieces"])
    _, out, _ = tilth(capsys, monkeypatch, "train", "which", run, "--step", "20")
    piece = told["slots"][0]["pieces"][0]
    assert f"  {piece['id']}  tokens {piece['first']:,} to {piece['stop']:,}  {piece['url']}\n" in out
    id_ = piece["id"]
    _, out, _ = tilth(capsys, monkeypatch, "train", "which", run, "--document", id_, "--json")
    expected = [slot for step in steps for slot in step if id_ in {piece.id for piece in slot.pieces}]
    assert [(slot["step"], slot["slot"]) for slot in json.loads(out)["slots"]] == [
        (slot.step, slot.slot) for slot in expected
    ]
    _, out, _ = tilth(capsys, monkeypatch, "train", "which", run, "--document", id_)
    assert out.startswith(
        f"step {expected[0].step}, sequence {expected[0].slot + 1}: {expected[0].pool}, epoch 1, its "
    )
    beyond = str(len(steps) + 1)
    code, out, err = tilth(capsys, monkeypatch, "train", "which", run, "--step", beyond)
    assert (code, out) == (2, "")
    assert err == f"tilth: step {beyond}: the plan of {run} has the steps 1 to {len(steps)}\n"
