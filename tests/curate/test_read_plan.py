import gzip
import os
import re
import time

import fsspec
import pytest
from warcs import page, record, response, store

from tilth.curate.read import Failure, Page, ReadOptions, list_units, plan, read_unit
from tilth.errors import InputError

WARC = store([response(f"https://site.example/{number}", page(number)) for number in range(9)], "gzip")[0]
OPTIONS = ReadOptions()


def fill(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def read(inputs, options=OPTIONS):
    return [item for unit in list_units([str(i) for i in inputs], options) for item in read_unit(unit, options)]


def test_a_folder_is_read_whole_and_names_begin_with_it(tmp_path):
    fill(tmp_path / "crawl", a_warc_gz=WARC, deep__er__b_html=page(1), c_jsonl=b'{"text": "x"}\n', notes_txt=b"hello")
    found = plan([str(tmp_path / "crawl")], OPTIONS)
    assert [(unit.name, unit.kind) for unit in found.units] == [
        ("crawl/a.warc.gz", "warc"),
        ("crawl/c.jsonl", "jsonl"),
        ("crawl/deep/er/b.html", "html"),
    ]
    assert [os.path.basename(path) for path in found.passed_over] == ["notes.txt"]


def test_units_do_not_change_with_the_mount_or_the_order_of_inputs(tmp_path):
    plans = []
    for mount in ("one", "two/three"):
        root = fill(tmp_path / mount, crawl__a_warc_gz=WARC, crawl__b_html=page(1), more_jsonl=b'{"text": "x"}\n')
        inputs = [str(root / "crawl"), str(root / "more.jsonl")]
        options = ReadOptions(unit_bytes=700)
        plans += [list_units(inputs, options), list_units(inputs[::-1], options)]
    strip = [[unit._replace(path="", files=()) for unit in units] for units in plans]
    assert strip[0] == strip[1] == strip[2] == strip[3]
    assert len(strip[0]) > 4
    assert strip[0] == sorted(strip[0], key=lambda unit: (unit.name, unit.start))


def test_keys_are_unique_and_safe_as_file_names(tmp_path):
    fill(tmp_path / "c", a_warc_gz=WARC, **{"ä ö/ü?*.html": page(1)})
    (tmp_path / "c" / ("x" * 200 + ".html")).write_bytes(page(2))
    keys = [unit.key for unit in list_units([str(tmp_path / "c")], ReadOptions(unit_bytes=300))]
    assert len(set(keys)) == len(keys) > 5
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,120}", key) for key in keys)


def test_names_that_are_not_utf8_are_printable_unique_and_read(tmp_path):
    names = [b"a\xff.jsonl", b"a\xfe.jsonl", b"a\\udcff.jsonl", b"a\\xff.jsonl", b"b\xff.html", b"b\xfe.html"]
    (tmp_path / "crawl").mkdir()
    for name in names:
        (tmp_path / "crawl" / os.fsdecode(name)).write_bytes(b'{"text": "x"}\n' if b"json" in name else page(1))
    for inputs in ([tmp_path / "crawl"], [tmp_path / "crawl" / "*.*"]):
        for options in (OPTIONS, ReadOptions(unit_bytes=1)):
            units = list_units([str(place) for place in inputs], options)
            items = [item for unit in units for item in read_unit(unit, options)]
            for unique in (
                {item.path for item in items},
                {file.name for unit in units for file in unit.files or [unit]},
            ):
                assert len(unique) == len(names)
                assert all(name.isprintable() and name.encode() for name in unique)
            assert len({unit.key for unit in units}) == len(units)
            assert all(isinstance(item, Page) for item in items)
            assert {os.fsencode(file.path) for unit in units for file in unit.files or [unit]} == {
                os.fsencode(tmp_path / "crawl") + b"/" + name for name in names
            }


