"""Hostile input, made and not kept: files of every kind that a crawl may hold and nobody should have written."""

import codecs
import gzip
import json
from collections.abc import Iterator

from warcs import record, response

SENTENCE = "The gardener turned the heavy soil before the first frost came over the hills. "
CHINESE = "秋天的时候，农夫翻动沉重的土壤，准备来年的春天。"
MB = 1_000_000


def hostile_pages() -> dict[str, bytes]:
    """Files by name: loose pages, JSON lines (`html`, `url`, `seen`, `title`) and WARC; none is empty."""
    return {
        **{f"{name}.html": _html(body) for name, body in _markup()},
        **{f"{name}.html": body for name, body in _bytes()},
        "rows.jsonl": b"\n".join(_rows()) + b"\n",
        "pages.warc": b"".join(_records()),
        "pages.warc.gz": b"".join(gzip.compress(one, mtime=0) for one in _records()),
    }


def records_in(name: str, data: bytes) -> int:
    """How many records the reader must account for."""
    if name.endswith(".jsonl"):
        return sum(bool(line.strip()) for line in data.split(b"\n"))
    return len(list(_records())) if ".warc" in name else 1


def _html(body: str) -> bytes:
    return f"<!DOCTYPE html><html><body><p>{SENTENCE * 3}</p>{body}".encode()


def _markup() -> Iterator[tuple[str, str]]:
    yield "ten-megabytes-of-nested-divs", "<div>" * (2 * MB - 100)
    yield "nested-divs-with-text", "<div>a " * 20_000
    yield "never-closed", "<table><tr><td><ul><li><b><i><blockquote>" * 3000
    yield "nested-tables", "<table><tr><td>cell " * 5000
    yield "nested-inline-tags", "<b><i><span><em><a href=x>word " * 4000
    yield "nested-lists-and-quotes", "<blockquote><ul><li>item " * 5000 + "</li></ul></blockquote>" * 5000
    yield "wrongly-nested", "<p><b><div></p></b><table></div><i></table>text" * 3000
    yield (
        "one-attribute-of-a-megabyte",
        f'<p title="{"x" * MB}">{SENTENCE}</p><a href="{"/y" * (MB // 2)}">{SENTENCE}</a>',
    )
    yield "many-attributes", f"<p {' '.join(f'a{number}=v' for number in range(20_000))}>{SENTENCE}</p>"
    yield "one-tag-name-of-a-megabyte", f"<{'x' * MB}>{SENTENCE}"
    yield "forms", "<form action=x><input name=a value=b><select><option>c" * 5000
    yield "scripts", "<script>if (a < b) { document.write('<p>') }</script>" * 5000 + SENTENCE * 5
    yield "scripts-never-closed", "<script>var a = '</p>';" * 5000
    yield "paragraphs-never-closed", "<p>paragraph without an end " * 150_000
    yield "links", f"{SENTENCE}<a href=x>{SENTENCE}</a>" * 3000
    yield "comments", "<!-- a -- b --!> <!--> <!---> <!-" * 2000 + SENTENCE + "<!-- never closed " + SENTENCE
    yield "cdata", "<![CDATA[ a ]]> ]]> <![CDATA[ <p>b</p>" * 2000 + SENTENCE
    yield "processing-instructions", "<?php echo '?>'; ?><?xml " * 3000 + SENTENCE
    yield "headings", "<h1>a</h1><h7>b</h7>" * 20_000
    yield "breaks", "<br>" * 50_000 + SENTENCE * 5
    yield "colspan-beyond-all-tables", "<table><tr><td colspan=9000000000000000>a<td rowspan=-1>b<td colspan=²>c"
    yield "a-row-of-200000-columns", f"<table><tr>{'<td colspan=200000>a' * 20}{'<td>column' * 20_000}</table>"
    yield "a-line-of-200000-columns", f"<p>{'column ' * 28_572}</p>"
    yield "a-word-of-two-megabytes", f"<p>{'x' * 2 * MB}</p>"
    yield "entities", f"<p>{'&#xD800;&#55357;&#0;&#x110000;&#99999999999;&bogus;&amp&lt;' * 2000}{SENTENCE * 3}</p>"
    yield "right-to-left", f"<p>{chr(0x202E)}{SENTENCE * 3}{chr(0x202C)}مرحبا بالعالم </p>" * 50
    yield "zero-width-inside-words", f"<p>{chr(0x200B).join(SENTENCE * 20)}</p>"
    yield "combining", f"<p>a{chr(0x301) * 100_000} {SENTENCE * 3}</p>"
    yield "emoji", f"<p>{'👨‍👩‍👧‍👦🏳️‍🌈' * 20_000}</p>"
    yield "json-ld", '<script type="application/ld+json">' + '{"@graph":[' * 10_000 + f"</script>{SENTENCE * 3}"
    yield "many-dates", f"<time datetime='2020-01-{'0' * 1000}1'>{SENTENCE}</time>" * 1000


