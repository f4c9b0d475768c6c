"""Extraction: the text and what the page states, and that no page can harm another."""

import os
import signal
import subprocess
import sys
import threading
import time
import unicodedata
from datetime import date

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tilth.curate.extract import Extracted, ExtractFailure, ExtractOptions, Extractor, extract_page
from tilth.errors import TilthError

SENTENCE = "The gardener turned the heavy soil before the first frost came over the hills. "
PAGE = f"""<!DOCTYPE html><html lang="en-GB"><head>
<title>Turning the soil – Allotment News</title>
<meta property="og:site_name" content="Allotment News">
<meta name="description" content="When to dig, and why.">
<meta name="keywords" content="soil, digging">
<script type="application/ld+json">{{"@context": "https://schema.org", "@type": "NewsArticle",
 "headline": "Turning the soil", "datePublished": "2021-10-03T08:00:00Z", "articleSection": "Autumn",
 "author": {{"@type": "Person", "name": "Ada Digby"}}}}</script></head>
<body><nav><a href="/">Home</a> <a href="/all">All articles</a></nav>
<article><h1>Turning the soil</h1><p>{SENTENCE * 4}</p><p>{SENTENCE * 3}</p></article>
<footer><a rel="license" href="https://creativecommons.org/licenses/by-sa/4.0/">CC BY-SA 4.0</a></footer>
</body></html>"""
CHINESE = f"""<html lang="zh"><head><title>种菜</title></head>
<body><article><p>{"秋天的时候，农夫翻动沉重的土壤。" * 20}</p></article></body></html>"""
HEAD = f"<html><body><p>{SENTENCE * 5}</p>"
SLOW = HEAD + "<p>paragraph without an end " * 150_000

HOSTILE = {
    "ten megabytes of nested divs": HEAD + "<div>" * 1_900_000,
    "no closing tags": HEAD + "<table><tr><td><ul><li><b><i>" * 3000,
    "NUL bytes and lone surrogates": HEAD.replace(" ", "\0", 3) + "<p>\ud800 \udfff" + SENTENCE * 3,
    "billion laughs": '<!DOCTYPE l [<!ENTITY a "lol">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + f"]><html><body><p>&i;</p><p>{SENTENCE * 5}</p></body></html>",
    "a line of 200,000 columns": HEAD + f"<p>{'column ' * 28_572}</p>",
    "one word of two megabytes": HEAD + "x" * 2_000_000,
    "an absurd colspan": HEAD + "<table><tr><td colspan=9000000000000000>a<td rowspan='99999999'>b<tr><td>c</table>",
    "ten thousand wide cells": HEAD + "<table>" + ("<tr>" + "<td colspan=1000>a" * 100) * 100,
    "300,000 elements": HEAD + "text<br>" * 300_000,
    "100,000 attributes": HEAD + "<p " + " ".join(f"a{i}=v" for i in range(60_000)) + ">text</p>",
    "right to left and zero width": HEAD + "<p>\u202eمرحبا بالعالم\u202c \u200b\u200d\ufeff</p>" * 50,
    "JSON-LD of the wrong shape": '<html><head><script type="application/ld+json">{"@context":"https://schema.org",'
    '"@type":["NewsArticle"],"headline":["a \\ud83d"],"author":[{"name":{"x":[1]}},7,null],"articleSection":{"a":2}}'
    f"</script></head>{HEAD[6:]}",
    "not HTML": "%PDF-1.4 \x01\x02\x03",
    "nothing": "",
}


@pytest.fixture(scope="module")
def extractor():
    with Extractor(ExtractOptions(timeout=2)) as extractor:
        yield extractor


def text_of(result: Extracted | ExtractFailure) -> str:
    assert isinstance(result, Extracted), result
    return result.text


def reason_of(result: Extracted | ExtractFailure) -> str:
    assert isinstance(result, ExtractFailure), result
    return result.reason


def test_text_comes_with_what_the_page_states_of_itself(extractor):
    page = extractor(PAGE, "https://allotment.example/soil")
    assert isinstance(page, Extracted)
    assert page.text.count("The gardener turned") == 7
    assert "Home" not in page.text
    assert (page.title, page.author, page.date) == ("Turning the soil", "Ada Digby", "2021-10-03")
    assert page.metadata == {
        "sitename": "Allotment News",
        "description": "When to dig, and why.",
        "categories": "Autumn",
        "tags": "soil, digging",
        "license": "CC BY-SA 4.0",
        "pagetype": "newsarticle",
        "language": "en-GB",
    }


