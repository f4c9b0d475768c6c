"""What a step of a run saw, and when it saw a document: by the documents' ids and, where they are known, their URLs.

For token shards both follow from the plan, without a look at any other step. A stream is read again: from the nearest
checkpoint before the step, or, to look for a document, from its beginning to the last checkpoint.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tilth.errors import InputError, UsageError
from tilth.storage import Folder

from . import checkpoint
from .data.order import DataStep
from .data.parquet import ParquetCorpus
from .data.shards import Piece, TokenShards
from .guard import Window
from .plan import Plan
from .prepare import is_parquet, refuse_changed, source
from .rank import JOB, Job, read


class Slot(NamedTuple):
    """One sequence of a step."""

    step: int  # the first is 1, as everywhere that a person reads
    slot: int
    pool: str
    epoch: int  # the first is 1
    pieces: list[Piece]


class Reading:
    """A run whose steps are asked about."""

    def __init__(self, run: str):
        self._run = run
        if not Folder(run).exists(JOB):
            raise InputError(f"{run}: no training run is there (no {JOB})")
        self.job: Job = read(run).model_copy(update={"folder": run})  # it may have been moved
        refuse_changed(Path(run), self.job.stream, self.job.data)
        self.plan = Plan.load(self.job.plan)
        self.done = max(checkpoint.steps(run), default=0)  # steps that a checkpoint has
        self._passed_over: list[Window] = []
        if self.done:
            guard = checkpoint.read_state(run, self.done)["guard"]
            self._passed_over = [(first, last) for first, last in guard["passed_over"]]

    def step(self, number: int) -> list[Slot]:
        """What step `number` (from 1) has read, or will read. Raises UsageError for a step that the plan lacks."""
        if not 1 <= number <= self.plan.steps:
            raise UsageError(f"step {number}: the plan of {self._run} has the steps 1 to {self.plan.steps}")
        if self.job.stream:
            return list(self._streamed(number, number))
        at = self._at(number)
        with contextlib.closing(self._source()) as samples:
            return [Slot(number, slot, *found) for slot, found in enumerate(samples.pieces(at, self._slots(at)))]

    def document(self, id_: str) -> Iterator[Slot]:
        """Where a document is read, step by step. A stream is looked through as far as it was trained on."""
        for slot in self._streamed(1, self.done) if self.job.stream else self._found(id_):
            own = [piece for piece in slot.pieces if piece.id == id_]
            if own:
                yield slot._replace(pieces=own)

    def _found(self, id_: str) -> Iterator[Slot]:
        with contextlib.closing(self._source()) as samples:
            found = [
                (step + 1, slot, at)
                for at, slot in samples.reading(id_)
                for step in self.plan.read_in(self.plan.position(at), self._passed_over)
            ]
            for number, slot, at in sorted(found):
                yield Slot(number, slot, *samples.pieces(at, range(slot, slot + 1))[0])

    def _streamed(self, first: int, last: int) -> Iterator[Slot]:
        """The steps from `first` to `last`, read again."""
        with contextlib.closing(self._source()) as stream:
            start = max((each for each in checkpoint.steps(self._run) if each < first), default=0)
            if start:
                stream.load(checkpoint.read_state(self._run, start)["data"])
            for number in range(start + 1, last + 1):
                at = self._at(number)
                for slot, found in enumerate(stream.pieces(at, self._slots(at))):
                    if number >= first:
                        yield Slot(number, slot, *found)

    def _at(self, number: int) -> DataStep:
        return self.plan.at(self.plan.reads(number - 1, self._passed_over))

    def _slots(self, at: DataStep) -> range:
        return range(self.plan.segments[at.segment].size)

    def _source(self) -> Any:
        job = self.job
        return source(Path(job.folder), self.plan, job.recipe, job.stream, job.data, job.tokenizer, 0, 1)


def urls(job: Job, labels: Sequence[str], ids: Iterable[str]) -> dict[str, str]:
    """URLs by id, as far as the data, or the curation run that was encoded, tell them."""
    places = job.data if job.stream else list(labels) or TokenShards(job.data).inputs
    places = [place for place in places if is_parquet([place])]
    wanted, found = pa.array(sorted(set(ids)), pa.string()), dict[str, str]()
    for place in places:
        with contextlib.suppress(InputError):  # gone, or without URLs: an id is an answer too
            for batch in ParquetCorpus([place]).documents(["url"], 1.0):
                some = batch.filter(pc.is_in(batch["id"], wanted))
                found |= {
                    id_: url for id_, url in zip(some["id"].to_pylist(), some["url"].to_pylist(), strict=True) if url
                }
                if len(found) == len(wanted):
                    return found
    return found
