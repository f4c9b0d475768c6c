"""Ranks as real processes: where they find their seats, and how they end, together, whatever happens to whom."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tilth.errors import Stopped, StorageError, TilthError, UsageError
from tilth.train import launch, watch
from tilth.train.launch import RankLost, Seat, alone, run_local, surroundings, threads

BEGIN = """
import atexit, os, signal, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
rank = int(os.environ["RANK"])
def ready():
    (folder / f"pid-{rank}").write_text(str(os.getpid()))
def hang():
    time.sleep(60)
"""
MEET = """
import torch, torch.distributed as dist
def meet():
    world = int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", init_method=os.environ["TILTH_RENDEZVOUS"], rank=rank, world_size=world)
    total = torch.tensor([rank + 1.0])
    dist.all_reduce(total)
    atexit.register(dist.destroy_process_group)  # or its threads may outlive what they work on
    return total.item()
"""


def command(folder: Path, code: str) -> list[str]:
    return [sys.executable, *arguments(folder, code)]


def arguments(folder: Path, code: str) -> list[str]:
    return ["-c", BEGIN + code, str(folder)]


def awaited(*files: Path) -> None:
    end = time.monotonic() + 60
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < end, f"never came: {files}"
        time.sleep(0.02)


def when(files: list[Path], act: Callable[[], object]) -> threading.Thread:
    """Does something once the ranks have written those files."""

    def wait() -> None:
        awaited(*files)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def gone(file: Path) -> bool:
    """Whether the process whose number stands there has ended, within a short time."""
    stat = Path("/proc", file.read_text(), "stat")
    for _ in range(100):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def pids(folder: Path, *names: object) -> list[Path]:
    return [folder / f"pid-{name}" for name in names]


TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node3",
    "MASTER_PORT": "29500",
}
BATCH = {  # what a batch script has, and every step of its job
    "SLURM_JOB_ID": "4711",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_TASKS_PER_NODE": "4(x2)",
    "SLURM_JOB_NODELIST": "node[07-08]",
}
STEP = BATCH | {
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "1",
}


@pytest.mark.parametrize(
    ("environ", "seat"),
    [
        ({}, None),
        (TORCHRUN, Seat(5, 8, 1, 4, "env://")),
        ({"RANK": "0", "WORLD_SIZE": "2"}, None),  # nowhere to meet
        (STEP, Seat(6, 8, 2, 4, "tcp://node07:24808")),
        (STEP | {"MASTER_ADDR": "ib-node07", "MASTER_PORT": "1234"}, Seat(6, 8, 2, 4, "tcp://ib-node07:1234")),
        (STEP | TORCHRUN, Seat(5, 8, 1, 4, "env://")),
        (BATCH, None),  # the script itself: one process, whatever SLURM_NTASKS says
        (BATCH | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),  # srun --pty bash
    ],
    ids=["nobody", "torchrun", "half", "srun", "srun with an address", "torchrun by srun", "sbatch", "interactive"],
)
def test_a_seat_is_found_where_a_launcher_gave_one_and_only_there(environ, seat):
    assert surroundings(environ) == seat


def test_ranks_that_tilth_started_find_their_seats_under_any_other_launcher():
    seat = Seat(1, 2, 1, 2, "file:///proc/self/fd/5")
    assert surroundings(STEP | TORCHRUN | seat.environ()) == seat


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        (TORCHRUN | {"RANK": "x"}, "RANK=x"),
        ({**STEP, "SLURM_PROCID": ""}, "SLURM_PROCID="),
        ({**STEP, "SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST"),
    ],
)
def test_an_environment_that_makes_no_sense_is_told(environ, line):
    with pytest.raises(UsageError, match=re.escape(line)):
        surroundings(environ)


def test_slurms_lists_are_read():
    hosts = {"a": "a", "b12,b13": "b12", "node[01-03,7],gpu5": "node01", "r[2-3]n[10,12]-ib": "r2n10-ib"}
    assert {text: launch.first_host(text) for text in hosts} == hosts
    assert launch.tasks_on_nodes("2(x3),1") == [2, 2, 2, 1]
    assert launch.tasks_on_nodes("16") == [16]


def test_ranks_share_the_cores_unless_somebody_has_said_otherwise():
    cores = len(os.sched_getaffinity(0))
    assert threads(1, {}) == cores
    assert threads(10 * cores, {}) == 1
    assert threads(1, {"OMP_NUM_THREADS": "3"}) == 3
    assert threads(4, STEP | {"SLURM_CPUS_PER_TASK": "6"}) == 6
    assert threads(cores, BATCH | {"SLURM_CPUS_PER_TASK": "64"}) == 1  # all of it is for the script's one process


def test_the_last_error_is_found_in_what_a_process_said():
    text = """
