"""The audit of near-duplicates against a comparison of all pairs, and the story of a duplicate."""

import itertools
import random
import shutil
from collections import Counter
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import results, rows, stats
from scipy.stats import binomtest

from tilth.curate.dedup import census
from tilth.curate.dedup.audit import wilson
from tilth.curate.pipeline import audit, curate, decide, rewrite_report
from tilth.curate.recipe import PACKAGE, CurateRecipe
from tilth.curate.run import Run
from tilth.curate.stats import samples
from tilth.curate.why import stories, told
from tilth.errors import TilthError
from tilth.progress import Progress
from tilth.recipe import load_recipe
from tilth.storage import Folder
from tilth.work import WorkOptions

ALONE = WorkOptions(in_process=True)
QUIET = Progress(quiet=True)
WORDS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("ba", "ko", "li", "mun", "ret", "sop")]
MISSING = ("dedup.bands=1", "dedup.rows=112")  # only texts of one whole signature meet
MEETING = ("dedup.bands=56", "dedup.rows=2", "dedup.verify=0")  # texts that have little in common meet, and stay so
SHARES = (0.97, 0.9, 0.8, 0.7, 0.6, 0.45)  # of a text that its variants have


def recipe(*settings: str, name: str = "dedup") -> CurateRecipe:
    return load_recipe(CurateRecipe, name, PACKAGE, settings)


def corpus(place: Path, bases: int = 24, seed: int = 3) -> Path:
    """Texts, of each some variants whose ends are others, one that is nearly equal, and a copy."""
    source = random.Random(seed)

    def words(count: int) -> list[str]:
        return [source.choice(WORDS) for _ in range(count)]

    texts = []
    for base in range(bases):
        text = words(300)
        shares = source.sample(SHARES, base % 4)
        variants = [text[: int(300 * share)] + words(300 - int(300 * share)) for share in shares]
        texts += [text, *variants, [*text[:-1], "end"], text if base % 3 == 0 else words(200)]
    source.shuffle(texts)
    pages = [{"url": f"http://garden.example/{n}", "text": " ".join(text)} for n, text in enumerate(texts)]
    place.write_bytes(b"".join(orjson.dumps(page) + b"\n" for page in pages))
    return place


def run(folder: Path, *settings: str, name: str = "dedup", **options) -> Path:
    output = folder / "run"
    folder.mkdir(exist_ok=True)
    crawl = corpus(folder / "crawl.jsonl", **options)
    assert not curate([str(crawl)], Folder(output), name, recipe(*settings, name=name), ALONE, QUIET).failed
    return output


def audited(output: Path, documents: int = 1000) -> dict:
    result = audit(Folder(output), documents, ALONE, QUIET)
    assert not result.failed
    return result.stats


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Path:
    """A run and its audit that nobody changes."""
    output = run(tmp_path_factory.mktemp("found"))
    audited(output)
    return output


@pytest.fixture
def mine(found, tmp_path) -> Path:
    return Path(shutil.copytree(found, tmp_path / "run"))


def shingles(text: str) -> set:
    tokens = text.split()
    return set(itertools.pairwise(itertools.pairwise(itertools.pairwise(itertools.pairwise(tokens)))))


def jaccard(one: set, other: set) -> float:
    return len(one & other) / len(one | other)


def labelled(output: Path) -> dict[str, dict]:
    """By id, all that is known of each document: labels of duplicates, and `set`, its shingles."""
    labels = {row["id"]: row for row in rows(output, "dedup/labels")}
    for row in rows(output, "documents", ["id", "text"]):
        labels[row["id"]]["set"] = shingles(row["text"])
    return labels


def true_recall(output: Path, threshold: float, drawn: int) -> dict[str, int]:
    """Of the pairs of different texts that have one of the first `drawn`, those so similar, and what became of them."""
    texts = [row for _, row in sorted(labelled(output).items()) if not row["copy_of"]]
    counts = {"of": 0, "clustered": 0, "resolved": 0}
    for (place, one), (_, other) in itertools.combinations(enumerate(texts), 2):
        if place < drawn and jaccard(one["set"], other["set"]) >= threshold:
            counts["of"] += 1
            counts["clustered"] += one["cluster"] == other["cluster"] != ""
            counts["resolved"] += bool(one["near_of"] or other["near_of"])
    return counts


def counted(one: dict) -> dict[str, int]:
    assert one["clustered"]["of"] == one["resolved"]["of"]
    return {"of": one["clustered"]["of"], **{name: one[name]["found"] for name in ("clustered", "resolved")}}


