"""Commands as Ray jobs: what travels with one, and real jobs on a real cluster of two nodes that asks for a token."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import results

from tilth.errors import UsageError
from tilth.jobs import jobs_address
from tilth.parcel import build_wheel, entrypoint, parcel, pinned_requirements

ROOT = Path(__file__).parents[1]
TILTH = [sys.executable, "-m", "tilth.cli.main"]
TOKEN = "a-token-for-the-tests-of-submit"


def test_a_recipe_is_sent_with_the_files_it_names_and_keeps_their_relative_paths(tmp_path: Path):
    (tmp_path / "recipes" / "words").mkdir(parents=True)
    (tmp_path / "recipes" / "zh.yaml").write_text("base: base.yaml\nurl: {words: words/hard.txt}\nscore: 0.5\n")
    (tmp_path / "recipes" / "base.yaml").write_text("language: [zh]\n")
    (tmp_path / "recipes" / "words" / "hard.txt").write_text("casino\n")
    job = parcel(["tilth", "curate", "run", "--recipe", "recipes/zh.yaml"], here=tmp_path)
    assert job.command == ["tilth", "curate", "run", "--recipe", "recipes/zh.yaml"]
    assert set(job.files) == {"recipes/zh.yaml", "recipes/base.yaml", "recipes/words/hard.txt"}


def test_a_recipe_outside_the_folder_is_sent_and_its_argument_points_to_where_it_lies_in_the_job(tmp_path: Path):
    here = tmp_path / "here"
    here.mkdir()
    recipe = tmp_path / "r.yaml"
    recipe.write_text("base: gopher\n")
    job = parcel(["tilth", "curate", "run", f"--recipe={recipe}", "--recipe", "../r.yaml"], here=here)
    sent = f"elsewhere{recipe}"
    assert job.command[3:] == [f"--recipe={sent}", "--recipe", sent]
    assert job.files == {sent: recipe}


def test_data_is_never_sent_and_its_relative_paths_become_absolute(tmp_path: Path):
    (tmp_path / "data.json").write_text("{}")
    command = ["tilth", "curate", "run", "--input", "data.json", "--output=run", "--input", "s3://bucket/crawl"]
    job = parcel(command, here=tmp_path)
    assert job.files == {}
    assert job.command[3:] == [
        "--input",
        f"{tmp_path}/data.json",
        f"--output={tmp_path}/run",
        "--input",
        "s3://bucket/crawl",
    ]


def test_a_word_that_is_also_a_folder_here_stays_as_it_is_but_a_path_becomes_absolute(tmp_path: Path):
    (tmp_path / "fineweb").mkdir()
    job = parcel(["tilth", "curate", "decide", "./fineweb", "--recipe", "fineweb"], here=tmp_path)
    assert job.command[3:] == [f"{tmp_path}/fineweb", "--recipe", "fineweb"]


def test_files_over_the_limit_stay_unless_they_are_named(tmp_path: Path):
    big = tmp_path / "big.json"
    with open(big, "wb") as file:
        file.truncate(10 * 2**20 + 1)
    assert parcel(["cat", "big.json"], here=tmp_path) == (["cat", str(big)], {})
    assert parcel(["cat", "big.json"], [Path("big.json")], here=tmp_path) == (["cat", "big.json"], {"big.json": big})


def test_an_empty_command_and_a_missing_file_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="no command"):
        parcel([])
    with pytest.raises(UsageError, match=r"--file gone\.txt"):
        parcel(["true"], [Path("gone.txt")], here=tmp_path)


@given(st.lists(st.text(), min_size=1))
def test_whatever_words_a_command_has_they_reach_the_job_in_number_and_through_the_shell(words: list[str]):
    job = parcel(["printf", *words], here=Path("/nonexistent"))
    assert len(job.command) == len(words) + 1
    assert not job.files
    if all("\0" not in word and word.isprintable() for word in words):
        shown = subprocess.run(entrypoint(["printf", "%s\\n", *words]), shell=True, capture_output=True, check=True)
        assert shown.stdout.decode() == "".join(f"{word}\n" for word in words)


def test_the_address_is_the_option_then_the_environment_then_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert jobs_address(None) == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert jobs_address(None) == "http://head:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://front:443/")
    assert jobs_address(None) == "https://front:443"
    assert jobs_address("other:8265") == "http://other:8265"
    with pytest.raises(UsageError, match="ray://head:10001"):
        jobs_address("ray://head:10001")


def test_an_address_of_ray_itself_is_not_taken_for_that_of_its_dashboard(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    with pytest.raises(UsageError, match="RAY_ADDRESS"):
        jobs_address(None)


@pytest.mark.slow
def test_the_wheel_holds_the_tree_and_what_it_requires_and_building_it_leaves_the_tree_as_it_was(tmp_path: Path):
    tree = tmp_path / "tree"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "demo-run")
    shutil.copytree(ROOT, tree, ignore=ignored)
    before = sorted(tree.rglob("*"))
    with zipfile.ZipFile(build_wheel(tree, tmp_path)) as wheel:
        wheel.extractall(tmp_path / "code")
    assert sorted(tree.rglob("*")) == before
    code, info = sorted((tmp_path / "code").iterdir())
    assert (code / "cli" / "submit.py").read_bytes() == (tree / "cli" / "submit.py").read_bytes()
    pins = pinned_requirements([code, info])
    assert any(pin.startswith("pyarrow==") for pin in pins)
    assert not any(pin.startswith(("ray", "pytest")) for pin in pins)


class Nodes(NamedTuple):
    """The cluster of this module and the environment of a user who knows its token."""

    address: str
    env: dict[str, str]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    # Folders and ports of its own, so that it neither meets nor stops another Ray on this machine.
    folder = Path(tempfile.mkdtemp(prefix="tj"))  # short: Ray's sockets lie below it
    ports = free_ports(8)
    common = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env = common | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_TMPDIR": str(folder),
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    address = f"http://127.0.0.1:{ports[1]}"
    head = ["--head", f"--port={ports[0]}", f"--dashboard-port={ports[1]}", f"--ray-client-server-port={ports[2]}"]
    commands = [
        [*head, f"--dashboard-agent-listen-port={ports[3]}", f"--dashboard-agent-grpc-port={ports[4]}"],
        [
            f"--address=127.0.0.1:{ports[0]}",
            f"--dashboard-agent-listen-port={ports[5]}",
            f"--dashboard-agent-grpc-port={ports[6]}",
        ],
    ]
    options = ["--block", "--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]
    options += ["--min-worker-port=0", "--max-worker-port=0", "--node-ip-address=127.0.0.1"]
    nodes = []
    try:
        with open(folder / "ray.log", "w") as log:
            for command in commands:
                node = [sys.executable, "-m", "ray.scripts.scripts", "start", *command, *options]
                nodes.append(subprocess.Popen(node, env=env, cwd=ROOT, stdout=log, stderr=log, start_new_session=True))
                wait_for_nodes(address, len(nodes), folder / "ray.log")
        yield Nodes(address, env | {"RAY_API_SERVER_ADDRESS": address})
    finally:
        for node in reversed(nodes):
            node.terminate()  # Ray's own processes go with it
        for node in nodes:
            try:
                node.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_nodes(address: str, count: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    request = urllib.request.Request(f"{address}/nodes?view=summary", headers={"Authorization": f"Bearer {TOKEN}"})
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                if len(json.load(reply)["data"]["summary"]) >= count:
                    return
        except (OSError, ValueError, KeyError):
            pass
        time.sleep(0.3)
    pytest.fail(f"Ray did not start: {log.read_text()[-2000:]}")


def tilth(env: dict[str, str], *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TILTH, *arguments], env=env, cwd=cwd, capture_output=True, text=True, timeout=120)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


WHERE = """
import sys, time, ray, tilth.jobs
assert not sys.argv[1:], sys.argv
ray.init(address="auto", log_to_driver=False)

