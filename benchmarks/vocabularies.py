"""Vocabularies compared: the merges of tokenizers and ours, and the ways to extend a vocabulary within its script."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tilth.tokenize.bpe import LearnOptions, byte_bpe
from tilth.tokenize.change import ExpandRecipe, changed
from tilth.tokenize.count import Counts, Tally
from tilth.tokenize.formats import from_sentencepiece, pairs
from tilth.tokenize.split import SplitOptions, Splitter
from tilth.tokenize.tokenizer import CHARACTERS, Tokenizer, written

SMALL, OWN = 1000, 4000  # ids of the vocabulary that is extended, and of the one of the new text


def merges_shared(lines: Path, theirs: Path, size: int) -> dict[str, Any]:
    """The share of tokenizers' merges among ours, and of those that stand at the same place, by how ties are broken.

    Words are counted by lines with their ends, as tokenizers reads them. With ties by ids the alphabet is in
    tokenizers' order, that of the letters which stand for bytes.
    """
    splitter = Splitter(SplitOptions(pattern="gpt2", marks=False))
    tally, held = Tally(), []
    with open(lines, encoding="utf-8", newline="\n") as file:
        for line in file:
            held.append(line)
            if len(held) == 20_000:
                tally.add(splitter(held))
                held = []
    tally.add(splitter(held))
    counts = tally.counts()
    model = json.loads(theirs.read_bytes())["model"]
    expected = pairs(model["merges"])
    order = sorted(range(256), key=lambda byte: CHARACTERS[byte])
    told: dict[str, Any] = {"merges": len(expected)}
    for ties in ("bytes", "ids"):
        options = LearnOptions(min_frequency=1, ties=ties)
        relabelled = _relabelled(counts, order) if ties == "ids" else counts
        found = byte_bpe(relabelled, size, ["<|endoftext|>"], options)
        pieces = [written(bytes(order[byte] for byte in piece) if ties == "ids" else piece) for piece in found.pieces]
        ours = [(pieces[left], pieces[right]) for left, right in found.merges]
        told[f"ties by {ties}"] = {
            "among ours": round(len(set(ours) & set(expected)) / len(expected), 5),
            "at the same place": round(sum(map(tuple.__eq__, ours, expected)) / len(expected), 5),
        }
    return told


def _relabelled(counts: Counts, order: Sequence[int]) -> Counts:
    """The words with each byte replaced by its place in `order`."""
    places = np.empty(256, np.uint8)
    places[list(order)] = np.arange(256)
    return counts._replace(text=places[counts.text])


def extension_table(old: Path, new: Path, folder: Path) -> dict[str, Any]:
    """Bytes a token on the new text, dead and unused tokens, for the ways to extend the old vocabulary.

    Both vocabularies are sentencepiece's BPE with byte fallback and no normalisation. `score 0` is Chinese-LLaMA's way:
    missing pieces appended, all with the score 0; `below` gives them descending scores under the lowest one.
    """
    texts = {name: _lines(place) for name, place in (("old", old), ("new", new))}
    base, own = _trained(texts["old"], SMALL), _trained(texts["new"], OWN)
    size = sum(len(line.encode()) for line in texts["new"])
    appended = {way: _appended(base, own, way) for way in ("score 0", "below")}
    number = len(appended["below"].pieces) - len(base.pieces)
    told = {"old": _scored(base, texts["new"], size), "own": _scored(own, texts["new"], size)}
    told |= {way: _scored(model, texts["new"], size, len(base.pieces)) for way, model in appended.items()}
    start = Tokenizer(from_sentencepiece(base.SerializeToString(), "old"), name="old")
    counts = _counted(start, texts["new"])
    for name, seconds, tokens in (
        ("spliced", [Tokenizer(from_sentencepiece(own.SerializeToString(), "own"))], None),
        ("spliced, used pieces, refilled", [Tokenizer(from_sentencepiece(own.SerializeToString(), "own"))], number),
        ("learned on top", [], number),
    ):
        words = counts if tokens else counts._replace(counts=counts.counts[:0], bounds=counts.bounds[:1])
        change = changed(start, seconds, words, ExpandRecipe(tokens=tokens))
        told[name] = _ours(change.grown, texts["new"], size, change.new) | {"left out": len(change.missed)}
    possible = told["own"]["bytes_per_token"] - told["old"]["bytes_per_token"]
    for one in told.values():
        one["share_of_gain"] = round((one["bytes_per_token"] - told["old"]["bytes_per_token"]) / possible, 4)
    return told


def _lines(place: Path) -> list[str]:
    return [line for line in place.read_text(encoding="utf-8").split("\n") if line.strip()]


def _trained(lines: Sequence[str], size: int) -> Any:
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    written_to = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=written_to,
        vocab_size=size,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    return sentencepiece_model_pb2.ModelProto.FromString(written_to.getvalue())


def _appended(base: Any, own: Any, way: str) -> Any:
    """The base model with the other's missing pieces behind its own."""
    merged = type(base)()
    merged.CopyFrom(base)
    known = {piece.piece for piece in base.pieces}
    lowest = min(piece.score for piece in base.pieces)
    missing = [piece for piece in own.pieces if piece.piece not in known and piece.type == 1]
    for index, piece in enumerate(missing, 1):
        merged.pieces.add(piece=piece.piece, score=0.0 if way == "score 0" else lowest - index, type=1)
    return merged


def _scored(model: Any, lines: Sequence[str], size: int, first: int = 0) -> dict[str, Any]:
    """What sentencepiece itself makes of the lines, and of the pieces from `first` on."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_proto=model.SerializeToString())
    ids = processor.encode(list(lines))
    used = {index for line in ids for index in line}
    new = [index for index in range(first, len(model.pieces)) if first and len(model.pieces[index].piece) > 1]
    dead = [index for index in new if processor.encode(model.pieces[index].piece) != [index]]
    return {
        "bytes_per_token": round(size / sum(map(len, ids)), 4),
        "new": len(new),
        "dead": len(dead),
        "unused": sum(index not in used for index in new),
    }


def _ours(grown: Tokenizer, lines: Sequence[str], size: int, added: Sequence[int]) -> dict[str, Any]:
    ids = grown.encode(lines)
    used = {index for line in ids for index in line.tolist()}
    dead = [index for index in added if grown.encode([grown.pieces[index].decode()])[0].tolist() != [index]]
    unused = sum(index not in used for index in added)
    tokens = sum(map(len, ids))
    return {"bytes_per_token": round(size / tokens, 4), "new": len(added), "dead": len(dead), "unused": unused}


def _counted(tokenizer: Tokenizer, lines: Sequence[str]) -> Counts:
    """The words of the lines, as `tilth tokenize expand` counts them."""
    compiled = tokenizer.compiled
    assert compiled is not None, "a BPE with byte fallback"
    tally = Tally()
    tally.add(Splitter(SplitOptions(pattern="metaspace"))([compiled.normalizer(line) for line in lines]))
    return tally.counts()
