"""Token shards: what Megatron reads is what the tokenizer gives, and every token leads back to its page."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import results
from vocabularies import TEXT, changed, learned_from

from tilth.curate.demo import write_crawl
from tilth.curate.pipeline import curate
from tilth.curate.recipe import PACKAGE, CurateRecipe
from tilth.errors import DirectoryConflict, InputError, ModelError, NoSpaceLeft, RecipeError, UsageError
from tilth.progress import Progress
from tilth.recipe import changed as options_of
from tilth.recipe import load_recipe
from tilth.storage import Folder
from tilth.tokenize.encode import DOCUMENTS, SHARDS, EncodeOptions, encode
from tilth.tokenize.export import to_ranks, write_directory
from tilth.tokenize.fixed import Frame, around, fixed
from tilth.tokenize.formats import from_bert
from tilth.tokenize.recipe import PACKAGE as TOKENIZERS
from tilth.tokenize.recipe import TokenizerRecipe
from tilth.tokenize.tokenizer import Tokenizer, load
from tilth.tokenize.train import train
from tilth.work import WorkOptions

ALONE = WorkOptions(in_process=True)
SMALL = ["read.unit_bytes=4000", "shard_bytes=9000"]  # so that there are several shards of several units
END = "<|endoftext|>"
HOSTILE = [f"a{END}b", END, END * 3, "</s><unk>", " a ", "\r\n.", "\x7f", "🌾\u200d🌾", "e\u0301", "▁", "x" * 3000]


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Path:
    """tok/ (byte-bpe), bert/ and a corpus/ of rows, lines and plain text, in files of several kinds."""
    folder = tmp_path_factory.mktemp("encode")
    tokenizer = learned_from(TEXT, vocab_size=500)
    write_directory(folder / "tok", Tokenizer(tokenizer.spec, {"eos_token": END}))
    letters = sorted({letter for letter in TEXT.lower() if not letter.isspace()})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *("##" + letter for letter in letters)]
    write_directory(folder / "bert", Tokenizer(from_bert("\n".join(tokens).encode(), "bert")))
    corpus, chance = folder / "corpus", random.Random(2)
    lines = [line for line in TEXT.splitlines(keepends=True) if line.strip()]
    corpus.mkdir()
    texts = ["".join(chance.choices(lines, k=chance.randint(1, 9))) for _ in range(90)] + HOSTILE
    rows = [{"id": f"row-{at}", "text": text, "lang": "en" if at % 3 else "zh"} for at, text in enumerate(texts)]
    written = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (corpus / "rows.jsonl").write_text(written, encoding="utf-8")
    with gzip.open(corpus / "more.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write('{"text": "One wall."}\n{"text": ""}\n{"body": "none"}\n{"text": "Two walls."}\nno row\n')
    (corpus / "plain.txt").write_text(TEXT, encoding="utf-8")
    return folder


def run(inputs: list[Path], tokenizer: Path, output: Path, *told: str, **more: Any) -> dict[str, Any]:
    options = options_of(EncodeOptions, {}, told, "encode")
    work = more.pop("work", ALONE)
    return encode([*map(str, inputs)], str(tokenizer), Folder(output), options, work, Progress(quiet=True), **more)


def rows_of(output: Path) -> list[dict[str, Any]]:
    """Ids and lengths of all documents, in the order of shards."""
    return ds.dataset(sorted((output / DOCUMENTS).glob("*.parquet"))).to_table().to_pylist()


def read_by_megatron(output: Path, stats: dict[str, Any]) -> list[np.ndarray]:
    """Every document of every shard, by the reader of those who train on them."""
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    found = []
    for shard in stats["shards"]:
        shards = IndexedDataset(str(output / shard))
        assert shards.document_indices.tolist() == list(range(len(shards) + 1)), "a sequence a document"
        found += [shards[index].copy() for index in range(len(shards))]  # its own memory ends with the reader
        assert all(one.dtype == np.dtype(stats["dtype"]) for one in found)
    return found


def texts_of(rows: list[dict[str, Any]], corpus: Path) -> list[str]:
    """What the rows stand for, by id: rows of JSONL that have one."""
    lines = (corpus / "rows.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    told = {row["id"]: row["text"] for row in map(json.loads, lines)}
    return [told[row["id"]] for row in rows]


# --- What is written ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_megatron_reads_the_tokens_of_every_document_and_its_end(places, tmp_path) -> None:
    told = [*SMALL, "read.id_field=id", "read.max_record_bytes=100000", "label=lang"]
    stats = run([places / "corpus/rows.jsonl"], places / "tok", tmp_path, *told)
    tokenizer, rows = load(places / "tok"), rows_of(tmp_path)
    assert len(stats["shards"]) > 3
    documents = read_by_megatron(tmp_path, stats)
    texts = texts_of(rows, places / "corpus")
    expected = [[*ids.tolist(), tokenizer.specials[END]] for ids in tokenizer.encode(texts)]
    assert [one.tolist() for one in documents] == expected
    assert [tokenizer.decode(one) for one in documents] == texts
    assert len(rows) == len({row["id"] for row in rows}) == 90 + len(HOSTILE) == stats["documents"]
    assert [row["tokens"] for row in rows] == [len(one) for one in documents]
    assert [row["bytes"] for row in rows] == [len(text.encode()) for text in texts]
    assert {row["label"] for row in rows} == {"en", "zh"}
    assert stats["tokens"] == sum(map(len, documents))
    assert stats["bytes"] == sum(row["bytes"] for row in rows)


@pytest.mark.filterwarnings("ignore")
def test_text_that_spells_the_end_token_ends_no_document(places, tmp_path) -> None:
    stats = run([places / "corpus/rows.jsonl"], places / "tok", tmp_path, "read.id_field=id")
    end = load(places / "tok").specials[END]
    documents = read_by_megatron(tmp_path, stats)
    assert len(documents) == 90 + len(HOSTILE)
    assert all((one == end).nonzero()[0].tolist() == [len(one) - 1] for one in documents)


@pytest.mark.filterwarnings("ignore")
def test_an_empty_document_is_told_and_what_is_no_row_is_told(places, tmp_path) -> None:
    stats = run([places / "corpus/more.jsonl.gz"], places / "tok", tmp_path)
    tokenizer, documents = load(places / "tok"), read_by_megatron(tmp_path, stats)
    assert [text for text in map(tokenizer.decode, documents) if text] == ["One wall.", "Two walls."]
    assert stats["documents"] + sum(stats["skipped"].values()) == 5
    assert stats["documents"] == len(documents) == len(rows_of(tmp_path))


def sized(folder: Path, size: int) -> Path:
    """A vocabulary with so many ids, of which text can give the last."""
    base = learned_from(TEXT, vocab_size=300)
    model = base.spec["model"]
    filler = {f"<{index}>": index for index in range(base.size, size - 1)}
    wide = changed(base, vocab={**model["vocab"], **filler, "zq": size - 1}, merges=[*model["merges"], ["z", "q"]])
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(wide.spec))
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("size", "dtype"), [(65_499, "uint16"), (65_500, "int32"), (70_000, "int32")])
def test_ids_take_two_bytes_below_65_500_ids_and_four_from_there(size, dtype, tmp_path) -> None:
    (tmp_path / "text.txt").write_text("wall zq\n")
    stats = run([tmp_path / "text.txt"], sized(tmp_path / "tok", size), tmp_path / "out")
    (document,) = read_by_megatron(tmp_path / "out", stats)
    assert stats["dtype"] == dtype
    assert size - 1 in document
    assert load(tmp_path / "tok").decode(document) == "wall zq\n"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("tokenizer", "style"), [("tok", "gpt"), ("bert", "bert")])
@pytest.mark.parametrize("length", [3, 16, 200])
def test_documents_of_one_length_are_cut_and_filled(tokenizer, style, length, places, tmp_path) -> None:
    told = [*SMALL, "read.id_field=id", f"length={length}", f"style={style}"]
    stats = run([places / "corpus/rows.jsonl"], places / tokenizer, tmp_path, *told)
    made, rows = load(places / tokenizer), rows_of(tmp_path)
    ids = made.encode(texts_of(rows, places / "corpus"))
    pad, begin, end = ("[PAD]", "[CLS]", "[SEP]") if style == "bert" else (END, None, END)
    around = Frame(made.specials[begin] if begin else None, made.specials[end], made.specials[pad])
    expected = fixed(ids, length, around)
    assert np.array_equal(np.stack(read_by_megatron(tmp_path, stats)), expected.ids)
    whole = [len(one) + (2 if style == "bert" else 1) for one in ids]
    assert [row["tokens"] for row in rows] == whole, "how long it would be"
    assert stats["cut"] == sum(one > length for one in whole)
    assert stats["tokens"] == length * stats["documents"]


@pytest.mark.filterwarnings("ignore")
def test_a_document_may_begin_with_a_token_and_need_not_end_with_one(places, tmp_path) -> None:
    (tmp_path / "text.txt").write_text("wall\n")
    tokenizer = load(places / "tok")
    end, ids = tokenizer.specials[END], tokenizer.encode(["wall\n"])[0].tolist()
    for told, expected in (
        (["ends=false"], ids),
        ([f"begin={END}", "ends=false"], [end, *ids]),
        ([f"begin={END}", f"end={END}"], [end, *ids, end]),
    ):
        output = tmp_path / str(len(expected)) / told[0]
        stats = run([tmp_path / "text.txt"], places / "tok", output, *told)
        assert [one.tolist() for one in read_by_megatron(output, stats)] == [expected]


@given(st.lists(st.lists(st.integers(0, 99), max_size=5)), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_tokens_before_and_behind_documents_stand_where_they_should(documents, begins, ends) -> None:
    ids = np.array([index for one in documents for index in one], np.int32)
    lengths = np.array([len(one) for one in documents], np.int64)
    made, longer = around(ids, lengths, 100 if begins else None, 101 if ends else None)
    assert np.split(made, np.cumsum(longer)[:-1])[: len(documents)] if documents else not len(made)
    expected = [[100] * begins + one + [101] * ends for one in documents]
    assert made.tolist() == [index for one in expected for index in one]
    assert longer.tolist() == [len(one) for one in expected]


@pytest.mark.filterwarnings("ignore")
def test_a_shard_without_tokens_is_not_among_those_to_be_read(places, tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "no text"}\n' * 5)
    (tmp_path / "b.jsonl").write_text('{"text": "wall"}\n')
    inputs = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    stats = run(inputs, places / "tok", tmp_path / "out", "shard_bytes=1")
    assert len(stats["shards"]) == 1
    assert len(read_by_megatron(tmp_path / "out", stats)) == 1


# --- The same bytes -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(places) -> dict[str, str]:
    run([places / "corpus"], places / "tok", places / "undisturbed", *SMALL)
    found = results(places / "undisturbed")
    assert sum(name.endswith(".bin") for name in found) > 3
    return found


@pytest.mark.slow
def test_two_workers_on_ray_write_the_same_bytes(ray, places, undisturbed, tmp_path) -> None:
    run([places / "corpus"], places / "tok", tmp_path, *SMALL, work=WorkOptions(workers=2))
    assert results(tmp_path) == undisturbed


def test_files_in_another_order_give_the_same_bytes(places, undisturbed, tmp_path) -> None:
    files = sorted((places / "corpus").iterdir())
    for at, inputs in enumerate((files, files[::-1])):
        run(inputs, places / "tok", tmp_path / str(at), *SMALL)
    assert results(tmp_path / "0") == results(tmp_path / "1")
    told = [json.loads((folder / "stats.json").read_bytes()) for folder in (tmp_path / "0", places / "undisturbed")]
    assert told[0]["tokens"] == told[1]["tokens"]


def test_the_same_command_again_changes_nothing_and_fresh_starts_over(places, undisturbed, tmp_path) -> None:
    inputs = [places / "corpus"], places / "tok", tmp_path
    first = run(*inputs, *SMALL)
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / SHARDS).iterdir()}
    assert run(*inputs, *SMALL) == first
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / SHARDS).iterdir()} == times
    assert run(*inputs, *SMALL, fresh=True) == first
    assert results(tmp_path) == undisturbed


def command(places: Path, output: Path) -> list[str]:
    told = ["--input", str(places / "corpus"), "--tokenizer", str(places / "tok"), "--output", str(output)]
    settings = [part for setting in SMALL for part in ("--set", setting)]
    return [sys.executable, "-m", "tilth.cli.main", "tokenize", "encode", *told, *settings, "--quiet"]


def units_done(output: Path) -> int:
    return len(list((output / "ledger/encode").glob("*.json")))


@pytest.mark.slow
def test_a_run_killed_in_the_middle_ends_as_one_that_was_not(places, undisturbed, tmp_path) -> None:
    kills = 0
    for done in (1, 3):
        process = subprocess.Popen(command(places, tmp_path), stderr=subprocess.PIPE, start_new_session=True)
        while process.poll() is None and units_done(tmp_path) < done:
            time.sleep(0.0005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    finished = subprocess.run(command(places, tmp_path), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert kills
    assert results(tmp_path) == undisturbed


# --- From a crawl to shards and back --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_every_token_of_a_curated_crawl_leads_back_to_the_text_of_its_page(tmp_path) -> None:
    write_crawl(tmp_path / "crawl")
    run_folder, tokenizer = tmp_path / "run", tmp_path / "tok"
    recipe = load_recipe(CurateRecipe, "demo", PACKAGE, ["corpus.shard_bytes=30000"])
    curate([str(tmp_path / "crawl")], Folder(run_folder), "demo", recipe, ALONE, Progress(quiet=True))
    learned = load_recipe(TokenizerRecipe, "byte-bpe", TOKENIZERS, ["vocab_size=800"])
    train([str(run_folder)], Folder(tokenizer), "byte-bpe", learned, ALONE, Progress(quiet=True), sample=0)
    stats = run([run_folder], tokenizer, tmp_path / "shards", "shard_bytes=40000", "label=lang.code")
    made, rows = load(tokenizer), rows_of(tmp_path / "shards")
    documents = read_by_megatron(tmp_path / "shards", stats)
    pages = ds.dataset(run_folder / "corpus", format="parquet").to_table(["id", "text", "lang"]).to_pylist()
    assert len(stats["shards"]) > 1
    assert [row["id"] for row in rows] == sorted(page["id"] for page in pages)
    told = {page["id"]: (page["text"], page["lang"]["code"]) for page in pages}
    for row, document in zip(rows, documents, strict=True):
        assert (made.decode(document), row["label"]) == told[row["id"]]
        assert document[-1] == made.specials[END]


@pytest.mark.filterwarnings("ignore")
def test_ranks_that_do_not_tell_how_they_cut_words_are_told_so(places, tmp_path) -> None:
    text = "12 goats, 1899\n\n  goats on 12 walls\n"
    (tmp_path / "text.txt").write_text(text)
    ranks, found = to_ranks(learned_from(TEXT, split={"pattern": "gpt2", "marks": False})), {}
    (tmp_path / "mine.tiktoken").write_bytes(ranks)
    for pattern in ("gpt2", "gpt4"):
        told = [f"pattern={pattern}", "ends=false"]
        stats = run([tmp_path / "text.txt"], tmp_path / "mine.tiktoken", tmp_path / pattern, *told)
        (document,) = read_by_megatron(tmp_path / pattern, stats)
        found[pattern] = document.tolist()
        assert found[pattern] == load(tmp_path / "mine.tiktoken", pattern).encode([text])[0].tolist()
    assert found["gpt2"] != found["gpt4"]


# --- What is refused ------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[str, list[str], type[Exception], str]] = {
    "no end is known": (
        "plain.json",
        [],
        UsageError,
        "has no eos token, which gpt documents need; name a token with --end",
    ),
    "an end that is no token": ("tok", ["end=</s>"], UsageError, r"no special token '</s>'; there are <\|endoftext\|>"),
    "an end that is a word": ("tok", ["end=wall"], UsageError, "no special token 'wall'"),
    "a begin that is no token": ("tok", ["begin=<s>"], UsageError, "no special token '<s>'"),
    "bert without [CLS]": (
        "tok",
        ["style=bert", f"end={END}"],
        UsageError,
        r"has no cls token, which bert documents need; name it as cls_token",
    ),
    "a length without an end": ("tok", ["length=8", "ends=false"], UsageError, "need an end; leave --no-end away"),
    "a length that has no room": ("tok", ["length=2"], RecipeError, "length: .*3"),
    "an option that is none": ("tok", ["lenght=8"], RecipeError, "did you mean length"),
    "a tokenizer that is missing": ("nowhere", [], ModelError, "nowhere: no such tokenizer"),
}


@pytest.mark.parametrize(("tokenizer", "told", "kind", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_request_is_one_line_and_nothing_is_written(tokenizer, told, kind, message, places, tmp_path) -> None:
    plain = learned_from(TEXT, vocab_size=300, specials={"others": ["<|user|>"]})
    (places / "plain.json").write_text(json.dumps(plain.spec))
    with pytest.raises(kind, match=message) as raised:
        run([places / "corpus"], places / tokenizer, tmp_path / "out", *told)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_an_input_without_documents_is_told_with_what_it_holds(places, tmp_path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"body": "wall"}\n' * 3)
    with pytest.raises(InputError, match=r"no document in the input; skipped: \{.*3\}"):
        run([tmp_path / "rows.jsonl"], places / "tok", tmp_path / "out")
    assert not (tmp_path / "out/stats.json").exists()


def test_another_tokenizer_or_another_end_in_the_same_folder_is_refused(places, tmp_path) -> None:
    (tmp_path / "text.txt").write_text("wall")
    other = learned_from(TEXT, vocab_size=310)
    write_directory(tmp_path / "other", Tokenizer(other.spec, {"eos_token": END}))
    run([tmp_path / "text.txt"], places / "tok", tmp_path / "out")
    before = results(tmp_path / "out")
    for tokenizer, told in ((tmp_path / "other", []), (places / "tok", ["ends=false"])):
        with pytest.raises(DirectoryConflict, match="holds another run"):
            run([tmp_path / "text.txt"], tokenizer, tmp_path / "out", *told)
    assert results(tmp_path / "out") == before


def test_a_full_disk_is_told_and_more_room_finishes_the_run(places, undisturbed, small_disk) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (2**21 - 45_000))
    with pytest.raises(NoSpaceLeft):
        run([places / "corpus"], places / "tok", small_disk / "out", *SMALL)
    assert not (small_disk / "out/stats.json").exists()
    filler.unlink()
    run([places / "corpus"], places / "tok", small_disk / "out", *SMALL)
    assert results(small_disk / "out") == undisturbed