def _bytes() -> Iterator[tuple[str, bytes]]:
    page = f"<html><head><title>Soil</title></head><body><p>{SENTENCE * 3}{CHINESE * 3}</p></body></html>"
    plain = page.encode()
    yield "nul-bytes", plain.replace(b" ", b"\0 \0")
    yield "only-nul-bytes", b"\0" * MB
    yield (
        "surrogates-as-cesu-8",
        plain.replace(b"soil", "so\ud800il\udfff \ud83d\ude00".encode("utf-8", "surrogatepass")),
    )
    yield (
        "surrogates-in-utf-16",
        codecs.BOM_UTF16_LE + page.replace("soil", "s\udc00\ud800l").encode("utf-16-le", "surrogatepass"),
    )
    yield "overlong-utf-8", plain.replace(b"soil", b"s\xc0\xaf\xe0\x80\xaf\xf5\x80\x80\x80il\xed\xa0")
    yield (
        "billion-laughs",
        (
            "<!DOCTYPE html ["
            + '<!ENTITY a "lol">'
            + "".join(f'<!ENTITY {chr(n + 1)} "{f"&{chr(n)};" * 10}">' for n in range(ord("a"), ord("j")))
            + f"]><html><body><p>{SENTENCE * 3}&j;</p></body></html>"
        ).encode(),
    )
    yield (
        "external-entity",
        (
            b'<?xml version="1.0"?><!DOCTYPE html [<!ENTITY x SYSTEM "file:///etc/passwd">'
            b'<!ENTITY % y SYSTEM "http://localhost:1/"> %y;]><html xmlns="http://www.w3.org/1999/xhtml"><body><p>&x; '
            + (SENTENCE * 3).encode()
            + b"</p></body></html>"
        ),
    )
    yield "a-doctype-that-never-ends", b"<!doctype " + b"x" * MB
    yield "an-instruction-that-never-ends", b"<?xml " + b"x" * MB
    yield "a-comment-that-hides-all", b"<!-- " + plain
    for codec, mark in (("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE)):
        yield codec, page.encode(codec)
        yield f"{codec}-with-mark", mark + page.encode(codec)
        yield f"{codec}-of-odd-length", mark + page.encode(codec) + b"<"
    for codec, mark in (("utf-32-le", codecs.BOM_UTF32_LE), ("utf-32-be", codecs.BOM_UTF32_BE)):
        yield codec, page.encode(codec)
        yield f"{codec}-with-mark", mark + page.encode(codec)
    yield "utf-7", b'<html><meta charset="utf-7"><body>' + page.encode("utf-7") + b"+ADw-script+AD4-"
    yield "utf-7-with-mark", b"+/v8-" + page.encode("utf-7")
    yield "only-a-byte-order-mark", codecs.BOM_UTF8
    latin = (SENTENCE * 3 + "é ü ß").encode("latin-1")
    for label in ("klingon", "x" * 3000, "base64", "rot13", "zlib_codec", "idna", "undefined", "utf-16", "mbcs", "%00"):
        yield f"charset-{label[:12]}", f'<html><meta charset="{label}"><body><p>'.encode() + latin
    yield "no-body", b"<html><head><title>Nothing</title></head><body></body></html>"
    yield "only-white-space", b" \r\n\t\x0b\x0c" * 1000
    yield "only-zero-width-characters", "\u200b\u200c\u200d\u2060\ufeff\u202e\u202d".encode() * 1000
    yield "only-line-separators", "\u2028\u2029\x85\x1c\x1d".encode() * 1000 + b"word"
    yield "plain-text-in-one-line", SENTENCE.encode() * (3 * MB // len(SENTENCE))
    yield "chinese-in-one-line", CHINESE.encode() * (MB // 75)
    yield "every-byte", bytes(range(256)) * 100
    yield "high-bytes", b"<p>" + bytes(range(128, 256)) * 2000
    yield "gzip", gzip.compress(plain, mtime=0)
    yield "gzip-cut-off", gzip.compress(plain, mtime=0)[:-20]
    yield "gzip-of-gzip", gzip.compress(gzip.compress(plain, mtime=0), mtime=0)
    yield "gzip-bomb", gzip.compress(bytes(100 * MB), mtime=0)
    yield "only-the-gzip-mark", b"\x1f\x8b\x08"
    yield "only-the-zstd-mark", b"\x28\xb5\x2f\xfd"
    yield "an-image", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 50


def _rows() -> Iterator[bytes]:
    good = f"<html><body><p>{SENTENCE * 3}</p></body></html>"
    for soil in ("s\0l", "s\ud800l\udfff", "\u202e"):
        yield json.dumps({"html": good.replace("soil", soil), "title": soil}).encode()
    for html in ("\0", "\ud800", "", " ", "\u202e"):
        yield json.dumps({"html": html, "url": "http://a.example/\0\ud800"}).encode()
    for html in (None, 7, [good], {"html": good}, True):
        yield json.dumps({"html": html}).encode()
    for seen in (
        1e300, -1e300, 10**400, 253402300800, -62135596801, float("nan"), float("inf"), -1, True, [], "99999-13-45",
        "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "20249999999999", "٢٠٢٤", "\ud800", "2024-02-30",
        -62135596800, 253402300799, "00000000",
    ):  # fmt: skip
        yield json.dumps({"html": good, "seen": seen}).encode()
    for url in ("http://" + "a." * 50_000, "x" * 100_000, "http://[::1", "http://a:99999/", "//", "\u202ehttp://a/", 5):
        yield json.dumps({"html": good, "url": url}).encode()
    yield b'{"html": "raw nul \0 in a string"}'
    yield b'{"html": "raw surrogate \xed\xa0\x80 and \xff"}'
    yield b"[" * 200_000
    yield b'{"a":' * 200_000
    yield b'{"html": 1' + b"0" * 5000 + b"}"
    yield b'{"html": "<p>cut off'
    yield b"\xef\xbb\xbf{}"
    yield b"\0"
    yield b"nothing of that kind"


def _records() -> Iterator[bytes]:
    good = f"<html><body><p>{SENTENCE * 3}</p></body></html>".encode()
    urls = (
        "http://a.example/" + "b" * 100_000,
        "http://a.example/\x01\x08\x1b[31m\x7f",
        "http://a.example/\rWARC-Type: revisit",
        "http://a.example/\u202e\u200b",
        "http://a.example/?" + "%" * 50_000,
        "http://" + ".".join(["a"] * 50_000),
        "http://[",
        "javascript:alert(1)",
        "http://xn--" + "9" * 5000 + "/",
        "<>",
    )
    for url in urls:
        yield response(url, good)
    for at, date in enumerate(("9999-99-99T99:99:99Z", "0000-00-00T00:00:00Z", "10000-01-01", "-1", "\x7f", "2024")):
        yield record("response", f"http://a.example/{at}", b"HTTP/1.1 200 OK\r\n\r\n" + good, WARC_Date=date)
    for content_type in (
        "text/html; charset=" + "x" * 10_000,
        "text/html; charset=\x00",
        ";;;",
        "a/" * 5000,
        "image/png",
    ):
        yield response("http://a.example/type", good, Content_Type=content_type)
    yield response("http://a.example/empty", b"")
    yield response("http://a.example/members", gzip.compress(b"", mtime=0) * 400_000, Content_Encoding="gzip")
    yield response("http://a.example/bomb", gzip.compress(bytes(50 * MB), mtime=0), Content_Encoding="gzip")
    yield response("http://a.example/codings", good, Content_Encoding=", ".join(["gzip", "br"] * 2000))
    yield response("http://a.example/chunks", b"1\r\na\r\n" * 100_000, Transfer_Encoding="chunked")
    yield response("http://a.example/chunk", b"f" * 16 + b"\r\n" + good, Transfer_Encoding="chunked")
    folded = b"HTTP/1.1 200 OK\r\nX-Folded: a\r\n" + b" b\r\n" * 600_000 + b"\r\n" + good
    yield record("response", "http://a.example/folded", folded)
    yield record("response", "http://a.example/status", b"HTTP/1.1 200" + b" " * MB)
    yield record("conversion", "http://a.example/text", b"\0\xff\xed\xa0\x80 text " * 100, "text/plain")
    yield record("no such type", "http://a.example/kind", good)
    yield record("response", None, b"HTTP/1.1 200 OK\r\n\r\n" + good)
