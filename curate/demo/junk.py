"""The demo's pages that a corpus is better without, and those that test a reader's nerves."""

import json
import random
import struct
import zlib
from html import escape

from .pages import Good, Kind, Response
from .prose import load_prose
from .sites import SITES, Site, article_body, frame

BAD_HOSTS = ("cheap-pills.example", "lucky-casino.example", "replica-watches.example", "seo-links.example")
"""Hosts that publish nothing but spam: what a blocklist would hold."""

WARES = {
    "cheap-pills.example": "cheap pills online pharmacy no prescription discount tablets best price overnight shipping",
    "lucky-casino.example": "online casino free spins no deposit bonus jackpot slots poker roulette win real money",
    "replica-watches.example": "replica watches luxury handbags outlet sale cheap designer free shipping factory price",
    "seo-links.example": "backlinks cheap traffic rank first page seo service guaranteed buy followers views likes",
}
CITIES = ("Aldermere", "Brackton", "Dunmouth", "Elmsley", "Garsdale", "Kettleby", "Nettlecombe", "Oxley Quay")
LOREM = (
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore et dolore "
    "magna aliqua. Ut enim ad minim veniam, quis nostrud exercitation ullamco laboris nisi ut aliquip ex ea commodo "
    "consequat. Duis aute irure dolor in reprehenderit in voluptate velit esse cillum dolore eu fugiat nulla pariatur."
)
ZH_SPAM = (
    "免费注册",
    "立即领取",
    "真人娱乐",
    "彩票开奖",
    "高额返现",
    "点击进入",
    "代开发票",
    "加微信",
    "限时优惠",
    "稳赚不赔",
)

SLOW_ENTRIES = 18_000

_GARDEN, _CAIYUAN, _TIDES, _MANUAL = (
    next(site for site in SITES if site.host == host)
    for host in ("garden.example", "caiyuan.example", "tides.example", "docs.example")
)
_DATE = "2024-04-02"


def _page(site: Site, path: str, kind: Kind, title: str, body: str, note: str = "") -> Response:
    text = frame(site, title, body, _DATE)
    return Response(f"https://{site.host}/{path}", kind, text.encode(), site.language, note)


def spam(seed: int) -> list[Response]:
    """25 pages: stuffed keywords, repeated lines, link lists, one text for every city, the same in Chinese."""
    rng = random.Random(f"{seed} spam")
    pages = []
    for host, wares in WARES.items():
        site = _GARDEN._replace(host=host, name=host.split(".")[0].replace("-", " ").title())
        words = wares.split()
        stuffed = "".join(f"<p>{' '.join(rng.choices(words, k=rng.randint(20, 60)))}</p>\n" for _ in range(8))
        pages.append(_page(site, "best", "spam", wares[:40], stuffed, "keywords"))
        line = f"<p>Buy {words[0]} {words[1]} now, best {words[2]} of {words[3]}!</p>\n"
        pages.append(_page(site, "now", "spam", "Buy now", line * 40, "repeated lines"))
        links = "".join(
            f'<p><a href="https://{rng.choice(BAD_HOSTS)}/{i}">{" ".join(rng.sample(words, 3))}</a></p>\n'
            for i in range(60)
        )
        pages.append(_page(site, "links", "spam", "Links", links, "link list"))
        for city in rng.sample(CITIES, 2):
            sentences = (
                f"Are you looking for {a} {b} in {city}? Our {a} {b} in {city} is the best {a} {b} that {city} has. "
                for a, b in (rng.sample(words, 2) for _ in range(12))
            )
            paragraphs = "".join(f"<p>{sentence}</p>\n" for sentence in sentences)
            pages.append(
                _page(site, city.lower().replace(" ", "-"), "spam", f"{words[0]} {city}", paragraphs, "by city")
            )
    site = _CAIYUAN._replace(host="lucky-casino.example", name="幸运娱乐")
    for i in range(5):
        body = "".join(f"<p>{' '.join(rng.choices(ZH_SPAM, k=12))}</p>\n" for _ in range(10))
        pages.append(_page(site, f"zh/{i}", "spam", "免费领取", body, "keywords"))
    return pages


def short_pages() -> list[Response]:
    """8 pages with a line or two of content."""
    lines = (
        (_GARDEN, "This page has moved."),
        (_GARDEN, "Photographs will follow soon. Please come back next week."),
        (_GARDEN, "No posts were found. Try another search."),
        (_MANUAL, "Under construction."),
        (_MANUAL, "Thank you for your message! We will answer within three days."),
        (_TIDES, "Test, test. Does this work?"),
        (_CAIYUAN, "内容正在整理，请稍后再来。"),
        (_CAIYUAN, "您要找的文章不存在。"),
    )
    return [_page(site, f"short/{i}", "short", "-", f"<p>{line}</p>") for i, (site, line) in enumerate(lines)]


def navigation_pages(pages: list[Good]) -> list[Response]:
    """6 pages that hold only links to others."""
    answers = []
    for i in range(6):
        site = (_GARDEN, _TIDES, _CAIYUAN)[i % 3]
        chosen = [page for page in pages if page.site.language == site.language][i * 5 : i * 5 + 30]
        items = "".join(f'<li><a href="{escape(p.url)}">{escape(p.article.title)}</a></li>\n' for p in chosen)
        answers.append(_page(site, f"tag/{i}", "navigation", f"#{i}", f'<ul class="posts">{items}</ul>'))
    return answers


