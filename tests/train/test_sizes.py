"""Parameters against published models, memory against sums by hand and papers, plans against what is known."""

import json

import pytest

from tilth.cli.train_plan import plan_text
from tilth.errors import UsageError
from tilth.train.budget import (
    BESIROGLU,
    HOFFMANN,
    QUOTED,
    beside_budgets,
    optimal,
    plan,
    ppo,
    ppo_readings,
    seconds,
    token_rules,
)
from tilth.train.model.options import ModelOptions, presets
from tilth.train.parallel import ParallelOptions
from tilth.train.sizes import PARTS, Step, flops, flops_per_token, layer_activations, memory, mfu, parameters

ALONE = ParallelOptions()
GPT2 = {"positions": "learned", "norm": "layer", "activation": "gelu", "bias": True, "tied": True}


def model(preset: str, **changes: object) -> ModelOptions:
    return ModelOptions.model_validate({"preset": preset, **changes})


def small(**changes: object) -> ModelOptions:
    """Width 8, so that sums can be done by hand."""
    shape = {"layers": 2, "hidden": 8, "heads": 2, "ffn": 16, "vocab_size": 10, "max_length": 4}
    return ModelOptions.model_validate({"vocab_multiple": 16, **shape, **changes})


# --- Parameters -----------------------------------------------------------------------------------------------------

# where the original has a part that ours lacks, or the reverse
DIFFERENCES = {
    "falcon-7b": 32 * 2 * 4544,  # a second norm in each layer
    "bloom-560m": -2 * 1024,  # no norm behind the embedding
    "bloom-7b1": -2 * 4096,
    "bert-base": -2 * 768,  # no embeddings of two segments; the norm behind them is now behind the last layer
    "bert-large": -2 * 1024,
    **dict.fromkeys(("t5-small", "t5-base", "t5-large", "t5-3b"), 32128),  # a bias for each word at the head
}


@pytest.mark.parametrize("name", presets())
def test_a_preset_has_the_parameters_that_were_published(name: str) -> None:
    assert parameters(model(name))["total"] == presets()[name]["parameters"] + DIFFERENCES.get(name, 0)
    assert presets()[name]["source"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("llama-7b", 6.74e9),
        ("gpt2", 124e6),
        ("gpt3-175b", 175e9),
        ("bert-base", 110e6),
        ("t5-base", 223e6),
        ("31m", 31.2e6),
    ],
)
def test_the_numbers_that_everybody_knows(name: str, said: float) -> None:
    assert parameters(model(name))["total"] == pytest.approx(said, rel=5e-3)


def test_presets_reach_from_2_million_to_70_billion() -> None:
    counts = [parameters(model(name))["total"] for name in presets()]
    assert min(counts) < 2e6
    assert max(counts) > 70e9
    assert parameters(model("tiny"))["total"] == pytest.approx(3e6, rel=0.1)


def test_parts_make_the_total_and_padding_stands_apart() -> None:
    for name in presets():
        counts = parameters(model(name))
        assert sum(counts[part] for part in PARTS) == counts["total"]
    assert parameters(model("gpt2"))["padding"] == (50304 - 50257) * 768
    assert parameters(model("gpt2", tied=False))["padding"] == 2 * (50304 - 50257) * 768


def test_of_mixtral_a_token_meets_13_of_47_billion() -> None:
    counts = parameters(model("mixtral-8x7b"))
    assert counts["active"] == 12_879_925_248
    assert counts["router"] == 32 * 8 * 4096


def test_a_small_model_counted_by_hand() -> None:
    counts = parameters(small())
    assert counts["embedding"] == counts["head"] == 80
    assert counts["attention"] == 2 * (8 * 24 + 8 * 8)
    assert counts["feed_forward"] == 2 * (8 * 32 + 16 * 8)
    assert counts["norms"] == 2 * 2 * 8 + 8
    assert counts["padding"] == 2 * 6 * 8
    with_biases = parameters(small(bias=True, qk_norm=True, norm="layer"))
    assert with_biases["attention"] - counts["attention"] == 2 * (24 + 8)
    assert with_biases["feed_forward"] - counts["feed_forward"] == 2 * (32 + 8)
    assert with_biases["norms"] == 2 * counts["norms"] + 2 * 2 * 2 * 4


