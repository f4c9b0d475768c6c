"""Text cut into lines, paragraphs, sentences and words, once per document and for all scripts.

Every label reads a `Segmented`; none splits the text again, and what no label asks for is never computed. Words and
sentences are ICU's (through icu4py), whose dictionaries know Chinese, Japanese, Thai, Lao, Khmer and Burmese. Measured
on 843 extracted pages (5.6 million characters, 2.05 million segments, one core): ICU words 0.26 s, ICU sentences
0.04 s; a regular expression, which cannot cut Chinese or Thai, 0.19 s; the extraction of the same pages 18.5 s. PyICU
gives the same words but has no wheels, and jieba knows Chinese only.
"""

import functools
import re
import unicodedata
from itertools import compress
from typing import NamedTuple

import numpy as np
from icu4py.breakers import SentenceBreaker, WordBreaker

# Classes of a character, as bits. A token's class is the union of its characters' classes.
ALPHABETIC = 1  # str.isalpha
DIGIT = 2  # str.isdigit
UPPER = 4  # str.isupper
PUNCTUATION = 8  # Unicode categories P*
SYMBOL = 16  # Unicode categories S*
SPACE = 32  # str.isspace
CONTROL = 64  # control, format (zero width), surrogate and private characters; tab and line breaks are not among them
VISIBLE = 128  # anything but SPACE
WORD = 256  # what makes a token a word: neither punctuation, ASCII symbol, SPACE nor CONTROL
TERMINAL = 512  # ends a sentence (Unicode property Sentence_Terminal)
UNSPACED = 1024  # a letter of a script that writes no spaces between words
_CLASSES = 2048

_TERMINAL_RANGES = """21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E
1735-1736 17D4-17D6 17D9-17DA 1803 1809 1944-1945 1AA8-1AAB 1B4E-1B4F 1B5A-1B5B 1B5E-1B5F 1B7D-1B7F 1C3B-1C3C 1C7E-1C7F
203C-203D 2047-2049 2CF9-2CFB 2E2E 2E3C 2E53-2E54 2E60-2E61 3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F
A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE12 FE15-FE16 FE52 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57 10F55-10F59 10F86-10F89
11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C 112A9 113D4-113D5 1144B-1144C
115C2-115C3 115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C 11C41-11C42 11EF7-11EF8 11F43-11F44
16A6E-16A6F 16AF5 16B37-16B38 16B44 16D6E-16D6F 16E98 1BC9F 1DA88"""  # Unicode 16, PropList.txt, and three Khmer signs


def _code_points(ranges: str) -> frozenset[int]:
    bounds = [[int(end, 16) for end in part.split("-")] for part in ranges.split()]
    return frozenset(point for bound in bounds for point in range(bound[0], bound[-1] + 1))


TERMINAL_MARKS = frozenset(map(chr, _code_points(_TERMINAL_RANGES)))

# First word of a letter's Unicode name -> ISO 15924 code of its script.
_SCRIPTS = {
    "LATIN": "Latn", "GREEK": "Grek", "COPTIC": "Copt", "CYRILLIC": "Cyrl", "ARMENIAN": "Armn", "HEBREW": "Hebr",
    "ARABIC": "Arab", "SYRIAC": "Syrc", "THAANA": "Thaa", "NKO": "Nkoo", "DEVANAGARI": "Deva", "BENGALI": "Beng",
    "GURMUKHI": "Guru", "GUJARATI": "Gujr", "ORIYA": "Orya", "TAMIL": "Taml", "TELUGU": "Telu", "KANNADA": "Knda",
    "MALAYALAM": "Mlym", "SINHALA": "Sinh", "THAI": "Thai", "LAO": "Laoo", "TIBETAN": "Tibt", "MYANMAR": "Mymr",
    "GEORGIAN": "Geor", "HANGUL": "Hang", "ETHIOPIC": "Ethi", "CHEROKEE": "Cher", "CANADIAN": "Cans", "OGHAM": "Ogam",
    "RUNIC": "Runr", "TAGALOG": "Tglg", "KHMER": "Khmr", "MONGOLIAN": "Mong", "LIMBU": "Limb", "HIRAGANA": "Hira",
    "KATAKANA": "Kana", "KATAKANA-HIRAGANA": "Kana", "BOPOMOFO": "Bopo", "YI": "Yiii", "LISU": "Lisu", "VAI": "Vaii",
    "BAMUM": "Bamu", "JAVANESE": "Java", "BALINESE": "Bali", "SUNDANESE": "Sund", "OL": "Olck", "TIFINAGH": "Tfng",
    "GLAGOLITIC": "Glag", "GOTHIC": "Goth", "MEETEI": "Mtei", "CHAM": "Cham", "ADLAM": "Adlm", "BATAK": "Batk",
    "BUGINESE": "Bugi", "LEPCHA": "Lepc", "SAURASHTRA": "Saur", "CJK": "Hani", "IDEOGRAPHIC": "Hani",
}  # fmt: skip
SCRIPTS = ("Zyyy", *sorted({*_SCRIPTS.values()}))  # Zyyy: no letter, or one of none of these
_UNSPACED_SCRIPTS = frozenset({"Hani", "Hira", "Kana", "Bopo", "Thai", "Laoo", "Khmr", "Mymr"})
_KANA_SHARE = 0.05  # of Han and kana letters; above it the script is Japanese, which has about 0.6, Chinese below 0.01
_UNSPACED_WEIGHT = 3  # a Han word has 1.7 letters, a Latin one 5: Chinese with many names and commands is still Chinese

