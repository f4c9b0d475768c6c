"""Passages that stand more than once: lines, spans of sentences, runs of tokens. Their keys are dealt by range over the
whole corpus; of each that repeats, the one in the document that would stay first stays.

Looked at is what the corpus would hold: documents that no rule has dropped yet, without lines that line rules remove.

Runs of tokens take two rounds: first the few fingerprints of each text that any common run must share, then the full
keys of the runs around those that did repeat. Only this run's documents are looked at, not those of earlier runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tilth.work import Outbox

from ..label.lines import EDITS, FLAGS, MARKS
from ..recipe import CurateRecipe
from ..run import Run
from ..segment import segment
from .census import Census, Part
from .choose import CHOICE, CHOSEN, of_url, spread
from .exact import firsts
from .options import COPY_LABELS
from .order import unjudged_order
from .passages import Passages, anchors, line_passages, sentence_passages, windows
from .shuffle import Dealer, column, gathered, joined, partitions, ranges
from .stages import passing

PARTITION = 2_000_000  # passages that one unit sorts, 140 bytes each; those of one key are not divided
BYTES_PER_PASSAGE = 10  # of text; where much repeats every token begins a passage
ANCHORS, ANCHORED = "dedup/anchors", "dedup/anchored"
PASSAGES, REPEATS = "dedup/passages", "dedup/repeats"
LINE, SENTENCES, RUN, ANCHOR = range(4)

PASSAGE = pa.schema(
    [
        ("kind", pa.int8()),
        ("key", pa.uint64()),
        ("check", pa.uint64()),
        ("order", pa.uint64()),
        ("document", pa.int64()),
        ("start", pa.int64()),
        ("end", pa.int64()),
    ]
)
REPEAT = pa.schema(
    [("document", pa.int64()), ("kind", pa.int8()), ("start", pa.int64()), ("end", pa.int64()), ("first", pa.bool_())]
)


def passage_partitions(census: Census) -> int:
    return partitions(census.bytes // BYTES_PER_PASSAGE, PARTITION)


class PassageWorker:
    """Deals the passages of one group's documents: anchors in the first round, everything else in the second."""

    def __init__(
        self,
        census: Census,
        recipe: CurateRecipe,
        addressed: Sequence[str],
        chosen: Sequence[str],
        count: int,
        anchored: Sequence[str] | None,
    ):
        self._census = census
        self._run = Run(census.folders[0])
        self._recipe = recipe
        self._addressed = addressed
        self._chosen = chosen
        self._anchored = anchored  # None in the first round
        self._count = count

    def __call__(self, payload: int, outbox: Outbox) -> Mapping[str, Any]:
        census, folder, groups = self._census, self._census.folders[0], len(self._census.groups)
        url_of = of_url(census, self._addressed, payload)
        chosen = gathered(folder, CHOSEN, self._chosen, payload, groups, CHOICE)
        shared = gathered(folder, ANCHORED, self._anchored or [], payload, groups, REPEAT)
        output = ANCHORS if self._anchored is None else PASSAGES
        with Dealer(outbox.file(output, 0, ".arrow"), PASSAGE, self._count) as dealer:
            for part in census.groups[payload]:
                order, stands = self._order(part, url_of, chosen)
                marks = _by_document(shared, part)
                newest = self._run.table(part.key, ["lines.flags"])["lines.flags"]  # labels may stand beside documents
                for start, piece in self._run.pieces(part.key, ["text"], np.flatnonzero(stands)):
                    flags = newest.slice(start, len(piece)).to_pylist()
                    found = [
                        (place, kind, passages)
                        for place, (text, bits) in enumerate(zip(piece["text"].to_pylist(), flags, strict=True), start)
                        if stands[place]
                        for kind, passages in self._passages(text, bits, marks.get(place))
                    ]
                    table = _rows(found, order, part.first)
                    dealer.add(table, ranges(column(table, "key"), self._count))
        return {"passages": dealer.rows}

    def _passages(
        self, text: str, flags: list[int] | None, shared: np.ndarray | None
    ) -> Iterator[tuple[int, Passages]]:
        options = self._recipe.dedup.passages
        document = segment(text)
        if self._anchored is None:
            found = anchors(document, options.substring_tokens)
            yield ANCHOR, Passages(found.keys, np.zeros_like(found.keys), found.tokens, found.tokens)
            return
        gone = removed_lines(text, flags, self._recipe.line_rules)
        if options.lines:
            yield LINE, _outside(gone, line_passages(document, options))
        if options.sentences:
            yield SENTENCES, _outside(gone, sentence_passages(document, options))
        if options.substrings and shared is not None:
            yield RUN, _outside(gone, windows(document, options.substring_tokens, shared))

    def _order(self, part: Part, url_of: pa.Table, chosen: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """The order of a part's documents, and bool[n]: no rule has dropped it yet. Only those are looked at."""
        missing = {"dup.similarity": None, "dup.size": 1}
        known = {name: spread(chosen, name.removeprefix("dup."), part, missing.get(name, "")) for name in COPY_LABELS}
        known["dup.url_of"] = spread(url_of, "url_of", part, "")
        stands = passing(self._run, self._recipe, part.key, part.documents, 2, known)
        return unjudged_order(self._run, part, self._recipe.dedup.quality), stands


def removed_lines(text: str, flags: list[int] | None, rules: Sequence[str]) -> np.ndarray:
    """int64[n, 2]: where the lines start and end that line rules will remove; no passage is to stay there."""
    bits = sum(FLAGS[rule] for rule in rules if rule not in MARKS and rule not in EDITS)
    if not bits or flags is None:
        return np.zeros((0, 2), np.int64)
    ends = np.cumsum([len(line) + 1 for line in text.split("\n")])
    gone = np.flatnonzero(np.array(flags) & bits)
    return np.stack([np.concatenate([[0], ends])[gone], ends[gone]], axis=1)


def _outside(gone: np.ndarray, found: Passages) -> Passages:
    """The passages that reach into none of the spans `gone`, which are sorted."""
    if not len(gone):
        return found
    after = np.searchsorted(gone[:, 1], found.starts, side="right")  # the first span that ends behind the start
    clear = np.append(gone[:, 0], np.iinfo(np.int64).max)[after] >= found.ends
    return Passages(*(part[clear] for part in found))


def _rows(found: Sequence[tuple[int, int, Passages]], order: np.ndarray, first: int) -> pa.Table:
    """The passages of documents `first` + place, of a kind each."""
    sizes = [len(passages.keys) for _, _, passages in found]
    place, kind = (np.repeat(np.array([one[at] for one in found], np.int64), sizes) for at in (0, 1))
    key, check = (joined([one[2][at] for one in found], np.uint64) for at in (0, 1))
    start, end = (joined([one[2][at] for one in found], np.int64) for at in (2, 3))
    return pa.table([kind.astype(np.int8), key, check, order[place], first + place, start, end], schema=PASSAGE)


def _by_document(shared: pa.Table, part: Part) -> dict[int, np.ndarray]:
    """First tokens of the repeated anchors of each of a part's documents that has any."""
    document, start = column(shared, "document"), column(shared, "start")
    here = part.holds(document)
    document, start = document[here] - part.first, start[here]
    rank = np.lexsort((start, document))
    document, start = document[rank], start[rank]
    places, first = np.unique(document, return_index=True)
    return dict(zip(places.tolist(), np.split(start, first[1:]), strict=True)) if len(places) else {}


class RepeatWorker:
    """Finds the passages of one range of keys that stand more than once, with the one that stays marked."""

    def __init__(self, census: Census, source: str, output: str, sources: Sequence[str], count: int):
        self._census = census
        self._source = source
        self._output = output
        self._sources = sources
        self._count = count

    def __call__(self, payload: int, outbox: Outbox) -> Mapping[str, Any]:
        census = self._census
        table = gathered(census.folders[0], self._source, self._sources, payload, self._count, PASSAGE)
        kind, key, check, order, document, start, _ = (column(table, name) for name in PASSAGE.names)
        rank = np.lexsort((start, document, order, check, key, kind))
        first = firsts(kind[rank], key[rank], check[rank])
        alone = first & np.append(first[1:], True)
        found = table.take(rank[~alone]).append_column("first", pa.array(first[~alone])).select(REPEAT.names)
        with Dealer(outbox.file(self._output, len(found), ".arrow"), REPEAT, len(census.groups)) as dealer:
            dealer.add(found, census.group_of(column(found, "document")))
        return {"repeats": len(found)}