def test_a_reward_model_has_one_row_in_place_of_the_vocabulary() -> None:
    full, scalar = parameters(model("llama-7b")), parameters(model("llama-7b", head="scalar"))
    assert full["total"] - scalar["total"] == 32000 * 4096 - 4096
    assert parameters(model("gpt2", head="scalar"))["head"] == 768


# --- Operations -----------------------------------------------------------------------------------------------------


def test_operations_are_six_for_each_matrix_element_and_twelve_for_scores() -> None:
    shape, length = model("llama-7b"), 2048
    counts, cost = parameters(shape), flops(shape, length)
    assert cost.scores == 12 * 32 * 4096 * length
    assert cost.projections == 6 * counts["attention"]
    assert cost.total == 6 * (counts["total"] - counts["embedding"] - counts["norms"]) + cost.scores
    assert flops_per_token(shape, length) == cost.total


def test_a_tied_head_costs_what_an_untied_one_does() -> None:
    assert flops_per_token(model("gpt2"), 1024) == flops_per_token(model("gpt2", tied=False), 1024)


def test_scores_grow_with_length_squared_and_stop_at_the_window() -> None:
    shape = model("mistral-7b")
    per_sequence = {length: flops(shape, length).scores * length for length in (2048, 4096, 8192)}
    assert per_sequence[4096] == 4 * per_sequence[2048]
    assert per_sequence[8192] == 2 * per_sequence[4096]
    shares = [flops(model("llama-7b"), length).scores_share for length in (512, 4096, 32768)]
    assert shares == sorted(shares)
    assert shares[-1] > 0.5


def test_experts_cost_what_a_token_meets() -> None:
    dense = small(positions="none", ffn=32)
    experts = small(positions="none", experts={"number": 4, "per_token": 2, "ffn": 16})
    router = 6 * 2 * 8 * 4
    assert flops_per_token(experts, 4) == flops_per_token(dense, 4) + router


def test_t5_costs_its_encoder_for_what_it_reads_and_its_decoder_for_what_it_writes() -> None:
    shape = small(family="t5", positions="relative", activation="relu", tied=True)
    encoder, decoder, keys, head = 2 * (256 + 256), 2 * (256 + 128 + 256), 2 * 128, 80
    pairs = 4 * 4 + 2 * 2 + 2 * 4
    expected = 6 * (4 * (encoder + keys) + 2 * (decoder + head)) + 12 * 2 * 8 * pairs
    assert flops(shape, 4, 2).total * 6 == pytest.approx(expected)
    assert flops(model("t5-base"), 512) == flops(model("t5-base"), 512, 114)


def test_mfu_of_palm_as_its_paper_reckons_it() -> None:
    """Chowdhery et al. 2022, appendix B: 238,300 tokens a second on 6,144 TPU v4 of 275 TFLOP/s are 46.2%."""
    per_token = 6 * 540.35e9 + 12 * 118 * 48 * 256 * 2048
    assert mfu(238.3e3, per_token, 275e12, 6144) == pytest.approx(0.462, abs=2e-3)


# --- Memory ---------------------------------------------------------------------------------------------------------


def activations(shape: ModelOptions, split: ParallelOptions, step: Step) -> float:
    return layer_activations(shape, split, step, step.length)


@pytest.mark.parametrize("t", [1, 4])
def test_a_layer_keeps_what_korthikanti_et_al_reckon(t: int) -> None:
    """2205.05198, equations of section 4.1 to 4.2.2, in bytes for a token of width h with a heads and s tokens."""
    shape = model("gpt3-175b", dropout=0.1, attention_dropout=0.1)
    h, a, s = 12288, 96, 2048
    plain = Step(s, flash=False)
    assert activations(shape, ParallelOptions(tensor=t), plain) == pytest.approx(10 * h + (24 * h + 5 * a * s) / t)
    if t > 1:
        split = ParallelOptions(tensor=t, sequence=True)
        assert activations(shape, split, plain) == pytest.approx((34 * h + 5 * a * s) / t)
        selective = plain._replace(recompute="selective")
        assert activations(shape, split, selective) == pytest.approx(34 * h / t)


def test_flash_attention_keeps_a_number_for_each_head_where_scores_would_be() -> None:
    shape = model("gpt3-175b")
    with_scores, without = (activations(shape, ALONE, Step(2048, flash=flash)) for flash in (False, True))
    assert with_scores - without == 96 * (2048 * 2 - 4)


