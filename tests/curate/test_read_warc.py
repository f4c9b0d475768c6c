import gzip
import zlib
from datetime import UTC, datetime

import brotli
import pytest
import zstandard
from warcs import STORAGES, chunked, page, record, response, store, suffix

from tilth.curate.read import Failure, Page, ReadOptions, list_units, read_unit

URLS = [f"https://site.example/{number}" for number in range(12)]


def read(path, **options):
    options = ReadOptions(**options)
    return [item for unit in list_units([str(path)], options) for item in read_unit(unit, options)]


def read_records(tmp_path, *records, **options):
    (tmp_path / "a.warc.gz").write_bytes(store(records, "gzip")[0])
    return read(tmp_path / "a.warc.gz", **options)


@pytest.mark.parametrize("storage", STORAGES)
def test_every_storage_gives_every_response_once_for_any_size_of_units(tmp_path, storage):
    records = [record("warcinfo", None, b"software: x\r\n", "application/warc-fields")]
    for number, url in enumerate(URLS):
        records.append(record("request", url, b"GET / HTTP/1.1\r\n\r\n", "application/http; msgtype=request"))
        records.append(response(url, page(number, 50 + 900 * (number % 3))))
        records.append(record("metadata", url, b"seed: 1\r\n", "application/warc-fields"))
    path = tmp_path / f"crawl{suffix(storage)}"
    path.write_bytes(store(records, storage)[0])
    whole = read(path)
    assert [(item.url, item.body) for item in whole] == [
        (url, page(number, 50 + 900 * (number % 3))) for number, url in enumerate(URLS)
    ]
    assert len({item.offset for item in whole}) == len(whole)
    for unit_bytes in (1, 7, 100, 333, 1000, 5000):
        assert read(path, unit_bytes=unit_bytes) == whole


@pytest.mark.parametrize("storage", ["plain", "gzip", "zstd"])
def test_the_offset_is_where_the_record_is_stored(tmp_path, storage):
    records = [response(url, page(number)) for number, url in enumerate(URLS)]
    data, places = store(records, storage)
    path = tmp_path / f"crawl{suffix(storage)}"
    path.write_bytes(data)
    assert [item.offset for item in read(path)] == places[:-1]


def test_a_page_carries_what_the_record_declares(tmp_path):
    (item,) = read_records(tmp_path, response(URLS[0], page(0), Content_Type='Text/HTML; Charset="GBK"; x=1'))
    assert item == Page(
        "warc",
        "a.warc.gz",
        0,
        URLS[0],
        datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC),
        "text/html",
        "gbk",
        page(0),
    )


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body)[2:-4]),
        ("br", brotli.compress),
        ("zstd", zstandard.ZstdCompressor().compress),
        ("deflate, gzip", lambda body: gzip.compress(zlib.compress(body))),
        ("gzip", lambda body: gzip.compress(body[:50]) + gzip.compress(body[50:])),
        ("identity", bytes),
        ("gzip", bytes),  # undone before it was stored
        ("br", bytes),
        ("deflate", bytes),
        ("zstd", bytes),
        ("utf-8", bytes),
        ("sdch", bytes),
    ],
)
@pytest.mark.parametrize("transfer", ["chunked", "none"])
def test_chunking_and_content_codings_are_undone(tmp_path, coding, encode, transfer):
    body = page(3, 5000)
    sent = chunked(encode(body)) if transfer == "chunked" else encode(body)
    (item,) = read_records(tmp_path, response(URLS[0], sent, Content_Encoding=coding, Transfer_Encoding=transfer))
    assert item.body == body


def test_a_body_declared_chunked_that_is_not_comes_as_it_is(tmp_path):
    (item,) = read_records(tmp_path, response(URLS[0], page(1), Transfer_Encoding="chunked"))
    assert item.body == page(1)


