"""Writes the demo's crawl: some 300 invented pages in nine languages as WARC, WET, HTML and JSONL files.

What it writes depends on the seed alone, to the byte. The summary says what every page is meant to be, so that the
main job's decisions can be checked against it.
"""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import orjson
import zstandard

from . import junk
from .pages import Good, Kind, Response, as_utf8, exact_duplicates, good_pages, html, near_duplicates, responses
from .warc import Clock, conversion, exchange, member, request, resource, revisit, warcinfo

ZSTD_PAGES, PLAIN_PAGES, WET_PAGES, JSONL_PAGES, LOOSE_PAGES = 12, 12, 10, 10, 8
DAMAGED_PAGES = 15  # pages of the damaged file, most of which are whole


class Entry(NamedTuple):
    """One record of the crawl that stands for a page, and what it is meant to be."""

    file: str  # within the folder
    url: str | None  # None for loose files
    kind: Kind
    language: str | None
    note: str = ""  # the charset, the transport, the damage; for a duplicate the URL of its original


class CrawlSummary(NamedTuple):
    """What was written. Records that stand for no page (warcinfo, request) are not counted."""

    files: tuple[str, ...]  # within the folder, sorted
    entries: tuple[Entry, ...]
    garbage: int  # stretches of bytes between records that belong to none

    @property
    def records(self) -> int:
        """All pages, those in damaged records and the revisit included."""
        return len(self.entries)

    @property
    def counts(self) -> dict[str, int]:
        """Pages of each kind."""
        return dict(Counter(entry.kind for entry in self.entries))

    @property
    def damaged(self) -> int:
        """Records that cannot be read whole."""
        return self.counts["damaged"]

    @property
    def exact_duplicates(self) -> int:
        """Pages whose bytes were served under another URL too."""
        return self.counts["exact_duplicate"]

    @property
    def near_duplicates(self) -> int:
        """Pages that are another page with a small edit."""
        return self.counts["near_duplicate"]


class _File(NamedTuple):
    name: str
    content: bytes
    entries: list[Entry]


def write_crawl(folder: Path, seed: int = 0) -> CrawlSummary:
    """Write the crawl into `folder`, which is made if need be; files of the same names are replaced."""
    made = _crawl(seed)
    for file in made:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
    entries = tuple(entry for file in made for entry in file.entries)
    return CrawlSummary(tuple(sorted(file.name for file in made)), entries, garbage=1)


def _crawl(seed: int) -> list[_File]:
    pages = good_pages(seed)
    answers = responses(pages)
    # What is sent in a special way stays in the two big files. The others are shared out, but for the originals of the
    # duplicates: those stay too, so that no duplicate loses its original to damage.
    ordinary = [page for page, answer in zip(pages, answers, strict=True) if not answer.note]
    originals, others = ordinary[::4], [page for i, page in enumerate(ordinary) if i % 4]
    random.Random(f"{seed} shares").shuffle(others)
    shares = iter(others)

    def share(count: int) -> list[Good]:
        return list(islice(shares, count))

    small = [
        _damaged("crawl-02.warc.gz", share(DAMAGED_PAGES), seed),
        _zstd("crawl-03.warc.zst", share(ZSTD_PAGES)),
        _plain("crawl-04.warc", share(PLAIN_PAGES)),
        _wet("crawl-05.warc.wet.gz", share(WET_PAGES)),
        _jsonl("documents.jsonl", share(JSONL_PAGES)),
        *_loose("pages", share(LOOSE_PAGES)),
    ]
    resource_page, revisited, *rest = shares
    stays = {page.url for page in (*originals, *rest)}
    mixed = [
        *(answer for answer in answers if answer.note or answer.url in stays),
        *exact_duplicates(originals[::3]),
        *near_duplicates(originals[1::2]),
        *junk.spam(seed),
        *junk.short_pages(),
        *junk.navigation_pages(pages),
        *junk.junk_pages(pages, seed),
        *junk.mojibake_pages(pages),
        *junk.nerve_pages(pages),
        *junk.other_types(),
        *junk.http_errors(),
    ]
    random.Random(f"{seed} order").shuffle(mixed)
    half = len(mixed) // 2
    return [
        _gzipped("crawl-00.warc.gz", mixed[:half], as_utf8(resource_page), None),
        _gzipped("crawl-01.warc.gz", mixed[half:], None, as_utf8(revisited)),
        *small,
    ]