def test_weights_and_optimizer_take_megatrons_bytes() -> None:
    """Megatron-core, distributed optimizer: 18 and 6 + 12/d bytes for bf16, 16 and 8 + 8/d for fp32."""
    for precision, whole, (fixed, sharded) in (("bf16", 18, (6, 12)), ("fp16", 18, (6, 12)), ("fp32", 16, (8, 8))):
        step = Step(4, precision=precision)  # pyright: ignore[reportArgumentType]
        count = sum(parameters(small())[key] for key in ("total", "padding"))
        assert state_bytes(memory(small(), ParallelOptions(data=4), step)[0]) == whole * count
        (row,) = memory(small(), ParallelOptions(data=4, shard_optimizer=True), step)
        assert state_bytes(row) == (fixed + sharded / 4) * count
        assert row["parameters"] == count


def state_bytes(row: dict[str, int]) -> int:
    return row["weights"] + row["gradients"] + row["optimizer"]


def test_optimizers_keep_their_states() -> None:
    count = sum(parameters(small())[key] for key in ("total", "padding"))
    for optimizer, states in (("adamw", 2), ("lamb", 2), ("sgd", 1), ("adagrad", 1)):
        step = Step(4, precision="fp32", optimizer=optimizer)  # pyright: ignore[reportArgumentType]
        assert memory(small(), ALONE, step)[0]["optimizer"] == 4 * states * count


def test_ranks_hold_the_model_once_with_what_is_not_split_on_each() -> None:
    shape = small(layers=4, bias=True, norm="layer")
    stages = memory(shape, ParallelOptions(tensor=2, pipeline=2), Step(4))
    counts = parameters(shape)
    row_biases = 4 * (8 + 8)
    held = counts["total"] + counts["padding"] + counts["norms"] + row_biases  # both tensor ranks have these
    assert 2 * sum(row["parameters"] for row in stages) == held


def test_the_last_stage_has_its_own_copy_of_a_tied_embedding() -> None:
    first, last = memory(small(tied=True), ParallelOptions(pipeline=2), Step(4))
    assert last["parameters"] - first["parameters"] == 8  # the last norm


def test_experts_are_dealt_over_ranks_and_the_rest_is_not() -> None:
    shape = small(experts={"number": 4})
    (alone,), (dealt,) = (memory(shape, ParallelOptions(data=4, expert=e), Step(4)) for e in (1, 4))
    assert alone["parameters"] - dealt["parameters"] == parameters(shape)["experts"] * 3 // 4
    (sharded,) = memory(shape, ParallelOptions(data=4, expert=4, shard_optimizer=True), Step(4))
    experts = parameters(shape)["experts"] // 4
    rest = sharded["parameters"] - experts
    assert sharded["optimizer"] == 12 * (experts + rest / 4)  # each expert has one rank, the rest four


def test_activations_of_a_small_model_by_hand() -> None:
    """fp32, two layers, three sequences of four tokens, one micro-batch."""
    norms, turned, attention, rows, gate = 4 * 8, 16, 32, 2, 5 * 16
    layer = 4 * (norms + turned + attention + rows + gate)
    (row,) = memory(small(), ALONE, Step(4, micro_batch=3, precision="fp32"))
    assert row["activations"] == 12 * (2 * layer + 4 * 2 * 8)
    assert row["logits"] == 12 * 16 * 4
    (recomputed,) = memory(small(), ALONE, Step(4, micro_batch=3, precision="fp32", recompute="full"))
    assert recomputed["activations"] == 12 * (2 * 4 * 8 + layer + 4 * 2 * 8)


def test_a_pipelines_first_stage_holds_the_most_micro_batches() -> None:
    shape = small(layers=8)
    kept = [row["activations"] for row in memory(shape, ParallelOptions(pipeline=4), Step(4, micro_batches=8))]
    once = kept[-1] - 4 * 2 * 2 * 8  # inputs of the last norm and head
    assert kept[:-1] == [4 * once, 3 * once, 2 * once]
    few = [row["activations"] for row in memory(shape, ParallelOptions(pipeline=4), Step(4, micro_batches=2))]
    assert few[:2] == [2 * once, 2 * once]
    interleaved = memory(shape, ParallelOptions(pipeline=4, virtual=2), Step(4, micro_batches=8))
    assert interleaved[0]["activations"] == pytest.approx(4 * once * (1 + 3 / (4 * 2)))  # Korthikanti et al., 4.2.3


