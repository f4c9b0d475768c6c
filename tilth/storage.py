"""Folders, local or remote, and files that appear whole or not at all.

A run directory may be a local path or any fsspec URL (`s3://`, `gs://`, `memory://` ...). Local files are written
beside their place and renamed; object stores show an object only once it is uploaded whole, so there a plain put does.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import fsspec
from fsspec.core import url_to_fs

from tilth.errors import DirectoryConflict, NoSpaceLeft, StorageError, UsageError

SCRATCH = ".tmp"
REMOTE = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google")  # whose errors are no OSErrors


class Folder:
    """One folder that a run writes, by names relative to it. Picklable: it is nothing but its URL."""

    def __init__(self, url: str | Path):
        if not str(url).strip():
            raise UsageError("the name of the run directory is empty")
        self.url = str(url).rstrip("/") or "/"
        self._local = "://" not in self.url or self.url.startswith("file://")
        if self._local:
            self.url = os.path.abspath(self.url.removeprefix("file://"))
        try:
            self.url.encode()
            filesystem, self.root = url_to_fs(self.url)
        except (ImportError, ValueError) as error:  # UnicodeEncodeError is one
            raise StorageError(f"{self.url}: {error}") from error
        self.filesystem: Any = filesystem  # of fsspec

    def __reduce__(self):
        return Folder, (self.url,)

    @property
    def local(self) -> bool:
        return self._local

    def path(self, name: str) -> str:
        """Where the file of that name stands in its file system."""
        return f"{self.root}/{name}"

    def exists(self, name: str = "") -> bool:
        with explained(self.url):
            return self.filesystem.exists(self.path(name) if name else self.root)

    def top(self) -> list[str]:
        """Names of the files and folders that stand in the folder itself, sorted; none where there is no folder."""
        with explained(self.url):
            self.filesystem.invalidate_cache()
            if not self.filesystem.exists(self.root):
                return []
            return sorted(
                str(path).rstrip("/").rsplit("/", 1)[-1] for path in self.filesystem.ls(self.root, detail=False)
            )

    def names(self, folder: str) -> list[str]:
        """All file names below `folder`, relative to it, sorted."""
        base = self.path(folder)
        with explained(self.url):
            self.filesystem.invalidate_cache()
            if not self.filesystem.exists(base):
                return []
            found = self.filesystem.find(base)
        return sorted(str(name)[len(base) :].lstrip("/") for name in found)

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every file below `folder`, by its name relative to the whole Folder."""
        base = self.path(folder)
        with explained(self.url):
            self.filesystem.invalidate_cache()
            if not self.filesystem.exists(base):
                return {}
            found = self.filesystem.find(base, detail=True)
        return {f"{folder}/{str(name)[len(base) :].lstrip('/')}": entry["size"] for name, entry in found.items()}

    def open(self, name: str) -> IO[bytes]:
        """The file, open for reading and seeking."""
        with explained(self.path(name)):
            return self.filesystem.open(self.path(name), "rb")

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def write(self, name: str, data: bytes) -> None:
        """Puts `data` there, whole or not at all."""
        with explained(self.path(name)), self.scratch() as scratch:
            part = scratch / "part"
            part.write_bytes(data)
            self.adopt(part, name)

    def append(self, name: str, data: bytes) -> None:
        """Adds to the end of a local file; a log line, which may be torn by a crash."""
        assert self._local, "only local files can grow"
        with explained(self.path(name)):
            os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
            with open(self.path(name), "ab") as file:
                file.write(data)

    def adopt(self, part: Path, name: str) -> None:
        """Moves a finished local file (one of `scratch`) to its name in the folder."""
        with explained(self.path(name)):
            if self._local:
                with open(part, "rb") as file:
                    os.fsync(file.fileno())
                os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
                os.replace(part, self.path(name))
            else:
                self.filesystem.put_file(str(part), self.path(name))

    def delete(self, name: str) -> None:
        """Removes a file or a folder with all that is in it; what is not there is no mistake."""
        with explained(self.path(name)), contextlib.suppress(FileNotFoundError):
            self.filesystem.rm(self.path(name), recursive=True)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A local folder for unfinished parts; on the same disk as a local run, so that a rename suffices."""
        with explained(self.url):
            if self._local:
                place = Path(self.path(SCRATCH), uuid.uuid4().hex)
                place.mkdir(parents=True)
            else:
                place = Path(tempfile.mkdtemp(prefix="tilth-"))
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def lock(self) -> "Lock":
        """Held by the one command that may write here; let go by the system when that process ends, however it ends."""
        return Lock(self)


class Lock:
    def __init__(self, folder: Folder):
        self._folder = folder
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        if self._folder.local:  # object stores have no locks; there, equal work gives equal files
            with explained(self._folder.url):
                os.makedirs(self._folder.root, exist_ok=True)
                self._file = open(self._folder.path(".lock"), "ab")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self._file.close()
                raise DirectoryConflict(f"{self._folder.url}: another tilth command is at work here") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            shutil.rmtree(self._folder.path(SCRATCH), ignore_errors=True)  # whoever wrote there is done
            self._file.close()


def sha256(path: Path) -> str:
    """Hex digest of a local file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_input(url: str) -> IO[bytes]:
    """An input file, local or remote, open for reading and seeking."""
    with explained(url):
        if "://" not in url:
            return open(url, "rb")
        return fsspec.open(url, "rb").open()  # type: ignore[return-value]


@contextlib.contextmanager
def no_space_told(place: str) -> Iterator[None]:
    """Turns a full disk into a line that names the place; any other error passes as it is."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            line = "no space left; free some and run the same command again"
            raise NoSpaceLeft(f"{place}: {line}") from error
        raise


@contextlib.contextmanager
def explained(place: str) -> Iterator[None]:
    """Turns the system's refusals (no space, no permission, no such bucket) into a line that names the place."""
    try:
        with no_space_told(place):
            yield
    except FileNotFoundError as error:
        raise StorageError(f"{place}: no such file, folder or bucket") from error
    except OSError as error:
        denied = isinstance(error, PermissionError) or error.errno == errno.EROFS
        message = "permission denied" if denied else str(error) or type(error).__name__
        raise StorageError(f"{place}: {message}") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in REMOTE:
            raise
        raise StorageError(f"{place}: {' '.join(str(error).split()) or type(error).__name__}") from error
