"""How the ranks of a training run come to be: started here, or by torchrun or Slurm, whose environment says who is who.

A rank is a command that finds its seat in its environment. Whoever starts ranks ends them together: when one dies the
others would wait for it in vain. `on_ray.py` starts them on a Ray cluster.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import orjson

from tilth.errors import Stopped, TilthError, UsageError
from tilth.storage import explained

from .watch import StopRequested

RENDEZVOUS = "TILTH_RENDEZVOUS"  # set for ranks that tilth started: where they meet
ERRORS = "TILTH_ERRORS"  # set for them too: the file for `tell`
LOGS = "logs"
GRACE = 5.0  # seconds that the others have to fail by themselves, and say how, once a rank has died
POLL = 0.02  # seconds between two looks at the ranks
TAIL = 2**16  # bytes of a log that are searched for its last error


class Seat(NamedTuple):
    """Which of a run's processes this is."""

    rank: int
    world: int  # processes in all
    local_rank: int  # among those on this machine
    local_world: int
    rendezvous: str  # an init_method of torch.distributed

    def environ(self) -> dict[str, str]:
        """The seat as variables for a process that is started for it, under torchrun's names and one of our own."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_world),
            RENDEZVOUS: self.rendezvous,
        }


class RankLost(TilthError):
    """A rank died without a word of its own: killed, crashed, or ended by an error that nobody foresaw."""

    by_signal = False


def surroundings(environ: Mapping[str, str] = os.environ) -> Seat | None:
    """The seat that whoever started this process gave it: tilth, torchrun or Slurm's srun; None where nobody did.

    Under Slurm the number of tasks is that of the job step, which only srun tells. The allocation's (SLURM_NTASKS)
    also stands in a batch script and in an interactive shell, of which there is one: ranks are ours to start there.

    Raises UsageError where a variable holds no number.
    """
    if RENDEZVOUS in environ:
        return _seat(environ, environ[RENDEZVOUS])
    if all(name in environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):
        return _seat(environ, "env://")
    return _slurm(environ)


def threads(local_world: int, environ: Mapping[str, str] = os.environ) -> int:
    """CPU threads for each of so many ranks on this machine: what was asked for, or an equal share of the cores."""
    asked = environ.get("OMP_NUM_THREADS", "")
    if not asked and RENDEZVOUS not in environ and _slurm(environ):
        asked = environ.get("SLURM_CPUS_PER_TASK", "")
    return int(asked) if asked.isdigit() else max(1, len(os.sched_getaffinity(0)) // local_world)


@contextlib.contextmanager
def alone() -> Iterator[Seat]:
    """The seat of a run's only process: this one.

    Its file stays open: Megatron-core keeps some of a group for good, and when that goes, torch opens the file by its
    number again, which by then would be another's.
    """
    yield Seat(0, 1, 0, 1, f"file://{_path(os.memfd_create('tilth-rendezvous'))}")


def run_local(command: Sequence[str], world: int, folder: Path) -> None:
    """Runs `command` as `world` ranks on this machine, to the end of all.

    Rank 0 writes where this process does; what the others say is added to `logs/rank-R.log` in the folder. SIGTERM and
    SIGINT are handed on to all ranks, which may end well at that; a second one kills them. When this returns or
    raises, and also when this process is killed, no process of theirs is left.

    Raises what a rank told (`tell`), RankLost for one that died otherwise, Stopped where a signal ended them.
    """
    with StopRequested() as stop, _shared_memory("rendezvous") as file:
        seats = [Seat(rank, world, rank, world, f"file://{_path(file)}") for rank in range(world)]
        run_seats(command, seats, folder, lambda: stop.number, POLL, shown=True, files=(file,))


def run_seats(
    command: Sequence[str],
    seats: Sequence[Seat],
    folder: Path,
    order: Callable[[], int | None],
    every: float,
    shown: bool = False,
    files: Sequence[int] = (),
) -> None:
    """Runs those ranks of a group that have their seats on this machine, as `run_local` does with a whole one.

    `order` is asked `every` so many seconds for a signal to hand on to the ranks. Where rank 0 is not `shown`, it too
    has a log. The ranks inherit the open `files`.
    """
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(_Log(folder, seat.rank)) if seat.rank or not shown else None for seat in seats]
        errors = stack.enter_context(_shared_memory("errors"))
        ranks: list[subprocess.Popen[bytes]] = []
        stack.callback(lambda: [rank.wait() for rank in ranks])  # once the group is killed
        group = stack.enter_context(_group())
        given = {"OMP_NUM_THREADS": str(threads(seats[0].local_world))} | os.environ | {ERRORS: _path(errors)}
        for seat, log in zip(seats, logs, strict=True):
            rank = subprocess.Popen(
                command,
                env=given | seat.environ(),
                stdin=subprocess.DEVNULL,
                stdout=log and log.file,
                stderr=log and log.file,
                pass_fds=(errors, *files),
                process_group=group,
            )
            ranks.append(rank)
        first, sent = _ended(ranks, order, every)
        if first is None:
            return
        code = ranks[first].returncode
        if told := os.pread(errors, TAIL, 0).splitlines():
            said = orjson.loads(told[0])
            raise (UsageError if said["exit_code"] == UsageError.exit_code else TilthError)(said["message"])
        if sent is not None and code == -sent:  # it came before the rank could heed it
            raise Stopped(sent)
        raise _lost(seats[first], code, logs[first])


def tell(error: TilthError) -> None:
    """Says a rank's error where it is heard: to the launcher, which raises it, or on stderr where there is none."""
    if ERRORS not in os.environ:
        print(f"tilth: {error}", file=sys.stderr, flush=True)
        return
    with open(os.environ[ERRORS], "ab") as file:
        file.write(orjson.dumps({"exit_code": error.exit_code, "message": str(error)}) + b"\n")


