"""What a training run shows while it runs, and keeps: a line of `metrics.jsonl` a step, a bar on a terminal or lines in
a log, events in `events.jsonl`, and TensorBoard and Weights & Biases where asked for.

One process of a run does this, rank 0. What the numbers mean is the loop's; the page of their curves is `report`'s.
"""

import importlib
import importlib.util
import statistics
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field

from tilth.errors import UsageError
from tilth.progress import EVERY, Progress, printable
from tilth.storage import Folder

from .profile import BEFORE

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
BOARD = "tensorboard"
TIMING = ("tokens_per_second", "mfu", "memory", "data_seconds", "step_seconds")  # differ between equal runs
RECENT = 50  # steps that the rates on the bar are taken from

Write = Callable[[int, Mapping[str, float]], None]  # of a step: figures by name


class SeenOptions(BaseModel):
    """Who is told of a run, besides `metrics.jsonl` and the terminal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    log_every: int | None = Field(
        default=None, ge=1, description="steps between two lines in a log; default: a line every 10 seconds"
    )
    tensorboard: bool = Field(default=False, description="whether TensorBoard is written, to RUN/tensorboard")
    wandb: bool = Field(default=False, description="whether Weights & Biases is told")
    wandb_project: str = "tilth"
    wandb_name: str | None = Field(default=None, description="the run's name there; default: that of its folder")
    profile: int | None = Field(
        default=None, ge=1, le=50, description="steps that torch's profiler records, early in the run; default: none"
    )


def check(options: SeenOptions, steps: int) -> None:
    """Raises UsageError for what is asked for and cannot be had; to be called before anything is started."""
    for asked, package, name in (
        (options.tensorboard, "tensorboard", "TensorBoard"),
        (options.wandb, "wandb", "Weights & Biases"),
    ):
        if asked and importlib.util.find_spec(package) is None:
            raise UsageError(f"{name} is asked for, but not installed: pip install {package}, or leave it away")
    if options.profile and options.profile + BEFORE > steps:
        wanted = f"a profile of {options.profile} steps begins after {BEFORE}"
        raise UsageError(f"{wanted}, and the run has {steps} steps; ask for fewer, or none")


class Clock:
    """How fast the recent steps went, from the wall times that it is told; it reads no clock itself."""

    def __init__(self, recent: int = RECENT):
        self._steps: deque[tuple[int, float, float]] = deque(maxlen=recent)

    def tick(self, tokens: int, seconds: float, waiting: float = 0.0) -> None:
        """One step of so many tokens took `seconds`, of which `waiting` for data."""
        self._steps.append((tokens, seconds, waiting))

    def tokens_per_second(self) -> float | None:
        """The median over recent steps: a slow one (the first, a checkpoint's) does not bend it."""
        rates = [tokens / seconds for tokens, seconds, _ in self._steps if seconds > 0]
        return statistics.median(rates) if rates else None

    def waiting(self) -> float | None:
        """Share of the recent time that went by waiting for data."""
        seconds = sum(seconds for _, seconds, _ in self._steps)
        return sum(waiting for *_, waiting in self._steps) / seconds if seconds > 0 else None

    def left(self, tokens: int) -> float | None:
        """Seconds that so many tokens will take."""
        rate = self.tokens_per_second()
        return max(0, tokens) / rate if rate else None


class Seen:
    """Shows and keeps a run of `steps` steps and `tokens` tokens, which goes on from `step`.

    `about` says in a few figures what is trained (model, parameters, data ...), for the page. `flops_per_token`
    (forward and backward) and `peak_flops` (of all devices together, a second) give the model FLOPs utilisation (MFU,
    Chowdhery et al. 2022, appendix B). Raises UsageError as `check` does.
    """

    def __init__(
        self,
        folder: Folder,
        steps: int,
        tokens: int,
        options: SeenOptions,
        *,
        step: int = 0,
        about: Mapping[str, Any] | None = None,
        flops_per_token: float | None = None,
        peak_flops: float | None = None,
        quiet: bool = False,
    ):
        check(options, steps)
        self._folder, self._options, self._quiet = folder, options, quiet
        self._steps, self._tokens = steps, tokens
        self._first, self._about = step, _clean(about or {})
        self._peak = peak_flops / flops_per_token if peak_flops and flops_per_token else None  # tokens a second
        self._progress = Progress(folder, quiet)
        self._clock = Clock()
        self._done = 0  # tokens
        self._said: float | None = None
        self._bars: Bars | None = None
        self._board: Any = None
        self._wandb: Any = None

    def __enter__(self) -> Self:
        self.resume(self._first)
        if self._folder.exists(EVENTS) and not self._folder.read(EVENTS).endswith(b"\n"):
            self._folder.append(EVENTS, b"\n")  # behind a line that was torn
        self.event("start", self._first, steps=self._steps, tokens=self._tokens, about=self._about)
        if self._options.wandb:
            self._wandb = _wandb(self._folder, self._options, self._about)
        if not self._quiet and sys.stderr.isatty():
            self._bars = _bars()
            self._bars.start()
            self._task = self._bars.add_task("train", total=self._steps, completed=self._first, told="")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bars:
            self._bars.stop()
        if self._board:
            self._board.close()
        if self._wandb:
            self._wandb.finish(exit_code=1 if kind else 0)

    def resume(self, step: int) -> None:
        """The run goes on from `step`, that of the checkpoint that was loaded: what `metrics.jsonl` holds beyond it
        goes, so that each step stands there once. For a rollback in mid-run; at the start it is done already."""
        self._done = cut(self._folder, step)
        if self._bars:
            self._bars.update(self._task, completed=step)
        if self._options.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            if self._board:
                self._board.close()
            self._board = SummaryWriter(self._folder.path(BOARD), purge_step=step + 1)

    def step(self, line: Mapping[str, Any]) -> None:
        """One step is done. `line` holds `step`, `tokens` (seen so far) and `step_seconds` (waiting for data included),
        and whatever else is known of `loss`, `lr`, `grad_norm`, `memory` (bytes), `data_seconds`, `skipped`, `sources`
        (loss by name); `tokens_per_second` and `mfu` are added. What is not finite is kept as null."""
        tokens, seconds = line["tokens"] - self._done, line["step_seconds"]
        self._done = line["tokens"]
        self._clock.tick(tokens, seconds, line.get("data_seconds") or 0.0)
        rate = tokens / seconds if seconds > 0 else None
        found = {"tokens_per_second": rate} | ({"mfu": rate / self._peak} if rate and self._peak else {})
        self._keep({**line, **found})
        if self._bars:
            self._bars.update(self._task, completed=line["step"], told=self._told(line, left_first=True))
        elif self._due(line["step"]):
            self._said = time.monotonic()
            self._say(f"step {line['step']:,} of {self._steps:,}: {self._told(line)}")

    def validation(self, step: int, found: Mapping[str, Mapping[str, float]]) -> None:
        """What was measured on held-out data after `step`: for each label `loss`, `perplexity` and `tokens`. Belongs
        before the checkpoint of the same step, or a kill between the two would leave it out."""
        self._keep({"step": step, "validation": found})
        labels = (
            f"{label} loss {_figure(one['loss'])}, perplexity {_figure(one['perplexity'])}"
            for label, one in found.items()
        )
        self._say(f"step {step:,}: validation: {'; '.join(labels)}")

    def event(self, kind: str, step: int, **fields: Any) -> None:
        """Something that happened after `step`: skip, spike, rollback (with `to`), checkpoint, stop ... The page marks
        the first four on its curves and lists them all with their fields."""
        self._progress.event(kind, step=step, **fields)

    def note(self, line: str) -> None:
        """One line for the person who watches, and in `events.jsonl`."""
        self._progress.note(line)

    def _keep(self, line: Mapping[str, Any]) -> None:
        self._folder.append(METRICS, orjson.dumps(_clean(line), option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
        if self._board or self._wandb:
            found = {name: value for name, value in figures(line).items() if np.isfinite(value)}
            if self._board:
                for name, value in found.items():
                    self._board.add_scalar(name, value, line["step"])
            if self._wandb:
                self._wandb.log({**found, "step": line["step"]})

    def _due(self, step: int) -> bool:
        """Whether a log gets a line: the first one, the last one, and one every so often."""
        if self._said is None or step >= self._steps:
            return True
        if self._options.log_every:
            return step % self._options.log_every == 0
        return time.monotonic() - self._said > EVERY

    def _told(self, line: Mapping[str, Any], left_first: bool = False) -> str:
        rate = self._clock.tokens_per_second()
        told = [
            f"loss {_figure(line.get('loss'))}" + (" (skipped)" if line.get("skipped") else ""),
            f"{amount(rate)} tokens/s" if rate else "",
            f"lr {line['lr']:.2e}" if line.get("lr") is not None else "",
            f"MFU {rate / self._peak:.1%}" if rate and self._peak else "",
            f"{line['memory'] / 1e9:.1f} GB" if line.get("memory") else "",
            f"data {waiting:.0%}" if (waiting := self._clock.waiting() or 0) >= 0.01 else "",
        ]
        left = self._clock.left(self._tokens - self._done)
        told.insert(0 if left_first else len(told), f"{duration(left)} left" if left is not None else "")
        return ("  " if left_first else ", ").join(part for part in told if part)

    def _say(self, line: str) -> None:
        if not self._quiet:
            print(printable(line), file=sys.stderr, flush=True)


def _clean(value: Any) -> Any:
    """`value` with names and texts that JSON can hold."""
    if isinstance(value, Mapping):
        return {printable(str(key)): _clean(one) for key, one in value.items()}
    return printable(value) if isinstance(value, str) else value


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:#.4g}" if value < 1e4 else f"{value:.2e}"


def amount(value: float) -> str:
    """A large count as the field writes it: 850, 12.3k, 6.74B."""
    for factor, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            scaled = value / factor
            return f"{scaled:.{2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0}f}{suffix}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03, with days before where there are."""
    return str(timedelta(seconds=round(seconds)))


def _bars() -> "Bars":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    told = TextColumn("{task.fields[told]}", markup=False, table_column=Column(ratio=1, no_wrap=True))
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), MofNCompleteColumn(), told)
    return Progress(*columns, console=Console(stderr=True), expand=True, refresh_per_second=4)


def _wandb(folder: Folder, options: SeenOptions, about: Mapping[str, Any]) -> Any:
    """The run at Weights & Biases: the same one again where this folder has had one."""
    wandb: Any = importlib.import_module("wandb")
    if not folder.exists("wandb.id"):
        folder.write("wandb.id", uuid.uuid4().hex[:12].encode())
    run = wandb.init(
        project=options.wandb_project,
        name=options.wandb_name or folder.root.rsplit("/", 1)[-1],
        id=folder.read("wandb.id").decode(),
        resume="allow",
        dir=folder.root,
        config=dict(about),
    )
    run.define_metric("step")
    run.define_metric("*", step_metric="step")  # its own counter cannot go back, as a resumed run does
    return run


# --- Reading back ---------------------------------------------------------------------------------------------------


def cut(folder: Folder, step: int) -> int:
    """Leaves in `metrics.jsonl` what belongs to steps up to `step`, whole or not at all; the tokens seen by then."""
    tokens = 0
    if folder.exists(METRICS):
        lines = folder.read(METRICS).splitlines(keepends=True)
        kept = []
        for line in lines:
            entry = _entry(line)
            if entry is not None and line.endswith(b"\n") and entry["step"] <= step:
                kept.append(line)
                tokens = entry.get("tokens", tokens)
        if len(kept) < len(lines):
            folder.write(METRICS, b"".join(kept))
    return tokens


def figures(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one line of `metrics.jsonl` by name, `step` apart: `loss`, `sources/NAME`,
    `validation/LABEL/perplexity`; NaN for what was not finite."""
    named = {key: value for key, value in line.items() if key not in ("step", "sources", "validation")}
    named |= {f"sources/{name}": loss for name, loss in (line.get("sources") or {}).items()}
    for label, found in (line.get("validation") or {}).items():
        named |= {f"validation/{label}/{key}": value for key, value in found.items()}
    return {
        key: np.nan if value is None else float(value)
        for key, value in named.items()
        if value is None or isinstance(value, int | float | np.number | np.bool_)
    }


def curves(folder: Folder) -> dict[str, np.ndarray]:
    """The steps of a run as arrays of one length: `step` and `tokens` int64, `skipped` bool, all others float64, `loss`
    and `sources/NAME` among them; NaN where a step has no such number or none that is finite. Empty: no step yet."""
    lines = [entry for entry in _entries(folder, METRICS) if "validation" not in entry]
    if not lines:
        return {}
    found = [figures(line) for line in lines]
    names = dict.fromkeys(name for one in found for name in one)
    columns = {name: np.array([one.get(name, np.nan) for one in found]) for name in names}
    return {
        "step": np.array([line["step"] for line in lines], np.int64),
        **columns,
        "tokens": np.array([line["tokens"] for line in lines], np.int64),
        "skipped": np.array([bool(line.get("skipped")) for line in lines]),
    }


def validations(folder: Folder) -> dict[str, dict[str, np.ndarray]]:
    """What was measured on held-out data: for each label `step` (int64), `loss`, `perplexity`, `tokens` (float64)."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for entry in _entries(folder, METRICS):
        for label, found in (entry.get("validation") or {}).items():
            rows.setdefault(label, []).append({"step": entry["step"], **found})
    return {
        label: {
            "step": np.array([row["step"] for row in found], np.int64),
            **{key: np.array([_number(row.get(key)) for row in found]) for key in ("loss", "perplexity", "tokens")},
        }
        for label, found in rows.items()
    }


def events(folder: Folder) -> list[dict[str, Any]]:
    """What happened at a step, in order. Events past the checkpoint that a later start went on from are left out: the
    run lived through those steps again."""
    found: list[dict[str, Any]] = []
    for entry in _entries(folder, EVENTS):
        if entry["event"] == "start":
            found = [one for one in found if one["step"] <= entry["step"]]
        found.append(entry)
    return found


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _entries(folder: Folder, name: str) -> Iterator[dict[str, Any]]:
    if folder.exists(name):
        with folder.open(name) as file:
            for line in file:
                entry = _entry(line)
                if entry is not None:
                    yield entry


def _entry(line: bytes) -> dict[str, Any] | None:
    """A line that tells of a step; None for one that a kill has torn, or that is of something else."""
    try:
        entry = orjson.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None
