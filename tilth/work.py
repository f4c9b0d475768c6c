"""Runs units of work: in this process, or on Ray actors; the same way for every part.

A worker turns one unit into files that appear whole or not at all. Only payloads (paths, ranges) and records (names,
counts) travel between processes; documents never do. Three kinds of trouble are kept apart: a wrong request
(`TilthError`) stops the run at once; a unit that raises is tried again and, if it goes on raising, named at the end; a
worker that dies or overruns its time is replaced and its unit tried again.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, cast

from pydantic import BaseModel, ConfigDict, Field

from tilth.errors import NoSpaceLeft, Stopped, TilthError, UsageError
from tilth.ledger import Ledger, Record
from tilth.progress import Progress
from tilth.storage import Folder, no_space_told, sha256

STILLBORN = 5  # so many workers in a row that do not start are no accident


class Unit(NamedTuple):
    """One piece of work: the same input gives the same key in every run."""

    key: str
    payload: Any
    size: int  # in whatever measure predicts its time; the largest go first


class Worker(Protocol):
    """Built once in each process. Called with a payload, it fills the outbox and returns counts."""

    def __call__(self, payload: Any, outbox: "Outbox") -> Mapping[str, Any]: ...


class WorkOptions(BaseModel):
    """Where and how units are run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int | None = Field(default=None, ge=1, description="processes at work; default: one for each CPU there is")
    in_process: bool = Field(default=False, description="run everything in this process, one unit after the other")
    ray: str | None = Field(default=None, description="address of a Ray cluster; default: one of this machine's own")
    attempts: int = Field(default=3, ge=1, description="how often a unit is tried before it counts as failed")
    unit_timeout: float = Field(default=3600, gt=0, description="seconds that one unit may take")


class Outcome(NamedTuple):
    """What a pass came to: a record a unit that is done, a reason a unit that failed every attempt."""

    records: dict[str, Record]
    failed: dict[str, str]


class Outbox:
    """Hands out places for files that take their final names, all together, when the unit is done."""

    def __init__(self, key: str, scratch: Path):
        self._key = key
        self._scratch = scratch
        self._rows: dict[str, int] = {}

    def file(self, output: str, rows: int, suffix: str = ".parquet") -> Path:
        """Where to write this unit's file of that output folder, holding so many rows."""
        name = f"{output}/{self._key}{suffix}"
        self._rows[name] = rows
        return self._scratch / name.replace("/", "-")

    def commit(self, folder: Folder) -> list[dict[str, Any]]:
        files = []
        for name, rows in self._rows.items():
            part = self._scratch / name.replace("/", "-")
            files.append({"name": name, "rows": rows, "bytes": part.stat().st_size, "sha256": sha256(part)})
            folder.adopt(part, name)
        return files


def perform(unit: Unit, worker: Worker, ledger: Ledger) -> Record:
    """Does one unit: its files, then its record."""
    started = time.monotonic()
    with ledger.folder.scratch() as scratch, no_space_told(ledger.folder.url):
        outbox = Outbox(unit.key, scratch)
        counts = dict(worker(unit.payload, outbox))
        record = {"files": outbox.commit(ledger.folder), "counts": counts}
    ledger.record(unit.key, record | {"seconds": round(time.monotonic() - started, 3)})
    return record


