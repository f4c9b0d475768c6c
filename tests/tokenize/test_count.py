"""Word counts: those of a plain counter, the same table in whatever way the work was cut and whoever did it."""

import json
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.curate.read import ReadOptions
from tilth.progress import Progress
from tilth.storage import Folder
from tilth.tokenize import count as room
from tilth.tokenize import train
from tilth.tokenize.corpus import Mixture, plan
from tilth.tokenize.count import COUNTS, SCHEMA, CountOptions, Tally, load_counts, summed
from tilth.tokenize.normalize import Form, Normalizer
from tilth.tokenize.split import SplitOptions, Splitter
from tilth.work import Engine, WorkOptions

ALONE = WorkOptions(in_process=True)
GPT4 = SplitOptions(pattern="gpt4")
SPLITS = [
    GPT4,
    SplitOptions(pattern="gpt2", marks=False),
    SplitOptions(pattern="gpt4", digits=1, scripts=True, cjk_limit=2),
    SplitOptions(pattern="metaspace"),
    SplitOptions(pattern="bert"),
]
NAMES = ["gpt4", "gpt2", "scripts", "metaspace", "bert"]
FORMS: list[Form] = ["nfc", "none", "nfkc", "none", "bert"]
TEXT = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("ab 's1२ि字カ\u00a0\u3000\n\t\0▁.")))


def lines(number: int) -> list[str]:
    """Made-up lines, always the same: words of some scripts, frequent and rare ones."""
    chance = random.Random(11)
    words = ["the", "a", "of", "and", "to", "soil", "worm", "字", "土壤", "カナ", "मिट्टी", "don't", "1234", "e\u0301"]
    words += ["".join(chance.choices("aeiorstlnu", k=chance.randint(2, 7))) for _ in range(600)]
    return [" ".join(words[int(chance.paretovariate(0.4)) % len(words)] for _ in range(9)) for _ in range(number)]


LINES = lines(400)


def write(folder: Path, parts: int, texts: list[str] = LINES) -> list[str]:
    """The texts, a document a line, in so many files."""
    folder.mkdir()
    for part in range(parts):
        own = texts[part * len(texts) // parts : (part + 1) * len(texts) // parts]
        (folder / f"{part}.txt").write_text("".join(f"{text}\n" for text in own), encoding="utf-8")
    return [str(folder / f"{part}.txt") for part in range(parts)]


COUNT_ALL = CountOptions()


def counted(
    inputs: list[str],
    output: Path,
    split: SplitOptions = GPT4,
    form: Form = "none",
    mixture: Mixture | None = None,
    counting: CountOptions = COUNT_ALL,
    work: WorkOptions = ALONE,
    **read,
) -> dict:
    options = ReadOptions(**{"kind": "lines", **read})
    units = plan(inputs, options, mixture.by if mixture else None)
    normalizer = Normalizer(form, metaspace=split.pattern == "metaspace")
    with Engine(work, Progress(quiet=True)) as engine:
        return train.count(units, Folder(output), normalizer, split, mixture.by if mixture else None, counting, engine)


def table(output: Path) -> dict[bytes, int]:
    found = load_counts([Folder(output)])
    words = found.words()
    assert len(set(words)) == len(words)
    return dict(zip(words, found.counts.tolist(), strict=True))


def files(output: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((output / COUNTS).iterdir())}


def plainly(texts: list[str], split: SplitOptions, form: Form = "none") -> Counter[bytes]:
    splitter, normalizer = Splitter(split), Normalizer(form, metaspace=split.pattern == "metaspace")
    return Counter(word for text in texts for word in splitter.words(normalizer(text)))


@pytest.mark.parametrize("split", SPLITS, ids=NAMES)
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXT, max_size=6))
def test_any_text_is_counted_as_a_counter_does(split, texts):
    splitter, tally = Splitter(split), Tally()
    tally.add(splitter(texts), splitter.drops_blank)
    tally.add(splitter(texts[:2]), splitter.drops_blank)
    found, _ = tally.table("")
    plain = Counter(word for text in [*texts, *texts[:2]] for word in splitter.words(text))
    assert dict(zip(found["word"].to_pylist(), found["count"].to_pylist(), strict=True)) == plain


