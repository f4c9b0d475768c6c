import datetime as dt
import gzip
import json
import tracemalloc

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tilth.curate.read import Failure, Page, ReadOptions, list_units, read_unit
from tilth.curate.read.stream import compression
from tilth.errors import InputError


def read(path, **options):
    options = ReadOptions(**options)
    return [item for unit in list_units([str(path)], options) for item in read_unit(unit, options)]


def test_lines_become_pages_at_their_byte_offsets(tmp_path):
    lines = [
        json.dumps({"text": f"line {n} 行" + "x" * (n * 37 % 200), "url": f"https://s.example/{n}"}) for n in range(60)
    ]
    data = "\n".join(lines).encode() + b"\r\n\n   \n"
    (tmp_path / "rows.jsonl").write_bytes(data)
    whole = read(tmp_path / "rows.jsonl")
    assert [item.url for item in whole] == [f"https://s.example/{n}" for n in range(60)]
    assert all(data[item.offset : item.offset + 9] == b'{"text": ' for item in whole)
    for unit_bytes in (1, 10, 99, 1000, 5000):
        assert read(tmp_path / "rows.jsonl", unit_bytes=unit_bytes) == whole
    for name, packed in (("rows.jsonl.gz", gzip.compress(data)), ("r.ndjson.zst", zstandard.compress(data))):
        (tmp_path / name).write_bytes(packed)
        for unit_bytes in (10, 10**6):
            items = read(tmp_path / name, unit_bytes=unit_bytes)
            assert [item._replace(path="") for item in items] == [item._replace(path="") for item in whole]


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=12),
    unit_bytes=st.integers(1, 60),
)
def test_any_lines_are_accounted_for_once_for_any_size_of_units(tmp_path_factory, lines, unit_bytes):
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    data = b"\n".join(lines) + b"\n"
    assume(compression(data) is None)
    path.write_bytes(data)
    items = read(path, unit_bytes=unit_bytes)
    assert len(items) == sum(bool(line.strip()) for line in lines)
    assert items == read(path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{not json", "bad_json"),
        (b"[1, 2]", "bad_json"),
        (b'"text"', "bad_json"),
        (b"\xff\xfe\x00", "bad_json"),
        (b"[" * 100_000, "bad_json"),
        (b'{"url": "https://s.example/"}', "no_text"),
        (b'{"text": null}', "no_text"),
        (b'{"text": "  "}', "no_text"),
        (b'{"text": 5}', "no_text"),
        (b'{"text": "' + b"x" * 300_000 + b'"}', "too_large"),
    ],
)
def test_a_bad_line_is_one_failure(tmp_path, line, reason):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "before"}\n' + line + b'\n{"text": "after"}')
    before, failure, after = read(tmp_path / "a.jsonl", max_record_bytes=200_000)
    assert (before.text, failure.reason, failure.offset, after.text) == ("before", reason, 19, "after")


def test_a_compressed_file_cut_short_gives_its_lines_and_a_failure(tmp_path):
    data = b"".join(b'{"text": "%d"}\n' % (n * 7919 % 10007) for n in range(5000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data)[:-3000])
    *pages, failure = read(tmp_path / "a.jsonl.gz")
    assert failure.reason == "truncated"
    assert 2000 < len(pages) < 5000
    assert all(isinstance(item, Page) for item in pages)


@pytest.mark.parametrize("storage", ["gzip", "zstd"])
def test_a_compressed_file_is_never_held_in_memory(tmp_path, storage):
    lines = b'{"text": "' + b"x" * 990 + b'"}\n'
    data = lines * 20_000 + b'{"text": "' + b"y" * 20_000_000 + b'"}\n' + lines
    path = tmp_path / "a.jsonl"
    path.write_bytes(gzip.compress(data, 1) if storage == "gzip" else zstandard.compress(data))
    options = ReadOptions(kind="jsonl", max_record_bytes=10**6)
    (unit,) = list_units([str(path)], options)
    del data
    tracemalloc.start()
    pages = sum(isinstance(item, Page) for item in read_unit(unit, options))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pages == 20_001
    assert peak < 12_000_000


def test_fields_are_found_by_option(tmp_path):
    row = {
        "content": {"body": "nested\x00 \ud800 text", "a.b": 1},
        "link": "https://s.example/",
        "when": "2024-02-03T04:05:06+01:00",
        "head": "A title",
        "page": "<p>ä</p>",
    }
    (tmp_path / "a.jsonl").write_text("\ufeff" + json.dumps(row) + "\n", encoding="utf-8")
    fields = {"url_field": "link", "timestamp_field": "when", "title_field": "head"}
    (item,) = read(tmp_path / "a.jsonl", text_field="content.body", **fields)
    when = dt.datetime(2024, 2, 3, 3, 5, 6, tzinfo=dt.UTC)
    expected = ("nested \ufffd text", "https://s.example/", when, "A title")
    assert (item.text, item.url, item.timestamp, item.title) == expected
    (item,) = read(tmp_path / "a.jsonl", html_field="page", **fields)
    assert (item.text, item.body, item.charset, item.content_type) == (None, "<p>ä</p>".encode(), "utf-8", "text/html")


def table(tmp_path, **columns):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=100)
    return path


