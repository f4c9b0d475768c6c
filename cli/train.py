"""`tilth train`: from token shards to a model."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import AsJson, Quiet, RecipeName, Settings, print_json, print_recipes

if TYPE_CHECKING:
    from ..train.which import Slot

app = typer.Typer(help="From token shards or Parquet to a model.", no_args_is_help=True, rich_markup_mode=None)

Recipe = Annotated[str, typer.Option("--recipe", help="A shipped recipe by name, or a .yaml file.")]
Ray = Annotated[
    str | None, typer.Option("--ray", metavar="ADDRESS", help="Train on this Ray cluster, by Ray Train; or auto.")
]

Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--labels",
        metavar="RUN",
        help="Where the labels are that parts ask for; default: the curation run that was encoded. Repeatable.",
    ),
]


@app.command(
    "run",
    epilog="Example: tilth train run --recipe tiny --data shards/ --tokenizer tok/ --output base/ --set steps=100",
)
def run(
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            metavar="DIR",
            help="Token shards of tilth tokenize encode, or Megatron's; or a curation run or Parquet files, which are "
            "tokenized as they are read. Repeatable.",
        ),
    ],
    output: Annotated[str, typer.Option("--output", metavar="DIR", help="The run: checkpoints, metrics, report.")],
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", metavar="TOK", help="The tokenizer that the shards are of.")
    ] = None,
    labels: Labels = None,
    recipe: Recipe = "tiny",
    settings: Settings = None,
    ray: Ray = None,
    restarts: Annotated[
        int, typer.Option("--restarts", min=0, help="With --ray: how often a group that lost a worker starts anew.")
    ] = 3,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over where a run stands already.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a model; the same command again goes on from the last checkpoint, bit for bit as if nothing had been.

    Starts as many processes as the recipe's parallel sizes need (tensor x pipeline x data), or takes part where
    torchrun or Slurm has started them. SIGTERM and Ctrl-C save and end it.
    """
    from tilth.recipe import load_recipe
    from tilth.storage import Folder

    from ..train import run as room
    from ..train.recipe import PACKAGE, TrainRecipe

    chosen = load_recipe(TrainRecipe, recipe, PACKAGE, settings or ())
    how = room.Launch(ray, restarts)
    stats = room.run(data, tokenizer, Folder(output), recipe, chosen, how, quiet, fresh, labels or ())
    if not stats:  # another rank tells
        return
    if as_json:
        print_json({"run": output, **stats})
    else:
        print(_told(stats, output))


