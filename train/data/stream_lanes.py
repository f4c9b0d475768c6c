"""What a lane reads of a pool, and where it stands: the order of documents, and the tokens that come of them.

In each epoch the row groups that have documents of the pool come in a permuted order and are dealt round to the lanes.
If they are few, each is dealt in stripes: every n-th of the pool's rows in it. The documents of a stripe are
shuffled. So an epoch has each document once, over all lanes, and where a lane stands is four integers.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tilth.errors import InputError

from .order import key_of, permuted
from .parquet import ParquetCorpus
from .shards import Sample
from .stream_encode import Encoded, Task

_PART = 2**20  # bytes of text that are tokenized together, about; at least one document
_FIRST = 2**16  # of the first part, so that the first batch comes soon; each one after is twice as long
_BYTES_PER_TOKEN = 5  # more than most text has: a guess at how many parts will do
_AHEAD = 16  # parts that one lane has asked for of a pool, at most
_STRIPES = 4  # for each lane, at least
_ROWS = 2**22  # whose pools are counted at a time
_BARREN = 512  # times that a pool's documents may come without one token before it is given up

Submit = Callable[[Task], Callable[[], Encoded]]


class Cursor(NamedTuple):
    """The token that a lane reads next of a pool."""

    epoch: int = 0
    turn: int = 0  # which of the lane's stripes in the epoch
    document: int = 0  # of the stripe
    token: int = 0  # of the document


class Request(NamedTuple):
    """Documents that are tokenized together."""

    group: int  # of the corpus
    rows: np.ndarray  # int32, within the group, in the order of reading
    size: int  # bytes of text, about
    epoch: int = 0  # and where the first of them stands
    turn: int = 0
    document: int = 0


class Rows:
    """Which rows of a corpus are of which pool."""

    def __init__(self, corpus: ParquetCorpus, assigned: np.ndarray, held: np.ndarray | None):
        assert len(assigned) == corpus.rows
        assert held is None or len(held) == corpus.rows
        self._corpus, self._assigned, self._held = corpus, assigned, held

    def of_pool(self, pool: int, group: int) -> np.ndarray:
        """int32: the rows of a group that are trained on as the pool's, counted from the group's first."""
        first, stop = self._corpus.groups.firsts[group : group + 2]
        return np.flatnonzero(self._trained(first, stop) == pool).astype(np.int32)

    def counted(self, pools: int) -> list[tuple[np.ndarray, int]]:
        """For each pool, the row groups (int32) that have documents of it to train on, and how many those are."""
        firsts = self._corpus.groups.firsts
        found: list[list[np.ndarray]] = [[] for _ in range(pools)]
        documents = np.zeros(pools, np.int64)
        at = 0
        while at < len(firsts) - 1:
            end = max(at + 1, int(np.searchsorted(firsts, firsts[at] + _ROWS, side="right")) - 1)
            trained = self._trained(firsts[at], firsts[end])
            group = np.repeat(np.arange(end - at), np.diff(firsts[at : end + 1]))
            there = trained >= 0
            cells = group[there] * pools + trained[there]
            counts = np.bincount(cells, minlength=(end - at) * pools).reshape(end - at, pools)
            documents += counts.sum(axis=0)
            for pool in range(pools):
                found[pool].append((np.flatnonzero(counts[:, pool]) + at).astype(np.int32))
            at = end
        return [(np.concatenate(groups), int(count)) for groups, count in zip(found, documents, strict=True)]

    def held(self) -> Iterator[tuple[int, Request]]:
        """The documents that are held out, in the order of rows: some of one row group and one pool at a time."""
        if self._held is None:
            return
        rows = np.flatnonzero(self._held)
        groups = np.searchsorted(self._corpus.groups.firsts, rows, side="right") - 1
        for some in np.split(rows, np.flatnonzero(np.diff(groups)) + 1):
            if len(some):
                group = int(np.searchsorted(self._corpus.groups.firsts, some[0], side="right")) - 1
                pools = self._assigned[some]
                for pool in np.unique(pools[pools >= 0]).tolist():
                    inner = (some[pools == pool] - self._corpus.groups.firsts[group]).astype(np.int32)
                    for part in self.parts(group, inner, _PART):
                        yield pool, part

    def parts(self, group: int, rows: np.ndarray, size: int, document: int = 0) -> Iterator[Request]:
        """Rows of a group from number `document` on, in parts: of `size` bytes, twice that, and so on to _PART."""
        groups = self._corpus.groups
        mean = groups.sizes[group] / max(groups.firsts[group + 1] - groups.firsts[group], 1)
        while document < len(rows):
            some = rows[document : document + max(1, int(size / max(mean, 1)))]
            yield Request(group, some, int(len(some) * mean), document=document)
            document += len(some)
            size = min(2 * size, _PART)

    def task(self, request: Request) -> Task:
        groups, group = self._corpus.groups, request.group
        path = self._corpus.files[groups.files[group]].path
        expected = int(groups.firsts[group + 1] - groups.firsts[group])
        return Task(path, int(groups.numbers[group]), expected, request.rows)

    def _trained(self, first: int, stop: int) -> np.ndarray:
        """Pool of each row in a range; -1 for what is not trained on."""
        pools = self._assigned[first:stop]
        return pools if self._held is None else np.where(self._held[first:stop], -1, pools)


class Pool:
    """The documents of one pool, as the lanes read them."""

    def __init__(self, rows: Rows, index: int, name: str, groups: np.ndarray, documents: int, lanes: int, seed: int):
        self.rows, self.index, self.name, self.documents = rows, index, name, documents
        self._groups, self._lanes, self._seed = groups, lanes, seed
        self._width = max(1, -(-_STRIPES * lanes // max(len(groups), 1)))  # stripes of a group

    def requests(self, lane: int, cursor: Cursor) -> Iterator[Request]:
        """The lane's documents from that one on, without end."""
        epoch, turn, document, _ = cursor
        size = _FIRST
        while True:
            key = key_of(self._seed, self.name, epoch)
            for stripe in range(lane + turn * self._lanes, len(self._groups) * self._width, self._lanes):
                group, rows = self._stripe(stripe, key)
                for part in self.rows.parts(group, rows, size, document):
                    yield part._replace(epoch=epoch, turn=stripe // self._lanes)
                    size = min(2 * size, _PART)
                document = 0
            turn = document = 0
            epoch += 1

    def _stripe(self, number: int, key: int) -> tuple[int, np.ndarray]:
        """The row group and rows of the stripe that is n-th in an order."""
        at, stripe = divmod(permuted(number, len(self._groups) * self._width, key), self._width)
        group = int(self._groups[at])
        rows = self.rows.of_pool(self.index, group)[stripe :: self._width]
        return group, rows[np.argsort(_mixed(rows, key ^ group), kind="stable")]


def _mixed(rows: np.ndarray, key: int) -> np.ndarray:
    """uint64: a hash of each number (splitmix64; Steele et al. 2014)."""
    mixed = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return mixed ^ mixed >> np.uint64(31)


# --- Tokens ----------------------------------------------------------------------------------------------------------


class Part:
    """The tokens of a request's documents, one behind the other."""

    def __init__(self, request: Request, encoded: Encoded):
        there = encoded.lengths > 0
        self.request, self.ids = request, encoded.ids
        self.documents = np.flatnonzero(there)  # int64[documents]: which of the request's
        self.bounds = np.zeros(len(self.documents) + 1, np.int64)
        np.cumsum(encoded.lengths[there], out=self.bounds[1:])

    @property
    def size(self) -> int:
        return len(self.ids)

    def cursor(self, token: int) -> Cursor:
        """Where a token of the part stands."""
        at = int(np.searchsorted(self.bounds, token, side="right")) - 1
        document = self.request.document + int(self.documents[at])
        return Cursor(self.request.epoch, self.request.turn, document, token - int(self.bounds[at]))


class Cut(NamedTuple):
    """Neighbouring tokens of a part."""

    part: Part
    first: int
    stop: int

    def documents(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64: which of the part's documents it has, at which of its tokens it takes each up, and how many it has."""
        bounds = self.part.bounds
        at = np.arange(
            np.searchsorted(bounds, self.first, side="right") - 1, np.searchsorted(bounds, self.stop, side="left")
        )
        inner = np.maximum(self.first - bounds[at], 0)
        return at, inner, np.minimum(bounds[at + 1], self.stop) - bounds[at] - inner


def sample(cuts: Sequence[Cut], length: int, source: int) -> Sample:
    """Cuts as one sample; what they lack of length + 1 tokens is padding."""
    tokens, documents = np.zeros(length + 1, np.int64), np.zeros(length + 1, np.int32)
    at = number = 0
    for cut in cuts:
        stop = at + cut.stop - cut.first
        tokens[at:stop] = cut.part.ids[cut.first : cut.stop]
        counts = cut.documents()[2]
        documents[at:stop] = np.repeat(np.arange(number + 1, number + 1 + len(counts), dtype=np.int32), counts)
        at, number = stop, number + len(counts)
    return Sample(tokens, documents, source)


def cuts_of(parts: Sequence[Part] | deque[Part], first: int, count: int) -> list[Cut]:
    """`count` tokens, or as many as there are, from token `first` of parts that stand one behind the other."""
    found = []
    for part in parts:
        if count > 0 and first < part.size:
            found.append(Cut(part, first, min(part.size, first + count)))
            count -= found[-1].stop - first
        first = max(0, first - part.size)
    return found


class Tape:
    """The tokens that one lane reads of one pool, from a cursor on."""

    def __init__(self, pool: Pool, lane: int, cursor: Cursor, submit: Submit):
        self._pool, self._submit = pool, submit
        self._requests = pool.requests(lane, cursor)
        self._asked: deque[tuple[Request, Callable[[], Encoded]]] = deque()
        self._parts: deque[Part] = deque()
        self._start, self._at = cursor, cursor.token  # the token that is next, counted from the first part's first
        self._barren = 0  # documents in a row without a token

    @property
    def cursor(self) -> Cursor:
        return self._parts[0].cursor(self._at) if self._parts else self._start

    def ask(self, tokens: int) -> None:
        """Begins to make so many tokens from here on, and one part more than is being read."""
        there = self._loaded() + sum(request.size for request, _ in self._asked) // _BYTES_PER_TOKEN
        while len(self._asked) < _AHEAD and (there < tokens or len(self._parts) + len(self._asked) < 2):
            request = next(self._requests)
            self._asked.append((request, self._submit(self._pool.rows.task(request))))
            there += request.size // _BYTES_PER_TOKEN

    def take(self, length: int) -> list[Cut]:
        """The next length + 1 tokens; the last of them is the first of those that come next."""
        while self._loaded() <= length:
            self._wait(length + 1)
        found = cuts_of(self._parts, self._at, length + 1)
        self._at += length
        self._drop()
        return found

    def skip(self, tokens: int) -> None:
        """Passes over so many."""
        self._at += tokens
        self._drop()
        while not self._parts:
            self._wait(self._at + 1)
            self._drop()

    def _loaded(self) -> int:
        return sum(part.size for part in self._parts) - self._at

    def _wait(self, tokens: int) -> None:
        """Waits for one part more, while others for so many tokens are made."""
        self.ask(tokens)
        request, result = self._asked.popleft()
        part = Part(request, result())
        if part.size:
            self._parts.append(part)
        self._barren = 0 if part.size else self._barren + len(request.rows)
        if self._barren > _BARREN * self._pool.documents:
            raise InputError(
                f"{self._pool.documents} documents of {self._pool.name} have no text: no token to train on"
            )

    def _drop(self) -> None:
        while self._parts and self._at >= self._parts[0].size:
            self._at -= self._parts.popleft().size
