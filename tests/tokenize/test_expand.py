"""Vocabularies changed for new text: what is promised holds, what is told is true, what fails leaves nothing behind."""

import functools
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from vocabularies import added, by_library, changed, learned_from

from tilth.errors import DirectoryConflict, InputError, ModelError, NoSpaceLeft, RecipeError, UsageError
from tilth.progress import Progress
from tilth.recipe import load_recipe
from tilth.storage import Folder
from tilth.tokenize.change import ExpandRecipe
from tilth.tokenize.expand import Places, expand
from tilth.tokenize.expansion import Expansion, read
from tilth.tokenize.export import write_directory
from tilth.tokenize.recipe import PACKAGE
from tilth.tokenize.tokenizer import Tokenizer, load
from tilth.work import WorkOptions

ENGLISH = (
    "The ferry leaves when the tide turns, and whoever comes late waits for the next tide.\n"
    "There's one lamp on the pier; the ferryman lights it at five and puts it out at seven.\n"
    "He'll take goats, carts and letters, but no dogs: the last dog ate 3 of the 12 letters.\n"
) * 4
CHINESE = (
    "渡船在涨潮的时候离开码头，来晚的人只好等下一次涨潮。\n"
    "码头上只有一盏灯，摆渡人五点点灯，七点熄灯。\n"
    "摆渡人愿意载山羊、马车和信件，可是不载狗：上次那只狗吃掉了三封信件。\n"
    "渡船上的山羊看着码头上的灯，渡船上的信件等着下一次涨潮。\n"
) * 4
HOSTILE = [
    "",
    " ",
    "</s><s>",
    "<|endoftext|>灯",
    "渡船ferry",
    "  渡\n船",
    "<0x0A>",
    "▁灯",
    "🌾\u200d",
    "é\u0301",
    "[goat]灯",
]


def spec_with(base: Tokenizer, **sections: Any) -> Tokenizer:
    return Tokenizer({**base.spec, **sections}, base.config, "made")


@functools.cache
def base_of(family: str) -> Tokenizer:
    """Of English text, with an added token that is not special."""
    made = learned_from(ENGLISH, algorithm=family, vocab_size=360)
    return spec_with(made, added_tokens=[*made.spec["added_tokens"], added("[goat]", made.size)])


@pytest.fixture(scope="session")
def places(tmp_path_factory) -> Path:
    """bytes/ and characters/ are bases, zh.model and zh.json vocabularies of Chinese, *.txt texts."""
    folder = tmp_path_factory.mktemp("expand")
    write_directory(folder / "byte-bpe", base_of("byte-bpe"))
    write_directory(folder / "bpe", base_of("bpe"))
    (folder / "en.txt").write_text(ENGLISH)
    (folder / "zh.txt").write_text(CHINESE)
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CHINESE.splitlines()), model_writer=written, model_type="bpe", vocab_size=150,
        minloglevel=2, num_threads=1, normalization_rule_name="identity",
    )  # fmt: skip
    (folder / "zh.model").write_bytes(written.getvalue())
    (folder / "zh.json").write_text(json.dumps(learned_from(CHINESE, vocab_size=380).spec))
    return folder


def run(folder: Path, base: Any, output: Path, *, fresh: bool = False, sample: int = 0, **more: Any) -> dict[str, Any]:
    """`tilth tokenize expand` with names of what is in the folder, and the rest of the recipe."""
    named = {key: [str(folder / name) for name in more.pop(key, ())] for key in ("add", "inputs", "check")}
    settings = [f"{key}={value}" for key, value in more.items()]
    recipe = load_recipe(ExpandRecipe, "expand", PACKAGE, settings)
    work = WorkOptions(in_process=True)
    told = Places(str(folder / base), **named)
    return expand(told, Folder(output), "expand", recipe, work, Progress(quiet=True), fresh, sample)


def bytes_of(tokenizer: Tokenizer, index: int) -> bytes:
    return tokenizer.bytes_of(tokenizer.tokens[index])


