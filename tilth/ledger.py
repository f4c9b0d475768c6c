"""What has been done in a run directory: one small record for each unit, written last.

A unit is done when its record stands. Whatever else a pass left behind is litter of a run that was stopped, and is
cleared before work begins again.
"""

from collections.abc import Iterable, Mapping
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
        names = self.folder.names(f"ledger/{self.name}")
        return {
            name.removesuffix(".json"): orjson.loads(self.folder.read(f"ledger/{self.name}/{name}"))
            for name in names
            if name.endswith(".json")
        }

    def serve(self, depends_on: str) -> None:
        """Forgets the pass where it was done for something else; `depends_on` is any text that names what it is for."""
        place = f"ledger/{self.name}.depends"
        before = self.folder.read(place).decode() if self.folder.exists(place) else ""
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

    def clear_litter(self, outputs: Iterable[str], records: Mapping[str, Record]) -> None:
        """Removes what stands in the pass's output folders without a record, and every unfinished part."""
        known = {file["name"] for record in records.values() for file in record["files"]}
        for output in outputs:
            for name in self.folder.names(output):
                if f"{output}/{name}" not in known:
                    self.folder.delete(f"{output}/{name}")
        if self.folder.local:
            self.folder.delete(SCRATCH)


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