class Engine:
    """Runs passes for the length of one command; Ray is started when the first pass needs it."""

    def __init__(self, options: WorkOptions, progress: Progress):
        self.options = options
        self.progress = progress
        self._own_ray = False
        self._actors: list[Any] = []  # at rest between passes
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._heed_signals()
        if self.options.ray:  # a wrong address is told before anything is written
            self._start_ray()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._ray_runs():
            import ray

            for actor in self._actors:
                ray.kill(actor)
            if self._own_ray:
                ray.shutdown()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if kind and issubclass(kind, KeyboardInterrupt | SystemExit):
            # while Ray starts, SIGTERM meets Ray's own handler, which exits
            number = signal.SIGTERM if issubclass(kind, SystemExit) else signal.SIGINT
            raise Stopped(self._signal or number) from None

    def _heed_signals(self) -> None:
        """From here on SIGTERM does what Ctrl-C does; Ray knows no other exception than that of Ctrl-C."""

        def stop(number: int, _: object) -> None:
            self._signal = number
            raise KeyboardInterrupt

        for number in self._handlers:
            signal.signal(number, stop)

    def run(
        self,
        name: str,
        units: Sequence[Unit],
        build: Callable[[], Worker],
        folder: Folder,
        outputs: Iterable[str],
        light: bool = False,
        depends_on: str = "",
    ) -> Outcome:
        """Does the units of the pass `name` that are not done yet, and returns all of them, done now or before.

        `build` makes a worker and must be picklable. `outputs` are the folders that only this pass writes. A `light`
        pass does not start processes for itself. What was done for another `depends_on` is forgotten first.
        """
        ledger = Ledger(folder, name)
        ledger.serve(depends_on)
        known = {unit.key for unit in units}
        assert len(known) == len(units), "units with equal keys would overwrite each other"
        records = ledger.reconcile(outputs)
        records = {key: record for key, record in records.items() if key in known}
        todo = sorted((unit for unit in units if unit.key not in records), key=lambda unit: (-unit.size, unit.key))
        failed: dict[str, str] = {}
        with self.progress.phase(name, units, records) as phase:
            if todo:
                crew = self._crew(build, ledger, len(todo), light)
                with contextlib.closing(crew):
                    for key, result in self._attempts(crew, todo, phase):
                        if isinstance(result, str):
                            failed[key] = result
                        else:
                            records[key] = result
        return Outcome(dict(sorted(records.items())), dict(sorted(failed.items())))

    def _crew(self, build: Callable[[], Worker], ledger: Ledger, most: int, light: bool) -> "Crew":
        here = self.options.in_process or ledger.folder.url.startswith("memory:")  # memory that only this process has
        alone = here or (light and not self.options.ray and not self._ray_runs())
        if alone or not self._start_ray():
            return InProcess(build, ledger, self.options)
        return RayActors(build, ledger, self.options, most, self._actors)

    def _attempts(self, crew: "Crew", todo: list[Unit], phase: Any) -> Iterator[tuple[str, Record | str]]:
        """Feeds the crew, at most as many units in flight as it has hands, and tries again what went wrong."""
        tries: dict[str, int] = {}
        todo = todo[::-1]
        waiting = len(todo)
        while waiting:
            while todo and crew.free():
                crew.give(todo.pop())
            for unit, result in crew.results():
                if not isinstance(result, str):
                    waiting -= 1
                    phase.done(unit, result)
                    yield unit.key, result
                    continue
                tries[unit.key] = tries.get(unit.key, 0) + 1
                again = tries[unit.key] < self.options.attempts
                phase.trouble(unit, result, again)
                if again:
                    todo.append(unit)
                else:
                    waiting -= 1
                    yield unit.key, result

    @staticmethod
    def _ray_runs() -> bool:
        return "ray" in sys.modules and sys.modules["ray"].is_initialized()

    def _start_ray(self) -> bool:
        """Connects to the cluster that was named, or starts Ray here; False where it cannot start."""
        if self._ray_runs():
            return True
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        address = self.options.ray or os.environ.get("RAY_ADDRESS")
        quiet: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
        if address and not answers(address):
            raise UsageError(
                f"no Ray cluster answers at {address}; start one with `ray start --head`, or leave --ray away"
            )
        try:
            if address:
                ray.init(address=address, **quiet)
            else:
                memory = 100 * 2**20  # nothing but small records passes through the object store
                cpus = self.options.workers or os.cpu_count()
                ray.init("local", num_cpus=cpus, include_dashboard=False, object_store_memory=memory, **quiet)
        except Exception as error:
            if address:
                raise UsageError(f"no Ray cluster answers at {address}: {first_line(error)}") from error
            self.progress.note(f"Ray does not start here ({first_line(error)}); working in this process")
            return False
        self._own_ray = True
        self._heed_signals()  # Ray has put its own handler there
        return True


class Crew(Protocol):
    """Hands that take units and give back records, or a line that says what went wrong."""

    def free(self) -> bool: ...
    def give(self, unit: Unit) -> None: ...
    def results(self) -> list[tuple[Unit, Record | str]]: ...
    def close(self) -> None: ...


class InProcess:
    """One pair of hands: this process. A unit that overruns its time is interrupted where Python can be."""

    def __init__(self, build: Callable[[], Worker], ledger: Ledger, options: WorkOptions):
        self._hand = Hand()
        self._hand.serve(build, ledger.folder, ledger.name)
        self._seconds = options.unit_timeout
        self._unit: Unit | None = None

    def free(self) -> bool:
        return self._unit is None

    def give(self, unit: Unit) -> None:
        self._unit = unit

    def results(self) -> list[tuple[Unit, Record | str]]:
        unit, self._unit = self._unit, None
        assert unit is not None
        try:
            with time_limit(self._seconds):
                return [(unit, self._hand.perform(unit))]
        except (UsageError, NoSpaceLeft):
            raise
        except (Exception, Overrun) as error:
            return [(unit, line_of(error))]

    def close(self) -> None:
        self._hand.rest()