@pytest.mark.parametrize("settings", [(), MISSING])
@pytest.mark.parametrize("documents", [1000, 20])
def test_recall_is_that_of_a_comparison_of_all_pairs(tmp_path, settings, documents):
    output = run(tmp_path / "x", *settings)
    figures = audited(output, documents)
    assert [one["threshold"] for one in figures["recall"]] == [0.7, 0.8, 0.9]
    for one in figures["recall"]:
        assert counted(one) == true_recall(output, one["threshold"], documents), one["threshold"]
    if settings and documents == 1000:
        assert 0 < figures["recall"][0]["clustered"]["share"] < 0.8  # what was planted to be missed is missed
        assert figures["recall"][0]["clusters"] > 24


def test_recall_of_what_the_default_finds_is_high(found):
    high = orjson.loads((found / "dedup/audit.json").read_bytes())["recall"][1]
    assert high["clustered"]["share"] == high["resolved"]["share"] == 1


def test_every_dropped_text_has_its_like_where_pairs_are_verified(found):
    figures = orjson.loads((found / "dedup/audit.json").read_bytes())["precision"]["representative"]
    dropped = [row for row in labelled(found).values() if row["near_of"] and not row["copy_of"]]
    assert (figures["found"], figures["of"], figures["share"]) == (len(dropped), len(dropped), 1)
    assert figures["clusters"] == len({row["cluster"] for row in dropped})


@pytest.mark.parametrize("documents", [1000, 20])
def test_precision_tells_what_was_dropped_without_its_like(tmp_path, documents):
    output = run(tmp_path / "x", *MEETING)
    figures = audited(output, documents)
    labels = labelled(output)
    dropped = sorted(own for own, row in labels.items() if row["near_of"] and not row["copy_of"])[:documents]
    true = sum(jaccard(labels[own]["set"], labels[labels[own]["near_of"]]["set"]) >= 0.7 for own in dropped)
    precision = figures["precision"]["representative"]
    assert figures["verify"] == 0.7
    assert (precision["found"], precision["of"]) == (true, len(dropped))
    assert 0 < precision["share"] < 1


def test_the_other_of_a_cluster_is_the_next_one_of_it(tmp_path):
    output = run(tmp_path / "x", *MEETING)
    labels = labelled(output)
    texts = [own for own, row in sorted(labels.items()) if not row["copy_of"]]
    true = of = 0
    for own in texts:
        row = labels[own]
        if row["near_of"]:
            cluster = [one for one in texts if labels[one]["cluster"] == row["cluster"]]
            other = cluster[(cluster.index(own) + 1) % len(cluster)]
            of += 1
            true += jaccard(row["set"], labels[other]["set"]) >= 0.7
    figures = audited(output)["precision"]["cluster"]
    assert (figures["found"], figures["of"]) == (true, of)


def test_how_documents_are_grouped_changes_no_figure(found, tmp_path, monkeypatch):
    monkeypatch.setattr(census, "GROUP_DOCUMENTS", 30)
    output = tmp_path / "run"
    crawl = found.parent / "crawl.jsonl"
    units = recipe("read.unit_bytes=40000")
    assert not curate([str(crawl)], Folder(output), "dedup", units, ALONE, QUIET).failed
    for documents in (1000, 20):
        many = audited(output, documents)
        assert len(list((output / "dedup/audit/pairs").iterdir())) > 2
        one = audited(Path(shutil.copytree(found, tmp_path / f"one-{documents}")), documents)
        assert many | {"basis": ""} == one | {"basis": ""}


def test_an_audit_that_is_repeated_or_resumed_gives_the_same_bytes(mine, found):
    audited(mine)
    assert results(mine) == results(found)
    for litter in ("dedup/audit.json", "ledger/audit-pairs", "dedup/audit/next"):  # as a stop half way leaves it
        shutil.rmtree(mine / litter, ignore_errors=True)
        (mine / litter).unlink(missing_ok=True)
    rewrite_report(Folder(mine))
    assert results(mine) != results(found)
    audited(mine)
    assert results(mine) == results(found)


def test_workers_change_no_audit(ray, found, mine):
    shutil.rmtree(mine / "dedup/audit")
    (mine / "dedup/audit.json").unlink()
    assert not audit(Folder(mine), 1000, WorkOptions(workers=2), QUIET).failed
    assert results(mine) == results(found)


