"""Text of a row group to tokens: the work of the stream, in whatever process it is done."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.errors import StorageError
from tilth.storage import explained, open_input

from ...tokenize.fixed import around
from ...tokenize.tokenizer import load

TEXT = "text"  # the column
_HELD = 64 * 2**20  # bytes of decoded text that are held, beside the row group read last
_FOOTERS = 16  # files whose footers are held
_WAITS = (0.2, 1.0, 3.0)  # seconds before a row group is tried again


class Frame(NamedTuple):
    """Ids of the tokens around a document; None: there is none."""

    begin: int | None = None
    end: int | None = None


class Task(NamedTuple):
    """Some documents of one row group, in the order in which they are wanted."""

    path: str
    group: int
    expected: int  # rows of the group
    rows: np.ndarray  # int32, within the group


class Encoded(NamedTuple):
    """The documents of a task."""

    ids: np.ndarray  # int32, one document behind the other
    lengths: np.ndarray  # int64; a row without text has none


class Encoder:
    """Does tasks, one after the other, with the tokenizer at `place`."""

    def __init__(self, place: str, frame: Frame):
        self._tokenizer = load(place, check=False)
        self._frame = frame
        self._texts: OrderedDict[tuple[str, int], pa.Array] = OrderedDict()
        self._footers: OrderedDict[str, pq.FileMetaData] = OrderedDict()

    def warm(self) -> None:
        """Does beforehand what the first task would wait for: compiled code is loaded when it is first called."""
        self._tokenizer.encode_flat(["text"])

    def __call__(self, task: Task) -> Encoded:
        """Raises StorageError for a row group that cannot be read."""
        texts = sound(self._read(task).take(pa.array(task.rows)))
        ids, lengths = around(*self._tokenizer.encode_flat(texts), *self._frame)
        if not all(texts):
            there = np.array([bool(text) for text in texts])
            ids = ids[np.repeat(there, lengths)]
            lengths = np.where(there, lengths, 0)
        return Encoded(ids, lengths)

    def _read(self, task: Task) -> pa.Array:
        """The texts of the task's row group, which several tasks have in common."""
        key = task.path, task.group
        if key in self._texts:
            self._texts.move_to_end(key)
        else:
            self._texts[key] = tried(lambda: self._column(task), f"{task.path}: row group {task.group}")
            while len(self._texts) > 1 and sum(text.nbytes for text in self._texts.values()) > _HELD:
                self._texts.popitem(last=False)
        return self._texts[key]

    def _column(self, task: Task) -> pa.Array:
        footer = self._footers.get(task.path)
        with explained(task.path), open_input(task.path) as source, pq.ParquetFile(source, metadata=footer) as file:
            self._footers[task.path] = file.metadata
            if len(self._footers) > _FOOTERS:
                self._footers.popitem(last=False)
            column = file.read_row_group(task.group, [TEXT], use_threads=False)[TEXT]
        if len(column) != task.expected:
            raise OSError(f"has {len(column)} rows for {task.expected} when it was opened")
        return column.cast(pa.large_string()).combine_chunks()


def sound(column: Any) -> list[str]:
    """The texts of a column as `tilth tokenize encode` takes them: without NULs, and empty for one that is blank or is
    not there. Bytes that are no UTF-8 become U+FFFD."""
    try:
        texts = column.to_pylist()
    except UnicodeDecodeError:
        raw = column.cast(pa.large_binary()).to_pylist()
        texts = [text and text.decode("utf-8", "replace") for text in raw]
    return ["" if not text or text.isspace() else text.replace("\0", "") for text in texts]


def tried(read: Callable[[], pa.Array], what: str) -> pa.Array:
    """What is read, at the last of several attempts. Raises StorageError if that fails too."""
    for wait in (*_WAITS, None):
        try:
            return read()
        except (OSError, StorageError, pa.ArrowException) as error:
            if wait is None:
                reason = " ".join(str(error).split())
                advice = "restore the file, then run the same command again"
                raise StorageError(
                    f"{what} cannot be read, in {len(_WAITS) + 1} attempts ({reason}); {advice}"
                ) from error
            time.sleep(wait)
    raise AssertionError
