"""A training process that is told to stop, or that stands still.

`StopRequested` makes SIGTERM and Ctrl-C a question that the loop asks at the end of each step. `Watchdog` ends a rank
that has hung, after it has shown where every thread stands, so that the launcher can end the group. What to do with a
loss is in `guard.py`.
"""

import contextlib
import faulthandler
import os
import signal
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn, Self

from tilth.errors import Stopped
from tilth.storage import explained

ECHO = 2.0  # seconds in which a second signal is taken for the first one's echo
LAST_WORDS = 10.0  # seconds that a hung rank has to write its stacks; the file system may be what hangs
HEARTBEATS = "heartbeats"
STACKS = "stacks"
STDERR = 2


class StopRequested:
    """True once SIGTERM or SIGINT came, inside its `with` block; the loop then saves and leaves.

    A second signal raises Stopped at once. Ctrl-C in a terminal reaches a worker twice, from the terminal and from its
    launcher, so a signal within `ECHO` seconds of the first is not a second one. Outside the main thread (Ray Train
    runs the loop in another) Python can catch no signals: nothing is changed then, and the flag stays down. Processes
    forked inside the block end at SIGTERM, as they would without it, and leave SIGINT to their parent.
    """

    def __init__(self):
        self.number: int | None = None  # of the first signal
        self._since = 0.0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.number is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._heed)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: it was not of Python's making

    def _heed(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
        elif self.number is None:
            self.number = number
            self._since = time.monotonic()
        elif time.monotonic() - self._since > ECHO:
            raise Stopped(number)


class Watchdog:
    """Ends this process with exit code 1 where no `beat` comes for `seconds`, inside its `with` block.

    Before that it writes the Python stack of every thread to stderr and to `stacks/rank-R.txt` of the run's `folder`.
    Each beat also stands in `heartbeats/rank-R`, for `slowest`. SIGUSR1 adds the stacks to the file and ends nothing.

    A thread keeps watch, which needs Python's lock. Where a library hangs and holds that lock, the stacks are still
    written, by C and after half the time, but the process cannot end itself: the other ranks end, and their launcher
    ends this one. Time that the process was suspended for does not count.
    """

    def __init__(self, folder: Path, rank: int, seconds: float, first: float | None = None):
        """`first`: seconds until the first beat, which waits for compiling and loading; default: as the others."""
        self._folder = folder
        self._rank = rank
        self._seconds = seconds
        self._beat = Beat(-1, first if first is not None else seconds)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        """Raises StorageError where the folder cannot be written."""
        name = f"rank-{self._rank}"
        with explained(str(self._folder)):
            for folder in (HEARTBEATS, STACKS):
                (self._folder / folder).mkdir(parents=True, exist_ok=True)
            self._heartbeat = os.open(self._folder / HEARTBEATS / name, os.O_WRONLY | os.O_CREAT, 0o644)
            self._stacks = os.open(self._folder / STACKS / f"{name}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        faulthandler.register(signal.SIGUSR1, self._stacks, all_threads=True)
        self._write_heartbeat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Takes away the heartbeat, and the file of stacks if there are none."""
        self._ended.set()
        self._thread.join()
        faulthandler.unregister(signal.SIGUSR1)
        (self._folder / HEARTBEATS / f"rank-{self._rank}").unlink(missing_ok=True)
        if not os.fstat(self._stacks).st_size:
            (self._folder / STACKS / f"rank-{self._rank}.txt").unlink(missing_ok=True)
        os.close(self._heartbeat)
        os.close(self._stacks)

    def beat(self, step: int, allow: float | None = None) -> None:
        """Step `step` is done. `allow`: seconds until the next beat, before what takes longer, as saving does."""
        self._beat = Beat(step, allow if allow is not None else self._seconds)
        self._write_heartbeat()

    def _write_heartbeat(self) -> None:
        # of one length and in one write, so that a reader never sees half of it
        line = f"{self._beat.step:12d} {time.time():17.3f}\n".encode()
        with contextlib.suppress(OSError):  # a full disk is for those to tell who need the space
            os.pwrite(self._heartbeat, line, 0)

    def _watch(self) -> None:
        tick = min(1.0, self._seconds / 10)
        seen, left = self._beat, self._beat.allow
        while True:
            faulthandler.dump_traceback_later(self._seconds / 2, repeat=True, file=self._stacks)
            if self._ended.wait(tick):
                break
            if seen is not self._beat:
                seen, left = self._beat, self._beat.allow
            # ticks, not the clock: a process that was suspended must not wake up to its end
            left -= tick
            if left <= 0:
                self._end(seen)
        faulthandler.cancel_dump_traceback_later()

    def _end(self, last: "Beat") -> NoReturn:
        faulthandler.dump_traceback_later(LAST_WORDS, exit=True, file=STDERR)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        after = f"step {last.step}" if last.step >= 0 else "the start"
        line = (
            f"{now} rank {self._rank}: hung: {last.allow:g} s without a step after {after}; the stacks of all threads:"
        )
        for file in (STDERR, self._stacks):
            with contextlib.suppress(OSError):
                os.write(file, f"{line}\n".encode())
                faulthandler.dump_traceback(file, all_threads=True)
        os._exit(1)


class Beat(NamedTuple):
    """The last step done (-1 before the first), and how many seconds the next beat may take."""

    step: int
    allow: float


class Heartbeat(NamedTuple):
    """The last sign of life of a rank."""

    rank: int
    step: int  # the last one done; -1 before the first
    age: float  # seconds since then, by this machine's clock


def slowest(folder: Path) -> list[Heartbeat]:
    """The ranks of the run in `folder`, those furthest behind first: by their steps, then by their silence."""
    found = []
    now = time.time()
    for path in (folder / HEARTBEATS).glob("rank-*"):
        with contextlib.suppress(OSError, ValueError):
            step, when = path.read_text().split()
            found.append(Heartbeat(int(path.name.removeprefix("rank-")), int(step), max(0.0, now - float(when))))
    return sorted(found, key=lambda one: (one.step, -one.age, one.rank))