def test_the_report_shows_the_audit_of_these_duplicates_only(mine):
    page = (mine / "report.html").read_text()
    assert "Recall at 0.8: in one cluster" in page
    assert stats(mine)["duplicates"]["audit"]["recall"][1]["clustered"]["share"] == 1
    decide(Folder(mine), "dedup", recipe("dedup.verify=0.8"), ALONE, QUIET)
    assert stats(mine)["duplicates"]["audit"] is None
    page = (mine / "report.html").read_text()
    assert "Recall at" not in page
    assert "tilth curate audit" in page
    audited(mine)
    assert "Precision at 0.8" in (mine / "report.html").read_text()


def test_the_report_counts_clusters_and_shows_the_largest(found):
    duplicates = stats(found)["duplicates"]
    labels = labelled(found)
    sizes = sorted((-row["size"], row["cluster"]) for own, row in labels.items() if row["cluster"] == own)
    assert sum(row["clusters"] for row in duplicates["sizes"]) == len(sizes)
    assert sum(row["documents"] for row in duplicates["sizes"]) == sum(row["size"] > 1 for row in labels.values())
    assert [(-row["size"], row["cluster"]) for row in duplicates["largest"]] == sizes[:10]
    dropped = {kind["kind"]: kind["decided"] for kind in duplicates["kinds"]}
    rules = {rule["rule"]: rule["decided"] for rule in stats(found)["rules"]}
    assert (dropped["exact"], dropped["near"]) == (rules["exact-duplicate"], rules["near-duplicate"])
    labelled_as = {kind["kind"]: kind["labelled"] for kind in duplicates["kinds"]}
    assert labelled_as["exact"] == sum(row["copy_of"] != "" for row in labels.values()) > 0
    assert (found / "report.html").read_text().count("Stands for") == min(10, len(sizes))


def test_the_report_shows_of_a_cluster_who_stays_and_the_two_least_like_it(finished):
    labels = {row["id"]: row for row in rows(finished, "dedup/labels")}
    texts = {row["id"]: row for row in rows(finished, "documents", ["id", "text", "title"])}
    shown = samples(Run(Folder(finished)))["clusters"]
    assert len(shown) == 10
    for cluster in shown:
        standing = Counter(
            row["near_of"] for row in labels.values() if row["cluster"] == cluster["cluster"] and row["near_of"]
        )
        assert standing[cluster["lead"]] == cluster["standing"] == max(standing.values())
        others = sorted((row["similarity"], own) for own, row in labels.items() if row["near_of"] == cluster["lead"])
        assert [one["id"] for one in cluster["members"]] == [cluster["lead"], *(own for _, own in others[:2])]
        assert [one["similarity"] for one in cluster["members"]] == [None, *(value for value, _ in others[:2])]
        for one in cluster["members"]:
            assert one["title"] == texts[one["id"]]["title"]
            assert texts[one["id"]]["text"].startswith(one["text"])


def test_what_cannot_be_audited_is_told_in_one_line(mine, tmp_path):
    def refused(output: Path, message: str) -> None:
        with pytest.raises(TilthError, match=message) as error:
            audit(Folder(output), 10, ALONE, QUIET)
        assert error.value.exit_code == 2
        assert "\n" not in str(error.value)

    refused(tmp_path / "nowhere", "no run of tilth")
    assert not (tmp_path / "nowhere").exists()
    shutil.rmtree(mine / "ledger/dedup-duplicates")
    refused(mine, "not found yet")
    refused(run(tmp_path / "labels", "labels.families=[url_labels]", name="keep-all", bases=2), "look for duplicates")
    blank = tmp_path / "blank.jsonl"
    blank.write_text('{"text": " "}\n')
    assert not curate([str(blank)], Folder(tmp_path / "blank"), "dedup", recipe(), ALONE, QUIET).failed
    refused(tmp_path / "blank", "no documents")


def test_an_audit_whose_file_is_damaged_is_no_audit(mine):
    (mine / "dedup/audit.json").write_text("{")
    rewrite_report(Folder(mine))
    assert stats(mine)["duplicates"]["audit"] is None


def test_what_stands_in_an_earlier_run_is_compared_and_named(tmp_path):
    earlier = run(tmp_path / "earlier", bases=8)
    source = random.Random(5)
    texts = [row["text"] + " later" for row in rows(earlier, "corpus", ["text"])]
    new = tmp_path / "new.jsonl"
    new.write_bytes(b"".join(orjson.dumps({"text": text}) + b"\n" for text in source.sample(texts, len(texts))))
    later, against = tmp_path / "later", recipe(f"dedup.against=[{earlier}]")
    assert not curate([str(new)], Folder(later), "dedup", against, ALONE, QUIET).failed
    figures = audited(later)["precision"]
    assert figures["representative"]["of"] == figures["representative"]["found"] == len(texts)
    (story,) = stories(Run(Folder(later)), rows(later, "documents", ["id"])[0]["id"])
    assert f"(in {earlier})" in told(story)
    assert story["duplicates"]["near_of"]["kept"]
    shutil.rmtree(earlier)
    (story,) = stories(Run(Folder(later)), story["id"])
    assert "no longer to be found" in told(story)


