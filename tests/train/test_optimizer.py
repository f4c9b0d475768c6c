"""Optimizers do what their papers say, however a model is split, and a guard can look before they move."""

import itertools
import math

import pytest
import torch
from ranks import Drawn, batches_of, regroup, spawn, whole

from tilth.errors import UsageError
from tilth.train.optimizer import OptimizerOptions, decays, fit
from tilth.train.parallel import ParallelOptions

pytestmark = pytest.mark.slow  # starts ranks

NAMES = ("adamw", "adam", "sgd", "adagrad", "lamb")
LENGTH, SIZE, RATE, STEPS = 16, 8, 1e-2, 4
LLAMA = {"layers": 2, "hidden": 32, "heads": 4, "ffn": 64, "vocab_size": 200, "max_length": LENGTH}
GPT2 = {**LLAMA, "norm": "layer", "activation": "gelu", "bias": True, "positions": "learned", "tied": True}
EXPERTS = {**LLAMA, "experts": {"number": 2}}
WHOLE = {"data": 2}
CLIPPING = {"clip": 0.1}  # gradients are longer


# --- what ranks do ---------------------------------------------------------------------------------------------------


def trainer(split, model=LLAMA, precision="fp32", **optimizer):
    from tilth.train.loop import Objective, Trainer
    from tilth.train.objective.language import LanguageModel
    from tilth.train.recipe import TrainRecipe

    recipe = TrainRecipe.model_validate(
        {"model": model, "parallel": split, "precision": precision, "optimizer": {**CLIPPING, **optimizer}}
        | {"batch": {"size": SIZE, "micro": 4, "length": LENGTH}}
    )
    return Trainer(recipe, Objective(LanguageModel().arrays), Drawn.sources)


def batch(made, step):
    from tilth.train.batches import Cut

    cut = Cut(SIZE, 4, made.place.data_size, made.place.data)
    return batches_of(Drawn(180, LENGTH), made.objective.arrays, cut, step)


def weights(made):
    return whole(made.chunks, lambda parameter: parameter.data)


def trained(split, **more):
    made = trainer(split, **more)
    for step in range(STEPS):
        made.gradients(step, batch(made, step))
        made.update(RATE)
    return weights(made)


def beside_plain(split, **optimizer):
    """The largest difference, over all weights, to a plain optimizer of torch (or the LAMB below) on the gradients."""
    made = trainer(split, GPT2, **optimizer)
    plain = Plain(made.recipe.optimizer, made.chunks[0].parameters())
    for step in range(STEPS):
        norm = made.gradients(step, batch(made, step)).grad_norm
        plain.step([each.main_grad for each in made.chunks[0].parameters()])
        assert norm == pytest.approx(plain.norm, rel=1e-5)
        made.update(RATE)
    pairs = zip(made.chunks[0].parameters(), plain.weights, strict=True)
    return max(float((ours - theirs).detach().abs().max()) for ours, theirs in pairs)


def in_halves(split, **more):
    """Whether `norm_of` and `apply` left every weight as Megatron-core's `step` does."""
    from tilth.train.optimizer import set_rate

    one = trainer(split, **more)
    for step in range(2):
        one.gradients(step, batch(one, step))
        one.update(RATE)
    other = trainer(split, **more)
    for step in range(2):
        norm = other.gradients(step, batch(other, step)).grad_norm
        set_rate(other.optimizer, RATE)
        assert other.optimizer.step()[:2] == (True, norm)
    return len(one.optimizer.chained_optimizers), same(weights(one), weights(other))


def with_a_skipped_step(split, **more):
    """Whether a step that is skipped leaves no trace: neither in weights, nor in the steps that follow."""
    left = trainer(split, **more)
    for step in range(3):
        left.gradients(step, batch(left, step))
        left.update(RATE) if step != 1 else left.skip()
    never = trainer(split, **more)
    for step in (0, 2):
        never.gradients(step, batch(never, step))
        never.update(RATE)
    return same(weights(left), weights(never))


