"""Gopher's document quality measures (Rae et al. 2021, table A1), and those that NeMo Curator adds.

Systems that quote the same thresholds measure different things; what each does is a row of `VARIANTS`, and the default
is datatrove's. Thresholds are not here: they stand in the recipes.

Chinese and Japanese need thresholds of their own. Their words are ICU's dictionary words, so every measure means the
same there, but words are shorter and marks more frequent. Measured (percentiles 1 / 5 / 50 / 99) on 86 Chinese pages of
a crawl with 50 words or more, most of them software help; 182 pieces of 1500 characters of a Chinese handbook; 846
Chinese answers of instruction data of 150 characters or more; 185 pieces of a Japanese novel:

    measure            crawl                handbook             answers              novel                keep
    mean_word_length   1.39 1.57 2.39 3.10  1.75 1.78 1.97 2.36  1.44 1.53 1.71 3.02  1.46 1.49 1.56 1.67  1.2 to 4
    alphabetic_words   .58 .61 .77 .91      .75 .77 .83 .88      .46 .59 .82 .89      .76 .79 .83 .87      0.6 or more
    stop_words         2 4 11 29            16 17 21 26          1 4 10 20            20 21 22 25          3 or more
    characters a word  3.4 (mean)           2.3                  2.1                  1.8

English's 3 to 10 characters a word would drop every one of them, and 0.8 of words with a letter half of the crawl. The
word limits 50 and 100000 stay: 50 Chinese words are about 90 characters and say as much as 50 English ones. So do the
repetition limits: the strictest of them (n = 5) drops 11% of the crawl's pages, 2 to 6% of the answers, 1% of the novel
and nothing of the handbook. Korean writes spaces, between words of about 3 characters (keep 2 to 10, 2 stop words).
"""

import functools
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field

from ..segment import ALPHABETIC, PUNCTUATION, SYMBOL, Segmented, Tokens

VariantName = Literal["datatrove", "dolma", "dclm", "redpajama", "nemo"]


class Variant(NamedTuple):
    """What one system means by Gopher's measures, point by point; the defaults are datatrove's."""

    words: str = "icu"  # words of the quality measures: `icu` segments, or what stands between `space`s
    word_length: str = "mean"  # or `median`
    bullets: tuple[str, ...] = ("•", "-")  # a line that starts with one of these is a list item
    ellipses: tuple[str, ...] = ("...", "…")  # counted in the text, and at the ends of lines
    blank_lines: str = "ends"  # as lines that can repeat: `all`, `none`, or one at each end of the text if it is empty
    copies: str = "later"  # a line's repetition: its `later` copies, or `all` copies
    line_characters: str = "text"  # repeated characters are a share of the `text`'s, the `lines`' or the `words`'
    ngram_words: str = "icu"  # words of the n-grams: `icu`, `space`, `icu` without `punctuation`, or that `lower`
    lone_top: bool = True  # the most frequent n-gram counts as repetition even when it occurs once
    top_tie: str = "first"  # of equally frequent n-grams the `first` or the `longest` is the top one
    top_characters: str = "joined"  # of the top n-gram: its words `joined` by spaces, its `words` only, or `replaced`
    too_short: float = 0.0  # the n-gram measures of a text of fewer than n words
    duplicates: str = "greedy"  # n-grams that repeat: see `repetition._duplicate_characters`
    ngram_characters: str = "text"  # n-grams' characters are a share of the `text`'s or the `words`'


VARIANTS: dict[VariantName, Variant] = {
    "datatrove": Variant(),
    "dolma": Variant(
        words="space",
        word_length="median",
        bullets=("*", "-"),
        ellipses=("…",),
        blank_lines="all",
        copies="all",
        line_characters="words",
        ngram_words="space",
        top_characters="words",
        duplicates="every",
        ngram_characters="words",
    ),
    "dclm": Variant(
        words="space",
        bullets=("●", "•", "*", "-"),
        ellipses=("...", ". . .", "…"),
        blank_lines="none",
        copies="all",
        line_characters="lines",
        ngram_words="punctuation",
        lone_top=False,
        top_tie="longest",
        top_characters="words",
        duplicates="covered",
        ngram_characters="words",
    ),
    "redpajama": Variant(
        words="space",
        bullets=("•", "‣", "▶", "◀", "◦", "■", "□", "▪", "▫", "–"),
        ngram_words="lower",
        lone_top=False,
        top_characters="words",
        duplicates="covered",
        ngram_characters="words",
    ),
    "nemo": Variant(
        words="space",
        bullets=tuple("•‣⁃⁌⁍∙○●◘◦⦾⦿"),
        ellipses=("...", "[...]", "…", "(...)", "[…]", "-»", "read more..", "read more"),
        blank_lines="none",
        line_characters="lines",
        ngram_words="space",
        top_characters="replaced",
        too_short=1.0,
        duplicates="later",
    ),
}