def junk_pages(pages: list[Good], seed: int) -> list[Response]:
    """Lorem ipsum, code, capitals and tables of numbers: no prose, or not as it should be."""
    rng = random.Random(f"{seed} junk")
    english = [page for page in pages if page.site.language == "en"]
    lorem = f"<p>{LOREM}</p>\n<p>{LOREM.upper().capitalize()}</p>\n"
    code = "".join(
        f"<p>function step{i}(bed) {{ return bed.rows.map(function (row) {{ return row * {i}; }}); }}</p>\n"
        for i in range(12)
    )
    noscript = "<p>Please enable JavaScript to view this page.</p>\n" * 3 + "<p>Loading...</p>"
    tides = ""
    for day in range(1, 32):
        cells = (f"<td>{rng.randint(0, 23):02}:{rng.randint(0, 59):02}</td>" for _ in range(4))
        tides += f"<tr><td>{day:02}</td>{''.join(cells)}<td>{rng.uniform(0.3, 6.8):.1f}</td></tr>\n"
    prices = "".join(
        f"<p>{rng.randint(1000, 99999)} {rng.uniform(1, 400):.2f} {rng.randint(1, 60)}</p>\n" for _ in range(60)
    )
    answers = [
        _page(_GARDEN, "sample-page", "junk", "Sample page", lorem, "lorem ipsum"),
        _page(_MANUAL, "template", "junk", "Your title here", lorem * 2, "lorem ipsum"),
        _page(_MANUAL, "script", "junk", "A script for the beds", code, "curly brackets"),
        _page(_GARDEN, "app", "junk", "Loading", noscript, "javascript"),
        _page(_TIDES, "table", "junk", "Tide table", f"<table>{tides}</table>", "numbers"),
        _page(_GARDEN, "prices", "junk", "Price list", prices, "numbers"),
    ]
    for i, page in enumerate(english[4::50][:2]):
        shouted = page.article._replace(
            title=page.article.title.upper(),
            opening=page.article.opening.upper(),
            sections=tuple((heading.upper(), text.upper()) for heading, text in page.article.sections),
            closing=page.article.closing.upper(),
        )
        answers.append(_page(_GARDEN, f"shout/{i}", "junk", shouted.title, article_body(shouted), "capitals"))
    return answers


def mojibake_pages(pages: list[Good]) -> list[Response]:
    """UTF-8 taken for Latin-1 somewhere on the way, and stored as UTF-8 again."""
    answers = []
    for language in ("de", "fr", "ru", "zh"):
        page = next(page for page in pages if page.site.language == language)
        body = article_body(page.article).encode().decode("latin-1")
        answers.append(_page(page.site, "import/1", "mojibake", "?", body))
    return answers


def nerve_pages(pages: list[Good]) -> list[Response]:
    """A page that is slow to extract, one that is nested very deeply, one with an empty body.

    The slow one is a guest book of thousands of one-word entries: an extractor that looks for the next good neighbour
    of each paragraph takes quadratic time over it.
    """
    guests = "<div><p>ok</div>" * SLOW_ENTRIES
    slow = f"<!DOCTYPE html><html><head><title>Guest book</title></head><body>{guests}</body></html>"
    inner = article_body(pages[0].article._replace(opening=pages[1].article.opening))
    deep = f"<html><head><title>Deep</title></head><body>{'<div>' * 4000}{inner}{'</div>' * 4000}</body></html>"
    return [
        Response("https://garden.example/guestbook", "slow", slow.encode(), "en"),
        Response("https://garden.example/deep", "deep", deep.encode(), "en"),
        Response("https://garden.example/empty", "empty", b"<!DOCTYPE html><html><head></head><body></body></html>"),
        Response("https://garden.example/nothing", "empty", b"", None, "no bytes at all"),
    ]


def other_types() -> list[Response]:
    """What else a crawler brings home: PDF, image, JSON, RSS, style sheet."""
    pdf = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n" + bytes(range(128, 256))
    data = json.dumps({"beds": [{"name": "north", "rows": 4}, {"name": "south", "rows": 6}]}).encode()
    items = "".join(
        f"<item><title>{heading}</title></item>" for heading, _ in load_prose("en").topics["soil"].paragraphs
    )
    rss = f'<?xml version="1.0"?><rss version="2.0"><channel><title>Garden</title>{items}</channel></rss>'.encode()
    css = b"body { margin: 0; font: 17px/1.6 Georgia, serif; }\n"
    found = (
        ("leaflet.pdf", "application/pdf", pdf),
        ("bed.png", "image/png", _png()),
        ("api/beds", "application/json", data),
        ("feed", "application/rss+xml; charset=utf-8", rss),
        ("style.css", "text/css", css),
    )
    return [
        Response(f"https://garden.example/{path}", "other_type", body, None, kind, headers=(("Content-Type", kind),))
        for path, kind, body in found
    ]


def _png() -> bytes:
    """A picture of one green point."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0\x30\x80\x30")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


def http_errors() -> list[Response]:
    """Answers with a status other than 200."""
    gone = frame(_GARDEN, "Not found", "<p>The page you asked for is not here. Perhaps the slugs ate it.</p>", _DATE)
    moved = (("Content-Type", "text/html"), ("Location", "https://garden.example/"))
    return [
        Response("https://garden.example/missing", "http_error", gone.encode(), "en", status="404 Not Found"),
        Response("https://tides.example/gone", "http_error", gone.encode(), "en", status="410 Gone"),
        Response("http://garden.example/", "http_error", b"", status="301 Moved Permanently", headers=moved),
        Response("https://docs.example/", "http_error", b"busy", status="503 Service Unavailable"),
    ]
