"""A corpus with known near-duplicates, made of a folder of real text, and how well clusters of documents agree with it.

Each document depends on the seed, its cluster and its number in there alone, so that any of them can be made again and
none need be held.
"""

import gzip
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Pieces of a text that edits move: a word with the space after it, or a character of a script without spaces.
_PIECE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]\s*|[^\s\u3040-\u30ff\u3400-\u9fff]+\s*")
_TOKEN = re.compile(r"[\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]|[^\W_]+")
_SHORTEST, _LONGEST = 100, 4000  # characters of a paragraph
_FOREIGN = 0.15  # of an original's pieces come from elsewhere: two originals may share a paragraph, not shingles
_EDITED = (0.002, 0.06)  # of a copy's pieces, from one copy to the next
_SPREAD = 0.6  # of the logarithm of the length
_COPIES = (2, 8)  # documents in a cluster


class Shape(NamedTuple):
    """What a corpus is like, whatever its size: half of its documents stand alone, half in clusters."""

    documents: int
    length: float = 3650  # bytes that end a document, on average; it goes on to the end of the paragraph
    seed: int = 0


class Corpus:
    """Documents (cluster, number); number 0 of a cluster is its original, the others are edited copies of it."""

    def __init__(self, text: Path, shape: Shape):
        self._shape = shape
        known: dict[str, int] = {}
        self._paragraphs = [
            np.array([known.setdefault(piece, len(known)) for piece in pieces], np.int32)
            for pieces in _paragraphs(text)
        ]
        if not self._paragraphs:
            raise SystemExit(f"{text}: no paragraph of {_SHORTEST} characters in a *.txt or *.jsonl, plain or *.gz")
        self._pieces = np.array(list(known), object)
        bytes_of = np.array([len(piece.encode()) for piece in known])
        self._bytes = np.array([bytes_of[paragraph].sum() for paragraph in self._paragraphs])
        self.sizes = self._cluster_sizes()

    def _cluster_sizes(self) -> list[int]:
        """Documents in each cluster, about half of all in clusters of one."""
        random = np.random.default_rng([self._shape.seed])
        least, most = _COPIES
        share = 1 / (1 + (least + most) / 2)  # of clusters that have copies, so that these hold half of the documents
        sizes, left = [], self._shape.documents
        while left:
            size = min(left, int(random.integers(least, most + 1)) if random.random() < share else 1)
            sizes.append(size)
            left -= size
        return sizes

    def write(self, place: Path) -> int:
        """All documents in random order as JSON lines of id, text and cluster; returns the bytes of their text."""
        documents = [(cluster, number) for cluster, size in enumerate(self.sizes) for number in range(size)]
        order = np.random.default_rng([self._shape.seed, 1]).permutation(len(documents))
        total = 0
        with open(place, "w", encoding="utf-8") as lines:
            for cluster, number in (documents[index] for index in order):
                text = self.text(cluster, number)
                total += len(text.encode())
                row = {"id": f"{cluster}-{number}", "text": text, "cluster": cluster}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        return total

    def text(self, cluster: int, number: int) -> str:
        pieces = self._original(cluster)
        if number:
            pieces = _edited(pieces, np.random.default_rng([self._shape.seed, cluster, number]))
        return "".join(self._pieces[pieces]).strip()

    def _original(self, cluster: int) -> np.ndarray:
        """Paragraphs drawn at random until the length drawn is reached, mixed with pieces of others."""
        random = np.random.default_rng([self._shape.seed, cluster, 0])
        wanted = self._shape.length * math.exp(random.normal(-(_SPREAD**2) / 2, _SPREAD))
        parts, size = [], 0
        while size < wanted:
            chosen, other = random.integers(len(self._paragraphs), size=2)
            part, foreign = self._paragraphs[chosen].copy(), self._paragraphs[other]
            places = np.flatnonzero(random.random(len(part)) < _FOREIGN)
            part[places] = random.choice(foreign, len(places))
            parts.append(part)
            size += self._bytes[chosen]
        return np.concatenate(parts)

    def pairs(self, ngram: int = 5) -> Iterator[list[tuple[int, int, float]]]:
        """For each cluster of several: all pairs of its documents, with their exact Jaccard similarity."""
        for cluster, size in enumerate(self.sizes):
            if size > 1:
                sets = [shingles(self.text(cluster, number), ngram) for number in range(size)]
                pairs = itertools.combinations(range(size), 2)
                yield [(a, b, len(sets[a] & sets[b]) / max(1, len(sets[a] | sets[b]))) for a, b in pairs]


