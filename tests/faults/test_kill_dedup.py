"""kill -9 in every pass that finds duplicates: the run that goes on ends as one that was never stopped."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import results
from test_dedup import EVERYTHING, corpus, written

SCRIPT = Path(__file__).parent / "stopped.py"
FINDING = ("keys", "copies", "bands", "edges"), ("contract", "small", "large", "spread", "write"), ("gather", "verify")
CHOOSING = "addresses", "addressed", "members", "chosen", "anchors", "anchored", "passages", "repeats", "duplicates"
PASSES = ["read", *FINDING[0], *FINDING[1], *FINDING[2]]
PASSES += [f"forget:{name}" for name in ("dedup-bands", "dedup-gather", "components")]
PASSES += [*CHOOSING[:4], "forget:dedup-members", *CHOOSING[4:-1], "forget:dedup-passages", CHOOSING[-1]]
PASSES += ["decide", "deal", "corpus", "forget:deal"]


def stopped(given: Path, output: Path, where: str) -> int:
    command = [sys.executable, str(SCRIPT), str(given), str(output), where, *EVERYTHING, "read.unit_bytes=20000"]
    return subprocess.run(command, capture_output=True, text=True).returncode


@pytest.mark.slow
def test_a_run_killed_in_every_pass_ends_as_one_that_was_not(tmp_path):
    given = written(tmp_path / "in" / "rows.jsonl", corpus(120))
    assert stopped(given, tmp_path / "whole", "none") == 0
    killed = [name for name in PASSES if stopped(given, tmp_path / "run", name) == -signal.SIGKILL]
    assert killed == PASSES
    assert stopped(given, tmp_path / "run", "none") == 0
    assert results(tmp_path / "run") == results(tmp_path / "whole")