def test_metadata_can_be_left_out_or_hunted_for():
    blog = PAGE.replace('"author"', '"nobody"').replace("<p>", '<p class="author">By Ada Digby</p><p>', 1)
    none, head, full = (extract_page(blog, None, ExtractOptions(metadata=kind)) for kind in ("none", "head", "full"))
    assert isinstance(none, Extracted)
    assert isinstance(head, Extracted)
    assert isinstance(full, Extracted)
    assert none[1:] == (None, None, None, {})
    assert (head.author, full.author) == (None, "Ada Digby")
    assert none.text == head.text == full.text


def test_dates_after_the_crawl_are_not_believed():
    options = ExtractOptions()
    page = PAGE.replace("2021-10-03", "2031-10-03")
    assert getattr(extract_page(page, None, options), "date", "") == "2031-10-03"
    assert getattr(extract_page(page, None, options, date(2024, 5, 1)), "date", "") is None


def test_the_child_gives_what_the_pure_function_gives(extractor):
    for page in (PAGE, CHINESE, *HOSTILE.values()):
        if len(page) < 1_000_000 and "a59999=v" not in page:
            assert extractor(page, "http://x.example/") == extract_page(page, "http://x.example/", extractor.options)


def test_a_page_gives_the_same_in_any_order_and_company():
    pages = [PAGE, CHINESE, PAGE.replace("gardener", "farmer"), PAGE, HOSTILE["no closing tags"], CHINESE]
    options = ExtractOptions(metadata="full")
    with Extractor(options) as one, Extractor(options) as other:
        forward = [one(page) for page in pages]
        backward = [other(page) for page in reversed(pages)]
    assert forward == backward[::-1]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_page_ends_as_text_or_failure_and_the_next_page_is_well(extractor, name):
    begin = time.monotonic()
    result = extractor(HOSTILE[name], "http://x.example/")
    assert time.monotonic() - begin < extractor.options.timeout + 2
    if isinstance(result, Extracted):
        assert result.text
        assert not {"\0"} & set(result.text)
        assert result.text.encode().decode() == unicodedata.normalize("NFC", result.text)
    else:
        assert result.reason in {"timeout", "too_large", "empty", "not_parsed"}
    assert "farmer" in text_of(extractor(PAGE.replace("gardener", "farmer")))


def test_wide_tables_do_not_become_text_of_empty_cells():
    assert len(text_of(extract_page(HOSTILE["ten thousand wide cells"], None, ExtractOptions()))) < 100_000
    assert len(text_of(extract_page(HOSTILE["an absurd colspan"], None, ExtractOptions()))) < 1000


def test_size_limits_are_told_before_anything_is_tried():
    with Extractor(ExtractOptions(max_bytes=1000)) as extractor:
        assert reason_of(extractor(PAGE)) == "too_large"
        assert reason_of(extractor("é" * 501)) == "too_large"
    assert reason_of(extract_page(HOSTILE["300,000 elements"], None, ExtractOptions())) == "too_large"


def test_a_page_that_takes_too_long_is_a_timeout():
    with Extractor(ExtractOptions(timeout=0.5)) as extractor:
        assert text_of(extractor(CHINESE))
        begin = time.monotonic()
        assert reason_of(extractor(SLOW)) == "timeout"
        assert time.monotonic() - begin < 5
        assert text_of(extractor(CHINESE))


def test_a_page_that_eats_the_memory_is_a_memory_failure():
    with Extractor(ExtractOptions(memory=256 << 20)) as extractor:
        assert text_of(extractor(CHINESE))
        assert reason_of(extractor(SLOW)) == "memory"
        assert text_of(extractor(CHINESE))


def child_of(extractor: Extractor) -> psutil.Process:
    assert extractor._child is not None
    return psutil.Process(extractor._child.process.pid)


def test_a_process_killed_between_pages_costs_no_page(extractor):
    extractor(PAGE)
    child_of(extractor).kill()
    assert text_of(extractor(PAGE))


def test_a_page_that_crashes_a_fresh_process_is_a_crash():
    with Extractor(ExtractOptions()) as extractor:
        extractor(CHINESE)
        killed: set[int] = set()

        def kill_whoever_works_on_it() -> None:
            while len(killed) < 2:
                child = extractor._child
                if child and child.pages and child.process.pid not in killed:
                    killed.add(child.process.pid)
                    time.sleep(0.1)
                    os.kill(child.process.pid, signal.SIGSEGV)
                time.sleep(0.01)

        thread = threading.Thread(target=kill_whoever_works_on_it)
        thread.start()
        result = extractor(SLOW)
        thread.join()
        assert result == ExtractFailure("crash", "killed by SIGSEGV")
        assert text_of(extractor(CHINESE))


