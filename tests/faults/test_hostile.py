"""A crawl of hostile files: every record is accounted for, in bounded time, and what is written is sound."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile.pages import MB, SENTENCE, hostile_pages, records_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import rows, stats
from warcs import response

from tilth.curate.documents import ReadWorker
from tilth.curate.pipeline import curate
from tilth.curate.read import InputUnit
from tilth.curate.read.unit import InputFile
from tilth.curate.recipe import PACKAGE, CurateRecipe
from tilth.ledger import Ledger
from tilth.progress import Progress
from tilth.recipe import load_recipe
from tilth.storage import Folder
from tilth.work import Outbox, WorkOptions

TIMEOUT = 3.0
SETTINGS = (
    f"extract.timeout={TIMEOUT}",
    f"extract.memory={768 * 2**20}",
    f"read.max_record_bytes={12 * MB}",
    "read.unit_bytes=100000",
    "read.html_field=html",
    "read.timestamp_field=seen",
    "read.title_field=title",
)
RECIPE = load_recipe(CurateRecipe, "keep-all", PACKAGE, SETTINGS)
ALONE = WorkOptions(in_process=True)

pytestmark = pytest.mark.slow


def extracting() -> list[psutil.Process]:
    """The processes below this one that extract."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any("extract_child" in word for word in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> tuple[Path, int]:
    """The hostile files and the number of their records."""
    folder = tmp_path_factory.mktemp("hostile")
    pages = hostile_pages()
    for name, data in pages.items():
        (folder / name).write_bytes(data)
    return folder, sum(records_in(name, data) for name, data in pages.items())


@pytest.fixture(scope="module")
def finished(hostile) -> Path:
    crawl, _ = hostile
    run = crawl.parent / "run-of-hostile"
    before = extracting()
    outcome = curate([str(crawl)], Folder(run), "keep-all", RECIPE, ALONE, Progress(quiet=True))
    assert outcome.failed == {}
    assert extracting() == before
    return run


def test_records_read_are_failures_and_documents_exactly(hostile, finished):
    documents, failures = rows(finished, "documents", ["id", "path"]), rows(finished, "failures", ["id", "path"])
    totals = stats(finished)["totals"]
    assert totals["records"] == len(documents) + len(failures) == hostile[1]
    assert (totals["documents"], totals["failures"]) == (len(documents), len(failures))
    assert {Path(row["path"]).name for row in documents + failures} == {file.name for file in hostile[0].iterdir()}
    assert len({row["id"] for row in documents + failures}) == hostile[1]


def test_what_can_be_read_of_hostile_pages_is_read(finished):
    """The guards do not pass for a solution: most of these pages have text, and it is found."""
    read = {Path(row["path"]).stem: row["text"] for row in rows(finished, "documents", ["path", "text"])}
    for name in (
        "never-closed", "wrongly-nested", "comments", "cdata", "scripts", "entities", "colspan-beyond-all-tables",
        "one-attribute-of-a-megabyte", "billion-laughs", "nul-bytes", "surrogates-as-cesu-8", "surrogates-in-utf-16",
        "utf-16-le", "utf-16-be-with-mark", "utf-32-le-with-mark", "utf-32-be-with-mark", "charset-klingon",
        "charset-base64", "gzip",
    ):  # fmt: skip
        assert "The gardener turned the heavy" in read[name], name
    assert "\U0001f600" in read["surrogates-as-cesu-8"]


def test_every_text_is_valid_unicode_without_nul_and_every_label_is_finite(finished):
    for output in ("documents", "failures", "decisions", "corpus"):
        for file in sorted((finished / output).rglob("*.parquet")):
            check(pq.read_table(file))


def check(table: pa.Table) -> None:
    table.validate(full=True)  # UTF-8 among all else
    for row in table.to_pylist():
        for value in values_in(row):
            assert not isinstance(value, str) or "\0" not in value, row
            assert not isinstance(value, float) or math.isfinite(value), row


