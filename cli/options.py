"""Options that the commands of several parts have, and how results are printed."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tilth.work import WorkOptions

Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one thing of the recipe.")
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes at work; default: one for each CPU.")]
InProcess = Annotated[bool, typer.Option("--in-process", help="Do everything in this process, without Ray.")]
Ray = Annotated[str | None, typer.Option("--ray", metavar="ADDRESS", help="A Ray cluster to work on, or auto.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
RecipeName = Annotated[str | None, typer.Argument(help="Print this recipe, whole.")]


def work_options(workers: int | None, in_process: bool, ray: str | None) -> "WorkOptions":
    """Where units are run."""
    from tilth.work import WorkOptions

    return WorkOptions(workers=workers, in_process=in_process, ray=ray)


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    import orjson

    print(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode())


def print_recipes(package: str, name: str | None) -> None:
    """The recipes that travel with a package, a line each, or one of them whole."""
    import yaml

    from tilth.recipe import shipped, source

    if name:
        print(source(name, package), end="")
    else:
        for one in shipped(package):
            print(f"{one:<12} {yaml.safe_load(source(one, package))['description']}")