def test_context_parallelism_splits_what_a_sequence_keeps() -> None:
    whole, part = (memory(small(), ParallelOptions(context=size), Step(4))[0] for size in (1, 2))
    assert (part["activations"], part["logits"]) == (whole["activations"] / 2, whole["logits"] / 2)


def test_a_split_that_does_not_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(UsageError, match="pipeline=3 does not divide 32 layers"):
        memory(model("llama-7b"), ParallelOptions(pipeline=3), Step(2048))


# --- Tokens, compute, PPO, budgets ----------------------------------------------------------------------------------


def test_chinchillas_compute_gives_chinchilla() -> None:
    split = optimal(6 * 70e9 * 1.4e12)
    assert split["rule"] == pytest.approx({"parameters": 70e9, "tokens": 1.4e12, "per_parameter": 20})
    assert split["besiroglu"]["parameters"] == pytest.approx(70e9, rel=0.05)
    for each in split.values():
        assert 6 * each["parameters"] * each["tokens"] == pytest.approx(6 * 70e9 * 1.4e12)


def test_approach_3_gives_what_its_paper_says_for_gophers_compute() -> None:
    """Hoffmann et al. 2022: a = 0.46 and b = 0.54 (table 2), and 40B parameters for 5.76e23 operations."""
    assert HOFFMANN.beta / (HOFFMANN.alpha + HOFFMANN.beta) == pytest.approx(0.46, abs=5e-3)
    assert HOFFMANN.optimum(5.76e23)[0] == pytest.approx(40e9, rel=0.02)


@pytest.mark.parametrize("fit", [HOFFMANN, BESIROGLU])
def test_no_other_split_of_the_compute_has_a_lower_loss(fit) -> None:
    size, tokens = fit.optimum(1e21)
    for factor in (0.8, 0.95, 1.05, 1.25):
        assert fit.loss(size * factor, tokens / factor) > fit.loss(size, tokens)


def test_more_compute_wants_more_of_both() -> None:
    less, more = optimal(1e20), optimal(1e22)
    for name in less:
        assert more[name]["parameters"] > less[name]["parameters"]
        assert more[name]["tokens"] > less[name]["tokens"]


def test_tokens_are_told_by_both_rules() -> None:
    gpt3, chinchilla = token_rules(175 * 10**9, 300e9), token_rules(70 * 10**9, 1.4e12)
    assert [rule["per_parameter"] for rule in gpt3["rules"]] == [1.7, 20]
    assert gpt3["rules"][0]["tokens"] == pytest.approx(300e9, rel=0.01)
    assert chinchilla["rules"][1]["tokens"] == 1.4e12
    assert "300B tokens are 1.71 for each parameter, far from the 20" in gpt3["warning"]
    assert "3.5T tokens this model" in gpt3["warning"]
    assert chinchilla["warning"] is None
    assert "used a lot" in token_rules(8 * 10**9, 15e12)["warning"]


def test_ppo_of_llama_7b_takes_the_240_gigabytes_that_are_quoted() -> None:
    first, *others = ppo_readings(model("llama-7b"))
    assert first["bytes"] == pytest.approx(QUOTED, rel=1e-3)
    assert all(abs(each["bytes"] - QUOTED) > abs(first["bytes"] - QUOTED) for each in others)
    assert [each["name"] for each in first["models"]] == ["actor", "critic", "ref", "reward"]
    assert [each["trained"] for each in first["models"]] == [True, True, False, False]
    assert sum(each.bytes for each in ppo(7 * 10**9, 7 * 10**9)) == 252e9


def test_a_shared_backbone_makes_three_models_of_four() -> None:
    models = ppo(7 * 10**9, 7 * 10**9, shared=True)
    assert [each.name for each in models] == ["actor and critic", "ref", "reward"]
    assert sum(each.bytes for each in models) == 140e9