[rank1]: Traceback (most recent call last):
[rank1]:   File "<string>", line 1, in <module>
[rank1]: torch.distributed.DistBackendError: NCCL error
[rank1]:[W1126 13:00:00 ProcessGroupNCCL.cpp:1496] Warning: destroy_process_group() was not called
"""
    assert launch.last_error(text) == "torch.distributed.DistBackendError: NCCL error"
    assert launch.last_error("one\nno model of that name\n\n") == "no model of that name"
    assert launch.last_error("") == ""


def test_local_ranks_form_a_group(tmp_path, capfd, monkeypatch):
    """Rank 0 is seen, the others have logs; nothing else is left, in the run's folder or beside it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "scratch").mkdir()
    run_local(command(tmp_path, MEET + 'print(rank, meet(), os.environ["OMP_NUM_THREADS"])'), 2, tmp_path / "run")
    share = threads(2)
    assert capfd.readouterr() == (f"0 3.0 {share}\n", "")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [
        "run/logs/rank-1.log"
    ]
    assert (tmp_path / "run/logs/rank-1.log").read_text() == f"1 3.0 {share}\n"


def test_one_process_alone_is_a_group_too():
    import torch.distributed as dist

    with alone() as seat:
        assert seat[:4] == (0, 1, 0, 1)
        dist.init_process_group("gloo", init_method=seat.rendezvous, rank=0, world_size=1)
        dist.barrier()
        dist.destroy_process_group()


def test_the_rank_that_died_first_is_named_and_the_hung_ones_end(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "GRACE", 0.3)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/rank-1.log").write_text("OldError: of an earlier start\n")
    code = """
if rank == 0:
    child = subprocess.Popen(["sleep", "60"])
    (folder / "pid-child").write_text(str(child.pid))
ready()
if rank == 1:
    while not (folder / "pid-2").exists() or not (folder / "pid-0").exists():
        time.sleep(0.01)
    raise ValueError("the sizes are odd")
hang()
"""
    with pytest.raises(RankLost) as caught:
        run_local(command(tmp_path, code), 3, tmp_path)
    log = tmp_path / "logs/rank-1.log"
    assert str(caught.value) == f"rank 1 of 3 ended with exit code 1: ValueError: the sizes are odd ({log})"
    assert all(gone(file) for file in pids(tmp_path, 0, 1, 2, "child"))
    assert sorted(path.name for path in log.parent.iterdir()) == ["rank-1.log"]


def test_a_killed_rank_is_named_and_not_those_that_fail_because_of_it(tmp_path, capfd):
    code = """
if meet() and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
dist.barrier()
"""
    with pytest.raises(RankLost, match=r"^rank 1 of 2 was killed by SIGKILL, as a system does") as caught:
        run_local(command(tmp_path, MEET + code), 2, tmp_path)
    assert "\n" not in str(caught.value)
    assert "RuntimeError" in capfd.readouterr().err  # what rank 0 said


def test_what_rank_0_said_is_not_said_twice(tmp_path, capfd):
    with pytest.raises(RankLost, match=r"^rank 0 of 1 ended with exit code 3; what it said stands above$"):
        run_local(command(tmp_path, 'print("alas", file=sys.stderr); sys.exit(3)'), 1, tmp_path)
    assert capfd.readouterr() == ("", "alas\n")


TELLS = """
from tilth.errors import {kind}
from tilth.train.launch import tell
error = {kind}("step 7: the loss is nan")
tell(error)
sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("kind", [UsageError, TilthError])
def test_an_error_that_a_rank_tells_is_raised_once_and_as_it_was(tmp_path, capfd, kind):
    with pytest.raises(kind, match=r"^step 7: the loss is nan$") as caught:
        run_local(command(tmp_path, TELLS.format(kind=kind.__name__)), 2, tmp_path)
    assert type(caught.value) is kind
    assert capfd.readouterr() == ("", "")


def test_without_a_launcher_an_error_is_told_on_stderr(tmp_path, capfd):
    subprocess.run(command(tmp_path, TELLS.format(kind="TilthError")), env=os.environ | {"RANK": "0"}, check=False)
    assert capfd.readouterr() == ("", "tilth: step 7: the loss is nan\n")


def test_a_folder_that_cannot_be_is_told_before_anything_starts(tmp_path):
    (tmp_path / "logs").touch()
    with pytest.raises(StorageError, match=re.escape(str(tmp_path))):
        run_local(command(tmp_path, "ready()"), 2, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


HEEDS = """
def save(number, _):
    (folder / f"saved-{rank}").write_text(signal.Signals(number).name)
    sys.exit(0)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, save)
