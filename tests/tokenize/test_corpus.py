"""The text that tokenizers see: what is read of curation runs, rows and plain text, how it is labelled and mixed."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tilth.curate import read
from tilth.curate.demo import write_crawl
from tilth.curate.pipeline import curate
from tilth.curate.read import ReadOptions
from tilth.curate.recipe import PACKAGE, CurateRecipe
from tilth.errors import DirectoryConflict, InputError
from tilth.progress import Progress
from tilth.recipe import load_recipe
from tilth.storage import Folder
from tilth.tokenize.corpus import FILE, Mixture, at_most, batches, beginnings, fingerprint, plan
from tilth.work import WorkOptions

SENTENCE = "Turn the compost twice, and keep it damp.\n"
CHINESE = "土壤里有许多虫子，它们把落叶变成肥料。\n"


def documents(inputs: list[Path], label: str | None = None, **read) -> list[tuple[str, str, str]]:
    """(id, text, label) of each document."""
    units = plan([str(place) for place in inputs], ReadOptions(**read), label)
    found = [batch for unit in units for batch in batches(unit.payload, label)]
    return [row for batch in found for row in zip(batch.ids, batch.texts, batch.labels, strict=True)]


def texts(inputs: list[Path], **read) -> list[str]:
    return [text for _, text, _ in documents(inputs, **read)]


def skipped(inputs: list[Path], **read) -> Counter[str]:
    units, found = plan([str(place) for place in inputs], ReadOptions(**read), None), Counter()
    for unit in units:
        for batch in batches(unit.payload):
            found.update(batch.skipped)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished curation run."""
    crawl = tmp_path_factory.mktemp("corpus") / "crawl"
    write_crawl(crawl)
    folder = Folder(crawl.parent / "run")
    recipe = load_recipe(CurateRecipe, "demo", PACKAGE, ["corpus.shard_bytes=30000"])
    outcome = curate([str(crawl)], folder, "demo", recipe, WorkOptions(in_process=True), Progress(quiet=True))
    assert not outcome.failed
    return Path(folder.url)


def test_a_curation_run_stands_for_its_corpus_and_keeps_its_ids(run):
    own = ds.dataset(run / "corpus", format="parquet").to_table(columns=["id", "text", "lang"]).to_pylist()
    found = documents([run], "lang.code", text_field="never asked of a run")
    assert sorted(found) == sorted((row["id"], row["text"], row["lang"]["code"]) for row in own)
    assert len({label for *_, label in found}) > 1


def test_runs_and_other_inputs_stand_beside_each_other(run, tmp_path):
    file = tmp_path / "more.jsonl"
    file.write_text(json.dumps({"content": SENTENCE}) + "\n")
    both = texts([run, file], text_field="content")
    assert sorted(both) == sorted([*texts([run]), SENTENCE])


def test_a_run_without_a_whole_corpus_is_refused(run, tmp_path):
    half = tmp_path / "half"
    (half / "ledger" / "corpus").mkdir(parents=True)
    (half / "run.json").write_bytes((run / "run.json").read_bytes())
    with pytest.raises(DirectoryConflict, match="not written yet; finish `tilth curate run` first"):
        plan([str(half)], ReadOptions(), None)
    shards = sorted((run / "ledger" / "corpus").iterdir())
    assert len(shards) > 1
    for shard in shards[1:]:
        (half / "ledger" / "corpus" / shard.name).write_bytes(shard.read_bytes())
    with pytest.raises(DirectoryConflict, match="not written yet"):
        plan([str(half)], ReadOptions(), None)


