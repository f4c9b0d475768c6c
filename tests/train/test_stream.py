"""The Parquet stream: one order for any ranks and workers, each document once an epoch, and damage named."""

import contextlib
import random
import shutil
import signal
import subprocess
import sys
import uuid
from collections import Counter, defaultdict
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import orjson
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth import rundir
from tilth.errors import DirectoryConflict, InputError, StorageError, TilthError, UsageError
from tilth.ledger import Ledger
from tilth.progress import Progress
from tilth.recipe import load_recipe
from tilth.storage import Folder
from tilth.tokenize.encode import EncodeOptions, encode
from tilth.tokenize.recipe import PACKAGE, TokenizerRecipe
from tilth.tokenize.tokenizer import Tokenizer
from tilth.tokenize.train import train
from tilth.train.data import stream_encode
from tilth.train.data.order import DataStep, Segment, split
from tilth.train.data.parquet import ParquetCorpus
from tilth.train.data.shards import Sample
from tilth.train.data.stream import ParquetStream
from tilth.train.data.stream_encode import Frame
from tilth.train.data.stream_options import StreamOptions
from tilth.work import WorkOptions

POOLS = ["web", "zh", "few"]
LANES = 4
WORK = WorkOptions(in_process=True)


class Corpus(NamedTuple):
    folder: Path  # of the files
    tokenizer: Tokenizer
    place: str  # of the tokenizer
    end: int
    texts: list[str]  # by row, as they are read: without NULs, and empty where there is nothing to train on
    ids: list[str]
    assigned: np.ndarray
    held: np.ndarray


def texts_of(chance: random.Random, count: int) -> list[str | None]:
    words = ["soil", "root", "leaf", "土壤是活的", "rain ", "compost", "\n", "42", "é"]
    made: list[str | None] = [" ".join(chance.choices(words, k=chance.choice([1, 4, 20, 60]))) for _ in range(count)]
    made[3], made[7], made[9], made[11] = "", None, "a\0b", " ".join(chance.choices(words, k=1500))
    return made


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """300 documents in 3 files of row groups of 20; a tenth in no pool, a tenth held out, three in the pool `few`."""
    folder, chance = tmp_path_factory.mktemp("stream"), random.Random(3)
    texts, ids = texts_of(chance, 300), [f"page-{number}" for number in range(300)]
    (folder / "data" / "more").mkdir(parents=True)
    for file, name in enumerate(["a", "b", "more/c"]):
        some = slice(100 * file, 100 * file + 100)
        lang = [{"code": chance.choice(["en", "zh"]), "score": chance.random()} for _ in range(100)]
        table = pa.table({"id": ids[some], "text": pa.array(texts[some], pa.large_string()), "lang": lang})
        pq.write_table(table, folder / "data" / f"{name}.parquet", row_group_size=20)
    (folder / "data" / "stats.json").write_text("{}")
    (folder / "lines.txt").write_text("\n".join(text or "" for text in texts), encoding="utf-8")
    recipe = load_recipe(TokenizerRecipe, "byte-bpe", PACKAGE, ["vocab_size=300"])
    output = Folder(folder / "tok")
    tokenizer = train([str(folder / "lines.txt")], output, "b", recipe, WORK, Progress(output, quiet=True), sample=0)
    assigned = np.array([chance.choice([0, 0, 0, 0, 0, 1, 1, 1, 1, -1]) for _ in texts], np.int16)
    assigned[[30, 130, 131]] = 2
    held = np.array([chance.random() < 0.1 for _ in texts])
    held[[30, 130, 131]] = False
    made, clean = tokenizer.tokenizer, [text.replace("\0", "") if text and text.strip() else "" for text in texts]
    return Corpus(folder / "data", made, str(folder / "tok"), made.roles["eos"], clean, ids, assigned, held)


