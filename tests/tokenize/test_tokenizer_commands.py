"""`tilth tokenize`: the way from text to a model's rows, by the commands alone; every mistake is one line."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from vocabularies import TEXT, added, learned_from

from tilth.cli.main import main
from tilth.tokenize.expansion import read
from tilth.tokenize.tokenizer import load

ROWS = [
    {"text": "The goat stands on the wall, and the wall stands on the hill.", "lang": "en", "body": "one wall"},
    {"text": "石头和土，土和石头；山羊站在墙上。", "lang": "zh", "body": "two walls"},
    {"text": "Nobody built the hill, they say.\n", "lang": "en", "body": "three walls"},
]
CHINESE = "渡船在涨潮的时候离开码头，来晚的人只好等下一次涨潮。码头上只有一盏灯，摆渡人五点点灯，七点熄灯。\n"


@pytest.fixture
def tilth(monkeypatch, capsys):
    """Gives a command to the program; returns its exit code and what it wrote to its two streams."""

    def call(*words: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tilth", "tokenize", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        written = capsys.readouterr()
        return int(left.value.code or 0), written.out, written.err

    return call


@pytest.fixture(scope="session")
def soil(tmp_path_factory) -> Path:
    """A folder with texts (corpus/, new.txt), rows by language and a few tokenizers."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "corpus").mkdir()
    (folder / "corpus/text.txt").write_text(TEXT, encoding="utf-8")
    (folder / "new.txt").write_text(CHINESE * 5, encoding="utf-8")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS))
    for name, size in (("large", 600), ("small", 320)):
        (folder / name).mkdir()
        (folder / name / "tokenizer.json").write_text(json.dumps(learned_from(TEXT, vocab_size=size).spec))
    return folder


# --- The whole way --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_way_from_text_to_shards_and_to_the_rows_of_a_model(soil, tmp_path, tilth) -> None:
    corpus, new = soil / "corpus", soil / "new.txt"
    tok, grown, model = tmp_path / "tok", tmp_path / "grown", tmp_path / "model"

    code, out, _ = tilth("train", "--input", corpus, "--output", tok, "--vocab-size", 500, "--json", "--in-process")
    assert code == 0
    assert json.loads(out)["size"] == 500
    assert tilth("verify", tok) == (0, f"{tok}: every form gives the same ids\n", "")

    told = ["--base", tok, "--input", new, "--check", corpus, "--output", grown, "--tokens", 40, "--quiet"]
    code, out, _ = tilth("expand", *told)
    assert code == 0
    assert "500 ids before, 540 now: 40 new, 0 removed" in out
    assert "new ones that no text leads to: 0" in out
    assert f"report: {grown}/report.html" in out
    assert tilth("verify", grown)[0] == 0

    code, out, _ = tilth("encode", "--input", corpus, "--tokenizer", grown, "--output", tmp_path / "shards", "--json")
    stats = json.loads(out)
    assert code == 0
    assert (stats["documents"], stats["dtype"]) == (1, "uint16")
    assert all((tmp_path / "shards" / f"{shard}.bin").exists() for shard in stats["shards"])

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=500, num_key_value_heads=2, **sizes, eos_token_id=0, bos_token_id=0)
    transformers.LlamaForCausalLM(config).save_pretrained(model)
    for method, more in (("subword", []), ("focus", ["--input", new, "--input", corpus])):
        output = tmp_path / method
        told = ["--model", model, "--tokenizer", grown, "--output", output, "--method", method, "--multiple", 64]
        code, out, err = tilth("embed", *told, *more)
        assert code == 0, err
        assert "40 new rows, 576 in all" in out
        made: Any = transformers.AutoModelForCausalLM.from_pretrained(output)
        tokenizer = transformers.AutoTokenizer.from_pretrained(output)
        before: Any = transformers.AutoModelForCausalLM.from_pretrained(model)
        rows, old = made.get_input_embeddings().weight, before.get_input_embeddings().weight
        assert rows.shape == (576, 16)
        assert torch.equal(rows[:500], old)
        assert (rows[500:540].norm(dim=1) > 0).all()
        ids = tokenizer(CHINESE)["input_ids"]
        assert ids == load(grown).encode([CHINESE])[0].tolist()
        assert torch.isfinite(made(torch.tensor([ids])).logits).all()
        named = json.loads((output / "new_rows.json").read_bytes())
        assert str(list(range(500, 540)))[1:-1] in json.dumps(named)
    subword: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "subword")
    parts = read(grown).parts[0]
    mean, row = old[list(parts)].mean(0), subword.get_input_embeddings().weight[500]
    assert torch.cosine_similarity(mean, row, dim=0) > 0.999


