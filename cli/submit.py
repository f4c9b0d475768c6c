"""`tilth submit` and `tilth jobs`: any command as a job of a Ray cluster, its log here, its exit code handed on."""

import json
import logging
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from tilth import jobs
from tilth.parcel import parcel

Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="The cluster's dashboard, http://HOST:8265. Default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, this machine.",
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job, as `tilth jobs list` names it.")]

# Options after the first word of COMMAND are COMMAND's own, whether `--` stands before it or not.
PASS_THROUGH = {"allow_interspersed_args": False}
EXAMPLE = (
    "Example: tilth submit --address http://head:8265 -- tilth curate run --input /shared/crawl --output /shared/run"
)
jobs_app = typer.Typer(help="List, read and stop the jobs of a Ray cluster.", no_args_is_help=True)


def submit(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", help="The command and its arguments.")],
    address: Address = None,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", help="One more small file to send with the job: a word list, a template. Repeatable."),
    ] = None,
    pip: Annotated[
        bool, typer.Option("--pip", help="Install tilth's requirements on the nodes first, at the versions found here.")
    ] = False,
) -> None:
    """Run a command on a Ray cluster, follow its log, return its exit code.

    The code that runs is the one checked out here. Sent with it: every argument that names a .yaml, .yml or .json file
    of at most 10 MB, the files that such a recipe names, and those given by --file. Data stays where it is: the values
    of --input, --output and --data must be visible to the cluster (relative ones are made absolute). The command meets
    no shell: for a pipe or a variable use bash -c '...'.

    Ctrl-C leaves the job running (exit code 130); a job that was stopped gives 143. A cluster that asks for a token
    gets it from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.
    """
    job = parcel(command, file or [])
    cluster = _cluster(address)
    _say(f"sending the code of this tilth{' and ' + ', '.join(job.files) if job.files else ''} to {cluster.address}")
    _follow(cluster, cluster.submit(job, pip))


@jobs_app.command("list", epilog="Example: tilth jobs list --address http://head:8265")
def list_jobs(
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array instead of lines.")] = False,
) -> None:
    """List the jobs that the cluster remembers, the newest last."""
    found = _cluster(address).jobs()
    if as_json:
        print(json.dumps([job._asdict() for job in found], ensure_ascii=False))
        return
    for job in found:
        status = f"{job.status} {job.exit_code}" if job.status == "FAILED" and job.exit_code is not None else job.status
        begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started)) if job.started else "-"
        seconds = f"{(job.ended or time.time()) - job.started:.0f} s" if job.started else "-"
        print(f"{job.id}  {status:<10}  {begun:<16}  {seconds:>8}  {job.command}")


@jobs_app.command("logs", epilog="Example: tilth jobs logs raysubmit_4vZ9 --follow")
def logs(
    job: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the job ends and return its exit code.")
    ] = False,
    address: Address = None,
) -> None:
    """Print a job's log."""
    cluster = _cluster(address)
    if follow:
        _follow(cluster, job)
    else:
        print(cluster.log(job), end="")


@jobs_app.command("stop", epilog="Example: tilth jobs stop raysubmit_4vZ9")
def stop(job: JobId, address: Address = None) -> None:
    """End a job: it gets SIGTERM, and 30 seconds to finish what it is writing."""
    cluster = _cluster(address)
    already = cluster.ended(job)
    ended = already or cluster.stop(job)
    _say(f"job {job} {'had ended' if already else 'has ended'}: {ended.status}")


def _cluster(address: str | None) -> jobs.Cluster:
    logging.disable(logging.INFO)  # Ray's own account of each upload
    return jobs.Cluster(address)


def _follow(cluster: jobs.Cluster, job: str) -> None:
    """Prints a job's log until it ends and leaves with its exit code; Ctrl-C and SIGTERM only end the following."""
    again = f"{shlex.quote(job)} --address {shlex.quote(cluster.address)}"
    _say(f"job {job}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        ended = cluster.follow(job, _print_log)
    except KeyboardInterrupt:
        _say(f"job {job} goes on; follow it: tilth jobs logs --follow {again}; stop it: tilth jobs stop {again}")
        raise typer.Exit(130) from None
    reason = f": {ended.message}" if ended.message else ""
    _say(f"job {job} {ended.status}, exit code {ended.exit_code}{reason}")
    raise typer.Exit(ended.exit_code)


def _print_log(text: str) -> None:
    print(text, end="", flush=True)


def _say(line: str) -> None:
    """What is told about the job stands apart from the job's own output."""
    print(line, file=sys.stderr, flush=True)