def last_error(text: str) -> str:
    """The line of a process's output that names what ended it: the last error, or else the last line."""
    lines = [re.sub(r"^\[rank\d+\]:", "", line).strip() for line in text.splitlines()]  # torch marks each line so
    lines = [line for line in lines if line]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt|Exit)\b", line)]
    return (errors or lines or [""])[-1]


def first_host(hosts: str) -> str:
    """The first name of a list as Slurm writes it: node01 of "node[01-03,7],gpu5"."""
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", hosts).split(",")[0]


def tasks_on_nodes(text: str) -> list[int]:
    """Tasks on each node, from a list as Slurm writes it: [2, 2, 2, 1] for "2(x3),1"."""
    counts = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(",")]
    return [int(found[1]) for found in counts if found for _ in range(int(found[2] or 1))]


def _seat(environ: Mapping[str, str], rendezvous: str) -> Seat:
    rank, world = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    return Seat(rank, world, _number(environ, "LOCAL_RANK", 0), _number(environ, "LOCAL_WORLD_SIZE", 1), rendezvous)


def _slurm(environ: Mapping[str, str]) -> Seat | None:
    world = _number(environ, "SLURM_STEP_NUM_TASKS", 1)
    if world == 1:
        return None
    nodes = tasks_on_nodes(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    node = _number(environ, "SLURM_NODEID", 0)
    # rank 0 is on the step's first node; a port of its own for each job and step, below those that systems hand out
    host = environ.get("MASTER_ADDR") or first_host(environ.get("SLURM_STEP_NODELIST", ""))
    if not host:
        raise UsageError("Slurm's environment names no nodes (SLURM_STEP_NODELIST); set MASTER_ADDR to that of rank 0")
    free = 20_000 + (_number(environ, "SLURM_JOB_ID", 0) + 97 * _number(environ, "SLURM_STEP_ID", 0)) % 10_000
    return Seat(
        rank=_number(environ, "SLURM_PROCID"),
        world=world,
        local_rank=_number(environ, "SLURM_LOCALID"),
        local_world=nodes[node] if node < len(nodes) else 1,
        rendezvous=f"tcp://{host}:{_number(environ, 'MASTER_PORT', free)}",
    )


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name) or str(default)
    if not text.isdigit():
        raise UsageError(f"the environment has {name}={environ.get(name, '')}: a number must stand there")
    return int(text)


@contextlib.contextmanager
def _shared_memory(name: str) -> Iterator[int]:
    """A file in memory, for this process and those that inherit it: gone with the last of them, however they end.

    As the store of torch.distributed it needs no port that another process might take, and no folder.
    """
    file = os.memfd_create(f"tilth-{name}")
    try:
        yield file
    finally:
        os.close(file)


def _path(file: int) -> str:
    """The path under which a process that has inherited the file opens it."""
    return f"/proc/self/fd/{file}"


@contextlib.contextmanager
def _group() -> Iterator[int]:
    """The number of a new process group, for the ranks and all that they start; at the end it is killed.

    Its first member is a shell that waits for the end of its input, and then kills the group. The input's other end is
    in this process alone, so that comes even when this process has no time to do anything. The system's own signal at
    a parent's death (PR_SET_PDEATHSIG) would reach the ranks only, and not what they have started.
    """
    keeper = subprocess.Popen(
        ["/bin/sh", "-c", "trap '' HUP INT TERM; read -r end; kill -KILL 0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    with keeper:
        try:
            yield keeper.pid
        finally:
            os.killpg(keeper.pid, signal.SIGKILL)


class _Log:
    """What a rank says, added to the file of its name; no file where it says nothing."""

    def __init__(self, folder: Path, rank: int):
        self.path = folder / LOGS / f"rank-{rank}.log"

    def __enter__(self) -> Self:
        with explained(str(self.path)):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "ab")
        self._start = self.path.stat().st_size
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        if not self.path.stat().st_size:
            self.path.unlink()

    def text(self) -> str:
        """The end of what this rank said, without what earlier ones left there."""
        with open(self.path, "rb") as file:
            file.seek(max(self._start, self.path.stat().st_size - TAIL))
            return file.read().decode(errors="replace")


def _ended(
    ranks: Sequence[subprocess.Popen[bytes]], order: Callable[[], int | None], every: float
) -> tuple[int | None, int | None]:
    """Waits for the end of all, or of the others' grace: which failed first, and the signal that was handed on."""
    first = sent = None
    until = float("inf")
    while True:
        codes = [rank.poll() for rank in ranks]
        if first is None and any(codes):
            # of two seen at once, the one that a signal killed is the cause and not the consequence
            first = min((code > 0, place) for place, code in enumerate(codes) if code)[1]
            until = time.monotonic() + GRACE
        if None not in codes or time.monotonic() > until:
            return first, sent
        if sent is None and (sent := order()) is not None:
            for rank in ranks:
                rank.send_signal(sent)
        time.sleep(every)


def _lost(seat: Seat, code: int, log: _Log | None) -> RankLost:
    said = last_error(log.text()) if log else ""
    where = f" ({log.path})" if log and said else ""
    if code < 0:
        name = next((known.name for known in signal.Signals if known == -code), f"signal {-code}")
        how = f"was killed by {name}" + (", as a system does that runs out of memory" if name == "SIGKILL" else "")
    else:
        how = f"ended with exit code {code}" + (f": {said}" if log else "; what it said stands above")
    error = RankLost(f"rank {seat.rank} of {seat.world} {how}{where}")
    error.by_signal = code < 0
    return error
