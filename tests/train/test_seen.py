"""What a run shows and keeps: every step once, whatever kills it, and a page that holds on any numbers and names."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from lxml import html

from tilth import rundir
from tilth.errors import UsageError
from tilth.storage import Folder
from tilth.train.profile import BEFORE, PROFILE, TRACE, profiled
from tilth.train.report import POINTS, REPORT, limits, render_training, smoothed, thinned, write_report
from tilth.train.seen import (
    METRICS,
    TIMING,
    Clock,
    Seen,
    SeenOptions,
    amount,
    check,
    curves,
    cut,
    duration,
    events,
    figures,
    validations,
)

HOSTILE = ["</svg><script>alert(1)</script>", "\u202eevil\u202c", "nul\x00", "half \udc80", "语料", "a/b {{ 7*7 }}", ""]
PLAIN = SeenOptions()


def line(step: int, **more: Any) -> dict[str, Any]:
    """What a loop tells of a step: 100 tokens in half a second."""
    told = {"loss": 3 + 1 / step, "lr": 1e-3, "grad_norm": 0.5, "memory": 10**9, "data_seconds": 0.05}
    return {"step": step, "tokens": 100 * step, "step_seconds": 0.5, "skipped": False, **told, **more}


def run(folder: Folder, first: int, last: int, *, steps: int = 100, **more: Any) -> None:
    """Steps `first` to `last` of a run, with a validation after each tenth."""
    with Seen(folder, steps, 100 * steps, PLAIN, step=first - 1, quiet=True, **more) as seen:
        for step in range(first, last + 1):
            seen.step(line(step))
            if step % 10 == 0:
                seen.validation(step, {"web": {"loss": 3.0, "perplexity": 20.1, "tokens": 500}})


def kept(folder: Folder) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without what two equal runs differ in."""
    entries = [orjson.loads(one) for one in folder.read(METRICS).splitlines()]
    return [{key: value for key, value in entry.items() if key not in TIMING} for entry in entries]


# --- metrics.jsonl --------------------------------------------------------------------------------------------------


def test_a_step_can_be_read_as_soon_as_it_is_told(tmp_path) -> None:
    folder = Folder(tmp_path)
    with Seen(folder, 2, 200, PLAIN, quiet=True, flops_per_token=6e3, peak_flops=4.8e6) as seen:
        seen.step(line(1, sources={"web": 2.5, "books": 3.5}))
        (entry,) = (orjson.loads(one) for one in (tmp_path / METRICS).read_bytes().splitlines())
    assert entry["tokens_per_second"] == 200
    assert entry["mfu"] == pytest.approx(200 * 6e3 / 4.8e6)
    assert {key: entry[key] for key in line(1)} == line(1)
    assert entry["sources"] == {"web": 2.5, "books": 3.5}


def test_a_killed_run_that_resumes_keeps_each_step_once_as_an_uninterrupted_one(tmp_path) -> None:
    whole, killed = Folder(tmp_path / "whole"), Folder(tmp_path / "killed")
    run(whole, 1, 40)
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[2]); from test_seen import line, run, PLAIN, Folder, Seen\n"
        "with Seen(Folder(sys.argv[1]), 100, 10000, PLAIN, quiet=True) as seen:\n"
        "    for step in range(1, 100):\n"
        "        seen.step(line(step)); seen.event('skip', step)\n"
        "        if step % 10 == 0: seen.validation(step, {'web': {'loss': 3.0, 'perplexity': 20.1, 'tokens': 500}})\n"
        "        if step == 27: seen.event('checkpoint', 20)\n"
        "        time.sleep(0.005)\n"
    )
    arguments = [sys.executable, "-c", code, killed.root, str(Path(__file__).parent)]
    child = subprocess.Popen(arguments)
    until = time.monotonic() + 60
    while not killed.exists("events.jsonl") or b"checkpoint" not in killed.read("events.jsonl"):
        assert child.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    for name in (METRICS, "events.jsonl"):  # as a full disk or a lost power line would leave it
        killed.append(name, b'{"step": 21, "lo')
    run(killed, 21, 40)
    assert kept(killed) == kept(whole)
    found = events(killed)
    assert [one["step"] for one in found if one["event"] == "start"] == [0, 20]
    assert [one["step"] for one in found if one["event"] == "skip"] == [*range(1, 21)]