def test_equal_names_are_lengthened_by_their_parents(tmp_path):
    for year in ("2023", "2024"):
        fill(tmp_path / year / "crawl", a_html=page(1), **{f"only{year}_html": page(2)})
    units = list_units([str(tmp_path / year / "crawl") for year in ("2023", "2024")], ReadOptions(unit_bytes=1))
    assert [unit.name for unit in units] == [
        "2023/crawl/a.html",
        "2024/crawl/a.html",
        "crawl/only2023.html",
        "crawl/only2024.html",
    ]


def test_a_file_named_twice_is_read_once(tmp_path):
    fill(tmp_path / "crawl", a_warc_gz=WARC)
    inputs = [tmp_path / "crawl", tmp_path / "crawl" / "a.warc.gz", tmp_path / "cr*" / "*.gz"]
    assert len(read(inputs)) == 9
    assert {item.path for item in read(inputs)} == {"crawl/a.warc.gz"}


def test_globs_name_files(tmp_path):
    fill(tmp_path, a_warc_gz=WARC, b_warc_gz=WARC, deep__c_warc_gz=WARC)
    assert {unit.name for unit in list_units([str(tmp_path / "*.warc.gz")], OPTIONS)} == {"a.warc.gz", "b.warc.gz"}
    assert len(list_units([str(tmp_path / "**" / "*.warc.gz")], OPTIONS)) == 3


def test_files_without_a_telling_name_are_told_by_their_first_bytes(tmp_path):
    fill(
        tmp_path / "crawl", warc=WARC, page=page(1), rows=b'{"text": "x"}\n{"text": "y"}\n', odd=b"\x00\x01", text=b"hi"
    )
    fill(tmp_path / "crawl", array_json=b'[\n{"text": "x"}\n]', packed=gzip.compress(page(2)))
    found = plan([str(tmp_path / "crawl")], OPTIONS)
    kinds = {file.name: unit.kind for unit in found.units for file in unit.files or [unit]}
    assert kinds == {"crawl/warc": "warc", "crawl/page": "html", "crawl/packed": "html", "crawl/rows": "jsonl"}
    assert [os.path.basename(path) for path in found.passed_over] == ["array.json", "odd", "text"]


def test_the_kind_can_be_given(tmp_path):
    fill(tmp_path, rows_txt=b'{"text": "x"}\n', list_json=b"[1]\n", page_html=page(1))
    assert [i.text for i in read([tmp_path / "rows.txt"], ReadOptions(kind="jsonl"))] == ["x"]
    assert [u.name for u in list_units([str(tmp_path)], ReadOptions(kind="html"))] == [f"{tmp_path.name}/page.html"]


def test_loose_pages_are_grouped(tmp_path):
    for number in range(40):
        fill(tmp_path / "pages", **{f"p{number:02}_html": page(number, 1000)})
    (tmp_path / "pages" / "z.html.gz").write_bytes(gzip.compress(page(99)))
    (tmp_path / "pages" / "broken.html.gz").write_bytes(gzip.compress(page(99, 4000))[:-30])
    (tmp_path / "pages" / "large.html").write_bytes(page(1, 50_000))
    options = ReadOptions(unit_bytes=10_000, max_record_bytes=20_000)
    units = list_units([str(tmp_path / "pages")], options)
    assert 4 < len(units) < 10
    items = [item for unit in units for item in read_unit(unit, options)]
    assert len({item.path for item in items}) == len(items) == 43
    assert [item.body for item in items if isinstance(item, Page)] == [
        *(page(number, 1000) for number in range(40)),
        page(99),
    ]
    assert {item.path: item.reason for item in items if isinstance(item, Failure)} == {
        "pages/broken.html.gz": "truncated",
        "pages/large.html": "too_large",
    }


