"""Words and how often each occurs: what every vocabulary is learned from.

Units of the corpus are counted by themselves, their tables dealt to partitions by the hash of the word, and each
partition summed and sorted: one Parquet table, the same for any number of workers and any order of files, larger than
memory if it has to be. Counts are exact 64-bit integers; words rarer than `min_count` are left out of the table, and
how many words and occurrences that took away is told.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from tilth.storage import Folder
from tilth.work import Outbox

from ..curate.dedup.shingle import compiled
from ..curate.dedup.shuffle import Dealer, dealt, ranges
from .corpus import CorpusUnit, batches
from .normalize import Normalizer
from .split import WHITE_SPACE, SplitOptions, Splitter, Words, decode
from .tables import hash_bytes, longer, same_bytes

DEALT = "dealt"  # between the two passes
COUNTS = "counts"  # the table
SCHEMA = pa.schema([("word", pa.binary()), ("label", pa.string()), ("count", pa.int64())])
BUDGET = 192 * 2**20  # bytes of words that a unit holds before it deals them out
PARTITION_BYTES = 256 * 2**20  # of input, a partition
_BLANK = np.isin(np.arange(max(WHITE_SPACE) + 1), WHITE_SPACE)  # by code point


class CountOptions(BaseModel):
    """How words are counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: int | None = Field(
        default=None,
        ge=1,
        description="count about so many documents: the first ones of each unit, by its share of the input",
    )
    min_count: int = Field(
        default=1, ge=1, description="rarer words are left out of the table: bounds the memory of learning, and is told"
    )


class Counts(NamedTuple):
    """Words one behind the other, and how often each occurs."""

    text: np.ndarray  # uint8
    bounds: np.ndarray  # int64[n + 1], where each word begins
    counts: np.ndarray  # int64[n]

    def words(self) -> list[bytes]:
        """Each word; for tests and small tables."""
        whole, bounds = self.text.tobytes(), self.bounds.tolist()
        return [whole[start:end] for start, end in pairwise(bounds)]


class Tally:
    """A hash table of words in memory."""

    def __init__(self) -> None:
        self._slots = np.full(2**16, -1, np.int32)
        self._text = np.empty(2**20, np.uint8)
        self._bounds = np.zeros(2**15 + 1, np.int64)
        self._hashes = np.empty(2**15, np.uint64)
        self._counts = np.empty(2**15, np.int64)
        self.size = 0  # words

    @property
    def nbytes(self) -> int:
        """Bytes that the table takes."""
        arrays = (self._slots, self._text, self._bounds, self._hashes, self._counts)
        return sum(array.nbytes for array in arrays)

    def add(self, words: Words, drops_blank: bool = False) -> None:
        """Counts words."""
        start = done = 0
        while done < len(words.ends):
            done, start, self.size = _tally(
                words.text, words.ends, done, start, drops_blank,
                self._slots, self._text, self._bounds, self._hashes, self._counts, self.size,
            )  # fmt: skip
            if done < len(words.ends):
                self._grow(int(words.ends[done] - start))

    def _grow(self, length: int) -> None:
        """Room for at least one more word of that length."""
        if self._bounds[self.size] + length > len(self._text):
            self._text = longer(self._text, max(2 * len(self._text), len(self._text) + length))
        if self.size == len(self._counts):
            self._bounds = longer(self._bounds, 2 * self.size + 1)
            self._hashes, self._counts = longer(self._hashes, 2 * self.size), longer(self._counts, 2 * self.size)
            self._slots = np.full(4 * self.size, -1, np.int32)
            _rehash(self._slots, self._hashes, self.size)

    def counts(self) -> Counts:
        """What was counted, words in the order in which they came first."""
        bounds = self._bounds[: self.size + 1].copy()
        return Counts(self._text[: bounds[-1]].copy(), bounds, self._counts[: self.size].copy())

    def table(self, label: str) -> tuple[pa.Table, np.ndarray]:
        """What was counted as rows of SCHEMA, and the hash of each word (uint64)."""
        bounds = self._bounds[: self.size + 1]
        offsets = pa.py_buffer(bounds.astype(np.int32))
        words = pa.Array.from_buffers(pa.binary(), self.size, [None, offsets, pa.py_buffer(self._text)])
        labels = pa.repeat(pa.scalar(label, pa.string()), self.size)
        columns = [words, labels, pa.array(self._counts[: self.size])]
        return pa.Table.from_arrays(columns, schema=SCHEMA), self._hashes[: self.size].copy()


