"""Duplicates, end to end: what is found, what stays, and that nothing but texts and recipe decides it."""

import itertools
import random
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import orjson
import pytest
from runs import results, rows

from tilth.curate.dedup import census, exact, near, passes, repeats
from tilth.curate.pipeline import curate, decide
from tilth.curate.recipe import PACKAGE, CurateRecipe
from tilth.errors import RecipeError, UsageError
from tilth.progress import Progress
from tilth.recipe import load_recipe
from tilth.storage import Folder
from tilth.work import WorkOptions

ALONE = WorkOptions(in_process=True)
QUIET = Progress(quiet=True)
WORDS = [a + b for a in ("ba", "ke", "mi", "no", "tu", "sa", "lo", "ri", "de", "fu") for b in "nlrstmkpdg"]
EVERYTHING = (
    "read.timestamp_field=timestamp",
    "dedup.url=true",
    "dedup.passages={lines: true, sentences: true, substrings: true, substring_tokens: 20}",
    'rules.url-duplicate={label: dup.url_of, in: [""]}',
    "rules.repeated={label: dup.repeated_share, max: 0.95}",
    "clean=[repeated]",
)


def recipe(*settings: str, name: str = "dedup") -> CurateRecipe:
    return load_recipe(CurateRecipe, name, PACKAGE, settings)


def prose(source: random.Random, words: int) -> str:
    """Sentences of made-up words, ten to a line."""
    said = [source.choice(WORDS) for _ in range(words)]
    lines = [" ".join(said[start : start + 10]).capitalize() + "." for start in range(0, words, 10)]
    return "\n".join(lines)


def edited(source: random.Random, text: str, share: float) -> str:
    words = text.split(" ")
    for place in range(len(words)):
        if source.random() < share:
            words[place] = source.choice(WORDS)
    return " ".join(words)


def corpus(documents: int = 300, seed: int = 7) -> list[dict]:
    """Some alone, others in clusters: copies that differ in case, edits, one address at several times, shared lines."""
    source = random.Random(seed)
    found: list[dict] = []
    while len(found) < documents:
        text = prose(source, source.randrange(40, 200))
        day = source.randrange(1, 28)
        for number in range(source.choice((1, 1, 1, 2, 3, 6))):
            own = text if number == 0 else edited(source, text, source.choice((0, 0.01, 0.03, 0.08)))
            own = own.upper() if source.random() < 0.1 else own
            own += "\nAll rights reserved by the gardeners of the valley." * (source.random() < 0.3)
            name = source.randrange(documents // 2)
            stamp = f"2024-03-{day:02d}T10:{source.randrange(60):02d}:00Z"
            found.append({"text": own, "url": f"http://x.example/{name}", "timestamp": stamp})
    return [*found, *({"text": text} for text in ("", "!!!", "ha", "Ha!", "one two three four", "one two three FOUR"))]


def written(place: Path, documents: list[dict]) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in documents))
    return place


def run(inputs, output: Path, chosen: CurateRecipe, work: WorkOptions = ALONE):
    outcome = curate([str(path) for path in inputs], Folder(output), "dedup", chosen, work, QUIET)
    assert not outcome.failed
    return outcome


def told(output: Path) -> dict[str, dict]:
    """Each document with its text, its labels of duplicates and its decision, by id."""
    tables = [rows(output, name) for name in ("documents", "dedup/labels", "decisions")]
    found: dict[str, dict] = {}
    for row in itertools.chain(*tables):
        found.setdefault(row["id"], {}).update(row)
    return found


def shingles(text: str) -> set[tuple[str, ...]]:
    tokens = re.findall(r"[^\W_]+", text.lower())
    return {tuple(tokens[start : start + 5]) for start in range(max(1, len(tokens) - 4))} if tokens else set()


