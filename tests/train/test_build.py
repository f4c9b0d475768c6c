"""Models as they are built have the parameters that a plan counts."""

import pytest
from ranks import regroup, spawn

from tilth.train.model.options import ModelOptions
from tilth.train.parallel import ParallelOptions
from tilth.train.sizes import parameters

SMALL = {"layers": 3, "hidden": 64, "heads": 4, "ffn": 96, "vocab_size": 300, "max_length": 40}
GPT2 = {**SMALL, "norm": "layer", "activation": "gelu", "bias": True, "positions": "learned", "tied": True}
SHAPES = {
    "llama": SMALL,
    "grouped, tied": {**SMALL, "kv_heads": 1, "tied": True},
    "gpt2": GPT2,
    "qwen": {**SMALL, "qkv_bias": True, "qk_norm": True, "head_size": 32},
    "experts": {**SMALL, "experts": {"number": 4, "ffn": 32}},
    "numbers": {**SMALL, "head": "scalar"},
    "bert": {**GPT2, "family": "bert"},
    "t5": {**SMALL, "family": "t5", "positions": "relative", "activation": "relu", "tied": True},
}


def built(shape):
    from tilth.train.model.build import build

    regroup(ParallelOptions())
    (model,) = build(ModelOptions(**shape), ParallelOptions(), "fp32", seed=0)
    return sum(each.numel() for each in model.parameters())


@pytest.fixture(scope="module")
def counted():
    return dict(zip(SHAPES, spawn(1, built, list(SHAPES.values())), strict=True))


@pytest.mark.parametrize("name", SHAPES)
def test_a_built_model_has_the_parameters_that_were_counted(counted, name):
    expected = parameters(ModelOptions(**SHAPES[name]))
    assert counted[name] == expected["total"] + expected["padding"]
