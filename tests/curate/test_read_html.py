import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.curate.read.charset import decode
from tilth.curate.read.html import is_textual, kind_of

PAGES = {
    "doctype": b"<!DOCTYPE html><html><head><title>x</title></head><body>y</body></html>",
    "no doctype": b"<html><body>y</body></html>",
    "no html tag": b"<title>x</title><p>y",
    "xhtml with an XML prolog": b'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 '
    b'Strict//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd">\n<html xmlns="http://www.w3.org/1999/xhtml">',
    "xhtml without a doctype": b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body/></html>',
    "script first": b"<script>var a = {};</script><div>text</div>",
    "comment first": b"<!-- a long comment --><!-- and another --><html>",
    "processing instructions": b"<?php echo 1 ?>\n<!-- x -->\n<body>y",
    "byte order mark": b"\xef\xbb\xbf \r\n<html>",
    "white space": b"\r\n\t   \n" * 50 + b"<HTML>",
    "UTF-16": "\ufeff<html><body>语言</body></html>".encode("utf-16-le"),
    "UTF-16 unmarked": "<html><body>plain</body></html>".encode("utf-16-le"),
    "a tag of old": b"<br><font size=2>y</font>",
    "NULs inside": b"<html>\x00<body>\x00\x00y",
}
NO_PAGES = {
    "PDF": b"%PDF-1.4\n<html>",
    "PNG": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    "JPEG": b"\xff\xd8\xff\xe0\x00\x10JFIF",
    "GIF": b"GIF89a\x01\x00",
    "zip": b"PK\x03\x04\x14\x00",
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "JSON": b'{"html": "<p>x</p>", "items": [1, 2]}',
    "JSON array": b'[{"a": "<div>"}]',
    "RSS": b'<?xml version="1.0"?><rss version="2.0"><channel><title>x</title></channel></rss>',
    "Atom": b'<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><title>x</title></feed>',
    "RSS without prolog": b"<rss version='2.0'><channel><description>&lt;p></description></channel></rss>",
    "sitemap": b'<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"><url/></urlset>',
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><title>x</title><a/></svg>',
    "CSS": b"body, a:hover {\n  color: red;\n}\n.menu > li { margin: 0 }",
    "script": b"(function(){ document.write('<div>x</div>'); })();",
    "script with var": b"var a = '<p>';\nvar b = 2;",
    "jQuery": b"jQuery(document).ready(function() { $('<b>'); });",
    "nothing": b"",
    "noise": bytes(range(256)) * 20,
}


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(
    "declared", ["text/html", "application/xhtml+xml", None, "text/plain", "application/octet-stream"]
)
def test_a_page_is_told_whatever_is_declared(name, declared):
    assert kind_of(declared, PAGES[name]) == "html"


@pytest.mark.parametrize(
    "declared", ["image/gif", "application/json", "text/css", "application/javascript", "text/xml"]
)
def test_a_whole_page_under_a_foreign_type_is_a_page(declared):
    assert kind_of(declared, PAGES["doctype"]) == "html"
    assert kind_of(declared, PAGES["xhtml with an XML prolog"]) == "html"


@pytest.mark.parametrize("name", NO_PAGES)
@pytest.mark.parametrize("declared", ["text/html", None, "application/octet-stream", "text/plain"])
def test_what_is_no_page_is_not_taken_for_one(name, declared):
    assert kind_of(declared, NO_PAGES[name]) != "html"


def test_text_before_the_markup_costs_no_declared_page():
    assert kind_of("text/html", b"Warning: mysql_connect() in line 3\n<html><body>y") == "html"
    assert kind_of("text/html", b"Some text, then <p>a paragraph</p>") == "html"
    assert kind_of(None, b"Some text, then <p>a paragraph</p>") == "html"
    assert kind_of("text/plain", b"In HTML, write <p> before a paragraph.") != "html"


def test_plain_text_is_text_and_markup_languages_are_not():
    assert kind_of("text/plain", "Ein Satz. 一句话。".encode()) == "text"
    assert kind_of("text/html", b"Only a sentence.") == "text"
    assert kind_of("text/plain", "Satz mit Umlauten: äöü".encode("cp1252")) == "text"
    assert kind_of("application/json", b'{"a": 1}') == "other"
    assert kind_of("text/plain", b'{"a": 1}') == "other"
    assert kind_of("text/css", b"/* x */ p { }") == "other"


@given(st.none() | st.sampled_from(["text/html", "text/plain", "application/json"]) | st.text(max_size=20), st.binary())
def test_any_bytes_are_of_some_kind(declared, body):
    assert kind_of(declared, body) in ("html", "text", "other")
    is_textual(body)


