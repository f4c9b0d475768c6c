"""`tilth curate`: from a crawl to a corpus."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import AsJson, InProcess, Quiet, Ray, RecipeName, Settings, Workers, print_json, print_recipes

if TYPE_CHECKING:
    from ..curate.pipeline import Result
    from ..curate.recipe import CurateRecipe

app = typer.Typer(help="From a crawl to a labelled, filtered corpus.", no_args_is_help=True, rich_markup_mode=None)

RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="A run directory, local or remote.")]
Recipe = Annotated[str, typer.Option("--recipe", help="A shipped recipe by name, or a .yaml file.")]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", min=0.05, max=0.99, help="Jaccard similarity that makes near-duplicates."),
]
Against = Annotated[
    list[str] | None,
    typer.Option("--against", metavar="RUN", help="An earlier run; what it kept is not kept again. May be repeated."),
]


@app.command(
    "run",
    epilog="Example: tilth curate run --input crawl/ --output run/ --recipe fineweb --set rules.gopher-words.min=30",
)
def run(
    inputs: Annotated[
        list[str],
        typer.Option("--input", metavar="PATH", help="WARC, WET, HTML, JSONL, Parquet: file, folder, glob or URL."),
    ],
    output: Annotated[str, typer.Option("--output", metavar="RUN", help="The run directory, local or remote.")],
    recipe: Recipe = "fineweb",
    settings: Settings = None,
    threshold: Threshold = None,
    against: Against = None,
    workers: Workers = None,
    in_process: InProcess = False,
    ray: Ray = None,
    unit_timeout: Annotated[float, typer.Option(min=1, help="Seconds that one unit of work may take.")] = 3600,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over where a run stands already.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Read, extract, label, judge and write a corpus. The same command again resumes."""
    from tilth.progress import Progress
    from tilth.storage import Folder
    from tilth.work import WorkOptions

    from ..curate.pipeline import curate

    chosen = _recipe(recipe, _duplicates(settings, threshold, against))
    if threshold is not None:
        _tell_curve(chosen)
    work = WorkOptions(workers=workers, in_process=in_process, ray=ray, unit_timeout=unit_timeout)
    folder = Folder(output)
    result = curate(inputs, folder, recipe, chosen, work, Progress(folder, quiet), fresh)
    _finish(result, output, as_json)