def segment(steps: int, size: int, length: int, shares: tuple[int, ...], **more: int) -> Segment:
    samples = steps * size
    counts = [samples * share // sum(shares) for share in shares]
    counts[0] += samples - sum(counts)
    told = {"stage": 0, "first": 0, "tokens": 0} | more
    return Segment(steps=steps, size=size, length=length, model_length=length, counts=tuple(counts), **told)


SEGMENTS = [segment(10, 8, 32, (6, 3, 1)), segment(6, 16, 64, (1, 8, 1), stage=1)]
STEPS = [DataStep(at, step) for at, one in enumerate(SEGMENTS) for step in range(one.steps)]


def opened(made: Corpus, mine: range = range(LANES), workers: int = 0, **other: Any) -> ParquetStream:
    told = {
        "corpus": ParquetCorpus([str(made.folder)]),
        "assigned": made.assigned,
        "held": made.held,
        "names": POOLS,
        "place": made.place,
        "frame": Frame(None, made.end),
        "segments": SEGMENTS,
        "options": StreamOptions(lanes=LANES, workers=workers),
        "seed": 5,
        "mine": mine,
    }
    return ParquetStream(**(told | other))


def slots(stream: ParquetStream, step: DataStep) -> range:
    width = stream._segments[step.segment].size // stream._lanes
    return range(stream._mine.start * width, stream._mine.stop * width)


def read(stream: ParquetStream, steps: list[DataStep]) -> list[list[Sample]]:
    return [stream.read(step, slots(stream, step)) for step in steps]


def lanes_of(ranks: int) -> list[range]:
    return [range(LANES * rank // ranks, LANES * (rank + 1) // ranks) for rank in range(ranks)]


def plain(batches: list[list[Sample]]) -> list[list[tuple[bytes, bytes, int]]]:
    return [[(one.tokens.tobytes(), one.documents.tobytes(), one.source) for one in batch] for batch in batches]


def together(ranks: list[list[list[Sample]]]) -> list[list[tuple[bytes, bytes, int]]]:
    """Global batches out of what each rank read of each step."""
    return plain([[one for share in step for one in share] for step in zip(*ranks, strict=True)])


@pytest.fixture(scope="module")
def whole(corpus) -> list[list[tuple[bytes, bytes, int]]]:
    """Every global batch, as one rank without workers reads them."""
    with opened(corpus) as stream:
        return plain(read(stream, STEPS))


@pytest.mark.parametrize(("ranks", "workers"), [(2, 0), (4, 0), (1, 2)])
def test_global_batches_are_the_same_for_any_ranks_and_workers(corpus, whole, ranks, workers) -> None:
    shares = []
    for mine in lanes_of(ranks):
        with opened(corpus, mine, workers) as stream:
            shares.append(read(stream, STEPS))
    assert together(shares) == whole


@pytest.mark.parametrize(("before", "behind"), [(2, 4), (4, 1), (1, 2)])
@pytest.mark.parametrize("step", [0, 7, 10, 13])
def test_other_ranks_go_on_from_the_merged_state_as_if_nothing_had_been(corpus, whole, before, behind, step) -> None:
    states = []
    for mine in lanes_of(before):
        with opened(corpus, mine) as stream:
            read(stream, STEPS[:step])
            states.append(orjson.loads(orjson.dumps(stream.state())))
    merged = {"next": states[0]["next"], "lanes": {key: one for state in states for key, one in state["lanes"].items()}}
    shares = []
    for mine in lanes_of(behind):
        with opened(corpus, mine) as stream:
            read(stream, STEPS[:3])  # a rollback: whatever was read and asked for is left
            stream.load(merged)
            shares.append(read(stream, STEPS[step:]))
    assert together(shares) == whole[step:]


def test_another_seed_is_another_order(corpus, whole) -> None:
    with opened(corpus, seed=6) as stream:
        assert plain(read(stream, STEPS[:1])) != whole[:1]


def test_the_pool_of_a_sample_is_what_the_order_says(corpus, whole) -> None:
    for step, batch in zip(STEPS, whole, strict=True):
        one = SEGMENTS[step.segment]
        wanted = [split(step.step * one.size + slot, one.counts)[0] for slot in range(one.size)]
        assert [source for _, _, source in batch] == wanted


def test_a_jump_passes_over_what_lies_between(corpus, whole) -> None:
    with opened(corpus) as stream:
        assert plain(read(stream, [STEPS[1], STEPS[5], STEPS[12]])) == [whole[1], whole[5], whole[12]]
        assert stream.state()["next"] == [1, 3]


def test_a_step_that_lies_behind_reads_on(corpus) -> None:
    with opened(corpus, segments=[segment(10, 4, 32, (1, 0, 0))]) as stream:
        batches = read(stream, [DataStep(0, step) for step in (0, 1, 0, 1)])
    for before, behind in pairwise(batches):
        assert [one.tokens[-1] for one in before] == [one.tokens[0] for one in behind]


# --- Every document once an epoch -------------------------------------------------------------------------------------


def epochs_of(made: Corpus, pool: int, lanes: int, stop: int, **other: Any) -> dict[int, list[list[int]]]:
    """The documents that all lanes read of a pool, by epoch from 1 to before `stop`: read token by token, so that after
    each the cursor tells of which document it is."""
    shares = tuple(int(at == pool) for at in range(len(POOLS)))
    options, segments = StreamOptions(lanes=lanes, workers=0), [segment(10**6, lanes, 1, shares)]
    found: dict[int, dict[tuple[int, ...], list[int]]] = defaultdict(lambda: defaultdict(list))
    least, step = 0, 0
    with opened(made, range(lanes), options=options, segments=segments, **other) as stream:
        while least < stop:
            samples = stream.read(DataStep(0, step), range(lanes))
            cursors = [stream.state()["lanes"][str(lane)][pool] for lane in range(lanes)]
            for lane, (sample, (epoch, turn, document, token)) in enumerate(zip(samples, cursors, strict=True)):
                tokens = found[epoch][lane, turn, document]
                if step == 0 and token == 1:
                    tokens.append(int(sample.tokens[0]))
                assert len(tokens) == token or epoch == 0
                tokens.append(int(sample.tokens[-1]))
            least, step = min(cursor[0] for cursor in cursors), step + 1
    return {epoch: [*found[epoch].values()] for epoch in range(1, stop)}


def trained(corpus: Corpus, pool: int) -> list[str]:
    chosen = (corpus.assigned == pool) & ~corpus.held
    return sorted(
        text.replace("\0", "") for text, own in zip(corpus.texts, chosen, strict=True) if own and text and text.strip()
    )


@pytest.mark.parametrize(("pool", "lanes"), [(0, 4), (0, 1), (1, 3), (2, 4), (2, 8)])
def test_an_epoch_has_every_document_of_its_pool_once_and_whole(corpus, pool, lanes) -> None:
    epochs = epochs_of(corpus, pool, lanes, 3)
    for documents in epochs.values():
        assert {tokens[-1] for tokens in documents} == {corpus.end}
        assert sorted(corpus.tokenizer.decode(tokens) for tokens in documents) == trained(corpus, pool)
    assert epochs[1] != epochs[2]


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_row_groups_of_any_size_come_whole(corpus, tmp_path, rows) -> None:
    texts = [text for text in corpus.texts[:100] if text]
    pq.write_table(pa.table({"text": texts}), tmp_path / "x.parquet", row_group_size=rows)
    every = {"corpus": ParquetCorpus([str(tmp_path)]), "assigned": np.zeros(len(texts), np.int16), "held": None}
    documents = epochs_of(corpus, 0, 4, 2, **every)[1]
    assert sorted(corpus.tokenizer.decode(tokens) for tokens in documents) == sorted(texts)


def test_tokens_are_those_of_the_encoded_corpus(corpus, tmp_path) -> None:
    output = Folder(tmp_path / "shards")
    encode([str(corpus.folder)], corpus.place, output, EncodeOptions(), WORK, Progress(output, quiet=True))
    tokens = np.concatenate([np.fromfile(file, np.uint16) for file in sorted((tmp_path / "shards").rglob("*.bin"))])
    encoded = Counter(tuple(one) for one in np.split(tokens.tolist(), np.flatnonzero(tokens == corpus.end) + 1))
    every = {"assigned": np.zeros(300, np.int16), "held": None}
    documents = epochs_of(corpus, 0, 4, 2, **every)[1]
    assert Counter(map(tuple, documents)) == Counter(tuple(map(int, one)) for one in encoded.elements() if one)


def test_pieces_name_what_samples_hold(corpus, whole) -> None:
    rows = {id_: number for number, id_ in enumerate(corpus.ids)}
    with opened(corpus) as stream:
        for step, batch in zip(STEPS[:12], whole, strict=False):
            for (tokens, documents, source), (pool, _, pieces) in zip(
                batch, stream.pieces(step, slots(stream, step)), strict=True
            ):
                made = []
                for piece in pieces:
                    row = rows[piece.id]
                    assert corpus.assigned[row] == source == POOLS.index(pool)
                    assert not corpus.held[row]
                    assert piece.number == row % 100
                    assert Path(piece.shard).name == f"{'abc'[row // 100]}.parquet"
                    own = [*corpus.tokenizer.encode([corpus.texts[row]])[0].tolist(), corpus.end]
                    made.append(own[piece.first : piece.stop])
                assert list(chain.from_iterable(made)) == np.frombuffer(tokens, np.int64).tolist()
                numbers = np.repeat(np.arange(1, len(made) + 1, dtype=np.int32), [len(own) for own in made])
                assert numbers.tobytes() == documents


def test_held_out_samples_are_the_first_held_documents_of_each_pool(corpus) -> None:
    with opened(corpus) as stream:
        held = stream.held_out()
        assert len(held.numbers()) == len(held)
        assert [held.sample(number).source for number in held.numbers(1)] == [0, 1]
        for pool in (0, 1):
            own = [text for text, at, out in zip(corpus.texts, corpus.assigned, corpus.held, strict=True)
                   if at == pool and out and text]  # fmt: skip
            tokens = [token for ids in corpus.tokenizer.encode(own) for token in [*ids.tolist(), corpus.end]]
            samples = [sample for number in held.numbers() if (sample := held.sample(number)).source == pool]
            found = [int(token) for sample in samples for token in sample.tokens[:-1]]
            assert found[: len(tokens) - 1] == tokens[: len(found)][: len(tokens) - 1]
            assert len(found) >= len(tokens) - 1  # the last is a target alone
            last = samples[-1]
            assert not last.documents[len(tokens) - 64 * (len(samples) - 1) :].any()
        few = stream.held_out(2)
        assert len(few) == 4
        for number in few.numbers():
            assert held.sample(held.numbers(2)[number]).tokens.tolist() == few.sample(number).tokens.tolist()
        with pytest.raises(IndexError):
            few.sample(4)


# --- Processes --------------------------------------------------------------------------------------------------------


def children() -> list[psutil.Process]:
    found = []
    for one in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if "tilth.train.data.stream_child" in one.cmdline():
                found.append(one)
    return found


def test_a_worker_that_is_killed_is_replaced_and_changes_nothing(corpus, whole) -> None:
    with opened(corpus, workers=1) as stream:
        first = read(stream, STEPS[:2])
        for child in children():
            child.kill()
        assert plain(first + read(stream, STEPS[2:])) == whole
        assert len(children()) == 1
    assert not children()


def test_workers_that_cannot_live_are_one_line(corpus, monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with opened(corpus, workers=1) as stream, pytest.raises(TilthError, match=r"2 processes .* ended with exit code 1"):
        read(stream, STEPS[:1])


def test_workers_end_with_a_parent_that_is_killed(corpus) -> None:
    code = (
        "import sys, time\n"
        "from tilth.train.data.stream_workers import Workers\n"
        "from tilth.train.data.stream_encode import Frame\n"
        f"workers = Workers(1, {corpus.place!r}, Frame())\n"
        "print(workers._children[0]._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    child.wait(timeout=20)


# --- What is wrong ----------------------------------------------------------------------------------------------------


def test_a_row_group_that_cannot_be_read_any_more_is_named(corpus, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(stream_encode, "_WAITS", (0.0, 0.0))
    shutil.copytree(corpus.folder, tmp_path / "data")
    with opened(corpus, corpus=ParquetCorpus([str(tmp_path / "data")])) as stream:
        for file in (tmp_path / "data").rglob("*.parquet"):
            file.write_bytes(b"\0" * 100 + file.read_bytes()[100:-100])
        with pytest.raises(StorageError, match=r"\.parquet: row group \d+ cannot be read, in 3 attempts"):
            read(stream, STEPS[:1])


def test_a_row_group_that_can_be_read_again_is(corpus, whole, tmp_path, monkeypatch) -> None:
    shutil.copytree(corpus.folder, tmp_path / "data")
    monkeypatch.setattr(stream_encode.time, "sleep", lambda _: (tmp_path / "gone").rename(tmp_path / "data"))
    with opened(corpus, corpus=ParquetCorpus([str(tmp_path / "data")])) as stream:
        (tmp_path / "data").rename(tmp_path / "gone")
        assert plain(read(stream, STEPS[:2])) == whole[:2]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def shortened(file: Path) -> None:
    data = file.read_bytes()
    length = int.from_bytes(data[-8:-4], "little") + 8
    file.write_bytes(data[:500] + data[-length:])


def of_columns(**columns: Any):
    return lambda file: pq.write_table(pa.table(columns), file)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut, "torn"),
        (shortened, "torn"),
        (lambda file: file.write_bytes(b""), "torn"),
        (lambda file: file.write_text("id,text\n1,soil\n"), "no Parquet"),
        (lambda file: file.write_bytes(b"PAR1" + b"\7" * 90 + (80).to_bytes(4, "little") + b"PAR1"), "torn"),
        (of_columns(id=["1"], content=["soil"]), "no column text; there are id, content"),
        (of_columns(text=[b"soil"]), "no text"),
        (of_columns(text=[1]), "no text"),
    ],
)
def test_a_file_that_is_none_is_named_before_anything_is_read(corpus, tmp_path, damage, told) -> None:
    shutil.copytree(corpus.folder, tmp_path / "data")
    damage(tmp_path / "data" / "b.parquet")
    with pytest.raises(InputError, match=told) as caught:
        ParquetCorpus([str(tmp_path / "data")])
    assert str(caught.value).startswith(str(tmp_path / "data" / "b.parquet"))
    assert "\n" not in str(caught.value)


def test_places_without_data_are_told(corpus, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.txt").write_text("soil")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "none.parquet")
    for place in ("empty", "nothing", "x.txt", "none.parquet", "*.json"):
        with pytest.raises(InputError, match=place.replace("*", r"\*")):
            ParquetCorpus([str(tmp_path / place)])


def test_batches_that_do_not_fall_to_the_lanes_and_pools_without_documents_are_refused(corpus) -> None:
    with pytest.raises(UsageError, match="6 sequences of a step do not fall to 4 lanes"):
        opened(corpus, segments=[segment(10, 6, 32, (1, 0, 0))])
    with pytest.raises(InputError, match="no document of few"):
        opened(corpus, held=corpus.assigned == 2)


def test_documents_that_are_all_without_text_are_told(corpus, tmp_path) -> None:
    pq.write_table(pa.table({"text": pa.array([None, None], pa.string())}), tmp_path / "x.parquet")
    every = {"corpus": ParquetCorpus([str(tmp_path)]), "assigned": np.zeros(2, np.int16), "held": None}
    with (
        opened(corpus, segments=[segment(1, 4, 8, (1, 0, 0))], **every) as stream,
        pytest.raises(InputError, match="no text"),
    ):
        read(stream, [DataStep(0, 0)])


# --- The corpus -------------------------------------------------------------------------------------------------------


def test_the_fingerprint_tells_changed_data_and_not_another_place(corpus, tmp_path) -> None:
    shutil.copytree(corpus.folder, tmp_path / "data")
    one = ParquetCorpus([str(corpus.folder)]).fingerprint
    assert ParquetCorpus([str(tmp_path / "data")]).fingerprint == one
    file = tmp_path / "data" / "b.parquet"
    table = pq.read_table(file)
    pq.write_table(table, file, row_group_size=20)
    assert ParquetCorpus([str(tmp_path / "data")]).fingerprint == one
    pq.write_table(table.slice(1), file, row_group_size=20)
    changed = {one, ParquetCorpus([str(tmp_path / "data")]).fingerprint}
    file.rename(tmp_path / "data" / "d.parquet")
    changed.add(ParquetCorpus([str(tmp_path / "data")]).fingerprint)
    assert len(changed) == 3


def test_documents_tell_ids_places_sizes_and_the_labels_asked_for(corpus, tmp_path) -> None:
    table = pa.table({"text": ["soil", "root and leaf"], "length": [{"bytes": 40}, {"bytes": 130}], "id": [7, None]})
    pq.write_table(table, tmp_path / "x.parquet")
    data = ParquetCorpus([str(tmp_path / "*.parquet"), str(corpus.folder)])
    assert data.columns == ["text", "length", "length.bytes", "id", "lang", "lang.code", "lang.score"]
    rows = data.documents(["lang.code", "length"], 0.5).read_all()
    assert rows.schema.names == ["id", "tokens", "place", "lang", "length"]
    assert rows["id"].to_pylist() == ["7", "x.parquet-1", *corpus.ids]
    assert rows["tokens"].to_pylist()[:2] == [20, 65]
    about = sum(len(text.encode()) for text in corpus.texts) / 2
    assert about < sum(rows["tokens"].to_pylist()[2:]) < 1.5 * about + 300
    assert rows["place"].to_pylist() == [str(tmp_path / "*.parquet")] * 2 + [str(corpus.folder)] * 300
    there = [row["code"] for file in ("a", "b", "more/c")
             for row in pq.read_table(corpus.folder / f"{file}.parquet")["lang"].to_pylist()]  # fmt: skip
    assert rows["lang"].to_pylist() == [None, None, *({"code": code} for code in there)]
    assert rows["length"].to_pylist()[:3] == [{"bytes": 40}, {"bytes": 130}, None]
    assert [id_ for group in range(len(data.groups.files)) for id_ in data.ids(group)] == rows["id"].to_pylist()
    with pytest.raises(InputError, match=r"no column lang\.name in any file; there are text, length"):
        data.documents(["lang.name"], 0.5)


def test_a_document_without_id_is_called_by_file_and_row(tmp_path) -> None:
    pq.write_table(pa.table({"text": ["a", "b", "c"]}), tmp_path / "x.parquet", row_group_size=2)
    data = ParquetCorpus([str(tmp_path)])
    assert data.documents([], 1.0).read_all()["id"].to_pylist() == ["x.parquet-0", "x.parquet-1", "x.parquet-2"]
    assert data.ids(1) == ["x.parquet-2"]


def test_tokens_of_a_byte_are_measured(corpus) -> None:
    texts = [text for text in corpus.texts if text]
    true = sum(map(len, corpus.tokenizer.encode(texts))) / sum(len(text.encode()) for text in texts)
    assert ParquetCorpus([str(corpus.folder)]).tokens_per_byte(corpus.tokenizer) == pytest.approx(true, rel=0.01)


def test_a_file_that_is_named_twice_is_read_once(corpus) -> None:
    both = ParquetCorpus([str(corpus.folder / "b.parquet"), str(corpus.folder)])
    assert [file.name for file in both.files] == ["b.parquet", "a.parquet", "more/c.parquet"]
    assert [file.place for file in both.files] == [
        str(corpus.folder / "b.parquet"),
        str(corpus.folder),
        str(corpus.folder),
    ]


def test_a_curation_run_is_its_corpus_and_must_be_whole(corpus, tmp_path) -> None:
    folder = Folder(tmp_path / "run")
    rundir.write(folder, "curate run", {}, "keep-all")
    with pytest.raises(DirectoryConflict, match="its corpus is not written yet"):
        ParquetCorpus([folder.url])
    ledger = Ledger(folder, "corpus")
    (tmp_path / "run" / "documents").mkdir()
    (tmp_path / "run" / "corpus").mkdir()
    shutil.copy(corpus.folder / "a.parquet", tmp_path / "run" / "documents")
    shutil.copy(corpus.folder / "b.parquet", tmp_path / "run" / "corpus" / "part-00000-of-00001.parquet")
    ledger.record("part-00000-of-00001", {"files": [], "counts": {}})
    data = ParquetCorpus([folder.url])
    assert [(file.place, file.name) for file in data.files] == [(folder.url, "part-00000-of-00001.parquet")]


def copied(corpus: Corpus, place: str) -> str:
    for file in corpus.folder.rglob("*.parquet"):
        with fsspec.open(f"{place}/{file.relative_to(corpus.folder)}", "wb") as target:
            target.write(file.read_bytes())  # type: ignore[union-attr]
    return place


def test_remote_data_are_the_same(corpus, whole) -> None:
    data = ParquetCorpus([copied(corpus, f"memory://{uuid.uuid4().hex}")])
    assert data.fingerprint == ParquetCorpus([str(corpus.folder)]).fingerprint
    with opened(corpus, corpus=data) as stream:
        assert plain(read(stream, STEPS[:3])) == whole[:3]


def test_data_on_s3_are_the_same(corpus, whole, s3) -> None:
    data = ParquetCorpus([copied(corpus, f"{s3}/{uuid.uuid4().hex}")])
    with opened(corpus, corpus=data) as stream:
        assert plain(read(stream, STEPS[:3])) == whole[:3]
