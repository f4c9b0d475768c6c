"""The main job, end to end: everything is accounted for, and the result depends on nothing but input and recipe."""

import itertools
import shutil
from collections import Counter
from operator import itemgetter

import orjson
import pyarrow.parquet as pq
import pytest
from runs import results, rows, stats

from tilth import rundir
from tilth.curate.demo import write_crawl
from tilth.curate.label import FAMILIES, resources
from tilth.curate.pipeline import curate, decide, relabel
from tilth.curate.recipe import PACKAGE, CurateRecipe
from tilth.curate.run import Run
from tilth.curate.why import stories, told
from tilth.errors import DirectoryConflict, InputError, ModelError, RecipeError, StorageError, UsageError
from tilth.progress import Progress
from tilth.recipe import load_recipe
from tilth.storage import Folder
from tilth.work import WorkOptions

ALONE = WorkOptions(in_process=True)
QUIET = Progress(quiet=True)


def recipe(name="demo", *settings):
    return load_recipe(CurateRecipe, name, PACKAGE, settings)


def run(inputs, output, chosen, work=ALONE):
    return curate([str(path) for path in inputs], Folder(output), "demo", chosen, work, QUIET)


def test_the_funnel_adds_up_exactly(finished):
    totals = stats(finished)["totals"]
    documents, failures = rows(finished, "documents", ["id"]), rows(finished, "failures", ["id"])
    decisions, corpus = rows(finished, "decisions"), rows(finished, "corpus", ["id"])
    assert totals["records"] == len(documents) + len(failures) == totals["documents"] + totals["failures"]
    assert [row["id"] for row in decisions] == [row["id"] for row in documents]
    assert totals["kept"] == sum(row["kept"] for row in decisions) == len(corpus)
    ids = [row["id"] for row in documents + failures]
    assert len(set(ids)) == len(ids)


def test_the_funnel_in_the_report_takes_away_what_it_says(finished):
    steps = stats(finished)["funnel"]
    for before, after in itertools.pairwise(steps):
        assert after["documents"] == before["documents"] - after["removed"]
        if before["unit"] == after["unit"]:
            assert after["bytes"] == before["bytes"] - after["removed_bytes"]
    assert steps[-1]["documents"] == stats(finished)["totals"]["kept"]


def test_every_drop_names_its_rule_value_and_threshold(finished, demo_recipe):
    for row in rows(finished, "decisions"):
        named = [row[part] is not None for part in ("rule", "label", "value", "test")]
        assert named == [not row["kept"]] * 4
        assert row["kept"] or row["rule"] in demo_recipe.rules
    assert all(row["reason"] and row["stage"] for row in rows(finished, "failures"))


def test_rules_add_up_in_the_stats(finished):
    found = Counter(row["rule"] for row in rows(finished, "decisions"))
    for rule in stats(finished)["rules"]:
        assert rule["decided"] == found[rule["rule"]]
        assert rule["alone"] <= rule["decided"] <= rule["would_drop"]
    scripts = Counter(row["lang"]["script"] for row in rows(finished, "documents", ["lang"]))
    east, everything = scripts["Hani"] + scripts["Jpan"], scripts.total()
    spoken_of = dict.fromkeys(recipe().rules, everything)
    spoken_of |= {name: east for name in spoken_of if name.endswith("-cjk")}
    spoken_of |= {name.removesuffix("-cjk"): everything - east for name in spoken_of if name.endswith("-cjk")}
    spoken_of["gopher-word-length-korean"] = scripts["Kore"]
    spoken_of["gopher-word-length"] -= scripts["Kore"]
    spoken_of["fineweb-punctuation"] -= scripts["Thai"] + scripts["Laoo"]
    for histogram in stats(finished)["histograms"]:
        counted = sum(histogram["kept"]) + sum(histogram["dropped"])
        assert counted == spoken_of[histogram["rule"]], histogram["rule"]


def test_the_corpus_is_ordered_cleaned_and_labelled(finished):
    table = pq.ParquetFile(next((finished / "corpus").iterdir())).read()
    ids = table["id"].to_pylist()
    assert ids == sorted(ids)
    assert set(FAMILIES) <= set(table.column_names)
    assert any(removed for removed in table["removed"].to_pylist())
    assert not any("cookie policy" in text.lower() for text in table["text"].to_pylist())


