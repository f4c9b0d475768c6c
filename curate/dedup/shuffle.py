"""Rows on their way from one pass to the next: a dealing unit writes one Arrow file that holds batches for every
partition, and a partition then reads its batches of every file. What is dealt is larger than memory; what a unit holds
at once is not.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from tilth.errors import StorageError
from tilth.storage import Folder
from tilth.work import first_line

BUDGET = 64 * 2**20  # bytes that a dealer holds before it writes them
MOST_PARTITIONS = 4096  # beyond it partitions grow; g files of p batches each are read one by one


def partitions(amount: int, each: int) -> int:
    """So many partitions that one holds about `each` of an amount, at least one and at most MOST_PARTITIONS."""
    return min(max(1, -(-amount // each)), MOST_PARTITIONS)


def names(kind: str, count: int) -> list[str]:
    """Keys of the units that take a partition each."""
    return [f"{kind}-{index:05d}-of-{count:05d}" for index in range(count)]


def ranges(keys: np.ndarray, count: int) -> np.ndarray:
    """int64[n]: which of `count` equal ranges of uint64 each key lies in."""
    return ((keys >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)).astype(np.int64)


class Dealer:
    """Writes tables to one Arrow file, each row to its partition. Batch f x count + i is for partition i.

    What is `packed` takes less disk, and its batches memory when they are read.
    """

    def __init__(self, place: Path, schema: pa.Schema, count: int, packed: bool = False):
        options = pa.ipc.IpcWriteOptions(compression="lz4" if packed else None)
        self._file = pa.ipc.new_file(place, schema, options=options)
        self._schema = schema
        self._count = count
        self._tables: list[pa.Table] = []
        self._partitions: list[np.ndarray] = []
        self._size = 0
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._file.close()

    def add(self, table: pa.Table, partition: np.ndarray) -> None:
        """`partition` is int[n], where each row goes; rows of one partition keep their order."""
        self._tables.append(table.select(self._schema.names).cast(self._schema))
        self._partitions.append(partition)
        self._size += table.nbytes
        self.rows += len(table)
        if self._size > BUDGET:
            self._flush()

    def _flush(self) -> None:
        if not self._tables:
            return
        partition = np.concatenate(self._partitions)
        order = np.argsort(partition, kind="stable")
        table = pa.concat_tables(self._tables).take(order).combine_chunks()
        cuts = np.searchsorted(partition[order], np.arange(self._count + 1)).tolist()
        whole = table.to_batches()[0] if len(table) else pa.RecordBatch.from_pylist([], self._schema)
        for start, end in pairwise(cuts):
            self._file.write_batch(whole.slice(start, end - start))
        self._tables, self._partitions, self._size = [], [], 0


def dealt(folder: Folder, output: str, sources: Sequence[str], partition: int, count: int) -> list[pa.RecordBatch]:
    """The batches of one partition, in the order of `sources`, the keys of the units that dealt them.

    Local files are mapped into memory, so that only what is touched is read. Raises StorageError for a file that is
    damaged.
    """
    batches = []
    for source in sources:
        name = f"{output}/{source}.arrow"
        try:
            with _opened(folder, name) as file, pa.ipc.open_file(file) as reader:
                batches += [reader.get_batch(index) for index in range(partition, reader.num_record_batches, count)]
        except (OSError, pa.ArrowException) as error:
            advice = "delete it and give the same command again"
            raise StorageError(f"{folder.url}/{name}: cannot be read ({first_line(error)}); {advice}") from error
    return batches


def gathered(
    folder: Folder, output: str, sources: Sequence[str], partition: int, count: int, schema: pa.Schema
) -> pa.Table:
    """The same as one table."""
    return pa.Table.from_batches(dealt(folder, output, sources, partition, count), schema).combine_chunks()


def _opened(folder: Folder, name: str) -> Any:
    return pa.memory_map(folder.path(name)) if folder.local else folder.open(name)


def column(table: Any, name: str) -> np.ndarray:
    """A column of numbers without nulls as an array."""
    return table[name].to_numpy() if isinstance(table, pa.Table) else table[name].to_numpy(zero_copy_only=False)


def joined(arrays: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    """The arrays one behind the other; an empty one where there are none."""
    return np.concatenate([np.zeros(0, dtype), *arrays])