def test_a_rollback_in_mid_run_leaves_each_step_once(tmp_path) -> None:
    folder = Folder(tmp_path)
    with Seen(folder, 9, 900, PLAIN, quiet=True) as seen:
        for step in range(1, 7):
            seen.step(line(step))
        seen.event("rollback", 6, to=4, reason="loss is 9")
        seen.resume(4)
        for step in range(5, 10):
            seen.step(line(step, loss=1.0))
    found = curves(folder)
    assert found["step"].tolist() == [*range(1, 10)]
    assert found["loss"][4:].tolist() == [1.0] * 5
    assert found["tokens_per_second"].tolist() == [200.0] * 9, "the first step after it counts its own tokens alone"
    assert [one["event"] for one in events(folder)] == ["start", "rollback"]


def test_nothing_is_written_anew_where_nothing_is_to_be_cut(tmp_path) -> None:
    folder = Folder(tmp_path)
    run(folder, 1, 10)
    before = os.stat(tmp_path / METRICS).st_ino
    assert cut(folder, 10) == 1000
    assert os.stat(tmp_path / METRICS).st_ino == before
    assert cut(folder, 7) == 700
    assert [entry["step"] for entry in kept(folder)] == [*range(1, 8)]
    assert cut(folder, 0) == 0
    assert folder.read(METRICS) == b""


def test_what_is_not_finite_is_kept_as_null_and_read_as_nan(tmp_path) -> None:
    folder = Folder(tmp_path)
    with Seen(folder, 3, 300, PLAIN, quiet=True) as seen:
        seen.step(line(1, loss=float("nan"), grad_norm=float("inf"), skipped=True, sources={"a": float("nan")}))
        seen.step(line(2, sources={"b": np.float32(2.5)}))
        seen.validation(2, {"web": {"loss": 800.0, "perplexity": float("inf"), "tokens": 5}})
    entry = orjson.loads(folder.read(METRICS).splitlines()[0])
    assert entry["loss"] is entry["grad_norm"] is entry["sources"]["a"] is None
    found = curves(folder)
    assert np.isnan(found["loss"]).tolist() == [True, False]
    assert found["skipped"].tolist() == [True, False]
    assert np.isnan(found["sources/a"]).all()
    assert found["sources/b"][1] == 2.5
    assert (found["step"].dtype, found["tokens"].dtype, found["loss"].dtype) == (np.int64, np.int64, np.float64)
    assert np.isnan(validations(folder)["web"]["perplexity"]).all()
    assert validations(folder)["web"]["loss"].tolist() == [800.0]


def test_a_run_without_a_step_has_no_curves(tmp_path) -> None:
    assert curves(Folder(tmp_path)) == {}
    assert validations(Folder(tmp_path)) == {}
    assert events(Folder(tmp_path)) == []


def test_figures_are_flat_and_numbers_alone() -> None:
    entry = {
        "step": 3,
        "loss": None,
        "note": "x",
        "skipped": True,
        "sources": {"a/b": 1},
        "validation": {"c": {"loss": 2}},
    }
    found = figures(entry)
    assert np.isnan(found.pop("loss"))
    assert found == {"skipped": 1.0, "sources/a/b": 1.0, "validation/c/loss": 2.0}


# --- Rates ----------------------------------------------------------------------------------------------------------


def test_the_clock_goes_by_recent_steps_and_is_not_bent_by_a_slow_one() -> None:
    clock = Clock(recent=5)
    assert clock.tokens_per_second() is clock.waiting() is clock.left(10) is None
    for seconds in (9.0, 9.0, 9.0, 1.0, 1.0, 60.0, 1.0, 1.0):
        clock.tick(100, seconds, seconds / 4)
    assert clock.tokens_per_second() == 100
    assert clock.waiting() == 0.25
    assert clock.left(1000) == 10
    assert clock.left(-5) == 0


def test_amounts_and_times_read_as_people_write_them() -> None:
    shown = [amount(value) for value in (0, 850, 999.7, 12_345, 6.738e9, 1e6, 999_960, 2.5e13)]
    assert shown == ["0", "850", "1.00k", "12.3k", "6.74B", "1.00M", "1.00M", "25.0T"]
    assert duration(3723.4) == "1:02:03"


# --- Who is told ----------------------------------------------------------------------------------------------------