@pytest.mark.parametrize(("split", "form"), [*zip(SPLITS, FORMS, strict=True)], ids=NAMES)
def test_a_corpus_is_counted_as_a_counter_does(split, form, tmp_path):
    stats = counted(write(tmp_path / "in", 2), tmp_path / "out", split, form)
    plain = plainly(LINES, split, form)
    assert table(tmp_path / "out") == plain
    assert (stats["words"], stats["running_words"]) == (len(plain), plain.total())
    assert stats["documents"] == len(LINES)
    assert stats["bytes"] == {"": sum(len(line.encode()) for line in LINES)}


def test_the_table_is_the_same_bytes_for_any_files_and_units(tmp_path):
    counted(write(tmp_path / "one", 1), tmp_path / "a")
    others = write(tmp_path / "many", 7)
    counted(others[::-1], tmp_path / "b")
    counted(others, tmp_path / "c", unit_bytes=1000)
    counted(write(tmp_path / "turned", 3, LINES[::-1]), tmp_path / "d", unit_bytes=333)
    assert len(files(tmp_path / "a")) == 1
    for name in "bcd":
        assert files(tmp_path / name) == files(tmp_path / "a")


def test_the_table_is_the_same_bytes_on_ray(ray, tmp_path):
    inputs = write(tmp_path / "in", 2)
    counted(inputs, tmp_path / "a", unit_bytes=2000)
    counted(inputs, tmp_path / "b", unit_bytes=2000, work=WorkOptions(workers=2))
    assert files(tmp_path / "b") == files(tmp_path / "a")


def test_the_table_is_the_same_bytes_when_memory_is_short(tmp_path, monkeypatch):
    """Every batch is then dealt out by itself, and the sum is that of all."""
    monkeypatch.setattr("tilth.tokenize.corpus.BATCH_BYTES", 500)
    inputs = write(tmp_path / "in", 1)
    counted(inputs, tmp_path / "a")
    monkeypatch.setattr(room, "BUDGET", 1)
    stats = counted(inputs, tmp_path / "b")
    assert files(tmp_path / "b") == files(tmp_path / "a")
    assert stats["running_words"] == plainly(LINES, GPT4).total()


def test_several_partitions_hold_together_what_one_does(tmp_path, monkeypatch):
    inputs = write(tmp_path / "in", 2)
    counted(inputs, tmp_path / "one")
    monkeypatch.setattr(train, "PARTITION_BYTES", 2000)
    counted(inputs, tmp_path / "many")
    assert len(files(tmp_path / "many")) > 5
    assert table(tmp_path / "many") == table(tmp_path / "one")


def test_rare_words_are_left_out_exactly_and_told(tmp_path):
    stats = counted(write(tmp_path / "in", 2), tmp_path / "out", counting=CountOptions(min_count=5), unit_bytes=1000)
    plain = plainly(LINES, GPT4)
    rare = {word: count for word, count in plain.items() if count < 5}
    assert table(tmp_path / "out") == {word: count for word, count in plain.items() if count >= 5}
    assert stats["pruned"] == {"words": len(rare), "occurrences": sum(rare.values())}
    assert rare


def test_only_so_many_documents_are_counted_the_first_of_each_unit(tmp_path):
    inputs = write(tmp_path / "in", 2)
    stats = counted(inputs, tmp_path / "out", counting=CountOptions(documents=40))
    halves = [Path(place).read_text(encoding="utf-8").splitlines() for place in inputs]
    assert 40 <= stats["documents"] <= 42
    sizes = [sum(len(line.encode()) + 1 for line in half) for half in halves]
    first = [half[: math.ceil(40 / sum(sizes) * size)] for half, size in zip(halves, sizes, strict=True)]
    assert table(tmp_path / "out") == plainly([line for lines in first for line in lines], GPT4)


def test_a_word_is_rare_by_all_its_labels_together(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": "worm", "lang": lang}) + "\n" for lang in ("en", "de", "fr")))
    counted([str(file)], tmp_path / "out", mixture=Mixture(by="lang"), counting=CountOptions(min_count=3), kind="jsonl")
    assert table(tmp_path / "out") == {b"worm": 3}


def test_counts_beyond_32_bits_are_exact(tmp_path):
    rows = [(b"worm", "en", 2**40 + 1), (b"worm", "en", 2**40 + 2), (b"leaf", "de", 2**33 + 1), (b"worm", "de", 5)]
    part = pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA)
    (tmp_path / COUNTS).mkdir()
    pq.write_table(summed(part), tmp_path / COUNTS / "part.parquet")
    assert table(tmp_path) == {b"worm": 2**41 + 8, b"leaf": 2**33 + 1}