def test_workers_and_units_change_nothing(ray, finished, crawl, tmp_path):
    run([crawl], tmp_path / "two", recipe(), WorkOptions(workers=2))
    assert results(tmp_path / "two") == results(finished)
    run([crawl], tmp_path / "small", recipe("demo", "read.unit_bytes=20000"))
    small, whole = results(tmp_path / "small"), results(finished)
    for name in ("stats.json", "report.html", *(name for name in whole if name.startswith("corpus/"))):
        assert small[name] == whole[name], name
    by_id = [sorted(rows(folder, "dedup/labels"), key=itemgetter("id")) for folder in (tmp_path / "small", finished)]
    assert by_id[0] == by_id[1]


def test_where_the_crawl_stands_changes_nothing(finished, crawl, tmp_path):
    moved = tmp_path / "elsewhere" / crawl.name
    shutil.copytree(crawl, moved)
    run([moved], tmp_path / "run", recipe())
    assert results(tmp_path / "run") == results(finished)


def test_the_same_command_again_finds_everything_done(copied, crawl, demo_recipe):
    before = {file: file.stat().st_mtime_ns for file in copied.rglob("*.parquet")}
    run([crawl], copied, demo_recipe)
    assert {file: file.stat().st_mtime_ns for file in copied.rglob("*.parquet")} == before


def test_a_changed_rule_changes_decisions_and_changing_it_back_restores_every_byte(copied, finished, demo_recipe):
    folder = Folder(copied)
    decide(folder, "demo", recipe("demo", "rules.gopher-words.min=99999"), ALONE, QUIET)
    assert stats(copied)["totals"]["kept"] == 0
    assert rows(copied, "corpus") == []
    decide(folder, "demo", demo_recipe, ALONE, QUIET)
    assert results(copied) == results(finished)


def test_deciding_without_a_corpus_leaves_none(copied):
    decide(Folder(copied), "demo", recipe("demo", "rules.gopher-words.min=60"), ALONE, QUIET, corpus=False)
    assert not list((copied / "corpus").glob("*"))


def test_what_would_give_other_labels_is_not_a_decision(copied):
    with pytest.raises(UsageError, match="labels"):
        decide(Folder(copied), "demo", recipe("demo", "labels.gopher.variant=dolma"), ALONE, QUIET)


def test_another_recipe_or_input_in_the_same_directory_is_refused_with_the_difference(copied, crawl, demo_recipe):
    with pytest.raises(DirectoryConflict, match=r"rules\.gopher-words\.min is 50.* there, 51.* asked"):
        run([crawl], copied, recipe("demo", "rules.gopher-words.min=51"))
    with pytest.raises(DirectoryConflict, match="inputs"):
        run([next(crawl.glob("*.warc.gz"))], copied, demo_recipe)


def test_a_folder_of_somebody_else_is_refused_and_left_alone(crawl, tmp_path, demo_recipe):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DirectoryConflict, match="not a run of tilth"):
        run([crawl], tmp_path, demo_recipe)
    assert sorted(file.name for file in tmp_path.iterdir() if file.name != ".lock") == ["thesis.txt"]


def test_a_label_family_is_brought_up_to_date_without_touching_the_others(copied):
    before = {name: digest for name, digest in results(copied).items() if name.startswith("documents/")}
    chosen = recipe("demo", "labels.gopher.variant=dolma")
    with pytest.raises(UsageError, match="--family repetition"):
        relabel(Folder(copied), ["gopher"], chosen, ALONE, QUIET)
    relabel(Folder(copied), ["gopher", "repetition"], chosen, ALONE, QUIET)
    after = results(copied)
    assert before.items() <= after.items()
    table = Run(Folder(copied))
    key = next(key for key, record in table.documents.items() if record["counts"]["documents"])
    new = table.table(key, ["gopher.mean_word_length"])["gopher.mean_word_length"].to_pylist()
    old = pq.read_table(copied / "documents" / f"{key}.parquet")["gopher"].to_pylist()
    assert new != [one["mean_word_length"] for one in old]
    assert table.recipe.labels.gopher.variant == "dolma"
    assert table.relabelled == ["gopher", "repetition"]