def assert_sound(base: Tokenizer, output: Path, stats: dict[str, Any]) -> Expansion:
    """What was written holds together: the expansion with both vocabularies, and all with the library."""
    made, expansion = load(output), read(output)
    assert (expansion.base_size, expansion.size) == (base.size, made.size) == (stats["base_size"], stats["size"])
    moves = expansion.moves
    for index, token in enumerate(base.tokens):
        if moves[index] >= 0:
            assert made.tokens[moves[index]] == token
    assert {token: moves[index] for token, index in base.specials.items()} == made.specials
    assert {token: moves[index] for token, index in base.added.items()} == made.added
    for row, parts in zip(expansion.new_rows, expansion.parts, strict=True):
        assert b"".join(bytes_of(base, part) for part in parts) == bytes_of(made, row)
    assert stats["new"] == len(expansion.new_rows)
    assert stats["removed"] == (moves < 0).sum()
    texts = [ENGLISH, CHINESE, *HOSTILE]
    encoded = made.encode(texts)
    assert [one.tolist() for one in encoded] == by_library(made, texts)
    assert [made.decode(ids) for ids in encoded] == [base.decode(ids) for ids in base.encode(texts)]
    assert not set(np.concatenate(encoded).tolist()) & set(made.specials.values())
    return expansion


def reached(tokenizer: Tokenizer, index: int) -> bool:
    return tokenizer.segment(tokenizer.tokens[index]) == [index]


# --- Adding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["byte-bpe", "bpe"])
def test_tokens_learned_on_top_are_all_reached_and_shorten_the_new_text_only(family, places, tmp_path) -> None:
    base = base_of(family)
    stats = run(places, family, tmp_path, inputs=["zh.txt"], check=["en.txt"], tokens=60)
    expansion = assert_sound(base, tmp_path, stats)
    made = load(tmp_path)
    assert expansion.old_to_new is None
    assert expansion.new_rows == tuple(range(base.size, base.size + 60))
    assert (stats["new"], stats["dead"], stats["removed"], stats["missed"]) == (60, 0, 0, [])
    assert all(reached(made, row) for row in expansion.new_rows)
    told = stats["new_text"]["bytes_per_token"]
    assert told["after"] > 1.5 * told["before"]
    assert stats["new_text"]["words_cut_otherwise"] > 0.5
    assert stats["old_text"]["words_cut_otherwise"] == 0
    assert stats["old_text"]["bytes_per_token"]["before"] == stats["old_text"]["bytes_per_token"]["after"]
    assert made.encode([ENGLISH])[0].tolist() == base.encode([ENGLISH])[0].tolist()
    assert made.encode(["[goat]"])[0].tolist() == base.encode(["[goat]"])[0].tolist()


def test_the_counts_in_the_expansion_are_those_of_the_text(places, tmp_path) -> None:
    base = base_of("byte-bpe")
    run(places, "byte-bpe", tmp_path, inputs=["zh.txt"], tokens=30)
    expansion, made = read(tmp_path), load(tmp_path)
    assert expansion.counts == tuple(np.bincount(made.encode([CHINESE])[0], minlength=made.size))
    assert expansion.base_counts == tuple(np.bincount(base.encode([CHINESE])[0], minlength=base.size))


@pytest.mark.parametrize("second", ["zh.model", "zh.json"])
@pytest.mark.parametrize("family", ["byte-bpe", "bpe"])
def test_every_piece_of_a_second_vocabulary_is_there_and_reached(family, second, places, tmp_path) -> None:
    base, other = base_of(family), load(places / second)
    stats = run(places, family, tmp_path, add=[second], check=["en.txt"])
    expansion = assert_sound(base, tmp_path, stats)
    made = load(tmp_path)
    assert stats["dead"] == 0
    assert all(reached(made, row) for row in expansion.new_rows)
    assert stats["old_text"]["bytes_per_token"]["after"] >= stats["old_text"]["bytes_per_token"]["before"]
    there = {bytes_of(made, index) for index in range(made.size)}
    wanted = {piece for piece in other.pieces if piece and (family == "byte-bpe" or _is_text(piece))}
    missed = {made.bytes_of(token) for token in stats["missed"]}
    assert wanted - there == missed
    assert len(missed) < 8, "only what no word of the base can hold, such as a letter behind a comma"
    assert len(made.encode([CHINESE])[0]) < len(base.encode([CHINESE])[0])


def _is_text(piece: bytes) -> bool:
    try:
        return bool(piece.decode())
    except UnicodeDecodeError:
        return False