def test_rows_become_pages_for_any_size_of_units(tmp_path):
    texts = [f"row {n}" if n % 7 else None for n in range(950)]
    when = [dt.datetime(2024, 1, 1) + dt.timedelta(hours=n) for n in range(950)]
    path = table(
        tmp_path, text=texts, url=[f"https://s.example/{n}" for n in range(950)], when=when, big=["x" * 99] * 950
    )
    whole = read(path, timestamp_field="when")
    assert [item.offset for item in whole] == list(range(950))
    for n, item in enumerate(whole):
        assert item.url == f"https://s.example/{n}"
        if n % 7:
            assert (item.text, item.timestamp) == (f"row {n}", when[n].replace(tzinfo=dt.UTC))
        else:
            assert item.reason == "no_text"
    for unit_bytes in (1, 3000):
        options = ReadOptions(timestamp_field="when", unit_bytes=unit_bytes)
        assert len(list_units([str(path)], options)) > 2
        assert read(path, timestamp_field="when", unit_bytes=unit_bytes) == whole


def test_nested_columns_and_html_bytes_are_read(tmp_path):
    path = table(tmp_path, doc=[{"body": "x", "n": 1}, {"body": "y", "n": 2}], raw=[b"<p>\xe4", b"<p>2"])
    assert [item.text for item in read(path, text_field="doc.body")] == ["x", "y"]
    assert [item.body for item in read(path, html_field="raw")] == [b"<p>\xe4", b"<p>2"]


def test_several_fields_make_one_text_of_those_that_are_there(tmp_path):
    rows = [
        {"instruction": "Translate.", "input": "soil", "output": "土壤"},
        {"instruction": "Name a plant.", "input": "", "output": "Rye."},
        {"instruction": "Go on.", "input": None, "output": {"none": "is no text"}},
        {"instruction": " ", "input": None, "output": None},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["output"] = [text if isinstance(text, str) else None for text in columns["output"]]
    fields = ("instruction", "input", "output")
    for path in (tmp_path / "rows.jsonl", table(tmp_path, **columns)):
        *pages, failure = read(path, text_field=fields)
        assert [page.text for page in pages] == ["Translate.\n\nsoil\n\n土壤", "Name a plant.\n\nRye.", "Go on."]
        assert (failure.reason, failure.detail) == ("no_text", "no field instruction, input, output")
    with pytest.raises(InputError, match="no column answer; there are instruction, input, output"):
        read(table(tmp_path, **columns), text_field=("instruction", "answer"))


@pytest.mark.parametrize("options", [{}, {"text_field": "body", "title_field": "head"}])
def test_a_missing_column_is_refused_with_the_columns_there_are(tmp_path, options):
    path = table(tmp_path, body=["x"], link=["y"])
    with pytest.raises(InputError, match=r"no column (text|head); there are body, link"):
        read(path, **options)


@pytest.mark.parametrize("rows", [100, 1000])
def test_each_row_that_damage_takes_is_a_failure_and_the_others_are_read(tmp_path, rows):
    path = tmp_path / "rows.parquet"
    texts = [f"row {n} " + "x" * 50 for n in range(3 * rows)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=rows, data_page_size=1000, use_dictionary=False)
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    place = column.data_page_offset + column.total_compressed_size * 9 // 10
    data[place : place + 40] = b"\xff" * 40
    path.write_bytes(data)
    for unit_bytes in (1, 10**6):
        items = read(path, unit_bytes=unit_bytes)
        assert [item.offset for item in items] == list(range(3 * rows))
        failures = [item for item in items if isinstance(item, Failure)]
        lost = [item.offset for item in failures]
        assert rows <= lost[0] <= 2 * rows - rows // 10
        assert lost == list(range(lost[0], 2 * rows))
        assert {item.reason for item in failures} == {"corrupt"}
        assert all(item.text == texts[item.offset] for item in items if isinstance(item, Page))


def test_a_row_that_has_no_value_in_python_is_one_failure(tmp_path):
    raw = pa.array([b"one", b"\xff\xfe", b"three"]).view(pa.string())
    when = pa.array([0, 0, 2**62], pa.timestamp("us"))
    first, second, third = read(table(tmp_path, text=raw, when=when), timestamp_field="when")
    assert (first.text, second.reason, third.reason) == ("one", "corrupt", "corrupt")


class LostConnection(MemoryFileSystem):
    """Files in memory of which a part cannot be read."""

    protocol = "lost"
    error: Exception = OSError()
    lost = range(0)  # places where reading fails

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("lost:/"))

    def _open(self, path, *args, **options):
        return LostFile(self, path, super()._open(path, *args, **options).getvalue())


class LostFile(MemoryFile):
    def read(self, size: int | None = -1):
        if self.tell() in LostConnection.lost:
            raise LostConnection.error
        return super().read(size)


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("too slow"),
        ConnectionResetError("reset"),
        OSError("gone"),
        OSError(5, "I/O"),
        FileNotFoundError("x"),
    ],
)
def test_a_file_that_cannot_be_read_is_no_damage(tmp_path, error):
    path = table(tmp_path, text=[f"row {n} " + "x" * 50 for n in range(300)])
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    fsspec.register_implementation("lost", LostConnection, clobber=True)
    fsspec.filesystem("memory").put_file(str(path), "/rows.parquet")
    LostConnection.error, LostConnection.lost = error, range(0)
    (unit,) = list_units(["lost://rows.parquet"], ReadOptions())
    assert sum(isinstance(item, Page) for item in read_unit(unit, ReadOptions())) == 300
    for lost in (range(column.dictionary_page_offset, column.dictionary_page_offset + 1), range(10**6)):
        LostConnection.lost = lost
        with pytest.raises(type(error), match=str(error.args[-1])):
            list(read_unit(unit, ReadOptions()))
    with pytest.raises(InputError, match=r"rows.parquet: .*" + str(error.args[-1])):
        list_units(["lost://rows.parquet"], ReadOptions())
