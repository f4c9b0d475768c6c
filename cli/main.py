"""`tilth`: the commands, and how their mistakes are told. The work itself is in the parts; heavy imports wait there."""

import io
import sys

import typer

from tilth.errors import Stopped, TilthError

from . import curate, demo, submit, tokenize, train

app = typer.Typer(
    name="tilth",
    help="From a raw web crawl to an aligned language model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(curate.app, name="curate")
app.add_typer(tokenize.app, name="tokenize")
app.add_typer(train.app, name="train")
app.command("demo", epilog=demo.EXAMPLE)(demo.demo)
app.command("submit", context_settings=submit.PASS_THROUGH, epilog=submit.EXAMPLE)(submit.submit)
app.add_typer(submit.jobs_app, name="jobs")


def version(wanted: bool) -> None:
    if wanted:
        from tilth.rundir import version

        print(version())
        raise typer.Exit


@app.callback()
def common(
    show_version: bool = typer.Option(False, "--version", callback=version, is_eager=True, help="Show the version."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error; may stand anywhere."),
) -> None:
    pass


# Typer's own class of usage errors, which it exports only by its children.
WrongUse: type[Exception] = typer.BadParameter.__bases__[0]


def main() -> None:
    """Runs a command and leaves with its exit code: 0 done, 1 failed, 2 wrong use, 128 + n stopped by signal n."""
    own = sys.argv[: sys.argv.index("--")] if "--" in sys.argv else sys.argv
    debug = "--debug" in own
    if debug:
        sys.argv.remove("--debug")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show ≤ is no reason to fail
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except TilthError as error:
        if debug:
            raise
        print(f"tilth: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except WrongUse as error:
        error.show()  # pyright: ignore[reportAttributeAccessIssue]
        sys.exit(2)
    except Stopped as stopped:
        print("tilth: stopped; what is done stays done, and the same command goes on from there", file=sys.stderr)
        sys.exit(stopped.exit_code)


if __name__ == "__main__":
    main()
