"""How tests look at curation runs."""

import hashlib
from pathlib import Path

import orjson
import pyarrow.dataset as ds

CLOCKED = ("ledger/", "events.jsonl", "run.json", ".lock", ".tmp")  # where seconds and dates may stand


def results(run: Path) -> dict[str, str]:
    """Hash of every file that a run produced, by name; what may hold a clock is left out."""
    files = (file for file in sorted(run.rglob("*")) if file.is_file())
    named = ((str(file.relative_to(run)), file) for file in files)
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in named if not name.startswith(CLOCKED)}


def rows(run: Path, output: str, columns: list[str] | None = None) -> list[dict]:
    """All rows of `documents`, `failures`, `decisions` or `corpus`."""
    return ds.dataset(run / output, format="parquet").to_table(columns=columns).to_pylist()


def stats(run: Path) -> dict:
    return orjson.loads((run / "stats.json").read_bytes())
