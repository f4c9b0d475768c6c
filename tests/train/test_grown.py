"""A run goes on from one with a smaller vocabulary: old tokens mean what they meant, new ones have the rows that
`tokenize embed` makes; then these rows are trained alone, then all, and a run that was killed has the same bits."""

import gc
import itertools
import weakref
from functools import partial
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from ranks import Drawn, batches_of, regroup, spawn, whole
from ranks_checkpoint import everywhere, refusal, same

from tilth.errors import InputError, ModelError, UsageError
from tilth.tokenize.embed import EmbedOptions, mixture, resized
from tilth.tokenize.expansion import EXPANSION, Expansion
from tilth.train.grown import GrowOptions, Growth, growth
from tilth.train.model.options import ModelOptions

LENGTH, SIZE, RATE, BASE = 16, 8, 1e-2, 61
ADDED = ((3, 4), (5,), (6, 7, 7), ())
ADD = Expansion(method="add", base_size=BASE, size=BASE + 4, new_rows=tuple(range(BASE, BASE + 4)), parts=ADDED)
# tokens 10 and 20 go and new ones take their ids; 0 and 58 change places
MOVES = tuple({10: -1, 20: -1, 58: 0, 0: 58}.get(index, index) for index in range(BASE))
REPLACE = Expansion(
    method="replace", base_size=BASE, size=BASE, old_to_new=MOVES, new_rows=(10, 20), parts=((1, 2), (10, 20))
)
MODEL = {"layers": 2, "hidden": 32, "heads": 4, "ffn": 64, "max_length": LENGTH, "vocab_multiple": 32}
UNTIED = MODEL
TIED = {**MODEL, "tied": True, "norm": "layer", "activation": "gelu", "bias": True, "positions": "learned"}
BERT = {**TIED, "family": "bert"}
SCALAR = {**MODEL, "head": "scalar"}
SHARDED = {"shard_optimizer": True}
ROWS = ("word_embeddings.weight", "output_layer.weight", "output_layer.bias")


def recipe_of(model, split, precision="fp32", size=BASE):
    from tilth.train.recipe import TrainRecipe

    return TrainRecipe.model_validate(
        {"model": {**model, "vocab_size": size}, "parallel": split, "precision": precision}
        | {"batch": {"size": SIZE, "micro": 4, "length": LENGTH}}
    )


def trainer_of(recipe, rows=(), groups=True):
    from tilth.train.loop import Objective, Trainer

    if groups:
        regroup(recipe.parallel)
    return Trainer(recipe, Objective(goal_of(recipe).arrays), Drawn.sources, rows)


def goal_of(recipe):
    from tilth.train.objective.masked import MaskedModel

    if recipe.model.family == "bert":
        return MaskedModel(begin=0, end=1, mask=2, pad=3, special=(0, 1, 2, 3), vocab_size=recipe.model.vocab_size)
    return recipe.objective()


def train(trainer, first, end):
    from tilth.train.batches import Cut

    recipe, goal = trainer.recipe, goal_of(trainer.recipe)
    cut = Cut(SIZE, 4, trainer.place.data_size, trainer.place.data)
    source = Drawn(recipe.model.vocab_size, goal.length(LENGTH))
    for step in range(first, end):
        trainer.gradients(step, batches_of(source, goal.arrays, cut, step))
        trainer.update(RATE)


def checkpoints_of(folder):
    from tilth.train.checkpoint import CheckpointOptions, Checkpoints

    return Checkpoints(str(folder), CheckpointOptions(keep_last=9))


def base(folder, *case, steps=1):
    """A run with the tokenizer that will be expanded; the trainer is left as it was saved."""
    made = trainer_of(recipe_of(*case))
    train(made, 0, steps)
    checkpoints_of(folder).save(1, made.model, made.optimizer, {})
    return made


def work(case):
    return globals()[case[0]](*case[1:])


# --- the rows --------------------------------------------------------------------------------------------------------


def growth_of(expansion, options, rows):
    return Growth(expansion, mixture(expansion, options), options, rows)


