"""Training from end to end: the same text gives the same files, whatever was stopped, refused or asked before."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tilth.errors import DirectoryConflict, InputError, RecipeError, StorageError, UnitsFailed, UsageError
from tilth.progress import Progress
from tilth.recipe import load_recipe
from tilth.storage import Folder
from tilth.tokenize.recipe import PACKAGE, TokenizerRecipe
from tilth.tokenize.tokenizer import Tokenizer, load
from tilth.tokenize.train import Result, train
from tilth.work import WorkOptions

ALONE = WorkOptions(in_process=True)
SIZES = {"byte-bpe": 400, "bpe": 440, "wordpiece": 220, "unigram": 420}
ALGORITHMS = pytest.mark.parametrize("algorithm", SIZES)
NEVER_SEEN = "A line\n\n  with 2 spaces, 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 and <|endoftext|></s>[SEP]\ttabs."


def text(seed: int, lines: int = 150) -> str:
    """Made-up lines of words with endings, numbers and some Chinese, always the same."""
    chance = random.Random(seed)
    stems = ["".join(random.Random(stem).choices("aeioustrnlmdkp", k=2 + stem % 5)) for stem in range(120)]
    endings = ["", "", "s", "ed", "ing", "er", "ation", ",", ".", "'s"]
    made = []
    for _ in range(lines):
        words = [chance.choice(stems[: chance.randint(5, 120)]) + chance.choice(endings) for _ in range(9)]
        words[4] = chance.choice(["土壤是活的。", str(chance.randint(0, 3000)), "落叶变成肥料，"])
        made.append(" ".join(words) + "\n")
    return "".join(made)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "corpus"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.txt").write_text(text(ord(name)), encoding="utf-8")
    rows = [{"text": text(seed, 20), "lang": "en" if seed % 2 else "zh"} for seed in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def made(
    inputs: list[Path],
    output: Path,
    algorithm: str = "byte-bpe",
    *settings: str,
    work: WorkOptions = ALONE,
    sample: int = 0,
    **more,
) -> Result:
    size = [f"vocab_size={SIZES[algorithm]}"]
    recipe = load_recipe(TokenizerRecipe, algorithm, PACKAGE, [*size, *settings])
    progress = Progress(Folder(output), quiet=True)
    return train(
        [str(place) for place in inputs], Folder(output), algorithm, recipe, work, progress, sample=sample, **more
    )


def files(output: Path) -> dict[str, bytes]:
    """Everything that must be the same again."""
    kept = ("tokenizer", "counts", "ranks", "selftest", "special")
    found = (file for file in sorted(output.rglob("*")) if file.is_file())
    return {name: file.read_bytes() for file in found if (name := str(file.relative_to(output))).startswith(kept)}


@ALGORITHMS
def test_the_same_text_gives_the_same_files_byte_for_byte(ray, corpus, tmp_path, algorithm):
    inputs = [corpus / "a.txt", corpus / "b.txt", corpus / "rows.jsonl"]
    made(inputs, tmp_path / "first", algorithm)
    made(inputs[::-1], tmp_path / "second", algorithm, work=WorkOptions(workers=2))
    first = files(tmp_path / "first")
    assert {"tokenizer.json", "tokenizer_config.json", "selftest.jsonl"} < first.keys()
    assert files(tmp_path / "second") == first


@ALGORITHMS
def test_a_tokenizer_of_any_text_has_the_size_asked_and_round_trips(corpus, tmp_path, algorithm):
    result = made([corpus], tmp_path / "out", algorithm)
    tokenizer = result.tokenizer
    assert tokenizer.size == len(tokenizer.vocabulary) == SIZES[algorithm] == result.stats["size"]
    loaded = load(tmp_path / "out")
    ids = loaded.encode([NEVER_SEEN])[0].tolist()
    assert ids == tokenizer.encode([NEVER_SEEN])[0].tolist()
    assert not {*ids} & ({*loaded.specials.values()} - {loaded.specials.get("<unk>"), loaded.specials.get("[UNK]")})
    if algorithm != "wordpiece":
        assert loaded.decode(ids) == NEVER_SEEN


def cli(monkeypatch, capsys, *arguments: str | Path) -> tuple[int, str, str]:
    """The command line in this process: exit code, standard output, standard error."""
    from tilth.cli.main import main

    monkeypatch.setattr(sys, "argv", ["tilth", "tokenize", "train", *map(str, arguments), "--in-process"])
    with pytest.raises(SystemExit) as left:
        main()
    told = capsys.readouterr()
    return int(left.value.code or 0), told.out, told.err


@ALGORITHMS
def test_the_command_makes_what_transformers_loads(corpus, tmp_path, monkeypatch, capsys, algorithm):
    from transformers import AutoTokenizer

    output = tmp_path / "out"
    arguments = ["--input", corpus, "--output", output, "--algorithm", algorithm, "--vocab-size", SIZES[algorithm]]
    code, out, err = cli(monkeypatch, capsys, *arguments, "--sample", "1")
    assert (code, err.count("Traceback")) == (0, 0)
    assert f"{SIZES[algorithm]:,} ids of the family {algorithm}" in out
    assert "written and checked: tokenizer.json" in out
    theirs, ours = AutoTokenizer.from_pretrained(output), load(output)
    for line in [*text(7, 5).splitlines(), NEVER_SEEN]:
        encoded = theirs.encode(line, add_special_tokens=False, split_special_tokens=True)
        assert encoded == ours.encode([line])[0].tolist()
    assert json.loads((output / "scorecard.json").read_text())[0]["total"]["bytes_per_token"] > 1
    assert (output / "report.html").stat().st_size > 1000


def test_a_second_run_of_the_same_command_does_nothing_and_says_so(corpus, tmp_path, monkeypatch, capsys):
    arguments = ["--input", corpus, "--output", tmp_path / "out", "--vocab-size", "400", "--sample", "1"]
    assert cli(monkeypatch, capsys, *arguments)[0] == 0
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*") if file.name != "events.jsonl"}
    code, out, err = cli(monkeypatch, capsys, *arguments)
    assert code == 0
    assert "this tokenizer is there already; --fresh makes it anew" in err
    assert "400 ids of the family byte-bpe" in out
    after = {file: file.stat().st_mtime_ns for file in before if file.name != ".lock" and file.is_file()}
    assert after == {file: before[file] for file in after}


def test_another_request_in_the_same_folder_is_refused_with_the_difference(corpus, tmp_path):
    output = tmp_path / "out"
    made([corpus], output)
    before = files(output)
    with pytest.raises(DirectoryConflict, match=r"recipe\.vocab_size is 400 there, 300 asked; choose another --output"):
        made([corpus], output, "byte-bpe", "vocab_size=300")
    with pytest.raises(DirectoryConflict, match=r"inputs is .* there, .* asked"):
        made([corpus / "a.txt"], output)
    assert files(output) == before
    assert made([corpus], output, "byte-bpe", "vocab_size=300", fresh=True).tokenizer.size == 300
    assert load(output).size == 300


@ALGORITHMS
def test_too_large_a_vocabulary_is_told_and_another_size_costs_no_counting(corpus, tmp_path, algorithm):
    output = tmp_path / "out"
    with pytest.raises(UsageError, match=r"vocab_size 50000.* (it gives|the counts fill) \d+") as told:
        made([corpus], output, algorithm, "vocab_size=50000", "learn.min_frequency=20")
    assert not [name for name in files(output) if not name.startswith("counts/")]
    most = next(word for word in str(told.value).replace(",", "").split() if word.isdigit() and word != "50000")
    counted = {file: file.stat().st_mtime_ns for file in [*output.glob("counts/*"), *output.glob("ledger/*/*")]}
    assert counted
    result = made([corpus], output, algorithm, f"vocab_size={most}", "learn.min_frequency=20")
    assert result.tokenizer.size == int(most)
    assert counted == {file: file.stat().st_mtime_ns for file in counted}
    made([corpus], tmp_path / "anew", algorithm, f"vocab_size={most}", "learn.min_frequency=20")
    assert files(output) == files(tmp_path / "anew")


def test_after_a_failure_text_that_is_read_otherwise_is_counted_anew(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [{"text": "too little", "content": text(1)}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UsageError, match="more than this text can fill"):
        made([file], tmp_path / "out")
    made([file], tmp_path / "out", "byte-bpe", "read.text_field=content")
    made([file], tmp_path / "anew", "byte-bpe", "read.text_field=content")
    assert files(tmp_path / "out") == files(tmp_path / "anew")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"text": ""}\n', "no text in the input: 0 documents (1 no_text)"),
        ('{"other": "soil"}\n{"text": null}\n', "no text in the input: 0 documents (2 no_text)"),
        ('{"text": " \\n\\t "}\n', "no text in the input"),
        ('{"text": "\\u0000\\u0000"}\n', "no text in the input"),
    ],
    ids=["empty", "other column", "white space", "NUL"],
)
@ALGORITHMS
def test_an_input_without_text_is_told(tmp_path, content, told, algorithm):
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(InputError) as error:
        made([tmp_path / "rows.jsonl"], tmp_path / "out", algorithm)
    assert told in str(error.value)
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_an_empty_file_or_folder_leaves_nothing_behind(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "folder").mkdir()
    for place in ("empty.txt", "folder", "missing.txt"):
        with pytest.raises(InputError):
            made([tmp_path / place], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["vocab_sise=300"], "unknown key vocab_sise; did you mean vocab_size?"),
        (["split.digit=1"], "unknown key split.digit; did you mean digits?"),
        (["split.digits=4"], "split.digits"),
        (["split.cjk_limit=3"], "set scripts too"),
        (["split.pattern=bert", "split.digits=0"], "split.pattern: byte-bpe takes gpt4, not bert"),
        (["specials={eos: <|end|>, pad: <|end|>}"], "'<|end|>' is named twice"),
        (["specials={eos: x}"], "too short to be told from text"),
        (["specials={eos: '   '}"], "too short to be told from text"),
        (["chat_template='{% for message in'"], "not a Jinja template"),
        (["algorithm=bpe", "split.pattern=metaspace", "split.digits=1", "specials={eos: </s>}"], "needs one"),
        (
            ["algorithm=unigram", "split.pattern=metaspace", "split.digits=1", "learn.character_coverage=0.5"],
            "0.98 to 1",
        ),
        (["algorithm=unigram", "split.pattern=metaspace", "split.digits=1", "learn.max_token_length=1"], "2 to 512"),
        (["mixture={by: lang, weights: {en: -1}}"], "mixture.weights"),
        (["count.min_count=0"], "count.min_count"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value[-1].split("=")[0],
)
def test_a_wrong_recipe_is_told_before_anything_is_written(corpus, tmp_path, settings, told):
    with pytest.raises(RecipeError) as error:
        made([corpus], tmp_path / "out", "byte-bpe", *settings)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_templates_may_use_what_transformers_adds_to_jinja(corpus, tmp_path):
    template = "{%- for m in messages %}{%- generation -%}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}"
    result = made([corpus], tmp_path / "out", "byte-bpe", f"chat_template={json.dumps(template)}")
    assert result.tokenizer.config["chat_template"] == template


def test_a_chat_recipe_renders_with_transformers(corpus, tmp_path):
    from transformers import AutoTokenizer

    recipe = load_recipe(TokenizerRecipe, "chat", PACKAGE, ["vocab_size=400"])
    train([str(corpus)], Folder(tmp_path / "out"), "chat", recipe, ALONE, Progress(quiet=True), sample=0)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    talk = [{"role": "user", "content": "soil?"}]
    shown = theirs.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert shown == "<|im_start|>user\nsoil?<|im_end|>\n<|im_start|>assistant\n"
    ids = theirs(shown, add_special_tokens=False)["input_ids"]
    assert ids[0] == load(tmp_path / "out").specials["<|im_start|>"]


def test_a_mixture_changes_what_is_learned_and_an_unknown_label_is_refused(corpus, tmp_path):
    def tokens(name: str, *settings: str) -> set[str]:
        return {*made([corpus / "rows.jsonl"], tmp_path / name, "bpe", "vocab_size=380", *settings).tokenizer.tokens}

    mixed = "mixture={by: lang, weights: {en: 1, zh: 9}}"
    assert tokens("plain") != tokens("mixed", mixed)
    stats = json.loads((tmp_path / "mixed" / "stats.json").read_text())
    weighted = {label: stats["bytes"][label] * stats["factors"][label] for label in ("en", "zh")}
    assert weighted["zh"] / weighted["en"] == pytest.approx(9)
    with pytest.raises(InputError, match="no document has lang fr; there are en, zh"):
        tokens("unknown", "mixture={by: lang, weights: {fr: 1}}")


def test_words_left_out_as_rare_are_told(corpus, tmp_path):
    plain = made([corpus], tmp_path / "plain", "byte-bpe", "vocab_size=300").stats
    pruned = made([corpus], tmp_path / "pruned", "byte-bpe", "vocab_size=300", "count.min_count=3").stats
    assert pruned["words"] + pruned["pruned"]["words"] == plain["words"]
    assert pruned["running_words"] == plain["running_words"]
    assert pruned["pruned"]["words"] > 0
    with pytest.raises(UsageError, match=r"learn.min_frequency 2 and count.min_count 100000;"):
        made([corpus], tmp_path / "nothing", "byte-bpe", "vocab_size=300", "count.min_count=100000")


@pytest.mark.parametrize(
    "settings",
    [
        ["split.digits=1"],
        ["split.digits=2", "split.pattern=gpt2", "split.marks=false"],
        ["split.digits=0", "split.scripts=true"],
        ["split.scripts=true", "split.cjk_limit=1"],
        ["split.scripts=true", "split.cjk_limit=99"],
        ["normalize=nfkc", "learn.max_token_length=4", "learn.ties=ids"],
    ],
    ids=lambda settings: " ".join(settings),
)
def test_however_words_are_cut_every_form_agrees(corpus, tmp_path, settings):
    """`train` refuses to write forms that do not give the same ids; this asks for the odd ones."""
    result = made([corpus], tmp_path / "out", "byte-bpe", *settings)
    assert result.stats["forms"]["tokenizer.json"] is None
    assert result.tokenizer.compiled is not None or "split.cjk_limit=99" in settings
    ids = result.tokenizer.library.encode(NEVER_SEEN, add_special_tokens=False).ids
    assert result.tokenizer.encode([NEVER_SEEN])[0].tolist() == ids


@ALGORITHMS
def test_one_word_of_a_megabyte_is_a_corpus(tmp_path, algorithm):
    letters = random.Random(1).choices("abcdefgh", k=2**20)
    (tmp_path / "word.txt").write_text("".join(letters))
    sizes = {"byte-bpe": 400, "bpe": 400, "wordpiece": 150}
    if algorithm == "unigram":  # SentencePiece itself reads no such word
        with pytest.raises(UsageError, match="the counts have no words"):
            made([tmp_path / "word.txt"], tmp_path / "out", algorithm)
    else:
        made([tmp_path / "word.txt"], tmp_path / "out", algorithm, f"vocab_size={sizes[algorithm]}")


def test_nul_bytes_are_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(text(1).replace(" ", " \0 ").encode() + b"\0\0\0")
    (tmp_path / "b.txt").write_bytes(text(1).replace(" ", "  ").encode())
    first, second = (made([tmp_path / name], tmp_path / name[0]).tokenizer for name in ("a.txt", "b.txt"))
    assert first.spec == second.spec


def test_the_folder_of_the_input_may_hold_the_output(corpus, tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "a.txt").write_bytes((corpus / "a.txt").read_bytes())
    first = made([tmp_path / "all"], tmp_path / "all" / "out").stats
    again = made([tmp_path / "all"], tmp_path / "all" / "out").stats
    assert first == again
    assert first["documents"] == 1


def test_a_folder_that_is_not_ours_is_left_alone(corpus, tmp_path):
    (tmp_path / "a.txt").write_bytes((corpus / "a.txt").read_bytes())
    with pytest.raises(DirectoryConflict, match="not empty, and not a run of tilth"):
        made([tmp_path], tmp_path)
    with pytest.raises(DirectoryConflict, match="not empty, and not a run of tilth"):
        made([tmp_path], tmp_path, fresh=True)
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_that_cannot_be_written_is_told_in_one_line(corpus, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError, match=f"{small_disk}/out.*: permission denied"):
        made([corpus], small_disk / "out")


def test_an_output_below_a_file_is_told_in_one_line(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f"{tmp_path}/file/out"):
        made([corpus], tmp_path / "file" / "out")


def test_a_full_disk_is_one_line_and_the_same_command_goes_on_with_room(
    corpus, small_disk, tmp_path, monkeypatch, capsys
):
    output, filler = small_disk / "out", small_disk / "filler"
    filler.write_bytes(b"x" * (2**21 - 40_000))
    arguments = ["--input", corpus, "--output", output, "--vocab-size", "400", "--sample", "1", "--quiet"]
    code, _, err = cli(monkeypatch, capsys, *arguments)
    assert code == 1
    assert "no space left" in err
    assert err.strip().count("\n") == 0
    assert not (output / "tokenizer.json").exists()
    filler.unlink()
    assert cli(monkeypatch, capsys, *arguments)[0] == 0
    made([corpus], tmp_path / "whole")
    assert files(output) == files(tmp_path / "whole")


def test_a_unit_that_fails_is_named_and_nothing_is_learned(corpus, tmp_path, monkeypatch):
    from tilth.tokenize import count

    def broken(*_: object) -> None:
        raise ValueError("a fault of ours")

    with monkeypatch.context() as patched:
        patched.setattr(count, "batches", broken)
        with pytest.raises(UnitsFailed, match=r"count: 3 units failed, the first is .*a fault of ours.*tries again"):
            made([corpus], tmp_path / "out")
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    assert isinstance(made([corpus], tmp_path / "out").tokenizer, Tokenizer)


def test_counts_of_an_earlier_run_are_added_as_if_both_were_one(corpus, tmp_path):
    both = made([corpus / "a.txt", corpus / "b.txt"], tmp_path / "both")
    made([corpus / "a.txt"], tmp_path / "a")
    added = made([corpus / "b.txt"], tmp_path / "added", earlier=[str(tmp_path / "a")])
    assert added.tokenizer.spec == both.tokenizer.spec
    assert added.stats["bytes"] == both.stats["bytes"]
    made([corpus / "b.txt"], tmp_path / "b")
    alone = made([], tmp_path / "merged", earlier=[str(tmp_path / "a"), str(tmp_path / "b")])
    assert alone.tokenizer.spec == both.tokenizer.spec


@pytest.mark.parametrize(
    ("algorithm", "settings", "message"),
    [
        ("byte-bpe", ["split.digits=1"], "cut or normalised otherwise"),
        ("byte-bpe", ["normalize=nfc"], "cut or normalised otherwise"),
        ("byte-bpe", ["mixture.by=lang"], "another label"),
        ("bpe", [], "cut or normalised otherwise"),
    ],
)
def test_counts_of_other_words_are_refused(corpus, tmp_path, algorithm, settings, message):
    made([corpus / "a.txt"], tmp_path / "a")
    with pytest.raises(DirectoryConflict, match=message):
        made([corpus / "b.txt"], tmp_path / "b", algorithm, *settings, earlier=[str(tmp_path / "a")])
    assert not (tmp_path / "b").exists()


def test_a_tokenizer_on_an_object_store_is_made_and_used_there(s3, corpus, tmp_path):
    from tilth.tokenize.encode import EncodeOptions, encode

    here, there = made([corpus], tmp_path / "tok", sample=10_000), f"{s3}/tok"
    recipe = load_recipe(TokenizerRecipe, "byte-bpe", PACKAGE, [f"vocab_size={SIZES['byte-bpe']}"])
    progress = Progress(quiet=True)
    remote = train([str(corpus)], Folder(there), "byte-bpe", recipe, ALONE, progress, sample=10_000)
    assert remote.tokenizer.spec == here.tokenizer.spec == load(there).spec
    assert encode([str(corpus)], there, Folder(f"{s3}/shards"), EncodeOptions(), ALONE, progress)["tokens"] > 0


def test_a_tokenizer_that_was_not_scored_is_scored_when_that_is_asked(corpus, tmp_path):
    assert "score" not in made([corpus], tmp_path / "out").stats
    scored = made([corpus], tmp_path / "out", sample=10_000).stats
    assert scored["score"]["bytes_per_token"] > 1
    assert (tmp_path / "out" / "report.html").exists()
    assert made([corpus], tmp_path / "out", sample=10_000).stats == scored