@pytest.mark.parametrize("family", ["byte-bpe", "bpe"])
def test_pieces_that_the_text_never_uses_give_way_to_learned_ones(family, places, tmp_path) -> None:
    """The second vocabulary is of English and Chinese, the text is Chinese: nothing English comes in."""
    (tmp_path / "both.json").write_text(json.dumps(learned_from(ENGLISH.upper() + CHINESE, vocab_size=500).spec))
    stats = run(places, family, tmp_path / "out", add=[tmp_path / "both.json"], inputs=["zh.txt"], tokens=70)
    expansion = assert_sound(base_of(family), tmp_path / "out", stats)
    made = load(tmp_path / "out")
    assert stats["new"] == 70
    assert any(token.isascii() for token in stats["missed"])
    used = {index for index, count in enumerate(expansion.counts or ()) if count}
    spelled = b"\0".join(bytes_of(made, index) for index in used)
    assert all(bytes_of(made, row) in spelled for row in expansion.new_rows), "each is used, or a step on the way"
    alone = run(places, family, tmp_path / "alone", add=[tmp_path / "both.json"], inputs=["zh.txt"])
    plain = run(places, family, tmp_path / "plain", add=[tmp_path / "both.json"])
    assert alone["new"] <= plain["new"]
    assert alone["new_text"]["bytes_per_token"]["after"] >= stats["new_text"]["bytes_per_token"]["after"]


@pytest.mark.parametrize("family", ["byte-bpe", "bpe"])
@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_no_more_tokens_come_than_were_asked_for(family, tokens, places, tmp_path) -> None:
    (tmp_path / "long.json").write_text(
        json.dumps(learned_from("摆渡人愿意载山羊\n" * 4 + CHINESE, vocab_size=400).spec)
    )
    stats = run(places, family, tmp_path / "out", add=[tmp_path / "long.json"], tokens=tokens)
    assert stats["new"] <= tokens
    assert_sound(base_of(family), tmp_path / "out", stats)


def test_a_piece_of_three_tokens_is_bridged_left_out_or_kept_as_asked(places, tmp_path) -> None:
    words = changed(learned_from(ENGLISH, vocab_size=360), ignore_merges=True)
    vocabulary = {**words.spec["model"]["vocab"], "zqxzqx": words.size}
    (tmp_path / "three.json").write_text(json.dumps(changed(words, vocab=vocabulary).spec))
    base, told = base_of("byte-bpe"), {}
    for missing in ("bridge", "leave", "keep"):
        stats = run(places, "byte-bpe", tmp_path / missing, add=[tmp_path / "three.json"], missing=missing)
        assert_sound(base, tmp_path / missing, stats)
        told[missing] = stats["new"], stats["dead"], stats["missed"]
        there = "zqxzqx" in load(tmp_path / missing).vocabulary
        assert there == (missing != "leave")
    assert told["leave"] == (0, 0, ["zqxzqx"])
    assert told["keep"] == (1, 1, [])
    assert 1 < told["bridge"][0] < len(base.encode(["zqxzqx"])[0])
    assert told["bridge"][1:] == (0, [])


def test_pieces_that_no_normalised_text_can_spell_are_left_out_and_named(places, tmp_path) -> None:
    base = spec_with(base_of("byte-bpe"), normalizer={"type": "NFC"})
    write_directory(tmp_path / "nfc", base)
    (tmp_path / "nfd.json").write_text(json.dumps(learned_from("cafe\u0301 " * 9 + CHINESE, vocab_size=400).spec))
    stats = run(places, tmp_path / "nfc", tmp_path / "out", add=[tmp_path / "nfd.json"])
    made = load(tmp_path / "out")
    assert made.bytes_of(stats["missed"][0]).decode() in "cafe\u0301 "
    for row in read(tmp_path / "out").new_rows:
        piece = bytes_of(made, row)
        if _is_text(piece):
            assert made.encode([piece.decode()])[0].tolist() == [row]


