"""Writes tensors that are split over ranks in Megatron-core's checkpoint format (torch_dist), and hashes the bytes.

The format is torch's distributed checkpoint, and torch's own writer does the writing: in this thread or another, with
no helper process. Megatron-core's would start three for each checkpoint, which takes seconds and forks a process that
has threads and a GPU.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import orjson
import torch
from megatron.core.dist_checkpointing.core import CONFIG_FNAME, CheckpointingConfig
from megatron.core.dist_checkpointing.mapping import ShardedBase, ShardedTensor, is_main_replica
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME
from megatron.core.dist_checkpointing.strategies.torch import MCoreSavePlanner, mcore_to_pyt_state_dict
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter, _StoragePrefix
from torch.distributed.checkpoint.storage import WriteResult

from . import device

Hashes = dict[str, dict[str, Any]]  # bytes and sha256 of each file, by name


class ShardsWriter:
    """One rank's share of a checkpoint: planned with the other ranks (`plan`, `agree`), then written by itself."""

    def __init__(self, parts: Mapping[str, Sequence[ShardedBase]], folder: Path, rank: int, copy: bool):
        """With `copy` what is written is the tensors as they are now, however late that is; without, they must stay."""
        mine = {key: [each for each in some if is_main_replica(each.replica_id)] for key, some in parts.items()}
        mine = {key: [_copied(each) for each in some] if copy else some for key, some in mine.items() if some}
        if copy:
            device.synchronize()
        self._planner = MCoreSavePlanner(flatten_state_dict=False)
        self._planner.set_up_planner(mcore_to_pyt_state_dict(mine), is_coordinator=rank == 0)  # pyright: ignore[reportArgumentType]
        self.plan = self._planner.create_local_plan()
        self._prefix = _StoragePrefix(f"__{rank}_")
        self._files = _HashedFiles()
        self._writer = FileSystemWriter(folder, per_thread_copy_ahead=0 if copy else 10_000_000)
        self._writer.fs = self._files
        self._metadata: Any = None

    def agree(self, plans: list[Any]) -> None:
        """Rank 0 sees that all ranks' plans together cover every tensor once."""
        self._metadata = self._planner.create_global_plan(plans)[1]

    def write(self) -> list[WriteResult]:
        """Writes this rank's file, down to the disk; on rank 0, `finish` wants the results of all."""
        plan = self._planner.finish_plan(replace(self.plan, storage_data=self._prefix))
        if not plan.items:
            return []
        with self._files.explained():
            return self._writer.write_data(plan, self._planner).value()

    def finish(self, results: list[list[WriteResult]], common: dict[str, Any]) -> None:
        """Rank 0 writes what makes a checkpoint of the files: where each tensor is, and what belongs to no tensor."""
        with self._files.explained():
            self._writer.finish(self._metadata, results)
        buffer = io.BytesIO()
        torch.save(common, buffer)
        self.put(COMMON_STATE_FNAME, buffer.getvalue())
        self.put(CONFIG_FNAME, orjson.dumps(asdict(CheckpointingConfig("torch_dist", 1))))

    def put(self, name: str, data: bytes) -> None:
        """Writes a file of its own, down to the disk."""
        with self._files.create_stream(Path(self._writer.path, name), "wb") as file:
            file.write(data)
            os.fsync(file.fileno())

    @property
    def hashes(self) -> Hashes:
        """Of every file that was written here."""
        return self._files.hashes


def _copied(part: ShardedBase) -> ShardedBase:
    """The part in main memory of its own."""
    if not isinstance(part, ShardedTensor):
        return part
    data = part.data
    assert data is not None
    copy = torch.empty(data.shape, dtype=data.dtype, pin_memory=device.on_cuda())
    return replace(part, data=copy.copy_(data, non_blocking=True))


class _HashedFiles(FileSystem):
    """torch's way to files, which also knows the SHA-256 of the bytes that it was given: what the disk did with them
    shows when they are read."""

    def __init__(self) -> None:
        self.hashes: Hashes = {}
        self._error: OSError | None = None

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        with open(path, mode) as file:
            hashed = _HashedFile(file, self._failed)
            yield hashed
            hashed.flush()
        self.hashes[Path(path).name] = {"bytes": hashed.size, "sha256": hashed.digest.hexdigest()}

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        super().rename(path, new_path)
        self.hashes[Path(new_path).name] = self.hashes.pop(Path(path).name)

    def _failed(self, error: OSError) -> None:
        self._error = error

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """torch says of a full disk that an enforcement failed; this raises what the system said."""
        try:
            yield
        except RuntimeError as error:
            if self._error:
                raise self._error from error
            raise


class _HashedFile:
    """A file that is written from its beginning to its end."""

    def __init__(self, file: IO[bytes], failed: Any):
        self._file, self._failed = file, failed
        self.digest, self.size = hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        with self._watched():
            self._file.write(data)
        self.digest.update(data)
        size = memoryview(data).nbytes
        self.size += size
        return size

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        if not self._file.closed:
            with self._watched():
                self._file.flush()

    def fileno(self) -> int:
        self.flush()  # torch syncs by this number, and not always flushes before
        return self._file.fileno()

    def close(self) -> None:
        self.flush()
        self._file.close()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failed(error)
            raise