@compiled
def _tally(text, ends, done, start, drops_blank, slots, arena, bounds, hashes, counts, size):
    """Counts words from number `done` on, which begins at `start`, until the table is full; returns where it is."""
    mask = np.uint64(len(slots) - 1)
    while done < len(ends):
        end = ends[done]
        if drops_blank:
            point = decode(text, start)[0]
            if point < len(_BLANK) and _BLANK[point]:
                start = end
                done += 1
                continue
        value = hash_bytes(text, start, end)
        slot = value & mask
        while True:
            entry = slots[slot]
            if entry < 0:
                if size == len(counts) or bounds[size] + end - start > len(arena):
                    return done, start, size
                slots[slot] = size
                arena[bounds[size] : bounds[size] + end - start] = text[start:end]
                bounds[size + 1] = bounds[size] + end - start
                hashes[size] = value
                counts[size] = 1
                size += 1
                break
            begin, length = bounds[entry], bounds[entry + 1] - bounds[entry]
            if hashes[entry] == value and length == end - start and same_bytes(text, start, arena, begin, length):
                counts[entry] += 1
                break
            slot = (slot + np.uint64(1)) & mask
        start = end
        done += 1
    return done, start, size


@compiled
def _rehash(slots, hashes, size):
    mask = np.uint64(len(slots) - 1)
    for entry in range(size):
        slot = hashes[entry] & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = entry


class CountWorker:
    """Counts the words of one unit of the corpus and deals them to the partitions; given `density`, documents a byte of
    the unit, only those of its first documents."""

    def __init__(
        self,
        normalizer: Normalizer,
        split: SplitOptions,
        label: str | None,
        partitions: int,
        density: float | None = None,
    ):
        self._density = density
        self._normalizer = normalizer
        self._splitter = Splitter(split)
        self._label = label
        self._partitions = partitions

    def __call__(self, payload: CorpusUnit, outbox: Outbox) -> Mapping[str, Any]:
        tallies: dict[str, Tally] = {}
        documents, words = 0, 0
        most = None if self._density is None else math.ceil(self._density * payload.unit.size)
        sizes, skipped = Counter[str](), Counter[str]()
        with Dealer(outbox.file(DEALT, 0, ".arrow"), SCHEMA, self._partitions, packed=True) as dealer:
            for batch in batches(payload, self._label):
                skipped.update(batch.skipped)
                texts = batch.texts if most is None else batch.texts[: most - documents]
                documents += len(texts)
                grouped: dict[str, list[str]] = {}
                for label, text in zip(batch.labels, texts, strict=False):
                    grouped.setdefault(label, []).append(text)
                for label, texts in sorted(grouped.items()):
                    sizes[label] += sum(len(text.encode("utf-8", "replace")) for text in texts)
                    tally = tallies.setdefault(label, Tally())
                    tally.add(self._splitter([self._normalizer(text) for text in texts]), self._splitter.drops_blank)
                    if sum(tally.nbytes for tally in tallies.values()) > BUDGET:
                        words += self._deal(tallies, dealer)
                if documents == most:
                    break
            words += self._deal(tallies, dealer)
        return {"documents": documents, "bytes": sizes, "words": words, "skipped": skipped}

    def _deal(self, tallies: dict[str, Tally], dealer: Dealer) -> int:
        """Empties the tallies; returns how many words they had counted."""
        words = 0
        for label, tally in tallies.items():
            table, hashes = tally.table(label)
            dealer.add(table, ranges(hashes, self._partitions))
            words += int(table["count"].to_numpy().sum())
        tallies.clear()
        return words