@ray.remote(num_cpus=1)
def look():
    import tilth.cli.submit
    time.sleep(0.5)
    return ray.get_runtime_context().get_node_id(), tilth.jobs.__file__, tilth.cli.submit.__file__

seen = ray.get([look.options(scheduling_strategy="SPREAD").remote() for _ in range(4)])
print("NODES", len({node for node, *_ in seen}))
for file in {tilth.jobs.__file__, *(file for _, *files in seen for file in files)}:
    print("FILE", file)
"""


@pytest.mark.slow
def test_a_job_runs_the_code_checked_out_here_on_both_nodes_although_they_have_another_tilth(cluster: Nodes):
    # The nodes were started in this tree with this environment: its editable install is theirs too.
    done = tilth(cluster.env, "submit", "--", "python", "-c", WHERE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NODES 2" in done.stdout
    files = [line.removeprefix("FILE ") for line in done.stdout.splitlines() if line.startswith("FILE ")]
    assert {Path(file).name for file in files} == {"jobs.py", "submit.py"}
    assert all("py_modules_files" in file for file in files), files


@pytest.mark.slow
def test_a_jobs_log_and_exit_code_come_back_and_its_recipe_goes_with_it(cluster: Nodes, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text('text: 春天 \'n "quotes"\n')
    script = 'cat "$1"; echo "last words"; exit 3'
    done = tilth(cluster.env, "submit", "--", "bash", "-c", script, "-", "mine.yaml", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert 'text: 春天 \'n "quotes"\nlast words\n' in done.stdout
    assert "FAILED, exit code 3" in done.stderr
    listed = json.loads(tilth(cluster.env, "jobs", "list", "--json").stdout)
    job = next(job for job in listed if "last words" in job["command"])
    assert (job["status"], job["exit_code"]) == ("FAILED", 3)
    again = tilth(cluster.env, "jobs", "logs", job["id"])
    assert (again.returncode, again.stdout) == (0, done.stdout)


OWN_RECIPE = """
base: keep-all
read: {unit_bytes: 3000}
rules:
  own-words: {label: length.words, min: 40}
