"""The demo's own prose: topics of paragraphs in nine languages, and articles composed from them.

A file `prose-XX.txt` holds the words that fill slots (`# slots`), then topics (`# name`): opening lines (`>`) and
closing lines (`<`) with slots, and paragraphs, each below its heading (`##`).
"""

import random
import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

LANGUAGES = ("en", "zh", "de", "fr", "es", "ja", "ru", "ar", "th")

# The paragraphs of one article, as steps on the circle of its topic's paragraphs. The differences between the steps
# are all distinct for seven or more paragraphs, so that two articles of a topic share one paragraph at most.
STEPS = (0, 1, 3)

# Numbers that read well in every opening and closing line ("for 14 years", "17 people came").
NUMBERS = range(11, 30)


class Topic(NamedTuple):
    """Paragraphs on one subject, with opening and closing lines that still have slots to fill."""

    name: str
    openings: tuple[str, ...]
    closings: tuple[str, ...]
    paragraphs: tuple[tuple[str, str], ...]  # heading, text


class Prose(NamedTuple):
    """All topics of one language."""

    slots: dict[str, tuple[str, ...]]
    topics: dict[str, Topic]


class Article(NamedTuple):
    """The main content of one page, before any template is put around it."""

    language: str
    title: str
    opening: str
    sections: tuple[tuple[str, str], ...]  # heading, text
    closing: str

    @property
    def text(self) -> str:
        """The article as plain text, a paragraph a line."""
        return "\n".join([self.title, self.opening, *(text for _, text in self.sections), self.closing])


@cache
def load_prose(language: str) -> Prose:
    """The prose of one language, from its file."""
    slots: dict[str, tuple[str, ...]] = {}
    topics: dict[str, Topic] = {}
    content = files("tilth.curate.demo").joinpath(f"prose-{language}.txt").read_text(encoding="utf-8")
    for block in re.split(r"^# ", content, flags=re.MULTILINE)[1:]:
        name, *lines = [line for line in block.splitlines() if line]
        if name == "slots":
            pairs = (line.split(" = ") for line in lines)
            slots = {slot: tuple(words.split(" | ")) for slot, words in pairs}
            continue
        marked = {mark: tuple(line[2:] for line in lines if line.startswith(mark + " ")) for mark in "><"}
        start = next(i for i, line in enumerate(lines) if line.startswith("## "))
        headings, texts = lines[start::2], lines[start + 1 :: 2]
        paragraphs = tuple((heading[3:], text) for heading, text in zip(headings, texts, strict=True))
        topics[name] = Topic(name, marked[">"], marked["<"], paragraphs)
    return Prose(slots, topics)


def compose(language: str, topic: str, count: int, seed: int) -> list[Article]:
    """`count` articles on one topic: each three paragraphs between an opening and a closing of its own."""
    prose = load_prose(language)
    subject = prose.topics[topic]
    rng = random.Random(f"{seed} {language} {topic}")
    order = rng.sample(range(len(subject.paragraphs)), len(subject.paragraphs))

    def fill(template: str) -> str:
        words = {slot: rng.choice(choices) for slot, choices in prose.slots.items()}
        return template.format(number=rng.choice(NUMBERS), **words)

    articles = []
    for i in range(count):
        sections = tuple(subject.paragraphs[order[(i + step) % len(order)]] for step in STEPS)
        opening = fill(subject.openings[i % len(subject.openings)])
        closing = fill(subject.closings[i % len(subject.closings)])
        articles.append(Article(language, sections[0][0], opening, sections, closing))
    return articles


def nearly(article: Article, way: int) -> Article:
    """The same article after one small edit, as when a page is published again: one of four ways."""
    heading, text = article.sections[0]
    head, *rest = article.sections
    match way % 4:
        case 0:  # dated
            return article._replace(opening=f"2024-05-17. {article.opening}")
        case 1:  # no closing
            return article._replace(closing="")
        case 2:  # a sentence of the first paragraph is repeated at the end
            first = re.match(r".*?[.。؟?!]", text)
            return article._replace(closing=f"{article.closing} {first[0] if first else heading}")
        case _:  # the last paragraph comes first
            return article._replace(sections=(rest[-1], head, *rest[:-1]))