def test_a_vocabulary_in_which_words_are_tokens_without_merges_grows_too(places, tmp_path) -> None:
    base = learned_from(ENGLISH, vocab_size=360)
    vocabulary = {**base.spec["model"]["vocab"], "Ġwhoever": base.size}
    base = changed(base, vocab=vocabulary, ignore_merges=True)
    write_directory(tmp_path / "whole", base)
    stats = run(places, tmp_path / "whole", tmp_path / "out", inputs=["zh.txt"], check=["en.txt"], tokens=40)
    assert_sound(base, tmp_path / "out", stats)
    assert stats["old_text"]["words_cut_otherwise"] == 0
    assert load(tmp_path / "out").encode([" whoever"])[0].tolist() == [base.size - 1]


# --- Replacing and pruning ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["byte-bpe", "bpe"])
@pytest.mark.parametrize("tokens", [20, None])
def test_rows_that_the_text_never_uses_are_given_to_new_tokens(family, tokens, places, tmp_path) -> None:
    base = base_of(family)
    more = {"tokens": tokens} if tokens else {}
    stats = run(places, family, tmp_path, inputs=["zh.txt"], method="replace", **more)
    expansion = assert_sound(base, tmp_path, stats)
    assert stats["size"] == base.size
    assert stats["new"] == stats["removed"] > 0
    assert expansion.old_to_new is not None
    assert expansion.new_rows == tuple(np.flatnonzero(expansion.moves < 0)), "the rows that went are those that came"
    uses = np.bincount(base.encode([CHINESE])[0], minlength=base.size)
    assert not uses[list(expansion.new_rows)].any()
    told = stats["new_text"]["bytes_per_token"]
    assert told["after"] > told["before"]
    if tokens:
        assert stats["new"] == tokens


def test_rows_that_nothing_takes_keep_their_tokens(places, tmp_path) -> None:
    """A text of few words cannot fill all rows that it does not use."""
    (tmp_path / "few.txt").write_text("渡船渡船 渡船\n" * 3)
    base = base_of("byte-bpe")
    stats = run(places, "byte-bpe", tmp_path / "out", inputs=[tmp_path / "few.txt"], method="replace")
    expansion = assert_sound(base, tmp_path / "out", stats)
    assert 0 < stats["new"] < 20
    assert len(expansion.new_rows) == (expansion.moves < 0).sum()


@pytest.mark.parametrize("family", ["byte-bpe", "bpe"])
def test_tokens_of_a_second_vocabulary_take_rows_too(family, places, tmp_path) -> None:
    stats = run(places, family, tmp_path, add=["zh.model"], inputs=["zh.txt"], method="replace", max_uses=1)
    expansion = assert_sound(base_of(family), tmp_path, stats)
    other = load(places / "zh.model")
    made = load(tmp_path)
    assert len({bytes_of(made, row) for row in expansion.new_rows} & set(other.pieces)) > 10


@pytest.mark.parametrize("most", [0, 2])
@pytest.mark.parametrize("family", ["byte-bpe", "bpe"])
def test_pruned_ids_close_up_and_the_text_is_cut_as_before(family, most, places, tmp_path) -> None:
    base = base_of(family)
    stats = run(places, family, tmp_path, inputs=["zh.txt"], check=["en.txt"], method="prune", tokens=15, max_uses=most)
    expansion = assert_sound(base, tmp_path, stats)
    made = load(tmp_path)
    assert made.size == base.size - stats["removed"] == len(made.vocabulary)
    assert stats["removed"] == 15
    assert expansion.new_rows == ()
    assert made.encode([CHINESE])[0].tolist() == expansion.moves[base.encode([CHINESE])[0]].tolist()
    assert stats["new_text"]["words_cut_otherwise"] == 0 < stats["old_text"]["words_cut_otherwise"]


# --- Runs -----------------------------------------------------------------------------------------------------------


def results(folder: Path) -> dict[str, bytes]:
    left_out = ("events.jsonl", "run.json", ".lock")
    files = [file for file in folder.iterdir() if file.is_file() and file.name not in left_out]
    return {file.name: file.read_bytes() for file in files}


def test_the_same_text_in_any_order_gives_the_same_bytes_and_the_second_run_changes_nothing(places, tmp_path) -> None:
    names = ["zh.txt", "en.txt"]
    first = run(places, "bpe", tmp_path / "a", add=["zh.model"], inputs=names, tokens=80)
    before = results(tmp_path / "a")
    assert {"tokenizer.json", "expansion.json", "selftest.jsonl", "stats.json"} <= before.keys()
    assert run(places, "bpe", tmp_path / "a", add=["zh.model"], inputs=names, tokens=80) == first
    run(places, "bpe", tmp_path / "b", add=["zh.model"], inputs=names[::-1], tokens=80)
    run(places, "bpe", tmp_path / "a", add=["zh.model"], inputs=names, tokens=80, fresh=True)
    assert before == results(tmp_path / "a") == results(tmp_path / "b")