def values_in(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from values_in(inner)
    else:
        yield value


def test_the_corpus_holds_every_document_and_the_report_can_be_read(finished):
    corpus = rows(finished, "corpus", ["id"])
    assert [row["id"] for row in corpus] == sorted(row["id"] for row in rows(finished, "documents", ["id"]))
    report = (finished / "report.html").read_bytes().decode()
    assert "\0" not in report
    assert report.rstrip().endswith("</html>")
    for name in ("stats.json", "run.json"):
        json.loads((finished / name).read_bytes().decode())


def test_no_page_takes_longer_than_its_limit(finished):
    for key, done in Ledger(Folder(finished), "read").records().items():
        records = done["counts"].get("records", 0)
        assert done["seconds"] < max(records, 1) * (TIMEOUT + 5), key


def test_a_unit_cut_short_takes_its_extraction_process_with_it(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "slow.html").write_text("<html><body>" + "<p>paragraph without an end " * 150_000)
    before = extracting()
    work = WorkOptions(in_process=True, unit_timeout=1.5, attempts=1)
    recipe = load_recipe(CurateRecipe, "keep-all", PACKAGE, ["extract.timeout=30"])
    outcome = curate([str(tmp_path / "in")], Folder(tmp_path / "run"), "keep-all", recipe, work, Progress(quiet=True))
    assert "took longer than 1.5 s" in "".join(outcome.failed.values())
    assert extracting() == before


def test_file_names_that_are_not_utf8_cost_no_page(tmp_path):
    page = f"<html><body><p>{SENTENCE * 3}</p></body></html>"
    for name in (b"a\xff.html", b"a\xfe.html", b"line\nbreak.html", b"\x1b[31m.html", "\u202e.html".encode()):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text(page)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/not-read-\xff.png")).write_bytes(b"\x89PNG\r\n\x1a\n\0")
    folder = Folder(tmp_path / "run")
    outcome = curate([str(tmp_path)], folder, "keep-all", RECIPE, ALONE, Progress(folder, quiet=True))
    assert outcome.failed == {}
    assert len({row["id"] for row in rows(tmp_path / "run", "documents", ["id"])}) == 5


@pytest.fixture(scope="module")
def worker() -> Iterator[ReadWorker]:
    one = ReadWorker(RECIPE)
    yield one
    one.close()


ANY_TEXT = st.text(st.characters(codec=None), max_size=40)
SOUP = st.sampled_from(
    ["<p>", "</p>", "<div>", "<table><tr><td>", "<!--", "-->", "<![CDATA[", "]]>", "<script>", "</script>", "<title>",
     "<!doctype", "<?xml", "?>", "<html", "<body>", "<meta/charset=", "utf-16", "gbk", "&#xD800;", "&#0;", "&lt;", ">",
     "<", '"', "'", "=", "/", "\0", "\ufeff", "\u202e", "字", "。", "{", "}", " ", "\n", SENTENCE,
     '<meta charset="shift_jis">', '<html xmlns="http://www.w3.org/1999/xhtml">']
)  # fmt: skip
CODECS = st.sampled_from(["utf-8", "utf-16", "utf-16-le", "utf-32", "utf-7", "gb18030", "iso2022_jp", "latin-1"])
BODIES = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda pieces, codec: "".join(pieces).encode(codec, "replace"), st.lists(st.one_of(SOUP, ANY_TEXT)), CODECS
    ),
    st.builds(lambda pieces: b"".join(pieces), st.lists(st.one_of(st.binary(max_size=30), SOUP.map(str.encode)))),
)
FIELD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), ANY_TEXT, st.lists(ANY_TEXT, max_size=2),
    st.lists(SOUP, max_size=20).map("".join), st.dates().map(str), st.datetimes().map(str),
)  # fmt: skip
ROWS = st.fixed_dictionaries({}, optional=dict.fromkeys(("html", "url", "seen", "title"), FIELD))
HEADER = ANY_TEXT.map(lambda text: text.replace("\n", " ").encode("utf-8", "replace").decode())


def read_one(worker: ReadWorker, folder: Path, kind: Any, data: bytes) -> None:
    """Reads a file of one record, and sees that it ends as one row of one of the two outputs."""
    file = folder / "one"
    file.write_bytes(data)
    size = len(data)
    files = (InputFile("one", str(file), size, kind),) if kind == "html" else ()
    outbox = Outbox("key", folder)
    counts = worker(InputUnit("key", "one", str(file), kind, 0, max(size, 1), size, files), outbox)
    documents, failures = (pq.read_table(folder / f"{output}-key.parquet") for output in ("documents", "failures"))
    assert counts["records"] == len(documents) + len(failures) == 1
    assert counts["documents"] == len(documents)
    check(documents)
    check(failures)


QUICK = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@QUICK
@given(data=BODIES)
def test_any_bytes_are_one_document_or_one_failure(worker, tmp_path, data):
    read_one(worker, tmp_path, "html", data)


@QUICK
@given(row=ROWS)
def test_any_row_is_one_document_or_one_failure(worker, tmp_path, row):
    read_one(worker, tmp_path, "jsonl", json.dumps(row).encode())


@QUICK
@given(url=HEADER, date=HEADER, content_type=HEADER, body=BODIES)
def test_any_response_is_one_document_or_one_failure(worker, tmp_path, url, date, content_type, body):
    one = response(url, body, Content_Type=content_type)
    read_one(worker, tmp_path, "warc", one)