_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_URL = r"\s<>\"'（）「」『』【】，。、；"
URL = re.compile(rf"(?:https?://|www\.)[^{_NO_URL}]*[^{_NO_URL}.,;:!?)\]]", re.IGNORECASE)
"""A web address in running text, without the punctuation behind it."""

_PARAGRAPH_BREAK = re.compile("\n{2,}")


def _script(character: str) -> str:
    name = unicodedata.name(character, "")
    words = name.removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ").split(" ", 1)
    return _SCRIPTS.get(words[0], "Zyyy")


def _class(character: str) -> int:
    category = unicodedata.category(character)
    bits = ALPHABETIC * character.isalpha() | DIGIT * character.isdigit() | UPPER * character.isupper()
    if character.isspace():
        return bits | SPACE
    bits |= VISIBLE
    bits |= PUNCTUATION * (category[0] == "P") | SYMBOL * (category[0] == "S")
    bits |= CONTROL * (category in ("Cc", "Cf", "Cs", "Co"))
    if not bits & (PUNCTUATION | CONTROL) and not (bits & SYMBOL and character.isascii()):
        bits |= WORD
    return bits | TERMINAL * (character in TERMINAL_MARKS)


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Class bits (uint16) and index into SCRIPTS (uint8) of each code point; built once a process, in about 0.2 s."""
    classes = np.full(0x110000, VISIBLE | WORD, np.uint16)  # planes 4 to 13 are unassigned
    scripts = np.zeros(0x110000, np.uint8)
    number = {script: index for index, script in enumerate(SCRIPTS)}
    classes[0x20000:0x40000] |= ALPHABETIC  # planes 2 and 3 hold Han and nothing else
    scripts[0x20000:0x40000] = number["Hani"]
    classes[0xE0000:] = VISIBLE | CONTROL  # tags, variation selectors, private use
    for point in range(0x20000):
        character = chr(point)
        classes[point] = _class(character)
        if classes[point] & ALPHABETIC:
            scripts[point] = number[_script(character)]
    unspaced = np.isin(scripts, [number[script] for script in _UNSPACED_SCRIPTS])
    classes[unspaced] |= UNSPACED
    return classes, scripts


class Tokens(NamedTuple):
    """Tokens of a text in order; all arrays have one entry a token."""

    strings: list[str]
    starts: np.ndarray  # int64, offset in characters
    lengths: np.ndarray  # int64, characters
    ids: np.ndarray  # int64, number of the string in `vocabulary`
    classes: np.ndarray  # uint16, union of the characters' class bits
    vocabulary: dict[str, int]  # distinct strings, numbered in order of appearance

    @classmethod
    def of(cls, strings: list[str], starts: np.ndarray, lengths: np.ndarray, classes: np.ndarray) -> "Tokens":
        """Tokens with their vocabulary and ids."""
        vocabulary = dict.fromkeys(strings, 0)
        vocabulary = dict(zip(vocabulary, range(len(vocabulary)), strict=True))
        ids = np.fromiter(map(vocabulary.__getitem__, strings), np.int64, len(strings))
        return cls(strings, starts, lengths, ids, classes, vocabulary)

    @property
    def are_words(self) -> np.ndarray:
        """bool a token: it has a character outside punctuation."""
        return (self.classes & WORD) != 0


class Segmented:
    """One text and what its labels need, each part computed when first asked for, and once. Total on any string."""

    def __init__(self, text: str) -> None:
        self.text = text

    @functools.cached_property
    def code_points(self) -> np.ndarray:
        """uint32, one entry a character."""
        return np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), "<u4")

    @functools.cached_property
    def classes(self) -> np.ndarray:
        """uint16, class bits of each character."""
        return _tables()[0][self.code_points]

    @functools.cached_property
    def _class_counts(self) -> list[tuple[int, int]]:
        counts = np.bincount(self.classes, minlength=_CLASSES)
        present = np.flatnonzero(counts)
        return list(zip(present.tolist(), counts[present].tolist(), strict=True))

    def count(self, classes: int) -> int:
        """Characters that are in any of the classes (a union of class bits)."""
        return sum(count for bits, count in self._class_counts if bits & classes)

    @functools.cached_property
    def letters(self) -> dict[str, int]:
        """Letters by the ISO 15924 code of their script, those of no known script as Zyyy."""
        counts = np.bincount(_tables()[1][self.code_points], minlength=len(SCRIPTS)).tolist()
        counts[0] = self.count(ALPHABETIC) - sum(counts[1:])
        return {script: count for script, count in zip(SCRIPTS, counts, strict=True) if count}

    @functools.cached_property
    def script(self) -> str:
        """The script that most is written in, as ISO 15924 code: Jpan for Han with kana, Kore for Hangul; Zyyy without
        letters. A Han or kana letter counts as three."""
        letters = dict(self.letters)
        kana = letters.pop("Hira", 0) + letters.pop("Kana", 0)
        east_asian = letters.pop("Hani", 0) + kana
        if east_asian:
            letters["Jpan" if kana > _KANA_SHARE * east_asian else "Hani"] = _UNSPACED_WEIGHT * east_asian
        script = max(letters, key=lambda name: letters[name], default="Zyyy")
        return "Kore" if script == "Hang" else script

    @property
    def unspaced(self) -> bool:
        """Whether most is written in scripts without spaces between words (a letter of these counts as three)."""
        unspaced = self.count(UNSPACED)
        return _UNSPACED_WEIGHT * unspaced > self.count(ALPHABETIC) - unspaced

    @functools.cached_property
    def lowered(self) -> str:
        """The text in lower case, to look phrases up in; its offsets may differ from the text's."""
        return self.text.lower()

    @functools.cached_property
    def lines(self) -> list[str]:
        """The text split at each newline: one more than it has newlines, blank ones included."""
        return self.text.split("\n")

    @functools.cached_property
    def line_bounds(self) -> np.ndarray:
        """int64, where each line begins, and behind the last the length of the text plus one."""
        lengths = np.fromiter(map(len, self.lines), np.int64, len(self.lines))
        return np.concatenate(([0], (lengths + 1).cumsum()))

    @functools.cached_property
    def unspaced_lines(self) -> np.ndarray:
        """bool a line: most of it is in scripts that write no spaces between words (as `unspaced`)."""
        if not self.count(UNSPACED):
            return np.zeros(len(self.lines), bool)
        unspaced = self.class_per_line(UNSPACED)
        return _UNSPACED_WEIGHT * unspaced > self.class_per_line(ALPHABETIC) - unspaced

    def per_line(self, offsets: np.ndarray) -> np.ndarray:
        """How many of the ascending character offsets fall on each line."""
        return np.diff(np.searchsorted(offsets, self.line_bounds))

    def class_per_line(self, classes: int) -> np.ndarray:
        """Characters of each line that are in any of the classes."""
        return self.per_line(np.flatnonzero(self.classes & classes))

    @functools.cached_property
    def paragraphs(self) -> list[str]:
        """The stripped text split at two or more newlines; never empty."""
        text = self.text.strip()
        return _PARAGRAPH_BREAK.split(text) if "\n\n" in text else [text]

    @functools.cached_property
    def _encodable(self) -> str:
        """The text as ICU can take it: a lone surrogate, which UTF-8 has no form for, becomes U+FFFD."""
        try:
            self.text.encode()
        except UnicodeEncodeError:
            return _SURROGATE.sub("\ufffd", self.text)
        return self.text

    @functools.cached_property
    def sentences(self) -> np.ndarray:
        """int64, where each sentence begins (ICU); a newline ends one, and blank ones are left out."""
        segments = list(SentenceBreaker(self._encodable, "en"))
        starts = _starts(np.fromiter(map(len, segments), np.int64, len(segments)))
        return starts[(self._union(starts) & VISIBLE) != 0]

    @functools.cached_property
    def tokens(self) -> Tokens:
        """Words and punctuation marks: ICU's word segments that are not white space, put together where a reader sees
        one thing that ICU sees as several (see `_continues`)."""
        segments = list(WordBreaker(self._encodable, "en"))
        lengths = np.fromiter(map(len, segments), np.int64, len(segments))
        starts = _starts(lengths)
        ends = starts + lengths
        begins = ~self._continues(starts, lengths)
        firsts = np.flatnonzero(begins)
        lasts = np.append(firsts[1:], len(segments))[: len(firsts)] - 1
        joined = np.flatnonzero(lasts > firsts)
        for first, last in zip(firsts[joined].tolist(), lasts[joined].tolist(), strict=True):
            segments[first] = "".join(segments[first : last + 1])
        starts, ends = starts[firsts], ends[lasts]
        classes = self._union(starts)
        visible = (classes & VISIBLE) != 0
        begins[firsts] = visible
        strings = list(compress(segments, begins.tolist()))
        return Tokens.of(strings, starts[visible], (ends - starts)[visible], classes[visible])

    def _continues(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """bool a segment: it belongs to the token of the segment before it. What is joined: dots in a row; the rulings
        of tables (|---|); the dot of an initial or an abbreviation (J. U.S.); options and paths with what leads them
        (-v /usr); fractions, ranges and keys (1/2 1914–1918 Ctrl+C); web addresses. Those are the commonest things that
        spaCy's English tokens, which other systems count, keep together."""
        continues = np.zeros(len(starts), bool)
        if len(starts) < 2:
            return continues
        first, kind = self.code_points[starts], self.classes[starts]
        mark = np.where(lengths == 1, first, 0)
        dot, dash, slash = mark == ord("."), mark == ord("-"), mark == ord("/")
        ruling = dash | (mark == ord("|"))
        continues[1:] = (dot[1:] & dot[:-1]) | (ruling[1:] & ruling[:-1])

        at = starts[1:][dot[1:] & ~dot[:-1]]
        letter = (self.classes[at - 1] & (ALPHABETIC | UNSPACED)) == ALPHABETIC
        alone = (at < 2) | ((self.classes[at - 2] & (ALPHABETIC | DIGIT)) == 0)
        continues[np.searchsorted(starts, at[letter & alone])] = True

        leads = np.flatnonzero((dash | slash)[:-1] & ((kind[1:] & WORD) != 0))
        behind = leads - 1  # -1 where the text begins with the mark
        open_ = (behind < 0) | ((kind[behind] & VISIBLE) == 0) | continues[leads]
        continues[leads[open_] + 1] = True

        span = np.flatnonzero(slash | (mark == ord("–")) | (mark == ord("+")))
        span = span[(span > 0) & (span < len(starts) - 1)]
        needed = np.where(mark[span] == ord("+"), ALPHABETIC | DIGIT, DIGIT)
        between = ((kind[span - 1] & needed) != 0) & ((kind[span + 1] & needed) != 0)
        continues[span[between]] = continues[span[between] + 1] = True

        if "://" in self.text or "www." in self.lowered:
            for match in URL.finditer(self.text):
                begin, end = np.searchsorted(starts, match.span())
                continues[begin + 1 : end] = True
        return continues

    @functools.cached_property
    def spaced(self) -> Tokens:
        """What stands between white space (str.split), for rules that count words so."""
        starts = self.spaced_starts
        return Tokens.of(self.text.split(), starts, self.spaced_ends - starts, self._union(starts))

    @functools.cached_property
    def spaced_starts(self) -> np.ndarray:
        """int64, where each of the `spaced` words begins."""
        visible = (self.classes & VISIBLE) != 0
        visible[1:] &= (self.classes[:-1] & VISIBLE) == 0
        return np.flatnonzero(visible)

    @functools.cached_property
    def spaced_ends(self) -> np.ndarray:
        """int64, the offset behind each of the `spaced` words."""
        visible = (self.classes & VISIBLE) != 0
        visible[:-1] &= (self.classes[1:] & VISIBLE) == 0
        return np.flatnonzero(visible) + 1

    def _union(self, starts: np.ndarray) -> np.ndarray:
        """Class bits of the text's pieces that begin at `starts` and reach to the next."""
        if not len(starts):
            return np.zeros(0, np.uint16)
        return np.bitwise_or.reduceat(self.classes, starts)


def _starts(lengths: np.ndarray) -> np.ndarray:
    return lengths.cumsum() - lengths


def segment(text: str) -> Segmented:
    """The text, ready for its labels; any string will do: empty, with NUL or lone surrogates, one line of 10 MB."""
    return Segmented(text)
