"""The ranks of a training run on a Ray cluster, by Ray Train: a lost one restarts the group.

Ray Train finds the places, starts a worker at each and watches over them. A worker starts its rank as a process of its
own (`launch`): so a rank is the same program everywhere, in its own main thread, where signals reach it.
"""

import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import ray
import ray.train
from ray.train.backend import Backend, BackendConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from tilth.errors import Stopped, TilthError, UsageError
from tilth.progress import Progress
from tilth.storage import Folder, explained
from tilth.work import answers, first_line, line_of

from .launch import LOGS, RankLost, Seat, run_seats
from .watch import StopRequested

STOP = "stop"  # a file in the run's folder that asks all ranks to save and end
STORAGE = "ray"  # Ray Train's own folder in the run's, for as long as it runs
EVERY = 0.5  # seconds between two looks for it


def run_on_ray(arguments: Sequence[str], world: int, address: str, folder: Path, restarts: int = 3) -> None:
    """Runs Python with `arguments` as `world` ranks on the cluster at `address`, one to a GPU where it has any.

    When a rank or its machine is lost, the others are ended and all start again, up to `restarts` times; they go on
    from their last checkpoint, which is theirs to find. The folder must be the same one on all machines. What the
    ranks say is in its `logs/`; what rank 0 says is shown here too. SIGTERM and SIGINT reach all ranks, as SIGTERM, and
    they may end well at that; a second one leaves them to their end with this program.

    Raises UsageError where no such cluster answers or it is too small, what a rank told (`launch.tell`) at once, and
    TilthError once there were too many losses.
    """
    folder = folder.absolute()
    with _connected(address):
        trainer = _trainer(arguments, world, _has_gpus(world), folder, restarts)
        with StopRequested() as stop:
            (folder / STOP).unlink(missing_ok=True)
            try:
                _fit(trainer, stop, folder)
            finally:
                (folder / STOP).unlink(missing_ok=True)
                shutil.rmtree(folder / STORAGE, ignore_errors=True)


class Bare(Backend):
    """No process group: the ranks make their own."""

    share_cuda_visible_devices = True  # a rank takes the GPU of its local rank


class BareConfig(BackendConfig):
    @property
    def backend_cls(self) -> type[Backend]:
        return Bare


class Losses(ray.train.UserCallback):
    """Asked by Ray Train about every failure of the group: what a rank told ends the run, a loss does not."""

    def __init__(self, folder: Path, restarts: int):
        self.folder = folder
        self.restarts = restarts
        self.losses = 0

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        error = cause(worker_exceptions)
        if isinstance(error, TilthError) and not isinstance(error, RankLost):
            raise error
        self.losses += 1
        if self.losses <= self.restarts:
            line = f"{_line(error)}; all ranks start again (restart {self.losses} of {self.restarts})"
            Progress(Folder(self.folder)).event("note", text=line)
            with open(_shown(self.folder), "a", encoding="utf-8") as log:
                print(line, file=log)


def _shown(folder: Path) -> Path:
    """The log that is shown while the run goes on."""
    return folder / LOGS / "rank-0.log"


def cause(failures: Mapping[int, Exception]) -> Exception:
    """The failure that the others followed from: what a rank told, a lost machine, a killed rank, any other."""

    def order(rank: int) -> tuple[bool, bool, bool, int]:
        error = failures[rank]
        lost = isinstance(error, RankLost)
        told = isinstance(error, TilthError) and not lost
        return (not told, lost, not (lost and error.by_signal), rank)

    return failures[min(failures, key=order)]


def _line(error: Exception) -> str:
    """A failure in one line."""
    if isinstance(error, TilthError):
        return str(error)
    lost = getattr(error, "health_check_failure", None)
    return f"a worker was lost: {first_line(lost)}" if lost else line_of(error)


def _work(config: dict[str, Any]) -> None:
    """What a worker does: its rank, to the end."""
    context = ray.train.get_context()
    folder = Path(config["folder"])
    first = context.get_world_rank() == 0
    rendezvous = cast(str, broadcast_from_rank_zero(_free_address() if first else None))
    seat = Seat(
        context.get_world_rank(),
        context.get_world_size(),
        context.get_local_rank(),
        context.get_local_world_size(),
        rendezvous,
    )
    os.environ.pop("OMP_NUM_THREADS", None)  # Ray's, which counts the CPUs that it was asked for: one
    stop = folder / STOP
    command = [sys.executable, *config["arguments"]]
    try:
        run_seats(command, [seat], folder, lambda: signal.SIGTERM if stop.exists() else None, EVERY)
    except Stopped:
        raise TilthError("stopped by a signal, before the ranks could heed it") from None


def _free_address() -> str:
    """Where rank 0 can be met on its machine."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"tcp://{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


def _trainer(arguments: Sequence[str], world: int, gpus: bool, folder: Path, restarts: int) -> DataParallelTrainer:
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    with explained(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    return DataParallelTrainer(
        _work,
        train_loop_config={"arguments": list(arguments), "folder": str(folder)},
        backend_config=BareConfig(),
        scaling_config=ray.train.ScalingConfig(num_workers=world, use_gpu=gpus),
        run_config=ray.train.RunConfig(
            name="train",
            storage_path=str(folder / STORAGE),
            failure_config=ray.train.FailureConfig(max_failures=restarts),
            callbacks=[Losses(folder, restarts)],
        ),
    )


def _fit(trainer: DataParallelTrainer, stop: StopRequested, folder: Path) -> None:
    """Runs the trainer in a thread, so that Ray Train leaves the signals alone, at which it would not save."""
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    log = _shown(folder)
    seen = log.stat().st_size if log.exists() else 0
    while thread.is_alive():
        if stop:
            (folder / STOP).touch()
        thread.join(EVERY)
        seen += _show(log, seen)
    for error in failure:
        raise _told(error) from error


def _show(log: Path, start: int) -> int:
    """Says what the log holds from there on; returns how many bytes that was."""
    try:
        with open(log, "rb") as file:
            file.seek(start)
            more = file.read()
    except FileNotFoundError:  # nothing yet
        return 0
    print(more.decode(errors="replace"), end="", file=sys.stderr, flush=True)
    return len(more)


def _told(error: BaseException) -> BaseException:
    """Ray Train's failure as ours."""
    if isinstance(error, ray.train.ControllerError):
        inner = error.controller_failure
        return inner if isinstance(inner, TilthError) else TilthError(f"Ray Train failed: {first_line(inner)}")
    if isinstance(error, ray.train.WorkerGroupError):
        return TilthError(f"{_line(cause(error.worker_failures))}; no restart is left")
    return TilthError(f"Ray Train failed: {first_line(error)}")


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    """A connection to the cluster, or the one that this process has already."""
    if ray.is_initialized():
        yield
        return
    if not answers(address):
        raise UsageError(f"no Ray cluster answers at {address}; start one with `ray start --head`, or leave --ray away")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:
        raise UsageError(f"no Ray cluster answers at {address}: {first_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _has_gpus(world: int) -> bool:
    """Whether the cluster has GPUs; raises UsageError where it has too few of what ranks run on."""
    resources = ray.cluster_resources()
    kind = "GPU" if resources.get("GPU") else "CPU"
    if resources.get(kind, 0) < world:
        raise UsageError(f"the cluster has {resources.get(kind, 0):g} {kind}s; {world} ranks need one each")
    return kind == "GPU"
