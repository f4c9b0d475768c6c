"""Line-wise labels of C4 (Raffel et al. 2020) and RefinedWeb (Penedo et al. 2023), one entry a line of the text.

Each rule says what is true of a line by itself, whatever other rules say of it: `curate.clean` applies any sequence of
them to labels or to the text. Blank lines have no flags. In lines written without spaces between words (Chinese,
Japanese, Thai ...) words are those of the segmentation, since a whole sentence there is one word between white space;
that and the end marks of other scripts are the default variant, and C4 to the letter is the other.
"""

import re
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..segment import DIGIT, TERMINAL_MARKS, UPPER, URL, Segmented, segment

RULES = (
    "c4-long-word",  # a word of more than 1000 characters
    "c4-no-terminal-punctuation",  # does not end in . ? ! " ' or another script's mark, or ends in ...
    "c4-few-words",  # fewer than 3 words
    "c4-javascript",  # mentions javascript
    "c4-policy",  # a phrase of cookie banners and terms of use
    "refinedweb-uppercase",  # more than half of the characters upper case
    "refinedweb-digits",  # digits only
    "refinedweb-counter",  # "3 likes", "1.2K views"
    "refinedweb-one-word",  # fewer than 2 words
)
"""Rules that remove a line."""

MARKS = ("c4-lorem-ipsum", "c4-curly-bracket")
"""Rules that condemn the document if the line is still there when their turn comes."""

EDITS = {
    "c4-citation": re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]"),
    "refinedweb-items-in-cart": re.compile(r"\s?items in cart", re.IGNORECASE),
    "refinedweb-read-more": re.compile(r"\s?read more\.\.\.\s*$", re.IGNORECASE),
    "refinedweb-sign-in": re.compile(r"^\s*sign-in(?!\w)\s?", re.IGNORECASE),
    "refinedweb-url": URL,
}
"""Rules that take something out of a line: name and what goes."""

_HINTS = {  # one of these is in the lower-cased text wherever an edit applies: most documents are done with that
    "c4-citation": ("[",),
    "refinedweb-items-in-cart": ("items in cart",),
    "refinedweb-read-more": ("read more...",),
    "refinedweb-sign-in": ("sign-in",),
    "refinedweb-url": ("http", "www."),
}

FLAGS = {name: 1 << bit for bit, name in enumerate((*RULES, *MARKS, *EDITS))}
"""Bit of each rule in `Lines.flags`. Bits are written into corpora: new rules go at the end."""

_LONGEST_WORD = 1000
EDIT_BITS = 12
"""Width of each edit's count in `Lines.edited_words`: five of them fit into 63 bits, for lines of up to 4095 words."""

_EDITABLE_WORDS = 10  # RefinedWeb edits only lines of at most so many words
_ANYWHERE = ("c4-citation", "refinedweb-url")  # but these apply to any line
_ENDS = (".", "?", "!", '"', "'")
_CLOSERS = "”’」』》）】…"  # may stand behind the mark that ends a line of Chinese or Japanese
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_COUNTED = "likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes|downvotes|downloads|views|followers"
_COUNTER = re.compile(rf"\W*\d[,.\d]*[kmb]?\s+(?:{_COUNTED})\W*", re.IGNORECASE)


class LinesOptions(BaseModel):
    """What a word is, and what ends a line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: Literal["script-aware", "datatrove"] = Field(
        default="script-aware",
        description="script-aware: each script's own words and end marks; datatrove: in every script what stands "
        "between white space and the five marks of C4, which leaves next to nothing of Chinese or Japanese",
    )


SCRIPT_AWARE = LinesOptions()


class Lines(NamedTuple):
    """Labels of a document's lines, aligned with text.split("\\n")."""

    flags: list[int]  # bit set of FLAGS
    words: list[int]  # 0 exactly in blank lines
    sentences: list[int]
    edited_words: list[int]  # EDIT_BITS for each of EDITS, the first lowest: words that it would remove


