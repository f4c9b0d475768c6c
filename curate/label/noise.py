"""Shares of a document's characters that are seldom prose: symbols, digits, addresses, invisible and broken ones."""

import re
from typing import NamedTuple

from ..segment import ALPHABETIC, CONTROL, DIGIT, SPACE, SYMBOL, UPPER, URL, Segmented


class Noise(NamedTuple):
    """Shares of all characters but where it says otherwise; 0 in an empty text."""

    symbols: float  # Unicode categories S*: signs of currency and mathematics, arrows, boxes, emoji
    digits: float
    upper_case: float  # share of letters
    white_space: float
    urls: float  # characters of web addresses
    invisible: float  # control, zero-width, direction and private characters
    other_scripts: float  # share of letters that are not of the document's main script
    mojibake: float  # characters of text that was read in a wrong encoding


# Windows-1252's characters for the bytes 0x80 to 0xBF, the second and later bytes of UTF-8.
_TRAIL = "\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
# A lead byte of UTF-8 with as many trail bytes as it asks for. A capital before a quotation mark or a dash stands in
# good text too (VOILÀ”), so two bytes count only without those or when another pair follows, and three not as the end
# of a French quotation (é »).
_UTF8_AS_LATIN = re.compile(
    rf"[\xc2\xc3][\x80-\xbf€‚ƒ„†‡ˆ‰Š‹ŒŽ˜™š›œžŸ]|[\xc4-\xdf][{_TRAIL}](?=[\xc2-\xf4][{_TRAIL}])"
    rf"|[\xe0-\xef](?!\xa0\xbb)[{_TRAIL}]{{2}}|\xf0[{_TRAIL}]{{3}}"
)
# GBK and Big5 read as Latin-1: long runs of the supplement's signs and capitals, which no language writes.
_CHINESE_AS_LATIN = re.compile("[\xa1-\xff]{6,}")
_REPLACED = ("\ufffd", "锟斤拷", "烫烫烫", "屯屯屯")  # U+FFFD, and what GBK makes of it and of unset memory


_EAST_ASIAN = {"Jpan": ("Hani", "Hira", "Kana"), "Kore": ("Hang", "Hani"), "Hani": ("Hani", "Bopo", "Hira", "Kana")}


def noise(document: Segmented) -> Noise:
    """Noise measures of one document; total on any text."""
    text = document.text
    size = max(len(text), 1)
    letters = max(document.count(ALPHABETIC), 1)
    main = sum(document.letters.get(script, 0) for script in _EAST_ASIAN.get(document.script, (document.script,)))
    return Noise(
        symbols=document.count(SYMBOL) / size,
        digits=document.count(DIGIT) / size,
        upper_case=document.count(UPPER) / letters,
        white_space=document.count(SPACE) / size,
        urls=_urls(document) / size,
        invisible=document.count(CONTROL) / size,
        other_scripts=max(sum(document.letters.values()) - main, 0) / letters,
        mojibake=_mojibake(document) / size,
    )


def _urls(document: Segmented) -> int:
    if "://" not in document.text and "www." not in document.lowered:
        return 0
    return sum(map(len, URL.findall(document.text)))


def _mojibake(document: Segmented) -> int:
    text = document.text
    if text.isascii():
        return 0
    broken = []
    if ((document.code_points >= 0xA1) & (document.code_points <= 0xFF)).any():
        broken += [match.span() for match in _UTF8_AS_LATIN.finditer(text)]
        for match in _CHINESE_AS_LATIN.finditer(text):
            if 2 * sum(map(str.islower, match.group())) < len(match.group()):  # words are mostly small letters
                broken.append(match.span())
    end = covered = 0
    for start, stop in sorted(broken):
        covered += max(stop - max(start, end), 0)
        end = max(end, stop)
    return covered + sum(len(mark) * text.count(mark) for mark in _REPLACED)
