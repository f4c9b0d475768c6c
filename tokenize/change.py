"""A vocabulary changed: which tokens come and which go, by what a text or another vocabulary asks for.

Nothing is read or written here; what `grow` promises about a change is checked in `prove`.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tilth.errors import UsageError

from ..curate.read import ReadOptions
from .bpe import LearnOptions, character_uses, frequent_characters, token_corpus
from .bpe_encoder import BpeEncoder
from .corpus import Mixture
from .count import CountOptions, Counts
from .grow import Growth, changeable, removable, without
from .learn import learn
from .split import SplitOptions
from .tokenizer import Tokenizer, byte_of

LEARNED = 20_000  # tokens, unless told otherwise


class ExpandRecipe(BaseModel):
    """How a vocabulary is changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = Field(default="", description="what the recipe is for, one line")
    method: Literal["add", "replace", "prune"] = Field(
        default="add", description="add behind all old ids; replace tokens that the text never uses; only prune these"
    )
    tokens: int | None = Field(
        default=None,
        ge=1,
        description="tokens to add, in all; default: those of the second vocabulary, or 20,000 learned from the text; "
        "with prune, tokens to take away at most",
    )
    missing: Literal["bridge", "leave", "keep"] = Field(
        default="bridge",
        description="a second vocabulary's tokens that no merge of two gives: bridge adds what is needed in between, "
        "leave leaves them out, keep gives them an id that no text leads to, as Chinese-LLaMA did",
    )
    max_uses: int = Field(
        default=0, ge=0, description="replace and prune: a token counts as never used up to so many uses"
    )
    read: ReadOptions = ReadOptions()
    split: SplitOptions = Field(
        default=SplitOptions(),
        description="for vocabularies on characters: what a new token may not cross; others have their own words",
    )
    mixture: Mixture | None = None
    count: CountOptions = CountOptions()
    learn: LearnOptions = LearnOptions()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.split.pattern not in (None, "metaspace"):
            raise ValueError(f"split.pattern: a base keeps its own words; {self.split.pattern} is none to choose")
        if self.missing == "keep" and self.method != "add":
            raise ValueError(f"missing: keep is for add; {self.method} leaves no token that nothing gives")
        return self


class Change(NamedTuple):
    """From a base tokenizer to another."""

    base: Tokenizer
    grown: Tokenizer
    moves: np.ndarray  # int64, the new id of each base id, -1 where it went
    new: list[int]  # ids of the grown one that are new, ascending
    missed: list[str]  # tokens that were asked for and are not among them, or that no text leads to


class Segmented(NamedTuple):
    """Words as one tokenizer cuts them."""

    ids: np.ndarray  # int32, of all words one behind the other
    lengths: np.ndarray  # int64, how many each word has
    counts: np.ndarray  # int64, how often each word occurs

    def uses(self, size: int) -> np.ndarray:
        """int64[size], how often each id occurs."""
        weights = np.repeat(self.counts, self.lengths)
        return np.bincount(self.ids, weights, minlength=size).astype(np.int64)

    def tokens(self) -> int:
        """Tokens in all."""
        return int((self.lengths * self.counts).sum())

    def holds(self, of: np.ndarray) -> np.ndarray:
        """bool by word: whether it has one of the ids `of` (bool by id)."""
        ends = np.concatenate([[0], np.cumsum(of[self.ids])])
        stops = np.cumsum(self.lengths)
        return ends[stops] > ends[stops - self.lengths]


def changed(base: Tokenizer, seconds: Sequence[Tokenizer], counts: Counts, recipe: ExpandRecipe) -> Change:
    """The base changed as the recipe says, for the words of new text, which may be none where there are `seconds`, the
    tokenizers whose tokens are added. Raises UsageError where that cannot be."""
    if recipe.method == "add":
        growth, missed = _growth(base, [], seconds, counts, recipe)
        return Change(base, growth.grown(), np.arange(base.size), _ids(growth), missed)
    uses = segmented(changeable(base, base.compiled).encoder, counts).uses(base.size)
    free = removable(base, uses, recipe.max_uses)[: recipe.tokens]
    if recipe.method == "prune":
        pruned, moves = without(base, free, renumber=True)
        return Change(base, pruned, moves, [], [])
    if not free:
        raise UsageError(f"{base.name}: this text uses every token that could be replaced; raise max_uses, or add")
    start, moves = without(base, free, renumber=False)
    growth, missed = _growth(start, free, seconds, counts, recipe)
    while len(taken := free[: len(growth.new())]) < len(free):  # rows that nothing took keep their tokens
        start, moves = without(base, taken, renumber=False)
        settled = Growth(start, taken)
        settled.splice(growth.new())
        free = taken
        growth = settled
    return Change(base, growth.grown(), moves, _ids(growth), missed)


def _ids(growth: Growth) -> list[int]:
    return sorted(growth.vocabulary[token] for token in growth.new())


