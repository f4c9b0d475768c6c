"""Unigram vocabularies (Kudo 2018, arXiv:1804.10959): sentencepiece's training, from counts in place of a corpus.

sentencepiece reads words and their frequencies (its `tsv` input), but to find the substrings that it starts from it
writes every word out as often as it occurs: a minute for a gigabyte of corpus, and without end for a crawl. The seeds
are therefore found here, from the counts, and handed to it; what remains takes time by the number of different words.
"""

import io
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tilth.errors import UsageError

from .count import Counts
from .split import METASPACE

ROLES = {"unk": "<unk>", "bos": "<s>", "eos": "</s>", "pad": "<pad>"}  # sentencepiece's names for those it knows
_CHARACTER_BITS = 21
_READABLE = re.compile(rb"[^\t\n\r\0]{1,4192}")  # by sentencepiece: a line of TSV, not too long
_MARGIN = 1e-3  # by how much a required token is better than the pieces that it replaces


class UnigramOptions(BaseModel):
    """How a Unigram vocabulary is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(
        gt=0, description="pieces in all: specials, 256 bytes where they are wanted, and words' parts"
    )
    character_coverage: float = Field(
        default=0.9995, ge=0.98, le=1, description="share of all characters that have pieces (sentencepiece's default)"
    )
    byte_fallback: bool = Field(default=True, description="256 byte pieces stand for the characters that have none")
    max_piece_length: int = Field(default=16, ge=2, le=512, description="characters (sentencepiece's default)")
    seed_size: int = Field(default=1_000_000, gt=0, description="substrings to start from (sentencepiece's default)")
    shrinking_factor: float = Field(
        default=0.75, ge=0.5, le=0.95, description="share of pieces that a round keeps (sentencepiece's default)"
    )
    required: tuple[str, ...] = Field(
        default=(), description="tokens that must be in the vocabulary, as text; a space is one that is part of it"
    )
    threads: int = Field(
        default=2, ge=1, le=1024, description="part of the result: sums of floats depend on it, a little"
    )


def train(counts: Counts, options: UnigramOptions, specials: Sequence[str], roles: Mapping[str, str] = ROLES) -> bytes:
    """A SentencePiece model (a serialised ModelProto) from words that metaspace cut, the same for any order of theirs.

    `specials` have the first ids in their order; `roles` tells which are unk, bos, eos and pad, the rest are control
    symbols. The unknown piece, without which there is no model, comes behind them if it is not among them. Words over
    4192 bytes, and those with a tab or a line's end, are left out. Raises UsageError where the counts are empty, cannot
    fill the vocabulary, or have more characters than it has room for.
    """
    from sentencepiece import sentencepiece_model_pb2

    roles = {role: roles.get(role, name) for role, name in ROLES.items()}
    names = [*specials] if roles["unk"] in specials else [*specials, roles["unk"]]
    required = [METASPACE.join(token.split(" ")) for token in options.required]
    if clash := sorted({*names} & {*required}):
        raise UsageError(f"{clash[0]} is both a special and a required token; take it out of one list")
    ordered = _ordered(counts)
    if not len(ordered.counts):
        raise UsageError("the counts have no words: there is nothing to learn a vocabulary from")
    with tempfile.TemporaryDirectory() as folder:
        words, seeds = Path(folder, "words.tsv"), Path(folder, "seeds.tsv")
        words.write_bytes(
            b"".join(b"%b\t%d\n" % pair for pair in zip(ordered.words(), ordered.counts.tolist(), strict=True))
        )
        seeds.write_text(
            "".join(f"{piece}\t{score}\n" for piece, score in _seeds(ordered, options)), encoding="utf-8", newline=""
        )
        trained = _trained(
            options,
            names,
            roles,
            input=str(words),
            seed_sentencepieces_file=str(seeds),
            required_chars="".join(sorted({METASPACE, *"".join(required)})),
        )
    model = sentencepiece_model_pb2.ModelProto.FromString(trained)  # pyright: ignore[reportAttributeAccessIssue]
    _require(model, required)
    for place in ("input", "seed_sentencepieces_file"):
        model.trainer_spec.ClearField(place)
    model.normalizer_spec.add_dummy_prefix = True  # the words have theirs already, raw text has not
    return model.SerializeToString(deterministic=True)


def _ordered(counts: Counts) -> Counts:
    """The words that sentencepiece can read, in the order of their bytes."""
    pairs = zip(counts.words(), counts.counts.tolist(), strict=True)
    rows = sorted((word, count) for word, count in pairs if count > 0 and _READABLE.fullmatch(word))
    bounds = np.cumsum([0, *(len(word) for word, _ in rows)])
    text = np.frombuffer(b"".join(word for word, _ in rows), np.uint8)
    return Counts(text, bounds, np.array([count for _, count in rows], np.int64))


def _trained(options: UnigramOptions, names: Sequence[str], roles: Mapping[str, str], **given: Any) -> bytes:
    """What sentencepiece makes of the files that are given."""
    import sentencepiece

    for role, name in roles.items():
        given |= {f"{role}_id": names.index(name) if name in names else -1, f"{role}_piece": name}
    made = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            **given,
            input_format="tsv",
            model_writer=made,
            model_type="unigram",
            vocab_size=options.vocab_size,
            character_coverage=options.character_coverage,
            byte_fallback=options.byte_fallback,
            max_sentencepiece_length=options.max_piece_length,
            seed_sentencepiece_size=options.seed_size,
            shrinking_factor=options.shrinking_factor,
            num_threads=options.threads,
            control_symbols=[name for name in names if name not in roles.values()],
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_by_unicode_script=False,  # the words are cut already
            split_by_number=False,
            allow_whitespace_only_pieces=True,
            shuffle_input_sentence=False,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UsageError(_refusal(str(error), options)) from error
    return made.getvalue()


def _refusal(reason: str, options: UnigramOptions) -> str:
    """Why sentencepiece did not train, in a line that says what to do."""
    if found := re.search(r"value <= (\d+)", reason):
        return f"vocab_size {options.vocab_size}: the counts fill {found[1]} at most; ask for fewer or count more text"
    if found := re.search(r"required_chars\.? (\d+) vs (\d+)", reason):
        return (
            f"vocab_size {options.vocab_size}: specials, bytes and characters alone are {found[2]} pieces; "
            "ask for more pieces or a lower character_coverage"
        )
    return f"sentencepiece cannot train on these counts ({' '.join(reason.split())})"


def _seeds(counts: Counts, options: UnigramOptions) -> list[tuple[str, int]]:
    """Substrings of two and more characters with their frequency times length, the best first.

    Only those that two different characters or words' ends follow: else every word would be one, nothing shorter would
    be used, and that would all be pruned. sentencepiece takes all words' ends for one character; told apart they give
    English 2% fewer tokens and Japanese 0.5% more (0.3 and 1 MB, 2000 and 5000 pieces). Substrings of one length are
    numbered, in order; those of the next length are pairs of such a number and a character.
    """
    points = np.frombuffer(counts.text.tobytes().decode().encode("utf-32-le"), np.uint32).astype(np.int64)
    ends = np.concatenate([[0], np.cumsum((counts.text & 0xC0) != 0x80)])[counts.bounds]  # in characters
    lengths = np.diff(ends)
    weights = np.repeat(counts.counts, lengths).astype(np.float64)  # exact to 2**53
    left = np.arange(len(points)) - np.repeat(ends[1:], lengths)  # how much of its word follows a position, negative
    at, group = np.arange(len(points)), points
    first, frequency = np.zeros(0, np.int64), np.zeros(0)
    starts, scores = [], []
    for length in range(1, options.max_piece_length + 1):
        inside = left[at] + length < 0
        last = group[~inside]
        keys, where, longer = np.unique(
            group[inside] << _CHARACTER_BITS | points[at[inside] + length], return_index=True, return_inverse=True
        )
        if length > 1:
            followers = np.bincount(keys >> _CHARACTER_BITS, minlength=len(first))
            chosen = followers + np.bincount(last, minlength=len(first)) > 1
            starts.append(np.stack([first[chosen], np.full(np.count_nonzero(chosen), length)]))
            scores.append(frequency[chosen].astype(np.int64) * length)
        at, group = at[inside], longer
        first, frequency = at[where], np.bincount(group, weights[at], len(keys))
    places, values = np.concatenate(starts, axis=1).tolist(), np.concatenate(scores)
    best = np.argsort(-values, kind="stable")[: options.seed_size].tolist()
    whole = points.astype(np.uint32).tobytes().decode("utf-32-le")
    return [(whole[places[0][index] : places[0][index] + places[1][index]], int(values[index])) for index in best]


def _require(model: Any, required: Sequence[str]) -> None:
    """Puts the tokens that the vocabulary lacks in the places of its least likely pieces.

    Each gets the score of the pieces that it was made of before and a little more, so that it is used in their stead.
    """
    import sentencepiece

    normal = model.SentencePiece.NORMAL
    known = {piece.piece for piece in model.pieces if piece.type == normal}
    missing = [token for token in dict.fromkeys(required) if token not in known]
    if not missing:
        return
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    scores = {token: sum(map(processor.GetScore, processor.encode(token))) + _MARGIN for token in missing}
    weakest = [
        index
        for index in range(len(model.pieces) - 1, -1, -1)
        if model.pieces[index].type == normal
        and len(model.pieces[index].piece) > 1
        and model.pieces[index].piece not in required
    ]
    if len(weakest) < len(missing):
        raise UsageError(f"the vocabulary has no room for {len(missing)} required tokens; ask for a larger one")
    pieces = [piece for index, piece in enumerate(model.pieces) if index not in {*weakest[: len(missing)]}]
    pieces += [model.SentencePiece(piece=token, score=score) for token, score in scores.items()]
    meta = [piece for piece in pieces if piece.type != normal]
    ordered = sorted((piece for piece in pieces if piece.type == normal), key=lambda piece: (-piece.score, piece.piece))
    del model.pieces[:]
    model.pieces.extend([*meta, *ordered])
