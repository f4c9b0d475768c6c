"""Files appear whole or not at all, wherever the folder is."""

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tilth.errors import DirectoryConflict, StorageError
from tilth.storage import SCRATCH, Folder


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request, tmp_path):
    if request.param == "local":
        return Folder(tmp_path / "run")
    name = uuid.uuid4().hex
    return Folder(f"memory://{name}" if request.param == "memory" else f"{request.getfixturevalue('s3')}/{name}")


def test_what_is_written_is_read_back(folder):
    assert folder.top() == []
    folder.write("a/b.txt", b"one")
    folder.write("a/b.txt", b"two")
    assert folder.read("a/b.txt") == b"two"
    assert folder.names("a") == ["b.txt"]
    assert folder.names("") == ["a/b.txt"]
    assert folder.names("nothing") == []
    assert "a" in folder.top()


def test_a_finished_part_takes_its_name(folder):
    with folder.scratch() as scratch:
        (scratch / "part").write_bytes(b"x" * 100)
        assert not folder.exists("documents/x")
        folder.adopt(scratch / "part", "documents/x")
    assert folder.open("documents/x").read() == b"x" * 100
    assert not scratch.exists()


def test_deleting_takes_files_and_folders_and_minds_nothing_missing(folder):
    folder.write("a/b", b"1")
    folder.write("a/c/d", b"1")
    folder.delete("a/b")
    folder.delete("a/c")
    folder.delete("never/there")
    assert not folder.exists("a/b")
    assert not folder.exists("a/c/d")


def test_a_folder_travels_by_its_url(folder):
    import pickle

    folder.write("x", b"1")
    assert pickle.loads(pickle.dumps(folder)).read("x") == b"1"


def test_the_second_command_in_a_directory_is_refused(tmp_path):
    with Folder(tmp_path).lock():
        code = f"from tilth.storage import Folder\nwith Folder({str(tmp_path)!r}).lock(): pass"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert other.returncode != 0
    assert "another tilth command" in other.stderr
    with Folder(tmp_path).lock():
        pass


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(tmp_path, small_disk):
    folder = Folder(small_disk / "run")
    with pytest.raises(StorageError, match="no space left"):
        folder.write("big", b"x" * 4 * 2**20)
    assert not folder.exists("big")
    assert not list(Path(folder.path(SCRATCH)).glob("*"))


def test_no_permission_is_told_in_one_line(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"")
    with pytest.raises((StorageError, DirectoryConflict)):
        Folder(target / "below").write("x", b"1")


def test_an_unknown_protocol_is_told_in_one_line():
    with pytest.raises(StorageError, match="nosuch"):
        Folder("nosuch://bucket/run")


def test_rows_outside_the_folder_are_not_listed(tmp_path):
    (tmp_path / "run-other").mkdir()
    (tmp_path / "run-other" / "x").write_bytes(b"")
    assert Folder(tmp_path / "run").names("") == []