def _growth(
    start: Tokenizer, free: Sequence[int], seconds: Sequence[Tokenizer], counts: Counts, recipe: ExpandRecipe
) -> tuple[Growth, list[str]]:
    """The vocabulary with what was asked for, no more than `free` rows if there are any; and what was not to be had."""
    wanted = len(free) or recipe.tokens or (None if seconds else LEARNED)
    growth = Growth(start, free)
    asked: list[str] = []
    lost: list[str] = []
    if seconds:
        asked, lost = _tokens_of(growth, seconds)
        asked = asked[:wanted]
        missing = growth.splice(asked)
        if recipe.missing == "keep":
            for token in missing:
                growth.keep(token)
        elif recipe.missing == "bridge" and not free:
            for token in sorted(missing, key=len):  # short ones first: others may be made of them
                growth.bridge(token)
        wanted = wanted or len(growth.new())
        if recipe.missing != "keep":
            unused = _unused(growth, counts) if len(counts.counts) else set()
            growth = _replayed(start, free, [token for token in growth.new() if token not in unused][:wanted])
    if len(counts.counts) and wanted:
        _learn_on_top(growth, counts, wanted - len(growth.new()), recipe, exactly=recipe.tokens is not None)
    return growth, lost + [token for token in asked if token not in growth.vocabulary]


def _tokens_of(growth: Growth, seconds: Sequence[Tokenizer]) -> tuple[list[str], list[str]]:
    """The tokens of other vocabularies as this one writes them, by their ids, each once; no special ones, no bytes. And
    those that no text would give here."""
    found: dict[str, bool] = {}
    for one in seconds:
        for piece, token in zip(one.pieces, one.tokens, strict=True):
            byte = len(piece) == 1 and (one.family == "byte-bpe" or byte_of(token))
            mine = growth.token_of(piece) if piece and not byte else None
            if mine is not None and mine not in growth.taken:
                found[mine] = _is_of_text(growth, piece, mine)
    return [token for token, given in found.items() if given], [token for token, given in found.items() if not given]


def _is_of_text(growth: Growth, piece: bytes, token: str) -> bool:
    """Whether a word of normalised text can hold the piece."""
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return True
    normalized = growth.compiled.normalizer(text)
    if growth.base.family == "bpe":
        return normalized.endswith(token)
    return normalized == text and len(growth.compiled.splitter.words(text)) == 1


def _unused(growth: Growth, counts: Counts) -> set[str]:
    """New tokens that the text never uses and nothing else needs."""
    grown = growth.grown()
    uses = segmented(growth.compiled.encoder, counts).uses(grown.size)
    gone = set(removable(grown, uses))
    if growth.base.family == "bpe":  # characters, which bytes stand in for
        parts = {part for token in growth.new() if uses[growth.vocabulary[token]] for part in token}
        gone |= {growth.vocabulary[token] for token in growth.new() if len(token) == 1 and token not in parts}
    return {token for token in growth.new() if growth.vocabulary[token] in gone}


def _replayed(start: Tokenizer, free: Sequence[int], tokens: Sequence[str]) -> Growth:
    """A growth of these tokens alone, in this order."""
    growth = Growth(start, free)
    lost = growth.splice(tokens)
    assert not lost, "each stands behind what it is made of"
    return growth


def _learn_on_top(growth: Growth, counts: Counts, number: int, recipe: ExpandRecipe, exactly: bool) -> None:
    """Adds so many tokens: characters that the text needs, then merges of what the words fall into now. Raises
    UsageError where the text does not give so many, and that was asked for."""
    if number <= 0:
        return
    characters: list[str] = []
    if growth.base.family == "bpe":
        frequent = frequent_characters(character_uses(counts), recipe.learn.character_coverage)
        characters = [chr(point) for point in frequent if growth.lacks(chr(point))]
        for character in characters[:number]:
            growth.add_character(character)
    tokens = growth.grown().tokens
    ids, lengths, _ = segmented(growth.compiled.encoder, counts)
    bytewise = growth.base.family == "byte-bpe"
    base = [growth.base.bytes_of(token) if bytewise else token.encode() for token in tokens]
    barred = np.array([bool(byte_of(token)) and not bytewise for token in tokens])
    corpus = token_corpus(ids, lengths, counts.counts, barred)
    wanted, options = number - len(characters[:number]), recipe.learn
    found = learn(corpus, base, wanted, options.min_frequency, options.max_token_length, ties=options.ties)
    if exactly and len(found.merges) < wanted:
        raise UsageError(
            f"the text gives {len(found.merges) + len(characters):,} new tokens of {number:,} asked for; ask for less, "
            f"give more text, or lower learn.min_frequency ({options.min_frequency})"
        )
    names = tokens + [growth.token_of(piece) if bytewise else piece.decode() for piece in found.pieces[len(tokens) :]]
    for left, right in found.merges.tolist():
        growth.add_merge(str(names[left]), str(names[right]))


def segmented(encoder: BpeEncoder, counts: Counts) -> Segmented:
    """The words as the encoder cuts them."""
    return Segmented(*encoder.words(counts.text, counts.bounds), counts.counts)
