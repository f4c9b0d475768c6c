"""The demo's pages that are worth keeping, in every charset and transport, and their exact and near duplicates."""

import gzip
import re
from typing import Literal, NamedTuple

import brotli

from .prose import LANGUAGES, Article, compose, nearly
from .sites import FORUM, MANUAL, META_UTF8, NEWSPAPER, SITES, WEBLOG, Site, render

Kind = Literal[
    "good",  # to be kept, whatever its charset or transport
    "exact_duplicate",  # the same bytes under another URL
    "near_duplicate",  # a good page with a small edit
    "spam",
    "short",
    "navigation",  # nothing but links
    "junk",  # lorem ipsum, code, capitals, tables of numbers
    "mojibake",
    "empty",
    "slow",  # extraction takes far longer than any page should
    "deep",  # thousands of nested elements
    "other_type",  # no HTML
    "http_error",
    "revisit",
    "damaged",  # a good page in a record that cannot be read whole
]
"""What a page is meant to be, and so what should become of it."""

HTML = "text/html; charset=utf-8"
PAGES_PER_TOPIC = {"en": 7, "zh": 8} | dict.fromkeys(LANGUAGES[2:], 5)
EXACT_DUPLICATES = 12
NEAR_DUPLICATES = 20


class Good(NamedTuple):
    """A page worth keeping."""

    site: Site
    url: str
    date: str
    article: Article


class Response(NamedTuple):
    """One answer of a web server, with what it is meant to be."""

    url: str
    kind: Kind
    body: bytes
    language: str | None = None
    note: str = ""
    status: str = "200 OK"
    headers: tuple[tuple[str, str], ...] = (("Content-Type", HTML),)


class Charset(NamedTuple):
    """How a page's text becomes bytes, and what the server and the page say about it."""

    codec: str
    in_header: str | None
    in_page: str | None


# Which page of a language (counted from 0) is sent in which charset; all others are UTF-8 and say so twice.
CHARSETS = {
    ("fr", 1): Charset("utf-8", "ISO-8859-1", None),  # a false declaration, as servers make by default
    ("fr", 2): Charset("iso-8859-15", None, "iso-8859-15"),
    ("de", 1): Charset("cp1252", "ISO-8859-1", None),
    ("zh", 3): Charset("gbk", "utf-8", None),  # false
    ("zh", 12): Charset("gb18030", "gb18030", None),
    ("zh", 21): Charset("gbk", None, "gb2312"),
    ("zh", 30): Charset("gb18030", None, None),
    ("ja", 1): Charset("shift_jis", None, "Shift_JIS"),
    ("ja", 2): Charset("euc_jp", "EUC-JP", None),
    ("ru", 1): Charset("cp1251", None, "windows-1251"),
    ("ru", 2): Charset("cp1251", None, None),
    ("th", 1): Charset("utf-8", None, None),
    ("ar", 1): Charset("cp1256", "windows-1256", None),
    ("en", 60): Charset("utf-16", "utf-16", None),
}
TRANSPORTS = {
    ("en", 2): ("chunked",),
    ("en", 9): ("gzip",),
    ("en", 16): ("br",),
    ("en", 23): ("gzip", "chunked"),
    ("zh", 5): ("br", "chunked"),
    ("de", 2): ("chunked",),
}
# Pages that look like something else until they are looked at closely.
DISGUISES = {("en", 30): "xhtml", ("en", 37): "no content type", ("en", 44): "begins with a script"}


def good_pages(seed: int) -> list[Good]:
    """Every good page of the demo, sites and topics in order."""
    pages = []
    for site in SITES:
        articles = [
            a for topic in site.topics for a in compose(site.language, topic, PAGES_PER_TOPIC[site.language], seed)
        ]
        for n, article in enumerate(articles):
            pages.append(Good(site, _url(site, article, n), f"2024-03-{1 + len(pages) % 28:02}", article))
    return pages


def _url(site: Site, article: Article, n: int) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", f"{article.title.lower()} {n}").strip("-")
    if site.layout is WEBLOG:
        return f"https://{site.host}/2024/03/{slug}/"
    if site.layout is NEWSPAPER:
        return f"https://www.{site.host}/news/{1000 + 7 * n}"
    if site.layout is FORUM:
        return f"https://{site.host}/viewtopic.php?f=2&t={310 + n}"
    if site.layout is MANUAL:
        return f"https://{site.host}/latest/{slug}.html"
    return f"http://{site.host}/page{n + 1}.htm"