def overflowing(split):
    """Loss scales of the parts, and whether weights moved: at first, after an overflow in the experts, after none."""
    from tilth.train.optimizer import apply, norm_of, set_rate, skip

    made = trainer(split, EXPERTS, "fp16", loss_scale=1024)
    parts, before, told = made.optimizer.chained_optimizers, weights(made), []
    set_rate(made.optimizer, RATE)
    for bad in (False, True, True, False):
        for chunk in made.model:
            for parameter in chunk.parameters():
                parameter.main_grad.fill_(float(parts[0].get_loss_scale()) * 1e-3)
                if bad and not getattr(parameter, "allreduce", True):
                    parameter.main_grad.view(-1)[0] = math.inf
        found, norm = norm_of(made.optimizer)
        skip(made.optimizer) if found else apply(made.optimizer)
        after = weights(made)
        told.append((found, norm, [float(part.get_loss_scale()) for part in parts], same(before, after)))
        before = after
    return told


def decay_of(split, **more):
    """Name and weight decay of each parameter of all ranks."""
    import torch.distributed as dist

    made = trainer(split, precision="bf16", **more)
    names = {parameter.main_param: name for chunk in made.chunks for name, parameter in chunk.named_parameters()}
    groups = made.optimizer.param_groups
    found = [
        (names[each].removeprefix("module."), group["weight_decay"]) for group in groups for each in group["params"]
    ]
    everyone = [[]] * dist.get_world_size()
    dist.all_gather_object(everyone, found)
    return [each for one in everyone for each in one]


def filled(split, **optimizer):
    """What the states are that a checkpoint is read into, those of a step, and whether they change what a step does."""
    fresh, made = trainer(split, **optimizer), trainer(split, **optimizer)
    (part,) = made.optimizer.chained_optimizers
    part.init_state_fn(part.optimizer, part.config)
    layouts = [layout(part.optimizer)]
    for one in (made, fresh):
        one.gradients(0, batch(one, 0))
        one.update(RATE)
        layouts.append(layout(one.optimizer.chained_optimizers[0].optimizer))
    return layouts, same(weights(made), weights(fresh))


def layout(optimizer):
    return [
        {name: (tuple(value.shape), value.dtype) for name, value in optimizer.state[each].items()}
        for group in optimizer.param_groups
        for each in group["params"]
    ]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- the plain versions ----------------------------------------------------------------------------------------------


class Plain:
    """An optimizer of torch, of one process, on copies of weights; gradients are clipped as torch does it."""

    def __init__(self, options, parameters):
        self.options = options
        self.weights = [torch.nn.Parameter(each.detach().clone()) for each in parameters]
        groups = [
            {"params": [each for each in self.weights if each.dim() > 1], "weight_decay": options.weight_decay},
            {"params": [each for each in self.weights if each.dim() == 1], "weight_decay": 0.0},
        ]
        adam = {"betas": (options.beta1, options.beta2), "eps": options.eps, "lr": RATE}
        self.optimizer = {
            "adamw": lambda: torch.optim.AdamW(groups, **adam),
            "adam": lambda: torch.optim.Adam(groups, **adam),
            "sgd": lambda: torch.optim.SGD(groups, RATE, options.momentum),
            "adagrad": lambda: torch.optim.Adagrad(groups, RATE, eps=options.eps),
            "lamb": lambda: PlainLamb(groups, options),
        }[options.name]()

    def step(self, gradients):
        for each, gradient in zip(self.weights, gradients, strict=True):
            each.grad = gradient.clone()
        self.norm = float(torch.nn.utils.clip_grad_norm_(self.weights, self.options.clip or math.inf))
        self.optimizer.step()


class PlainLamb:
    """Algorithm 2 of You et al. 2020, line by line, in float64; norms and biases without the ratio."""

    def __init__(self, groups, options):
        self.groups, self.options, self.count = groups, options, 0
        self.moments = {each: (0, 0) for group in groups for each in group["params"]}

    def step(self):
        beta1, beta2 = self.options.beta1, self.options.beta2
        self.count += 1
        for group in self.groups:
            for each in group["params"]:
                x, g = each.detach().double(), each.grad.double()
                m, v = self.moments[each]
                m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
                self.moments[each] = m, v
                r = (m / (1 - beta1**self.count)) / ((v / (1 - beta2**self.count)).sqrt() + self.options.eps)
                r = r + group["weight_decay"] * x
                phi = min(x.norm(), torch.tensor(self.options.trust_limit or math.inf))
                ratio = phi / r.norm() if x.dim() > 1 and phi > 0 and r.norm() > 0 else 1
                each.data.copy_(x - RATE * ratio * r)


