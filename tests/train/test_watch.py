"""Real processes that hang, are suspended, or are told to stop: what they leave behind, and how they end."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tilth.errors import StorageError
from tilth.train.watch import Heartbeat, StopRequested, Watchdog, slowest

BEGIN = """
import ctypes, os, signal, sys, time
from pathlib import Path
from tilth.errors import Stopped
from tilth.train import watch
from tilth.train.watch import StopRequested, Watchdog
folder = Path(sys.argv[1])
def ready():
    print("ready", flush=True)
"""


class Child:
    """A Python process that has come as far as `ready()`."""

    def __init__(self, folder: Path, code: str):
        command = [sys.executable, "-c", BEGIN + code, str(folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.output = self.process.stdout.readline()
        assert self.output == "ready\n", self.process.communicate()[1]

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Exit code, output and errors."""
        try:
            output, errors = self.process.communicate(timeout=20)
        finally:
            self.process.kill()
        return self.process.returncode, output, errors


def awaited(file: Path, text: str) -> str:
    """The file's text once `text` is in it."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if file.exists() and text in file.read_text():
            return file.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{file}: never held {text!r}")


def test_a_hung_rank_shows_its_stacks_and_ends(tmp_path):
    code = """
def waits_for_ever():
    time.sleep(60)
with Watchdog(folder, 3, 0.5, first=20) as watchdog:
    ready()
    watchdog.beat(17)
    waits_for_ever()
"""
    started = time.monotonic()
    returncode, _, errors = Child(tmp_path, code).end()
    assert returncode == 1
    assert time.monotonic() - started < 10
    stacks = (tmp_path / "stacks" / "rank-3.txt").read_text()
    for text in (errors, stacks):
        assert "rank 3: hung: 0.5 s without a step after step 17; the stacks of all threads:" in text
        assert "waits_for_ever" in text
    [heartbeat] = slowest(tmp_path)
    assert (heartbeat.rank, heartbeat.step) == (3, 17)
    assert 0.4 < heartbeat.age < 20


def test_a_rank_that_goes_on_is_left_alone(tmp_path):
    """With more time where more is allowed: before the first beat, and after one that says so."""
    code = """
with Watchdog(folder, 0, 0.6, first=20) as watchdog:
    ready()
    time.sleep(1)
    for step in range(20):
        watchdog.beat(step)
        time.sleep(0.05)
    watchdog.beat(20, allow=20)
    time.sleep(1)
"""
    assert Child(tmp_path, code).end() == (0, "", "")
    assert slowest(tmp_path) == []


def test_the_stacks_are_told_even_where_a_library_keeps_pythons_lock(tmp_path):
    code = """
def inside_a_library():
    ctypes.PyDLL(None).usleep(1_500_000)
with Watchdog(folder, 0, 1, first=20) as watchdog:
    ready()
    inside_a_library()
"""
    assert Child(tmp_path, code).end()[0] == 0
    assert "inside_a_library" in (tmp_path / "stacks" / "rank-0.txt").read_text()


def test_a_rank_that_was_suspended_lives_on(tmp_path):
    code = """
with Watchdog(folder, 0, 1, first=20) as watchdog:
    watchdog.beat(0)
    time.sleep(0.2)
    ready()
    for _ in range(4):
        time.sleep(0.1)
    watchdog.beat(1)
"""
    child = Child(tmp_path, code)
    child.send(signal.SIGSTOP)
    time.sleep(1.3)
    child.send(signal.SIGCONT)
    assert child.end()[0] == 0


def test_sigusr1_shows_the_stacks_and_ends_nothing(tmp_path):
    code = """
def is_busy():
    ready()
    while not (folder / "enough").exists():
        time.sleep(0.01)
with Watchdog(folder, 1, 30):
    is_busy()
"""
    child = Child(tmp_path, code)
    child.send(signal.SIGUSR1)
    awaited(tmp_path / "stacks" / "rank-1.txt", "is_busy")
    (tmp_path / "enough").touch()
    assert child.end() == (0, "", "")


def test_the_slowest_rank_comes_first(tmp_path):
    assert slowest(tmp_path) == []
    with Watchdog(tmp_path, 0, 60) as zero, Watchdog(tmp_path, 10, 60) as ten, Watchdog(tmp_path, 2, 60):
        for rank, step in ((zero, 7), (ten, 5), (zero, 8)):
            rank.beat(step)
        found = slowest(tmp_path)
        assert [one[:2] for one in found] == [(2, -1), (10, 5), (0, 8)]
        assert all(isinstance(one, Heartbeat) and one.age < 5 for one in found)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "heartbeats").touch()
    with pytest.raises(StorageError, match=re.escape(str(tmp_path))), Watchdog(tmp_path, 0, 60):
        pass


LOOP = """
with StopRequested() as stop:
    ready()
    try:
        for step in range(1000):
            time.sleep(0.01)
            if stop and not "{deaf}":
                print("saved", flush=True)
                sys.exit(0)
            if stop and not step % 10:
                print("heard", flush=True)
    except Stopped as stopped:
        print("stopped", flush=True)
        sys.exit(stopped.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_loop_save_and_leave_with_0(tmp_path, number):
    child = Child(tmp_path, LOOP.replace("{deaf}", ""))
    child.send(number)
    child.send(signal.SIGTERM)  # the same from the launcher
    assert child.end() == (0, "saved\n", "")


def test_a_second_signal_stops_at_once(tmp_path):
    child = Child(tmp_path, "watch.ECHO = 0.2\n" + LOOP.replace("{deaf}", "yes"))
    child.send(signal.SIGINT)
    time.sleep(0.4)
    child.send(signal.SIGTERM)
    returncode, output, errors = child.end()
    assert (returncode, errors) == (128 + signal.SIGTERM, "")
    assert re.fullmatch("(heard\n)+stopped\n", output)


def test_forked_processes_end_at_sigterm_and_leave_sigint_to_their_parent(tmp_path):
    with StopRequested() as stop:
        child = os.fork()
        if not child:
            time.sleep(20)
            os._exit(0)
        os.kill(child, signal.SIGINT)
        time.sleep(0.2)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        assert not stop


def test_handlers_are_put_back_and_other_threads_change_none():
    def handlers() -> list[object]:
        return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    before, seen = handlers(), []

    def elsewhere() -> None:
        with StopRequested() as stop:
            seen.append((bool(stop), handlers()))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
    with StopRequested() as stop:
        assert handlers() != before
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop
        assert stop.number == signal.SIGTERM
    assert handlers() == before