def grown(folder, model, before, after, expansion, method, precisions=("fp32", "fp32")):
    """Weights, whole, before and after; the same of the optimizer's float32 copies; logits of the same text before and
    after; whether the weights are the rounded copies on all ranks."""
    from tilth.train.sharded import MASTER, tensors

    old = base(folder, model, before, precisions[0])
    weights, logits = whole(old.chunks, lambda each: each.data), logits_of(old, lambda tokens: tokens)
    masters = parts_of(old)
    recipe = recipe_of(model, after, precisions[1], expansion.size)
    new = trainer_of(recipe)
    options = EmbedOptions(method=method)
    change = growth_of(expansion, options, recipe.model.rows())
    checkpoints_of(folder).load(1, new.model, new.optimizer, fresh=True, growth=change)
    found = tensors(new.model, new.optimizer)
    rounded = everywhere(
        all(
            torch.equal(copy.data.to(part.dtype), part.data)
            for name, copies in found.items()
            if name.startswith(MASTER)
            for copy, part in itertools.product(copies, found[name.removeprefix(MASTER)])
            if (copy.global_offset, copy.local_shape) == (part.global_offset, part.local_shape)
        )
    )
    result = weights, whole(new.chunks, lambda each: each.data), masters, parts_of(new)
    after_logits = logits_of(new, lambda tokens: torch.tensor(expansion.moves)[tokens])
    train(new, 0, 1)  # and it trains
    return *result, logits, after_logits, rounded


def parts_of(trainer):
    """The float32 copies of weights that the optimizer has, whole."""
    import torch.distributed as dist

    from tilth.train.sharded import MASTER, tensors

    mine = [
        (name.removeprefix(MASTER), tuple(part.global_shape), tuple(part.global_offset), part.data.clone())
        for name, several in tensors(trainer.model, trainer.optimizer).items()
        for part in several
        if name.startswith(MASTER)
    ]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    found = {}
    for name, shape, offset, part in (each for one in everyone for each in one):
        place = tuple(slice(at, at + many) for at, many in zip(offset, part.shape, strict=True))
        found.setdefault(name, torch.full(shape, torch.nan))[place] = part
    return found


