"""What a run tells while it runs: bars on a terminal, lines in a log, and `events.jsonl` in the run directory."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from tilth.storage import Folder

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from tilth.work import Unit

EVERY = 10.0  # seconds between two lines in a log


class Progress:
    """Says on stderr how far each pass is, and keeps every event of a local run in its `events.jsonl`."""

    def __init__(self, folder: Folder | None = None, quiet: bool = False):
        self._folder = folder if folder and folder.local else None
        self._quiet = quiet

    def note(self, line: str) -> None:
        """One line for the person who watches."""
        self.event("note", text=line)
        if not self._quiet:
            print(printable(line), file=sys.stderr, flush=True)

    def event(self, event: str, **fields: Any) -> None:
        if self._folder:
            fields = {key: printable(value) if isinstance(value, str) else value for key, value in fields.items()}
            entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
            self._folder.append("events.jsonl", orjson.dumps(entry) + b"\n")

    @contextlib.contextmanager
    def phase(self, name: str, units: "Sequence[Unit]", done: Mapping[str, Any]) -> "Iterator[Phase]":
        """The time of one pass over `units`, of which those in `done` were done by an earlier run."""
        self.event("pass", name=name, units=len(units), done_before=len(done))
        bars = _bars() if not self._quiet and sys.stderr.isatty() and len(done) < len(units) else None
        phase = Phase(self, name, units, done, bars)
        with bars or contextlib.nullcontext():
            yield phase
        phase.finish()


class Phase:
    """How far one pass is."""

    def __init__(
        self, progress: Progress, name: str, units: "Sequence[Unit]", done: Mapping[str, Any], bars: "Bars | None"
    ):
        self._progress = progress
        self._name = name
        self._units = len(units)
        self._before = self._done = len(done)
        self._started = self._said = time.monotonic()
        self._bars = bars
        self._size = sum(unit.size for unit in units)
        self._size_done = sum(unit.size for unit in units if unit.key in done)
        if bars:
            self._task = bars.add_task(name, total=self._size, completed=self._size_done, units=self._tally())

    def _tally(self) -> str:
        return f"{self._done}/{self._units} units"

    def done(self, unit: "Unit", record: Mapping[str, Any]) -> None:
        self._done += 1
        self._size_done += unit.size
        counts = {name: count for name, count in record["counts"].items() if isinstance(count, int)}
        self._progress.event("unit", key=unit.key, pass_name=self._name, counts=counts)
        if self._bars:
            self._bars.update(self._task, completed=self._size_done, units=self._tally())
        elif time.monotonic() - self._said > EVERY:
            self._said = time.monotonic()
            spent = self._said - self._started
            left = spent / (self._done - self._before) * (self._units - self._done)
            self._say(f"{self._name}: {self._tally()}, about {left:.0f} s left")

    def trouble(self, unit: "Unit", reason: str, again: bool) -> None:
        self._progress.note(f"{self._name}: unit {unit.key}: {reason}; {'trying again' if again else 'given up'}")

    def finish(self) -> None:
        seconds = time.monotonic() - self._started
        self._progress.event("pass_end", name=self._name, done=self._done, seconds=round(seconds, 3))
        if self._done > self._before and not self._bars:
            self._say(f"{self._name}: {self._tally()} in {seconds:.1f} s")

    def _say(self, line: str) -> None:
        if not self._progress._quiet:
            print(line, file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """`text` with what is no Unicode (bytes of a file name, say) as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _bars() -> "Bars":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.fields[units]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))