def _edited(pieces: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Some pieces deleted, some doubled, some replaced by another one of the document: a third of each, about."""
    count = max(1, round(len(pieces) * random.uniform(*_EDITED)))
    deleted, doubled, replaced = np.array_split(random.choice(len(pieces), min(count, len(pieces)), replace=False), 3)
    result, times = pieces.copy(), np.ones(len(pieces), int)
    result[replaced] = random.choice(pieces, len(replaced))
    times[deleted], times[doubled] = 0, 2
    return np.repeat(result, times)


def _paragraphs(folder: Path) -> Iterator[list[str]]:
    """Pieces of each paragraph, the last one with the blank line after it."""
    for text in _texts(folder):
        for paragraph in re.split(r"\n\s*\n", text):
            if len(paragraph) >= _SHORTEST and (pieces := _PIECE.findall(paragraph.strip()[:_LONGEST])):
                yield [*pieces[:-1], pieces[-1] + "\n\n"]


def _texts(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        name = path.name.removesuffix(".gz")
        if path.is_file() and name.endswith((".txt", ".jsonl")):
            with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", errors="replace") as file:
                if name.endswith(".txt"):
                    yield file.read()
                else:
                    yield from (text for line in file if isinstance(text := json.loads(line).get("text"), str))


def shingles(text: str, ngram: int = 5) -> set[tuple[str, ...]]:
    """Runs of tokens (words; characters of Chinese, Japanese and Korean) in lower case; a shorter text is one."""
    tokens = _TOKEN.findall(text.lower())
    return {tuple(tokens[at : at + ngram]) for at in range(max(1, len(tokens) - ngram + 1))} if tokens else set()


def pairs_of(sizes: Iterable[int]) -> int:
    """Pairs within groups of these sizes."""
    return sum(size * (size - 1) // 2 for size in sizes)


class Agreement(NamedTuple):
    """Pairs of documents that are in one group, as found, against those that are in one cluster, in truth."""

    recall: float
    precision: float


def agreement(found: Mapping[str, Hashable], truth: Mapping[str, Hashable]) -> Agreement:
    """Of the closure, what removal acts on: all pairs within a group count. Both map ids to groups."""
    both = pairs_of(Counter((found[one], truth[one]) for one in truth).values())
    return Agreement(
        both / max(1, pairs_of(Counter(truth.values()).values())),
        both / max(1, pairs_of(Counter(found.values()).values())),
    )


class Ideal(NamedTuple):
    """What could be found in a corpus by pairs of at least some similarity."""

    threshold: float
    pairs: int  # within clusters
    recall: float  # of all pairs within clusters, by the closure of those


def ideals(corpus: Corpus, thresholds: Iterable[float]) -> list[Ideal]:
    """For each threshold, the pairs at or above it, and the recall of a clustering that finds all of them."""
    clusters = list(corpus.pairs())
    result = []
    for threshold in thresholds:
        similar = [[(a, b) for a, b, jaccard in pairs if jaccard >= threshold] for pairs in clusters]
        joined = sum(pairs_of(Counter(joined_by(pairs).values()).values()) for pairs in similar)
        result.append(Ideal(threshold, sum(map(len, similar)), joined / max(1, sum(map(len, clusters)))))
    return result


def joined_by(pairs: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Each document that pairs connect, and one that stands for all that it is connected with."""
    above: dict[int, int] = {}

    def top(one: int) -> int:
        while above.setdefault(one, one) != one:
            above[one] = one = above[above[one]]
        return one

    for a, b in pairs:
        above[top(a)] = top(b)
    return {one: top(one) for one in list(above)}