def lines(document: Segmented, options: LinesOptions = SCRIPT_AWARE) -> Lines:
    """Labels of every line; total on any text."""
    script_aware = options.variant == "script-aware"
    stripped = [line.strip() for line in document.lines]
    unspaced = document.unspaced_lines if script_aware else np.zeros(len(stripped), bool)
    words = document.per_line(document.spaced_starts)
    if unspaced.any():
        tokens = document.tokens.starts[document.tokens.are_words]
        words = np.where(unspaced, np.maximum(document.per_line(tokens), words > 0), words)
    written = words > 0
    flags = np.zeros(len(stripped), np.int64)
    edited_words = _edits(document, words, unspaced, flags)

    def flag(rule: str, holds: np.ndarray) -> None:
        flags[holds & written] |= FLAGS[rule]

    lengths = np.fromiter(map(len, stripped), np.int64, len(stripped))
    marks = TERMINAL_MARKS if script_aware else frozenset()
    flag("c4-no-terminal-punctuation", ~_ended(stripped, flags, unspaced, marks))
    flag("c4-few-words", words < 3)
    flag("refinedweb-one-word", words < 2)
    flag("refinedweb-uppercase", document.class_per_line(UPPER) > 0.5 * lengths)
    digits = document.class_per_line(DIGIT)
    flag("refinedweb-digits", digits == lengths)
    _flag_where(flags, "refinedweb-counter", stripped, np.flatnonzero(digits), _COUNTER.fullmatch)
    _flag_where(flags, "c4-long-word", stripped, np.flatnonzero(lengths > _LONGEST_WORD), _has_long_word)
    everywhere = np.arange(len(stripped))
    if "{" in document.text:
        _flag_where(flags, "c4-curly-bracket", stripped, everywhere, lambda line: "{" in line)
    if "javascript" in document.lowered:
        _flag_where(flags, "c4-javascript", stripped, everywhere, lambda line: "javascript" in line.lower())
    if "lorem ipsum" in document.lowered:
        _flag_where(flags, "c4-lorem-ipsum", stripped, everywhere, lambda line: "lorem ipsum" in line.lower())
    if any(phrase in document.lowered for phrase in _POLICY):
        _flag_where(flags, "c4-policy", stripped, everywhere, _has_policy)
    sentences = document.per_line(document.sentences)
    return Lines(flags.tolist(), words.tolist(), sentences.tolist(), edited_words.tolist())


def _flag_where(flags: np.ndarray, rule: str, lines: list[str], candidates: np.ndarray, holds) -> None:
    found = [index for index in candidates.tolist() if holds(lines[index])]
    flags[found] |= FLAGS[rule]


def _has_long_word(line: str) -> bool:
    return any(len(word) > _LONGEST_WORD for word in line.split())


def _has_policy(line: str) -> bool:
    lowered = line.lower()
    return any(phrase in lowered for phrase in _POLICY)


def _ended(lines: list[str], flags: np.ndarray, unspaced: np.ndarray, marks: frozenset[str]) -> np.ndarray:
    """bool a line: it ends as a sentence does, citations apart. Beyond C4's five marks those of any script count, and
    in lines without spaces what may stand behind them; in English lines a typographic quote does not, as in C4."""
    cited = np.flatnonzero(flags & FLAGS["c4-citation"])
    if len(cited):
        lines = lines.copy()
        for index in cited.tolist():
            lines[index] = EDITS["c4-citation"].sub("", lines[index])
    ended = [line.endswith(_ENDS) and not line.endswith("...") for line in lines]
    for index, line in enumerate(lines):
        if line and not ended[index] and not line[-1].isascii():
            ended[index] = line[-1] in marks or (bool(unspaced[index]) and line[-1] in _CLOSERS)
    return np.array(ended, bool)


def _edits(document: Segmented, words: np.ndarray, unspaced: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """Flags the lines that an edit would change, and returns the words it would remove."""
    edited_words = np.zeros(len(words), np.int64)
    for place, (name, pattern) in enumerate(EDITS.items()):
        if not any(hint in document.lowered for hint in _HINTS[name]):
            continue
        for index, line in enumerate(document.lines):
            short = name in _ANYWHERE or words[index] <= _EDITABLE_WORDS
            if words[index] and short and pattern.search(line):
                flags[index] |= FLAGS[name]
                left = pattern.sub("", line)
                removed = int(words[index]) - _count_words(left, bool(unspaced[index]))
                edited_words[index] |= min(max(removed, 0), 2**EDIT_BITS - 1) << EDIT_BITS * place
    return edited_words


def _count_words(line: str, unspaced: bool) -> int:
    return int(segment(line).tokens.are_words.sum()) if unspaced else len(line.split())