def test_why_names_who_stands_for_a_duplicate_and_for_whom_one_stands(found):
    output = Run(Folder(found))
    labels = labelled(found)
    urls = {row["id"]: row["url"] for row in rows(found, "documents", ["id", "url"])}
    for own, row in labels.items():
        (story,) = stories(output, own)
        line = told(story)
        if row["near_of"]:
            assert f"{row['near_of']} ({urls[row['near_of']]}), which is kept" in line
            assert ("the same text as" in line) == (row["copy_of"] == row["near_of"])
            assert story["duplicates"]["near_of"]["url"] == urls[row["near_of"]]
            assert story["duplicates"]["similarity"] == row["similarity"]
        elif row["size"] > 1:
            others = sorted(one for one, other in labels.items() if other["near_of"] == own)
            assert story["duplicates"]["stands_for"] == len(others)
            assert [one["id"] for one in story["duplicates"]["members"]] == others[:5]
        assert (f"a cluster of {row['size']} documents" in line) == (row["size"] > 1)
        assert story["language"] is None
        assert story["words"] is None


def test_why_tells_what_passages_were_cut(tmp_path):
    shared = "This line about the weather and the soil stands in every page of the garden, word for word."
    source = random.Random(4)
    pages = [{"text": f"{shared}\n{' '.join(source.choices(WORDS, k=40))}"} for _ in range(3)]
    crawl = tmp_path / "crawl.jsonl"
    crawl.write_bytes(b"".join(orjson.dumps(page) + b"\n" for page in pages))
    cutting = recipe("dedup.passages={lines: true}", "clean=[repeated]")
    assert not curate([str(crawl)], Folder(tmp_path / "run"), "dedup", cutting, ALONE, QUIET).failed
    output = Run(Folder(tmp_path / "run"))
    told_of = [told(stories(output, row["id"])[0]) for row in rows(tmp_path / "run", "documents", ["id"])]
    assert sum("repeated: 1 passage cut" in line for line in told_of) == 2
    assert sum(f"- {shared}" in line for line in told_of) == 2


@given(st.integers(1, 10**6).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_intervals_are_wilsons(counts):
    found, of = counts
    ours = wilson(found, of)
    theirs = binomtest(found, of).proportion_ci(method="wilson")
    assert (ours["low"], ours["high"]) == pytest.approx((theirs.low, theirs.high), abs=2e-6)
    assert ours["low"] <= ours["share"] <= ours["high"]


def test_a_share_of_no_pairs_is_none():
    assert wilson(0, 0) == {"found": 0, "of": 0, "share": None, "low": None, "high": None}


@pytest.mark.realdata
def test_the_audit_of_real_revisions_counts_the_pairs_that_are_known(data, tmp_path):
    import gzip

    folder = data / "dedup/git-history"
    output = tmp_path / "run"
    assert not curate([str(folder / "docs.jsonl.gz")], Folder(output), "dedup", recipe(), ALONE, QUIET).failed
    figures = audited(output)
    starts, start = {}, 0
    for line in gzip.decompress((folder / "docs.jsonl.gz").read_bytes()).splitlines(keepends=True):
        starts[start] = orjson.loads(line)["id"]
        start += len(line)
    copies = {row["id"] for row in rows(output, "dedup/labels", ["id", "copy_of"]) if row["copy_of"]}
    texts = {starts[row["offset"]] for row in rows(output, "documents", ["id", "offset"]) if row["id"] not in copies}
    told_of = gzip.decompress((folder / "pairs.tsv.gz").read_bytes()).decode().splitlines()[1:]
    pairs = [line.split("\t") for line in told_of]
    similar = [float(pair[2]) for pair in pairs if {*pair[:2]} <= texts]
    for one in figures["recall"]:
        assert one["clustered"]["of"] == sum(value >= one["threshold"] - 1e-6 for value in similar)
    assert figures["recall"][1]["clustered"]["share"] >= 0.99
    assert figures["precision"]["representative"]["share"] == 1
