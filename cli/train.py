"""`tilth train`: from token shards to a model."""

from typing import Annotated, Any

import typer

from .options import AsJson, Quiet, RecipeName, Settings, print_json, print_recipes

app = typer.Typer(help="From token shards to a model.", no_args_is_help=True, rich_markup_mode=None)

Recipe = Annotated[str, typer.Option("--recipe", help="A shipped recipe by name, or a .yaml file.")]
Ray = Annotated[
    str | None, typer.Option("--ray", metavar="ADDRESS", help="Train on this Ray cluster, by Ray Train; or auto.")
]


@app.command(
    "run",
    epilog="Example: tilth train run --recipe tiny --data shards/ --tokenizer tok/ --output base/ --set steps=100",
)
def run(
    data: Annotated[
        list[str],
        typer.Option("--data", metavar="DIR", help="Token shards of tilth tokenize encode, or Megatron's. Repeatable."),
    ],
    output: Annotated[str, typer.Option("--output", metavar="DIR", help="The run: checkpoints, metrics, report.")],
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", metavar="TOK", help="The tokenizer that the shards are of.")
    ] = None,
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
    stats = room.run(data, tokenizer, Folder(output), recipe, chosen, how, quiet, fresh)
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
    as_json: AsJson = False,
) -> None:
    """What a training takes: parameters, operations, memory of each rank, time, tokens by the rules of thumb."""
    from tilth.recipe import load_recipe

    from ..train import budget
    from ..train.recipe import PACKAGE, TrainRecipe
    from .train_plan import plan_text

    chosen = load_recipe(TrainRecipe, recipe, PACKAGE, settings or ())
    result = budget.plan(
        chosen.planned(), chosen.parallel, chosen.planned_step(), tokens=chosen.planned_tokens(), device=device,
        devices=devices, mfu=mfu, peak=peak * 1e12 if peak else None, device_memory=memory * 1e9 if memory else None,
    )  # fmt: skip
    if as_json:
        print_json(result)
    else:
        print(plan_text(result))


@app.command("presets", epilog="Example: tilth train presets")
def presets() -> None:
    """The shapes of models that a recipe may name, with their parameters."""
    from ..train.budget import human
    from ..train.model.options import ModelOptions
    from ..train.model.options import presets as known
    from ..train.sizes import parameters

    for name, entry in known().items():
        model = ModelOptions(preset=name)  # pyright: ignore[reportCallIssue]
        print(
            f"{name:<16} {model.family:<5} {human(parameters(model)['total']):>8}  {entry.get('source', '')}".rstrip()
        )


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
