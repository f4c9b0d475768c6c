"""Pre-tokenisation: where a text is cut into the words that no token crosses.

The patterns of GPT-2 and GPT-4 (and what options make of them), SentencePiece's metaspace and BERT's words are state
machines over UTF-8 here, compiled by numba; `regular_expression` gives what other software needs to cut the same way.
"""

import functools
import re
from itertools import product
from typing import Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..curate.dedup.shingle import compiled

# Classes of a character; from _LETTER on they make words.
_OTHER, _SPACE, _NEWLINE, _NUMBER, _LETTER, _HAN, _HIRAGANA, _KATAKANA = map(np.uint8, range(8))

# Letters of the scripts that put no spaces between words, as ranges, which mean the same to every engine.
HAN = (
    "\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufa6d\ufa70-\ufad9\U00020000-\U0002a6df\U0002a700-\U0002b739"
    "\U0002b740-\U0002b81d\U0002b820-\U0002cea1\U0002ceb0-\U0002ebe0\U0002ebf0-\U0002ee5d\U0002f800-\U0002fa1d"
    "\U00030000-\U0003134a\U00031350-\U000323af"
)
HIRAGANA = "\u3041-\u3096\u309d-\u309f"
KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
# What \s is to all three engines; Python's own re and str.isspace take \x1c to \x1f for white space as well.
WHITE_SPACE = [*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
METASPACE = "\u2581"
_METASPACE = np.int32(0x2581)
_APOSTROPHE = np.uint8(ord("'"))
_BLANK = np.int32(ord(" "))

Pattern = Literal["gpt2", "gpt4", "metaspace", "bert"]


class SplitOptions(BaseModel):
    """How text is cut into words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: Pattern | None = Field(
        default=None,
        description="gpt2, gpt4 (also Llama 3's), metaspace (SentencePiece's), bert; default: what the algorithm is "
        "known with",
    )
    marks: bool = Field(
        default=True, description="combining marks belong to words, as Hindi or Thai need; GPT-2 and GPT-4 cut there"
    )
    digits: int | None = Field(
        default=None,
        ge=0,
        le=3,
        description="at most so many digits together, 0 for any number; default: 3 for gpt4, 1 for metaspace, else 0",
    )
    scripts: bool = Field(
        default=False, description="cut where Han, hiragana, katakana and other letters meet, and at spaces before them"
    )
    cjk_limit: int = Field(
        default=0, ge=0, description="runs of Han, hiragana or katakana are cut to this many characters; 0 for any"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.cjk_limit and not self.scripts:
            raise ValueError("cjk_limit limits runs of one script; set scripts too")
        if self.pattern == "metaspace" and (self.digits in (2, 3) or self.cjk_limit):
            raise ValueError("metaspace cuts between two characters whatever stands before them: digits 0 or 1")
        if self.pattern == "bert" and (self.digits or self.scripts):
            raise ValueError("bert's words have no options: leave digits and scripts out")
        return self

    @property
    def digit_run(self) -> int:
        """The limit that applies."""
        return {"gpt4": 3, "metaspace": 1}.get(self.pattern or "", 0) if self.digits is None else self.digits


class Words(NamedTuple):
    """Texts one behind the other, in UTF-8, and their words."""

    text: np.ndarray  # uint8
    ends: np.ndarray  # int64, where each word ends; the next one begins there
    counts: np.ndarray  # int64, how many words each text has


class Splitter:
    """Cuts texts as the options say. `blank` words, BERT's white space, are no words to anybody else."""

    def __init__(self, options: SplitOptions):
        assert options.pattern is not None
        self.options = options
        self._classes = _bert_classes() if options.pattern == "bert" else _classes(options.marks, options.scripts)
        self._style = {"gpt2": 0, "gpt4": 1, "metaspace": 2, "bert": 3}[options.pattern]
        self.drops_blank = options.pattern == "bert"

    def __call__(self, texts: list[str]) -> Words:
        encoded = [text.encode("utf-8", "replace") for text in texts]
        joined = np.frombuffer(b"".join(encoded), np.uint8)
        bounds = np.cumsum([0, *map(len, encoded)])
        ends = np.empty(len(joined), np.int64)
        counts = np.empty(len(texts), np.int64)
        options = self.options
        total = _cut(joined, bounds, self._classes, self._style, options.digit_run, options.cjk_limit, ends, counts)
        return Words(joined, ends[:total], counts)

    def words(self, text: str) -> list[bytes]:
        """The words of one text, blank ones left out where those are no words."""
        text_bytes, ends, _ = self([text])
        whole = text_bytes.tobytes()
        cut = [whole[start:end] for start, end in zip([0, *ends.tolist()], ends.tolist(), strict=False)]
        return [word for word in cut if self._classes[ord(word.decode()[0])] != _SPACE] if self.drops_blank else cut


@functools.cache
def _classes(marks: bool, scripts: bool) -> np.ndarray:
    """Class of each code point (uint8)."""
    from tokenizers import Regex, normalizers

    # Asked of tokenizers, with which tiktoken agrees: the regex module is a Unicode version ahead, Python one behind.
    classes_of = {r"\p{L}": _LETTER, r"\p{M}": _LETTER if marks else _OTHER, r"\p{N}": _NUMBER}
    naming = [normalizers.Replace(Regex(category), chr(name)) for category, name in classes_of.items()]
    every = _every_character(0x110000)
    named = _points(normalizers.Sequence(naming).normalize_str(every))
    classes = np.full(0x110000, _OTHER)
    classes[_points(every)] = np.where(named > _LETTER, _OTHER, named)
    classes[: _LETTER + 1] = _OTHER  # control characters that were their own names
    if scripts:
        for ranges, name in ((HAN, _HAN), (HIRAGANA, _HIRAGANA), (KATAKANA, _KATAKANA)):
            classes[_points("".join(re.findall(f"[{ranges}]+", every)))] = name
    classes[WHITE_SPACE] = _SPACE
    classes[[10, 13]] = _NEWLINE
    return classes


@functools.cache
def _bert_classes() -> np.ndarray:
    """White space, the signs that BERT sets apart (ASCII's and Unicode's punctuation), and anything else as letters."""
    from tokenizers import pre_tokenizers

    # Asked of tokenizers, whose table is of 2014; there is no punctuation behind the second plane.
    signs = pre_tokenizers.BertPreTokenizer().pre_tokenize_str("a" + "a".join(_every_character(0x20000)) + "a")
    classes = np.full(0x110000, _LETTER)
    classes[_points("".join(word for word, _ in signs if len(word) == 1))] = _OTHER
    classes[ord("a")] = _LETTER
    classes[WHITE_SPACE] = _SPACE
    return classes


def _every_character(end: int) -> str:
    """All characters below `end` that UTF-8 can write."""
    return "".join(map(chr, [*range(0xD800), *range(0xE000, end)]))


def _points(text: str) -> np.ndarray:
    """Its code points (uint32)."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


@compiled
def decode(text, position):
    """The code point at `position` of valid UTF-8, and how many bytes it takes."""
    first = np.int32(text[position])
    if first < 0x80:
        return first, 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | np.int32(text[position + 1]) & 0x3F, 2
    second = (np.int32(text[position + 1]) & 0x3F) << 6
    if first < 0xF0:
        return (first & 0x0F) << 12 | second | np.int32(text[position + 2]) & 0x3F, 3
    third = (np.int32(text[position + 2]) & 0x3F) << 6
    return (first & 0x07) << 18 | second << 6 | third | np.int32(text[position + 3]) & 0x3F, 4


@compiled
def _cut(text, bounds, classes, style, digits, limit, ends, counts):
    """Writes where each word ends, and how many words each text has; returns how many there are in all."""
    total = 0
    for index in range(len(bounds) - 1):
        before = total
        position, end = bounds[index], bounds[index + 1]
        while position < end:
            if style <= 1:
                position = _gpt_word(text, position, end, classes, style == 1, digits, limit)
            elif style == 2:
                position = _metaspace_word(text, position, end, classes, digits)
            else:
                position = _bert_word(text, position, end, classes)
            ends[total] = position
            total += 1
        counts[index] = total - before
    return total


@compiled
def _run(text, position, end, classes, kind, most):
    """Where the run of characters of one class that begins here ends, after at most `most` of them (0: any)."""
    taken = 0
    while position < end and (most == 0 or taken < most):
        point, width = decode(text, position)
        if classes[point] != kind:
            break
        position += width
        taken += 1
    return position


@compiled
def _contraction(text, position, end, any_case):
    """Where a contraction ('s, 't, 'm, 'd, 'll, 've, 're) that begins with the apostrophe here ends; 0 if none does."""
    if position + 1 >= end:
        return 0
    first = np.int32(text[position + 1])
    if any_case:
        if first == 0xC5 and position + 2 < end and text[position + 2] == 0xBF:
            return position + 3  # the long s, which is an s in any case
        if 65 <= first <= 90:
            first += 32
    if first == 115 or first == 116 or first == 109 or first == 100:  # s t m d
        return position + 2
    if position + 2 >= end:
        return 0
    second = np.int32(text[position + 2])
    if any_case and 65 <= second <= 90:
        second += 32
    if (first == 108 and second == 108) or ((first == 118 or first == 114) and second == 101):  # ll ve re
        return position + 3
    return 0


@compiled
def _gpt_word(text, position, end, classes, gpt4, digits, limit):
    """Where the word that begins here ends, as the pattern of GPT-2 or that of GPT-4 has it."""
    point, width = decode(text, position)
    kind = classes[point]
    if text[position] == _APOSTROPHE:
        contraction = _contraction(text, position, end, gpt4)
        if contraction:
            return contraction
    if kind == _LETTER:
        return _run(text, position, end, classes, kind, 0)
    if kind > _LETTER:
        return _run(text, position, end, classes, kind, limit)
    if kind == _NUMBER:
        return _run(text, position, end, classes, kind, digits)
    after = position + width
    following = _NEWLINE
    if after < end:
        following = classes[decode(text, after)[0]]
    if following == _LETTER and (point == _BLANK or (gpt4 and kind != _NEWLINE)):
        return _run(text, after, end, classes, following, 0)
    if following == _NUMBER and point == _BLANK and not gpt4:
        return _run(text, after, end, classes, following, digits)
    if kind == _OTHER or (point == _BLANK and following == _OTHER):
        after = _run(text, after, end, classes, _OTHER, 0)
        return _run(text, after, end, classes, _NEWLINE, 0) if gpt4 else after
    return _white_space(text, position, end, classes, gpt4)


@compiled
def _white_space(text, position, end, classes, gpt4):
    """Where a word of white space ends: behind its last newline (GPT-4), or before the blank that begins a word."""
    begin = last = position
    newline = 0
    while position < end:
        point, width = decode(text, position)
        kind = classes[point]
        if kind != _SPACE and kind != _NEWLINE:
            break
        last = position
        position += width
        if kind == _NEWLINE:
            newline = position
    if gpt4 and newline:
        return newline
    return position if position == end or last == begin else last


@compiled
def _metaspace_word(text, position, end, classes, digits):
    """Where the word that begins here ends: before a metaspace, and where two classes of characters meet."""
    point, width = decode(text, position)
    while True:
        position += width
        if position >= end:
            return position
        before, kind = point, classes[point]
        point, width = decode(text, position)
        if point == _METASPACE:
            apart = before != _METASPACE
        elif digits == 1 and classes[point] == _NUMBER:
            apart = True
        else:
            apart = before != _METASPACE and kind != classes[point]
        if apart:
            return position


@compiled
def _bert_word(text, position, end, classes):
    """Where the word that begins here ends: white space, one sign of punctuation, or a run of anything else."""
    point, width = decode(text, position)
    kind = classes[point]
    position += width
    return position if kind == _OTHER else _run(text, position, end, classes, kind, 0)


def regular_expression(options: SplitOptions) -> str:
    """What cuts the same way where regular expressions do it: Oniguruma (tokenizers), Rust (tiktoken), and Python's
    regex in its VERSION1, but for letters newer than Unicode 16.

    Only for gpt2 and gpt4, whose words cover all of the text.
    """
    assert options.pattern in ("gpt2", "gpt4")
    letter = r"[\p{L}\p{M}]" if options.marks else r"\p{L}"
    inner = r"\p{L}\p{M}" if options.marks else r"\p{L}"
    digits = {0: "+", 1: ""}.get(options.digit_run, f"{{1,{options.digit_run}}}")
    apart: list[str] = []
    if options.scripts:
        limit = f"{{1,{options.cjk_limit}}}" if options.cjk_limit else "+"
        apart = [f"[{ranges}]{limit}" for ranges in (HAN, HIRAGANA, KATAKANA)]
        letter = f"[{inner}&&[^{HAN}{HIRAGANA}{KATAKANA}]]"
    if options.pattern == "gpt2":
        parts = [r"'s|'t|'re|'ve|'m|'ll|'d", rf" ?{letter}+", *apart, rf" ?\p{{N}}{digits}"]
        parts += [rf" ?[^\s{inner}\p{{N}}]+"]
    else:
        parts = [r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", rf"[^\r\n{inner}\p{{N}}]?{letter}+", *apart, rf"\p{{N}}{digits}"]
        parts += [rf" ?[^\s{inner}\p{{N}}]+[\r\n]*", r"\s*[\r\n]+"]
    return "|".join([*parts, r"\s+(?!\S)", r"\s+"])


@functools.cache
def known_patterns() -> dict[str, SplitOptions]:
    """The regular expressions that this room can do without an engine, ours and those that other systems write.

    Ours with `marks` off are those of GPT-2, Llama 3 (`digits` 3) and Qwen (1). tiktoken's of cl100k is not among them:
    its `\\s++$` keeps newlines and spaces at a text's end together, and its `{1,3}+` is any number to tokenizers.
    """
    known: dict[str, SplitOptions] = {}
    of_scripts = [(False, 0), *((True, limit) for limit in range(17))]
    for pattern, marks, (scripts, limit), digits in product(("gpt2", "gpt4"), (False, True), of_scripts, range(4)):
        made = SplitOptions(pattern=pattern, marks=marks, digits=digits, scripts=scripts, cjk_limit=limit)
        known[regular_expression(made)] = made
    gpt2 = SplitOptions(pattern="gpt2", marks=False, digits=0)
    known[r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"] = gpt2
    known[r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"] = gpt2  # tiktoken's
    possessive = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|%s| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
    )
    for digits, number in ((1, r"\p{N}"), (2, r"\p{N}{1,2}"), (3, r"\p{N}{1,3}")):  # nanochat and rustbpe
        known[possessive % number] = SplitOptions(pattern="gpt4", marks=False, digits=digits)
    return known