def test_a_label_pass_stopped_half_way_is_not_judged(copied):
    manifest = rundir.read(Folder(copied))
    request = manifest["request"] | {"relabelling": ["gopher"]}
    rundir.write(Folder(copied), manifest["command"], request, manifest["name"])
    with pytest.raises(DirectoryConflict, match="stopped half way"):
        Run(Folder(copied))
    with pytest.raises(UsageError, match="first finish"):
        relabel(Folder(copied), ["noise"], recipe(), ALONE, QUIET)
    relabel(Folder(copied), ["gopher"], recipe(), ALONE, QUIET)
    assert "gopher" in Run(Folder(copied)).relabelled


def test_a_list_with_other_content_is_another_run(crawl, tmp_path):
    lists = tmp_path / "lists" / "spam"
    lists.mkdir(parents=True)
    (lists / "domains").write_text("lucky-casino.example\n")
    chosen = recipe("keep-all", "extract.timeout=1", f"labels.url.lists=[{lists.parent}]")
    run([crawl / "crawl-00.warc.gz"], tmp_path / "run", chosen)
    (lists / "domains").write_text("lucky-casino.example\ngarden.example\n")
    with pytest.raises(DirectoryConflict, match="resources"):
        run([crawl / "crawl-00.warc.gz"], tmp_path / "run", chosen)
    relabel(Folder(tmp_path / "run"), ["url_labels"], chosen, ALONE, QUIET)
    key = next(iter(Run(Folder(tmp_path / "run")).documents))
    listed = Run(Folder(tmp_path / "run")).table(key, ["url_labels.domain", "url_labels.domain_listed"]).to_pylist()
    assert {row["url_labels.domain_listed"] for row in listed if row["url_labels.domain"] == "garden.example"} == {
        "spam"
    }


def test_lists_of_the_same_name_are_told_apart(tmp_path):
    for place, word in [("a", "one"), ("b", "two")]:
        (tmp_path / place).mkdir()
        (tmp_path / place / "words.txt").write_text(word)
    lists = [str(tmp_path / "a" / "words.txt"), str(tmp_path / "b" / "words.txt")]
    options = recipe("keep-all", f"labels.sensitive.lists={lists}").labels
    before = resources(options)
    (tmp_path / "a" / "words.txt").write_text("three")
    assert resources(options) != before


def test_a_file_that_is_lost_is_made_again(copied, finished, crawl, demo_recipe):
    next((copied / "documents").iterdir()).unlink()
    (next((copied / "corpus").iterdir())).write_bytes(b"cut")
    run([crawl], copied, demo_recipe)
    assert results(copied) == results(finished)


def test_a_run_that_is_not_finished_says_so_when_it_is_judged(copied, demo_recipe):
    next((copied / "ledger" / "read").iterdir()).unlink()
    outcome = decide(Folder(copied), "demo", demo_recipe, ALONE, QUIET)
    assert "1 units of the input are not read" in outcome.failed["read"]
    assert outcome.stats["missing_units"] == 1


def test_a_page_whose_labels_raise_costs_no_other_page(crawl, tmp_path, demo_recipe, monkeypatch):
    """No text is known that makes a label raise; so one label is broken here for texts with a certain word."""
    from tilth.curate import label

    whole = label.length

    def length(document):
        if "compost" in document.text:
            raise ValueError("broken")
        return whole(document)

    monkeypatch.setattr(label, "length", length)
    outcome = run([crawl / "crawl-00.warc.gz"], tmp_path / "run", recipe("demo", "extract.timeout=1"))
    assert not outcome.failed
    reasons = Counter(f"{row['stage']}:{row['reason']}" for row in rows(tmp_path / "run", "failures"))
    assert reasons["label:error"] > 0
    assert outcome.stats["totals"]["documents"] > 0


def test_the_copy_that_stands_for_the_others_is_kept_where_any_of_them_would_be(tmp_path):
    """Copies that differ in their line breaks are judged differently; one that passes stands for those that do not."""
    sentence = "The soil of the garden is dark and loose, and the worms that live in it have all they need to be well."
    folder = tmp_path / "in"
    folder.mkdir()
    texts = [" ".join([sentence] * 3), "\n".join(sentence.split() * 3)]
    (folder / "rows.jsonl").write_text("".join(orjson.dumps({"text": text}).decode() + "\n" for text in texts * 4))
    chosen = recipe("keep-all", 'rules={copy: {label: dup.copy_of, in: [""]}, lines: {label: length.lines, max: 5}}')
    assert run([folder], tmp_path / "run", chosen).stats["totals"]["kept"] == 1


