"""Who stands for a duplicate where runs share ids, and what is left of documents of which cleaning leaves nothing."""

import itertools
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import stats
from test_dedup import ALONE, QUIET, prose, recipe, rows, run, told, written

from tilth.curate import why
from tilth.curate.pipeline import audit, decide
from tilth.curate.run import Run
from tilth.curate.stats import samples
from tilth.storage import Folder

SAME_URL = ("dedup.url=true", 'rules.url-duplicate={label: dup.url_of, in: [""]}')


def texts_only(folder: Path, texts: list[str]) -> Path:
    """Rows without URLs in a file of always the same name: what gives documents of two runs the same ids."""
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"text": texts}), folder / "part-00000.parquet")
    return folder / "part-00000.parquet"


def standing(output: Path, earlier: Path, kind: str) -> list[tuple[dict, dict]]:
    """Each document that has another in its place, with that other one."""
    sides = [{row["id"]: row for row in rows(folder, "documents")} for folder in (output, earlier)]
    labels = rows(output, "dedup/labels")
    return [(sides[0][row["id"]], sides[row[f"{kind}_run"]][row[f"{kind}_of"]]) for row in labels if row[f"{kind}_of"]]


@pytest.fixture(scope="module")
def months(tmp_path_factory) -> tuple[Path, Path]:
    """Two runs whose ids are the same: of the six documents of March, April repeats two and edits three, one of them
    in the same row, so under the same id; two of April's own are alike, and one is new."""
    folder = tmp_path_factory.mktemp("months")
    source = random.Random(4)
    old = [prose(source, 100) for _ in range(6)]
    own, last = (prose(source, 100) for _ in range(2))
    april = [old[0] + " once", old[0], old[1] + " again", own, old[2], old[3] + " again", own + " once", last]
    run([texts_only(folder / "a", old)], folder / "march", recipe())
    against = recipe(f"dedup.against=[{folder / 'march'}]")
    run([texts_only(folder / "b", april)], folder / "april", against)
    return folder / "april", folder / "march"


def test_ids_of_two_runs_can_be_the_same(months):
    april, march = ({row["id"] for row in rows(folder, "documents", ["id"])} for folder in months)
    assert march < april


def test_a_label_says_which_run_the_document_is_of_that_stays(months: tuple[Path, Path]):
    pairs = standing(*months, "near")
    assert len(pairs) == 6
    assert all(one["text"][:300] == other["text"][:300] for one, other in pairs)
    assert sorted(row["near_run"] for row in rows(months[0], "dedup/labels") if row["near_of"]) == [0, 1, 1, 1, 1, 1]
    copies = standing(*months, "copy")
    assert len(copies) == 2
    assert all(one["text"] == other["text"] for one, other in copies)


def test_why_names_the_document_of_the_run_it_is_of(months):
    april, march = months
    labels = {row["id"]: row for row in rows(april, "dedup/labels")}
    for own, row in labels.items():
        (story,) = why.stories(Run(Folder(april)), own)
        said = why.told(story)
        if row["near_of"]:
            assert (f"(in {march})" in said) == (row["near_run"] == 1)
            assert story["duplicates"]["near_of"]["kept"]
        assert ("the same text as" in said) == bool(row["copy_of"])
        stood_for = sum((other["near_run"], other["near_of"]) == (0, own) for other in labels.values())
        assert story["duplicates"]["stands_for"] == stood_for


def test_the_audit_compares_with_the_document_of_the_run_it_is_of(months):
    outcome = audit(Folder(months[0]), 100, ALONE, QUIET)
    assert not outcome.failed
    found = outcome.stats["precision"]["representative"]
    assert (found["found"], found["of"]) == (4, 4)  # copies are not asked


def test_the_report_shows_none_of_this_run_for_one_that_stays_in_an_earlier_one(months):
    labels = {row["id"]: row for row in rows(months[0], "dedup/labels")}
    clusters = samples(Run(Folder(months[0])))["clusters"]
    assert len(clusters) == 5
    for cluster in clusters:
        others = [one["id"] for one in cluster["members"] if one["similarity"] is not None]
        row = labels[others[0]]
        shown = [one["id"] for one in cluster["members"]]
        assert shown == ([row["near_of"]] if row["near_run"] == 0 else []) + others
        assert len({*shown}) == len(shown) == cluster["standing"] + (row["near_run"] == 0)


def test_clusters_of_one_name_are_one_cluster_whatever_ids_an_earlier_run_has(months):
    labels = rows(months[0], "dedup/labels")
    by_cluster: dict[str, set] = {}
    for row in labels:
        if row["cluster"]:
            by_cluster.setdefault(row["cluster"], set()).add((row["near_run"], row["near_of"] or row["id"]))
    assert len(by_cluster) == 5
    assert all(len(stays) == 1 for stays in by_cluster.values())


def test_of_two_earlier_runs_the_one_is_named_that_holds_the_document(tmp_path):
    source = random.Random(6)
    old = [[prose(source, 80) for _ in range(3)] for _ in range(2)]
    for name, texts in zip(("january", "february"), old, strict=True):
        run([texts_only(tmp_path / "in" / name, texts)], tmp_path / name, recipe())
    both = f"dedup.against=[{tmp_path / 'january'}, {tmp_path / 'february'}]"
    new = texts_only(tmp_path / "in" / "new", [*old[1], *old[0], prose(source, 80)])
    run([new], tmp_path / "run", recipe(both))
    said = {one["text"]: one for one in told(tmp_path / "run").values()}
    assert [said[text]["near_run"] for text in [*old[0], *old[1]]] == [1, 1, 1, 2, 2, 2]
    assert [said[text]["copy_run"] for text in [*old[0], *old[1]]] == [1, 1, 1, 2, 2, 2]
    for month, texts in zip(("january", "february"), old, strict=True):
        (story,) = why.stories(Run(Folder(tmp_path / "run")), said[texts[0]]["id"])
        assert f"(in {tmp_path / month})" in why.told(story)


