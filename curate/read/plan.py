"""From what the user names to units of work: finds the files, tells their kinds, names them, cuts and groups them."""

import bisect
import contextlib
import glob
import hashlib
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import orjson
from fsspec.core import url_to_fs

from tilth.errors import InputError, StorageError
from tilth.storage import open_input

from .html import begins_page
from .options import Kind, ReadOptions
from .records import plain_places
from .stream import compression, pieces
from .unit import InputFile, InputUnit

_KINDS: dict[str, Kind] = {
    ".warc": "warc",
    ".wet": "wet",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".xht": "html",
    ".shtml": "html",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_PLAIN = ("text", "lines")
_UNREADABLE = {
    ".arc": "ARC is not read; turn it into WARC first (warcio recompress)",
    ".wat": "WAT holds metadata and no pages; give the WARC or WET files",
}
_COMPRESSED = re.compile(r"\.(gz|zst|zstd)$")
_UNKNOWN = "neither WARC, WET, HTML, JSONL, Parquet nor .txt by its name or its first bytes; set read.kind if it is one"


class Plan(NamedTuple):
    """The work, and the files of folders that are no part of it."""

    units: list[InputUnit]
    passed_over: list[str]  # paths, sorted


class _Found(NamedTuple):
    path: str  # local, or an fsspec URL
    parts: tuple[str, ...]  # of the path
    depth: int  # how many of the last parts name it
    size: int


def list_units(inputs: Sequence[str], options: ReadOptions) -> list[InputUnit]:
    """The units of `plan`."""
    return plan(inputs, options).units


def plan(inputs: Sequence[str], options: ReadOptions, output: str = "", plain_text: bool = False) -> Plan:
    """Units of all inputs (files, folders, globs, local or any fsspec URL), sorted by name and start.

    Raises InputError for an input that is missing or empty, a file of no known kind, and a folder without any file
    that can be read. Other files of a folder that are empty, hidden or of no known kind are passed over, and so is its
    plain text unless `plain_text` is wanted: in a crawl it is what lies beside the pages. What stands in the folder
    `output`, where the run is written, is no input.
    """
    if not inputs:
        raise InputError("no input: name at least one file, folder, glob or URL")
    found: dict[str, tuple[_Found, Kind]] = {}
    passed_over: list[str] = []
    for place in inputs:
        if not place.strip():
            raise InputError("an input's name is empty")
        readable = 0
        given, files = files_at(place)
        for file in files:
            if output and os.path.abspath(file.path).startswith(f"{output}/"):
                continue
            kind, trouble = _kind_of(file, options, given)
            if kind in _PLAIN and not (given or plain_text or options.kind in _PLAIN):
                kind = None
            if kind is None:
                if given:
                    raise InputError(f"{file.path}: {trouble}")
                passed_over.append(_utf8(file.path))
                continue
            readable += 1
            if file.path not in found or found[file.path][0].depth < file.depth:
                found[file.path] = file, kind
        if not readable:
            others = f"; passed over {len(passed_over)} files, such as {passed_over[0]}" if passed_over else ""
            raise InputError(f"{place}: no file in it can be read{others}")
    names = _names([file for file, _ in found.values()])
    named = sorted(InputFile(names[path], path, file.size, kind) for path, (file, kind) in found.items())
    units = sorted(_units(named, options), key=lambda unit: (unit.name, unit.start))
    assert len({unit.key for unit in units}) == len(units), "two units would write the same files"
    return Plan(units, sorted(passed_over))


def files_at(place: str) -> tuple[bool, list[_Found]]:
    """The files that an input stands for, and whether it names files rather than a folder."""
    try:
        system, root = url_to_fs(place)
        filesystem: Any = system
        filesystem.invalidate_cache()
        local = "://" not in place
        if filesystem.isdir(root):
            given, entries = False, _walk(root) if local else filesystem.find(root, detail=True)
        elif filesystem.exists(root):
            given, entries = True, {root: filesystem.info(root)}
        elif glob.has_magic(place):
            given, entries = True, filesystem.glob(root, detail=True)
            entries = {path: entry for path, entry in entries.items() if entry["type"] == "file"}
        else:
            raise InputError(f"{place}: no such file or folder")
    except ImportError as error:
        raise InputError(f"{place}: {error}; install it beside tilth, for S3 with pip install 'tilth[s3]'") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: cannot be listed ({str(error) or type(error).__name__})") from error
    if not entries:
        raise InputError(f"{place}: " + ("matches no file" if given else "an empty folder"))
    above = len(_parts(root)) - 1
    files = []
    for path, entry in entries.items():
        parts = _parts(path)
        depth = 1 if given else len(parts) - above
        files.append(_Found(path if local else filesystem.unstrip_protocol(path), parts, depth, entry["size"] or 0))
    return given, sorted(files)


def _walk(root: str) -> dict[str, Any]:
    """Every file below a local folder, with its size. Raises OSError for a folder that cannot be read, where fsspec's
    own listing says nothing; links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise error

    found = {}
    for folder, _, names in os.walk(root, onerror=refuse):
        for path in (os.path.join(folder, name) for name in names):
            if os.path.isfile(path):
                found[path] = {"size": os.path.getsize(path)}
    return found


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in _utf8(path).split("/") if part)


def _utf8(path: str) -> str:
    """A path as it can be told and written down: the system may know it by bytes that are not UTF-8. Those are escaped,
    and backslashes too, so that no two paths become one."""
    return path.replace("\\", r"\\").encode("utf-8", "backslashreplace").decode()


def _kind_of(file: _Found, options: ReadOptions, given: bool) -> tuple[Kind | None, str]:
    """The file's kind, or None and why it has none."""
    if not file.size:
        return None, "the file is empty"
    if "://" not in file.path and not os.access(file.path, os.R_OK):
        raise InputError(f"{file.path}: permission denied")
    if given and options.kind != "auto":
        return options.kind, ""
    if not given and any(part.startswith(".") for part in file.parts[-file.depth :][1:]):
        return None, "hidden"
    name = _COMPRESSED.sub("", file.parts[-1].lower())
    suffix = name[name.rfind(".") :] if "." in name else ""
    kind, trouble = _KINDS.get(suffix), _UNREADABLE.get(suffix, "")
    if kind is None and not trouble:
        kind, trouble = _sniffed(_head(file.path))
    if trouble == _UNKNOWN and suffix == ".txt":  # unless its first bytes tell something else
        kind = "text"
    if options.kind == "wet" and kind == "warc":
        kind = "wet"
    if options.kind == "lines" and kind == "text":
        kind = "lines"
    if options.kind not in ("auto", kind) and {options.kind, kind} != {"warc", "wet"}:
        return None, "of another kind than read.kind"
    return kind, trouble


def _head(path: str) -> bytes:
    """The first bytes of a file's content."""
    with _readable(path), open_input(path) as file:
        head = file.read(16384)
        codec = compression(head)
        if codec:
            piece = next(pieces(file, codec, 0, 1), None)
            head = piece.data[:16384] if piece else b""
        return head


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, StorageError, zlib.error) as error:
        raise InputError(str(error) if path in str(error) else f"{path}: {error}") from error


