"""Commands as jobs of a Ray cluster: how one is sent, followed, listed and stopped."""

import asyncio
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import urlsplit

from tilth.errors import TilthError, UsageError
from tilth.parcel import Parcel, entrypoint, pack_code, pinned_requirements

STOPPED = 143  # exit code of a job that was stopped: 128 + SIGTERM, the signal that Ray ends it with
STOP_SECONDS = 30  # how long a stopped job may take to finish what it commits; Ray's own default is 3


class Ended(NamedTuple):
    """How a job ended."""

    status: str  # SUCCEEDED, FAILED or STOPPED
    exit_code: int  # the command's own; 128 + n for one killed by signal n; 143 for a stopped job; 1 if it never began
    message: str  # why, for a job whose command never began; else empty


class Job(NamedTuple):
    """One line of the list of jobs."""

    id: str
    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED
    started: float | None  # Unix seconds
    ended: float | None  # Unix seconds
    exit_code: int | None
    command: str


class Cluster:
    """The Jobs API of one Ray cluster.

    Raises UsageError when there is no cluster at the address, when it refuses the token, and for jobs it does not know;
    TilthError when it stops answering.
    """

    def __init__(self, address: str | None = None):
        self.address = jobs_address(address)
        token = _token()
        self._token_sent = token is not None
        self._check_alive()
        from ray.job_submission import JobSubmissionClient

        headers = {"Authorization": f"Bearer {token}"} if token else None
        before = os.environ.get("RAY_API_SERVER_ADDRESS")
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address  # which Ray follows before the address it is given
        try:
            with self._told():
                self._client = JobSubmissionClient(self.address, headers=headers)
                self._client.list_jobs()  # the version alone may be had without a token
        finally:
            if before is None:
                del os.environ["RAY_API_SERVER_ADDRESS"]
            else:
                os.environ["RAY_API_SERVER_ADDRESS"] = before

    def submit(self, job: Parcel, pip: bool = False) -> str:
        """Sends a job and returns its id; with `pip` its nodes install what tilth requires first."""
        with TemporaryDirectory(prefix="tilth-submit-") as name:
            folder = Path(name)
            code = pack_code(folder)
            # Always a folder of its own: without one a job runs where Ray was started, perhaps in another checkout.
            files = folder / "files"
            files.mkdir()
            (files / "submitted.json").write_text(json.dumps(job.command), encoding="utf-8")
            for path, source in job.files.items():
                target = files / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            environment = {
                "py_modules": [str(part) for part in code],
                "working_dir": str(files),
                "env_vars": {"RAY_DEDUP_LOGS": "0", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)},
            }
            if pip:
                environment["pip"] = pinned_requirements(code)
            with self._told():
                return self._client.submit_job(
                    entrypoint=entrypoint(job.command),
                    runtime_env=environment,
                    metadata={"command": shlex.join(job.command)},
                )

    def follow(self, job: str, write: Callable[[str], object]) -> Ended:
        """Hands the job's log to `write` as it grows, until the job has ended; a lost connection is taken up again."""
        seen = 0
        ended = self.ended(job)
        while not ended:
            with self._told(job):
                seen = asyncio.run(self._tail(job, seen, write))
            ended = self.ended(job)
            if not ended:
                time.sleep(1)
        try:
            write(self.log(job)[seen:])
        except TilthError:  # a log that cannot be read (Ray wants UTF-8) does not change how the job ended
            write("\n[the rest of the log cannot be read]\n")
        return ended

    async def _tail(self, job: str, seen: int, write: Callable[[str], object]) -> int:
        """Writes the log from character `seen` on until the stream closes; returns how much is written by then."""
        import aiohttp

        position = 0
        try:
            async for text in self._client.tail_job_logs(job):
                fresh = text[max(0, seen - position) :]
                position += len(text)
                if fresh:
                    write(fresh)
                    seen = position
        except (RuntimeError, aiohttp.ClientError):  # whether the job still runs, and its cluster, is asked next
            pass
        return seen

    def log(self, job: str) -> str:
        """The whole log until now."""
        with self._told(job):
            return self._client.get_job_logs(job)

    def ended(self, job: str) -> Ended | None:
        """How the job ended; None while it is waiting or running."""
        with self._told(job):
            details = self._client.get_job_info(job)
        status = details.status.value
        if not details.status.is_terminal():
            return None
        code = details.driver_exit_code
        if status == "SUCCEEDED":
            return Ended(status, 0, "")
        if status == "STOPPED":
            return Ended(status, STOPPED, "")
        if code is None:
            return Ended(status, 1, " ".join((details.message or "no reason given").split()))
        return Ended(status, code if code >= 0 else 128 - code, "")

    def jobs(self) -> list[Job]:
        """The submitted jobs that the cluster remembers, oldest first."""
        with self._told():
            details = self._client.list_jobs()
        found = [
            Job(
                id=job.submission_id,
                status=job.status.value,
                started=job.start_time / 1000 if job.start_time else None,
                ended=job.end_time / 1000 if job.end_time else None,
                exit_code=job.driver_exit_code,
                command=(job.metadata or {}).get("command", job.entrypoint),
            )
            for job in details
            if job.submission_id  # programs that joined the cluster by themselves have none
        ]
        return sorted(found, key=lambda job: (job.started or 0, job.id))

    def stop(self, job: str) -> Ended:
        """Asks the job to end (SIGTERM, SIGKILL after 30 s) and waits until it has."""
        with self._told(job):
            self._client.stop_job(job)
        deadline = time.monotonic() + STOP_SECONDS + 30
        while time.monotonic() < deadline:
            if ended := self.ended(job):
                return ended
            time.sleep(0.5)
        raise TilthError(f"job {job} on {self.address} still runs after {STOP_SECONDS + 30} s; ask again")

    def _check_alive(self) -> None:
        """One quick question first: Ray's client waits without limit, and takes any web server for a cluster."""
        import requests

        try:
            reply = requests.get(f"{self.address}/api/version", headers={}, timeout=10)
        except (requests.RequestException, ValueError) as error:
            raise UsageError(
                f"no Ray cluster answers at {self.address}; start one with `ray start --head --dashboard-host=0.0.0.0`"
                " or name it with --address http://HOST:8265"
            ) from error
        if reply.status_code not in (200, 401, 403):
            raise UsageError(
                f"{self.address} is no Ray dashboard (it answers {reply.status_code}); name one with --address"
            )

    @contextmanager
    def _told(self, job: str | None = None) -> Iterator[None]:
        """Ray's and the network's exceptions as ours."""
        import aiohttp
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            if self._token_sent:
                message = f"the cluster at {self.address} refuses the token; take the one that it was started with"
            else:
                message = f"the cluster at {self.address} asks for a token"
            raise UsageError(
                f"{message} (RAY_AUTH_TOKEN, a file named by RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token)"
            ) from error
        except (requests.RequestException, ConnectionError, aiohttp.ClientError) as error:
            again = f"; its job {job} may still run (tilth jobs logs {job} --follow)" if job else ""
            raise TilthError(f"the cluster at {self.address} no longer answers{again}") from error
        except RuntimeError as error:
            if job and "404" in str(error):
                raise UsageError(f"no job {job} on {self.address}; `tilth jobs list` names those there are") from error
            raise TilthError(f"the cluster at {self.address}: {' '.join(str(error).split())[:500]}") from error


def jobs_address(address: str | None) -> str:
    """The address of the Jobs API: the one given, RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or this machine's port 8265."""
    sources = (
        ("--address", address),
        *((name, os.environ.get(name)) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")),
    )
    source, given = next(((name, value) for name, value in sources if value), ("", "http://127.0.0.1:8265"))
    full = given if "://" in given or source == "RAY_ADDRESS" else f"http://{given}"
    parts = urlsplit(full)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{source} {given}: not the address of a Ray dashboard; use --address http://HOST:8265")
    return full.rstrip("/")


def _token() -> str | None:
    """The token for clusters that ask for one, looked up as Ray does; None where there is none."""
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if mode == "disabled":
        return None
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        if named:
            raise UsageError(f"RAY_AUTH_TOKEN_PATH {named}: no token can be read from it ({error})") from error
        token = ""
    if not token and mode == "token":
        raise UsageError(
            f"RAY_AUTH_MODE=token without a token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or put it into {path}"
        )
    return token or None
