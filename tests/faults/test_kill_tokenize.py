"""kill -9 in every pass and between any two files of a training: the same command then ends as if nothing had been.

The test runs this file: `python test_kill_tokenize.py INPUT OUTPUT MOMENT`. The training dies, as by kill -9, at the
worst moment of a pass ("count", "merge", "score"), when a unit's files have their names and its record is not written;
with "before:NAME" when a file of that name was about to appear, with "delete:NAME" when one was about to go, with
"none" not at all.
"""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

MOMENTS = ["before:run.json", "count", "merge", "delete:dealt", "before:tokenizer.json", "score", "before:stats.json"]
SPEED = "megabytes_per_second"


def main() -> None:
    from tilth.ledger import Ledger
    from tilth.progress import Progress
    from tilth.recipe import load_recipe
    from tilth.storage import Folder
    from tilth.tokenize import train as room
    from tilth.tokenize.recipe import PACKAGE, TokenizerRecipe
    from tilth.work import WorkOptions

    given, output, moment = sys.argv[1:]
    record, adopt, delete = Ledger.record, Folder.adopt, Folder.delete
    room.PARTITION_BYTES = 20_000  # so that every pass has several units

    def stopped_record(ledger: Ledger, key: str, values: dict) -> None:
        if ledger.name == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        record(ledger, key, values)

    def stopped_adopt(folder: Folder, part: Path, name: str) -> None:
        if moment == f"before:{name}":
            os.kill(os.getpid(), signal.SIGKILL)
        adopt(folder, part, name)

    def stopped_delete(folder: Folder, name: str) -> None:
        if moment == f"delete:{name}":
            os.kill(os.getpid(), signal.SIGKILL)
        delete(folder, name)

    Ledger.record, Folder.adopt, Folder.delete = stopped_record, stopped_adopt, stopped_delete
    settings = ["vocab_size=400", "read.unit_bytes=9000", "read.kind=lines"]
    recipe = load_recipe(TokenizerRecipe, "byte-bpe", PACKAGE, settings)
    work = WorkOptions(in_process=True)
    room.train([given], Folder(output), "byte-bpe", recipe, work, Progress(quiet=True), sample=30_000)


def stopped(given: Path, output: Path, moment: str) -> int:
    command = [sys.executable, __file__, str(given), str(output), moment]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode in (0, -signal.SIGKILL), finished.stderr
    return finished.returncode


def results(output: Path) -> dict[str, Any]:
    """Every file that a training makes; of the score cards what no clock tells."""
    found: dict[str, Any] = {}
    for file in sorted(output.rglob("*")):
        name = str(file.relative_to(output))
        if file.is_file() and not name.startswith(("ledger/", "run.json", ".lock", "report.html")):
            found[name] = file.read_bytes()
    for name in ("scorecard.json", "stats.json"):
        found[name] = without_speed(orjson.loads(found[name]))
    return found


def without_speed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_speed(inner) for key, inner in value.items() if key != SPEED}
    return [without_speed(inner) for inner in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def lines(tmp_path_factory) -> Path:
    chance = random.Random(3)
    words = ["".join(chance.choices("aeioustrnlmdkp", k=chance.randint(2, 7))) for _ in range(300)]
    file = tmp_path_factory.mktemp("kill") / "lines.txt"
    file.write_text("".join(" ".join(chance.choices(words, k=9)) + "\n" for _ in range(1200)))
    return file


@pytest.mark.slow
def test_a_training_killed_at_any_moment_ends_as_one_that_was_not(lines, tmp_path):
    whole, run = tmp_path / "whole" / "tok", tmp_path / "run" / "tok"
    assert stopped(lines, whole, "none") == 0
    killed = [moment for moment in MOMENTS if stopped(lines, run, moment) == -signal.SIGKILL]
    assert killed == MOMENTS
    assert stopped(lines, run, "none") == 0
    assert results(run) == results(whole)
    assert len([name for name in results(run) if name.startswith("counts/")]) > 2


if __name__ == "__main__":
    main()