@app.command(
    "plan", epilog="Example: tilth train plan --recipe llama-7b --set tokens=140e9 --device h100 --devices 512"
)
def plan(
    recipe: Recipe = "tiny",
    settings: Settings = None,
    device: Annotated[str, typer.Option("--device", help="What it runs on, such as a100, h100 or h200.")] = "h100",
    devices: Annotated[
        int | None, typer.Option("--devices", min=1, help="How many; default: what the parallel sizes need.")
    ] = None,
    peak: Annotated[float | None, typer.Option("--peak", help="Its peak TFLOP/s, where it is not known.")] = None,
    memory: Annotated[float | None, typer.Option("--memory", help="Its memory in GB, where it is not known.")] = None,
    mfu: Annotated[float, typer.Option("--mfu", min=0.01, max=1, help="Share of the peak that is reached.")] = 0.4,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="DIR", help="Count the mixture of these data, as for run. Repeatable."),
    ] = None,
    tokenizer: Annotated[str | None, typer.Option("--tokenizer", metavar="TOK", help="Their tokenizer.")] = None,
    labels: Labels = None,
    page: Annotated[str | None, typer.Option("--page", metavar="FILE", help="Draw the stages: an HTML page.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a training takes: parameters, operations, memory of each rank, time, tokens by the rules of thumb; its
    stages, and with --data how often each part of the mixture is seen."""
    from tilth.errors import UsageError
    from tilth.recipe import load_recipe
    from tilth.storage import Folder

    from ..tokenize.tokenizer import load
    from ..train import budget, plan_report
    from ..train.recipe import PACKAGE, TrainRecipe
    from ..train.run import fitted, planned
    from .train_plan import plan_text

    chosen = load_recipe(TrainRecipe, recipe, PACKAGE, settings or ())
    model = fitted(chosen, load(tokenizer)).model if tokenizer else chosen.planned()
    result = budget.plan(
        model, chosen.parallel, chosen.planned_step(), tokens=chosen.planned_tokens(), device=device,
        devices=devices, mfu=mfu, peak=peak * 1e12 if peak else None, device_memory=memory * 1e9 if memory else None,
    )  # fmt: skip
    drawing = planned(chosen, data or (), labels or (), tokenizer, recipe)
    if page:
        if drawing is None:
            raise UsageError("how long does it train? set tokens, steps or stages, or name the --data")
        place, name = os.path.split(os.path.abspath(page))
        Folder(place).write(name, plan_report.render_plan(drawing).encode())
    if as_json:
        print_json({**result, "plan": drawing})
    else:
        print(plan_text(result))
        if drawing:
            print(f"\n{plan_report.plan_text(drawing).rstrip()}")


@app.command("presets", epilog="Example: tilth train presets")
def presets() -> None:
    """The shapes of models that a recipe may name, with their parameters, and batches that were published."""
    from ..train.advice import batch_notes
    from ..train.budget import human
    from ..train.model.options import ModelOptions
    from ..train.model.options import presets as known
    from ..train.sizes import parameters

    for name, entry in known().items():
        model = ModelOptions(preset=name)  # pyright: ignore[reportCallIssue]
        print(
            f"{name:<16} {model.family:<5} {human(parameters(model)['total']):>8}  {entry.get('source', '')}".rstrip()
        )
    print("\nBatches that were published:")
    for note in batch_notes():
        print(f"  {note}")


@app.command("verify", epilog="Example: tilth train verify base/")
def verify(run: Annotated[str, typer.Argument(metavar="RUN", help="A training run.")]) -> None:
    """Check every file of a run's checkpoints against the hashes that were written with it."""
    from tilth.errors import InputError, TilthError

    from ..train import checkpoint

    found = checkpoint.steps(run)
    if not found:
        raise InputError(f"{run}: has no checkpoint")
    wrong = [f"step {step}: {line}" for step in found for line in checkpoint.verify(run, step)]
    if wrong:
        raise TilthError(f"{run}: {len(wrong)} files are not as they were written, the first: {wrong[0]}")
    print(f"{run}: {len(found)} checkpoints are whole: {', '.join(f'step {step}' for step in found)}")


@app.command("which", epilog="Example: tilth train which base/ --step 120")
def which(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A training run.")],
    step: Annotated[int | None, typer.Option("--step", min=1, help="The documents of this step.")] = None,
    document: Annotated[str | None, typer.Option("--document", metavar="ID", help="The steps that saw it.")] = None,
    labels: Labels = None,
    as_json: AsJson = False,
) -> None:
    """Which documents a step saw, with their URLs; or which steps saw a document, and will see it."""
    from tilth.errors import UsageError

    from ..train.which import Reading, urls

    if (step is None) == (document is None):
        raise UsageError("what is asked? give --step N or --document ID, one of them")
    reading = Reading(run)
    slots = reading.step(step) if step else list(reading.document(document or ""))
    known = urls(reading.job, labels or (), (piece.id for slot in slots for piece in slot.pieces))
    if as_json:
        found = [
            {**slot._asdict(), "pieces": [{**piece._asdict(), "url": known.get(piece.id)} for piece in slot.pieces]}
            for slot in slots
        ]
        print_json({"run": run, "done": reading.done, "slots": found})
        return
    for line in which_text(slots, known, reading.done, document):
        print(line)


@app.command("recipes", epilog="Example: tilth train recipes tiny > my.yaml")
def recipes(name: RecipeName = None) -> None:
    """List the recipes that travel with tilth, or print one."""
    from ..train.recipe import PACKAGE

    print_recipes(PACKAGE, name)


def _told(stats: dict[str, Any], output: str) -> str:
    place = output.rstrip("/")
    first = f"{stats['steps']:,} of {stats['of']:,} steps"
    if not stats["complete"]:
        first += "; stopped, and saved: the same command goes on"
    rows = [first]
    if stats.get("loss") is not None:
        rows.append(f"loss {stats['loss']:.4f}")
    for name, found in (stats.get("labels") or {}).items():
        rows.append(f"held out, {name}: loss {found['loss']:.4f}, perplexity {found['perplexity']:.2f}")
    return "\n".join([*rows, f"report: {place}/report.html"])


def which_text(slots: "list[Slot]", urls: dict[str, str], done: int, document: str | None) -> Iterator[str]:
    """A line a slot, and for a step one for each of its documents."""
    if not slots:
        yield f"{document}: no step of the plan reads it" if document else "nothing"
    for slot in slots:
        when = "" if slot.step <= done else " (to come)"
        place = f"step {slot.step:,}{when}, sequence {slot.slot + 1}: {slot.pool}, epoch {slot.epoch}"
        if document:
            spans = ", ".join(f"{piece.first:,} to {piece.stop:,}" for piece in slot.pieces)
            yield f"{place}, its tokens {spans}"
            continue
        yield place
        for piece in slot.pieces:
            url = f"  {urls[piece.id]}" if piece.id in urls else ""
            yield f"  {piece.id}  tokens {piece.first:,} to {piece.stop:,}{url}"