def logits_of(trainer, moved):
    """float32[s, b, rows] on a fixed text of old tokens that stay; None for a pipeline."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region
    from megatron.core.utils import get_attr_wrapped_model

    if trainer.recipe.parallel.pipeline > 1 or trainer.recipe.model.family == "t5":
        return None
    tokens = moved(torch.arange(1, 1 + 2 * LENGTH).remainder(9).view(2, LENGTH))
    batch = {"tokens": tokens, "positions": torch.arange(LENGTH).expand(2, -1), "documents": torch.ones_like(tokens)}
    with torch.no_grad():
        found = get_attr_wrapped_model(trainer.model[0].eval(), "read")(batch)
        if parallel_state.get_tensor_model_parallel_world_size() > 1 and trainer.recipe.model.head == "vocabulary":
            found = gather_from_tensor_model_parallel_region(found)
    return found.float()


GROWN = {
    "untied": (UNTIED, {"data": 2}, {"tensor": 2}, ADD, "subword"),
    "tied": (TIED, {"data": 2}, {"tensor": 2}, ADD, "mean"),
    "ids move": (UNTIED, {"pipeline": 2}, {"tensor": 2, "sequence": True}, REPLACE, "mean"),
    "pipeline": (TIED, {"tensor": 2}, {"pipeline": 2, **SHARDED}, ADD, "random"),
    "output bias": (BERT, {"data": 2}, {"tensor": 2}, ADD, "random"),
    "scalar head": (SCALAR, {"data": 2}, {"tensor": 2}, ADD, "subword"),
    "bf16": (BERT, {"tensor": 2}, {"data": 2, **SHARDED}, REPLACE, "subword", ("bf16", "bf16")),
    "to bf16": (TIED, {"data": 2}, {"pipeline": 2}, ADD, "subword", ("fp32", "bf16")),
}


# --- stages ----------------------------------------------------------------------------------------------------------

SWITCH, END = 2, 4  # steps
STAGED = {
    "data": (TIED, {"data": 2}, "fp32"),
    "tensor, sharded, bf16": (UNTIED, {"tensor": 2, **SHARDED}, "bf16"),
    "pipeline, sharded": (TIED, {"pipeline": 2, **SHARDED}, "fp32"),
}


class Staged:
    """A run that trains new rows alone for SWITCH steps, then all, saving after each step: what a rank does."""

    def __init__(self, folder, recipe):
        self.checkpoints, self.start, self.recipe = checkpoints_of(folder), checkpoints_of(f"{folder}/start"), recipe
        self.trainer: Any = None
        self.weights = []  # whole, of each step

    def phase(self, step):
        return "new" if step < SWITCH else "all"

    def run(self, step):
        """Goes on from the checkpoint of `step`, or begins at 0."""
        self.take_up(step)
        self.look()
        for done in range(step + 1, END + 1):
            train(self.trainer, done - 1, done)
            state = {"rows": self.phase(done - 1)}
            self.checkpoints.save(done, self.trainer.model, self.trainer.optimizer, state)
            self.look()
            if done < END and self.phase(done) != state["rows"]:
                self.take_up(done)
        return self

    def take_up(self, step):
        from tilth.train.checkpoint import read_state

        before = (
            [weakref.ref(each) for chunk in self.trainer.chunks for each in chunk.parameters()] if self.trainer else []
        )
        self.trainer = None
        gc.collect()
        assert not any(each() is not None for each in before), "there is memory for one trainer"
        rows = ADD.new_rows if self.phase(step) == "new" else ()
        self.trainer = made = trainer_of(self.recipe, rows, groups=False)
        if step:
            fresh = read_state(self.checkpoints.folder, step)["rows"] != self.phase(step)
            self.checkpoints.load(step, made.model, made.optimizer, fresh=fresh)
        else:
            change = growth_of(ADD, EmbedOptions(), self.recipe.model.rows())
            self.start.load(1, made.model, made.optimizer, fresh=True, growth=change)

    def look(self):
        self.weights.append(whole(self.trainer.chunks, lambda each: each.data))

    def state(self):
        from tilth.train.sharded import tensors

        found = tensors(self.trainer.model, self.trainer.optimizer)
        return [part.data.clone() for key in sorted(found) for part in found[key]]


def staged(folder, model, split, precision):
    """Weights of each step, whole; whether runs that go on from checkpoints of some steps end with the same bits."""
    base(f"{folder}/start", model, {"data": 2}, precision)
    recipe = recipe_of(model, split, precision, ADD.size)
    regroup(recipe.parallel)
    straight = Staged(folder, recipe).run(0)
    again = {step: same(straight.state(), Staged(folder, recipe).run(step).state()) for step in (1, SWITCH)}
    return straight.weights, again


# --- what does not fit -----------------------------------------------------------------------------------------------


def refused(folder):
    """What is said of checkpoints that differ by more than this growth, the model staying as it was."""
    base(folder, UNTIED, {"data": 2})
    cases = {
        "layers": {**UNTIED, "layers": 1},
        "tied": {**UNTIED, "tied": True},
        "width": {**UNTIED, "hidden": 16},
        "rows": UNTIED,
        "no growth": UNTIED,
    }
    told = {}
    regroup(recipe_of(UNTIED, {"tensor": 2}).parallel)
    for name, model in cases.items():
        recipe = recipe_of(model, {"tensor": 2}, size=ADD.size)
        made = trainer_of(recipe, groups=False)
        before = whole(made.chunks, lambda each: each.data)
        expansion = Expansion(method="add", base_size=70, size=71, new_rows=(70,), parts=((1,),))
        change = growth_of(ADD if name != "rows" else expansion, EmbedOptions(), recipe.model.rows())
        more = {"growth": change} if name != "no growth" else {}
        work = partial(checkpoints_of(folder).load, 1, made.model, made.optimizer, fresh=True, **more)
        told[name] = refusal(work)
        after = whole(made.chunks, lambda each: each.data)
        assert all(torch.equal(after[key], before[key]) for key in before)
    return told


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two ranks found in all cases."""
    folder = tmp_path_factory.mktemp("runs")
    cases = {name: ("grown", str(folder / name), *case) for name, case in GROWN.items()}
    cases |= {("staged", name): ("staged", str(folder / f"staged {name}"), *case) for name, case in STAGED.items()}
    cases["refused"] = ("refused", str(folder / "refused"))
    return dict(zip(cases, spawn(2, work, list(cases.values())), strict=True))