# --- ranks -----------------------------------------------------------------------------------------------------------

SHARDED = {"data": 2, "shard_optimizer": True}
SPREAD = {"data": 2, "expert": 2}
SPLITS = {
    "adamw": ({"tensor": 2}, {"pipeline": 2}, SHARDED),
    "adam": (SHARDED,),
    "sgd": ({"tensor": 2}, SHARDED),
    "adagrad": (SHARDED,),
    "lamb": ({"tensor": 2}, {"tensor": 2, "sequence": True}, {"pipeline": 2}),
}
DECAYS = [(split, yes) for split in (WHOLE, {"pipeline": 2}) for yes in (True, False)]
FILLED = ("adamw", "sgd", "adagrad", "lamb")
HALVES = (
    (WHOLE, {}),
    ({"tensor": 2}, {"name": "lamb"}),
    (SHARDED, {}),
    (SPREAD, {"model": EXPERTS}),
    ({**SPREAD, "shard_optimizer": True}, {"model": EXPERTS, "precision": "bf16"}),
    ({"pipeline": 2}, {"precision": "bf16", "model": GPT2}),
)
CASES = [
    *[(trained, {"split": split, "name": name}) for name, splits in SPLITS.items() for split in (WHOLE, *splits)],
    *[(trained, {"split": split, "name": "lamb", "model": EXPERTS}) for split in (WHOLE, SPREAD)],
    *[(beside_plain, {"split": WHOLE, "name": name}) for name in NAMES],
    (beside_plain, {"split": WHOLE, "name": "adamw", "clip": None}),
    (beside_plain, {"split": WHOLE, "name": "lamb", "trust_limit": 0.5}),
    *[(in_halves, {"split": split, **more}) for split, more in HALVES],
    *[(with_a_skipped_step, {"split": split, **more}) for split, more in HALVES[::2]],
    (overflowing, {"split": SPREAD}),
    *[(decay_of, {"split": split, "model": GPT2, "decay_embeddings": yes}) for split, yes in DECAYS],
    *[(filled, {"split": SHARDED if name != "lamb" else WHOLE, "name": name}) for name in FILLED],
    (filled, {"split": WHOLE, "name": "sgd", "momentum": 0.0}),
]  # fmt: skip


def work(cases):
    """Goes through cases of one split: making groups takes longer than most of them."""
    regroup(ParallelOptions(**cases[0][1]["split"]))
    return [function(**arguments) for function, arguments in cases]


@pytest.fixture(scope="module")
def found():
    alike = [list(cases) for _, cases in itertools.groupby(sorted(CASES, key=split_of), split_of)]
    results = {}
    for cases, made in zip(alike, spawn(2, work, alike), strict=True):
        results |= {
            f"{function.__name__} {arguments}": each for (function, arguments), each in zip(cases, made, strict=True)
        }
    return lambda function, **arguments: results[f"{function.__name__} {arguments}"]


def split_of(case):
    return str(case[1]["split"])


@pytest.mark.parametrize("name", NAMES)
def test_steps_do_not_depend_on_how_a_model_is_split(found, name):
    expected = found(trained, split=WHOLE, name=name)
    # where a gradient is as small as its rounding, Adam and Adagrad make a whole step of it all the same
    most = 2e-6 if name in ("sgd", "lamb") else 0.01 * RATE * STEPS
    for split in SPLITS[name]:
        reached = found(trained, split=split, name=name)
        assert reached.keys() == expected.keys()
        for each, value in expected.items():
            torch.testing.assert_close(reached[each], value, rtol=0, atol=most, msg=f"{split} {each}")


def test_lamb_knows_experts_on_other_ranks(found):
    expected = found(trained, split=WHOLE, name="lamb", model=EXPERTS)
    reached = found(trained, split=SPREAD, name="lamb", model=EXPERTS)
    for each, value in expected.items():
        torch.testing.assert_close(reached[each], value, rtol=0, atol=2e-6, msg=each)


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_does_what_the_plain_one_does(found, name):
    assert found(beside_plain, split=WHOLE, name=name) < 1e-6