def test_rows_of_jsonl_and_parquet_are_documents_with_ids_of_their_own(tmp_path):
    rows = [{"text": SENTENCE, "lang": "en"}, {"text": CHINESE, "lang": "zh"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    first, second = (documents([tmp_path / name], "lang") for name in ("a.jsonl", "b.parquet"))
    assert [row[1:] for row in first] == [row[1:] for row in second] == [(SENTENCE, "en"), (CHINESE, "zh")]
    assert len({row[0] for row in first + second}) == 4
    assert documents([tmp_path / "a.jsonl"], "lang") == first


def test_rows_without_text_are_counted_with_their_reason(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{json.dumps({"text": SENTENCE})}\n{{"text": 5}}\n{{"other": "x"}}\n{{"text": \n')
    assert texts([file]) == [SENTENCE]
    reasons = skipped([file])
    assert reasons["no_text"] == 2
    assert sum(reasons.values()) == 3


def test_plain_text_is_a_document_a_file(tmp_path):
    (tmp_path / "a.txt").write_text(SENTENCE * 3)
    (tmp_path / "b.txt").write_text(CHINESE)
    with gzip.open(tmp_path / "c.txt.gz", "wt") as file:
        file.write(SENTENCE)
    assert texts([tmp_path]) == [SENTENCE * 3, CHINESE, SENTENCE]


def test_a_long_text_is_cut_at_line_ends(tmp_path):
    (tmp_path / "a.txt").write_text(SENTENCE * 100)
    parts = texts([tmp_path / "a.txt"], max_record_bytes=1000)
    assert "".join(parts) == SENTENCE * 100
    assert max(map(len, parts)) <= 1000
    assert min(map(len, parts[:-1])) > 1000 - 2 * len(SENTENCE)


def test_lines_may_be_documents(tmp_path):
    (tmp_path / "a.txt").write_bytes(f"{SENTENCE}\n{CHINESE}  \nwithout an end".encode())
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write(SENTENCE * 2)
    lines = [SENTENCE[:-1], CHINESE[:-1], "without an end", *[SENTENCE[:-1]] * 2]
    assert texts([tmp_path], kind="lines") == lines
    assert texts([tmp_path], kind="lines", unit_bytes=7) == lines


def test_gbk_files_are_decoded_and_lines_that_are_no_utf8_counted(tmp_path):
    (tmp_path / "gbk.txt").write_bytes((CHINESE * 20).encode("gbk"))
    assert texts([tmp_path / "gbk.txt"]) == [CHINESE * 20]
    (tmp_path / "lines.txt").write_bytes(SENTENCE.encode() + b"caf\xe9\n\xff\xfe\n" + CHINESE.encode())
    assert texts([tmp_path / "lines.txt"], kind="lines") == [SENTENCE[:-1], CHINESE[:-1]]
    assert skipped([tmp_path / "lines.txt"], kind="lines") == {"not_utf8": 2}


def test_plain_text_beside_pages_is_still_no_input_of_curation(tmp_path):
    (tmp_path / "robots.txt").write_text("User-agent: *\n")
    (tmp_path / "page.html").write_text("<html><body><p>Soil.</p></body></html>")
    planned = read.plan([str(tmp_path)], ReadOptions())
    assert [Path(unit.path).name for unit in planned.units] == ["page.html"]
    assert [Path(path).name for path in planned.passed_over] == ["robots.txt"]
    assert len(plan([str(tmp_path)], ReadOptions(), None)) == 2


def test_the_name_of_the_file_may_be_the_label(tmp_path):
    for name in ("en.part-1.txt", "zh.txt.gz", "de.jsonl"):
        opened = gzip.open if name.endswith("gz") else open
        with opened(tmp_path / name, "wt") as file:
            file.write(json.dumps({"text": "Erde"}) + "\n" if name == "de.jsonl" else SENTENCE)
    assert [row[2] for row in documents([tmp_path], FILE)] == ["de", "en.part-1", "zh"]


def test_documents_without_the_label_have_an_empty_one(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "soil"}\n{"text": "soil", "lang": null}\n{"text": "soil", "lang": 5}\n')
    assert {row[2] for row in documents([tmp_path / "a.jsonl"], "lang")} <= {"", "5"}
    assert [row[2] for row in documents([tmp_path / "a.jsonl"])] == ["", "", ""]


def test_what_stands_in_the_output_is_no_input(tmp_path):
    (tmp_path / "a.txt").write_text(SENTENCE)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "vocab.txt").write_text("[UNK]\n")
    assert [unit.payload.unit.name for unit in plan([str(tmp_path)], ReadOptions(), None, str(tmp_path / "out"))] == [
        f"{tmp_path.name}/a.txt"
    ]


@pytest.mark.parametrize("place", ["", "  ", "missing", "missing/*.txt"])
def test_inputs_that_are_not_there_are_told(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"is empty|no such file|matches no file"):
        plan([place], ReadOptions(), None)


def test_the_fingerprint_tells_other_inputs(tmp_path):
    def of(**read) -> str:
        return fingerprint(plan([str(tmp_path)], ReadOptions(**read), None))

    (tmp_path / "a.txt").write_text(SENTENCE * 50)
    first = of()
    assert of() == first
    (tmp_path / "b.txt").write_text(SENTENCE)
    second = of()
    assert len({first, second, of(kind="lines", unit_bytes=500)}) == 3
    (tmp_path / "b.txt").write_text(SENTENCE * 2)
    assert of() not in (first, second)


def test_a_beginning_ends_with_a_line(tmp_path):
    assert at_most(["one\ntwo\nthree", "four"], 5) == ["one\ntwo\n"]
    assert at_most(["one\ntwo", "four"], 5) == ["one\ntwo"]
    assert at_most(["one", "two", "three"], 4) == ["one", "two"]
    assert at_most(["one"], 0) == []


def test_beginnings_are_shares_of_all_units(tmp_path):
    for name, number in (("a", 100), ("b", 300)):
        (tmp_path / f"{name}.txt").write_text(f"{name * 9}\n" * number)
    units = plan([str(tmp_path)], ReadOptions(), None)
    taken = "".join(text for some in beginnings(units, 400) for text in some)
    assert (taken.count("a" * 9), taken.count("b" * 9)) == (10, 30)
    assert "".join(text for some in beginnings(units, 10**9) for text in some).count("\n") == 400


AMOUNTS = {"en": 6000, "zh": 3000, "de": 900, "fr": 100}


def shares(mixture: Mixture, amounts: dict[str, int]) -> dict[str, float]:
    """Share of each label after the mixture; all of them together are as much as before."""
    factors = mixture.factors(amounts)
    assert list(factors) == sorted(amounts)
    weighted = {name: factors[name] * amount for name, amount in amounts.items()}
    assert sum(weighted.values()) == pytest.approx(sum(amounts.values()))
    return {name: amount / sum(amounts.values()) for name, amount in weighted.items()}


def test_shares_are_as_asked_whatever_their_scale():
    for scale in (1, 0.01, 7):
        asked = {"en": 1 * scale, "zh": 2 * scale, "de": 1 * scale, "fr": 0}
        found = shares(Mixture(by="lang", weights=asked), AMOUNTS)
        assert found == pytest.approx({"en": 0.25, "zh": 0.5, "de": 0.25, "fr": 0})


def test_all_others_share_what_the_star_has_by_their_amounts():
    found = shares(Mixture(by="lang", weights={"en": 3, "*": 1}), AMOUNTS)
    assert found == pytest.approx({"en": 0.75, "zh": 0.25 * 0.75, "de": 0.25 * 0.225, "fr": 0.25 * 0.025})
    found = shares(Mixture(by="lang", weights={"en": 3, "zh": 1}), AMOUNTS)
    assert found == pytest.approx({"en": 0.75, "zh": 0.25, "de": 0, "fr": 0})
    found = shares(Mixture(by="lang", weights={"en": 3, "zh": 1, "*": 4}), {"en": 50, "zh": 50})
    assert found == pytest.approx({"en": 0.75, "zh": 0.25})
    found = shares(Mixture(by="lang", weights={"en": 1, "*": 1}), {"en": 50, "*": 30, "zh": 20})
    assert found == pytest.approx({"en": 0.5, "*": 0.3, "zh": 0.2})


def test_without_weights_everything_stays_as_it_comes():
    assert Mixture(by="lang").factors(AMOUNTS) == dict.fromkeys(AMOUNTS, 1.0)
    assert Mixture(by="lang").factors({}) == {}


def test_a_weight_of_what_is_not_there_is_refused():
    with pytest.raises(InputError, match="no document has lang ru; there are de, en, fr, zh"):
        Mixture(by="lang", weights={"en": 1, "ru": 1}).factors(AMOUNTS)


def test_weights_that_leave_nothing_are_refused():
    with pytest.raises(InputError, match="nothing is left"):
        Mixture(by="lang", weights={"en": 0, "*": 1}).factors({"en": 5})
    for weights in ({"en": -1.0}, {"en": 0.0}, {"en": float("nan")}, {"en": float("inf")}):
        with pytest.raises(ValidationError):
            Mixture(by="lang", weights=weights)


@given(
    weights=st.dictionaries(st.sampled_from(["a", "b", "c", "*"]), st.floats(0.01, 100), min_size=1),
    amounts=st.fixed_dictionaries({name: st.integers(1, 10**12) for name in "abcde"}),
)
def test_any_mixture_keeps_the_total_and_the_ratios(weights, amounts):
    found = shares(Mixture(by="x", weights=weights), amounts)
    named = {name: weight for name, weight in weights.items() if name != "*"}
    whole = sum(weights.values())
    for name, weight in named.items():
        assert found[name] == pytest.approx(weight / whole)
    rest = sum(share for name, share in found.items() if name not in named)
    assert rest == pytest.approx(weights.get("*", 0) / whole)


def test_a_file_is_no_plain_text_where_its_first_bytes_tell_what_it_is(tmp_path):
    (tmp_path / "old.txt").write_text("filedesc://old.arc 0.0.0.0 20010101000000 text/plain 9\n1 0 test\n\n")
    with pytest.raises(InputError, match="ARC is not read"):
        plan([str(tmp_path / "old.txt")], ReadOptions(), None)
