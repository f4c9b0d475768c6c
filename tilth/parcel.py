"""What travels with a command that runs elsewhere: the files that it names, and the code that runs here.

The code is the wheel of what is checked out, or the installed files. Data does not travel: it must be visible there.
"""

import importlib.metadata
import itertools
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from tilth.errors import TilthError, UsageError

SENT_SUFFIXES = (".yaml", ".yml", ".json")
SENT_LIMIT = 10 * 2**20  # bytes
DATA_OPTIONS = ("--input", "--output", "--data")


class Parcel(NamedTuple):
    """A command as the job runs it, and the files that go with it."""

    command: list[str]
    files: dict[str, Path]  # path in the job's folder -> local file


def parcel(command: Sequence[str], files: Sequence[Path] = (), here: Path | None = None) -> Parcel:
    """What `command` becomes in a job's folder, given that it was written in the folder `here`.

    An argument (or what follows `=` in it) that names a .yaml, .yml or .json file of at most 10 MB is sent with the
    job, and so are the small files that such a YAML file names by relative paths, and `files`. Values of --input,
    --output and --data are never sent: relative ones become absolute, for the job runs in another folder. So do other
    paths that exist here.

    Raises UsageError for an empty command and for a member of `files` that is not a file.
    """
    here = Path(os.path.abspath(here or Path.cwd()))
    if not command:
        raise UsageError(
            "no command to submit; for instance: tilth submit -- tilth curate run --input s3://... --output ..."
        )
    sent: dict[str, Path] = {}
    for file in files:
        if not (here / file).is_file():
            raise UsageError(f"--file {file}: no such file")
        _send(here / file, here, sent)
    chosen = set(sent.values())

    def moved(value: str, option: str) -> str:
        path = Path(os.path.abspath(here / value)) if "\0" not in value else here
        if option in DATA_OPTIONS:
            return value if "://" in value else str(path)
        if path in chosen or (path.suffix.lower() in SENT_SUFFIXES and _is_small(path)):
            return _send(path, here, sent)
        # A bare word that is also a folder here may well be something else: the name of a recipe, of a model.
        if os.path.isfile(path) or ("/" in value and os.path.exists(path)):
            return str(path)
        return value

    arguments = list(command[:1])
    for option, argument in itertools.pairwise(command):
        head, equals, value = argument.partition("=")
        whole = not equals or os.path.exists(here / argument)
        arguments.append(moved(argument, option) if whole else f"{head}={moved(value, head)}")
    if "/" in arguments[0]:
        arguments[0] = moved(arguments[0], "")
    return Parcel(arguments, sent)


def entrypoint(command: Sequence[str]) -> str:
    """The command as one line for a shell, `tilth` as a module: a node need not have the script on its PATH.

    The `python` on a node's PATH must be the one that runs Ray there.
    """
    if command[0] == "tilth":
        command = ["python", "-m", "tilth.cli.main", *command[1:]]
    return shlex.join(command)


def pack_code(folder: Path) -> list[Path]:
    """The running tilth as folders to put on a path: the contents of its wheel.

    The wheel is built from the source tree when there is one (an editable install); otherwise the installed files are
    taken. It is sent unpacked because Ray installs wheels by `pip install --target`, which fetches all their
    dependencies once more, Ray among them (ray-project/ray issue 27624).

    Raises TilthError when the wheel cannot be built.
    """
    root = Path(__file__).resolve().parents[1]
    code = folder / "code"
    if (root / "pyproject.toml").is_file():
        with zipfile.ZipFile(build_wheel(root, folder)) as wheel:
            wheel.extractall(code)
    else:
        for part in (root / "tilth", *root.glob("tilth-*.dist-info")):
            shutil.copytree(part, code / part.name, ignore=shutil.ignore_patterns("__pycache__"))
    return sorted(code.iterdir())


def build_wheel(root: Path, folder: Path) -> Path:
    """The wheel of the source tree `root`, built in `folder`; the tree is left as it is. Raises TilthError."""
    # What setuptools leaves in ./build would return in the next wheel, deleted modules included.
    settings = folder / "setuptools.cfg"
    settings.write_text(
        f"[build]\nbuild_base = {folder / 'build'}\n[egg_info]\negg_base = {folder}\n", encoding="utf-8"
    )
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(root)]
    if _has_build_requirements(root):
        command.insert(4, "--no-build-isolation")  # nothing to fetch
    done = subprocess.run(
        command, env=os.environ | {"DIST_EXTRA_CONFIG": str(settings)}, capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("tilth-*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr or done.stdout).strip().splitlines() or ["pip said nothing"]
        raise TilthError(f"the wheel of {root} could not be built: {reason[-1].strip()} (try: {shlex.join(command)})")
    return wheels[0]


def pinned_requirements(code: Sequence[Path]) -> list[str]:
    """The requirements of the packed code at the versions installed here; extras only where they are installed.

    Ray is left out: a job runs on the Ray of its cluster.
    """
    from packaging.requirements import Requirement

    info = next(part for part in code if part.suffix == ".dist-info")
    distribution = importlib.metadata.Distribution.at(info)
    extras = [extra for extra in distribution.metadata.get_all("Provides-Extra") or [] if extra != "dev"]
    pinned = set()
    for requirement in map(Requirement, distribution.requires or []):
        wanted = requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in ["", *extras])
        if not wanted or requirement.name == "ray":
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        names = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        pinned.add(f"{requirement.name}{names}=={version}")
    return sorted(pinned)


def _send(path: Path, here: Path, sent: dict[str, Path]) -> str:
    """Adds a file, and those that it names if it is YAML, to what is sent; returns its path in the job's folder.

    Files below `here` keep their relative path and others their absolute one below `elsewhere`, so that files which
    name each other by relative paths still find each other.
    """
    path = Path(os.path.abspath(path))
    name = str(path.relative_to(here) if path.is_relative_to(here) else Path("elsewhere", *path.parts[1:]))
    if name in sent:
        return name
    sent[name] = path
    if path.suffix.lower() in (".yaml", ".yml") and _is_small(path):
        for text in _strings(_read_yaml(path)):
            for folder in (path.parent, here):
                if "\0" not in text and not os.path.isabs(text) and _is_small(folder / text):
                    _send(folder / text, here, sent)
    return name


def _read_yaml(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None  # the command that reads it says what is wrong with it


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _is_small(path: Path) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) <= SENT_LIMIT


def _has_build_requirements(root: Path) -> bool:
    """Whether what pyproject.toml needs for a build is installed here, so that pip need not fetch it."""
    from packaging.requirements import Requirement

    with open(root / "pyproject.toml", "rb") as file:
        needed = tomllib.load(file)["build-system"]["requires"]
    try:
        return all(
            importlib.metadata.version(requirement.name) in requirement.specifier
            for requirement in map(Requirement, needed)
        )
    except importlib.metadata.PackageNotFoundError:
        return False