def test_starting_over_minds_what_it_empties(copied, crawl, finished, demo_recipe, tmp_path):
    with pytest.raises(InputError):
        curate([str(tmp_path / "typo")], Folder(copied), "demo", demo_recipe, ALONE, QUIET, fresh=True)
    assert results(copied) == results(finished)
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "run.json").write_text('{"mine": true}')
    with pytest.raises(DirectoryConflict):
        curate([str(crawl)], Folder(foreign), "demo", demo_recipe, ALONE, QUIET, fresh=True)
    assert (foreign / "run.json").read_text() == '{"mine": true}'
    curate([str(crawl / "crawl-00.warc.gz")], Folder(copied), "demo", demo_recipe, ALONE, QUIET, fresh=True)
    assert stats(copied)["totals"]["records"] < stats(finished)["totals"]["records"]


def test_the_output_is_no_input_when_it_stands_inside_it(crawl, tmp_path, demo_recipe):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(crawl / "crawl-05.warc.wet.gz", folder)
    first = run([folder], folder / "run", demo_recipe)
    again = run([folder], folder / "run", demo_recipe)
    assert first.stats == again.stats
    assert first.stats["totals"]["records"] > 0


def test_a_refused_folder_is_left_as_it_was(crawl, tmp_path, demo_recipe):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DirectoryConflict):
        run([crawl], tmp_path, demo_recipe)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_labels_are_added_to_whole_runs_only(copied):
    next((copied / "ledger" / "read").iterdir()).unlink()
    with pytest.raises(UsageError, match="first finish"):
        relabel(Folder(copied), ["gopher"], recipe(), ALONE, QUIET)


def test_the_report_says_when_units_are_missing(copied, demo_recipe):
    assert "not the whole" not in (copied / "report.html").read_text()
    next((copied / "ledger" / "read").iterdir()).unlink()
    decide(Folder(copied), "demo", demo_recipe, ALONE, QUIET)
    assert "not the whole" in (copied / "report.html").read_text()


def test_of_equal_texts_the_earliest_of_those_that_pass_stays(finished):
    kept = {row["id"] for row in rows(finished, "corpus", ["id"])}
    when = {row["id"]: row["timestamp"] for row in rows(finished, "documents", ["id", "timestamp"])}
    dropped = [row for row in rows(finished, "decisions") if row["rule"] == "exact-duplicate"]
    passing = [row for row in dropped if not set(row["also"]) - {"near-duplicate"}]
    assert len(passing) > 5
    assert all(row["value"] in kept for row in passing)
    assert all((when[row["value"]], row["value"]) < (when[row["id"]], row["id"]) for row in passing)


def test_a_damaged_file_of_the_run_is_named(copied, demo_recipe):
    file = max((copied / "documents").iterdir(), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 2000] = bytes(2000)
    file.write_bytes(content)
    with pytest.raises(StorageError, match=file.name):
        Run(Folder(copied)).table(file.stem, ["text", *FAMILIES])


def test_no_good_page_of_the_demo_is_dropped_for_its_language(finished, crawl, tmp_path):
    """A recipe that drops all of a language's good pages speaks of the wrong language."""
    good = {entry.url: entry.language for entry in write_crawl(tmp_path / "again").entries if entry.kind == "good"}
    kept = Counter(good[row["url"]] for row in rows(finished, "corpus", ["url"]) if row["url"] in good)
    assert set(good.values()) == set(kept)
    assert kept.total() > 0.95 * sum(url is not None for url in good)


def test_why_tells_a_dropped_document_a_kept_one_and_a_failure(finished):
    decisions = rows(finished, "decisions")
    dropped = next(row for row in decisions if not row["kept"])
    story = stories(Run(Folder(finished)), dropped["id"])[0]
    assert (story["fate"], story["rule"], story["value"]) == ("dropped", dropped["rule"], dropped["value"])
    assert dropped["rule"] in told(story)
    kept = next(row for row in decisions if row["kept"])
    story = stories(Run(Folder(finished)), kept["id"][:12])[0]
    assert story["fate"] == "kept"
    assert all(rule["passes"] is not False for rule in story["rules"])
    failure = next(row for row in rows(finished, "failures") if row["url"])
    assert failure["reason"] in told(stories(Run(Folder(finished)), failure["url"])[0])
    with pytest.raises(InputError, match="no document"):
        stories(Run(Folder(finished)), "http://nowhere.example/")


