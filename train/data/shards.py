"""Token shards: what documents they hold, and their tokens by address.

Opens what `tilth tokenize encode` wrote, and Megatron's `.bin` and `.idx` of others. Which documents make which samples
is `pools`' to say, and which sample is trained on when, `order`'s.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import orjson
import pyarrow as pa
from xxhash import xxh3_64_intdigest

from tilth.errors import InputError

from .files import Shard, agreed, column_of, ids_of, opened, read_index, sources_of

_BLOCK = 2**20  # bytes that are looked at in one go
_LOOKED_AT = 100 * 2**20, 2 * 2**30  # bytes that `check` reads of a shard, and in all


class Sample(NamedTuple):
    """Tokens for the model, and one more than it reads, for the targets."""

    tokens: np.ndarray  # int64[length + 1]
    documents: np.ndarray  # int32[length + 1]: number of the document within the sample, from 1; 0 is padding
    source: int  # index into the `sources` of where it is from


class Piece(NamedTuple):
    """What a sample has of one document: its tokens from `first` up to, but not with, `stop`."""

    shard: str  # path without suffix
    number: int  # of the document in the shard, from 0
    id: str
    first: int
    stop: int


class Table(NamedTuple):
    """Documents that have a token, as they stand."""

    begins: np.ndarray  # int64[documents]: address of the first token
    lengths: np.ndarray  # int64[documents]
    whole: np.ndarray  # int64[documents]: tokens that are not padding
    labels: np.ndarray  # int32[documents]: index into the sources
    sources: list[str]
    counts: list[int]  # documents of each shard


class TokenShards:
    """The documents of one or several places.

    A place is an output folder of `tilth tokenize encode`, a folder of `.bin` and `.idx` files, or the path of one such
    pair with or without its suffix; all are on local disks. Documents without a token are passed over; the others are
    numbered as they stand. Raises InputError for files that are missing, torn, or of several tokenizers.
    """

    def __init__(self, places: Sequence[str]):
        found = [(shard, place) for place in places for shard in opened(place)]
        shards = [shard for shard, _ in found]
        if not shards:
            raise InputError("no token shards are named; make some with tilth tokenize encode")
        self.end, self.tokenizer, self.digest = agreed(shards)  # the tokenizer's name and hash, None where unknown
        self.fingerprint = hashlib.sha256(orjson.dumps([shard.state for shard in shards])).hexdigest()
        self.places = [place for _, place in found]  # as the user named it, of each shard
        self.inputs = list(dict.fromkeys(each for shard in shards for each in shard.inputs))  # what was encoded
        self.hashes = {f"{shard.place}.bin": shard.sha256 for shard in shards if shard.sha256}
        self.store = Store([(shard.place, shard.rows, shard.tokens) for shard in shards])
        self.filled = any(shard.filled for shard in shards)  # whether some tokens are padding
        self._shards = shards

    @cached_property
    def table(self) -> "Table":
        """All documents."""
        found = [_documents(shard, base) for shard, base in zip(self._shards, self.store.bases, strict=False)]
        begins, lengths, whole = (np.concatenate(each) for each in zip(*(rows for rows, _ in found), strict=True))
        sources, labels = _joined([told for _, told in found])
        return Table(begins, lengths, whole, labels, sources, [len(rows[0]) for rows, _ in found])

    def __len__(self) -> int:
        return len(self.table.begins)

    def ids(self) -> Iterator[list[str]]:
        """The ids of all documents, a shard at a time."""
        for shard in self._shards:
            lengths = np.diff(shard.bounds)
            ids = ids_of(shard.place, shard.rows, len(lengths))
            yield ids if (lengths > 0).all() else [ids[number] for number in np.flatnonzero(lengths)]

    def documents(self) -> pa.RecordBatchReader:
        """All documents in order: id (string), tokens (int64), place (string, as the user named it), and label (string)
        where the shards have one."""
        schema = pa.schema(
            [("id", pa.string()), ("tokens", pa.int64()), ("place", pa.string()), ("label", pa.string())]
        )
        return pa.RecordBatchReader.from_batches(schema, self._batches(schema))

    def _batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        first = 0
        table = self.table
        names = np.array(table.sources, object)
        for place, count, ids in zip(self.places, table.counts, self.ids(), strict=True):
            rows = slice(first, first + count)
            labels = pa.array(names[table.labels[rows]], pa.string())
            yield pa.record_batch([pa.array(ids), table.whole[rows], pa.repeat(place, count), labels], schema=schema)
            first += count

    def held(self, share: float, seed: int) -> np.ndarray:
        """bool[documents]: which are kept for validation: those whose id has a hash below the share. They are the same
        ones however the corpus is cut into shards, and in whatever order."""
        if not share:
            return np.zeros(len(self), bool)
        return np.concatenate([held_ids(ids, share, seed) for ids in self.ids()])

    def check(self, vocab_size: int) -> None:
        """Raises InputError for a token id that a model of so many ids does not have.

        Looks at 100 MB of each shard at most, and 2 GB in all, evenly spread; a `Store` looks at the rest as it reads,
        for an embedding that is split over ranks takes an id beyond its rows for a row of zeros.
        """
        self.store.check(vocab_size)


def held_ids(ids: Sequence[str], share: float, seed: int) -> np.ndarray:
    """bool[n]: whose hash is below the share."""
    hashes = (xxh3_64_intdigest(id_.encode(), seed) for id_ in ids)
    return np.fromiter(hashes, np.uint64, len(ids)) < int(share * 2**64)


def _documents(shard: Shard, base: int) -> tuple[tuple[np.ndarray, ...], tuple[list[str], np.ndarray]]:
    """Addresses, lengths and whole lengths of a shard's documents that are not empty, and their sources."""
    lengths = np.diff(shard.bounds)
    there = lengths > 0
    whole = column_of(shard.rows, "tokens", len(lengths)).to_numpy() if shard.filled and shard.rows else lengths
    names, labels = sources_of(shard)
    rows = shard.bounds[:-1] + base, lengths, whole if whole is lengths else np.minimum(whole, lengths)
    if not there.all():
        rows, labels = tuple(column[there] for column in rows), labels[there]
    return rows, (names, labels)