def responses(pages: list[Good]) -> list[Response]:
    """One response for each page: plain UTF-8, unless a table above says otherwise (then `note` tells how)."""
    seen: dict[str, int] = {}
    answers = []
    for page in pages:
        language = page.site.language
        place = (language, seen.setdefault(language, 0))
        seen[language] += 1
        if charset := CHARSETS.get(place):
            answers.append(_in_charset(page, charset))
        elif transport := TRANSPORTS.get(place):
            answers.append(_transported(page, transport))
        elif disguise := DISGUISES.get(place):
            answers.append(_disguised(page, disguise))
        else:
            answers.append(as_utf8(page))
    return answers


def as_utf8(page: Good) -> Response:
    """The page as most are sent: UTF-8, and nothing done to it."""
    return Response(page.url, "good", html(page).encode(), page.site.language)


def html(page: Good, meta: str = META_UTF8) -> str:
    """The page as its site shows it."""
    return render(page.site, page.article, page.date, meta)


def _in_charset(page: Good, charset: Charset) -> Response:
    meta = f'<meta http-equiv="Content-Type" content="text/html; charset={charset.in_page}">' if charset.in_page else ""
    body = html(page, meta).encode(charset.codec, errors="xmlcharrefreplace")
    declared = f"text/html; charset={charset.in_header}" if charset.in_header else "text/html"
    note = f"{charset.codec}, header says {charset.in_header}, page says {charset.in_page}"
    return Response(page.url, "good", body, page.site.language, note, headers=(("Content-Type", declared),))


def _transported(page: Good, transport: tuple[str, ...]) -> Response:
    body = html(page).encode()
    headers = [("Content-Type", HTML)]
    if "gzip" in transport:
        body = gzip.compress(body, mtime=0)
        headers.append(("Content-Encoding", "gzip"))
    if "br" in transport:
        body = brotli.compress(body)
        headers.append(("Content-Encoding", "br"))
    if "chunked" in transport:
        body = _chunked(body, 1000)
        headers.append(("Transfer-Encoding", "chunked"))
    return Response(page.url, "good", body, page.site.language, " ".join(transport), headers=tuple(headers))


def _chunked(body: bytes, size: int) -> bytes:
    chunks = (body[i : i + size] for i in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def _disguised(page: Good, disguise: str) -> Response:
    text = html(page)
    headers = [("Content-Type", HTML)]
    match disguise:
        case "xhtml":
            head = '<?xml version="1.0" encoding="utf-8"?>\n'
            text = head + text.replace("<html lang", '<html xmlns="http://www.w3.org/1999/xhtml" lang')
            headers = [("Content-Type", "application/xhtml+xml")]
        case "no content type":
            headers = []
        case _:
            text = "<script>var loaded = Date.now(); function later(f) { setTimeout(f, 50); }</script>\n" + text
    return Response(page.url, "good", text.encode(), page.site.language, disguise, headers=tuple(headers))


def exact_duplicates(originals: list[Good]) -> list[Response]:
    """The same bytes again: under tracking parameters, or on a mirror."""
    copies = []
    for i, page in enumerate(originals[:EXACT_DUPLICATES]):
        if i % 3 == 2:
            url = "https://mirror.example/" + page.url.split("://")[1]
        else:
            url = page.url + ("&" if "?" in page.url else "?") + f"utm_source=letter{i}&utm_medium=email"
        copies.append(Response(url, "exact_duplicate", html(page).encode(), page.site.language, page.url))
    return copies


def near_duplicates(originals: list[Good]) -> list[Response]:
    """The same article with a small edit, on its own site or in another site's clothes."""
    copies = []
    for i, page in enumerate(originals[:NEAR_DUPLICATES]):
        site = page.site
        if i % 5 == 4:
            site = site._replace(host="mirror.example", name="Mirror", layout=WEBLOG)
        url = f"https://{site.host}/again/{i}"
        body = render(site, nearly(page.article, i), "2024-05-17").encode()
        copies.append(Response(url, "near_duplicate", body, site.language, page.url))
    return copies
