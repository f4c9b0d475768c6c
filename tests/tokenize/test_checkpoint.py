"""Model directories with a changed vocabulary: what is old stays, models load, and nothing is left half-written."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from expansions import ADD, BASE, REPLACE, REPLACED
from safetensors.torch import load_file, save_file

from tilth.errors import DirectoryConflict, ModelError, NoSpaceLeft
from tilth.tokenize.checkpoint import embed, only_embeddings
from tilth.tokenize.embed import EmbedOptions
from tilth.tokenize.expansion import Expansion, read

SIZES: dict[str, Any] = {"vocab_size": BASE, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = torch.tensor([[1, 5, 60, 7, 33, 2, 9]])


def llama(tied: bool) -> Any:
    config = transformers.LlamaConfig(
        **SIZES, intermediate_size=40, num_key_value_heads=2, tie_word_embeddings=tied, eos_token_id=58, bos_token_id=1
    )
    return transformers.LlamaForCausalLM(config)


def gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=BASE, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def bert() -> Any:
    config = transformers.BertConfig(**SIZES, intermediate_size=40, max_position_embeddings=32)
    return transformers.BertForMaskedLM(config)


def neox() -> Any:
    config = transformers.GPTNeoXConfig(**SIZES, intermediate_size=40, tie_word_embeddings=False)
    return transformers.GPTNeoXForCausalLM(config)


def t5() -> Any:
    config = transformers.T5Config(vocab_size=BASE, d_model=16, d_kv=8, d_ff=40, num_layers=1, num_heads=2)
    return transformers.T5ForConditionalGeneration(config)


MODELS = {
    "llama": lambda: llama(False), "llama-tied": lambda: llama(True), "gpt2": gpt2, "bert": bert, "neox": neox, "t5": t5
}  # fmt: skip


def saved(model: Any, place: Path, shard: str = "5GB") -> Path:
    torch.manual_seed(7)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.1 + 0.03
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    model.save_pretrained(place, max_shard_size=shard)
    return place


def tensors(place: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in place.glob("*.safetensors") for name, tensor in load_file(file).items()}


def loaded(place: Path) -> Any:
    architecture = json.loads((place / "config.json").read_text())["architectures"][0]
    model, told = getattr(transformers, architecture).from_pretrained(place, output_loading_info=True, dtype="auto")
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not told["mismatched_keys"]
    return model.eval()


def run(model: Any, ids: torch.Tensor) -> Any:
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, output_hidden_states=True, **more)


def inner(outcome: Any) -> torch.Tensor:
    return (outcome.hidden_states if "hidden_states" in outcome else outcome.decoder_hidden_states)[-1]


# --- models of transformers ---


@pytest.mark.parametrize("name", MODELS)
def test_a_grown_model_does_to_old_tokens_what_it_did(name: str, tmp_path: Path):
    base = saved(MODELS[name](), tmp_path / "base")
    report = embed(base, ADD, None, tmp_path / "out", EmbedOptions(multiple=8))

    before, after = loaded(base), loaded(tmp_path / "out")
    assert after.config.vocab_size == report["rows"] == 72
    assert torch.equal(inner(run(before, IDS)), inner(run(after, IDS)))
    torch.testing.assert_close(run(after, IDS).logits[..., :BASE], run(before, IDS).logits, rtol=0, atol=1e-5)
    old, new = tensors(base), tensors(tmp_path / "out")
    assert {key for key in new if new[key].shape != old[key].shape} == set(report["tensors"])
    for key in old:
        assert torch.equal(new[key][:BASE] if key in report["tensors"] else new[key], old[key])
    assert run(after, torch.arange(72)[None, 40:]).logits.isfinite().all()


def test_embedding_head_and_bias_are_all_found(tmp_path: Path):
    found = {}
    for name in MODELS:
        base = saved(MODELS[name](), tmp_path / name)
        found[name] = embed(base, ADD, None, tmp_path / f"{name}-out", EmbedOptions())["tensors"]
    assert found["llama"] == ["lm_head.weight", "model.embed_tokens.weight"]
    assert found["llama-tied"] == ["model.embed_tokens.weight"]
    assert found["gpt2"] == ["transformer.wte.weight"]
    assert found["neox"] == ["embed_out.weight", "gpt_neox.embed_in.weight"]
    assert found["t5"] == ["shared.weight"]
    assert found["bert"] == ["bert.embeddings.word_embeddings.weight", "cls.predictions.bias"]


def test_new_rows_are_reported_and_have_the_median_norm(tmp_path: Path):
    base = saved(llama(False), tmp_path / "base")
    report = embed(base, ADD, None, tmp_path / "out", EmbedOptions(multiple=32))
    assert report == json.loads((tmp_path / "out/new_rows.json").read_text())
    assert report["new_rows"] == [61, 62, 63, 64]
    assert (report["size"], report["rows"], report["method"]) == (65, 96, "subword")
    for name in report["tensors"]:
        old, new = tensors(base)[name], tensors(tmp_path / "out")[name]
        median = np.median(old.norm(dim=1).numpy())
        np.testing.assert_allclose(new[61:65].norm(dim=1), median, rtol=1e-5)
        torch.testing.assert_close(new[65:], old.mean(0).expand(31, -1))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_stays_and_old_rows_keep_their_bits(kind: torch.dtype, tmp_path: Path):
    base = saved(llama(True).to(kind), tmp_path / "base")
    embed(base, ADD, None, tmp_path / "out", EmbedOptions(multiple=8))
    old, new = (tensors(place)["model.embed_tokens.weight"] for place in (base, tmp_path / "out"))
    assert new.dtype == kind
    assert torch.equal(new[:BASE].view(torch.int16), old.view(torch.int16))
    assert loaded(tmp_path / "out").dtype == kind


def test_of_a_sharded_model_only_shards_with_the_vocabulary_are_written(tmp_path: Path):
    base = saved(llama(False), tmp_path / "base", shard="6KB")
    report = embed(base, ADD, None, tmp_path / "out", EmbedOptions(multiple=8))
    before, after = (
        json.loads((place / "model.safetensors.index.json").read_text()) for place in (base, tmp_path / "out")
    )
    assert after["weight_map"] == before["weight_map"]
    assert len(set(after["weight_map"].values())) > 3
    assert after["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors(tmp_path / "out").values())
    rewritten = {after["weight_map"][name] for name in report["tensors"]}
    for shard in set(after["weight_map"].values()):
        assert (base / shard).samefile(tmp_path / "out" / shard) == (shard not in rewritten)
    old, new = loaded(base), loaded(tmp_path / "out")
    assert torch.equal(inner(run(old, IDS)), inner(run(new, IDS)))


def test_replaced_ids_lead_to_the_same_model(tmp_path: Path):
    base = saved(llama(False), tmp_path / "base")
    embed(base, REPLACE, None, tmp_path / "out", EmbedOptions(multiple=1))
    before, after = loaded(base), loaded(tmp_path / "out")
    moves = torch.tensor(REPLACED)
    ids = torch.tensor([[58, 1, 0, 44, 60]])
    assert torch.equal(inner(run(before, ids)), inner(run(after, moves[ids])))
    stays = moves >= 0
    torch.testing.assert_close(
        run(after, moves[ids]).logits[..., moves[stays]], run(before, ids).logits[..., stays], rtol=0, atol=1e-5
    )
    assert after.config.vocab_size == BASE
    assert after.config.eos_token_id == after.generation_config.eos_token_id == 0
    assert after.config.bos_token_id == 1


def test_pruning_leaves_fewer_rows_and_none_new(tmp_path: Path):
    base = saved(gpt2(), tmp_path / "base")
    moves = tuple(index if index < 50 else -1 for index in range(BASE))
    prune = Expansion(method="prune", base_size=BASE, size=50, old_to_new=moves, new_rows=(), parts=())
    report = embed(base, prune, None, tmp_path / "out", EmbedOptions(multiple=1))
    assert (report["rows"], report["new_rows"]) == (50, [])
    ids = IDS.clamp(max=49)
    assert torch.equal(inner(run(loaded(base), ids)), inner(run(loaded(tmp_path / "out"), ids)))


def test_padding_of_the_base_is_dropped(tmp_path: Path):
    base = saved(llama(False), tmp_path / "base")  # 61 rows for a tokenizer of 57: four are padding
    smaller = Expansion(method="add", base_size=57, size=59, new_rows=(57, 58), parts=((1,), (2, 3)))
    embed(base, smaller, None, tmp_path / "out", EmbedOptions(multiple=1, norm="kept"))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        old, new = tensors(base)[name], tensors(tmp_path / "out")[name]
        assert new.shape[0] == 59
        torch.testing.assert_close(new[57:], torch.stack([old[1], old[2:4].mean(0)]))


@pytest.mark.parametrize("method", ["random", "mean", "subword", "weighted", "focus"])
def test_the_same_request_gives_the_same_bytes(method: Any, tmp_path: Path):
    base = saved(bert(), tmp_path / "base")
    counted = ADD.model_copy(update={"base_counts": tuple(range(BASE))})
    vectors = np.random.default_rng(0).normal(size=(ADD.size, 8)).astype(np.float32)
    for name in ("one", "two"):
        embed(base, counted, None, tmp_path / name, EmbedOptions(method=method), vectors)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["config.json", "model.safetensors", "new_rows.json"]
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_tokenizer_travels_and_must_be_the_expansions(tmp_path: Path):
    base = saved(gpt2(), tmp_path / "base")
    tokenizer = tmp_path / "tokenizer"
    vocabulary = {chr(0x4E00 + index): index for index in range(ADD.size)}
    rest = {"unk_token": "\u4e00", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    model = {"type": "WordPiece", "vocab": vocabulary, **rest}
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text(json.dumps({"model": model}))
    (tokenizer / "expansion.json").write_text(ADD.model_dump_json())
    (tokenizer / "report.html").write_text("no business of a model")
    assert read(tokenizer) == ADD
    embed(base, ADD, tokenizer, tmp_path / "out", EmbedOptions())
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (tokenizer / "tokenizer.json").read_bytes()
    assert (tmp_path / "out/expansion.json").exists()
    assert not (tmp_path / "out/report.html").exists()
    with pytest.raises(ModelError, match=r"65 ids, and the expansion makes 61"):
        embed(base, REPLACE, tokenizer, tmp_path / "other", EmbedOptions())
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_embeddings_alone_load_and_the_rest_begins_at_random(name: str, tmp_path: Path):
    base = saved(MODELS[name](), tmp_path / "base", shard="6KB")
    kept = only_embeddings(base, tmp_path / "out")["tensors"]
    assert sorted(tensors(tmp_path / "out")) == kept
    before = loaded(base)
    after, told = type(before).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert told["missing_keys"]
    assert not told["mismatched_keys"]
    state, first = after.state_dict(), before.state_dict()
    assert all(torch.equal(state[key], first[key]) for key in kept)
    layer = next(key for key in state if key.endswith(("q_proj.weight", "query.weight")))
    assert not torch.equal(state[layer], first[layer])


# --- nothing half-written, and one clear line ---


def test_an_error_midway_leaves_nothing(tmp_path: Path):
    base = saved(llama(False), tmp_path / "base", shard="6KB")
    index = json.loads((base / "model.safetensors.index.json").read_text())
    last = base / index["weight_map"]["lm_head.weight"]
    data = last.read_bytes()
    last.write_bytes(data[:-8])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        embed(base, ADD, None, tmp_path / "out", EmbedOptions())
    broken = load_file(base / index["weight_map"]["model.embed_tokens.weight"])
    last.write_bytes(data)
    whole = {name: tensor.to(torch.int8) if "embed_tokens" in name else tensor for name, tensor in broken.items()}
    save_file(whole, base / index["weight_map"]["model.embed_tokens.weight"])
    with pytest.raises(ModelError, match=r"embed_tokens\.weight is of torch\.int8"):
        embed(base, ADD, None, tmp_path / "out", EmbedOptions())
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_what_a_killed_run_left_is_no_obstacle(tmp_path: Path):
    base = saved(gpt2(), tmp_path / "base")
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part/model.safetensors").write_bytes(b"torn")
    embed(base, ADD, None, tmp_path / "out", EmbedOptions())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]


def test_a_full_disk_is_told(tmp_path: Path, small_disk: Path):
    wide = transformers.GPT2Config(vocab_size=BASE, n_embd=256, n_layer=1, n_head=2, n_positions=32, bos_token_id=0)
    base = saved(transformers.GPT2LMHeadModel(wide), tmp_path / "base")
    with pytest.raises(NoSpaceLeft):
        embed(base, ADD, None, small_disk / "out", EmbedOptions())
    assert not list(small_disk.iterdir())


def test_an_output_in_use_is_refused_and_stays(tmp_path: Path):
    base = saved(gpt2(), tmp_path / "base")
    before = sorted(path.name for path in base.iterdir())
    for used in (base, base / "config.json"):
        with pytest.raises(DirectoryConflict, match="not empty"):
            embed(base, ADD, None, used, EmbedOptions())
        with pytest.raises(DirectoryConflict, match="not empty"):
            only_embeddings(base, used)
    assert sorted(path.name for path in base.iterdir()) == before
    (tmp_path / "empty").mkdir()
    embed(base, ADD, None, tmp_path / "empty", EmbedOptions())


def test_bases_that_do_not_fit_are_told(tmp_path: Path):
    base = saved(llama(False), tmp_path / "base")
    larger = Expansion(method="add", base_size=62, size=63, new_rows=(62,), parts=((1,),))

    def refused(expansion: Expansion, match: str) -> None:
        with pytest.raises(ModelError, match=match) as caught:
            embed(base, expansion, None, tmp_path / "out", EmbedOptions())
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()

    refused(larger, r"61 rows for a base tokenizer of 62")
    gone = REPLACE.model_copy(update={"old_to_new": tuple(-1 if i == 58 else i for i in range(BASE))})
    refused(gone, r"eos_token_id is 58, a token that went")
    config = (base / "config.json").read_text()
    (base / "config.json").write_text(config.replace('"vocab_size": 61', '"vocab_size": 64'))
    refused(ADD, r"weight has 61 rows, config\.json says 64")
    (base / "config.json").write_text(config.replace('"vocab_size": 61', '"vocabulary": 64'))
    refused(ADD, "no vocab_size")
    (base / "config.json").write_text("{")
    refused(ADD, "not JSON")
    (base / "config.json").write_text(config)
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    refused(ADD, "pickled")
    (base / "pytorch_model.bin").unlink()
    refused(ADD, "no model")
    base = tmp_path / "nowhere"
    refused(ADD, "No such file")


def test_where_torch_is_missing_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base = saved(gpt2(), tmp_path / "base")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match=r"need torch, which is not installed; install tilth\[train\]"):
        embed(base, ADD, None, tmp_path / "out", EmbedOptions())
