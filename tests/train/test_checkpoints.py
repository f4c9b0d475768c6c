"""Checkpoints come back as they were, on any number of ranks; a torn, damaged or foreign one is never loaded."""

import math
import subprocess
import sys

import numpy as np
import pytest
import ranks_checkpoint as on_ranks
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import spawn
from ranks_checkpoint import EXPERTS, MODEL, TIED, Setting

from tilth.errors import InputError
from tilth.train import device
from tilth.train.checkpoint import found_at, read_state, steps, verify

RESUMED = {
    "tensor": Setting({"tensor": 2, "sequence": True}, model={**MODEL, "dropout": 0.1}),
    "pipeline": Setting({"pipeline": 2}, model=TIED),
    "interleaved": Setting({"pipeline": 2, "virtual": 2}),
    "data": Setting({"data": 2}),
    "sharded, bf16": Setting({"data": 2, "shard_optimizer": True}, "bf16"),
    "tensor, fp16": Setting({"tensor": 2}, "fp16"),
    "experts": Setting({"data": 2, "expert": 2, "shard_optimizer": True}, model=EXPERTS),
    "sgd": Setting({"tensor": 2}, optimizer="sgd"),
    "adagrad": Setting({"pipeline": 2}, "bf16", optimizer="adagrad"),
    "lamb": Setting({"tensor": 2}, optimizer="lamb"),
}
AROUND = [
    {"data": 2}, {"pipeline": 2, "virtual": 2}, {"data": 2, "shard_optimizer": True}, {"tensor": 2, "sequence": True},
    {"pipeline": 2}, {"data": 2},
]  # fmt: skip
RESHARDED = {
    "fp32": [Setting(split) for split in AROUND],
    "bf16": [Setting(split, "bf16", model=TIED) for split in AROUND[2:5]],
    "experts": [
        Setting({"data": 2, "expert": size, "shard_optimizer": sharded}, model=EXPERTS)
        for size, sharded in ((2, True), (1, True), (2, False))
    ],
}
OTHERS = (
    "in_another_precision", "read_by_megatron", "of_the_model_alone", "asynchronous", "kept", "refusals", "damaged",
)  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What two ranks found in all cases."""
    folder = tmp_path_factory.mktemp("runs")
    cases = {("resumed", name): setting for name, setting in RESUMED.items()}
    cases |= {("resharded", name): settings for name, settings in RESHARDED.items()}
    asked = [(kind, str(folder / kind / name), setting) for (kind, name), setting in cases.items()]
    asked += [(name, str(folder / name)) for name in OTHERS]
    return dict(zip([*cases, *OTHERS], spawn(2, on_ranks.work, asked), strict=True))


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(done, name):
    straight, stopped, same_at_three, same_at_six = done["resumed", name]
    assert straight == stopped
    assert len(set(straight)) == 6
    assert same_at_three
    assert same_at_six


@pytest.mark.parametrize("name", RESHARDED)
def test_a_checkpoint_loads_however_the_model_is_split_and_the_optimizer_sharded(done, name):
    (expected, _), *others = done["resharded", name]
    for losses, same in others:
        assert same
        assert losses == pytest.approx(expected, rel=1e-2 if name == "bf16" else 5e-6)


def test_a_run_can_go_on_in_another_precision(done):
    copies, rounded, the_same_again = done["in_another_precision"]
    assert copies
    assert rounded
    assert the_same_again


def test_megatrons_own_loading_reads_it(done):
    assert done["read_by_megatron"]


def test_a_model_is_read_without_its_optimizer(done):
    weights, optimizer_is_new = done["of_the_model_alone"]
    assert weights
    assert optimizer_is_new


def test_training_goes_on_while_a_checkpoint_is_written(done):
    at_once, in_the_end, as_it_was = done["asynchronous"]
    assert at_once == []
    assert in_the_end == [2, 5]
    assert as_it_was


def test_the_last_and_every_nth_stay(done):
    assert done["kept"] == [[1], [1, 2], [2, 3], [3, 4], [3, 4, 5], [3, 5, 6]]


def test_what_does_not_match_is_told_by_name_and_shape(done):
    told = done["refusals"]
    assert all(line.startswith("UsageError: ") for name, line in told.items() if name != "step")
    assert "embedding.word_embeddings.weight is 256x64 there, 384x64 here" in told["vocabulary"]
    assert "decoder.layers.self_attention.linear_qkv.weight is 4x128x64 there, 2x128x64 here" in told["layers"]
    assert "decoder.layers.self_attention.linear_qkv.bias (4x128) is not there" in told["biases"]
    assert "optimizer.state.momentum_buffer." in told["optimizer"]
    assert told["vocabulary"].endswith(
        "output_layer.weight is 256x64 there, 384x64 here"
    )  # and nothing of the optimizer
    assert told["optimizer"].endswith("; and 23 more")
    assert told["step"].startswith("InputError: ")
    assert told["step"].endswith("there is no checkpoint of step 7; there are: 1")


def test_a_damaged_checkpoint_is_told_with_its_file_and_the_last_whole_one(done):
    told = done["damaged"]
    assert all(line.startswith("TilthError: ") for line in told.values())
    assert "__1_0.distcp has other bytes" in told["flipped"]
    assert "__0_0.distcp has 5,000 bytes" in told["cut"]
    assert "common.pt is missing" in told["gone"]
    assert "manifest.json is missing" in told["no manifest"]
    assert all("step 1 is whole" in line for line in told.values())


def test_a_full_disk_is_told_on_every_rank_and_leaves_what_was_there(small_disk):
    told, there, names, told_later = spawn(2, on_ranks.work, [("disk_full", str(small_disk))])[0]
    assert told.startswith("NoSpaceLeft: ")
    assert "no space left" in told
    assert told_later.startswith("NoSpaceLeft: ")
    assert there == [1]
    assert names == ["step-00000001"]


def test_what_stands_after_kill_9_is_whole(tmp_path):
    times = 8
    command = [sys.executable, on_ranks.__file__, str(tmp_path), str(times)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert len(lines) == times
    for line in lines:
        assert line.endswith(" []"), line
    latest = [int(line.split()[1]) for line in lines]
    assert latest == sorted(set(latest))


def test_checkpoints_are_found_verified_and_read_without_torch(tmp_path):
    code = "import sys; from tilth.train import checkpoint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert steps(str(tmp_path)) == []
    for name in ("step-00000003", "step-00000020", ".step-00000030.0a1b2c3d", "step-4", "notes"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert steps(str(tmp_path)) == [3, 20]
    assert found_at(str(tmp_path)) == (str(tmp_path), 20)
    assert found_at(str(tmp_path / "checkpoints" / "step-00000003")) == (str(tmp_path), 3)
    with pytest.raises(InputError, match="no checkpoint"):
        found_at(str(tmp_path / "checkpoints" / "notes"))
    with pytest.raises(InputError, match="there is no checkpoint of step 5; there are: 3, 20"):
        read_state(str(tmp_path), 5)
    path = tmp_path / "checkpoints" / "step-00000003"
    assert verify(str(tmp_path), 3) == ["manifest.json is missing or not readable"]
    digest = "fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603"
    (path / "manifest.json").write_text(f'{{"x": {{"bytes": 2, "sha256": "{digest}"}}}}')
    (path / "x").write_text("ab")
    assert verify(str(tmp_path), 3) == []
    (path / "x").write_text("ac")
    assert verify(str(tmp_path), 3) == ["x has other bytes than were written (SHA-256)"]


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), max_size=4), st.data())
def test_boxes_are_the_elements_of_a_run_in_order(shape, data):
    device.enter()
    from tilth.train.sharded import boxes

    size = math.prod(shape)
    begin = data.draw(st.integers(0, size))
    end = data.draw(st.integers(begin, size))
    array = np.arange(size).reshape(shape)
    found = list(boxes(shape, begin, end))
    parts = [
        array[tuple(slice(at, at + many) for at, many in zip(offset, sizes, strict=True))].ravel()
        for offset, sizes in found
    ]
    assert np.concatenate([*parts, np.empty(0, int)]).tolist() == list(range(begin, end))
    assert len(found) <= max(1, 2 * len(shape) - 1)