def test_base_and_result_are_scored_side_by_side(places, tmp_path) -> None:
    stats = run(places, "bpe", tmp_path / "out", inputs=["zh.txt"], tokens=50, sample=2**20)
    cards = json.loads((tmp_path / "out/scorecard.json").read_bytes())
    assert [card["tokenizer"] for card in cards] == ["bpe", "out"]
    assert stats["score"]["after"]["bytes_per_token"] > stats["score"]["before"]["bytes_per_token"]
    assert b"<html" in (tmp_path / "out/report.html").read_bytes()


def test_an_expanded_vocabulary_can_be_expanded_again(places, tmp_path) -> None:
    run(places, "bpe", tmp_path / "once", inputs=["zh.txt"], tokens=30)
    once = load(tmp_path / "once")
    stats = run(places, tmp_path / "once", tmp_path / "twice", add=["zh.model"], inputs=["zh.txt"])
    assert_sound(once, tmp_path / "twice", stats)


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no text and no vocabulary": ({}, UsageError, "add needs text: name it with --input, or tokens with --add"),
    "replace without text": ({"method": "replace", "add": ["zh.model"]}, UsageError, "replace needs text"),
    "prune without text": ({"method": "prune"}, UsageError, "prune needs text"),
    "more than the text gives": ({"inputs": ["zh.txt"], "tokens": 9000}, UsageError, "of 9,000 asked for; ask"),
    "a text that is missing": ({"inputs": ["nowhere.txt"]}, InputError, "nowhere.txt"),
    "a text that is empty": ({"inputs": ["empty.txt"]}, InputError, "empty"),
    "a text without documents": ({"inputs": ["none.jsonl"]}, InputError, "no text"),
    "a vocabulary that is missing": ({"add": ["nowhere.model"]}, ModelError, "nowhere.model: no such tokenizer"),
    "a .model that is none": ({"add": ["none.model"]}, ModelError, "none.model: not a SentencePiece model"),
    "a .json that is none": ({"add": ["none.json"]}, ModelError, "none.json: not a tokenizer.json"),
    "a base that is missing": ({"base": "nowhere", "add": ["zh.model"]}, ModelError, "nowhere: no such tokenizer"),
    "a base of another kind": ({"base": "unigram.json", "inputs": ["zh.txt"]}, UsageError, "it is unigram"),
    "keep for replace": (
        {"method": "replace", "missing": "keep", "inputs": ["zh.txt"]}, RecipeError, "missing: keep is for add"
    ),
    "words for a base that has some": ({"split.pattern": "gpt4", "inputs": ["zh.txt"]}, RecipeError, "its own words"),
}  # fmt: skip


@pytest.mark.parametrize(("asked", "kind", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_done_is_one_line_and_leaves_no_tokenizer(asked, kind, message, places, tmp_path) -> None:
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]]}
    (places / "unigram.json").write_text(json.dumps({"added_tokens": [], "model": unigram}))
    (places / "none.jsonl").write_text('{"body": "x"}\n')
    (places / "none.model").write_text("ferry")
    (places / "none.json").write_text("[1, 2]")
    (places / "empty.txt").write_text("")
    with pytest.raises(kind, match=message) as raised:
        run(places, asked.get("base", "bpe"), tmp_path / "out", **{k: v for k, v in asked.items() if k != "base"})
    assert "\n" not in str(raised.value)
    for name in ("tokenizer.json", "expansion.json", "stats.json", "tokenizer_config.json", "selftest.jsonl"):
        assert not (tmp_path / "out" / name).exists()


def test_a_text_that_uses_every_token_leaves_none_to_replace(places, tmp_path) -> None:
    base = learned_from(ENGLISH, vocab_size=258)
    write_directory(tmp_path / "base", base)
    with pytest.raises(UsageError, match="uses every token that could be replaced; raise max_uses, or add"):
        run(places, tmp_path / "base", tmp_path / "out", inputs=["en.txt"], method="replace")


