"""The loop's promises to objectives: packing, padding, frozen models, skipped steps."""

import math

import numpy as np
import pytest
import torch
from ranks import Drawn, reading, regroup, spawn, whole

from tilth.train.data.shards import Sample
from tilth.train.model.options import ModelOptions
from tilth.train.objective.language import LanguageModel
from tilth.train.parallel import ParallelOptions
from tilth.train.recipe import TrainRecipe

VOCAB, LENGTH = 200, 32
SHAPE = {"layers": 2, "hidden": 32, "heads": 4, "ffn": 64, "vocab_size": VOCAB, "max_length": LENGTH}
LEARNED = {**SHAPE, "positions": "learned", "norm": "layer"}


def trainer(shape, objective, parallel=None):
    """For groups that are there, or for one rank."""
    from tilth.train.loop import Trainer

    if parallel is None:
        parallel = ParallelOptions()
        regroup(parallel)
    recipe = TrainRecipe(
        model=shape, parallel=parallel, precision="fp32", batch={"size": 4, "micro": 2, "length": LENGTH}
    )
    return Trainer(recipe, objective, Drawn.sources)


def sample(*documents):
    """Documents one behind the other, and padding."""
    tokens, numbers = np.zeros(LENGTH + 1, np.int64), np.zeros(LENGTH + 1, np.int32)
    stops = np.cumsum([len(one) for one in documents])
    for number, (one, stop) in enumerate(zip(documents, stops, strict=True)):
        tokens[stop - len(one) : stop], numbers[stop - len(one) : stop] = one, number + 1
    return Sample(tokens, numbers, 0)


def packed_and_padded(shape):
    """The loss of the same documents, two a sample and one a sample."""
    from tilth.train.batches import on_device
    from tilth.train.loop import Objective

    arrays = LanguageModel().arrays
    made = trainer(shape, Objective(arrays))
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, VOCAB, length) for length in (10, 23, 5, 20)]
    packed = [on_device(arrays([sample(*texts[:2]), sample(*texts[2:])]))]
    padded = [on_device(arrays([sample(one) for one in texts[pair : pair + 2]])) for pair in (0, 2)]
    return made.evaluate(packed), made.evaluate(padded)


@pytest.mark.slow
def test_the_loss_does_not_depend_on_packing_and_padding():
    for packed, padded in spawn(1, packed_and_padded, [SHAPE, LEARNED, {**SHAPE, "positions": "alibi", "window": 7}]):
        assert packed.tokens == padded.tokens == 9 + 22 + 4 + 19
        assert packed.loss == pytest.approx(padded.loss, rel=1e-6)


def gap_to_itself(split):
    """With itself as the frozen model: the mean distance of a model's log-probabilities to the frozen one's."""
    from tilth.train.batches import Batches, Cut
    from tilth.train.loop import Objective
    from tilth.train.loss import Loss, token_losses
    from tilth.train.model.build import build

    def loss(logits, batch):
        losses = token_losses(logits, batch["labels"]) * batch["weights"]
        gap = ((losses + batch["reference"] * batch["weights"]).abs()).sum()
        rows = torch.stack([losses.detach().sum(1), batch["weights"].sum(1)], dim=1)
        return Loss(losses.sum(), batch["weights"].sum().int(), rows, {"gap": gap.detach()})

    arrays = LanguageModel().arrays
    parallel = ParallelOptions(**split)
    regroup(parallel)
    reference = build(ModelOptions(**SHAPE), parallel, "fp32", seed=0)
    made = trainer(SHAPE, Objective(arrays, loss, ("gap",), {"reference": reference}), parallel)
    cut = Cut(4, 2, made.place.data_size, made.place.data)
    with Batches(reading(Drawn(VOCAB, LENGTH), cut), arrays) as batches:
        before = made.gradients(0, batches.of_step(0))
        made.update(0.1)
        after = made.gradients(1, batches.of_step(0))
    return before, after


@pytest.mark.slow
@pytest.mark.parametrize("split", [{"pipeline": 2}, {"tensor": 2}], ids=str)
def test_an_objective_sees_a_frozen_models_log_probabilities(split):
    ((before, after),) = spawn(2, gap_to_itself, [split])
    assert before.figures["gap"] < 1e-6
    assert after.figures["gap"] > 0.01


def skipped(_):
    """Weights before and after a step whose loss is no number."""
    from tilth.train.batches import Batches, Cut
    from tilth.train.loop import Objective
    from tilth.train.loss import token_loss

    arrays = LanguageModel().arrays

    def broken(logits, batch):
        return token_loss(logits * math.nan, batch)

    made = trainer(SHAPE, Objective(arrays, broken))
    before = whole(made.chunks, lambda parameter: parameter.data.clone())
    with Batches(reading(Drawn(VOCAB, LENGTH), Cut(4, 2, 1, 0)), arrays) as batches:
        measured = made.gradients(0, batches.of_step(0))
        made.skip()
    return measured, before, whole(made.chunks, lambda parameter: parameter.data.clone())


@pytest.mark.slow
def test_a_skipped_step_moves_nothing():
    ((measured, before, after),) = spawn(1, skipped, [None])
    assert math.isnan(measured.loss)
    assert not math.isfinite(measured.grad_norm)
    for name, weight in before.items():
        assert torch.equal(weight, after[name])