def test_a_log_gets_the_first_step_the_last_one_and_one_every_so_often(tmp_path, capsys) -> None:
    with Seen(Folder(tmp_path), 7, 700, SeenOptions(log_every=3), flops_per_token=6e3, peak_flops=4.8e6) as seen:
        for step in range(1, 8):
            seen.step(line(step))
        seen.validation(7, {"web": {"loss": 3.0, "perplexity": 20.0855, "tokens": 500}})
    lines = capsys.readouterr().err.splitlines()
    assert [one.split(":")[0] for one in lines] == [*(f"step {step} of 7" for step in (1, 3, 6, 7)), "step 7"]
    assert lines[1] == "step 3 of 7: loss 3.333, 200 tokens/s, lr 1.00e-03, MFU 25.0%, 1.0 GB, data 10%, 0:00:02 left"
    assert lines[-1] == "step 7: validation: web loss 3.000, perplexity 20.09"


def test_a_log_is_not_flooded_where_nothing_is_said_about_it(tmp_path, capsys) -> None:
    with Seen(Folder(tmp_path), 1000, 10**5, PLAIN) as seen:
        for step in range(1, 500):
            seen.step(line(step))
    assert len(capsys.readouterr().err.splitlines()) < 5


def test_a_quiet_run_says_nothing(tmp_path, capsys) -> None:
    run(Folder(tmp_path), 1, 20, steps=20)
    assert capsys.readouterr() == ("", "")


def test_a_narrow_terminal_shows_the_step_the_time_left_and_the_loss(tmp_path) -> None:
    import pty

    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from test_seen import line, PLAIN, Folder, Seen\n"
        "with Seen(Folder(sys.argv[1]), 120000, 12000000, PLAIN) as seen:\n"
        "    for step in range(1, 12346): seen.step(line(step)) if step > 12300 else None\n"
    )
    main, side = pty.openpty()
    arguments = [sys.executable, "-c", code, str(tmp_path / "run"), str(Path(__file__).parent)]
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    child = subprocess.Popen(arguments, stderr=side, env=environment)
    os.close(side)
    shown = b""
    try:
        while block := os.read(main, 65536):
            shown += block
    except OSError:  # the end of a terminal
        pass
    os.close(main)
    assert child.wait() == 0
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()).split("\r")
    assert re.search(r"12345/120000 14:57:08 left  loss 3.000", "\n".join(last))


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_what_is_asked_for_but_not_installed_is_refused_before_anything_is_written(
    package, tmp_path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=f"not installed: pip install {package}"):
        Seen(Folder(tmp_path / "run"), 9, 900, SeenOptions(**{package: True}))
    assert not (tmp_path / "run").exists()
    check(PLAIN, 9)


def test_tensorboard_has_every_step_once_after_a_rollback(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Seen(Folder(tmp_path), 4, 400, SeenOptions(tensorboard=True), quiet=True) as seen:
        for step in (1, 2, 3):
            seen.step(line(step))
        seen.resume(2)
        seen.step(line(3, loss=1.0))
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(one.step, round(one.value, 3)) for one in found.Scalars("loss")] == [(1, 4.0), (2, 3.5), (3, 1.0)]


