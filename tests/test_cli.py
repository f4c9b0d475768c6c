"""The command line: exit codes, one line an error, help that answers at once."""

import os
import subprocess
import sys
import time

import orjson
import pyarrow.dataset as ds
import pytest

COMMANDS = [
    [],
    ["curate"],
    ["curate", "run"],
    ["curate", "decide"],
    ["curate", "label"],
    ["curate", "why"],
    ["curate", "report"],
    ["curate", "recipes"],
    ["tokenize"],
    ["tokenize", "train"],
    ["tokenize", "expand"],
    ["tokenize", "embed"],
    ["tokenize", "encode"],
    ["tokenize", "score"],
    ["tokenize", "export"],
    ["tokenize", "verify"],
    ["tokenize", "recipes"],
    ["train"],
    ["train", "run"],
    ["train", "plan"],
    ["train", "presets"],
    ["train", "verify"],
    ["train", "recipes"],
    ["demo"],
    ["submit"],
    ["jobs"],
    ["jobs", "list"],
    ["jobs", "stop"],
]


def tilth(*arguments, **options):
    command = [sys.executable, "-m", "tilth.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.fixture
def page(tmp_path):
    folder = tmp_path / "pages"
    folder.mkdir()
    sentence = "The soil of the garden is dark and loose, and the worms that live in it have all they need to be well. "
    (folder / "soil.html").write_text(
        f"<html><body><article><h1>Soil</h1><p>{sentence * 3}</p></article></body></html>"
    )
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_answers_and_ends_with_an_example(command):
    found = tilth(*command, "--help")
    assert found.returncode == 0
    if len(command) == 2 or command in (["demo"], ["submit"]):
        assert "Example: tilth" in " ".join(found.stdout.split())


def test_help_is_quick():
    seconds = []
    for _ in range(5):
        started = time.monotonic()
        tilth("curate", "run", "--help")
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 0.5


def test_the_smallest_run_prints_its_result_as_json(page, tmp_path):
    arguments = ["curate", "run", "--input", page, "--output", tmp_path / "run", "--recipe", "keep-all", "--in-process"]
    found = tilth(*arguments, "--json")
    assert found.returncode == 0, found.stderr
    assert orjson.loads(found.stdout)["totals"]["documents"] == 1
    fresh = tilth(*arguments, "--fresh", "--set", "rules.x={label: length.words, min: 1000}")
    assert fresh.returncode == 0, fresh.stderr
    assert "dropped" not in fresh.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--input", "missing/", "--output", "OUT"], 2, "missing"),
        (["--input", "EMPTY", "--output", "OUT"], 2, "EMPTY"),
        (["--input", "PAGES", "--output", "OUT", "--recipe", "nothing"], 2, "no such recipe"),
        (["--input", "PAGES", "--output", "OUT", "--set", "rulez.x=1"], 2, "did you mean rules"),
        (["--input", "PAGES", "--output", "OUT", "--set", "labels.url.lists=[nowhere]"], 2, "nowhere"),
        (["--input", "PAGES", "--output", "PAGES"], 2, "not a run of tilth"),
        (["--input", "", "--output", "OUT"], 2, "empty"),
        (["--input", "PAGES", "--output", ""], 2, "empty"),
        (["--input", "PAGES", "--output", "/proc/nothing"], 1, "/proc/nothing"),
        (["--input", "PAGES", "--output", "OUT", "--ray", "127.0.0.1:1"], 2, "127.0.0.1:1"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(page, tmp_path, arguments, code, message):
    (tmp_path / "EMPTY").mkdir()
    places = {"PAGES": str(page), "OUT": str(tmp_path / "out"), "EMPTY": str(tmp_path / "EMPTY")}
    found = tilth("curate", "run", *(places.get(one, one) for one in arguments), cwd=tmp_path)
    assert found.returncode == code
    assert found.stderr.strip().count("\n") == 0, found.stderr
    assert message in found.stderr
    assert not (tmp_path / "out" / "documents").exists()


def test_commands_on_what_is_no_run_say_so(tmp_path):
    for command in (
        ["why", tmp_path, "x"],
        ["decide", tmp_path],
        ["report", tmp_path],
        ["label", tmp_path, "--family", "gopher"],
    ):
        found = tilth("curate", *command)
        assert found.returncode == 2
        assert "no run of tilth" in found.stderr


def test_the_examples_of_the_help_work_on_a_run(page, tmp_path):
    run = tmp_path / "run"
    first = ["curate", "run", "--input", page, "--output", run, "--recipe", "gopher", "--in-process", "--quiet"]
    assert tilth(*first).returncode == 0
    for name in ("decide", "label", "report"):
        text = " ".join(tilth("curate", name, "--help").stdout.split())
        example = text.split("Example: tilth ")[1].split()
        found = tilth(*(str(run) if word == "run/" else word for word in example))
        assert found.returncode == 0, f"{example}: {found.stderr}"


def test_null_takes_a_rule_away_and_links_to_folders_are_passed(page, tmp_path):
    (page / "loop").symlink_to(page)
    arguments = ["curate", "run", "--input", page, "--output", "memory://away", "--recipe", "gopher", "--json"]
    found = tilth(*arguments, "--set", "rules.gopher-words=null")
    assert found.returncode == 0, found.stderr
    assert "gopher-words" not in [rule["rule"] for rule in orjson.loads(found.stdout)["rules"]]
    assert orjson.loads(found.stdout)["totals"]["records"] == 1


def test_a_terminal_without_signs_is_no_reason_to_fail(page, tmp_path):
    run = tmp_path / "run"
    tilth("curate", "run", "--input", page, "--output", run, "--recipe", "gopher", "--in-process", "--quiet")
    ids = [row["id"] for row in ds.dataset(run / "documents", format="parquet").to_table(["id"]).to_pylist()]
    found = tilth("curate", "why", run, ids[0], env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert found.returncode == 0, found.stderr
    assert "gopher.words" in found.stdout


def test_debug_shows_the_traceback(tmp_path):
    assert "Traceback" in tilth("curate", "why", tmp_path, "x", "--debug").stderr
    assert "Traceback" not in tilth("curate", "why", tmp_path, "x").stderr


def test_a_shipped_recipe_can_be_printed_changed_and_used(page, tmp_path):
    names = tilth("curate", "recipes").stdout
    assert all(name in names for name in ("fineweb", "refinedweb", "gopher", "c4", "keep-all"))
    own = tmp_path / "own.yaml"
    own.write_text(tilth("curate", "recipes", "gopher").stdout)
    arguments = ["--input", page, "--output", tmp_path / "run", "--recipe", own, "--in-process", "--quiet"]
    assert tilth("curate", "run", *arguments).returncode == 0
