"""Bytes to text: the charset is declared, then doubted, then detected.

Declarations on the web are often those of a server's default. Bytes that are UTF-8 beyond doubt are UTF-8 whatever is
declared; any other declared charset counts if the bytes can be text in it.
"""

import codecs
import re

from tilth.document import sound_text

# Labels of the WHATWG encoding standard that Python names otherwise, or where the web means a larger charset.
_WEB: dict[str, str] = {
    **dict.fromkeys(("iso8859-1", "ascii", "x-user-defined", "ansi", "x-cp1252"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk", "x-gbk", "gb-2312", "hz-gb-2312"), "gb18030"),
    **dict.fromkeys(("shift_jis", "x-sjis", "shift-jis", "x-shift-jis", "windows-31j"), "cp932"),
    **dict.fromkeys(("euc_kr", "johab-ks", "windows-949", "ks_c_5601", "ksc_5601"), "cp949"),
    **dict.fromkeys(("big5", "x-x-big5", "cn-big5", "big-5"), "big5hkscs"),
    **dict.fromkeys(("iso8859-9",), "cp1254"),
    **dict.fromkeys(("iso8859-11", "tis-620", "windows-874", "dos-874", "x-windows-874"), "cp874"),
    **dict.fromkeys(("iso-8859-8-i", "logical", "visual"), "iso8859-8"),
    **dict.fromkeys(("x-euc-jp",), "euc_jp"),
    **dict.fromkeys(("x-mac-cyrillic", "x-mac-ukrainian"), "mac-cyrillic"),
    **dict.fromkeys(("x-mac-roman",), "mac-roman"),
    **dict.fromkeys(("x-cp1250",), "cp1250"),
    **dict.fromkeys(("x-cp1251", "win-1251", "win1251"), "cp1251"),
    **dict.fromkeys(("unicode-1-1-utf-8", "x-unicode20utf8", "utf-8-sig", "utf", "unicode"), "utf-8"),
    # A declaration that can be read as ASCII cannot be true of UTF-16.
    **dict.fromkeys(("utf-16", "utf-16-le", "utf-16-be", "utf-32", "ucs-2"), "utf-8"),
}
_REFUSED = {"utf-7", "idna", "punycode", "unicode_escape", "raw_unicode_escape", "unicode-escape", "raw-unicode-escape"}
_MULTIBYTE = {"gb18030", "cp932", "cp949", "big5hkscs", "euc_jp"}
_STATEFUL = ("iso2022_jp", "hz")  # seven-bit charsets
# What the detector may be believed: it also names charsets that were never used on the web.
_DETECTABLE = {
    *_MULTIBYTE, "iso2022_jp", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874",
    "cp866", "koi8-r", "koi8-u", "iso8859-2", "iso8859-5", "iso8859-6", "iso8859-7", "iso8859-8", "mac-cyrillic",
}  # fmt: skip
_LATIN = {"cp1250", "cp1254", "cp1257", "cp1258", "iso8859-2"}
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_META = re.compile(rb"<meta\s[^>]{0,300}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_XML = re.compile(rb"\s*<\?xml\s[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]+)", re.IGNORECASE)
_HIGH = re.compile(rb"[\x80-\xff]+")
_DECLARED_WITHIN = 4096
_SAMPLE = 64 * 2**10


def decode(body: bytes, declared: str | None = None) -> tuple[str, str]:
    """The text of a body, and the Python codec it was decoded with; `declared` is the charset of the HTTP header.

    In order: byte order mark, UTF-8 if the bytes are (a few broken ones allowed), the declared charset, that of a
    `<meta>` or `<?xml?>` in the first 4 KiB, a detected one, Windows-1252. Total: bytes that are wrong in the end
    become U+FFFD, NULs are taken out.
    """
    for mark, codec in _BOMS:
        if body.startswith(mark):
            text = body[len(mark) :].decode(codec, "replace")
            return sound_text(text), codec
    labels = [codec for codec in map(_codec, (declared, *_labels_within(body[:_DECLARED_WITHIN]))) if codec]
    if body.isascii():
        return _decode_ascii(body, labels)
    codec = _wide(body)
    if codec:
        return sound_text(body.decode(codec, "replace")), codec
    for codec in ("utf-8", *labels):
        text = _fitting(body, codec)
        if text is not None:
            return sound_text(text), codec
    codec = _detected(body)
    return sound_text(body.decode(codec, "replace")), codec


def _decode_ascii(body: bytes, labels: list[str]) -> tuple[str, str]:
    codec = _wide(body)
    if codec is None and b"\x1b$" in body:
        codec = "iso2022_jp_ext"
    if codec is None and "hz" in labels:
        codec = "hz"
    return sound_text(body.decode(codec or "ascii", "replace")), codec or "utf-8"


def _labels_within(head: bytes) -> list[str]:
    found = [*_META.findall(head)[:1], *_XML.findall(head)[:1]]
    return [label.decode("ascii", "replace") for label in found]


def _codec(label: str | None) -> str | None:
    """Python's codec for a charset's label, None for what is no charset."""
    label = (label or "").strip().lower()
    if not label:
        return None
    if label in ("hz-gb-2312", "hz"):
        return "hz"
    name = _WEB.get(label)
    if name is None:
        try:
            info = codecs.lookup(label)
        except (LookupError, ValueError):
            return None
        if not getattr(info, "_is_text_encoding", True) or info.name in _REFUSED:
            return None
        name = _WEB.get(info.name, info.name)
    return name


def _wide(body: bytes) -> str | None:
    """UTF-16 without a byte order mark, known by the zeros of its ASCII letters."""
    head = body[:1024]
    half = max(len(head) // 2, 1)
    if head[1::2].count(0) > half * 0.4 and not head[0::2].count(0):
        return "utf-16-le"
    if head[0::2].count(0) > half * 0.4 and not head[1::2].count(0):
        return "utf-16-be"
    return None


def _fitting(body: bytes, codec: str) -> str | None:
    """The text if the bytes can be text in that charset: decoded whole, or but for one character in ten that is not
    ASCII, and with high bytes as that kind of charset has them."""
    if codec != "utf-8" and not _plausible(body, codec):
        return None
    errors = "surrogatepass" if codec == "utf-8" else "strict"  # Java and old databases write emoji as two surrogates
    try:
        return body.decode(codec, errors)
    except UnicodeDecodeError as error:
        if codec == "utf-8" and error.start > len(body) - 4 and error.reason == "unexpected end of data":
            return body[: error.start].decode(codec, errors) + "\ufffd"
        text = body.decode(codec, "replace")
        bad = text.count("\ufffd")
        good = len(text) - bad - len(text.encode("ascii", "ignore"))
        return text if bad * 10 <= good else None
    except UnicodeError:
        return None


def _plausible(body: bytes, codec: str) -> bool:
    """False where high bytes stand together though the charset is a Western one, or apart though it is Chinese,
    Japanese or Korean. Letters with accents are seldom neighbours; two bytes make one of those characters."""
    if codec != "cp1252" and codec not in _MULTIBYTE:
        return True
    runs = _HIGH.findall(body)
    high = sum(map(len, runs))
    together = sum(len(run) for run in runs if len(run) > 1)
    if high < 8:
        return True
    return together < high * 0.5 if codec == "cp1252" else together > high * 0.2


def _detected(body: bytes) -> str:
    import cchardet
    from resiliparse.parse.encoding import detect_encoding

    first = _HIGH.search(body)
    start = max(first.start() - 1000, 0) if first else 0
    sample = body[start : start + _SAMPLE]
    # cchardet knows Korean, which resiliparse's build does not; where it says UTF-8, which is ruled out by now, it has
    # no answer, and resiliparse may (for Big5 it does). About Latin letters the two must not differ.
    labels = cchardet.detect(sample)["encoding"], detect_encoding(sample)
    first, second = (_as_written(_codec(label), sample) for label in labels)
    codec = second if first in (None, "utf-8") or (first in _LATIN and second == "cp1252") else first
    if codec in _DETECTABLE and _plausible(body, codec):
        return codec
    return "cp1252" if _plausible(body, "cp1252") else "cp1251"  # of the others the most frequent by far


def _as_written(codec: str | None, sample: bytes) -> str | None:
    """What was meant by the charsets that hold the letters of Central Europe."""
    if codec == "iso8859-16" and re.search(rb"[\xba\xfe]", sample):
        codec = "cp1250"  # Romanian; these are two of its letters
    if codec == "cp1250" and not re.search(rb"[\x80-\x9f]", sample):
        codec = "iso8859-2"  # Windows text has letters and marks of its own between 80 and 9F
    return codec