def test_focus_without_text_and_rows_for_a_tokenizer_that_none_expanded_are_refused(soil, tmp_path, tilth) -> None:
    told = ["embed", "--model", tmp_path, "--tokenizer", soil / "large", "--output", tmp_path / "out"]
    assert tilth(*told, "--method", "focus") == (
        2, "", "tilth: focus compares tokens by how the text uses them; name text with --input\n"
    )  # fmt: skip
    code, _, err = tilth(*told)
    assert code == 2
    assert "expansion.json: cannot be read" in err
    assert "name a tokenizer that an expansion made" in err
    code, _, err = tilth(*told, "--set", "nrom=kept")
    assert (code, err) == (2, "tilth: recipe embed: unknown key nrom; did you mean norm?\n")


# --- Scores ---------------------------------------------------------------------------------------------------------


def test_two_tokenizers_are_scored_side_by_side_by_label(soil, tmp_path, tilth) -> None:
    two = ["--tokenizer", soil / "small", "--tokenizer", soil / "large"]
    told = ["score", *two, "--input", soil / "rows.jsonl", "--label", "lang", "--output", tmp_path, "--in-process"]
    code, out, err = tilth(*told, "--json")
    assert code == 0, err
    cards = json.loads(out)
    assert cards == json.loads((tmp_path / "scorecard.json").read_bytes())
    assert [card["tokenizer"] for card in cards] == ["small", "large"]
    for card, name in zip(cards, ("small", "large"), strict=True):
        made = load(soil / name)
        for label in ("en", "zh"):
            texts = [row["text"] for row in ROWS if row["lang"] == label]
            tokens = sum(map(len, made.encode(texts)))
            assert card["labels"][label]["tokens"] == tokens
            assert card["labels"][label]["bytes_per_token"] == sum(len(text.encode()) for text in texts) / tokens
            assert card["labels"][label]["documents"] == len(texts)
        assert card["total"]["tokens"] == sum(map(len, made.encode([row["text"] for row in ROWS])))
    code, out, _ = tilth(*told)
    assert code == 0
    assert f"report: {tmp_path}/report.html" in out
    assert [line.split() for line in out.splitlines() if line.startswith("All texts")] == [
        ["All", "texts", "small", "large"]
    ]
    assert b"<html" in (tmp_path / "report.html").read_bytes()


def test_a_finished_score_is_not_computed_again_and_other_text_is_refused(soil, tmp_path, tilth) -> None:
    told = [
        "score",
        "--tokenizer",
        soil / "small",
        "--input",
        soil / "rows.jsonl",
        "--output",
        tmp_path,
        "--json",
        "--in-process",
    ]
    first = tilth(*told)
    assert first[0] == 0
    times = [file.stat().st_mtime_ns for file in sorted((tmp_path / "uses").iterdir())]
    assert tilth(*told)[:2] == first[:2], "the speed, too, is that of the first time"
    assert [file.stat().st_mtime_ns for file in sorted((tmp_path / "uses").iterdir())] == times
    code, _, err = tilth(*told, "--set", "read.text_field=body")
    assert code == 2
    assert 'options.read.text_field is "text" there, "body" asked' in err
    code, out, _ = tilth(*told, "--set", "read.text_field=body", "--fresh")
    assert code == 0
    assert json.loads(out)[0]["total"]["bytes"] == sum(len(row["body"]) for row in ROWS)