def test_weights_and_biases_keep_a_run_offline_and_find_it_again(tmp_path, monkeypatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for first in (0, 2):
        with Seen(Folder(tmp_path), 4, 400, SeenOptions(wandb=True), step=first, quiet=True) as seen:
            seen.step(line(first + 1))
    (name,) = {path.name.split("-")[-1] for path in (tmp_path / "wandb").glob("offline-run-*")}
    assert name == (tmp_path / "wandb.id").read_text()


# --- The page -------------------------------------------------------------------------------------------------------


def page(folder: Folder) -> Any:
    write_report(folder)
    text = folder.read(REPORT).decode()
    assert not re.search(r'(?<![\w/.])(nan|inf)(?![\w/.])[^<]*"/>', text), "a place that is no number"
    return html.fromstring(text)


def test_a_page_of_three_steps_has_every_name_as_text(tmp_path) -> None:
    folder = Folder(tmp_path)
    rundir.write(folder, "train run", {"data": HOSTILE[:3] + HOSTILE[4:]}, "</title><script>")
    about = {"model": HOSTILE[0], "data": HOSTILE[3], **dict.fromkeys(HOSTILE[1:3], 5)}
    with Seen(folder, 3, 300, PLAIN, about=about, quiet=True) as seen:
        for step in (1, 2, 3):
            seen.step(line(step, sources=dict.fromkeys(HOSTILE, 2.0 + step)))
        seen.validation(3, {name: {"loss": 2.0, "perplexity": 7.39, "tokens": 10} for name in HOSTILE})
        seen.event("skip", 3, reason=HOSTILE[0])
        seen.event("</td><script>", 3, **{HOSTILE[0]: HOSTILE[0]})
    found = page(folder)
    assert not found.xpath("//script | //@onerror | //@src | //@href[not(starts-with(., '#'))]")
    texts = found.xpath("//main")[0].text_content()
    assert HOSTILE[0] in found.xpath("//h1")[0].text_content()
    assert "语料" in texts
    assert "a/b {{ 7*7 }}" in texts
    assert "half \\udc80" in texts
    assert "\u202e" not in texts
    assert [path.get("class") for path in found.xpath("//figure[1]//path[contains(@class, 'mark')]")][:1] == [
        "mark skip"
    ]


def test_a_page_of_a_run_without_steps_says_so(tmp_path) -> None:
    assert "No step was done yet" in page(Folder(tmp_path)).text_content()


@pytest.mark.parametrize("broken", [float("nan"), None])
def test_a_page_of_nothing_finite_is_one(broken, tmp_path) -> None:
    folder = Folder(tmp_path)
    with Seen(folder, 60, 6000, PLAIN, quiet=True) as seen:
        for step in range(1, 61):
            seen.step({"step": step, "tokens": 0, "step_seconds": 0.0, "loss": broken, "grad_norm": broken})
        seen.validation(60, {"web": {"loss": float("nan"), "perplexity": float("nan"), "tokens": 0}})
    assert "60 steps had no finite loss" in " ".join(page(folder).text_content().split())


def long_run(length: int) -> dict[str, np.ndarray]:
    """Curves of so many steps, with a spike, a hole and two sources."""
    step = np.arange(1, length + 1)
    loss = 3 + 7 * np.exp(-step / (length / 40)) + np.random.default_rng(3).normal(0, 0.05, length)
    loss[length // 2] = 1e6
    loss[length // 4 : length // 3] = np.nan
    some = np.where(step % 3 == 0, loss, np.nan)
    rest = {"lr": loss * 1e-4, "grad_norm": loss, "step_seconds": step * 0 + 0.5, "data_seconds": step * 0 + 0.01}
    return {"step": step, "tokens": step * 1000, "loss": loss, "skipped": np.isnan(loss), "sources/a": some, **rest}


def test_a_page_of_100_000_steps_is_small_and_shows_the_spike_and_the_hole() -> None:
    marks = [{"event": "checkpoint", "step": step, "time": "2026"} for step in range(1, 100_001, 10)]
    marks += [{"event": "skip", "step": step, "time": "2026", "reason": "loss is nan"} for step in range(1, 5000)]
    text = render_training({"name": "", "request": {}}, long_run(100_000), {}, marks, None)
    assert len(text) < 500_000
    found = html.fromstring(text)
    raw = found.xpath("//figure[contains(@class, 'wide')]//path[@class='curve raw']/@d")[0]
    assert raw.count("M") == 2, "one hole"
    assert raw.count("L") < POINTS + 10
    assert "to 1,000,000" in found.text_content()
    assert "25,000" not in raw
    assert len(found.xpath("//table[@class='events']//tr")) == 201
    assert "4,999 events, the last 200 of them here; 10,000 checkpoints" in " ".join(found.text_content().split())
    assert "8,333 steps had no finite loss" in " ".join(found.text_content().split())


def test_the_final_loss_is_the_mean_of_the_last_hundredth(tmp_path) -> None:
    folder = Folder(tmp_path)
    with Seen(folder, 2000, 200_000, PLAIN, quiet=True) as seen:
        for step in range(1, 2001):
            seen.step(line(step, loss=9.0 if step <= 1980 else 2.0 + step % 2))
        seen.validation(2000, {"a": {"loss": 2.0, "perplexity": 7.4, "tokens": 10}})
        seen.validation(2000, {"b": {"loss": 4.0, "perplexity": 54.6, "tokens": 30}})
    figures = {
        div.xpath("./dt")[0].text: [dd.text_content() for dd in div.xpath("./dd")]
        for div in page(folder).xpath("//dl/div")
    }
    assert figures["Training loss"] == ["2.500", "mean of the last 20 steps"]
    assert figures["Validation loss"] == ["3.500", "over 2 labels, by tokens"]
    assert figures["Steps"] == ["2,000", "200,000 tokens in 0:16:40"]


@given(arrays.arrays(float, st.integers(0, 300), elements=st.floats(allow_nan=True, width=32)), st.integers(2, 40))
def test_a_thinned_curve_keeps_its_ends_its_extremes_and_its_order(y, points) -> None:
    x = np.arange(len(y), dtype=float)
    few_x, few_y = thinned(x, y, points)
    assert len(few_x) <= max(points + 3, 4)
    assert (np.diff(few_x) > 0).all()
    np.testing.assert_array_equal(few_y, y[few_x.astype(int)])
    known = y[np.isfinite(y)]
    if len(known):
        assert np.nanmax(few_y[np.isfinite(few_y)]) == known.max()
        assert np.nanmin(few_y[np.isfinite(few_y)]) == known.min()
    if len(y):
        assert (few_x[0], few_x[-1]) == (0, len(y) - 1)


@given(arrays.arrays(float, st.integers(0, 50), elements=st.floats(allow_nan=True, width=32)), st.booleans())
def test_an_axis_has_room_for_any_values(values, from_zero) -> None:
    low, high, cut_off = limits(values, from_zero)
    assert low < high
    known = values[np.isfinite(values)]
    if len(known) and not cut_off:
        assert low <= known.min() <= known.max() <= high


def test_a_smoothed_curve_is_not_bent_by_a_spike_or_a_hole() -> None:
    x, y = np.arange(1000.0), np.full(1000, 2.0)
    y[500], y[300:320] = 1e30, np.nan
    assert set(smoothed(x, y)[1]) == {2.0}
    assert len(smoothed(x[:40], y[:40])[0]) == 0


# --- The profile ----------------------------------------------------------------------------------------------------


def profile_of(folder: Folder, length: int, named: bool, steps: int | None = 2, of: int = 10) -> dict[str, Any] | None:
    """The profile of a small layer of attention and a feed-forward network on sequences of so many tokens; with
    `named`, attention is plain matrix products in a range, without it torch's own operator."""
    import torch
    from torch.nn import functional

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what others do on the machine's other cores is no part of it
    project, out = torch.nn.Linear(32, 96), torch.nn.Linear(32, 32)

    def attend(q: Any, k: Any, v: Any) -> Any:
        if not named:
            return functional.scaled_dot_product_attention(q, k, v)
        with torch.profiler.record_function("attention"):
            return (q @ k.transpose(-1, -2) / 4).softmax(-1) @ v

    with profiled(folder, steps) as tick:
        for _ in range(of):
            q, k, v = project(torch.randn(2, length, 32)).view(2, length, 2, 48).transpose(1, 2).split(16, -1)
            loss = out(attend(q, k, v).transpose(1, 2).reshape(2, length, 32)).pow(2).mean()
            loss.backward()
            tick()
    torch.set_num_threads(threads)
    return orjson.loads(folder.read(PROFILE)) if folder.exists(PROFILE) else None


@pytest.mark.parametrize("named", [True, False])
def test_attention_is_told_from_other_work_forward_and_backward(named, tmp_path) -> None:
    short, long = (profile_of(Folder(tmp_path / str(length)), length, named) for length in (16, 512))
    assert short
    assert long
    assert sum(long["parts"].values()) == pytest.approx(1)
    assert long["parts"]["attention"] > 1.2 * short["parts"]["attention"] > 0  # shares of a clock's time
    assert long["parts"]["matmul"] > 0
    assert (long["steps"], long["on"]) == (2, "operators")
    assert 0 < long["busy"] <= long["seconds"]
    calls = {(row["part"], row["name"]): row["calls"] for row in long["table"]}
    if named:  # two products forward, two for each of them backward, in two steps
        assert calls["attention", "aten::bmm"] == 12
    else:
        assert {name for part, name in calls if part == "attention" and name.endswith("_for_cpu_backward")}
    assert calls["matmul", "aten::mm"] == 2 * 3, "the projections' own: input's gradient is not asked for"
    assert (tmp_path / "512" / TRACE).stat().st_size > 100
    write_report(Folder(tmp_path / "512"))
    assert "Attention takes" in Folder(tmp_path / "512").read(REPORT).decode()


def test_no_profile_is_made_unless_asked_for_nor_of_too_short_a_run(tmp_path) -> None:
    assert profile_of(Folder(tmp_path), 16, True, steps=None) is None
    assert profile_of(Folder(tmp_path), 16, True, steps=2, of=BEFORE - 1) is None
    with pytest.raises(UsageError, match=f"profile of 5 steps begins after {BEFORE}, and the run has 8 steps"):
        check(SeenOptions(profile=5), 8)
    check(SeenOptions(profile=5), 5 + BEFORE)