slow = pytest.mark.slow  # starts ranks


@slow
@pytest.mark.parametrize("name", GROWN)
def test_rows_are_those_of_tokenize_embed_and_all_else_is_as_it_was(two, name):
    before, after, masters, new_masters, *_ = two[name]
    model, _, _, expansion, method, *precisions = GROWN[name]
    half = precisions and precisions[0][1] == "bf16"
    rows = ModelOptions.model_validate({**model, "vocab_size": expansion.size}).rows()
    assert before.keys() == after.keys()
    grew = [key for key in before if key.endswith(ROWS) and len(before[key]) == 64]
    assert len(grew) == (1 if model in (TIED, SCALAR) else 2)
    for key, value in before.items():
        if key not in grew:
            assert torch.equal(after[key], value.bfloat16().float() if half else value), key
            continue
        assert len(after[key]) == rows
        options = EmbedOptions(method=method, multiple=1)
        if value.dim() == 1 and method == "random":
            options = EmbedOptions(method="mean", multiple=1)
        elif value.dim() == 1:
            options = EmbedOptions(method=method, norm="kept", multiple=1)
        matrix = masters.get(key, value).detach().view(len(value), -1)
        expected = torch.from_numpy(resized(matrix.numpy(), expansion, mixture(expansion, options), options)[0])
        exact = new_masters.get(key, after[key]).view(rows, -1)
        assert torch.equal(exact[: expansion.size], expected), key
        stays = np.flatnonzero(expansion.moves >= 0)
        assert torch.equal(exact[expansion.moves[stays]], matrix[stays]), key
        assert torch.equal(exact[expansion.size :][:3], matrix[BASE:]), key  # padding that was trained
        rest = exact[expansion.size + 3 :]
        torch.testing.assert_close(rest, matrix[:BASE].mean(dim=0).expand_as(rest))


@slow
@pytest.mark.parametrize("name", [name for name, case in GROWN.items() if "pipeline" not in {**case[1], **case[2]}])
def test_old_text_has_the_logits_that_it_had(two, name):
    *_, before, after, rounded = two[name]
    model, _, _, expansion, _, *precisions = GROWN[name]
    assert rounded
    assert before.abs().max() > 0.03
    old = np.flatnonzero(expansion.moves >= 0) if model != SCALAR else [0]
    new = expansion.moves[old] if model != SCALAR else [0]
    close = 0.02 if precisions else None
    torch.testing.assert_close(after[..., new], before[..., old], rtol=close, atol=close)


@slow
@pytest.mark.parametrize("name", STAGED)
def test_new_rows_are_trained_alone_until_the_switch_and_then_all(two, name):
    (first, *weights), _ = two["staged", name]
    assert len(weights) == END
    old = torch.ones(96, dtype=torch.bool)
    old[list(ADD.new_rows)] = False
    for step, after in enumerate(weights, start=1):
        moved = {key for key, value in after.items() if not torch.equal(value, first[key])}
        rows = {key for key in first if key.endswith(ROWS)}
        if step <= SWITCH:
            assert moved == rows
            assert all(torch.equal(after[key][old], first[key][old]) for key in rows)
        else:
            assert moved == set(first)
            assert not any(torch.equal(after[key][old], first[key][old]) for key in rows)


@slow
@pytest.mark.parametrize("name", STAGED)
def test_a_run_that_was_killed_in_any_stage_has_the_same_bits(two, name):
    _, again = two["staged", name]
    assert again == {1: True, SWITCH: True}


@slow
def test_what_differs_otherwise_is_refused_by_name_and_shape(two):
    told = two["refused"]
    assert all(line.startswith("UsageError: ") for line in told.values())
    assert "decoder.layers.self_attention.linear_qkv.weight is 2x96x32 there, 1x96x32 here" in told["layers"]
    assert "output_layer.weight (64x32) is there, not here" in told["tied"]
    assert "embedding.word_embeddings.weight is 64x32 there, 64x16 here" in told["width"]
    assert "embedding.word_embeddings.weight has 64 rows in the checkpoint, and the expansion is of 70" in told["rows"]
    assert "embedding.word_embeddings.weight is 64x32 there, 96x32 here" in told["no growth"]


