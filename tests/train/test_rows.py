"""Only new tokens' rows are trained: nothing else moves by a bit, and they move alike however a model is split."""

import json

import pytest
import torch
from ranks import Drawn, batches_of, regroup, spawn, whole

from tilth.errors import InputError
from tilth.train.rows import read_rows

pytestmark = pytest.mark.slow  # starts ranks

LENGTH, SIZE, RATE, STEPS, VOCAB = 16, 8, 1e-2, 20, 200
MODEL = {"layers": 2, "hidden": 32, "heads": 4, "ffn": 64, "vocab_size": VOCAB, "max_length": LENGTH}
UNTIED = MODEL
TIED = {**MODEL, "tied": True, "norm": "layer", "activation": "gelu", "bias": True, "positions": "learned"}
BERT = {**TIED, "family": "bert"}
SCALAR = {**MODEL, "head": "scalar"}
ROWS = (7, 120, 130, 199)  # in both halves of the padded vocabulary; the last one occurs in no text
BY_TOKEN = ("embedding.word_embeddings.weight", "output_layer.weight", "output_layer.bias")
WHOLE = {"data": 2}
SPLITS = ({"tensor": 2}, {"tensor": 2, "sequence": True}, {"pipeline": 2})


def trained(case):
    """Weights before and after, and the optimizer's memory, whole."""
    from tilth.train.batches import Cut
    from tilth.train.loop import Objective, Trainer
    from tilth.train.objective.masked import MaskedModel
    from tilth.train.recipe import TrainRecipe

    model, split, more = case
    recipe = TrainRecipe.model_validate(
        {"model": model, "parallel": split, "precision": "fp32", **more}
        | {"batch": {"size": SIZE, "micro": 4, "length": LENGTH}}
    )
    assert recipe.optimizer.weight_decay == 0.1
    regroup(recipe.parallel)
    goal = recipe.objective()
    if recipe.model.family == "bert":
        goal = MaskedModel(begin=0, end=1, mask=2, pad=3, special=(0, 1, 2, 3), vocab_size=VOCAB)
    made = Trainer(recipe, Objective(goal.arrays), Drawn.sources, ROWS)
    before = whole(made.chunks, lambda parameter: parameter.data)
    cut = Cut(SIZE, 4, made.place.data_size, made.place.data)
    source = Drawn(VOCAB - 20, goal.length(LENGTH))
    for step in range(STEPS):
        made.gradients(step, batches_of(source, goal.arrays, cut, step))
        made.update(RATE)
    return before, whole(made.chunks, lambda parameter: parameter.data), memory(made)


def memory(made):
    """The optimizer's states by global name, put together from all ranks."""
    import torch.distributed as dist

    from tilth.train.sharded import tensors

    parts = [
        (name, tuple(part.global_shape), tuple(part.global_offset), part.data.clone().view(part.local_shape))
        for name, several in tensors(made.chunks, made.optimizer).items()
        for part in several
        if name.startswith("optimizer.state.exp_avg")
    ]
    everyone = [[]] * dist.get_world_size()
    dist.all_gather_object(everyone, parts)
    found = {}
    for name, shape, offset, part in (each for one in everyone for each in one):
        place = tuple(slice(start, start + size) for start, size in zip(offset, part.shape, strict=True))
        found.setdefault(name, torch.full(shape, torch.nan))[place] = part
    return found


SHARDED = {"shard_optimizer": True}
MORE = [
    (UNTIED, {"tensor": 2}, {}),
    (UNTIED, {"pipeline": 2}, {}),
    *[(BERT, split, {"precision": "bf16"}) for split in (WHOLE, {"tensor": 2, **SHARDED})],
    *[(TIED, WHOLE, {"optimizer": {"name": name}}) for name in ("adam", "sgd", "adagrad")],
    (SCALAR, {"tensor": 2}, {}),
]
CASES = {
    2: [
        *[(TIED, {**split, **more}, {}) for split in (WHOLE, {"tensor": 2}, {"pipeline": 2}) for more in ({}, SHARDED)],
        *[(UNTIED, {**split, **SHARDED}, {}) for split in (WHOLE, *SPLITS)],
        *MORE,
    ],
    3: [({**UNTIED, "layers": 3}, {"pipeline": 3, **more}, {}) for more in ({}, SHARDED)],
}


@pytest.fixture(scope="module")
def two():
    return dict(zip(map(str, CASES[2]), spawn(2, trained, CASES[2]), strict=True))


def check(case, before, after, states):
    """Nothing but the new rows has moved or is remembered, and these have."""
    model, _, more = case
    old = torch.ones(256, dtype=torch.bool)
    old[list(ROWS)] = False
    by_token = [name for name in before if name.endswith(BY_TOKEN) and len(before[name]) == len(old)]
    assert len(by_token) == {str(UNTIED): 2, str(BERT): 2, str(CASES[3][0][0]): 2}.get(str(model), 1)
    for name, value in before.items():
        if name not in by_token:
            assert torch.equal(after[name], value), name
            continue
        assert torch.equal(after[name][old], value[old]), name
        seen = list(ROWS[:3]) if name.startswith("embedding") and not model.get("tied") else list(ROWS)
        assert (after[name] != value)[seen].view(len(seen), -1).any(dim=1).all(), name
    if "optimizer" not in more:
        kept = {f"optimizer.state.{state}.{name}" for name in by_token for state in ("exp_avg", "exp_avg_sq")}
        assert states.keys() == kept
        for name, value in states.items():
            assert not value[old].any(), name  # nor is there a NaN: each element lies on some rank
            assert value[list(ROWS[:3])].view(3, -1).any(dim=1).all(), name


@pytest.mark.parametrize("case", CASES[2], ids=str)
def test_old_rows_and_everything_else_stay_bit_for_bit_and_new_rows_do_not(two, case):
    check(case, *two[str(case)])


@pytest.mark.parametrize("model", [UNTIED, TIED], ids=("untied", "tied"))
def test_new_rows_move_alike_however_a_model_is_split(two, model):
    cases = [case for case in CASES[2] if case[0] == model and not case[2]]
    assert len(cases) == 6
    _, expected, _ = two[str(cases[0])]
    for case in cases[1:]:
        _, reached, _ = two[str(case)]
        assert reached.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(reached[name], value, rtol=0, atol=0.01 * RATE * STEPS, msg=f"{case} {name}")


def test_pipeline_stages_with_nothing_to_train_pass_gradients_on():
    for case, result in zip(CASES[3], spawn(3, trained, CASES[3]), strict=True):
        check(case, *result)


def test_rows_are_read_from_what_tokenize_wrote(tmp_path):
    place = tmp_path / "new_rows.json"
    place.write_text(json.dumps({"new_rows": [61, 62], "size": 63, "rows": 128, "method": "mean", "tensors": []}))
    assert read_rows(place) == [61, 62]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "names no new_rows"),
        ('{"new_rows": [1, -2]}', "names no new_rows"),
        ('{"new_rows": [true]}', "names no new_rows"),
        ('{"new_rows": []}', "no row is new"),
    ],
)
def test_other_files_are_refused(tmp_path, text, said):
    place = tmp_path / "new_rows.json"
    place.write_text(text)
    with pytest.raises(InputError, match=said):
        read_rows(place)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"new_rows\.json: cannot be read \(No such file"):
        read_rows(tmp_path / "new_rows.json")
