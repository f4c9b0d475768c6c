"""kill -9 at any moment, then the same command: the result is that of a run that was never stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import results

from tilth.curate.demo import write_crawl

SETTINGS = ["--recipe", "demo", "--set", "read.unit_bytes=15000", "--set", "corpus.shard_bytes=30000"]


def command(crawl: Path, output: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "tilth.cli.main",
        "curate",
        "run",
        "--input",
        str(crawl),
        "--output",
        str(output),
        *more,
    ]


@pytest.fixture(scope="module")
def crawl(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "crawl"
    write_crawl(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(crawl) -> dict[str, str]:
    output = crawl.parent / "undisturbed"
    subprocess.run(command(crawl, output, *SETTINGS, "--in-process", "--quiet"), check=True, capture_output=True)
    return results(output)


def units_done(output: Path, name: str) -> int:
    return len(list((output / "ledger" / name).glob("*.json")))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["in process", "on ray"])
def test_a_driver_killed_in_each_pass_leaves_no_trace(crawl, undisturbed, tmp_path, how):
    """Killed after a few units of reading, then of deciding, then of the corpus; then let finish."""
    output = tmp_path / "run"
    more = [*SETTINGS, "--quiet", *(["--in-process"] if how == "in process" else ["--workers", "2"])]
    kills = 0
    for name, units in [("read", 3), ("read", 9), ("decide", 2), ("deal", 1), ("corpus", 1)]:
        process = subprocess.Popen(command(crawl, output, *more), start_new_session=True, stderr=subprocess.PIPE)
        while process.poll() is None and units_done(output, name) < units:
            time.sleep(0.005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        process.communicate()
    done = subprocess.run(command(crawl, output, *more), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert kills >= 2
    assert results(output) == undisturbed


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_driver(crawl, tmp_path):
    import psutil

    output = tmp_path / "run"
    more = [*SETTINGS, "--workers", "2", "--quiet"]
    process = subprocess.Popen(command(crawl, output, *more), start_new_session=True)
    while process.poll() is None and units_done(output, "read") < 2:
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True)
    family = [one for one in family if "Agent" not in one.name()]  # Ray's own agents look for their parent but seldom
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive, [one.cmdline()[:3] for one in alive]


@pytest.mark.slow
@pytest.mark.parametrize("how", [["--in-process"], ["--workers", "2"]], ids=["in process", "on ray"])
def test_ctrl_c_ends_cleanly_and_the_next_run_goes_on(crawl, undisturbed, tmp_path, how):
    output = tmp_path / "run"
    more = [*SETTINGS, *how, "--quiet"]
    process = subprocess.Popen(command(crawl, output, *more), stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None and units_done(output, "read") < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip().count("\n") == 0
    assert "the same command goes on" in errors
    done = units_done(output, "read")
    assert done >= 3
    subprocess.run(command(crawl, output, *more), check=True, capture_output=True)
    assert results(output) == undisturbed


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_a_bigger_one_finishes_the_run(crawl, small_disk):
    output = small_disk / "run"
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (2**21 - 60_000))
    more = [*SETTINGS, "--in-process", "--quiet"]
    stopped = subprocess.run(command(crawl, output, *more), capture_output=True, text=True)
    assert stopped.returncode == 1
    assert "no space left" in stopped.stderr
    assert stopped.stderr.strip().count("\n") == 0
    assert not [file for file in output.rglob("*.parquet") if file.stat().st_size == 0]
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    finished = subprocess.run(command(crawl, output, *more), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