def test_tokenizers_of_the_same_name_are_told_apart_by_their_places(soil, tmp_path, tilth) -> None:
    places = [soil / name / "tokenizer.json" for name in ("small", "large")]
    told = ["score", "--tokenizer", places[0], "--tokenizer", places[1], "--input", soil / "rows.jsonl"]
    _, out, _ = tilth(*told, "--output", tmp_path, "--json", "--in-process")
    assert [card["tokenizer"] for card in json.loads(out)] == [str(place) for place in places]


@pytest.mark.slow
def test_scores_are_the_same_from_two_workers(ray, soil, tmp_path, tilth) -> None:
    told = ["score", "--tokenizer", soil / "small", "--input", soil, "--label", "file", "--set", "read.unit_bytes=900"]
    found = []
    for name, how in (("one", "--in-process"), ("two", "--quiet")):
        code, out, err = tilth(*told, how, "--output", tmp_path / name, "--json")
        assert code == 0, err
        (card,) = json.loads(out)
        for figures in (card["total"], *card["labels"].values()):
            del figures["megabytes_per_second"]
        found.append(card)
    assert found[0] == found[1]
    assert {"text", "new", "rows"} <= found[0]["labels"].keys()


# --- Exports --------------------------------------------------------------------------------------------------------


def test_a_tokenizer_is_exported_with_a_template_and_verified_and_what_is_changed_is_found(
    soil, tmp_path, tilth
) -> None:
    (tmp_path / "chat.jinja").write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    told = ["export", soil / "small", "--output", tmp_path / "out"]
    code, out, err = tilth(*told, "--chat-template", tmp_path / "chat.jinja")
    assert code == 0, err
    assert "written and checked: tokenizer.json" in out
    made = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert made.apply_chat_template([{"role": "user", "content": "wall"}], tokenize=False) == "wall"
    assert tilth("verify", tmp_path / "out")[0] == 0
    spec = json.loads((tmp_path / "out/tokenizer.json").read_bytes())
    spec["model"]["merges"] = spec["model"]["merges"][5:]
    (tmp_path / "out/tokenizer.json").write_text(json.dumps(spec))
    code, _, err = tilth("verify", tmp_path / "out")
    assert code == 1
    assert "differences, the first: " in err
    code, _, err = tilth(
        "encode", "--input", soil / "corpus", "--tokenizer", tmp_path / "out", "--output", tmp_path / "x"
    )
    assert code == 2
    assert "gives other ids than when the tokenizer was made" in err
    code, _, err = tilth(*told, "--chat-template", tmp_path / "none.jinja")
    assert code == 2
    assert "--chat-template" in err


def test_a_recipe_that_is_printed_can_be_changed_and_used(soil, tmp_path, tilth) -> None:
    code, out, _ = tilth("recipes")
    assert code == 0
    assert {"byte-bpe", "bpe", "wordpiece", "unigram", "expand", "expand-zh"} <= {
        line.split()[0] for line in out.splitlines()
    }
    (tmp_path / "mine.yaml").write_text(tilth("recipes", "expand")[1] + "tokens: 12\n")
    told = [
        "--base",
        soil / "small",
        "--input",
        soil / "new.txt",
        "--output",
        tmp_path / "out",
        "--sample",
        0,
        "--in-process",
    ]
    code, out, _ = tilth("expand", *told, "--recipe", tmp_path / "mine.yaml", "--json")
    assert code == 0
    assert json.loads(out)["new"] == 12
    code, _, err = tilth("recipes", "nothing")
    assert code == 2
    assert "no such recipe" in err


# --- Mistakes -------------------------------------------------------------------------------------------------------


def bpe(**more: Any) -> dict[str, Any]:
    return {"type": "BPE", "vocab": {"a": 0}, "merges": [], **more}