RUSSIAN = "Все люди рождаются свободными и равными в своём достоинстве и правах, и наделены разумом."
CHINESE = "他们带着古老的地图穿过山谷，在黄昏之前找到了那座桥，桥下的水很急，没有人说话。"
TRADITIONAL = "他們帶著古老的地圖穿過山谷，在黃昏之前找到了那座橋，橋下的水很急，沒有人說話。"
JAPANESE = "彼らは古い地図を持って谷を渡り、夕方までにその橋を見つけた。だれも話さなかった。"
KOREAN = "그들은 오래된 지도를 들고 골짜기를 건너 해가 지기 전에 다리를 찾았고 아무도 말하지 않았다."
GERMAN = "Die Männer fanden die Brücke über den Fluß, früh am Morgen, als es noch kühl und schön war."
POLISH = "Zażółć gęślą jaźń, powiedział ktoś nad rzeką, gdzie łódź czekała już od świtu przy brzegu."


@pytest.mark.parametrize(
    ("text", "charset"),
    [
        (RUSSIAN, "windows-1251"),
        (RUSSIAN, "koi8-r"),
        (RUSSIAN, "ibm866"),
        (RUSSIAN, "iso-8859-5"),
        (CHINESE, "gb2312"),
        (CHINESE, "gbk"),
        (CHINESE, "gb18030"),
        (CHINESE, "hz-gb-2312"),
        (TRADITIONAL, "big5"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "x-sjis"),
        (JAPANESE, "euc-jp"),
        (JAPANESE, "iso-2022-jp"),
        (KOREAN, "euc-kr"),
        (KOREAN, "ks_c_5601-1987"),
        (GERMAN, "iso-8859-1"),
        (GERMAN, "latin1"),
        (GERMAN, "us-ascii"),
        (POLISH, "iso-8859-2"),
        (POLISH, "windows-1250"),
        ("“Quoted” – and dashed…", "iso-8859-1"),
    ],
)
@pytest.mark.parametrize("where", ["header", "meta", "xml"])
def test_a_declared_charset_is_followed_with_the_meaning_that_the_web_gives_it(text, charset, where):
    codec = {"hz-gb-2312": "hz", "x-sjis": "cp932", "us-ascii": "cp1252", "iso-8859-1": "cp1252", "latin1": "cp1252"}
    head = {
        "header": "<html>",
        "meta": f'<html><meta http-equiv="Content-Type" content="text/html; charset={charset}">',
        "xml": f"<?xml version='1.0' encoding='{charset}'?><html>",
    }[where]
    page = f"{head}<p>{text}</p></html>"
    assert decode(page.encode(codec.get(charset, charset)), charset if where == "header" else None)[0] == page


@pytest.mark.parametrize(
    ("text", "charset"),
    [
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (CHINESE, "gb18030"),
        (TRADITIONAL * 3, "big5"),
        (JAPANESE, "cp932"),
        (JAPANESE, "euc_jp"),
        (KOREAN, "cp949"),
        (GERMAN, "cp1252"),
        ("Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.", "cp1253"),
    ],
)
@pytest.mark.parametrize("declared", [None, "iso-8859-1", "utf-8", "ascii", "no-such-charset"])
def test_a_wrong_or_missing_declaration_is_found_out(text, charset, declared):
    page = f"<html><body><p>{text}</p><p>{text}</p></body></html>"
    assert decode(page.encode(charset), declared)[0] == page


@pytest.mark.parametrize(
    "declared", ["iso-8859-1", "gb2312", "windows-1251", "shift_jis", "big5", "utf-16", "rot13", None]
)
@pytest.mark.parametrize("text", [RUSSIAN, CHINESE, GERMAN, "café", "naïve – “quotes”"])
def test_bytes_that_are_utf8_are_utf8_whatever_is_declared(declared, text):
    assert decode(text.encode(), declared) == (text, "utf-8")


def test_utf8_cut_short_or_with_a_few_broken_bytes_is_utf8():
    assert decode(CHINESE.encode()[:-1], None) == (CHINESE[:-1] + "\ufffd", "utf-8")
    broken = (GERMAN * 4).encode().replace("ß".encode(), b"\xdf", 1)
    assert decode(broken, "utf-8") == ((GERMAN * 4).replace("ß", "\ufffd", 1), "utf-8")


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_with_or_without_a_mark_is_read(codec):
    page = f"<html><body>plain letters and {RUSSIAN[:10]}</body></html>"
    assert decode(page.encode(codec), "iso-8859-1")[0] == page


@given(
    st.binary(),
    st.none() | st.sampled_from(["utf-8", "gbk", "hz", "idna", "zlib", "unicode_escape"]) | st.text(max_size=9),
)
def test_any_bytes_and_declaration_give_sound_text(body, declared):
    text, charset = decode(body, declared)
    text.encode()
    assert "\0" not in text
    assert "x".encode(charset)


@given(st.text())
def test_any_text_comes_back_from_utf8_but_for_nuls(text):
    sound = text.encode("utf-8", "replace").decode()
    expected = sound.removeprefix("\ufeff").replace("\0", "")
    if "\x1b$" not in sound and "\0" not in sound[:1024]:
        assert decode(sound.encode(), "latin1")[0] == expected