def test_gradients_are_not_clipped_without_clip_and_lambs_norms_are_limited(found):
    assert found(beside_plain, split=WHOLE, name="adamw", clip=None) < 1e-6
    assert found(beside_plain, split=WHOLE, name="lamb", trust_limit=0.5) < 1e-6


@pytest.mark.parametrize(("split", "more"), HALVES, ids=str)
def test_a_step_in_two_halves_is_megatrons_step_bit_for_bit(found, split, more):
    parts, equal = found(in_halves, split=split, **more)
    assert equal
    assert parts == (2 if "expert" in split else 1)


@pytest.mark.parametrize(("split", "more"), HALVES[::2], ids=str)
def test_a_skipped_step_leaves_no_trace(found, split, more):
    assert found(with_a_skipped_step, split=split, **more)


def test_an_overflow_moves_nothing_and_lowers_the_scale_of_all_parts(found):
    first, second, third, last = found(overflowing, split=SPREAD)
    assert 0 < first[1] < math.inf
    assert first == (False, first[1], [1024, 1024], False)
    assert second == (True, math.inf, [1024, 1024], True)  # the scaler bears with one
    assert third == (True, math.inf, [512, 512], True)
    assert last == (False, pytest.approx(first[1]), [512, 512], False)


@pytest.mark.parametrize(("split", "yes"), DECAYS, ids=str)
def test_norms_and_biases_do_not_decay_and_embeddings_by_choice(found, split, yes):
    decay = found(decay_of, split=split, model=GPT2, decay_embeddings=yes)
    assert len(decay) > 25
    for name, value in decay:
        vector = name.endswith(".bias") or "norm" in name
        embedding = "embeddings" in name or name == "output_layer.weight"  # the last stage's copy
        assert value == (0.0 if vector or (embedding and not yes) else 0.1), name


@pytest.mark.parametrize("name", FILLED)
def test_a_state_made_for_loading_is_the_one_that_a_step_makes(found, name):
    layouts, equal = found(filled, split=SHARDED if name != "lamb" else WHOLE, name=name)
    assert layouts[0] == layouts[1] == layouts[2]
    assert all(layouts[0])
    assert equal


def test_momentum_may_be_0(found):
    _, equal = found(filled, split=WHOLE, name="sgd", momentum=0.0)
    assert equal


# --- one process -----------------------------------------------------------------------------------------------------


def test_lamb_takes_adams_step_where_a_layer_or_its_step_is_0():
    from tilth.train.lamb import Lamb

    zero, still, layer = (torch.nn.Parameter(torch.full((2, 3), value)) for value in (0.0, 2.0, 2.0))
    optimizer = Lamb([zero, still, layer], lr=0.1)
    for each, gradient in ((zero, 1.0), (still, 0.0), (layer, 1.0)):
        each.grad = torch.full((2, 3), gradient)
    optimizer.step()
    torch.testing.assert_close(zero.detach(), torch.full((2, 3), -0.1))  # Adam's first step: as long as the rate
    torch.testing.assert_close(still.detach(), torch.full((2, 3), 2.0))
    torch.testing.assert_close(layer.detach(), torch.full((2, 3), 1.8))  # twice as long as the layer's weights are


def test_what_cannot_work_is_refused_before_anything_starts():
    sharded = ParallelOptions(**SHARDED)
    with pytest.raises(UsageError, match="lamb needs the norms of whole layers"):
        fit(OptimizerOptions(name="lamb"), sharded)
    with pytest.raises(UsageError, match="with new_rows take adamw"):
        fit(OptimizerOptions(name="lamb"), ParallelOptions(), new_rows_only=True)
    for name in NAMES:
        fit(OptimizerOptions(name=name), ParallelOptions(data=2))
        if name != "lamb":
            fit(OptimizerOptions(name=name), sharded, new_rows_only=True)


def test_vectors_never_decay():
    matrix, vector = torch.zeros(2, 2), torch.zeros(2)
    assert decays("decoder.layers.0.mlp.linear_fc1.weight", matrix, OptimizerOptions())
    assert not decays("decoder.final_layernorm.weight", vector, OptimizerOptions())
    assert not decays("decoder.layers.0.mlp.experts.bias", matrix, OptimizerOptions())