def _sniffed(head: bytes) -> tuple[Kind | None, str]:
    if head.startswith(b"WARC/"):
        return "warc", ""
    if head.startswith(b"PAR1"):
        return "parquet", ""
    if head.startswith(b"filedesc://"):
        return None, _UNREADABLE[".arc"]
    if begins_page(head):
        return "html", ""
    first = head.lstrip().split(b"\n")[0]
    if first.startswith(b"{"):
        try:
            orjson.loads(first)
            return "jsonl", ""
        except orjson.JSONDecodeError:
            if len(first) == len(head.lstrip()) > 8000:
                return "jsonl", ""  # a first line longer than what was looked at
    return None, _UNKNOWN


def _names(files: list[_Found]) -> dict[str, str]:
    """Each file's name within the run, by path: as short as its input makes it, with parents where two would agree."""
    depths = {file.path: file.depth for file in files}
    while True:
        names = {file.path: "/".join(file.parts[-depths[file.path] :]) for file in files}
        taken = Counter(names.values())
        short = [f for f in files if taken[names[f.path]] > 1 and depths[f.path] < len(f.parts)]
        if not short:
            return {path: name if taken[name] == 1 else _utf8(path) for path, name in names.items()}
        for file in short:
            depths[file.path] += 1


def _units(files: list[InputFile], options: ReadOptions) -> Iterator[InputUnit]:
    loose = []
    for file in files:
        if file.kind == "html":
            loose.append(file)
        elif file.kind == "parquet":
            yield from _row_group_units(file, options)
        else:
            places = _cuts(file, options.unit_bytes)
            for start, end in zip(places, [*places[1:], file.size], strict=True):
                yield _unit(file, start, end, end - start)
    yield from _page_units(loose, options.unit_bytes)


def _unit(file: InputFile, start: int, end: int, size: int, files: tuple[InputFile, ...] = ()) -> InputUnit:
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", file.name)[-60:].lstrip(".-")
    digest = hashlib.blake2b("\0".join([file.name, *(f.name for f in files)]).encode(), digest_size=6)
    key = f"{readable}-{start:012d}-{digest.hexdigest()}"
    return InputUnit(key, file.name, file.path, file.kind, start, end, size, files)


def _cuts(file: InputFile, unit_bytes: int) -> list[int]:
    """Where the file's units begin. Compressed WARC files are cut anywhere: a unit finds its first record itself. In a
    plain one it could not, as a payload may be a WARC file too, so the plan goes from record to record."""
    count = -(-file.size // unit_bytes)
    if count == 1:
        return [0]
    even = [part * file.size // count for part in range(count)]
    compressed = bool(_COMPRESSED.search(file.name.lower()))
    if file.kind in ("jsonl", *_PLAIN):
        return [0] if compressed else even
    if compressed:
        return even
    with _readable(file.path), open_input(file.path) as opened:
        if compression(opened.read(8)):
            return even
        return _at_records(even, plain_places(opened))


def _at_records(even: Iterable[int], records: list[int]) -> list[int]:
    """The first record at or after each place."""
    at = (bisect.bisect_left(records, place) for place in even)
    return [0, *sorted({records[index] for index in at if 0 < index < len(records)} - {0})]


def _row_group_units(file: InputFile, options: ReadOptions) -> Iterator[InputUnit]:
    from .table import row_groups  # pyarrow's readers are slow to import

    start, size = 0, 0
    with _readable(file.path):
        sizes = row_groups(file, options)
    for group, group_size in enumerate(sizes, 1):
        size += group_size
        if size >= options.unit_bytes or group == len(sizes):
            yield _unit(file, start, group, size)
            start, size = group, 0


def _page_units(files: list[InputFile], unit_bytes: int) -> Iterator[InputUnit]:
    """Loose pages, as many together as make a unit."""
    group: list[InputFile] = []
    size = 0
    for file in files:
        if group and size + file.size > unit_bytes:
            yield _unit(group[0], 0, len(group), size, tuple(group))
            group, size = [], 0
        group.append(file)
        size += file.size
    if group:
        yield _unit(group[0], 0, len(group), size, tuple(group))
