"""Whatever happens to a file: what is whole comes out, nothing raises, and what is lost is told."""

import itertools
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warcs import STORAGES, page, record, response, store, suffix

from tilth.curate.read import Failure, Page, ReadOptions, list_units, read_unit
from tilth.curate.read.html import is_textual
from tilth.curate.read.http import BodyError, body_of, parse_headers, parse_response
from tilth.curate.read.stream import compression

COUNT = 8


def records() -> list[bytes]:
    made = []
    for number in range(COUNT):
        url = f"https://site.example/{number}"
        made.append(record("request", url, b"GET / HTTP/1.1\r\n\r\n"))
        made.append(response(url, page(number, 200 + 100 * (number % 4))))
    return made


def _looks_otherwise(data: bytes, storage: str) -> bool:
    """True if the damage has put the mark of another storage at the beginning, which decides."""
    codec = None if storage == "plain" else storage.split("-")[0]
    return compression(data) not in (None, codec) or (codec is not None and data.startswith(b"WARC/"))


def read(path, unit_bytes=10**9):
    options = ReadOptions(unit_bytes=unit_bytes, max_record_bytes=2**20)
    return [item for unit in list_units([str(path)], options) for item in read_unit(unit, options)]


@st.composite
def damages(draw):
    """A change of a file: how, where (as a share of its size), and with what."""
    kind = draw(st.sampled_from(["cut", "flip", "zero", "delete", "insert"]))
    share, size = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(1, 600))
    return kind, share, size, draw(st.binary(min_size=1, max_size=40))


def damaged(data: bytes, damage) -> tuple[bytes, int, int]:
    """The file after the change, and the range [first, last) of the old file that it touched."""
    kind, share, size, junk = damage
    at = int(share * len(data))
    end = min(at + size, len(data))
    if kind == "cut":
        return data[:at], at, len(data)
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ (size % 255 + 1)]) + data[at + 1 :], at, at + 1
    if kind == "zero":
        return data[:at] + bytes(end - at) + data[end:], at, end
    if kind == "delete":
        return data[:at] + data[end:], at, end
    return data[:at] + junk + data[at:], at, at


@pytest.mark.parametrize("storage", ["plain", "gzip", "zstd"])
@settings(max_examples=150, deadline=None)
@given(damage=damages(), unit_bytes=st.sampled_from([40, 300, 1500, 10**9]))
def test_all_undamaged_records_come_out_and_what_is_lost_is_told(tmp_path_factory, storage, damage, unit_bytes):
    data, places = store(records(), storage)
    changed, first, last = damaged(data, damage)
    path = tmp_path_factory.mktemp("damaged") / f"crawl{suffix(storage)}"
    path.write_bytes(changed)
    if not changed or _looks_otherwise(changed, storage):
        return
    items = read(path, unit_bytes)
    bodies = [item.body for item in items if isinstance(item, Page)]
    for number in range(COUNT):
        begin, end = places[2 * number + 1], places[2 * number + 2]
        if last <= begin or end <= first:
            assert page(number, 200 + 100 * (number % 4)) in bodies
    assert len({item.offset for item in items}) == len(items)
    # A cut between two records (or within the line ends there) leaves a sound file, and a stretch that goes missing
    # from a plain one may join two records to a sound one.
    between = any(place - 4 <= first <= place for place in places)
    if len(bodies) < COUNT and not between and (storage, damage[0]) != ("plain", "delete"):
        assert any(isinstance(item, Failure) for item in items)
    assert sorted(items, key=repr) == sorted(read(path), key=repr)


@pytest.mark.parametrize("storage", STORAGES)
@settings(max_examples=80, deadline=None)
@given(changes=st.lists(damages(), min_size=1, max_size=6), unit_bytes=st.sampled_from([40, 700, 10**9]))
def test_no_damage_raises_or_reads_a_place_twice(tmp_path_factory, storage, changes, unit_bytes):
    data, _ = store(records(), storage)
    for damage in changes:
        data, _, _ = damaged(data, damage) if data else (data, 0, 0)
    path = tmp_path_factory.mktemp("damaged") / f"crawl{suffix(storage)}"
    path.write_bytes(data)
    if data:
        items = read(path, unit_bytes)
        assert len({item.offset for item in items}) == len(items)
        if storage != "zstd-dictionary":  # a damaged dictionary may claim to hold records
            assert sorted(items, key=repr) == sorted(read(path), key=repr)


@pytest.mark.parametrize("storage", ["gzip-whole", "zstd-whole"])
@settings(max_examples=40, deadline=None)
@given(share=st.floats(0.02, 0.99))
def test_a_file_compressed_as_one_gives_what_came_before_the_damage(tmp_path_factory, storage, share):
    every = records() * 40
    data, _ = store(every, storage)
    path = tmp_path_factory.mktemp("damaged") / f"crawl{suffix(storage)}"
    left = data[: int(len(data) * share)]
    path.write_bytes(left)
    items = read(path)
    *pages, failure = items
    assert failure.reason == "truncated"
    assert [item.body for item in pages if isinstance(item, Page)] == [
        page(at % COUNT, 200 + 100 * (at % COUNT % 4)) for at in range(len(pages))
    ]
    if storage == "gzip-whole":
        decoded = len(zlib.decompressobj(31).decompress(left))
        ends = list(itertools.accumulate(map(len, every)))[1::2]
        assert len(pages) == sum(end - 4 <= decoded for end in ends)  # its line ends may be missing


@pytest.mark.parametrize("storage", ["plain", "gzip", "zstd"])
@given(before=st.binary(max_size=300), after=st.binary(max_size=300))
@settings(max_examples=40, deadline=None)
def test_foreign_bytes_around_a_record_do_not_hide_it(tmp_path_factory, storage, before, after):
    path = tmp_path_factory.mktemp("junk") / f"crawl{suffix(storage)}"
    path.write_bytes(before + store([response("https://site.example/", page(0))], storage)[0] + after)
    options = ReadOptions(kind="warc")
    items = [item for unit in list_units([str(path)], options) for item in read_unit(unit, options)]
    looks_otherwise = _looks_otherwise(path.read_bytes(), storage) or b"WARC/" in before
    if not looks_otherwise and (storage == "plain" or not before):
        assert page(0) in [item.body for item in items if isinstance(item, Page)]


@given(st.binary(max_size=400), st.sampled_from(["gzip", "deflate", "br", "zstd", "gzip, br", "x"]), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_http_response_gives_a_body_or_a_reason(payload, coding, is_chunked):
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\n" + "Transfer-Encoding: chunked\r\n" * is_chunked
    response = parse_response(head.encode() + b"\r\n" + payload)
    assert response is not None
    try:
        result = body_of(response, 1000, is_textual)
    except BodyError as error:
        result = error.reason
    assert isinstance(result, bytes) or result in ("bad_chunking", "bad_content_coding", "too_large")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_header_block(data):
    parse_headers(data)
    parse_response(b"HTTP/1.1 200 " + data)