def _joined(parts: Sequence[tuple[list[str], np.ndarray]]) -> tuple[list[str], np.ndarray]:
    """The sources of all shards, sorted, and each document's index into them (int32)."""
    sources = sorted({names[at] for names, labels in parts for at in np.unique(labels).tolist()})
    ranks = {name: rank for rank, name in enumerate(sources)}
    return sources, np.concatenate(
        [np.array([ranks.get(name, 0) for name in names], np.int32)[labels] for names, labels in parts]
    )


class Store:
    """The tokens of all shards, memory-mapped. Their addresses count on from shard to shard."""

    def __init__(self, shards: Sequence[tuple[str, Path | None, np.ndarray]], vocab_size: int | None = None):
        """`shards`: path without suffix, the file that tells of its documents, and the tokens of each. With a
        `vocab_size`, ids beyond it are refused as they are read."""
        self._names = [(place, rows) for place, rows, _ in shards]
        self._tokens = [np.asarray(tokens) for *_, tokens in shards]
        self.bases = np.cumsum([0, *map(len, self._tokens)])  # int64[shards + 1]: address of each shard's first token
        self._vocab_size = vocab_size
        self._documents = lru_cache(maxsize=2)(self._read_documents)  # those who ask for one ask for its neighbours

    @classmethod
    def opened(cls, about: dict[str, Any]) -> Self:
        """The store that `about` tells of."""
        shards = [
            (place, Path(rows) if rows else None, _mapped(place, np.dtype(dtype), tokens))
            for place, rows, dtype, tokens in about["shards"]
        ]
        return cls(shards, about["vocab_size"])

    def about(self) -> dict[str, Any]:
        """What `opened` needs, fit for JSON. Paths are whole, for processes that stand elsewhere."""
        shards = [
            (str(Path(place).absolute()), str(rows.absolute()) if rows else None, str(tokens.dtype), len(tokens))
            for (place, rows), tokens in zip(self._names, self._tokens, strict=True)
        ]
        return {"shards": shards, "vocab_size": self._vocab_size}

    def read(self, addresses: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The tokens of documents' parts, by address and number of each: int64[sum of counts]. Addresses ascend."""
        begin, tokens, shard = int(addresses[0]), int(counts.sum()), int(self._shard_at(addresses[0]))
        if addresses[-1] + counts[-1] - begin == tokens and begin + tokens <= self.bases[shard + 1]:  # all neighbours
            at = begin - int(self.bases[shard])
            made = self._tokens[shard][at : at + tokens].astype(np.int64)
        else:
            made = self._gathered(addresses, counts)
        if self._vocab_size and made.view(np.uint64).max() >= self._vocab_size:  # ids below zero too
            document = int(np.searchsorted(np.cumsum(counts), made.view(np.uint64).argmax(), side="right"))
            self._refuse(int(self._shard_at(addresses[document])), made, self._vocab_size)
        return made

    def _gathered(self, addresses: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The same, of parts that do not all stand side by side."""
        shards, stops = self._shard_at(addresses), np.cumsum(counts)
        parted = (addresses[1:] != addresses[:-1] + counts[:-1]) | (shards[1:] != shards[:-1])
        made = np.empty(stops[-1], np.int64)
        for part, after in pairwise([0, *(np.flatnonzero(parted) + 1), len(counts)]):  # runs of neighbours
            shard, begin, stop = shards[part], stops[part] - counts[part], stops[after - 1]
            at = addresses[part] - self.bases[shard]
            made[begin:stop] = self._tokens[shard][at : at + stop - begin]
        return made

    def pieces(self, addresses: np.ndarray, counts: np.ndarray) -> list[Piece]:
        """The same parts by the documents' names."""
        found = []
        for address, count in zip(addresses, counts, strict=True):
            shard = int(self._shard_at(address))
            bounds, ids = self._documents(shard)
            number = int(np.searchsorted(bounds, address - self.bases[shard], side="right")) - 1
            first = int(address - self.bases[shard] - bounds[number])
            found.append(Piece(self._names[shard][0], number, ids[number], first, first + int(count)))
        return found

    def spans(self, id_: str) -> list[tuple[int, int]]:
        """Addresses of a document's first token and of what is behind its last; of all documents with that id."""
        found = []
        for shard, base in enumerate(self.bases[:-1].tolist()):
            bounds, ids = self._read_documents(shard)
            found += [
                (base + int(bounds[at]), base + int(bounds[at + 1])) for at, other in enumerate(ids) if other == id_
            ]
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


def _mapped(place: str, dtype: np.dtype, tokens: int) -> np.ndarray:
    """The tokens of a shard that was looked at before. Raises InputError where they are not as they were."""
    file = Path(f"{place}.bin")
    try:
        size = file.stat().st_size
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror}); every machine must see it at this path"
        ) from error
    if size != tokens * dtype.itemsize:
        raise InputError(f"{file}: has {size} bytes, and had {tokens * dtype.itemsize} when the run was prepared")
    return np.memmap(file, dtype, "r") if size else np.zeros(0, dtype)
