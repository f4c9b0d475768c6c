"""What a body is, told from its declared type and its first bytes together."""

import codecs
import re

_BINARY = (
    b"%PDF-", b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"OggS",
    b"ID3", b"\x00\x00\x01\x00", b"\x7fELF", b"MZ", b"\xd0\xcf\x11\xe0", b"Rar!", b"7z\xbc\xaf", b"BZh", b"\xfd7zXZ",
    b"\x28\xb5\x2f\xfd", b"wOFF", b"wOF2", b"OTTO", b"\x00\x01\x00\x00", b"II*\x00", b"MM\x00*", b"%!PS", b"{\\rtf",
    b"FLV\x01", b"\x1aE\xdf\xa3", b"SQLite format 3", b"WARC/", b"FWS", b"CWS",
)  # fmt: skip
_BOMS = {
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16's, which it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_TAGS = (
    "html head body title meta link base script noscript style div span p a abbr address article aside b big br button "
    "blockquote canvas caption center code dd details dl dt em fieldset figure font footer form frame frameset h1 h2 "
    "h3 h4 h5 h6 header hr i iframe img input label li main map marquee nav object ol option pre q s section select "
    "small strike strong sub sup table tbody td textarea tfoot th thead tr tt u ul video"
).replace(" ", "|")
_TAG = re.compile(rf"</?(?:{_TAGS})(?=[\s/>])".encode(), re.IGNORECASE)
_PAGE_TAG = re.compile(rb"<(?:!doctype\s+html|html|head|body)(?=[\s/>])", re.IGNORECASE)
_PROLOG = re.compile(rb"[\s\x00]*(?:<\?[^>]*>|<!--|<!doctype(?!\s+html)[^>\[]*+(?:\[[^\]]*\])?[^>]*>)", re.IGNORECASE)
_CODE_TYPES = ("javascript", "ecmascript", "json", "text/css", "x-sh", "font", "wasm")
_CODE = re.compile(
    rb"[\s;]*(?:[\[{]\s*[\"\[{\]}\d-]|\(\s*function|!function|function[\s(]|var\s|let\s|const\s|window\.|document\.|"
    rb"['\"]use strict|/\*|//|import\s|@charset|@import|@media|[.#]?[\w-]+(?:[\s,>+~.#:]+[\w-]+)*\s*\{|jQuery|\$\()",
)
_JSON = re.compile(rb"\s*(?:\{\s*(?:\"[^\"]*\"\s*:|\})|\[\s*(?:[\[{\"\d]|\]))")
_HEAD = 64 * 2**10  # bytes that are looked at


def kind_of(content_type: str | None, body: bytes) -> str:
    """`html`, `text` (prose or other plain text) or `other` (binary, XML of other kinds, JSON, scripts, styles).

    A page is known by markup at its beginning, after any byte order mark, XML declaration, doctype and comments,
    whatever type is declared. Where text/html is declared, or nothing is, markup further down is enough, so that text
    before it, or a warning that some program printed there, costs no page. Total on any type and any bytes.
    """
    declared = content_type or ""
    head = _ascii_head(body)
    start = _after_prolog(head)
    if _begins_page(head, start, declared):
        return "html"
    if head.startswith(_BINARY) or _xml_root(head, start) or not is_textual(body):
        return "other"
    if any(name in declared for name in _CODE_TYPES) or declared.startswith(("image/", "audio/", "video/")):
        return "other"
    code = _CODE.match(head, 0, 2000)
    if declared in ("", "text/html", "application/xhtml+xml") and (
        _PAGE_TAG.search(head) or (_TAG.search(head) and not code)
    ):
        return "html"
    return "other" if _JSON.match(head) or (code and declared != "text/plain") else "text"


def begins_page(body: bytes) -> bool:
    """True if the first thing in it, after declarations and comments, is a page's own markup: surely HTML."""
    head = _ascii_head(body)
    return bool(_PAGE_TAG.match(head, _after_prolog(head)))


def is_textual(body: bytes) -> bool:
    """True unless the body is compressed or otherwise binary. Legacy charsets and UTF-16 are text."""
    head = _ascii_head(body)[:4096]
    return not head.startswith(_BINARY) and len(_CONTROL.findall(head)) * 50 <= len(head)


def _ascii_head(body: bytes) -> bytes:
    """The beginning without byte order mark, UTF-16 and UTF-32 as ASCII."""
    head = body[:_HEAD].removeprefix(codecs.BOM_UTF8)
    for mark, encoding in _BOMS.items():
        if head.startswith(mark):
            return _narrow(head[len(mark) :], encoding)
    if head[:1] and head[1:2] == b"\0" and head[3:4] == b"\0":
        return _narrow(head, "utf-16-le")
    if head[:1] == b"\0" and head[2:3] == b"\0" and head[1:2] not in (b"", b"\0"):
        return _narrow(head, "utf-16-be")
    return head


def _narrow(head: bytes, encoding: str) -> bytes:
    return head.decode(encoding, "replace").encode("ascii", "replace")


def _after_prolog(head: bytes) -> int:
    """Where the first thing stands that is neither declaration nor comment."""
    at = 0
    while match := _PROLOG.match(head, at):
        at = match.end()
        if head[match.end() - 4 : match.end()] == b"<!--":
            closed = head.find(b"-->", at)
            if closed < 0:
                break  # browsers end a comment that is never closed at the end of the page: it hides all of it
            at = closed + 3
    while at < len(head) and head[at] in b" \t\r\n\f\0":
        at += 1
    return at


def _begins_page(head: bytes, start: int, declared: str) -> bool:
    if _PAGE_TAG.match(head, start):
        return True
    if any(name in declared for name in _CODE_TYPES):
        return False  # a script may begin with a comment sign or a tag of its own
    return bool(_TAG.match(head, start))


def _xml_root(head: bytes, start: int) -> bool:
    """True for an XML document that is no page: a feed, a sitemap, a drawing."""
    root = re.match(rb"<([A-Za-z_][\w.:-]*)", head[start : start + 100])
    if not root or _PAGE_TAG.search(head):
        return False
    known = (b"rss", b"feed", b"urlset", b"sitemapindex", b"rdf:rdf", b"svg", b"opml", b"error", b"response")
    return head.lstrip()[:5] == b"<?xml" or b"xmlns" in head[start : start + 2000] or root.group(1).lower() in known