def test_signals_meant_for_the_parent_do_not_reach_the_child(extractor):
    extractor(PAGE)
    child = child_of(extractor)
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGTERM)
    assert text_of(extractor(PAGE))
    assert child_of(extractor) == child


def test_restarts_leave_neither_zombies_nor_open_files():
    me = psutil.Process()
    with Extractor(ExtractOptions(timeout=0.3)) as extractor:
        extractor(CHINESE)
        files = me.num_fds()
        for _ in range(2):
            extractor(SLOW)
            extractor(CHINESE)
        assert me.num_fds() == files
        child = child_of(extractor)
    assert not child.is_running()
    assert [process for process in me.children() if process.status() == psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize("busy", [False, True])
def test_the_child_ends_when_its_parent_is_killed(busy):
    program = (
        "import sys\n"
        "from tilth.curate.extract import *\n"
        "extractor = Extractor(ExtractOptions(timeout=1))\n"
        "extractor('<html><body><p>' + 'Some words stand here. ' * 20)\n"
        "print(extractor._child.process.pid, flush=True)\n"
        + ("extractor('<p>paragraph ' * 150_000)\n" if busy else "")
        + "sys.stdin.read()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.3)
    parent.kill()
    parent.communicate()
    _, alive = psutil.wait_procs([child], timeout=6)
    assert not alive


def test_a_child_that_cannot_start_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TilthError, match=r"did not start.*exit code 1"), Extractor(ExtractOptions()) as extractor:
        extractor(PAGE)


def test_resiliparse_and_plain_text_are_alternatives():
    with Extractor(ExtractOptions(extractor="resiliparse")) as extractor:
        page = extractor(PAGE)
        assert isinstance(page, Extracted)
        assert page.text.count("The gardener turned") == 7
        assert page.title == "Turning the soil"
    with Extractor(ExtractOptions(extractor="plain")) as extractor:
        assert extractor("  e\u0301 <b>\r\nb\0\ud800 ") == Extracted("é <b>\nb\ufffd\ufffd", metadata={})
        assert reason_of(extractor(" \n ")) == "empty"


def test_a_wrong_option_is_refused():
    with pytest.raises(ValidationError):
        ExtractOptions(extractor="html2text")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValidationError):
        ExtractOptions(timeuot=3)  # pyright: ignore[reportCallIssue]


FRAGMENTS = [
    "<p>",
    "<div>",
    "</div>",
    "<table><tr><td/colspan=",
    "<!--",
    "-->",
    "<![CDATA[",
    "<script>",
    "</script>",
    "&#xD800;",
    "&#0;",
    ">",
    '">',
    "<title>",
    "<h1>",
    '<meta/name="author"/content="',
    '<meta/property="og:title"/content="',
    "<html/lang=",
    "<a/href=",
    '<time/datetime="2020-',
    '<script/type="application/ld+json">',
    '{"@type":"Article","author":',
    "[",
    "]",
    "}",
    "�",
]
fragments = st.sampled_from([*FRAGMENTS, SENTENCE])


@given(
    st.lists(st.one_of(fragments, st.text(st.characters(exclude_categories=()), max_size=20)), max_size=30).map("".join)
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_string_becomes_valid_text_or_a_failure(page):
    result = extract_page(f"<html><body>{page}</body></html>", page, ExtractOptions())
    if isinstance(result, ExtractFailure):
        assert result.reason in {"empty", "not_parsed"}, result
    else:
        for value in (result.text, result.title, result.author, result.date, *result.metadata.values()):
            assert "\0" not in (value or "").encode().decode()


@pytest.mark.realdata
def test_text_of_real_pages_is_exactly_trafilaturas(data, extractor):
    import trafilatura
    from fastwarc.warc import ArchiveIterator, WarcRecordType
    from trafilatura.utils import decode_file

    warc = sorted((data / "crawl").glob("*.warc.gz"))[0]
    pages = []
    with warc.open("rb") as file:
        for number, record in enumerate(ArchiveIterator(file, record_types=WarcRecordType.response)):
            if number % 10 == 0:
                pages.append(decode_file(record.reader.read()))
    for page in pages:
        bare = trafilatura.extract(page, favor_precision=True, include_comments=False, deduplicate=False)
        assert getattr(extractor(page), "text", None) == (bare or None)
    assert len(pages) > 10