# --- without ranks ---------------------------------------------------------------------------------------------------


def of_a_run(folder, size):
    """A run of which only the state of a checkpoint is there."""
    place = folder / "run" / "checkpoints" / "step-00000003"
    place.mkdir(parents=True)
    (place / "state.json").write_bytes(orjson.dumps({"model": {"vocab_size": size}}))
    return str(folder / "run")


def tokenizer(folder, expansion=ADD):
    (folder / EXPANSION).write_text(expansion.model_dump_json())
    return folder


def of_size(size):
    return ModelOptions(layers=1, hidden=8, heads=1, vocab_size=size, vocab_multiple=32)


def test_a_growth_follows_from_the_start_and_the_tokenizers_expansion(tmp_path):
    found = growth(tokenizer(tmp_path), of_a_run(tmp_path, BASE), GrowOptions(), of_size(BASE + 4))
    assert found is not None
    assert (found.expansion, found.rows, found.options) == (ADD, 96, EmbedOptions(multiple=1))
    assert growth(None, str(tmp_path / "run"), None, of_size(BASE)) is None


def test_what_stands_beyond_the_tokenizer_goes_behind_the_new_one(tmp_path):
    """T5's sentinels keep their rows."""
    found = growth(tokenizer(tmp_path), of_a_run(tmp_path, BASE + 10), GrowOptions(), of_size(BASE + 14))
    assert found is not None
    old = np.random.default_rng(0).normal(size=(96, 8)).astype(np.float32)
    new = found.grown(old)
    assert new.shape == (96, 8)
    assert np.array_equal(new[BASE + 4 :], old[BASE : BASE + 31])


def test_vectors_make_rows_as_focus_does(tmp_path):
    rng = np.random.default_rng(0)
    vectors, old = (rng.normal(size=(many, 8)).astype(np.float32) for many in (ADD.size, 64))
    np.save(tmp_path / "vectors.npy", vectors)
    options = GrowOptions(method="focus", vectors=str(tmp_path / "vectors.npy"))
    found = growth(tokenizer(tmp_path), of_a_run(tmp_path, BASE), options, of_size(ADD.size))
    assert found is not None
    plain = EmbedOptions(method="focus", multiple=1)
    expected, _ = resized(old, ADD, mixture(ADD, plain, vectors), plain)
    assert np.array_equal(found.grown(old)[: ADD.size], expected)


@pytest.mark.parametrize(
    ("before", "after", "options", "error", "said"),
    [
        (60, 65, GrowOptions(), InputError, "has 60 tokens and the model 65; .*expansion.json goes from 61 to 65"),
        (61, 70, GrowOptions(), InputError, "has 61 tokens and the model 70; .*which makes 65 of them"),
        (61, 65, None, InputError, "has 61 tokens and the model 65; .*say how new rows are made"),
        (61, 65, GrowOptions(method="focus"), UsageError, "focus needs vectors"),
        (61, 65, GrowOptions(method="weighted"), UsageError, "weighted needs the base tokenizer's counts"),
        (61, 65, GrowOptions(method="focus", vectors="no.npy"), InputError, "no.npy: not readable as vectors"),
    ],
)
def test_a_start_that_does_not_fit_is_refused_before_ranks_start(tmp_path, before, after, options, error, said):
    with pytest.raises(error, match=said):
        growth(tokenizer(tmp_path), of_a_run(tmp_path, before), options, of_size(after))


def test_a_tokenizer_that_was_not_expanded_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"expansion\.json: cannot be read"):
        growth(tmp_path, of_a_run(tmp_path, BASE), GrowOptions(), of_size(BASE + 4))
    with pytest.raises(UsageError, match="name the expanded tokenizer's directory"):
        growth(None, str(tmp_path / "run"), GrowOptions(), of_size(BASE + 4))