class RayActors:
    """As many Ray actors as there are workers; one unit in flight for each, given when the actor has started.

    Actors that earlier passes left in `resting` are taken first: to start one costs a second and more.
    """

    def __init__(
        self, build: Callable[[], Worker], ledger: Ledger, options: WorkOptions, most: int, resting: list[Any]
    ):
        import ray

        self._ray = ray
        self._seconds = options.unit_timeout
        workers = options.workers or int(ray.cluster_resources().get("CPU", 1))
        self._resting = resting
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Unit, float]] = {}
        self._stillborn = 0  # actors in a row that did not live to their first unit
        self._hand: Any = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(Hand)
        self._arguments = (build, ledger.folder, ledger.name)
        for _ in range(min(workers, most)):
            self._hire()

    def _hire(self) -> None:
        rested = bool(self._resting)
        actor = self._resting.pop() if rested else self._hand.remote()
        self._starting[actor.serve.remote(*self._arguments)] = (actor, rested)

    def free(self) -> bool:
        return bool(self._idle)

    def give(self, unit: Unit) -> None:
        actor = self._idle.pop()
        self._busy[actor.perform.remote(unit)] = (actor, unit, time.monotonic())

    def results(self) -> list[tuple[Unit, Record | str]]:
        ready, _ = self._ray.wait([*self._starting, *self._busy], num_returns=1, timeout=1)
        found = []
        for reference in ready:
            if reference in self._starting:
                self._started(reference)
            else:
                found.append(self._collect(reference))
        now = time.monotonic()
        for reference, (actor, unit, started) in list(self._busy.items()):
            if now - started > self._seconds:
                del self._busy[reference]
                self._ray.kill(actor)
                self._hire()
                found.append((unit, f"took longer than {self._seconds:g} s"))
        return found

    def _started(self, reference: Any) -> None:
        import ray.exceptions

        actor, rested = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except ray.exceptions.RayError as error:
            self._stillborn += not rested  # one at rest may have died with its node since
            if self._stillborn >= STILLBORN:
                raise TilthError(f"workers do not start on this cluster: {first_line(error)}") from error
            self._hire()
        else:
            self._stillborn = 0
            self._idle.append(actor)

    def _collect(self, reference: Any) -> tuple[Unit, Record | str]:
        import ray.exceptions

        actor, unit, _ = self._busy.pop(reference)
        try:
            result = self._ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            self._idle.append(actor)
            if isinstance(error.cause, UsageError | NoSpaceLeft):
                raise error.cause from None
            return unit, line_of(error.cause)
        except ray.exceptions.RayError as error:
            self._hire()
            return unit, f"the worker died ({first_line(error)})"
        self._idle.append(actor)
        return unit, cast(Record, result)

    def close(self) -> None:
        for actor, *_ in [*self._starting.values(), *self._busy.values()]:
            self._ray.kill(actor)  # those that start may be waiting for a CPU that those at rest have
        for actor in self._idle:
            actor.rest.remote()
            self._resting.append(actor)


class Hand:
    """One process's worker: built at the first unit, and anew after a unit that raised, whatever state that left."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def serve(self, build: Callable[[], Worker], folder: Folder, name: str) -> None:
        """From here on the units are those of the pass `name`."""
        self.rest()
        self._build = build
        self._ledger = Ledger(folder, name)

    def perform(self, unit: Unit) -> Record:
        self._worker = self._worker or self._build()
        try:
            return perform(unit, self._worker, self._ledger)
        except BaseException:
            self.rest()
            raise

    def rest(self) -> None:
        """Lets a worker that holds something (a child process) let go of it, and gives free memory back."""
        worker, self._worker = self._worker, None
        close = getattr(worker, "close", None)
        if close:
            close()
        del worker, close
        if "pyarrow" in sys.modules:  # whose pool keeps what it once had
            sys.modules["pyarrow"].default_memory_pool().release_unused()


def answers(address: str) -> bool:
    """Whether anything listens at HOST:PORT; Ray itself would wait there for minutes. Other forms are left to Ray."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return True
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return True
    except OSError:
        return False


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def line_of(error: BaseException) -> str:
    """An unforeseen error in one line, with the place where it was raised."""
    where = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(where[-1].filename).name}:{where[-1].lineno})" if where else ""
    return f"{type(error).__name__}: {first_line(error)}{place}"


class Overrun(BaseException):
    """A unit took too long; not to be caught by the worker it interrupts."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises Overrun in the main thread after so long; elsewhere there is no signal to use, and no limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def overrun(*_: object) -> None:
        raise Overrun(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, overrun)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
