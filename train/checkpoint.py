"""Checkpoints of a training run: written aside, committed by a rename, checked before they are loaded.

`checkpoints/step-00000123/` is a distributed checkpoint of Megatron-core (torch_dist: its `dist_checkpointing.load`
reads it), with the loop's `state.json` and a `manifest.json`, which has the SHA-256 of every file. The folder gets this
name last, when all of it is on the disk: what has the name is whole, the latest is the highest number, and no pointer
can lie. All ranks must see the same file system. What is in a checkpoint says `sharded`.
"""

import contextlib
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field

from tilth import storage
from tilth.errors import InputError, TilthError, UsageError
from tilth.storage import explained

if TYPE_CHECKING:
    from .grown import Growth
    from .sharded import Stored, Tensors
    from .shards_writer import ShardsWriter

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
STATE = "state.json"
COMMITTED = re.compile(r"step-(\d{8,})")
LITTER = re.compile(r"\.step-\d{8,}\.[0-9a-f]{8}")  # unfinished, or on its way out
TOLD = 4  # differences from another model's checkpoint that are named; the rest is counted


class CheckpointOptions(BaseModel):
    """When checkpoints are written, and which stay."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int | None = Field(
        default=500, ge=1, description="steps between two checkpoints (torchtitan: 500); null: only the end's"
    )
    keep_last: int = Field(default=3, ge=1, description="how many of the latest stay")
    keep_every: int | None = Field(
        default=None, ge=1, description="checkpoints of steps that are multiples of this stay for good; default: none"
    )
    verify: bool = Field(default=True, description="whether every file's SHA-256 is checked before loading")
    asynchronous: bool | None = Field(
        default=None,
        description="whether training goes on while a copy in main memory is written; default: yes on GPUs",
    )


# --- what is there: nothing here needs torch ------------------------------------------------------------------------


def steps(folder: str) -> list[int]:
    """The steps whose checkpoints stand in a run's directory, the latest last."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found = (COMMITTED.fullmatch(name) for name in os.listdir(Path(folder, FOLDER)))
        return sorted(int(match[1]) for match in found if match)
    return []


def verify(folder: str, step: int) -> list[str]:
    """What is wrong with a checkpoint's files, a line each; nothing if all are as they were written."""
    return _damage(_path(folder, step), slice(None))


def read_state(folder: str, step: int) -> dict[str, Any]:
    """The loop's state in a checkpoint. Raises InputError where there is none."""
    place = _path(folder, step) / STATE
    try:
        return orjson.loads(place.read_bytes())
    except FileNotFoundError as error:
        there = ", ".join(map(str, steps(folder))) or "none"
        raise InputError(f"{place}: there is no checkpoint of step {step}; there are: {there}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: not readable: {error}") from error


def found_at(place: str) -> tuple[str, int]:
    """The run and the step that a path names: a run's directory (its latest checkpoint), or one checkpoint in it.

    Raises InputError where no checkpoint is there.
    """
    path = Path(place).absolute()
    match = COMMITTED.fullmatch(path.name)
    if match and path.parent.name == FOLDER and path.is_dir():
        return str(path.parent.parent), int(match[1])
    found = steps(place)
    if not found:
        raise InputError(f"{place}: no checkpoint of a training run is there")
    return str(path), found[-1]


def _path(folder: str | Path, step: int) -> Path:
    return Path(folder, FOLDER, f"step-{step:08d}")


def _damage(path: Path, share: slice) -> list[str]:
    """What is wrong with a share of a checkpoint's files."""
    try:
        manifest = orjson.loads((path / MANIFEST).read_bytes())
        entries = sorted(manifest.items())[share]
    except (OSError, ValueError, AttributeError):
        return [f"{MANIFEST} is missing or not readable"]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        lines = pool.map(lambda entry: _damage_of(path / entry[0], **entry[1]), entries)
        return [line for line in lines if line]


def _damage_of(file: Path, bytes: int, sha256: str) -> str | None:
    try:
        size = file.stat().st_size
        if size != bytes:
            return f"{file.name} has {size:,} bytes; {bytes:,} were written"
        return f"{file.name} has other bytes than were written (SHA-256)" if storage.sha256(file) != sha256 else None
    except FileNotFoundError:
        return f"{file.name} is missing"
    except OSError as error:
        return f"{file.name} cannot be read: {error}"


# --- writing and reading --------------------------------------------------------------------------------------------


class _Pending(NamedTuple):
    """A checkpoint that is being written in another thread."""

    step: int
    place: Path
    writer: "ShardsWriter"
    written: Future[list[Any]] | None  # None: it is still to be written
    common: dict[str, Any]
    state: bytes