MINE = learned_from(TEXT, vocab_size=300).spec
NO_TOKENIZERS: dict[str, tuple[bytes, str]] = {
    "empty.json": (b"", "not a tokenizer.json"),
    "binary.json": (bytes(range(256)) * 8, "not a tokenizer.json"),
    "list.json": (b"[1, 2]", "not a tokenizer.json"),
    "deep.json": (b'{"model":' + b"[" * 100_000, "not a tokenizer.json"),
    "cut.json": (json.dumps(MINE).encode()[:5000], "not a tokenizer.json"),
    "no-model.json": (b'{"vocab": {}}', "it has no model"),
    "no-kind.json": (b'{"model": {}}', "not a tokenizer that can be used"),
    "no-vocabulary.json": (b'{"model": {"type": "BPE"}}', "not a tokenizer that can be used"),
    "words.json": (b'{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}', "works with BPE"),
    "negative.json": (json.dumps({"model": bpe(vocab={"a": -5})}).encode(), "not a tokenizer that can be used"),
    "huge.json": (json.dumps({"model": bpe(vocab={"a": 4 * 10**9})}).encode(), "more than 31 bits"),
    "text-ids.json": (json.dumps({"model": bpe(vocab={"a": "x"})}).encode(), "not a tokenizer that can be used"),
    "no-mapping.json": (json.dumps({"model": bpe(vocab=["a"])}).encode(), "not a tokenizer that can be used"),
    "lost-merge.json": (
        json.dumps({"model": bpe(vocab={"a": 0, "b": 1}, merges=["a b"])}).encode(), "'a' and 'b' makes no token"
    ),
    "surrogate.json": (b'{"model": {"type": "BPE", "vocab": {"\\ud800": 0}, "merges": []}}', "surrogates"),
    "added.json": (json.dumps({"model": bpe(), "added_tokens": [{"x": 1}]}).encode(), "missing field"),
    "added-elsewhere.json": (
        json.dumps({**MINE, "added_tokens": [added("[goat]", 310)]}).encode(), "tokenizers gives it 300"
    ),
    "sections.json": (json.dumps({"model": bpe(), "pre_tokenizer": {"type": "Sequence"}}).encode(), "pretokenizers"),
    "empty.model": (b"", "not a SentencePiece model"),
    "binary.model": (bytes(range(256)) * 8, "not a SentencePiece model"),
    "ranks.model": (b"YQ== 0\n", "name it *.tiktoken"),
    "empty.tiktoken": (b"", "bytes have no rank"),
    "line.tiktoken": (b"YQ== 0\nYg== one\n", "line.tiktoken:2: not a base64 token and its rank"),
    "plain.txt": (b"hello\nthere\n", "not a BERT vocabulary"),
    "binary.txt": (bytes(range(256)), "not a BERT vocabulary (not UTF-8)"),
    "no-gzip.json.gz": (b"{}", "cannot be read"),
    "cut.json.gz": (gzip.compress(json.dumps(MINE).encode())[:2000], "cannot be read"),
    "tokenizer.pickle": (b"x", "none of tokenizer.json, *.model, *.tiktoken, vocab.txt"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_TOKENIZERS)
@pytest.mark.parametrize("command", ["score", "expand"])
def test_what_is_no_tokenizer_is_told_in_one_line(command, name, soil, tmp_path, tilth) -> None:
    content, message = NO_TOKENIZERS[name]
    (tmp_path / name).write_bytes(content)
    role = "--tokenizer" if command == "score" else "--base"
    told = [command, role, tmp_path / name, "--input", soil / "rows.jsonl", "--output", tmp_path / "out"]
    code, out, err = tilth(*told)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("tilth: ")
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_directory_without_a_tokenizer_and_one_that_is_not_there_are_told(soil, tmp_path, tilth) -> None:
    (tmp_path / "folder").mkdir()
    for command in (["export"], ["encode", "--input", soil / "corpus", "--tokenizer"]):
        for place, message in (("folder", "holds no tokenizer (no tokenizer.json,"), ("nowhere", "no such tokenizer")):
            code, _, err = tilth(*command, tmp_path / place, "--output", tmp_path / "out")
            assert (code, err.count("\n")) == (2, 1)
            assert message in err
    code, _, err = tilth("verify", tmp_path / "folder")
    assert (code, err.count("\n")) == (2, 1)
    assert "has no selftest.jsonl to verify against; write the tokenizer with tilth tokenize export" in err


COMMANDS: dict[str, list[Any]] = {
    "train": ["--input", "corpus", "--vocab-size", "400", "--in-process"],
    "expand": ["--base", "large", "--input", "new.txt", "--tokens", "10", "--in-process"],
    "encode": ["--input", "corpus", "--tokenizer", "small", "--in-process"],
    "score": ["--input", "corpus", "--tokenizer", "small", "--in-process"],
    "export": ["small"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_cannot_be_written_is_one_line(command, soil, tmp_path, tilth, monkeypatch) -> None:
    monkeypatch.chdir(soil)
    for output in ("/proc/nothing", soil / "new.txt", soil / "new.txt" / "below"):
        code, _, err = tilth(command, *COMMANDS[command], "--output", output)
        assert code in (1, 2)
        assert err.count("\n") == 1
        assert str(output) in err
    assert (soil / "new.txt").read_text() == CHINESE * 5


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "export"])
def test_an_empty_or_missing_input_and_an_unknown_setting_are_one_line(
    command, soil, tmp_path, tilth, monkeypatch
) -> None:
    monkeypatch.chdir(soil)
    (tmp_path / "empty.txt").write_text("")
    told = COMMANDS[command]
    at = told.index("--input") + 1
    for place, message in (
        (tmp_path / "empty.txt", "the file is empty"),
        (tmp_path / "nowhere", "nowhere"),
        ("", "empty"),
    ):
        code, _, err = tilth(command, *told[:at], place, *told[at + 1 :], "--output", tmp_path / "out")
        assert (code, err.count("\n")) == (2, 1), err
        assert message in err
    code, _, err = tilth(command, *told, "--output", tmp_path / "out", "--set", "raed.kind=lines")
    assert (code, err.count("\n")) == (2, 1)
    assert "unknown key raed; did you mean read?" in err
    code, _, err = tilth(command, *told, "--output", tmp_path / "out", "--set", "read.kind")
    assert (code, err.count("\n")) == (2, 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_run_gives_the_same_and_fresh_starts_over(command, soil, tmp_path, tilth, monkeypatch) -> None:
    monkeypatch.chdir(soil)
    told = [command, *COMMANDS[command], "--output", tmp_path / "out", "--json"]
    first = tilth(*told)
    assert first[0] == 0, first[2]
    assert tilth(*told)[:2] == first[:2]
    if command != "export":
        assert tilth(*told, "--fresh")[0] == 0
        other = next(name for name in COMMANDS if name not in (command, "export"))
        code, _, err = tilth(other, *COMMANDS[other], "--output", tmp_path / "out")
        assert (code, err.count("\n")) == (2, 1)
        assert f"holds a run of `tokenize {command}`; choose another --output" in err


@pytest.mark.parametrize("command", ["score", "export"])
def test_a_full_disk_is_one_line_and_more_room_is_enough(command, soil, small_disk, tilth, monkeypatch) -> None:
    monkeypatch.chdir(soil)
    (small_disk / "filler").write_bytes(b"x" * (2**21 - 16_000))
    code, _, err = tilth(command, *COMMANDS[command], "--output", small_disk / "out")
    assert (code, err.splitlines()[-1].count("no space left")) == (1, 1), err
    assert "Traceback" not in err
    assert not (small_disk / "out/tokenizer.json").exists()
    (small_disk / "filler").unlink()
    assert tilth(command, *COMMANDS[command], "--output", small_disk / "out")[0] == 0


def test_documents_that_were_cut_and_rows_that_were_none_are_told(soil, tmp_path, tilth) -> None:
    (tmp_path / "rows.jsonl").write_text((soil / "rows.jsonl").read_text() + '{"other": 1}\n')
    told = ["--tokenizer", soil / "small", "--input", tmp_path / "rows.jsonl", "--output", tmp_path / "out"]
    code, out, err = tilth("encode", *told, "--length", 8, "--quiet", "--in-process")
    assert code == 0
    assert "3 documents, 24 tokens" in out
    assert "cut to 8 tokens: 3 documents" in out
    assert err == "records that were no documents: 1 no_text\n"
    bins = np.fromfile(next((tmp_path / "out/shards").glob("*.bin")), np.uint16)
    assert len(bins) == 24
