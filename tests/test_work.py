"""Units are done whole or not at all, whatever happens to those who do them."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest

from tilth.errors import ModelError, StorageError
from tilth.ledger import Ledger, total
from tilth.progress import Progress
from tilth.storage import Folder
from tilth.work import Engine, Outbox, Unit, WorkOptions


class Writer:
    """Writes its payload; some payloads go wrong, once or always."""

    def __init__(self, notes: Path):
        self.notes = notes

    def __call__(self, payload: str, outbox: Outbox):
        kind, _, text = payload.partition(":")
        first = self._first(payload)
        outbox.file("out", 1, ".txt").write_text(text)
        if kind == "raise" or (kind == "raise-once" and first):
            raise ValueError("a poisoned unit")
        if kind == "die" or (kind == "die-once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "hang" or (kind == "hang-once" and first):
            time.sleep(60)
        if kind == "wrong-request":
            raise ModelError("x.bin: not a model")
        return {"letters": len(text), "by": {kind: 1}}

    def _first(self, payload: str) -> bool:
        place = self.notes / payload.replace(":", "-")
        place.parent.mkdir(exist_ok=True)
        with open(place, "a") as file:
            file.write("x")
        return place.stat().st_size == 1

    def tries(self, payload: str) -> int:
        place = self.notes / payload.replace(":", "-")
        return place.stat().st_size if place.exists() else 0


@pytest.fixture
def writer(tmp_path):
    return Writer(tmp_path / "notes")


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "run")


def work(folder, writer, payloads, in_process=False, timeout=30.0, **options):
    units = [Unit(payload.replace(":", "-"), payload, len(payload)) for payload in payloads]
    with Engine(WorkOptions(in_process=in_process, unit_timeout=timeout, workers=2), Progress(folder, True)) as engine:
        return engine.run("pass", units, partial(Writer, writer.notes), folder, ["out"], **options)


BOTH = pytest.mark.parametrize("in_process", [True, False], ids=["in process", "ray"])


@BOTH
def test_each_unit_becomes_its_file_and_its_record(ray, folder, writer, in_process):
    outcome = work(folder, writer, ["ok:a", "ok:bb", "ok:ccc"], in_process)
    assert list(outcome.records) == ["ok-a", "ok-bb", "ok-ccc"]
    assert folder.read("out/ok-bb.txt") == b"bb"
    record = outcome.records["ok-bb"]
    assert record["files"][0]["bytes"] == 2
    assert total(one["counts"] for one in outcome.records.values()) == {"letters": 6, "by": {"ok": 3}}


@BOTH
def test_a_unit_that_is_done_is_not_done_again(ray, folder, writer, in_process):
    work(folder, writer, ["ok:a"], in_process)
    outcome = work(folder, writer, ["ok:a", "ok:b"], in_process)
    assert (writer.tries("ok:a"), writer.tries("ok:b")) == (1, 1)
    assert len(outcome.records) == 2


@BOTH
def test_a_poisoned_unit_is_tried_three_times_and_named_and_the_others_are_done(ray, folder, writer, in_process):
    outcome = work(folder, writer, ["raise:a", "ok:b", "raise-once:c"], in_process)
    assert list(outcome.failed) == ["raise-a"]
    assert "a poisoned unit" in outcome.failed["raise-a"]
    assert (writer.tries("raise:a"), writer.tries("raise-once:c")) == (3, 2)
    assert set(outcome.records) == {"ok-b", "raise-once-c"}
    assert folder.names("out") == ["ok-b.txt", "raise-once-c.txt"]


def test_a_lost_worker_is_replaced_and_its_unit_tried_again(ray, folder, writer):
    outcome = work(folder, writer, ["die-once:a", "ok:b", "die:c"])
    assert set(outcome.records) == {"die-once-a", "ok-b"}
    assert "died" in outcome.failed["die-c"]
    assert writer.tries("die:c") == 3


@BOTH
def test_a_unit_that_takes_too_long_is_stopped(ray, folder, writer, in_process):
    outcome = work(folder, writer, ["hang-once:a", "ok:b"], in_process, timeout=3.0)
    assert set(outcome.records) == {"hang-once-a", "ok-b"}


@BOTH
def test_a_wrong_request_stops_at_once(ray, folder, writer, in_process):
    with pytest.raises(ModelError, match="not a model"):
        work(folder, writer, ["wrong-request:a", "ok:b"], in_process)
    assert writer.tries("wrong-request:a") == 1


def test_litter_of_a_stopped_run_is_cleared_and_work_elsewhere_is_not(folder, writer):
    work(folder, writer, ["ok:a"], True)
    folder.write("out/half.txt", b"no record stands for this")
    folder.write("elsewhere/x.txt", b"another pass")
    work(folder, writer, ["ok:a"], True)
    assert folder.names("out") == ["ok-a.txt"]
    assert folder.exists("elsewhere/x.txt")


def test_what_was_done_for_something_else_is_done_anew(folder, writer):
    work(folder, writer, ["ok:a", "ok:b"], True, depends_on="one recipe")
    work(folder, writer, ["ok:a"], True, depends_on="one recipe")
    assert writer.tries("ok:a") == 1
    work(folder, writer, ["ok:a"], True, depends_on="another")
    assert writer.tries("ok:a") == 2
    assert folder.names("out") == ["ok-a.txt"]


def test_a_record_without_its_unit_does_not_count(folder, writer):
    work(folder, writer, ["ok:a", "ok:b"], True)
    assert list(work(folder, writer, ["ok:a"], True).records) == ["ok-a"]


def test_a_full_disk_stops_the_run_with_one_line_and_nothing_half_written(small_disk, writer):
    folder = Folder(small_disk / "run")
    with pytest.raises(StorageError, match="no space left"):
        work(folder, writer, ["ok:a", "ok:" + "b" * 3 * 2**20], True)
    assert "ok-a" in Ledger(folder, "pass").records() or not folder.names("out")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_keeps_what_is_done(tmp_path, sent):
    program = f"""
        import sys, time
        from functools import partial
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_work import Writer, work
        from tilth.storage import Folder
        from pathlib import Path
        place = Path({str(tmp_path)!r})
        work(Folder(place / "run"), Writer(place / "notes"), ["ok:aaaaaaaaa", "hang:b"], True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stderr=subprocess.PIPE, text=True)
    record = tmp_path / "run" / "ledger" / "pass" / "ok-aaaaaaaaa.json"
    deadline = time.monotonic() + 20
    while not record.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=20)
    assert "Stopped" in errors
    folder = Folder(tmp_path / "run")
    assert list(Ledger(folder, "pass").records()) == ["ok-aaaaaaaaa"]
    assert folder.names("out") == ["ok-aaaaaaaaa.txt"]


def test_signals_are_handled_as_before_when_the_work_is_done(folder, writer):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    work(folder, writer, ["ok:a"], True)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_events_tell_what_happened(folder, writer):
    import orjson

    work(folder, writer, ["ok:a", "raise:b"], True)
    events = [orjson.loads(line) for line in folder.read("events.jsonl").splitlines()]
    assert [event["event"] for event in events].count("unit") == 1
    assert any("given up" in event.get("text", "") for event in events)


def test_workers_that_died_between_two_passes_are_replaced(ray, folder, writer):
    with Engine(WorkOptions(workers=2), Progress(quiet=True)) as engine:
        for name in ("one", "two"):
            units = [Unit(f"{name}-{number}", f"fine:{name}{number}", 1) for number in range(4)]
            outcome = engine.run(name, units, partial(Writer, writer.notes), folder, [f"{name}-out"])
            assert len(outcome.records) == 4
            assert not outcome.failed
            resting = list(engine._actors)
            assert resting
            engine._actors *= 3  # more dead ones than an engine takes for an accident
            for actor in resting:
                ray.kill(actor)