def jaccard(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A run over the corpus with every kind of duplicate looked for."""
    folder = tmp_path_factory.mktemp("dedup")
    run([written(folder / "in" / "rows.jsonl", corpus())], folder / "run", recipe(*EVERYTHING))
    return folder / "run"


@pytest.fixture
def small_partitions(monkeypatch):
    """So many partitions and groups as a corpus a million times as large would have."""
    monkeypatch.setattr(census, "GROUP_DOCUMENTS", 40)
    monkeypatch.setattr(exact, "PARTITION", 50)
    monkeypatch.setattr(near, "PARTITION", 200)
    monkeypatch.setattr(near, "COMPONENT_BYTES", 40_000)
    monkeypatch.setattr(near, "CHUNK", 3000)
    monkeypatch.setattr(repeats, "PARTITION", 100)
    monkeypatch.setattr(passes, "connect", partial(passes.connect, memory_edges=10, partition_edges=50))


def test_what_is_dropped_has_a_kept_text_beside_it_and_what_is_kept_has_none(many):
    documents = told(many)
    near_ones = [one for one in documents.values() if one["rule"] == "near-duplicate"]
    assert len(near_ones) > 30
    for one in near_ones:
        other = documents[one["near_of"]]
        assert jaccard(one["text"], other["text"]) >= 0.7
        assert one["similarity"] == pytest.approx(jaccard(one["text"], other["text"]))
        assert other["near_of"] == ""
    kept = [one["text"] for one in documents.values() if not one["near_of"]]
    left = sum(jaccard(a, b) >= 0.7 for a, b in itertools.combinations(kept, 2))
    assert left <= len(near_ones) / 10  # what signatures miss


def test_equal_texts_are_equal_whatever_their_case_and_marks(many):
    documents = told(many).values()
    by_tokens: dict[tuple[str, ...], list[dict]] = {}
    for one in documents:
        by_tokens.setdefault(tuple(re.findall(r"[^\W_]+", one["text"].lower())), []).append(one)
    for tokens, group in by_tokens.items():
        stays = [one for one in group if not one["copy_of"]]
        assert len(stays) == 1 or not tokens
        assert {one["copy_of"] for one in group} - {""} <= {stays[0]["id"]}
    assert sum(bool(one["copy_of"]) for one in documents) > 10


def test_empty_and_very_short_documents_make_no_cluster_by_similarity(many):
    for one in told(many).values():
        words = len(one["text"].split())
        if words < 5:
            assert not one["near_of"] or one["copy_of"], one["text"]
        if not re.search(r"\w", one["text"]):
            assert one["cluster"] == ""


def test_of_one_address_the_newest_stays(many):
    documents = told(many)
    dropped = [one for one in documents.values() if one["url_of"]]
    assert len(dropped) > 30
    for one in dropped:
        other = documents[one["url_of"]]
        assert one["url"] == other["url"]
        assert (other["timestamp"], one["id"]) > (one["timestamp"], other["id"])


def test_a_document_that_another_rule_drops_stands_for_none(many):
    documents = told(many)
    dropped = [one for one in documents.values() if one["near_of"] and not one["url_of"]]
    assert len(dropped) > 10
    assert all(documents[one["near_of"]]["kept"] for one in dropped)


def test_repeated_passages_stay_once_in_the_corpus(many):
    texts = [row["text"] for row in rows(many, "corpus", ["text"])]
    before = [one["text"] for one in told(many).values() if one["kept"]]
    line = "All rights reserved by the gardeners of the valley."
    assert sum(line in text for text in before) > 10
    assert sum(line in text for text in texts) == 1
    removed = [dict(row["removed"]) for row in rows(many, "corpus", ["removed"])]
    assert sum(one.get("repeated", 0) for one in removed) > 10


def test_partitions_change_nothing(many, tmp_path, small_partitions):
    run([many.parent / "in" / "rows.jsonl"], tmp_path / "run", recipe(*EVERYTHING))
    assert len(list((tmp_path / "run" / "dedup" / "pairs").iterdir())) > 1
    assert same(tmp_path / "run", many)


@pytest.mark.slow
def test_workers_and_files_change_nothing(ray, many, tmp_path, small_partitions):
    documents = corpus()
    for workers in (1, 2, 3):
        run(
            [many.parent / "in" / "rows.jsonl"],
            tmp_path / str(workers),
            recipe(*EVERYTHING),
            WorkOptions(workers=workers),
        )
        assert same(tmp_path / str(workers), many)
    assert results(tmp_path / "1") == results(tmp_path / "2") == results(tmp_path / "3")
    pieces = [written(tmp_path / "in" / f"{name}.jsonl", documents[at::3]) for at, name in enumerate("abc")]
    run(pieces, tmp_path / "forward", recipe(*EVERYTHING))
    run(pieces[::-1], tmp_path / "backward", recipe(*EVERYTHING))
    assert results(tmp_path / "forward") == results(tmp_path / "backward")


def same(one: Path, other: Path) -> bool:
    """The same labels and pairs, and the same corpus to the byte."""
    for name in ("dedup/labels", "decisions"):
        a, b = (sorted(rows(folder, name), key=lambda row: row["id"]) for folder in (one, other))
        assert a == b
    a, b = (
        sorted((*sorted((row["a"], row["b"])), row["jaccard"]) for row in rows(folder, "dedup/pairs"))
        for folder in (one, other)
    )
    assert a == b
    a, b = (
        {name: value for name, value in results(folder).items() if name.startswith(("corpus", "stats"))}
        for folder in (one, other)
    )
    return a == b


def test_what_was_only_on_its_way_is_gone(many):
    left = {path.name for path in (many / "dedup").iterdir() if any(path.iterdir())}
    assert left == {"labels", "pairs", "clusters", "addressed", "chosen", "repeats"}


def test_changed_rules_choose_anew_but_compare_no_text(many, tmp_path):
    copied = Path(shutil.copytree(many, tmp_path / "run"))
    pairs = {file: file.stat().st_mtime_ns for file in (copied / "dedup" / "pairs").iterdir()}
    changed = recipe(*EVERYTHING, "rules.big={label: length.bytes, min: 900}")
    result = decide(Folder(copied), "dedup", changed, ALONE, QUIET)
    assert not result.failed
    assert {file: file.stat().st_mtime_ns for file in (copied / "dedup" / "pairs").iterdir()} == pairs
    documents = told(copied)
    for one in documents.values():
        if one["rule"] in ("near-duplicate", "exact-duplicate"):
            stays = documents[one["near_of"] or one["copy_of"]]
            assert stays["kept"] or one["length"]["bytes"] < 900


def test_the_best_stays_then_the_earliest(tmp_path):
    text = prose(random.Random(1), 120)
    stamps = ["2024-05-03", "2024-05-01", "2024-05-02"]
    documents = [
        {"text": text + "\nAnd more." * number, "timestamp": f"{stamps[number]}T00:00:00Z"} for number in range(3)
    ]
    place = written(tmp_path / "in.jsonl", documents)
    run([place], tmp_path / "early", recipe("read.timestamp_field=timestamp"))
    assert [row["timestamp"].day for row in rows(tmp_path / "early", "corpus")] == [1]
    run([place], tmp_path / "long", recipe("dedup.quality=length.chars"))
    assert [row["text"] for row in rows(tmp_path / "long", "corpus")] == [documents[2]["text"]]


def test_a_chain_of_small_changes_is_not_dropped_for_its_first_link(tmp_path):
    source = random.Random(3)
    words = [source.choice(WORDS) for _ in range(300)]
    chain = []
    for link in range(12):
        words = words[:]
        for place in range(link * 20, link * 20 + 20):
            words[place] = f"changed{link}"
        chain.append({"text": " ".join(words), "timestamp": f"2024-05-{link + 1:02d}T00:00:00Z"})
    run([written(tmp_path / "in.jsonl", chain)], tmp_path / "run", recipe("read.timestamp_field=timestamp"))
    documents = told(tmp_path / "run")
    assert len({one["cluster"] for one in documents.values()}) == 1
    assert 2 <= sum(one["kept"] for one in documents.values()) <= 6
    assert all(one["similarity"] is None or one["similarity"] >= 0.7 for one in documents.values())


def test_a_later_crawl_gives_only_what_earlier_ones_did_not_keep(tmp_path):
    documents = corpus(200)
    first = written(tmp_path / "in" / "march.jsonl", documents[:120])
    second = written(tmp_path / "in" / "april.jsonl", documents[60:])
    run([first], tmp_path / "march", recipe())
    run([second], tmp_path / "april", recipe(f"dedup.against=[{tmp_path / 'march'}]"))
    kept = rows(tmp_path / "march", "corpus")
    added = rows(tmp_path / "april", "corpus")
    assert added
    assert not any(jaccard(a["text"], b["text"]) >= 0.7 for a in kept for b in added)
    april = told(tmp_path / "april")
    ids = {row["id"] for row in kept}
    assert any(one["near_of"] in ids for one in april.values())
    assert all(one["near_of"] in ids or april[one["near_of"]]["kept"] for one in april.values() if one["near_of"])
    assert {one["rule"] for one in april.values()} == {None, "exact-duplicate", "near-duplicate"}


def test_another_recipe_does_not_forget_earlier_runs(tmp_path):
    place = written(tmp_path / "in.jsonl", corpus(30))
    run([place], tmp_path / "march", recipe())
    run([place], tmp_path / "april", recipe(f"dedup.against=[{tmp_path / 'march'}]"))
    command = [sys.executable, "-m", "tilth.cli.main", "curate", "decide", str(tmp_path / "april"), "--recipe", "dedup"]
    subprocess.run([*command, "--in-process"], check=True, capture_output=True)
    assert not any(re.search(r"\w", row["text"]) for row in rows(tmp_path / "april", "corpus"))


def test_earlier_runs_that_cannot_be_compared_are_refused(many, tmp_path):
    place = written(tmp_path / "in.jsonl", corpus(20))
    run([place], tmp_path / "unmeasured", recipe("labels.families=[length]", name="keep-all"))
    for settings, message in [
        ([f"dedup.against=[{tmp_path / 'unmeasured'}]"], "no signatures"),
        ([f"dedup.against=[{tmp_path / 'nothing'}]"], "nothing"),
        ([f"dedup.against=[{many}]", "labels.minhash.seed=2"], "labels.minhash"),
        ([f"dedup.against=[{tmp_path / 'run'}]"], "itself"),
    ]:
        with pytest.raises(Exception, match=message) as caught:
            run([place], tmp_path / "run", recipe(*settings))
        assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("dedup.bands=15", "120 values"),
        ("dedup.quality=lang.code", "dedup.quality"),
        ("dedup.quality=length.words", "dedup.quality"),
        ("rules.x={label: gopher.words, min: 3}", "not measured"),
        ("labels.families=[dup, lnag]", "lnag"),
        ("clean=[repeated]", "dedup.passages"),
        ("dedup.verify=2", "verify"),
        ('rules.x={label: dup.url_of, in: [""]}', "the section dedup"),
        ("rules.x={label: dup.repeated_share, max: 0.5}", "the section dedup"),
        ("dedup.near=false", "the section dedup"),
        ("labels.families=[url_labels]", "not measured"),
    ],
)
def test_a_recipe_that_cannot_be_carried_out_is_refused(setting, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        recipe(setting)


def test_a_passage_does_not_stay_in_a_line_that_goes(tmp_path):
    source = random.Random(11)
    shared = " ".join(source.choice(WORDS) for _ in range(60))
    texts = [f"{prose(source, 40)}\n{shared} needs javascript to go on.", f"{prose(source, 40)}\n{shared} and so on."]
    documents = [{"text": text, "timestamp": f"2024-05-0{day}T00:00:00Z"} for day, text in enumerate(texts, 1)]
    settings = [
        "read.timestamp_field=timestamp",
        "labels.families=[url_labels, lines, dup]",
        "dedup.passages.substrings=true",
        "clean=[repeated, c4-javascript]",
    ]
    run([written(tmp_path / "in.jsonl", documents)], tmp_path / "run", recipe(*settings))
    left = [row["text"] for row in rows(tmp_path / "run", "corpus", ["text"])]
    assert sum(shared in text for text in left) == 1


def test_a_pass_that_fails_leaves_what_was_decided_before(many, tmp_path):
    copied = Path(shutil.copytree(many, tmp_path / "run"))
    before = {
        name: value for name, value in results(copied).items() if name.startswith(("decisions", "corpus", "report"))
    }
    next((copied / "signatures").iterdir()).unlink()
    outcome = decide(Folder(copied), "dedup", recipe(*EVERYTHING, "dedup.verify=0.9"), ALONE, QUIET)
    assert "signatures" in " ".join(outcome.failed.values())
    after = results(copied)
    assert before
    assert {name: after[name] for name in before} == before


def test_each_of_a_bucket_meets_its_first_and_of_a_crowd_fewer(monkeypatch):
    monkeypatch.setattr(near, "CROWDED", 10)
    monkeypatch.setattr(near, "FIRST_OF_BUCKET", 4)
    monkeypatch.setattr(near, "FIRST_OF_CROWD", 2)
    keys = np.repeat(np.array([3, 5, 9], np.uint64), [6, 1, 12])
    pairs = {pair for one, other in near.meetings(keys) for pair in zip(one.tolist(), other.tolist(), strict=True)}
    small = {(a, b) for a in range(4) for b in range(a + 1, 6)}
    crowd = {(a, b) for a in (7, 8) for b in range(a + 1, 19)}
    assert pairs == small | crowd


def test_a_threshold_and_bands_are_not_taken_together(many, tmp_path):
    copied = str(shutil.copytree(many, tmp_path / "run"))
    command = [sys.executable, "-m", "tilth.cli.main", "curate", "decide", copied, "--in-process"]
    both = subprocess.run([*command, "--threshold", "0.8", "--set", "dedup.bands=3"], capture_output=True, text=True)
    assert both.returncode == 2
    assert "not both" in both.stderr
    for more in (["--threshold", "0.8"], ["--set", "dedup.bands=3"]):
        subprocess.run([*command, *more], check=True, capture_output=True)
    chosen = orjson.loads((tmp_path / "run" / "run.json").read_bytes())["request"]["recipe"]["dedup"]
    assert (chosen["bands"], chosen["threshold"], chosen["verify"]) == (3, None, 0.8)


def test_without_verification_every_meeting_counts_and_is_told_its_similarity(tmp_path):
    source = random.Random(5)
    text = prose(source, 200)
    documents = [{"text": text}, *({"text": edited(source, text, 0.06)} for _ in range(20))]
    place = written(tmp_path / "in.jsonl", documents)
    settings = ["labels.minhash.permutations=100", "dedup.bands=50", "dedup.rows=2"]
    run([place], tmp_path / "trusting", recipe(*settings, "dedup.verify=0"))
    run([place], tmp_path / "verified", recipe(*settings))
    trusting, verified = (told(tmp_path / name).values() for name in ("trusting", "verified"))
    assert sum(one["kept"] for one in trusting) == 1
    assert min(one["similarity"] for one in trusting if one["similarity"] is not None) < 0.7
    assert min((one["similarity"] for one in verified if one["similarity"] is not None), default=1) >= 0.7