class MergeWorker:
    """Sums what all units dealt to one partition: rows of SCHEMA, ordered by word and label."""

    def __init__(self, folder: Folder, sources: Sequence[str], partitions: int, min_count: int):
        self._folder = folder
        self._sources = sources
        self._partitions = partitions
        self._min_count = min_count

    def __call__(self, payload: int, outbox: Outbox) -> Mapping[str, Any]:
        parts = dealt(self._folder, DEALT, self._sources, payload, self._partitions)
        table = summed(pa.Table.from_batches(parts, SCHEMA))
        occurrences = pc.sum(table["count"], min_count=0).as_py()
        words = len(table)
        if self._min_count > 1:
            table = _frequent(table, self._min_count)
        kept = pc.sum(table["count"], min_count=0).as_py()
        pq.write_table(table, outbox.file(COUNTS, len(table)), compression="zstd")
        pruned = {"words": words - len(table), "occurrences": occurrences - kept}
        return {"words": len(table), "occurrences": kept, "pruned": pruned}


def summed(table: pa.Table) -> pa.Table:
    """Rows of SCHEMA with one row for each word and label, in their order."""
    grouped = table.group_by(["word", "label"]).aggregate([("count", "sum")])
    return (
        grouped.rename_columns({"count_sum": "count"})
        .select(SCHEMA.names)
        .sort_by([("word", "ascending"), ("label", "ascending")])
    )


def _frequent(table: pa.Table, least: int) -> pa.Table:
    """The rows whose word occurs at least so often, under all labels together."""
    whole = table.group_by(["word"]).aggregate([("count", "sum")])
    frequent = whole.filter(pc.greater_equal(whole["count_sum"], least))["word"]
    return table.filter(pc.is_in(table["word"], value_set=frequent))


def load_counts(folders: Sequence[Folder], factors: Mapping[str, float] | None = None) -> Counts:
    """The tables of finished counts as one, each label's counts multiplied by its factor.

    A product is rounded up or down by the hash of its word, so that many rare words keep their share together, and the
    same counts give the same.

    Words are in the order of the tables' partitions; those of several folders are summed.
    """
    tables = []
    for folder in folders:
        for name in folder.names(COUNTS):
            with folder.open(f"{COUNTS}/{name}") as file:
                tables.append(_weighted(pq.read_table(file), factors))
    if len(folders) > 1:
        tables = [summed(_unlabelled(pa.concat_tables(tables)))]
    text, lengths, counts = [np.zeros(0, np.uint8)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    while tables:
        table = tables.pop(0)
        if len(table):
            letters, ends = _bytes_of(table)
            text.append(letters[ends[0] : ends[-1]])
            lengths.append(np.diff(ends).astype(np.int64))
            counts.append(table["count"].to_numpy())
    bounds = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    found = Counts(np.concatenate(text), bounds, np.concatenate(counts))
    pa.default_memory_pool().release_unused()
    return found


def _weighted(table: pa.Table, factors: Mapping[str, float] | None) -> pa.Table:
    """One row for each word, its label's counts weighted; words that are left with nothing go."""
    if factors and any(factor != 1 for factor in factors.values()):
        labels = table["label"].combine_chunks().dictionary_encode()
        by_index = np.array([factors.get(name, 0.0) for name in labels.dictionary.to_pylist()])
        if len(table):
            products = table["count"].to_numpy() * by_index[labels.indices.to_numpy()]
            counts = np.floor(products + _fractions(*_bytes_of(table))).astype(np.int64)
            table = table.set_column(2, "count", pa.array(counts)).filter(pa.array(counts > 0))
    if len(pc.unique(table["label"])) > 1:
        table = summed(_unlabelled(table))
    return table


def _bytes_of(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The words of rows of SCHEMA one behind the other (uint8), and where each begins and the last one ends (int32)."""
    words = table["word"].combine_chunks()
    ends = np.frombuffer(words.buffers()[1], np.int32)[words.offset : words.offset + len(words) + 1]
    return np.frombuffer(words.buffers()[2], np.uint8), ends


@compiled
def _fractions(text, bounds):
    """float64 in [0, 1) for each word, evenly spread."""
    fractions = np.empty(len(bounds) - 1, np.float64)
    for word in range(len(fractions)):
        fractions[word] = np.float64(hash_bytes(text, bounds[word], bounds[word + 1]) >> np.uint64(11)) / 2.0**53
    return fractions


def _unlabelled(table: pa.Table) -> pa.Table:
    return table.set_column(1, "label", pa.repeat(pa.scalar("", pa.string()), len(table)))
