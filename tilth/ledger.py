"""What has been done in a run directory: one small record for each unit, written last.

A unit is done when its record stands. Whatever else a pass left behind is litter of a run that was stopped, and is
cleared before work begins again.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson

from tilth.storage import SCRATCH, Folder

Record = dict[str, Any]  # files: [{name, rows, bytes, sha256}], counts: {...}, seconds


class Ledger:
    """The records of one pass, below `ledger/<name>/` of the run directory."""

    def __init__(self, folder: Folder, name: str):
        self.folder = folder
        self.name = name

    def _place(self, key: str) -> str:
        return f"ledger/{self.name}/{key}.json"

    def record(self, key: str, record: Record) -> None:
        self.folder.write(self._place(key), orjson.dumps(record, option=orjson.OPT_SORT_KEYS))

    def records(self) -> dict[str, Record]:
        """Every unit that is done, by key, in the order of keys."""
        names = [name for name in self.folder.names(f"ledger/{self.name}") if name.endswith(".json")]
        with ThreadPoolExecutor(16) as threads:  # one by one they take a round trip each on an object store
            read = threads.map(lambda name: self._read(f"ledger/{self.name}/{name}"), names)
            found = zip(names, read, strict=True)
            return {name.removesuffix(".json"): record for name, record in found if record is not None}

    def _read(self, name: str) -> Record | None:
        """The record of that file; None where it cannot be read, for then its unit is not done."""
        try:
            record = orjson.loads(self.folder.read(name))
        except ValueError:
            return None
        return record if isinstance(record, dict) and "files" in record and "counts" in record else None

    def serve(self, depends_on: str) -> None:
        """Forgets the pass where it was done for something else; `depends_on` is any text that names what it is for."""
        place = f"ledger/{self.name}.depends"
        before = self.folder.read(place).decode(errors="replace") if self.folder.exists(place) else ""
        if before != depends_on:
            self.forget()
            self.folder.write(place, depends_on.encode())

    def forget(self) -> None:
        """Undoes the whole pass: its records go first, so that a crash in between leaves litter, not lies."""
        records = self.records()
        self.folder.delete(f"ledger/{self.name}")
        for record in records.values():
            for file in record["files"]:
                self.folder.delete(file["name"])

    def reconcile(self, outputs: Iterable[str]) -> dict[str, Record]:
        """The records that hold, after clearing what contradicts: files without a record, records without their files.

        `outputs` are the folders that only this pass writes. What an unfinished unit left goes too.
        """
        records = self.records()
        found: dict[str, int] = {}
        for output in outputs:
            found |= self.folder.sizes(output)
        for key, record in list(records.items()):
            if any(found.get(file["name"]) != file["bytes"] for file in record["files"]):
                del records[key]
                self.folder.delete(self._place(key))
        known = {file["name"] for record in records.values() for file in record["files"]}
        for name in found.keys() - known:
            self.folder.delete(name)
        if self.folder.local:
            self.folder.delete(SCRATCH)
        return records


def total(counts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums nested counts key by key: {"a": 1, "b": {"c": 2}} twice gives {"a": 2, "b": {"c": 4}}."""
    result: dict[str, Any] = {}
    for one in counts:
        for key, value in one.items():
            if isinstance(value, Mapping):
                result[key] = total([result.get(key, {}), value])
            else:
                result[key] = result.get(key, 0) + value
    return result