@pytest.mark.parametrize("cut", [1, 5, 8, 60, 150])
def test_a_chunked_body_cut_short_gives_what_came(tmp_path, cut):
    (item,) = read_records(tmp_path, response(URLS[0], chunked(page(1))[:-cut], Transfer_Encoding="chunked"))
    assert page(1).startswith(item.body)
    assert len(item.body) > len(page(1)) - cut - 10


def test_a_gzip_body_cut_short_gives_what_came(tmp_path):
    sent = gzip.compress(page(1, 20000))[:-200]
    (item,) = read_records(tmp_path, response(URLS[0], sent, Content_Encoding="gzip"))
    assert page(1, 20000).startswith(item.body)
    assert len(item.body) > 1000


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (response(URLS[0], b"\x1f\x8b\x08\x00" + b"\x07" * 99, Content_Encoding="gzip"), "bad_content_coding"),
        (response(URLS[0], b"\x00\x01\x02\x03" * 50, Content_Encoding="br"), "bad_content_coding"),
        (
            response(URLS[0], chunked(page(0))[:150] + b"junk" + chunked(page(0))[150:], Transfer_Encoding="chunked"),
            "bad_chunking",
        ),
        (response(URLS[0], page(0), "404 Not Found"), "http_status"),
        (response(URLS[0], b"", "301 Moved", Location="/x"), "http_status"),
        (response(URLS[0], b""), "empty"),
        (record("response", URLS[0], b"no status line"), "bad_http"),
        (record("revisit", URLS[0], b"HTTP/1.1 200 OK\r\n\r\n"), "revisit"),
        (record("continuation", URLS[0], b"the rest", "text/html"), "record_type"),
        (record("response", URLS[0], page(0), Content_Length="many"), "corrupt"),
        (record("response", URLS[0], page(0), Content_Length="-5"), "corrupt"),
        (record("response", URLS[0], page(0), Content_Length=None), "corrupt"),
        (record("response", URLS[0], page(0), Content_Length="99999"), "truncated"),
        (record("response", URLS[0], page(0), Content_Length="40"), "corrupt"),
        (b"WARC/1.0\r\nWARC-Type: response\r\n" + b"x" * 300_000, "corrupt"),
        (b"this is no record at all\r\n" * 9, "stray_bytes"),
    ],
)
@pytest.mark.parametrize("storage", STORAGES)
def test_a_bad_record_is_one_failure_and_the_next_one_is_read(tmp_path, damaged, reason, storage):
    path = tmp_path / f"crawl{suffix(storage)}"
    path.write_bytes(store([response(URLS[1], page(1)), damaged, response(URLS[2], page(2))], storage)[0])
    before, failure, after = read(path)
    assert (before.body, after.body) == (page(1), page(2))
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.reason) == ("read", reason)
    assert before.offset < failure.offset < after.offset
    for unit_bytes in (1, 50, 400):
        assert read(path, unit_bytes=unit_bytes) == [before, failure, after]


@pytest.mark.parametrize("storage", STORAGES)
def test_a_record_above_the_limit_is_a_failure_and_the_next_one_is_read(tmp_path, storage):
    path = tmp_path / f"crawl{suffix(storage)}"
    records = [response(URLS[0], page(0, 4000)), response(URLS[1], page(1)), response(URLS[2], page(2, 9000))]
    path.write_bytes(store(records, storage)[0])
    first, second, third = read(path, max_record_bytes=2000)
    assert (first.reason, first.url, third.reason) == ("too_large", URLS[0], "too_large")
    assert second.body == page(1)


@pytest.mark.parametrize(("coding", "encode"), [("gzip", gzip.compress), ("br", brotli.compress)])
def test_a_body_that_grows_above_the_limit_is_a_failure(tmp_path, coding, encode):
    sent = encode(b"<p>" + b" " * 30_000_000)
    (item,) = read_records(tmp_path, response(URLS[0], sent, Content_Encoding=coding), max_record_bytes=2**20)
    assert item.reason == "too_large"