def test_tables_of_several_folders_are_summed_whatever_their_labels(tmp_path):
    for lang, text in (("en", "worm worm"), ("de", "worm laub")):
        (tmp_path / f"{lang}.jsonl").write_text(json.dumps({"text": text, "lang": lang}) + "\n")
        counted([str(tmp_path / f"{lang}.jsonl")], tmp_path / lang, mixture=Mixture(by="lang"), kind="jsonl")
    found = load_counts([Folder(tmp_path / "en"), Folder(tmp_path / "de")])
    assert dict(zip(found.words(), found.counts.tolist(), strict=True)) == {b"worm": 2, b" worm": 1, b" laub": 1}
    assert found.words() == sorted(found.words())


def fraction(word: bytes) -> float:
    """In [0, 1), from the word's bytes: what decides whether a product is rounded up."""
    value = len(word)
    for byte in word:
        value = (value ^ byte) * 0x9E3779B97F4A7C15 % 2**64
        value ^= value >> 32
    return (value >> 11) / 2**53


def test_each_label_s_counts_are_weighted_and_rounded_by_the_hash_of_the_word(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [("en", "worm " * 10), ("de", "worm " * 4 + "laub"), ("fr", "ver")]
    file.write_text("".join(json.dumps({"text": text, "lang": lang}) + "\n" for lang, text in rows))
    counted([str(file)], tmp_path / "out", mixture=Mixture(by="lang"), kind="jsonl")
    found = load_counts([Folder(tmp_path / "out")], {"en": 0.5, "de": 3.0, "fr": 0.4})
    counts = dict(zip(found.words(), found.counts.tolist(), strict=True))
    parts = [(b"worm", 0.5), (b" worm", 4.5), (b"worm", 3.0), (b" worm", 9.0), (b" laub", 3.0), (b"ver", 0.4)]
    expected: Counter[bytes] = Counter()
    for word, product in parts:
        expected[word] += math.floor(product + fraction(word))
    assert counts == {word: count for word, count in expected.items() if count}
    assert load_counts([Folder(tmp_path / "out")], {"en": 0.0}).words() == []


@pytest.mark.parametrize("factor", [0.11, 0.25, 0.45, 1.7])
def test_many_rare_words_keep_their_share_together(tmp_path, factor):
    """Rounded each by itself, words that occur once would all be lost, or all kept whole."""
    words = [(f"w{number:x}".encode(), "en", 1 + number % 2) for number in range(20_000)]
    (tmp_path / COUNTS).mkdir()
    part = pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in words], SCHEMA)
    pq.write_table(summed(part), tmp_path / COUNTS / "part.parquet")
    kept = load_counts([Folder(tmp_path)], {"en": factor}).counts.sum()
    assert kept == pytest.approx(factor * sum(count for *_, count in words), rel=0.02)


def test_labels_may_be_many_and_have_any_name(tmp_path):
    names = ["", "a/b", "..", "日本", "x" * 3000, "*", "<s>", *(f"label {number}" for number in range(300))]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": "one worm", "lang": name}) + "\n" for name in names))
    stats = counted([str(file)], tmp_path / "out", mixture=Mixture(by="lang"), kind="jsonl")
    assert stats["bytes"] == {name: len("one worm") for name in names}
    assert table(tmp_path / "out") == {b"one": len(names), b" worm": len(names)}


def test_a_tally_outgrows_every_size_it_began_with():
    """More words than slots, and one longer than all room for text."""
    words = [f"w{number:x}" for number in range(200_000)] + ["x" * 3_000_000]
    splitter, tally = Splitter(SplitOptions(pattern="gpt2", digits=0)), Tally()
    text = " ".join(words)
    for _ in range(2):
        tally.add(splitter([text]))
    found, _ = tally.table("")
    plain = Counter(splitter.words(text))
    assert dict(zip(found["word"].to_pylist(), found["count"].to_pylist(), strict=True)) == {
        word: 2 * count for word, count in plain.items()
    }


def test_words_go_to_all_partitions_alike():
    splitter, tally = Splitter(GPT4), Tally()
    tally.add(splitter([" ".join(lines(3000))]))
    _, hashes = tally.table("")
    counts = np.bincount(room.ranges(hashes, 4), minlength=4)
    assert counts.min() > len(hashes) / 8