@app.command("decide", epilog="Example: tilth curate decide run/ --set rules.gopher-words.min=30")
def decide(
    run: RunFolder,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Another recipe; default: the run's own.")] = None,
    settings: Settings = None,
    threshold: Threshold = None,
    against: Against = None,
    corpus: Annotated[bool, typer.Option(help="Write the corpus too; --no-corpus leaves none.")] = True,
    workers: Workers = None,
    in_process: InProcess = False,
    ray: Ray = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Apply changed rules to the labels of a finished run, in seconds."""
    from tilth.progress import Progress
    from tilth.storage import Folder
    from tilth.work import WorkOptions

    from ..curate import pipeline
    from ..curate.run import Run

    folder = Folder(run)
    name, chosen = _changed(Run(folder), recipe, _duplicates(settings, threshold, against))
    if threshold is not None:
        _tell_curve(chosen)
    work = WorkOptions(workers=workers, in_process=in_process, ray=ray)
    result = pipeline.decide(folder, name, chosen, work, Progress(folder, quiet), corpus)
    _finish(result, run, as_json)


@app.command(
    "label", epilog="Example: tilth curate label run/ --family fineweb --set labels.fineweb.short_line_length=40"
)
def label(
    run: RunFolder,
    families: Annotated[list[str], typer.Option("--family", help="A label family to compute anew; may be repeated.")],
    settings: Settings = None,
    workers: Workers = None,
    in_process: InProcess = False,
    ray: Ray = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Add a label family to a finished run, or bring one up to date, without touching the others; then decide again."""
    from tilth.errors import UsageError
    from tilth.progress import Progress
    from tilth.storage import Folder
    from tilth.work import WorkOptions

    from ..curate.label import FAMILIES
    from ..curate.pipeline import relabel
    from ..curate.run import Run

    unknown = [family for family in families if family not in FAMILIES]
    if unknown:
        raise UsageError(f"--family {unknown[0]}: no such label family; there are {', '.join(FAMILIES)}")
    folder = Folder(run)
    _, chosen = _changed(Run(folder, relabelling=True), None, settings)
    work = WorkOptions(workers=workers, in_process=in_process, ray=ray)
    _finish(relabel(folder, families, chosen, work, Progress(folder, quiet)), run, as_json)


@app.command("why", epilog="Example: tilth curate why run/ http://garden.example/tomatoes")
def why(
    run: RunFolder,
    document: Annotated[
        str, typer.Argument(metavar="ID-OR-URL", help="A document's id, the beginning of one, or a URL.")
    ],
    as_json: AsJson = False,
) -> None:
    """Tell one document's story: each label against each rule, what was removed, what decided."""
    from tilth.storage import Folder

    from ..curate.run import Run
    from ..curate.why import stories, told

    found = stories(Run(Folder(run)), document)
    if as_json:
        print_json(found)
    else:
        print("\n\n".join(told(story) for story in found))


@app.command("audit", epilog="Example: tilth curate audit run/ --documents 2000")
def audit(
    run: RunFolder,
    documents: Annotated[
        int, typer.Option("--documents", min=1, max=100_000, help="Documents to draw for each of the two measures.")
    ] = 1000,
    workers: Workers = None,
    in_process: InProcess = False,
    ray: Ray = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure recall and precision of the search for near-duplicates on a sample, and tell it in the report."""
    from tilth.progress import Progress
    from tilth.storage import Folder
    from tilth.work import WorkOptions

    from ..curate import pipeline

    folder = Folder(run)
    work = WorkOptions(workers=workers, in_process=in_process, ray=ray)
    result = pipeline.audit(folder, documents, work, Progress(folder, quiet))
    if result.failed:
        _finish(result, run, as_json)
    elif as_json:
        print_json({"run": run, **result.stats})
    else:
        print(audited(result.stats))
        print(f"report: {run.rstrip('/')}/report.html")


@app.command("report", epilog="Example: tilth curate report run/")
def report(run: RunFolder) -> None:
    """Write stats.json and report.html of a finished run anew."""
    from tilth.storage import Folder

    from ..curate.pipeline import rewrite_report

    rewrite_report(Folder(run))
    print(f"{run.rstrip('/')}/report.html")


@app.command("recipes", epilog="Example: tilth curate recipes fineweb > my.yaml")
def recipes(name: RecipeName = None) -> None:
    """List the recipes that travel with tilth, or print one."""
    from ..curate.recipe import PACKAGE

    print_recipes(PACKAGE, name)


def _recipe(name: str, settings: list[str] | None) -> "CurateRecipe":
    from tilth.recipe import load_recipe

    from ..curate.recipe import PACKAGE, CurateRecipe

    return load_recipe(CurateRecipe, name, PACKAGE, settings or ())


def _duplicates(settings: list[str] | None, threshold: float | None, against: list[str] | None) -> list[str]:
    """The settings, with what the options on duplicates stand for before them."""
    import json

    from tilth.errors import UsageError
    from tilth.storage import Folder

    chosen = []
    banded = any(setting.startswith(("dedup.bands=", "dedup.rows=")) for setting in settings or ())
    if banded and threshold is not None:
        raise UsageError("--threshold chooses bands and rows; set them, or let it choose, not both")
    if banded:
        chosen = ["dedup.threshold=null"]  # of an earlier command
    if threshold is not None:
        chosen = [f"dedup.threshold={threshold}", f"dedup.verify={threshold}"]
    if against:
        chosen.append(f"dedup.against={json.dumps([Folder(run).url for run in against])}")
    return [*chosen, *(settings or [])]


def _tell_curve(recipe: "CurateRecipe") -> None:
    """How probably a pair of texts of some similarity will be compared."""
    from ..curate.dedup.minhash import curve

    bands, rows = recipe.dedup.banding(recipe.labels.minhash.permutations)
    typer.echo(
        f"{bands} bands of {rows} rows: Jaccard similarity of two texts, and the probability to be compared", err=True
    )
    for jaccard, probability in curve(bands, rows):
        typer.echo(f"  {jaccard:.2f}  {probability:6.4f}  {'#' * round(40 * probability)}", err=True)


def _changed(run: Any, recipe: str | None, settings: list[str] | None) -> "tuple[str, CurateRecipe]":
    """The run's own recipe with the settings, or another recipe's rules on the run's own labels."""
    from tilth.recipe import changed

    from ..curate.recipe import CurateRecipe

    own = run.request["recipe"]
    if recipe:
        other = _recipe(recipe, None).model_dump(mode="json", by_alias=True)
        other["dedup"]["against"] = own["dedup"]["against"]  # an input, that no recipe changes
        own = {**own, **{part: other[part] for part in ("description", "dedup", "rules", "clean", "corpus")}}
    return recipe or run.name, changed(CurateRecipe, own, settings or (), recipe or run.name)


def _finish(result: "Result", run: str, as_json: bool) -> None:
    from tilth.errors import UnitsFailed

    if as_json:
        print_json({"run": run, **result.stats, "failed_units": result.failed})
    elif result.stats:
        print(summary(result.stats))
        print(f"report: {run.rstrip('/')}/report.html")
    if result.failed:
        if set(result.failed) == {"read"}:
            raise UnitsFailed(f"{run}: {result.failed['read']}")
        key, reason = next(iter(result.failed.items()))
        raise UnitsFailed(
            f"units failed: {len(result.failed)}, the first is {key}: {reason}; the same command tries again"
        )


def summary(stats: dict[str, Any]) -> str:
    """The funnel as a few lines of text."""
    rows = []
    for step in stats["funnel"]:
        if step["kind"] == "start" or step["removed"] or step["kind"] == "cleaning":
            removed = f"  -{step['removed']}" if step["removed"] else ""
            rows.append(f"{step['step']:<28}{step['documents']:>10}{step['bytes'] / 1e6:>10.2f} MB{removed}")
    totals = stats["totals"]
    left = totals["kept"] - totals["emptied"]
    rows.append(f"{'corpus' if totals['emptied'] else 'kept':<28}{left:>10}{totals['corpus_bytes'] / 1e6:>10.2f} MB")
    if not totals["documents"] and stats["failures"]:
        most = stats["failures"][0]
        rows.append(f"no document came of it; most records failed with {most['reason']}, for example {most['example']}")
    return "\n".join(rows)


def audited(figures: dict[str, Any]) -> str:
    """What an audit came to as a short table."""

    def row(name: str, share: dict[str, Any], clusters: int) -> str:
        if share["share"] is None:
            return f"  {name:<34}no pairs"
        interval = f"{share['low']:.4f} to {share['high']:.4f}"
        return f"  {name:<34}{share['share']:.4f}  {interval}{share['of']:>9}{clusters:>10}"

    rows = [f"{'':<34}{'share':<8}{'95 % interval':<16}{'of pairs':>11}{'clusters':>10}"]
    for one in figures["recall"]:
        rows.append(f"recall, pairs of similarity {one['threshold']:g} and more")
        rows.append(row("in one cluster", one["clustered"], one["clusters"]))
        rows.append(row("at least one named a duplicate", one["resolved"], one["clusters"]))
    rows.append(f"precision, similarity {figures['verify']:g} and more")
    pairs = figures["precision"]
    rows.append(row("duplicate, and what stands for it", pairs["representative"], pairs["representative"]["clusters"]))
    rows.append(row("two of one cluster", pairs["cluster"], pairs["cluster"]["clusters"]))
    rows.append("pairs of one cluster depend on each other: with few clusters, intervals are too narrow")
    return "\n".join(rows)
