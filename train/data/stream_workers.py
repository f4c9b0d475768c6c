"""Processes that tokenize ahead of the stream. Which one does a task changes nothing but the time it takes."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from tilth.errors import TilthError

from .stream_encode import Encoded, Encoder, Frame, Task

_LIVES = 2  # processes that may die of one task
_KNOWN = 64  # row groups of which it is known, for each process, who read them last
_PATIENCE = 2  # tasks more than another has, for which the one that has the row group decoded is still chosen
_ONE_THREAD = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS")


class Workers:
    """`count` processes, or none: then a task is done by whoever asks for its result. A context manager.

    A process that dies is replaced and its task done again; if that kills the next one too, the result raises
    TilthError. The processes end with this one, however it ends.
    """

    def __init__(self, count: int, place: str, frame: Frame):
        self._place, self._frame = place, frame
        self._encoder: Encoder | None = None
        self._children = [_Child(place, frame) for _ in range(count)]
        self._readers: OrderedDict[tuple[str, int], _Child] = OrderedDict()

    def submit(self, task: Task) -> Callable[[], Encoded]:
        """Begins the task; what is returned waits for its result."""
        if not self._children:
            return lambda: self._here(task)
        key, least = (task.path, task.group), min(self._children, key=lambda one: one.waiting)
        child = self._readers.pop(key, least)  # it has the row group decoded
        if child.waiting > least.waiting + _PATIENCE:
            child = least
        self._readers[key] = child
        if len(self._readers) > _KNOWN * len(self._children):
            self._readers.popitem(last=False)
        return child.submit(task)

    def close(self) -> None:
        """Ends the processes, whatever they are at."""
        for child in self._children:
            child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _here(self, task: Task) -> Encoded:
        if self._encoder is None:
            self._encoder = Encoder(self._place, self._frame)
        return self._encoder(task)


class _Child:
    """One process, and the thread that talks with it."""

    def __init__(self, place: str, frame: Frame):
        self._hello = place, frame
        self._lock = threading.Lock()
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._start()  # imports while the caller builds its model
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenize")
        self._ready = False
        self.waiting = 0

    def submit(self, task: Task) -> Callable[[], Encoded]:
        with self._lock:
            self.waiting += 1
        future = self._thread.submit(self._do, task)
        future.add_done_callback(lambda _: self._done())
        return future.result

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._process:
                self._process.kill()
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._process:
            self._end(self._process)

    def _done(self) -> None:
        with self._lock:
            self.waiting -= 1

    def _do(self, task: Task) -> Encoded:
        code = 0
        for _ in range(_LIVES):
            try:
                if not self._ready:
                    self._reply()
                    self._ready = True
                self._tell(task)
                return self._reply()
            except (EOFError, BrokenPipeError, pickle.UnpicklingError):
                code = self._replace()
        how = f"were killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise TilthError(
            f"{task.path}: {_LIVES} processes that tokenized row group {task.group} {how}; what they said stands "
            "above; if memory is short, use fewer workers"
        )

    def _tell(self, message: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(pickle.dumps(message, protocol=5))
        self._process.stdin.flush()

    def _reply(self) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        reply = pickle.load(self._process.stdout)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _start(self) -> None:
        # the parent's module path, so that the child finds the same tilth in a Ray worker too; a session of its own
        # keeps Ctrl-C from it
        environment = {
            **os.environ,
            **dict.fromkeys(_ONE_THREAD, "1"),
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        with self._lock:
            if self._closed:
                raise TilthError("the stream of training data is closed")
            self._ready = False
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tilth.train.data.stream_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                env=environment,
            )
        with contextlib.suppress(BrokenPipeError):  # gone already, as its missing reply will tell
            self._tell(self._hello)

    def _replace(self) -> int:
        """Another process for the one that is gone, of which the exit code is told."""
        assert self._process is not None
        code = self._end(self._process)
        self._start()
        return code

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> int:
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe:
                    pipe.close()
        return process.wait()