def _entry(name: str, answer: Response, kind: Kind | None = None, note: str | None = None) -> Entry:
    return Entry(name, answer.url, kind or answer.kind, answer.language, answer.note if note is None else note)


def _gzipped(name: str, answers: Sequence[Response], as_resource: Response | None, again: Response | None) -> _File:
    """A WARC with one gzip member a record, and at its end a resource record, or a page and a revisit of it."""
    clock = Clock(name)
    records = [warcinfo(clock, name)]
    entries = []
    for answer in answers:
        records += exchange(clock, answer)
        entries.append(_entry(name, answer))
    if as_resource:
        records.append(resource(clock, as_resource))
        entries.append(_entry(name, as_resource, note="resource record"))
    if again:
        records += [*exchange(clock, again), request(clock, again), revisit(clock, again)]
        entries += [_entry(name, again), _entry(name, again, kind="revisit")]
    return _File(name, b"".join(member(one.stored) for one in records), entries)


def _damaged(name: str, pages: Sequence[Good], seed: int) -> _File:
    """A WARC with one gzip member a record and four kinds of damage: see the notes of its entries.

    A member cut short in the middle of the file, bytes of no meaning between two members, a record whose length says
    more than there is (in a sound member), and a last member cut off where the file ends.
    """
    clock = Clock(name)
    content = [member(warcinfo(clock, name).stored)]
    entries = []
    for i, page in enumerate(pages):
        answer = as_utf8(page)
        asked, answered = exchange(clock, answer)
        content.append(member(asked.stored))
        stored = member(answered.stored)
        note = ""
        match i:
            case 3:
                note, stored = "member cut short", stored[: len(stored) * 3 // 5]
            case 7:
                # Never two bytes that could be taken for the beginning of a gzip member.
                noise = random.Random(f"{seed} noise").randbytes(700).replace(b"\x1f", b"\x20")
                content.append(noise)
            case 10:
                true = b"Content-Length: %d\r\n\r\n" % len(answered.block)
                false = b"Content-Length: %d\r\n\r\n" % (len(answered.block) + 5000)
                note, stored = (
                    "length too large",
                    member(answered._replace(head=answered.head.replace(true, false)).stored),
                )
            case _ if i == len(pages) - 1:
                note, stored = "file cut off", stored[: len(stored) // 2]
        content.append(stored)
        entries.append(_entry(name, answer, kind="damaged" if note else None, note=note))
    return _File(name, b"".join(content), entries)


def _zstd(name: str, pages: Sequence[Good]) -> _File:
    """A WARC with one Zstandard frame a record, without a dictionary."""
    clock = Clock(name)
    answers = [as_utf8(page) for page in pages]
    records = [warcinfo(clock, name), *(one for answer in answers for one in exchange(clock, answer))]
    compressor = zstandard.ZstdCompressor(level=9)
    content = b"".join(compressor.compress(one.stored) for one in records)
    return _File(name, content, [_entry(name, answer) for answer in answers])


def _plain(name: str, pages: Sequence[Good]) -> _File:
    """A WARC as it is, not compressed."""
    clock = Clock(name)
    answers = [as_utf8(page) for page in pages]
    records = [warcinfo(clock, name), *(one for answer in answers for one in exchange(clock, answer))]
    return _File(name, b"".join(one.stored for one in records), [_entry(name, answer) for answer in answers])


def _wet(name: str, pages: Sequence[Good]) -> _File:
    """Text that somebody else extracted, as conversion records."""
    clock = Clock(name)
    records = [warcinfo(clock, name), *(conversion(clock, page.url, page.article.text) for page in pages)]
    entries = [Entry(name, page.url, "good", page.site.language) for page in pages]
    return _File(name, b"".join(member(one.stored) for one in records), entries)


def _jsonl(name: str, pages: Sequence[Good]) -> _File:
    """Documents that are text already: url, title, text and timestamp."""
    lines = [
        {"url": p.url, "title": p.article.title, "text": p.article.text, "timestamp": f"{p.date}T06:00:00Z"}
        for p in pages
    ]
    content = b"".join(orjson.dumps(line) + b"\n" for line in lines)
    return _File(name, content, [Entry(name, page.url, "good", page.site.language) for page in pages])


def _loose(folder: str, pages: Sequence[Good]) -> list[_File]:
    """Saved pages, a file each."""
    names = [f"{folder}/page-{i:02}.html" for i in range(len(pages))]
    return [
        _File(name, html(page).encode(), [Entry(name, None, "good", page.site.language)])
        for name, page in zip(names, pages, strict=True)
    ]