def test_llama_7b_lies_within_the_rough_budget_but_for_its_days() -> None:
    operations = flops_per_token(model("llama-7b"), 2048) * 1e12
    found = beside_budgets("pretraining", 6_738_415_616, 1e12, operations)
    assert {name: each["lies"] for name, each in found["ours"].items()} == {
        "tokens": "within",
        "parameters": "within",
        "days": "below",
    }
    assert found["ours"]["days"]["value"] == pytest.approx(operations / (1000 * 312e12 * 0.4) / 86400)
    assert set(beside_budgets("rl", 7e9, 1e6, 1e18)["ours"]) == {"parameters", "days"}
    assert beside_budgets("reward", 7e9, 2e6, 1e17)["ours"]["parameters"]["lies"] == "above"


# --- The plan -------------------------------------------------------------------------------------------------------


def test_a_plan_is_json_and_its_numbers_agree() -> None:
    split = ParallelOptions(tensor=4, sequence=True, pipeline=2, data=8, shard_optimizer=True)
    step = Step(2048, micro_batches=16)
    found = plan(model("llama-7b"), split, step, tokens=1e12)
    assert plan_text(json.loads(json.dumps(found))) == plan_text(found)
    assert found["time"]["devices"] == 64
    assert found["time"]["seconds"] == seconds(found["flops"]["total"], 64, 312e12, 0.4)
    achieved = mfu(found["time"]["tokens_per_second"], found["flops"]["per_token"], 312e12, 64)
    assert achieved == pytest.approx(0.4)
    assert found["memory"]["peak"] == max(row["total"] for row in memory(model("llama-7b"), split, step))
    even = round(found["flops"]["even_length"])
    assert flops(model("llama-7b"), even).scores_share == pytest.approx(0.5, abs=1e-3)


def test_a_plan_tells_what_does_not_fit_and_what_is_odd() -> None:
    found = plan(model("llama-7b"), ALONE, Step(2048), tokens=11e9)
    assert not found["memory"]["fits"]
    assert "stage 0 needs" in found["warnings"][0]
    assert "the device has 80" in found["warnings"][0]
    assert "far from the 20" in found["warnings"][1]
    wide = plan(model("gpt3-175b", head_size=12288), ALONE, Step(2048), device_memory=1e15)
    assert wide["warnings"] == [
        "head_size 12288 is as wide as the model (12288), for each of 96 heads; usual is hidden / heads = 128"
    ]
    assert plan(model("gpt3-175b"), ALONE, Step(2048), device_memory=1e15)["warnings"] == []


def test_a_plan_takes_a_device_by_name_or_by_its_numbers() -> None:
    tiny = model("tiny")
    assert plan(tiny, ALONE, Step(512), device="h200")["time"]["peak"] == 989e12
    assert plan(tiny, ALONE, Step(512, precision="fp32"))["time"]["peak"] == 156e12
    own = plan(tiny, ALONE, Step(512), peak=1e11, device_memory=8e9, devices=2)
    assert (own["time"]["peak"], own["time"]["devices"], own["memory"]["device_memory"]) == (1e11, 2, 8e9)
    with pytest.raises(UsageError, match="device b52: not known; there are v100, a100"):
        plan(tiny, ALONE, Step(512), device="b52")


def test_the_text_of_a_plan_holds_what_it_is_asked_for() -> None:
    split = ParallelOptions(tensor=4, sequence=True, pipeline=2, data=8, shard_optimizer=True)
    text = plan_text(plan(model("llama-7b"), split, Step(2048, micro_batches=16), tokens=1e12))
    for part in (
        "llama-7b: 6,738,415,616 parameters (6.74B)",
        "Time: 62.1 days at 40% MFU on 64 x a100",
        "1.7 for each would be  11.5B",
        "20 for each would be   135B",
        "18.9B parameters,   378B tokens",
        "240.2  bf16 with Adam: 16 bytes trained, 2 frozen (actor 107.8, critic 105.7, ref 13.5, reward 13.2)",
        "1000 x A100  50-200 days",
        "1T tokens (within), 6.74B parameters (within), 3.98 days on 1,000 x A100 (below)",
        "Note: 1T tokens are 148 for each parameter",
    ):
        assert part in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("Note")) <= 120


@pytest.mark.parametrize("name", ["tiny", "mixtral-8x7b", "bert-base", "t5-base", "bloom-7b1"])
def test_every_kind_of_model_has_a_plan_that_can_be_read(name: str) -> None:
    shape = model(name)
    text = plan_text(plan(shape, ALONE, Step(512)))
    assert text.startswith(f"{name}: ")
    assert ("PPO" in text) == (shape.family == "gpt")
