"""The readers on real crawls and on the files that other readers stumble over."""

import io
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from tilth.curate.read import Failure, Page, ReadOptions, list_units, plan, read_unit
from tilth.curate.read.charset import decode
from tilth.curate.read.html import kind_of
from tilth.errors import InputError

pytestmark = pytest.mark.realdata

# file: pages, and failures by reason; each looked at by hand
SAMPLES = {
    "cc_net/sample.warc.txt": (0, {"truncated": 1, "corrupt": 3}),  # edited by hand: no length is right
    "dolma/sample-0000.warc.gz": (24, {}),
    "dolma/sample-0001.warc.gz": (17, {}),
    "jwarc/cc.warc.gz": (1, {}),
    "jwarc/gzip_extra_sl.warc.gz": (0, {}),
    "resiliparse/block-sized-records.warc": (0, {"record_type": 3}),
    "resiliparse/block-sized-records.warc.gz": (0, {"record_type": 3}),
    "resiliparse/clipped.warc.gz": (0, {"truncated": 1}),
    "resiliparse/clueweb-quirk.warc.gz": (29, {}),
    "resiliparse/warcfile.warc": (16, {}),
    "resiliparse/warcfile.warc.gz": (16, {}),
    "warcio/example-bad-non-chunked.warc.gz": (1, {"revisit": 1}),
    "warcio/example-bad.warc.gz.bad": (1, {"revisit": 1, "http_status": 1}),
    "warcio/example-digest.warc": (0, {}),
    "warcio/example-iana.org-chunked.warc": (1, {}),
    "warcio/example-resource.warc.gz": (1, {}),
    "warcio/example-space-in-target-uri.warc.gz": (1, {}),
    "warcio/example-trunc.warc": (0, {"corrupt": 1}),  # its length is two bytes short
    "warcio/example-wget-bad-target-uri.warc.gz": (3, {}),
    "warcio/example-wrong-chunks.warc.gz": (1, {}),
    "warcio/example.warc": (1, {"revisit": 1}),
    "warcio/example.warc.gz": (1, {"revisit": 1}),
    "warcio/post-test.warc.gz": (3, {}),
    "whirlwind/whirlwind.warc": (1, {}),
    "whirlwind/whirlwind.warc.gz": (1, {}),
    "whirlwind/whirlwind.warc.wet": (1, {}),
    "whirlwind/whirlwind.warc.wet.gz": (1, {}),
}
PASSED_OVER = [
    "resiliparse/warcfile.warc.lz4",
    "warcio/bad.arc",
    "warcio/example-space-in-url.arc",
    "warcio/example.arc",
    "warcio/example.arc.gz",
    "whirlwind/CC-MAIN-2024-22.warc.paths.gz",
    "whirlwind/whirlwind.warc.wat",
    "whirlwind/whirlwind.warc.wat.gz",
]


def read(path: Path, unit_bytes: int = 2**26) -> list[Page | Failure]:
    options = ReadOptions(unit_bytes=unit_bytes)
    return [item for unit in list_units([str(path)], options) for item in read_unit(unit, options)]


@pytest.mark.parametrize("name", SAMPLES)
def test_each_sample_gives_its_pages_and_failures_for_any_size_of_units(data: Path, name: str):
    items = read(data / "warc-samples" / name)
    reasons = Counter(item.reason for item in items if isinstance(item, Failure))
    assert (sum(isinstance(item, Page) for item in items), dict(reasons)) == SAMPLES[name]
    for unit_bytes in (100, 3000, 50_000):
        assert read(data / "warc-samples" / name, unit_bytes) == items


def test_all_files_of_the_samples_are_read_or_passed_over(data: Path):
    found = plan([str(data / "warc-samples")], ReadOptions())
    assert [path.split("warc-samples/")[1] for path in found.passed_over] == PASSED_OVER
    pages = {file.name for unit in found.units for file in unit.files}
    assert len(pages) == 10  # of dclm-html
    assert len(found.units) == len(SAMPLES) + 1
    with pytest.raises(InputError, match="warcio recompress"):
        list_units([str(data / "warc-samples/warcio/example.arc.gz")], ReadOptions())


def test_every_page_of_the_crawl_is_found_and_is_html(data: Path):
    whole = read(data / "crawl")
    assert len({(item.path, item.offset) for item in whole}) == len(whole) == 859
    assert all(isinstance(item, Page) and kind_of(item.content_type, item.body or b"") == "html" for item in whole)
    assert all(kind_of(None, item.body or b"") == "html" for item in whole if isinstance(item, Page))
    for unit_bytes in (2**20, 30_000):
        assert read(data / "crawl", unit_bytes) == whole


def test_charsets_of_many_languages_are_detected(data: Path):
    """The declaration of human rights, in the encodings that its files' names tell."""
    names = {"Latin1": "cp1252", "UTF8": "utf-8", "SJIS": "cp932", "EUC": "euc_jp", "GB2312": "gb18030"}
    right: Counter[str] = Counter()
    count: Counter[str] = Counter()
    with zipfile.ZipFile(io.BytesIO((data / "langid/udhr/udhr.zip").read_bytes())) as files:
        for name in files.namelist():
            encoding = name.rsplit("-", 1)[-1]
            body = files.read(name)
            if encoding in names and not body.isascii():
                try:
                    text = body.decode(names[encoding])
                except UnicodeDecodeError:
                    continue
                count[encoding] += 1
                right[encoding] += decode(body)[0] == text.removeprefix("\ufeff").replace("\0", "")
    assert count["UTF8"] > 80
    assert right["UTF8"] == count["UTF8"]
    assert right["Latin1"] >= 0.95 * count["Latin1"]
    assert all(right[name] == count[name] for name in ("SJIS", "EUC", "GB2312"))