def test_a_gate_leaves_a_row_in_failures(crawl, tmp_path):
    chosen = recipe("keep-all", "extract.timeout=1", "gates={long: {label: length.words, min: 100000}}")
    run([crawl], tmp_path / "run", chosen)
    totals = stats(tmp_path / "run")["totals"]
    assert totals["documents"] == 0
    assert "long" in {row["reason"] for row in rows(tmp_path / "run", "failures")}


@pytest.mark.parametrize("where", ["memory", "s3"])
def test_a_run_lives_in_memory_or_in_a_bucket_as_well(crawl, tmp_path, where, request):
    one = [str(crawl / "crawl-00.warc.gz")]
    folder = Folder("memory://curation/run" if where == "memory" else f"{request.getfixturevalue('s3')}/run")
    chosen = recipe("keep-all", "extract.timeout=1")
    first = curate(one, folder, "keep-all", chosen, ALONE, QUIET).stats
    again = curate(one, folder, "keep-all", chosen, ALONE, QUIET).stats
    assert first == again
    local = curate(one, Folder(tmp_path / "run"), "keep-all", chosen, ALONE, QUIET).stats
    assert first == local
    assert folder.read("report.html") == (tmp_path / "run" / "report.html").read_bytes()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rules.x={label: gopher.wrods, min: 1}", r"no label gopher\.wrods; did you mean gopher\.words\?"),
        ("rules.x={label: gopher.words}", "one of min, max, in, not_in"),
        ("gates.x={label: gopher.words, min: 1}", "not known that early"),
        ("clean=[c4-polici]", r"no line rule c4-polici; did you mean c4-policy\?"),
        ("rules.x={label: lang.code, min: 0.5}", "min and max are for numbers"),
        ("rules.x={label: length.words, min: .inf}", "finite"),
        ("rules.x={label: length.words, min: 2, max: 1}", "nothing would be left"),
        ("rules.x={label: lang.code, in: []}", "nothing would be left"),
        ("rules.language.in=zh", r"expected a list, for instance \[zh\]"),
        ("extract.timeout=soon", r"extract\.timeout"),
        ("labels.gopher.variant=goffer", r"labels\.gopher\.variant"),
        ("extracct.timeout=1", "did you mean extract"),
    ],
)
def test_a_recipe_with_a_mistake_is_refused_in_one_line(setting, message):
    with pytest.raises(RecipeError, match=message) as told_error:
        recipe("demo", setting)
    assert "\n" not in str(told_error.value)


def test_a_model_that_is_none_is_told_before_anything_is_written(crawl, tmp_path):
    fake = tmp_path / "lid.bin"
    fake.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"lid\.bin"):
        run([crawl], tmp_path / "run", recipe("demo", f"labels.language.model={fake}"))
    assert not (tmp_path / "run").exists()


def test_an_input_without_any_document_ends_as_an_empty_run(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "blank.html").write_text("<html><body></body></html>")
    outcome = run([tmp_path / "in"], tmp_path / "run", recipe())
    assert outcome.stats["totals"]["documents"] == 0
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.realdata
@pytest.mark.slow
def test_no_page_of_the_real_crawl_is_lost(ray, data, tmp_path):
    run([data / "crawl"], tmp_path / "run", recipe("fineweb", "read.unit_bytes=2000000"), WorkOptions(workers=2))
    totals = stats(tmp_path / "run")["totals"]
    assert totals["records"] == 859
    assert totals["documents"] >= 840
    reasons = {row["reason"] for row in rows(tmp_path / "run", "failures")}
    assert reasons == {"empty"}


@pytest.mark.parametrize("name", ["fineweb", "refinedweb", "gopher", "c4", "keep-all", "demo"])
def test_every_shipped_recipe_judges_the_demo(copied, name):
    chosen = recipe(name)
    own = Run(Folder(copied)).recipe
    changed = {part: getattr(chosen, part) for part in ("dedup", "rules", "clean", "corpus")}
    merged = own.model_copy(update=changed)
    totals = decide(Folder(copied), name, merged, ALONE, QUIET).stats["totals"]
    assert 0 < totals["kept"] <= totals["documents"]
    assert (totals["kept"] == totals["documents"]) == (name == "keep-all")