def test_of_one_address_the_run_is_told_of_the_document_that_stays(tmp_path):
    source = random.Random(7)
    pages = [{"url": f"http://x.example/{name}", "text": prose(source, 60)} for name in "abc"]
    newer = [{"url": page["url"], "text": prose(source, 60)} for page in [*pages[:2], {"url": "http://x.example/z"}]]
    again = [{"url": "http://x.example/z", "text": prose(source, 60)}]
    run([written(tmp_path / "in" / "march.jsonl", pages)], tmp_path / "march", recipe(*SAME_URL))
    against = recipe(*SAME_URL, f"dedup.against=[{tmp_path / 'march'}]")
    run([written(tmp_path / "in" / "april.jsonl", [*newer, *again])], tmp_path / "april", against)
    pairs = standing(tmp_path / "april", tmp_path / "march", "url")
    assert all(one["url"] == other["url"] for one, other in pairs)
    found = sorted((one["url_run"], one["url"]) for one in told(tmp_path / "april").values() if one["url_of"])
    assert found == [(0, "http://x.example/z"), (1, "http://x.example/a"), (1, "http://x.example/b")]
    for one in told(tmp_path / "april").values():
        (story,) = why.stories(Run(Folder(tmp_path / "april")), one["id"])
        assert ("the same URL as" in why.told(story)) == bool(one["url_of"])
        assert (f"(in {tmp_path / 'march'})" in why.told(story)) == (one["url_run"] == 1)


CUTTING = ("dedup.passages={lines: true}", "clean=[repeated]")


@pytest.fixture(scope="module")
def woven(tmp_path_factory) -> Path:
    """Three documents, none like another, of whose lines each stands in another one too; all ids are random, so which
    of them is left empty is not known before."""
    folder = tmp_path_factory.mktemp("woven")
    source = random.Random(4)
    lines = [prose(source, 10) for _ in range(20)]
    texts = ["\n".join(chosen) for chosen in (lines[:10], lines[10:], lines[::2])]
    pages = [{"text": text, "timestamp": f"2024-03-0{day}T00:00:00Z"} for day, text in enumerate(texts, 1)]
    place = written(folder / "rows.jsonl", pages)
    run([place], folder / "run", recipe("read.timestamp_field=timestamp", *CUTTING))
    return folder / "run"


def test_a_document_of_which_cleaning_leaves_nothing_is_not_in_the_corpus(woven):
    texts = [row["text"] for row in rows(woven, "corpus")]
    assert len(texts) == 2
    assert all(text.strip() for text in texts)
    shard = next((woven / "corpus").iterdir())
    assert pq.ParquetFile(shard).metadata.num_rows == 2


def test_what_is_left_out_of_the_corpus_is_counted_and_all_adds_up(woven):
    figures = stats(woven)
    totals, decisions = figures["totals"], rows(woven, "decisions")
    assert totals["records"] == totals["failures"] + totals["documents"]
    assert totals["kept"] == sum(row["kept"] for row in decisions) == 3
    assert totals["emptied"] == 1
    assert len(rows(woven, "corpus")) == totals["kept"] - totals["emptied"]
    assert totals["corpus_bytes"] == sum(len(row["text"].encode()) for row in rows(woven, "corpus"))
    for before, after in itertools.pairwise(figures["funnel"]):
        assert after["documents"] == before["documents"] - after["removed"]
    cleaned = figures["funnel"][-1]
    assert (cleaned["step"], cleaned["removed"], cleaned["documents"]) == ("lines cleaned", 1, 2)
    assert cleaned["bytes"] == totals["corpus_bytes"]


def test_why_says_of_such_a_document_that_cleaning_left_nothing(woven):
    in_corpus = {row["id"] for row in rows(woven, "corpus")}
    for row in rows(woven, "documents", ["id"]):
        (story,) = why.stories(Run(Folder(woven)), row["id"])
        assert ("cleaning left nothing" in why.told(story)) == (row["id"] not in in_corpus)
        assert story["fate"] == "kept"


def test_a_corpus_of_which_cleaning_leaves_nothing_is_an_empty_one(tmp_path):
    notice = "We use cookies, as our cookie policy says."
    place = written(tmp_path / "rows.jsonl", [{"text": f"{notice}\n{notice} {number}"} for number in range(3)])
    chosen = recipe("clean=[c4-policy]", name="keep-all")
    run([place], tmp_path / "run", chosen)
    assert rows(tmp_path / "run", "corpus") == []
    totals = stats(tmp_path / "run")["totals"]
    assert (totals["documents"], totals["kept"], totals["emptied"], totals["corpus_bytes"]) == (3, 3, 3, 0)
    again = chosen.model_copy(update={"clean": ()})
    assert decide(Folder(tmp_path / "run"), "keep-all", again, ALONE, QUIET).stats["totals"]["emptied"] == 0
    assert len(rows(tmp_path / "run", "corpus")) == 3
