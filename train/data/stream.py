"""Training straight from a corpus in Parquet: text is read and tokenized on the fly, and no copy of it is kept.

The stream is read through a fixed number of lanes, each of which has its own place in every pool. A step's sequences
are dealt to the lanes, and a rank reads whole lanes, so that what a step reads is the same for any number of ranks and
of processes that tokenize. A lane's tokens of a pool stand one behind the other; a sample is the next of them, and the
one after begins at its last token, so that each is a target once.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, Self

import numpy as np

from tilth.errors import InputError, UsageError

from .order import DataStep, Segment, counted, split
from .parquet import ParquetCorpus
from .shards import Piece, Sample
from .stream_encode import Frame
from .stream_lanes import Cursor, Cut, Part, Pool, Rows, Tape, cuts_of, sample
from .stream_options import LANES, StreamOptions
from .stream_workers import Workers

MOST_HELD = 32  # samples of each pool that are kept for validation where it is not told how many
_TOGETHER = 8  # requests for held-out documents that are made at a time


class ParquetStream:
    """The samples of a plan's `segments` out of a corpus. A context manager: it starts processes.

    `assigned` is int16[rows], the index into `names` of each row's pool, or -1 for none; `held` is bool[rows], those
    that are held out. A document is what the tokenizer at `place` makes of it, with the tokens of `frame` around it.
    `mine` are the lanes that are read here. Sequence s of a step of `size` is of lane s * lanes // size.

    For each lane and pool that it reads it holds the tokens of two parts, each of about 1 MB of text or one document,
    or of two steps where that is more; each process holds 64 MB of text, or one row group, and its tokens.

    Raises UsageError for batches that cannot be dealt to the lanes, InputError for a pool without documents. Reading
    raises StorageError for a row group that cannot be read any more.
    """

    def __init__(
        self,
        corpus: ParquetCorpus,
        assigned: np.ndarray,
        held: np.ndarray | None,
        names: Sequence[str],
        place: str,
        frame: Frame,
        segments: Sequence[Segment],
        options: StreamOptions,
        seed: int,
        mine: range,
    ):
        lanes = options.lanes or LANES
        for segment in segments:
            if segment.size % lanes:
                advice = "set lanes to a divisor of every batch size"
                raise UsageError(f"{segment.size} sequences of a step do not fall to {lanes} lanes; {advice}")
        self.sources = list(names)
        self._corpus, self._segments, self._lanes, self._mine = corpus, segments, lanes, mine
        self._rows = Rows(corpus, assigned, held)
        self._pools = [
            Pool(self._rows, index, name, groups, documents, lanes, seed)
            for index, (name, (groups, documents)) in enumerate(zip(names, self._rows.counted(len(names)), strict=True))
        ]
        for pool in self._pools:
            if not pool.documents and any(segment.counts[pool.index] for segment in segments):
                raise InputError(f"the data has no document of {pool.name} to train on")
        self._next = DataStep(0, 0)
        self._cursors: dict[tuple[int, int], Cursor] = {}  # by lane and pool, where no tape tells it
        self._tapes: dict[tuple[int, int], Tape] = {}
        self._ids = lru_cache(maxsize=64)(corpus.ids)
        self._workers = Workers(options.workers, place, frame)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes."""
        self._workers.close()

    def read(self, at: DataStep, slots: range) -> list[Sample]:
        """The samples of a step's sequences `slots`, which are those of all my lanes.

        Steps come in order. What lies between the last one and this is passed over; after a step that lies behind, the
        lanes read on.
        """
        length = self._segments[at.segment].length
        return [sample(cuts, length, pool) for pool, cuts in self._read(at, slots)]

    def pieces(self, at: DataStep, slots: range) -> list[tuple[str, int, list[Piece]]]:
        """Reads a step like `read`: the pool of each sample, the epoch in which it begins, and the documents that it
        reads."""
        return [
            (self.sources[pool], cuts[0].part.request.epoch + 1, self._named(cuts))
            for pool, cuts in self._read(at, slots)
        ]

    def state(self) -> dict[str, Any]:
        """Where my lanes stand, fit for JSON: the step that is next, and by lane a cursor for each pool."""
        told = {**self._cursors, **{key: tape.cursor for key, tape in self._tapes.items()}}
        pools = range(len(self._pools))
        lanes = {str(lane): [list(told.get((lane, pool), Cursor())) for pool in pools] for lane in self._mine}
        return {"next": list(self._next), "lanes": lanes}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on where a state tells that has all of my lanes; it may have others too."""
        self._next = DataStep(*state["next"])
        lanes = {lane: state["lanes"][str(lane)] for lane in self._mine}
        self._cursors = {
            (lane, pool): Cursor(*cursor) for lane, cursors in lanes.items() for pool, cursor in enumerate(cursors)
        }
        self._tapes = {}

    def held_out(self, most: int | None = None) -> "HeldOut":
        """Samples of the documents that are held out, as long as the plan's longest: of each pool the first ones in the
        order of rows, until they make `most` samples."""
        length = max(segment.length for segment in self._segments)
        parts: list[list[Part]] = [[] for _ in self._pools]
        missing = [(most or MOST_HELD) * length + 1] * len(parts)  # tokens
        requests = ((pool, request) for pool, request in self._rows.held() if missing[pool] > 0)
        while some := list(islice(requests, _TOGETHER)):
            results = [self._workers.submit(self._rows.task(request)) for _, request in some]
            for (pool, request), result in zip(some, results, strict=True):
                part = Part(request, result())
                if missing[pool] > 0:
                    parts[pool].append(part)
                    missing[pool] -= part.size
            if max(missing) <= 0:
                break
        return HeldOut(parts, length, most or MOST_HELD)

    def _read(self, at: DataStep, slots: range) -> list[tuple[int, list[Cut]]]:
        """The pool and tokens of each sample."""
        segment = self._segments[at.segment]
        width = segment.size // self._lanes
        assert slots == range(self._mine.start * width, self._mine.stop * width), "the sequences of all my lanes"
        self._pass_over(at)
        keys = [(slot // width, split(at.step * segment.size + slot, segment.counts)[0]) for slot in slots]
        needed = {key: count * segment.length + 1 for key, count in Counter(keys).items()}
        for key, tokens in needed.items():
            self._tape(*key).ask(tokens)
        found = [(pool, self._tape(lane, pool).take(segment.length)) for lane, pool in keys]
        for key, tokens in needed.items():  # the next step will want the like
            self._tape(*key).ask(tokens)
        self._next = DataStep(at.segment, at.step + 1)
        return found

    def _pass_over(self, at: DataStep) -> None:
        """Moves my lanes behind what they would have read in the steps before this one."""
        tokens: Counter[tuple[int, int]] = Counter()
        while self._next < at:
            segment = self._segments[self._next.segment]
            if self._next.step >= segment.steps:
                self._next = DataStep(self._next.segment + 1, 0)
                continue
            width = segment.size // self._lanes
            for lane in self._mine:
                first = self._next.step * segment.size + lane * width
                before, behind = (counted(place, segment.counts) for place in (first, first + width))
                for pool in range(len(before)):
                    tokens[lane, pool] += (behind[pool] - before[pool]) * segment.length
            self._next = DataStep(self._next.segment, self._next.step + 1)
        for key, count in tokens.items():
            if count:
                self._tape(*key).skip(count)

    def _tape(self, lane: int, pool: int) -> Tape:
        key = lane, pool
        if key not in self._tapes:
            cursor = self._cursors.get(key, Cursor())
            self._tapes[key] = Tape(self._pools[pool], lane, cursor, self._workers.submit)
        return self._tapes[key]

    def _named(self, cuts: Sequence[Cut]) -> list[Piece]:
        found = []
        for cut in cuts:
            group, rows = cut.part.request.group, cut.part.request.rows
            path = self._corpus.files[self._corpus.groups.files[group]].path
            ids, before = self._ids(group), self._corpus.row_of(group)
            for at, inner, count in zip(*(column.tolist() for column in cut.documents()), strict=True):
                row = int(rows[cut.part.documents[at]])
                found.append(Piece(path, before + row, ids[row], inner, inner + count))
        return found


class HeldOut:
    """Samples of held-out documents, pool by pool; each pool's last one is padded where its tokens end."""

    def __init__(self, parts: Sequence[Sequence[Part]], length: int, most: int):
        self._parts, self._length = parts, length
        tokens = [min(sum(part.size for part in own), most * length + 1) for own in parts]
        self._counts = [max(-(-(count - 1) // length), 1) if count else 0 for count in tokens]
        self._firsts = np.cumsum([0, *self._counts]).tolist()  # number of each pool's first sample, and of all
        self.tokens = sum(tokens)

    def __len__(self) -> int:
        return self._firsts[-1]

    def numbers(self, most: int | None = None) -> list[int]:
        """The samples, pool by pool; of each pool the first `most`."""
        return [
            number
            for first, count in zip(self._firsts, self._counts, strict=False)
            for number in range(first, first + (count if most is None else min(count, most)))
        ]

    def sample(self, index: int) -> Sample:
        pool, cuts = self._found(index)
        return sample(cuts, self._length, pool)

    def _found(self, index: int) -> tuple[int, list[Cut]]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} held out")
        pool = bisect_right(self._firsts, index) - 1
        first = (index - self._firsts[pool]) * self._length
        return pool, cuts_of(self._parts[pool], first, self._length + 1)
