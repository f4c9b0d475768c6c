"""Token shards as samples of one length, in the order in which they stand.

Opens what `tilth tokenize encode` wrote, and Megatron's `.bin` and `.idx` of others; keeps a share of the documents for
validation and cuts the others into samples. A number gives a sample: which one is trained on when is decided elsewhere.
The tokens stay in their memory-mapped files; 16 bytes or so a document are all that is held of them.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from xxhash import xxh3_64_intdigest

from tilth.errors import InputError, UsageError

from .files import Shard, agreed, column_of, ids_of, opened, read_index, sources_of

_BLOCK = 2**20  # bytes that are looked at in one go
_LOOKED_AT = 100 * 2**20, 2 * 2**30  # bytes that `check` reads of a shard, and in all


class Sample(NamedTuple):
    """Neighbouring tokens: one more than the model reads, for the targets."""

    tokens: np.ndarray  # int64[length + 1]
    documents: np.ndarray  # int32[length + 1]: number of the document within the sample, from 1; 0 is padding
    source: int  # index into `TokenShards.sources`, of the document that the first token is of


class Piece(NamedTuple):
    """What a sample has of one document: its tokens from `first` up to, but not with, `stop`."""

    shard: str  # path without suffix
    number: int  # of the document in the shard, from 0
    id: str
    first: int
    stop: int


class TokenShards:
    """The documents of one or several places: samples to train on, and `held`, those that are kept for validation.

    A place is an output folder of `tilth tokenize encode`, a folder of `.bin` and `.idx` files, or the path of one such
    pair with or without its suffix; all are on local disks. Sample i has the tokens i * length to (i + 1) * length of
    the training documents, one behind the other: samples overlap by one token, so that each is a target once (what
    is left behind the last whole sample, less than `length`, is not read). A document is held out if the hash of its id
    is below the share `held_out`: always the same ones, however the corpus is cut into shards and in whatever order.

    Raises InputError for files that are missing, torn, or of several tokenizers, and for too few tokens.
    """

    def __init__(self, places: Sequence[str], length: int, held_out: float = 0.0, seed: int = 0):
        if length < 1 or not 0 <= held_out < 1 or not 0 <= seed < 2**64:
            right = "at least 1 token, a share from 0 to less than 1, a seed from 0 to less than 2^64"
            raise UsageError(f"samples of {length} tokens, held_out {held_out:g}, seed {seed}: need {right}")
        shards = [shard for place in places for shard in opened(place)]
        if not shards:
            raise InputError("no token shards are named; make some with tilth tokenize encode")
        self.end, self.tokenizer, self.digest = agreed(shards)  # the tokenizer's name and hash, None where unknown
        self.fingerprint = hashlib.sha256(orjson.dumps([shard.state for shard in shards])).hexdigest()
        self._store = _Store(shards)
        table = _table(shards, self._store.bases, held_out, seed)
        self.sources = table.sources
        self._length = length
        self._labels = table.labels[~table.held] if len(self.sources) > 1 else None
        self._run = table.run(self._store, ~table.held)
        self.tokens = self._run.tokens  # of all training documents
        self._samples = (self.tokens - 1) // length
        named = ", ".join(places)
        if self._samples < 1:
            held = f" (beside {int(table.held.sum())} documents held out)" if held_out else ""
            raise InputError(f"{named}: {self.tokens} training tokens{held} do not make one sample of {length + 1}")
        if held_out and not table.held.any():
            raise InputError(f"{named}: held_out {held_out:g} of {len(table.held)} documents holds none; ask for more")
        self.held = HeldOut(
            [
                (source, table.run(self._store, chosen))
                for source in range(len(self.sources))
                if (chosen := np.flatnonzero(table.held & (table.labels == source))).size
            ],
            length,
        )

    def __len__(self) -> int:
        """Samples in one pass."""
        return self._samples

    def sample(self, index: int) -> Sample:
        """The sample of that number; from len() on it is the next pass over the same."""
        first = index % self._samples * self._length
        source = 0 if self._labels is None else int(self._labels[self._run.document_at(first)])
        return self._run.sample(first, self._length, source)

    def documents(self, index: int) -> list[Piece]:
        """What is in the sample of that number."""
        return self._run.pieces(index % self._samples * self._length, self._length)

    def check(self, vocab_size: int) -> None:
        """Raises InputError for a token id that a model of so many ids does not have.

        Looks at 100 MB of each shard at most, and 2 GB in all, evenly spread; then at every sample as it is read, for
        an embedding that is split over ranks takes an id beyond its rows for a row of zeros.
        """
        self._store.check(vocab_size)


class HeldOut:
    """Samples of the documents that are held out, source by source; each source's last one is padded, so that no token
    is left out."""

    def __init__(self, runs: Sequence[tuple[int, "_Run"]], length: int):
        self._runs, self._length = runs, length
        counts = [-(-run.tokens // length) for _, run in runs]
        self._firsts = np.cumsum([0, *counts])  # number of each source's first sample, and of all samples
        self.tokens = sum(run.tokens for _, run in runs)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def numbers(self, most: int | None = None) -> list[int]:
        """The samples, source by source; of each source the first `most`."""
        return [
            number
            for first, stop in pairwise(self._firsts.tolist())
            for number in range(first, stop if most is None else min(stop, first + most))
        ]

    def sample(self, index: int) -> Sample:
        (source, run), first = self._found(index)
        return run.sample(first, self._length, source)

    def documents(self, index: int) -> list[Piece]:
        (_, run), first = self._found(index)
        return run.pieces(first, self._length)

    def _found(self, index: int) -> tuple[tuple[int, "_Run"], int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} held out")
        at = int(np.searchsorted(self._firsts, index, side="right")) - 1
        return self._runs[at], (index - int(self._firsts[at])) * self._length


# --- Reading ----------------------------------------------------------------------------------------------------------


class _Store:
    """The tokens of all shards. Their addresses count on from shard to shard."""

    def __init__(self, shards: Sequence[Shard]):
        self._names = [(shard.place, shard.rows) for shard in shards]
        self._tokens = [shard.tokens for shard in shards]
        self.bases = np.cumsum([0, *map(len, self._tokens)])  # int64[shards + 1]: address of each shard's first token
        self._vocab_size: int | None = None
        self._documents = lru_cache(maxsize=2)(self._read_documents)  # those who ask for one ask for its neighbours

    def read(self, addresses: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The tokens of documents' parts, by address and number of each: int64[sum of counts]."""
        shards, stops = self._shard_at(addresses), np.cumsum(counts)
        parted = (addresses[1:] != addresses[:-1] + counts[:-1]) | (shards[1:] != shards[:-1])
        made = np.empty(stops[-1], np.int64)
        for part, after in pairwise([0, *(np.flatnonzero(parted) + 1), len(counts)]):  # runs of neighbours
            shard, begin, stop = shards[part], stops[part] - counts[part], stops[after - 1]
            at = addresses[part] - self.bases[shard]
            made[begin:stop] = self._tokens[shard][at : at + stop - begin]
        if self._vocab_size and made.view(np.uint64).max() >= self._vocab_size:  # ids below zero too
            document = int(np.searchsorted(stops, made.view(np.uint64).argmax(), side="right"))
            self._refuse(int(shards[document]), made, self._vocab_size)
        return made

    def named(self, addresses: np.ndarray, firsts: np.ndarray, counts: np.ndarray) -> list[Piece]:
        """The same parts by the documents' names, given at which of its tokens each begins."""
        found = []
        for address, first, count in zip(addresses, firsts, counts, strict=True):
            shard = int(self._shard_at(address))
            place = self._names[shard][0]
            bounds, ids = self._documents(shard)
            number = int(np.searchsorted(bounds, address - self.bases[shard], side="right")) - 1
            found.append(Piece(place, number, ids[number], int(first), int(first + count)))
        return found

    def check(self, vocab_size: int) -> None:
        budget = min(_LOOKED_AT[0], _LOOKED_AT[1] // len(self._tokens))
        for shard, tokens in enumerate(self._tokens):
            if tokens.dtype.kind == "u" and np.iinfo(tokens.dtype).max < vocab_size:
                continue
            block, blocks = _BLOCK // tokens.itemsize, max(2, budget // _BLOCK)
            starts = np.arange(0, len(tokens), block)
            if len(starts) > blocks:
                starts = np.linspace(0, len(tokens) - block, blocks).astype(np.int64)
            for start in starts:
                part = tokens[start : start + block]
                if part.view(f"u{part.itemsize}").max() >= vocab_size:
                    self._refuse(shard, part, vocab_size)
        self._vocab_size = vocab_size

    def _read_documents(self, shard: int) -> tuple[np.ndarray, list[str]]:
        """Bounds and ids of a shard's documents."""
        place, rows = self._names[shard]
        _, bounds = read_index(Path(f"{place}.idx"))
        return bounds, ids_of(place, rows, len(bounds) - 1)

    def _shard_at(self, addresses: Any) -> np.ndarray:
        return np.searchsorted(self.bases, addresses, side="right") - 1

    def _refuse(self, shard: int, tokens: np.ndarray, vocab_size: int) -> None:
        wrong = int(tokens[tokens.view(f"u{tokens.itemsize}").argmax()])
        raise InputError(
            f"{self._names[shard][0]}.bin: token id {wrong} is beyond the model's vocabulary of {vocab_size}; set "
            "model.vocab_size to what the shards' tokenizer has, or encode with the model's"
        )


class _Run(NamedTuple):
    """Some documents, none of them empty, one behind the other."""

    store: _Store
    begins: np.ndarray  # int64[documents]: address of the first token
    stops: np.ndarray  # int64[documents]: tokens of the run up to the document's end
    whole: np.ndarray | None  # int64[documents]: tokens that are not padding; None: all of them

    @property
    def tokens(self) -> int:
        return int(self.stops[-1]) if len(self.stops) else 0

    def document_at(self, token: int) -> int:
        return int(np.searchsorted(self.stops, token, side="right"))

    def sample(self, first: int, length: int, source: int) -> Sample:
        """The tokens from `first` to `first + length`, this one too; what lies behind the run's end is padding."""
        at, inner, counts = self._parts(first, length)
        read = int(counts.sum())
        tokens, documents = np.zeros(length + 1, np.int64), np.zeros(length + 1, np.int32)
        tokens[:read] = self.store.read(self.begins[at] + inner, counts)
        documents[:read] = np.repeat(np.arange(1, len(counts) + 1, dtype=np.int32), counts)
        if self.whole is not None:
            place = np.arange(read) + np.repeat(inner - np.cumsum(counts) + counts, counts)  # within its document
            documents[:read][place >= np.repeat(self.whole[at], counts)] = 0
        return Sample(tokens, documents, source)

    def pieces(self, first: int, length: int) -> list[Piece]:
        at, inner, counts = self._parts(first, length)
        return self.store.named(self.begins[at] + inner, inner, counts)

    def _parts(self, first: int, length: int) -> tuple[slice, np.ndarray, np.ndarray]:
        """Documents of a sample, at which of its tokens it takes each of them up, and how many it takes (int64)."""
        stop = min(first + length + 1, self.tokens)
        at = slice(self.document_at(first), self.document_at(stop - 1) + 1)
        stops = self.stops[at]
        begins = np.concatenate(
            [self.stops[at.start - 1 : at.start] if at.start else np.zeros(1, np.int64), stops[:-1]]
        )
        inner = np.maximum(first - begins, 0)
        return at, inner, np.minimum(stops, stop) - begins - inner


# --- What there is ----------------------------------------------------------------------------------------------------


class _Table(NamedTuple):
    """All documents that are not empty."""

    begins: np.ndarray  # int64[documents]: addresses
    lengths: np.ndarray  # int64[documents]
    whole: np.ndarray | None  # int64[documents]: tokens that are not padding, where some are
    held: np.ndarray  # bool[documents]
    labels: np.ndarray  # int[documents]: index into sources
    sources: list[str]

    def run(self, store: _Store, chosen: np.ndarray) -> _Run:
        whole = self.whole[chosen] if self.whole is not None else None
        return _Run(store, self.begins[chosen], np.cumsum(self.lengths[chosen], dtype=np.int64), whole)


def _table(shards: Sequence[Shard], bases: np.ndarray, held_out: float, seed: int) -> _Table:
    """All documents of all shards that are not empty."""
    parts: list[tuple[np.ndarray, ...]] = []
    found: dict[str, int] = {}  # sources, numbered as they come
    for shard, base in zip(shards, bases, strict=False):
        lengths = np.diff(shard.bounds)
        there = lengths > 0
        whole = column_of(shard.rows, "tokens", len(lengths)).to_numpy() if shard.filled and shard.rows else lengths
        held = np.zeros(len(lengths), bool)
        if held_out:
            hashes = (xxh3_64_intdigest(id_.encode(), seed) for id_ in ids_of(shard.place, shard.rows, len(lengths)))
            held = np.fromiter(hashes, np.uint64, len(lengths)) < int(held_out * 2**64)
        names, labels = sources_of(shard)
        labels = np.array([found.setdefault(name, len(found)) for name in names], np.int32)[labels]
        columns = shard.bounds[:-1] + base, lengths, np.minimum(whole, lengths), held, labels
        parts.append(tuple(column[there] for column in columns))
    begins, lengths, whole, held, labels = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    sources = sorted(found)
    ranks = {name: rank for rank, name in enumerate(sources)}
    labels = np.array([ranks[name] for name in found], np.int32)[labels]
    filled = any(shard.filled for shard in shards)
    return _Table(begins, lengths, whole if filled else None, held, labels, sources)
