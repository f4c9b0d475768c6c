"""Sensitive words: how often a text uses words of given lists.

Whole words in scripts that put spaces between them, any occurrence in those that do not. What a count means is a rule.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import ahocorasick
from pydantic import BaseModel, ConfigDict, Field

from tilth.errors import ModelError

# What separates words: white space, ASCII, Latin-1, general, CJK and full-width punctuation; joiners are part of words.
_SEPARATORS = re.compile(
    r"[\s!-/:-@\[-`{-~\u00a1-\u00bf\u0589\u060c\u061b\u061f\u06d4\u0964\u0965"
    r"\u2000-\u200b\u2010-\u206f\u3000-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]+"
)
# Thai to Burmese, Khmer, kana, Han: no spaces between words. Korean has them, but particles follow its words unspaced.
_UNSPACED = re.compile(r"[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]")
_LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(-.+)?")


class SensitiveOptions(BaseModel):
    """Which lists are searched for; none by default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lists: tuple[str, ...] = Field(
        default=(),
        description="files with one term a line, for every document; or folders with one such file a language, "
        "named by its code (as LDNOOBW has it), for documents of that language",
    )
    allow: tuple[str, ...] = Field(
        default=("sm", "グロ", "女の子", "性"),
        description="terms that do not count; default: what C4 leaves out of the Japanese and Chinese lists",
    )


class Sensitive(NamedTuple):
    """Terms of the lists that a text uses."""

    matches: int  # occurrences
    terms: int  # different ones
    first: str  # the list of the first occurrence, by its file's name; empty without any


class SensitiveMatcher:
    """Searches texts for the lists' terms; the lists are read once, here. Raises ModelError for a list that is none."""

    def __init__(self, options: SensitiveOptions) -> None:
        allowed = {_separated(term) for term in options.allow}
        self._always = ahocorasick.Automaton()
        self._by_language: dict[str, ahocorasick.Automaton] = {}
        for source in options.lists:
            for language, file in _files(Path(source)):
                automaton = self._always
                if language is not None:
                    automaton = self._by_language.setdefault(language, ahocorasick.Automaton())
                for term in {_separated(term) for term in _terms(file)} - allowed - {"  "}:
                    key = term.strip() if _UNSPACED.search(term) else term
                    if key not in automaton:
                        automaton.add_word(key, (key, file.name))
        for automaton in (self._always, *self._by_language.values()):
            automaton.make_automaton()

    def __call__(self, text: str, language: str | None = None) -> Sensitive:
        """The terms of the general lists and of the language's in the text; total on any text."""
        separated = _separated(text)
        found: list[tuple[int, str, str]] = []
        for automaton in (self._always, self._by_language.get(language or "")):
            if automaton:
                found += [(end, *term) for end, term in automaton.iter(separated)]
        if not found:
            return Sensitive(0, 0, "")
        return Sensitive(len(found), len({term for _, term, _ in found}), min(found)[2])


def _separated(text: str) -> str:
    """The text in lower case, with one space between words and at both ends."""
    return f" {_SEPARATORS.sub(' ', text.lower()).strip(' ')} "


def _files(source: Path) -> Iterator[tuple[str | None, Path]]:
    """The lists behind one entry of the options, with the language that each is for."""
    if source.is_file():
        yield None, source
        return
    files = sorted(f for f in source.glob("*") if f.is_file() and _LANGUAGE_CODE.fullmatch(f.name.removesuffix(".txt")))
    if not files:
        raise ModelError(
            f"word list {source}: neither a file nor a folder of files named by language (en, zh.txt); "
            "correct labels.sensitive.lists"
        )
    for file in files:
        yield file.name.removesuffix(".txt").split("-")[0], file


def _terms(file: Path) -> list[str]:
    try:
        terms = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"word list {file}: {error}; it must be a text file in UTF-8, one term a line") from error
    terms = [term for term in terms if term]
    if not terms:
        raise ModelError(f"word list {file}: it is empty; take it out of labels.sensitive.lists or fill it")
    return terms