clean: [c4-policy]
"""


def actors(cluster: Nodes, name: str) -> list[dict]:
    """The actors of that class that the cluster remembers."""
    wanted = f"filter_keys=class_name&filter_predicates=%3D&filter_values={name}"
    url = f"{cluster.address}/api/v0/actors?detail=1&limit=1000&{wanted}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.load(reply)["data"]["result"]["result"]


@pytest.mark.slow
def test_the_main_job_runs_on_the_clusters_nodes_and_gives_what_it_gives_in_one_process(cluster: Nodes, tmp_path: Path):
    (tmp_path / "own.yaml").write_text(OWN_RECIPE)
    (tmp_path / "crawl").mkdir()
    for number in range(40):
        words = " ".join(f"word{number * 31 % 17}x{at}" for at in range(10 + 3 * number))
        page = f"<html><body><p>{words}</p><p>Read our privacy policy, number {number}.</p></body></html>"
        (tmp_path / "crawl" / f"page-{number}.html").write_text(page)
    command = ["tilth", "curate", "run", "--input", "crawl", "--recipe", "own.yaml", "--output"]
    alone = tilth(cluster.env, *command[1:], "alone", "--in-process", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert not actors(cluster, "Hand")

    done = tilth(cluster.env, "submit", "--", *command, "run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"report: {tmp_path}/run/report.html" in done.stdout
    nodes = {hand["node_id"] for hand in actors(cluster, "Hand")} - {None}  # None: not placed yet, or no longer
    assert len(nodes) == 2
    assert results(tmp_path / "run") == results(tmp_path / "alone")
    assert any(name.startswith("corpus/") for name in results(tmp_path / "run"))


@pytest.mark.slow
def test_a_job_whose_recipe_is_wrong_ends_with_the_commands_own_exit_code_and_line(cluster: Nodes, tmp_path: Path):
    (tmp_path / "own.yaml").write_text("base: keep-all\nrulse: {}\n")
    (tmp_path / "crawl").mkdir()
    command = ["tilth", "curate", "run", "--input", "crawl", "--output", "run", "--recipe", "own.yaml"]
    done = tilth(cluster.env, "submit", "--", *command, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    *of_ray, told = done.stdout.strip().splitlines()
    assert told == "tilth: recipe own.yaml: unknown key rulse; did you mean rules?"
    assert all("INFO" in line or line.startswith("Running entrypoint") for line in of_ray), of_ray
    assert not (tmp_path / "run").exists()


def let_go(env: dict[str, str], sign: signal.Signals, *arguments: str) -> str:
    """Sends the signal to a command that follows a job, once the job has begun; returns what it says then."""
    with subprocess.Popen(
        [*TILTH, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout is not None
        assert any(line.strip() == "begun" for line in follower.stdout)
        follower.send_signal(sign)
        _, told = follower.communicate(timeout=20)
    assert follower.returncode == 130, told
    assert "Traceback" not in told
    return told


@pytest.mark.slow
def test_ctrl_c_and_sigterm_leave_the_job_running_and_stop_lets_it_finish_what_it_writes(cluster: Nodes):
    # Cleaning up takes longer than the 3 seconds that Ray grants by itself.
    script = "trap 'sleep 4; echo cleaned up; exit 1' TERM; echo begun; while :; do sleep 0.1; done"
    told = let_go(cluster.env, signal.SIGINT, "submit", "--", "bash", "-c", script)
    job = told.split("tilth jobs stop ")[1].split()[0]
    assert f"job {job} goes on" in told
    assert f"job {job} goes on" in let_go(cluster.env, signal.SIGTERM, "jobs", "logs", job, "--follow")

    def status() -> str:
        listed = tilth(cluster.env, "jobs", "list", "--json").stdout
        return next(j["status"] for j in json.loads(listed) if j["id"] == job)

    assert status() == "RUNNING"
    stopped = tilth(cluster.env, "jobs", "stop", job)
    assert stopped.returncode == 0, stopped.stderr
    assert status() == "STOPPED"
    log = tilth(cluster.env, "jobs", "logs", job, "--follow")
    assert "cleaned up" in log.stdout
    assert log.returncode == 143


@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "told"), [("a-wrong-token", "refuses the token"), (None, "asks for a token")], ids=["wrong", "missing"]
)
def test_a_token_that_is_wrong_or_missing_is_told_in_one_line(cluster: Nodes, token: str | None, told: str):
    env = {name: value for name, value in cluster.env.items() if not name.startswith("RAY_AUTH")}
    done = tilth(env | ({"RAY_AUTH_TOKEN": token} if token else {}), "submit", "--", "true")
    assert done.returncode == 2
    assert told in one_line(done)


@pytest.mark.slow
def test_no_cluster_at_the_address_is_told_in_one_line_that_says_how_to_start_one():
    done = tilth(dict(os.environ), "submit", "--address", f"http://127.0.0.1:{free_ports(1)[0]}", "--", "true")
    assert done.returncode == 2
    assert "ray start --head" in one_line(done)


@pytest.mark.slow
def test_a_job_that_the_cluster_does_not_know_is_told_in_one_line(cluster: Nodes):
    for command in (("stop", "nobody"), ("logs", "nobody"), ("logs", "nobody", "--follow")):
        done = tilth(cluster.env, "jobs", *command)
        assert done.returncode == 2
        assert "no job nobody" in done.stderr.strip().splitlines()[-1]


def test_tilth_runs_as_a_module_in_the_job_and_other_commands_as_they_are():
    assert entrypoint(["tilth", "demo", "a b"]) == "python -m tilth.cli.main demo 'a b'"
    assert entrypoint(["echo", "$HOME", "&&"]) == "echo '$HOME' '&&'"