def test_an_output_that_is_not_empty_or_of_another_request_is_refused_and_stays(places, tmp_path) -> None:
    (tmp_path / "letter.txt").write_text("keep me")
    with pytest.raises(DirectoryConflict, match="not a run of tilth"):
        run(places, "bpe", tmp_path, inputs=["zh.txt"])
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]
    run(places, "bpe", tmp_path / "out", inputs=["zh.txt"], tokens=20)
    before = results(tmp_path / "out")
    with pytest.raises(DirectoryConflict, match=r"recipe.tokens is 20 there, 30 asked"):
        run(places, "bpe", tmp_path / "out", inputs=["zh.txt"], tokens=30)
    assert results(tmp_path / "out") == before


def test_asking_for_less_after_too_much_was_asked_needs_no_fresh_start(places, tmp_path) -> None:
    with pytest.raises(UsageError, match="ask for less"):
        run(places, "bpe", tmp_path, inputs=["zh.txt"], tokens=9000)
    assert run(places, "bpe", tmp_path, inputs=["zh.txt"], tokens=20)["new"] == 20


def test_a_full_disk_leaves_no_tokenizer_and_more_room_finishes_the_run(places, small_disk) -> None:
    filler, output = small_disk / "filler", small_disk / "out"
    for room in (50_000, 35_000, 20_000):
        filler.unlink(missing_ok=True)
        filler.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - room))
        with pytest.raises(NoSpaceLeft):
            run(places, "bpe", output, inputs=["zh.txt"], tokens=20)
        assert not any((output / name).exists() for name in ("tokenizer.json", "expansion.json", "stats.json"))
        assert not list(output.glob(".tmp/*"))
    filler.unlink()
    assert run(places, "bpe", output, inputs=["zh.txt"], tokens=20)["new"] == 20


# --- Real vocabularies ----------------------------------------------------------------------------------------------

LLAMA = "dolma/llama-test-tokenizer.json.gz"
CHINESE_MODEL = "chinese-llama/chinese_sp.model"


@pytest.mark.realdata
def test_llama_with_the_chinese_model_has_the_published_number_of_pieces(data, tmp_path) -> None:
    folder = data / "tokenizers"
    base = load(folder / LLAMA)
    kept = run(folder, LLAMA, tmp_path / "kept", add=[CHINESE_MODEL], missing="keep")
    assert kept["pieces"] == 49_953
    assert kept["size"] == 49_953 + 3, "the file has three added tokens of its own"
    assert kept["dead"] == 346
    bridged = run(folder, LLAMA, tmp_path / "bridged", add=[CHINESE_MODEL])
    assert (bridged["dead"], bridged["missed"]) == (0, [])
    assert 49_953 < bridged["pieces"] < 50_500
    for place, stats in (("kept", kept), ("bridged", bridged)):
        assert_sound(base, tmp_path / place, stats)
        made = load(tmp_path / place)
        plain = "The ferry leaves when the tide turns, and whoever comes late waits."
        assert made.encode([plain])[0].tolist() == base.encode([plain])[0].tolist()
        assert len(made.encode([CHINESE])[0]) < 0.7 * len(base.encode([CHINESE])[0])
        (index,) = base.encode(["|||IP_ADDRESS|||"])[0].tolist()
        assert made.encode(["|||IP_ADDRESS|||"])[0].tolist() == [index] == [base.added["|||IP_ADDRESS|||"]]


@pytest.mark.realdata
def test_a_byte_level_vocabulary_takes_the_pieces_of_a_sentencepiece_model(data, tmp_path) -> None:
    folder, name = data / "tokenizers", "dclm/EleutherAI_gpt-neox-20b.tiktoken.gz"
    base = load(folder / name, "gpt2")
    stats = run(folder, name, tmp_path, add=[CHINESE_MODEL])
    expansion = assert_sound(base, tmp_path, stats)
    made = load(tmp_path)
    assert stats["new"] > 15_000
    assert stats["dead"] == 0
    texts = {row: bytes_of(made, row).decode() for row in expansion.new_rows if _is_text(bytes_of(made, row))}
    assert [one.tolist() for one in made.encode(list(texts.values()))] == [[row] for row in texts]
