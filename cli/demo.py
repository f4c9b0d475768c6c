"""`tilth demo`: the whole way on a small crawl that it writes itself."""

from typing import Annotated

import typer

EXAMPLE = "Example: tilth demo demo-run/"


def demo(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Where to put the crawl and the run.")] = "demo-run",
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes at work.")] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Do everything in this process, without Ray.")
    ] = False,
) -> None:
    """Write a small crawl, curate it, and say where to look."""
    import shutil
    import sys
    from pathlib import Path

    from tilth.errors import DirectoryConflict
    from tilth.progress import Progress
    from tilth.recipe import load_recipe
    from tilth.storage import Folder, explained
    from tilth.work import WorkOptions

    from ..curate.demo import write_crawl
    from ..curate.pipeline import curate
    from ..curate.recipe import PACKAGE, CurateRecipe
    from .curate import _finish

    place = Path(directory)
    crawl, run = place / "crawl", place / "curated"
    with explained(directory):
        written = write_crawl(crawl)
    print(f"{crawl}: {written.records + written.garbage} records of a small web, written for this demo")
    recipe = load_recipe(CurateRecipe, "demo", PACKAGE)
    work = WorkOptions(workers=workers, in_process=in_process)
    folder = Folder(run)
    try:
        result = curate([str(crawl)], folder, "demo", recipe, work, Progress(folder))
    except DirectoryConflict:  # a demo of another version
        result = curate([str(crawl)], folder, "demo", recipe, work, Progress(folder), fresh=True)
    _finish(result, str(run), as_json=False)
    spam = next(entry.url for entry in written.entries if entry.kind == "spam" and entry.url)
    program = "tilth" if shutil.which("tilth") else sys.argv[0]
    print(f"what became of one page: {program} curate why {run} {spam}")
