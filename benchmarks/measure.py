"""What a command costs together with all that it starts, Ray's daemons among it: wall and CPU seconds, peak memory.

This process adopts orphans (PR_SET_CHILD_SUBREAPER, so Linux only): whatever a command starts stays below it in the
process tree, and other work on the machine is not counted. The tree is sampled; the kernel's own account of children
is taken where it is larger, as it knows the last moments of a process, but not processes whose parent ignores them.
"""

import contextlib
import ctypes
import os
import resource
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_INTERVAL = 0.1  # seconds between two samples
_GRACE = 10  # seconds that daemons have to end after the command


class Cost(NamedTuple):
    """What one run of a command took."""

    wall: float  # seconds
    cpu: float  # seconds, user and system, of the whole tree
    peak_mb: float  # MB (2**20), of the summed PSS of the tree
    largest_mb: float  # MB, of the largest process
    output: str  # what the command printed


def measured(command: Sequence[str], timeout: float = 3600) -> Cost:
    """Runs a command to its end, and that of its daemons. Ends this program where the command fails."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    sampler, before, started = _Sampler(), _reaped(), time.time()
    sampler.start()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        wall = time.time() - started
        _reap_orphans()
    finally:
        sampler.stop()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{(done.stderr or done.stdout)[-3000:]}")
    return Cost(wall, max(_reaped() - before, sampler.cpu), sampler.peak, sampler.largest, done.stdout)


def _reaped() -> float:
    """CPU seconds of all children that have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _reap_orphans() -> None:
    """Waits for what the command left behind; what does not end is killed."""
    deadline = time.time() + _GRACE
    with contextlib.suppress(ChildProcessError):  # until there is none
        while True:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(_INTERVAL)
            if time.time() > deadline:
                for child in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        child.kill()


class _Sampler(threading.Thread):
    """Looks at all processes below this one, again and again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = self.largest = 0.0
        self._seconds: dict[tuple[int, float], float] = {}  # by process; the last that was seen of it
        self._running = True

    @property
    def cpu(self) -> float:
        """CPU seconds of all processes seen."""
        return sum(self._seconds.values())

    def run(self) -> None:
        me = psutil.Process()
        while self._running:
            sizes = [0.0]
            for process in me.children(recursive=True):
                with contextlib.suppress(psutil.Error, OSError):
                    times = process.cpu_times()
                    self._seconds[process.pid, process.create_time()] = times.user + times.system
                    sizes.append(_pss(process.pid))
            self.peak, self.largest = max(self.peak, sum(sizes)), max(self.largest, *sizes)
            time.sleep(_INTERVAL)

    def stop(self) -> None:
        self._running = False
        self.join()


def _pss(pid: int) -> float:
    """Proportional set size of a process in MB: memory shared by n processes counts a n-th for each."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0