def test_all_statuses_are_read_on_demand(tmp_path):
    (item,) = read_records(tmp_path, response(URLS[0], page(0), "404 Not Found"), statuses="all")
    assert item.body == page(0)


def test_conversions_are_text_and_resources_are_bodies(tmp_path):
    text = "Ein Satz.\x00 一句话。"
    (tmp_path / "a.warc.wet.gz").write_bytes(
        store([record("conversion", URLS[0], text.encode() + b"\xff", "text/plain")], "gzip")[0]
    )
    (item,) = read(tmp_path / "a.warc.wet.gz")
    assert (item.source, item.text, item.body) == ("wet", "Ein Satz. 一句话。\ufffd", None)
    (item,) = read_records(tmp_path, record("resource", URLS[0], page(0), "text/html; charset=latin1"))
    assert (item.content_type, item.charset, item.body) == ("text/html", "latin1", page(0))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2024-02-03T04:05:06.123456789Z", datetime(2024, 2, 3, 4, 5, 6, 123456, tzinfo=UTC)),
        ("2024-02-03T04:05:06+02:00", datetime(2024, 2, 3, 2, 5, 6, tzinfo=UTC)),
        ("20240203040506", datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("2024-02", datetime(2024, 2, 1, tzinfo=UTC)),
        ("2024", datetime(2024, 1, 1, tzinfo=UTC)),
        ("yesterday", None),
        ("2024-13-45T99:99:99Z", None),
        ("0001-01-01T00:00:00+14:00", None),
        (None, None),
    ],
)
def test_dates_of_all_kinds_are_understood_or_left_out(tmp_path, written, meant):
    (item,) = read_records(tmp_path, record("resource", URLS[0], page(0), "text/html", WARC_Date=written))
    assert item.timestamp == meant


def test_headers_may_be_folded_in_any_case_in_brackets_and_end_with_a_bare_newline(tmp_path):
    body = b"HTTP/1.0 200\nCONTENT-type:\n  text/html;\n\tcharset=big5\n\n" + page(0)
    head = f"WARC/1.0\nwarc-type: RESPONSE\nWARC-TARGET-URI:\n <{URLS[0]}>\ncontent-type:application/http\n"
    raw = head.encode() + b"content-length: %d\n\n" % len(body) + body + b"\n\n"
    (item,) = read_records(tmp_path, raw)
    assert (item.url, item.content_type, item.charset, item.body) == (URLS[0], "text/html", "big5", page(0))


def test_a_record_may_run_over_several_gzip_members(tmp_path):
    raw = response(URLS[0], page(0)) + response(URLS[1], page(1))
    parts = [raw[:200], raw[200:500], raw[500 : len(raw) - 100], raw[-100:]]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(map(gzip.compress, parts)))
    assert [item.body for item in read(tmp_path / "a.warc.gz")] == [page(0), page(1)]
    assert [item.body for item in read(tmp_path / "a.warc.gz", unit_bytes=50)] == [page(0), page(1)]


def test_a_warc_within_a_record_is_a_body(tmp_path):
    inner = store([response(URLS[1], page(1)), response(URLS[2], page(2))], "plain")[0]
    for storage in STORAGES:
        path = tmp_path / f"outer{suffix(storage)}"
        records = [record("resource", URLS[0], inner, "application/warc"), response(URLS[3], page(3))]
        path.write_bytes(store(records, storage)[0])
        for unit_bytes in (10**6, 100):
            assert [item.url for item in read(path, unit_bytes=unit_bytes)] == [URLS[0], URLS[3]]


def test_a_large_record_is_never_held_in_memory(tmp_path):
    import tracemalloc

    path = tmp_path / "a.warc.gz"
    path.write_bytes(store([record("resource", URLS[0], b"x" * 60_000_000), response(URLS[1], page(1))], "gzip")[0])
    tracemalloc.start()
    first, second = read(path, max_record_bytes=10**6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (first.reason, second.body) == ("too_large", page(1))
    assert peak < 8_000_000