def test_a_large_group_of_loose_pages_is_not_of_quadratic_cost(tmp_path):
    for number in range(15_000):
        (tmp_path / f"{number}.html").write_bytes(b"<html>")

    def seconds(unit_bytes: int) -> float:
        start = time.process_time()
        list_units([str(tmp_path)], ReadOptions(unit_bytes=unit_bytes))
        return time.process_time() - start

    # a hundred pages a group against all in one: one hundred and fifty times, were each group's cost quadratic
    assert min(seconds(10**6) for _ in range(3)) < 10 * seconds(600)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: "missing.warc.gz", "no such file"),
        (lambda folder: "*.warc.gz", "matches no file"),
        (lambda folder: (folder / "empty").mkdir() or "empty", "an empty folder"),
        (lambda folder: (folder / "e.warc.gz").write_bytes(b"") or "e.warc.gz", "the file is empty"),
        (lambda folder: fill(folder, a_xyz=b"??") and "a.xyz", "set read.kind"),
        (lambda folder: fill(folder, a_arc=b"filedesc://a.arc 0.0.0.0") and "a.arc", "warcio recompress"),
        (lambda folder: fill(folder, a_gz=gzip.compress(b"filedesc://a.arc 0")) and "a.gz", "warcio recompress"),
        (lambda folder: fill(folder, a_warc_wat_gz=b"x") and "a.warc.wat.gz", "WAT holds metadata"),
        (lambda folder: fill(folder, f__a_txt=b"x", f__b_txt=b"y") and "f", "passed over 2 files, such as"),
        (lambda folder: fill(folder, a_parquet=b"PAR1 no") and "a.parquet", "not a readable Parquet file"),
        (lambda folder: "nosuch://bucket/crawl", "cannot be listed"),
        (lambda folder: "memory://nothing/here", "no such file or folder"),
    ],
)
def test_input_that_cannot_be_read_is_refused_in_one_line(tmp_path, monkeypatch, make, message):
    monkeypatch.chdir(tmp_path)
    place = str(make(tmp_path))
    with pytest.raises(InputError, match=message) as raised:
        list_units([place], OPTIONS)
    assert place.rsplit("/", 1)[-1] in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    fill(tmp_path, a_warc_gz=WARC)
    (tmp_path / "a.warc.gz").chmod(0)
    with pytest.raises(InputError, match="permission denied"):
        list_units([str(tmp_path)], OPTIONS)


def test_no_input_is_refused():
    with pytest.raises(InputError, match="no input"):
        list_units([], OPTIONS)


def test_units_of_any_file_are_the_same_on_disk_and_remote(tmp_path):
    inner = store([response(f"https://inner.example/{number}", page(number)) for number in range(9)], "plain")[0]
    outer = [record("resource", "https://outer.example/", inner, "application/warc")] * 3
    packed = store([*outer, response("https://site.example/", page(1))], "gzip")[0]
    fill(tmp_path / "crawl", a_warc=gzip.decompress(packed), a_warc_gz=packed, named_warc=packed)
    fill(tmp_path / "crawl", named_warc_gz=gzip.decompress(packed), c_jsonl=b'{"text": "x"}\n' * 90)
    fsspec.filesystem("memory").put(str(tmp_path / "crawl"), "/mount/", recursive=True)
    for unit_bytes in (50, 600, 3000):
        options = ReadOptions(unit_bytes=unit_bytes)
        local, remote = (list_units([place], options) for place in (str(tmp_path / "crawl"), "memory://mount/crawl"))
        assert [unit._replace(path="") for unit in local] == [unit._replace(path="") for unit in remote]
        for units in (local, remote):
            items = [item for unit in units for item in read_unit(unit, options)]
            assert len(items) == 4 * 4 + 90
            assert not any("inner" in (item.url or "") for item in items)


def test_remote_input_is_read_like_local(tmp_path):
    local = fill(tmp_path / "crawl", a_warc_gz=WARC, b_html=page(50), c_jsonl=b'{"text": "x"}\n' * 90)
    (local / "d.warc").write_bytes(gzip.decompress(WARC))
    remote = fsspec.filesystem("memory")
    remote.put(str(local), "/bucket/", recursive=True)
    for unit_bytes in (600, 10**6):
        options = ReadOptions(unit_bytes=unit_bytes)
        expected = read([tmp_path / "crawl"], options)
        assert read(["memory://bucket/crawl"], options) == expected
        assert len(expected) == 9 + 1 + 90 + 9
    assert len(read(["memory://bucket/crawl/*.warc.gz"])) == 9