class GopherOptions(BaseModel):
    """How Gopher's measures are taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: VariantName = Field(
        default="datatrove", description="whose meaning the measures have where systems differ"
    )
    stop_words: dict[str, list[str]] = Field(default={}, description="by language code, in place of the shipped lists")


class Gopher(NamedTuple):
    """Gopher's quality measures; shares are 0 where there is nothing to take a share of."""

    words: int  # words with a character outside punctuation
    mean_word_length: float  # characters a word
    hash_ratio: float  # hash signs a word (not capped)
    ellipsis_ratio: float  # ellipses a word (not capped)
    bullet_lines: float  # share of lines that start with a bullet
    ellipsis_lines: float  # share of lines that end with an ellipsis
    alphabetic_words: float  # share of words, punctuation marks included, that have a letter
    stop_words: int  # distinct stop words of the document's language
    stop_word_occurrences: int
    longest_word: int  # characters; between white space
    non_alphanumeric: float  # share of characters that are punctuation or symbols
    parentheses: float  # share of characters that are brackets of any kind
    boilerplate_paragraphs: float  # share of paragraphs with a phrase of cookie banners and terms; 1 with lorem ipsum
    unfinished_lines: float  # share of lines with text that end in none of . ? ! " '


_BRACKETS = "()[]{}⟨⟩"
_BOILERPLATE = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
    "privacy overview",
)
_LIST_OF_SCRIPT = {"Hani": "zh", "Jpan": "ja", "Kore": "ko", "Thai": "th", "Khmr": "km", "Laoo": "lo", "Mymr": "my"}


@functools.cache
def _shipped_stop_words() -> dict[str, list[str]]:
    source = Path(__file__).with_name("stop_words.yaml").read_text(encoding="utf-8")
    return {language: words.split() for language, words in yaml.safe_load(source).items()}


def stop_words(options: GopherOptions, language: str, script: str) -> list[str]:
    """The list for a document: of its language, else of its script, else English."""
    lists = _shipped_stop_words() | options.stop_words
    return lists.get(language) or lists[_LIST_OF_SCRIPT.get(script, "en")]


def words_of(document: Segmented, how: str) -> Tokens:
    """The document's words as a variant's `words` or `ngram_words` means them."""
    if how == "space":
        return document.spaced
    tokens = document.tokens
    if how == "icu":
        return tokens
    chosen = np.flatnonzero(tokens.are_words)
    strings = [tokens.strings[index] for index in chosen.tolist()]
    if how == "lower":
        strings = [string.lower() for string in strings]
    return Tokens.of(strings, tokens.starts[chosen], tokens.lengths[chosen], tokens.classes[chosen])


def gopher(document: Segmented, options: GopherOptions, language: str) -> Gopher:
    """Quality measures of one document in `language` (ISO 639-1, chooses the stop words); total on any text."""
    variant = VARIANTS[options.variant]
    text = document.text
    tokens = words_of(document, variant.words)
    lengths = tokens.lengths[tokens.are_words] if variant.words == "icu" else tokens.lengths
    length = np.median if variant.word_length == "median" else np.mean
    lines = document.lines[:-1] if text.endswith("\n") else document.lines
    finished = [line.rstrip() for line in lines]
    count, characters = max(len(tokens.strings), 1), max(len(text), 1)
    stops = tokens.vocabulary.keys() & stop_words(options, language, document.script)
    return Gopher(
        words=len(lengths),
        mean_word_length=float(length(lengths)) if len(lengths) else 0.0,
        hash_ratio=text.count("#") / count,
        ellipsis_ratio=sum(map(text.count, variant.ellipses)) / count,
        bullet_lines=sum(line.lstrip().startswith(variant.bullets) for line in lines) / len(lines) if lines else 0.0,
        ellipsis_lines=sum(line.endswith(variant.ellipses) for line in finished) / max(len(lines), 1),
        alphabetic_words=int(np.count_nonzero(tokens.classes & ALPHABETIC)) / count,
        stop_words=len(stops),
        stop_word_occurrences=_occurrences(tokens, stops),
        longest_word=int((document.spaced_ends - document.spaced_starts).max(initial=0)),
        non_alphanumeric=document.count(PUNCTUATION | SYMBOL) / characters,
        parentheses=sum(map(text.count, _BRACKETS)) / characters,
        boilerplate_paragraphs=_boilerplate(document),
        unfinished_lines=_unfinished(finished),
    )


def _occurrences(tokens: Tokens, words: set[str]) -> int:
    if not words:
        return 0
    return int(np.bincount(tokens.ids)[[tokens.vocabulary[word] for word in words]].sum())


def _boilerplate(document: Segmented) -> float:
    if "lorem ipsum" in document.lowered:
        return 1.0
    if not any(phrase in document.lowered for phrase in _BOILERPLATE):
        return 0.0
    lowered = [paragraph.lower() for paragraph in document.paragraphs]
    return sum(any(phrase in paragraph for phrase in _BOILERPLATE) for paragraph in lowered) / len(lowered)


def _unfinished(lines: list[str]) -> float:
    written = [line for line in lines if line]
    ended = sum(line.endswith((".", "?", "!", '"', "'")) for line in written)
    return 1 - ended / len(written) if written else 0.0
