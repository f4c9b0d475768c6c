"""The run directory: `run.json` says what made it, and another request is refused, with the difference shown."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import orjson

from tilth.errors import DirectoryConflict
from tilth.storage import SCRATCH, Folder

MANIFEST = "run.json"
SPEAKING = ("ledger", "stats.json")  # what says that work is done


def refuse_foreign(folder: Folder) -> None:
    """Raises DirectoryConflict for a folder that holds files and no run of tilth; touches nothing."""
    if not folder.exists(MANIFEST) and set(folder.top()) - {".lock", SCRATCH}:
        raise DirectoryConflict(f"{folder.url}: not empty, and not a run of tilth; choose another --output")


def claim(folder: Folder, command: str, request: Mapping[str, Any], name: str, advice: str) -> None:
    """Makes the folder this request's run directory, or finds that it is already; `name` is what the recipe is called.

    Raises DirectoryConflict where it belongs to another request, with `advice`, or holds files of somebody else.
    """
    if folder.exists(MANIFEST):
        manifest = read(folder)
        if manifest["command"] != command:
            raise DirectoryConflict(f"{folder.url}: holds a run of `{manifest['command']}`; choose another --output")
        differences = list(_differences(manifest["request"], orjson.loads(orjson.dumps(request))))
        if differences:
            more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
            raise DirectoryConflict(f"{folder.url}: holds another run: {differences[0]}{more}; {advice}")
    else:
        refuse_foreign(folder)
        write(folder, command, request, name)


def read(folder: Folder) -> dict[str, Any]:
    """The manifest: tilth (version), command, name, created, request."""
    if not folder.exists(MANIFEST):
        raise DirectoryConflict(f"{folder.url}: no run of tilth is there (no {MANIFEST})")
    try:
        manifest = orjson.loads(folder.read(MANIFEST))
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or not {"command", "request"} <= manifest.keys():
        raise DirectoryConflict(f"{folder.url}/{MANIFEST}: not readable; choose another directory")
    return {"name": "", **manifest}


def write(folder: Folder, command: str, request: Mapping[str, Any], name: str) -> None:
    manifest = {
        "tilth": version(),
        "command": command,
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "request": request,
    }
    folder.write(MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))


def start_over(folder: Folder, command: str) -> None:
    """Empties the run directory of an earlier run of the same command; leaves any other folder as it is.

    What speaks for others goes first: a stop in between leaves files that nothing speaks for, never the reverse.
    """
    if folder.exists(MANIFEST) and read(folder)["command"] == command:
        for name in sorted(set(folder.top()) - {MANIFEST, ".lock"}, key=lambda name: (name not in SPEAKING, name)):
            folder.delete(name)
        folder.delete(MANIFEST)


def version() -> str:
    return metadata.version("tilth")


def _differences(here: Any, asked: Any, path: str = "") -> Iterator[str]:
    if isinstance(here, Mapping) and isinstance(asked, Mapping):
        for key in [*here, *(key for key in asked if key not in here)]:
            yield from _differences(here.get(key), asked.get(key), f"{path}.{key}" if path else key)
    elif here != asked:
        yield f"{path} is {_short(here)} there, {_short(asked)} asked"


def _short(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."