class Checkpoints:
    """A run's checkpoints. All ranks call each method, in the same order; what fails on one is raised on all."""

    def __init__(self, folder: str, options: CheckpointOptions):
        """`folder` is the run's directory. Nothing is written or cleared before the first `save`."""
        from . import device
        from .together import Together

        self.folder, self.options = folder, options
        self.together = Together()
        self._asynchronous = device.on_cuda() if options.asynchronous is None else options.asynchronous
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: _Pending | None = None
        self._cleared = False

    def save(self, step: int, chunks: Sequence[Any], optimizer: Any, state: dict[str, Any], wait: bool = False) -> None:
        """Writes a checkpoint of what was trained in `step` steps; one that is there already stays as it is.

        `state` is the loop's own, fit for JSON; that of rank 0 is kept. An asynchronous save has only copied what it
        writes when this returns, unless `wait`; `finish` commits it. Raises NoSpaceLeft or StorageError, and then
        leaves the earlier checkpoints as they were.
        """
        from . import sharded
        from .shards_writer import ShardsWriter

        self.finish()
        together = self.together
        place = together.first(together.on_first(lambda: self._begin(step)))
        if place is None:
            return
        with self._or_nothing(place):
            parts = together.do(lambda: {**sharded.tensors(chunks, optimizer), **sharded.objects(chunks)})
            writer = together.do(lambda: ShardsWriter(parts, place, together.rank, copy=self._asynchronous))
            plans = together.gathered(writer.plan)
            together.on_first(lambda: writer.agree(plans or []))
            common = {"optimizer": _common(together.all(together.do(lambda: sharded.counts(optimizer))))}
            lines = orjson.dumps(state, option=orjson.OPT_INDENT_2)
        written = self._thread.submit(writer.write) if self._asynchronous else None
        self._pending = _Pending(step, place, writer, written, common, lines)
        if wait or not self._asynchronous:
            self.finish()

    def finish(self, poll: bool = False) -> None:
        """Commits the checkpoint that is being written, if one is; with `poll`, only if all ranks are done with it."""
        pending = self._pending
        if pending is None:
            return
        if poll and pending.written and not self.together.every(pending.written.done()):
            return
        self._pending = None
        with self._or_nothing(pending.place):
            results = self.together.gathered(self.together.do(lambda: _written(pending)))
            hashes = self.together.gathered(pending.writer.hashes)
            self.together.on_first(lambda: self._commit(pending, results or [], hashes or []))

    def latest(self) -> int | None:
        """The highest step that is committed."""
        return self.together.first(max(steps(self.folder), default=None))

    def load(
        self,
        step: int,
        chunks: Sequence[Any],
        optimizer: Any = None,
        fresh: bool = False,
        growth: "Growth | None" = None,
    ) -> dict[str, Any]:
        """Reads a checkpoint into a model, and into its optimizer if one is given; returns the loop's state in it.

        The model may be split in any other way than the one that was saved, and be of another precision. Without its
        optimizer a model is read alone; call `reload_model_params` of one that is made already. An optimizer that is
        `fresh` takes the float32 copies of the weights and begins anew: the checkpoint's may be of other parameters, or
        another kind. With `growth`, which wants it fresh, the checkpoint has another vocabulary (`grown`).

        Raises TilthError for damaged files, UsageError for a checkpoint of another model; the model is then as it was.
        """
        from . import sharded

        assert fresh or not growth, "what an optimizer remembers of rows does not grow"
        path = _path(self.folder, step)
        state = self.together.do(lambda: read_state(self.folder, step))
        if self.options.verify:
            self._check(step)
        wanted = self.together.do(lambda: sharded.tensors(chunks, optimizer))
        if fresh:
            wanted = sharded.weights(wanted)
        stored = self.together.do(lambda: _stored(path))
        read = self.together.do(lambda: growth.asked(wanted, stored)) if growth else wanted
        first, second = sharded.sources(read, stored)
        remembered = optimizer is not None and not fresh
        self._compare(path, read, (first, second), stored, remembered)
        common = self.together.do(lambda: _read(path, first))
        if any(self.together.all(bool(second))):
            self.together.do(lambda: _read(path, second))
        if growth:
            self.together.do(lambda: growth.fill(wanted, read))
        if remembered:
            sharded.set_counts(optimizer, common["optimizer"])
        return state

    def _begin(self, step: int) -> Path | None:
        """Makes the folder that a checkpoint is written in; None if it is there already."""
        base = Path(self.folder, FOLDER)
        with explained(str(base)):
            base.mkdir(parents=True, exist_ok=True)
            if not self._cleared:
                self._cleared = True
                for name in filter(LITTER.fullmatch, os.listdir(base)):
                    shutil.rmtree(base / name, ignore_errors=True)
            if _path(self.folder, step).exists():
                return None
            place = _aside(_path(self.folder, step))
            place.mkdir()
            return place

    def _commit(self, pending: _Pending, results: list[list[Any]], hashes: list[dict[str, Any]]) -> None:
        """On rank 0: the last files, the manifest, the name; then what is not to stay goes."""
        writer, place = pending.writer, pending.place
        with explained(str(place)):
            writer.finish(results, pending.common)
            writer.put(STATE, pending.state)
            manifest = {name: entry for part in [*hashes, writer.hashes] for name, entry in part.items()}
            writer.put(MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
            _sync(place)
            place.rename(_path(self.folder, pending.step))
            for folder in (place.parent, place.parent.parent):  # the first checkpoint brings its parent
                _sync(folder)
        self._prune()

    def _prune(self) -> None:
        found, every = steps(self.folder), self.options.keep_every
        for step in found[: -self.options.keep_last]:
            if not every or step % every:
                with contextlib.suppress(OSError):  # room for a checkpoint is not worth the run
                    gone = _path(self.folder, step).rename(_aside(_path(self.folder, step)))
                    shutil.rmtree(gone, ignore_errors=True)

    @contextlib.contextmanager
    def _or_nothing(self, place: Path) -> Any:
        """Leaves nothing of a checkpoint that fails."""
        try:
            yield
        except Exception:
            if self.together.rank == 0:
                shutil.rmtree(place, ignore_errors=True)
            raise

    def _check(self, step: int) -> None:
        """Raises TilthError where a file is not as it was written; each rank reads its share of them."""
        together = self.together
        share = slice(together.rank, None, together.size)
        damage = [line for lines in together.all(_damage(_path(self.folder, step), share)) for line in lines]
        if damage:
            together.on_first(lambda: self._tell(step, list(dict.fromkeys(damage))))

    def _tell(self, step: int, damage: list[str]) -> None:
        earlier = (each for each in reversed(steps(self.folder)) if each < step and not verify(self.folder, each))
        whole = next(earlier, None)
        more = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
        advice = "no earlier one is whole"
        if whole is not None:
            advice = f"step {whole} is whole: remove this folder to go on from there"
        raise TilthError(f"{_path(self.folder, step)}: damaged: {damage[0]}{more}; {advice}")

    def _compare(
        self, path: Path, wanted: "Tensors", read: "tuple[Tensors, Tensors]", stored: "Stored", optimizer: bool
    ) -> None:
        """Raises UsageError, with names and shapes, where the checkpoint is not of this model and optimizer."""
        from . import sharded

        mine = {key: parts[0].global_shape for some in read for key, parts in some.items()}
        everyones = self.together.all((mine, set(wanted)))
        here = {key: shape for shapes, _ in everyones for key, shape in shapes.items()}
        also = {key for _, keys in everyones for key in keys}  # what is read under another name, see `sources`
        there = {
            key: shape
            for key, (shape, _) in stored.items()
            if key in here or not (key in also or (key.startswith(sharded.STATE) and not optimizer))
        }
        found = sharded.misfits(here, there)
        if found:
            more = f"; and {len(found) - TOLD} more" if len(found) > TOLD else ""
            raise UsageError(f"{path} is of another model or optimizer: {'; '.join(found[:TOLD])}{more}")


def _common(counts: list[dict[str, Any]]) -> dict[str, Any]:
    """The optimizer's numbers, which a rank that steps nothing does not know."""
    numbers = {name: value for each in counts for name, value in each["numbers"].items()}
    return {"numbers": numbers, "scalers": max((each["scalers"] for each in counts), key=len)}


def _written(pending: _Pending) -> list[Any]:
    with explained(str(pending.place)):
        return pending.written.result() if pending.written else pending.writer.write()


def _aside(path: Path) -> Path:
    """A name beside a checkpoint's that is none."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")


def _sync(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _stored(path: Path) -> "Stored":
    from megatron.core.dist_checkpointing import load_tensors_metadata

    found = load_tensors_metadata(str(path))
    return {key: (tuple(tensor.global_shape), tensor.dtype) for key, tensor in found.items()}  # pyright: ignore[reportAttributeAccessIssue]


def _read(path: Path, wanted: "Tensors") -> dict[str, Any]:
    """Reads into the tensors that are wanted; what belongs to none is returned."""
    from megatron.core import dist_checkpointing
    from torch.distributed.checkpoint.api import CheckpointException

    parts = [part for parts in wanted.values() for part in parts]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return dist_checkpointing.load({"tensors": parts}, str(path), validate_access_integrity=False)  # pyright: ignore[reportReturnType]
    except CheckpointException as error:  # which is no Exception
        cause = next(iter(error.failures.values()))[0]
        raise TilthError(f"{path}: cannot be loaded: {cause}") from error