ready()
hang()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_all_ranks_save_and_end_well(tmp_path, number):
    when(pids(tmp_path, 0, 1), lambda: os.kill(os.getpid(), number))
    run_local(command(tmp_path, HEEDS), 2, tmp_path)
    assert [(tmp_path / f"saved-{rank}").read_text() for rank in (0, 1)] == [number.name] * 2


def test_a_signal_that_ranks_do_not_heed_yet_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "GRACE", 0.3)
    when(pids(tmp_path, 0, 1), lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped):
        run_local(command(tmp_path, "ready(); hang()"), 2, tmp_path)
    assert all(gone(file) for file in pids(tmp_path, 0, 1))


def test_a_second_signal_kills(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "ECHO", 0.2)

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.4)
        os.kill(os.getpid(), signal.SIGTERM)

    when(pids(tmp_path, 0, 1), twice)
    with pytest.raises(Stopped):
        run_local(command(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN); ready(); hang()"), 2, tmp_path)
    assert all(gone(file) for file in pids(tmp_path, 0, 1))


def test_no_process_outlives_a_launcher_that_is_killed(tmp_path):
    code = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "60"])
(folder / f"pid-child-{rank}").write_text(str(child.pid))
ready()
hang()
"""
    script = "import sys; from pathlib import Path; from tilth.train.launch import run_local\n"
    script += "run_local(sys.argv[2:], 2, Path(sys.argv[1]))"
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), *command(tmp_path, code)])
    files = pids(tmp_path, 0, 1, "child-0", "child-1")
    awaited(*files)
    process.kill()
    process.wait()
    assert all(gone(file) for file in files)


@pytest.mark.slow
class TestOnRay:
    @pytest.fixture(autouse=True)
    def _quick(self, ray, monkeypatch):
        monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one actor less to start

    @staticmethod
    def run(folder: Path, code: str, world: int = 2, restarts: int = 1) -> None:
        from tilth.train.on_ray import run_on_ray

        run_on_ray(arguments(folder, code), world, "auto", folder, restarts)

    def test_a_lost_rank_restarts_the_group(self, tmp_path, capfd):
        code = """
print("together", meet())
if rank == 1 and not (folder / "lost").exists():
    (folder / "lost").touch()
    os.kill(os.getpid(), signal.SIGKILL)
dist.barrier()
print("done")
"""
        self.run(tmp_path, MEET + code)
        said = capfd.readouterr().err
        note = "rank 1 of 2 was killed by SIGKILL.*; all ranks start again [(]restart 1 of 1[)]\n"
        assert re.fullmatch(f"together 3.0\n(.*\n)*{note}together 3.0\ndone\n", said)
        assert "restart 1 of 1" in (tmp_path / "events.jsonl").read_text()
        assert (tmp_path / "logs/rank-1.log").read_text() == "together 3.0\ntogether 3.0\ndone\n"
        assert {path.name for path in tmp_path.iterdir()} == {"events.jsonl", "logs", "lost"}

    def test_too_many_losses_are_told_in_one_line(self, tmp_path):
        code = """
with open(folder / f"tries-{rank}", "a") as file:
    file.write("x")
if rank == 1:
    raise ValueError("the sizes are odd")
hang()
"""
        line = (
            r"^rank 1 of 2 ended with exit code 1: ValueError: the sizes are odd \(.*rank-1.log\); no restart is left$"
        )
        with pytest.raises(TilthError, match=line):
            self.run(tmp_path, "ready()\n" + code, restarts=0)
        assert (tmp_path / "tries-1").read_text() == "x"
        assert all(gone(file) for file in pids(tmp_path, 0, 1))

    def test_what_a_rank_tells_ends_the_run_at_once(self, tmp_path):
        code = "ready()\nif rank: hang()\n" + TELLS.format(kind="UsageError")
        with pytest.raises(UsageError, match=r"^step 7: the loss is nan$"):
            self.run(tmp_path, code, restarts=3)
        assert not (tmp_path / "events.jsonl").exists()

    def test_a_signal_lets_all_ranks_save_and_end_well(self, tmp_path):
        when(pids(tmp_path, 0, 1), lambda: os.kill(os.getpid(), signal.SIGTERM))
        self.run(tmp_path, HEEDS)
        assert [(tmp_path / f"saved-{rank}").read_text() for rank in (0, 1)] == ["SIGTERM"] * 2
        assert not (tmp_path / "stop").exists()

    def test_a_cluster_that_is_too_small_is_refused(self, tmp_path):
        with pytest.raises(UsageError, match="the cluster has 2 CPUs; 64 ranks need one each"):
            self.run(tmp_path, "", world=64)
