"""The loss and every gradient are the same however a model and its batch are split."""

import pytest
import torch
from ranks import Drawn, reading, regroup, spawn, whole

from tilth.train.objective.language import LanguageModel
from tilth.train.objective.masked import MaskedModel
from tilth.train.objective.spans import SpanCorruption
from tilth.train.recipe import TrainRecipe

VOCAB, LENGTH, SIZE = 200, 32, 8
LENGTHS = {"t5": 20}  # which makes its decoder's 6, both even
LLAMA = {"layers": 4, "hidden": 64, "heads": 8, "kv_heads": 4, "ffn": 128, "vocab_size": VOCAB, "max_length": LENGTH}
GPT2 = {
    **LLAMA,
    "kv_heads": 8,
    "norm": "layer",
    "activation": "gelu",
    "bias": True,
    "positions": "learned",
    "tied": True,
}
MODELS = {
    "llama": LLAMA,
    "llama, tied, window, qk norm": {**LLAMA, "tied": True, "window": 5, "qk_norm": True},
    "gpt2": GPT2,
    "alibi": {**LLAMA, "positions": "alibi"},
    "experts": {**LLAMA, "experts": {"number": 4, "balance_loss": 0}},
    "numbers": {**LLAMA, "head": "scalar", "tied": True},
    "bert": {**GPT2, "family": "bert"},
    "t5": {**LLAMA, "family": "t5", "kv_heads": 8, "positions": "relative", "activation": "relu", "tied": True},
}
PLAIN = [
    {"tensor": 4}, {"tensor": 2, "data": 2}, {"tensor": 2, "data": 2, "sequence": True, "shard_optimizer": True},
    {"pipeline": 4}, {"pipeline": 2, "data": 2}, {"pipeline": 2, "tensor": 2, "sequence": True},
    {"pipeline": 2, "virtual": 2, "data": 2}, {"data": 4}, {"data": 4, "shard_optimizer": True},
]  # fmt: skip
SPLITS = {
    "llama": PLAIN,
    "llama, tied, window, qk norm": [{"pipeline": 2, "tensor": 2, "sequence": True}, {"pipeline": 4}, {"tensor": 4}],
    "gpt2": [{"pipeline": 2, "tensor": 2, "sequence": True}, {"pipeline": 2, "virtual": 2, "data": 2}],
    "alibi": [{"tensor": 4}, {"pipeline": 2, "tensor": 2}],
    "experts": [{"data": 4, "expert": 4}, {"data": 2, "tensor": 2, "sequence": True}, {"pipeline": 2, "data": 2}],
    "numbers": [{"pipeline": 2, "tensor": 2, "sequence": True}],
    "bert": [{"tensor": 4, "sequence": True}, {"pipeline": 4}, {"data": 4}],
    "t5": [{"tensor": 4}, {"tensor": 2, "sequence": True, "data": 2}, {"data": 4}],
}
CASES = [
    *[(name, split, {}) for name, splits in SPLITS.items() for split in splits],
    ("llama", {"tensor": 2, "data": 2, "sequence": True}, {"recompute": "full"}),
    ("llama", {"pipeline": 2, "data": 2}, {"recompute": "selective"}),
]


def objective(family):
    if family == "bert":
        return MaskedModel(begin=0, end=1, mask=2, pad=3, special=(0, 1, 2, 3), vocab_size=VOCAB)
    if family == "t5":
        return SpanCorruption(sentinels=tuple(range(VOCAB - 1, VOCAB - 20, -1)), end=1, pad=0)
    return LanguageModel()


def squared(numbers, batch):
    """The loss of a model with a scalar head: each token's number ought to be its position."""
    from tilth.train.loss import Loss

    losses = (numbers[..., 0].float().t() - batch["positions"]).square() * batch["weights"]
    return Loss(
        losses.sum(), batch["weights"].sum().int(), torch.stack([losses.detach().sum(1), batch["weights"].sum(1)], 1)
    )


def gradients(case):
    """Loss, tokens, loss by source, gradient norm and every gradient of one step."""
    from tilth.train import parallel
    from tilth.train.batches import Batches, Cut
    from tilth.train.loop import Objective, Trainer
    from tilth.train.loss import token_loss

    name, split, more, micro = case if len(case) == 4 else (*case, 1)
    length = LENGTHS.get(name, LENGTH)
    recipe = TrainRecipe(
        model=MODELS[name],
        parallel=split,
        precision="fp32",
        batch={"size": SIZE, "micro": micro, "length": length},
        **more,
    )
    parallel.fit(recipe.model, recipe.parallel, length)
    regroup(recipe.parallel)
    goal = objective(recipe.model.family)
    loss = squared if recipe.model.head == "scalar" else token_loss
    trainer = Trainer(recipe, Objective(goal.arrays, loss), Drawn.sources)
    cut = Cut(SIZE, recipe.batch.micro, trainer.place.data_size, trainer.place.data)
    source = Drawn(VOCAB - 20, goal.length(length))
    with Batches(reading(source, cut), goal.arrays) as batches:
        measured = trainer.gradients(0, batches.of_step(3))
    found = {}
    if not recipe.parallel.shard_optimizer:  # else each rank has its share alone
        found = whole(trainer.chunks, lambda parameter: parameter.main_grad)
    return measured, found


@pytest.fixture(scope="module")
def alone():
    """Each model, not split at all."""
    return dict(zip(MODELS, spawn(1, gradients, [(name, {}, {}) for name in MODELS]), strict=True))


@pytest.fixture(scope="module")
def split():
    return dict(zip(map(str, CASES), spawn(4, gradients, CASES), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_and_gradients_do_not_depend_on_how_a_model_is_split(alone, split, case):
    expected, expected_gradients = alone[case[0]]
    measured, found = split[str(case)]
    assert measured.loss == pytest.approx(expected.loss, rel=2e-6)
    assert measured.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)
    assert measured.tokens == expected.tokens
    assert measured.sources.keys() == {"a", "b"}
    for name, part in measured.sources.items():
        assert part.tokens == expected.sources[name].tokens
        assert part.loss == pytest.approx(expected.sources[name].loss, rel=2e-6)
    if found:
        assert found.keys() == expected_gradients.keys()
    for name, gradient in found.items():
        scale = expected_gradients[name].abs().max()
        assert scale > 0, name
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=0, atol=float(5e-6 * scale), msg=name)


@pytest.mark.slow
def test_the_loss_does_not_depend_on_micro_batches(alone):
    expected, expected_gradients = alone["llama"]
    for measured, found in spawn(1, gradients, [("llama", {}, {}, micro) for micro in (2, 8)]):
        assert measured.loss == pytest.approx(expected.loss, rel=2e-6)
        for name, gradient in found.items():
            scale = float(expected_gradients[name].abs().max())
            torch.testing.assert_close(gradient, expected_gradients[name], rtol=0, atol=5e-6 * scale, msg=name)
