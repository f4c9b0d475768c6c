"""A BPE vocabulary that grows and shrinks while every id that stays keeps its meaning, and every new token can be made.

New merges stand behind all old ones. So a text is cut as before, and then neighbours are joined where a new merge says
so: no old boundary moves. What a run of neighbouring tokens spells is cut into just these tokens when it stands alone,
since no merge crossed its ends; a new token that joins two neighbours is therefore reached, whatever comes after it.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tilth.errors import UsageError

from .compiled import Compiled, compiled_encoder
from .formats import pairs
from .split import METASPACE
from .tokenizer import Spec, Tokenizer, byte_of, parts, written


def changeable(tokenizer: Tokenizer, encoder: Compiled | None) -> Compiled:
    """The tokenizer's encoder. Raises UsageError where it has none: only what is encoded exactly can be changed."""
    if encoder is None:
        known = tokenizer.family in ("byte-bpe", "bpe")
        reason = "its normaliser or its words are none that tilth knows" if known else f"it is {tokenizer.family}"
        raise UsageError(
            f"{tokenizer.name}: cannot be changed, {reason}; what can be is byte-level BPE with the words of GPT-2 or "
            "GPT-4, and BPE on characters with byte fallback"
        )
    return encoder


class Growth:
    """A tokenizer of the families byte-bpe and bpe on its way to a larger one. `free` are ids to be given away first,
    in their order."""

    def __init__(self, base: Tokenizer, free: Sequence[int] = ()):
        self.base = base
        self.compiled = changeable(base, compiled_encoder(base))
        self.vocabulary: dict[str, int] = dict(base.spec["model"]["vocab"])
        self.merges: list[tuple[str, str]] = []
        self.taken = {*self.vocabulary, *base.specials, *base.added}  # tokens that are there, special ones among them
        self._names = {index: token for token, index in self.vocabulary.items()}
        self._free = list(free)[::-1]
        self._next = base.size

    def token_of(self, piece: bytes) -> str | None:
        """How this vocabulary writes a piece; None for what it cannot write: no UTF-8 where it has characters."""
        if self.base.family == "byte-bpe":
            return written(piece)
        try:
            return piece.decode().replace(" ", METASPACE)
        except UnicodeDecodeError:
            return None

    def segment(self, token: str) -> list[int]:
        """What is made of a token now."""
        piece = self.base.bytes_of(token) if self.base.family == "byte-bpe" else token.encode()
        return self.compiled.encoder.segment(piece)

    def lacks(self, character: str) -> bool:
        """Whether a character would gain by an id of its own: it has none, and is no control that its byte stands for,
        such as the newline, which is in all older text and in no longer token."""
        control = len(character.encode()) == 1 and not character.isprintable()
        return character not in self.vocabulary and not control

    def add_character(self, character: str) -> int:
        """An id for a character that was written as bytes; only on characters."""
        index = self._new(character)
        self.compiled.encoder.add_symbol(character, index)
        return index

    def add_merge(self, left: str, right: str) -> int:
        """An id for what two tokens make when they stand beside each other."""
        index = self._new(left + right)
        self.merges.append((left, right))
        self.compiled.encoder.add_merge(self.vocabulary[left], self.vocabulary[right], index)
        return index

    def _new(self, token: str) -> int:
        assert token not in self.vocabulary, "a token that is there already"
        index = self._free.pop() if self._free else self._next
        self._next = max(self._next, index + 1)
        self.vocabulary[token] = index
        self._names[index] = token
        self.taken.add(token)
        return index

    def splice(self, tokens: Iterable[str]) -> list[str]:
        """Adds tokens in their order, each by the merge of the two that it falls into; those that fall into more are
        tried again when all others are there. Returns those that cannot be made of two; what is there already is left
        as it is."""
        waiting = [token for token in dict.fromkeys(tokens) if token not in self.taken]
        while True:
            left_over = [token for token in waiting if not self._join(token)]
            if len(left_over) == len(waiting):
                return left_over
            waiting = left_over

    def _join(self, token: str) -> bool:
        """Adds a token that is a character, or the two tokens that it falls into; whether it is one of these."""
        if self.base.family == "bpe" and len(token) == 1:
            if lacking := self.lacks(token):
                self.add_character(token)
            return lacking
        parts = self.segment(token)
        if len(parts) != 2 or (self.base.family == "bpe" and any(byte_of(self._names[part]) for part in parts)):
            return False
        self.add_merge(self._names[parts[0]], self._names[parts[1]])
        return True

    def bridge(self, token: str) -> bool:
        """Adds a token that falls into more than two, with those in between, which nobody asked for; False where that
        cannot be: one of these is there, and never reached."""
        if self.base.family == "bpe":
            for character in token:
                if self.lacks(character):
                    self.add_character(character)
        while len(parts := self.segment(token)) > 1:
            named = [self._names[part] for part in parts]
            if self.base.family == "bpe" and any(map(byte_of, named)):
                return False
            found = next(((left, right) for left, right in pairwise(named) if left + right not in self.taken), None)
            if found is None:
                return False
            self.add_merge(*found)
        return True

    def keep(self, token: str) -> int:
        """An id for a token that nothing gives: text that spells it is cut into others."""
        return self._new(token)

    def new(self) -> list[str]:
        """The tokens that came, in the order in which they did."""
        return [token for token in self.vocabulary if token not in self.base.spec["model"]["vocab"]]

    def grown(self) -> Tokenizer:
        """The tokenizer as it is now. Added tokens are in its model, too: to those that are not, the tokenizers library
        gives ids behind all others, whatever ids the spec tells."""
        spec = copy.deepcopy(self.base.spec)
        whole = {**self.base.added, **self.base.specials, **self.vocabulary}
        spec["model"]["vocab"] = dict(sorted(whole.items(), key=lambda entry: entry[1]))
        old = pairs(spec["model"]["merges"])
        spec["model"]["merges"] = [[left, right] for left, right in [*old, *self.merges]]
        return Tokenizer(spec, self.base.config, self.base.name)


def with_required(shortened: Callable[[int], Tokenizer], size: int, required: Sequence[str]) -> Tokenizer:
    """The tokenizer of `size` ids in which the required tokens are; `shortened` gives the learned one with fewer ids,
    of which as many give way as these and what they are made of need.

    Raises UsageError for a token that no text can give.
    """
    rows, least = size, size
    while True:
        whole = shortened(rows)
        if whole.family == "wordpiece":
            return _with_words(shortened, size, required)
        growth = Growth(whole)
        for token in required:
            _require(growth, token)
        if rows + len(growth.new()) <= size:
            break
        least = min(least - 1, size - len(growth.new()))
        rows = least
    later = [token for token in shortened(size).tokens[rows:] if token not in growth.taken]
    growth.splice(later[: size - rows - len(growth.new())])
    return growth.grown()


def _require(growth: Growth, token: str) -> None:
    own = growth.token_of(token.encode())
    if own in growth.taken:
        return
    if growth.base.family == "byte-bpe" and len(growth.compiled.splitter.words(token)) != 1:
        raise UsageError(f"learn.required: {token!r} is more than one word, and no token crosses words")
    if not own or not growth.bridge(own):
        raise UsageError(f"learn.required: {token!r} cannot become a token")


def _with_words(shortened: Callable[[int], Tokenizer], size: int, required: Sequence[str]) -> Tokenizer:
    """WordPiece looks for the longest token and asks for no others in between."""
    rows = size
    while True:
        made = shortened(rows)
        missing = [token for token in dict.fromkeys(required) if token not in made.vocabulary]
        if rows + len(missing) <= size:
            break
        rows = size - len(missing)
    later = [token for token in shortened(size).tokens[rows:] if token not in missing]
    spec = copy.deepcopy(made.spec)
    for token in [*missing, *later[: size - rows - len(missing)]]:
        spec["model"]["vocab"][token] = len(spec["model"]["vocab"])
    grown = Tokenizer(spec, made.config, made.name)
    for token in missing:
        if not token.startswith("##") and grown.encode([token])[0].tolist() != [grown.vocabulary[token]]:
            raise UsageError(f"learn.required: no text gives {token!r}; write it as words are cut, after normalising")
    return grown


def derivations(tokenizer: Tokenizer) -> list[set[int]]:
    """For each id, the ids of all tokens on the way to it: those that its own bytes pass through."""
    vocabulary: dict[str, int] = tokenizer.spec["model"]["vocab"]
    ranks: dict[tuple[int, int], tuple[int, int]] = {}
    for rank, (left, right) in enumerate(pairs(tokenizer.spec["model"]["merges"])):
        pair = vocabulary[left], vocabulary[right]
        ranks[pair] = rank, vocabulary[left + right]  # of a pair that comes twice the last counts
    ways: list[set[int]] = [set() for _ in range(tokenizer.size)]
    for token, index in vocabulary.items():
        parts = [vocabulary[character] for character in token if character in vocabulary]
        if len(parts) < len(token) or (byte_of(token) and tokenizer.family == "bpe"):
            continue
        way = ways[index]
        while len(parts) > 1:
            found = [ranks.get((a, b), (len(ranks), -1)) for a, b in pairwise(parts)]
            best = min(found)
            if best[1] < 0:
                break
            at = found.index(best)
            way.update(parts[at : at + 2])
            parts[at : at + 2] = [best[1]]
    return ways


def removable(tokenizer: Tokenizer, uses: np.ndarray, most: int = 0) -> list[int]:
    """Ids that a text with these uses of each id does without: used at most so often, no special, none that the spec
    names elsewhere, no byte or character that others are made of, and on the way to no token that stays. What is
    rarest, and of that the youngest, comes first.

    Without them every text that they do not occur in is cut as before.
    """
    model = tokenizer.spec["model"]
    vocabulary: dict[str, int] = model["vocab"]
    kept = {*tokenizer.specials.values(), *tokenizer.added.values(), *_ids_elsewhere(tokenizer.spec)}
    kept |= {index for token, index in vocabulary.items() if len(token) == 1 or byte_of(token)}
    if model.get("unk_token") in vocabulary:
        kept.add(vocabulary[model["unk_token"]])
    rare = {index for index in vocabulary.values() if index not in kept and uses[index] <= most}
    needed: set[int] = set()
    ways = derivations(tokenizer)
    through: dict[int, list[int]] = {}
    for index in vocabulary.values():
        if index not in rare:
            needed |= ways[index]
        for part in ways[index]:
            through.setdefault(part, []).append(index)
    order: dict[int, None] = {}  # before each token, those that pass through it: any beginning can go by itself
    waiting = sorted(rare - needed, key=lambda index: (-int(uses[index]), index))
    while waiting:
        index = waiting.pop()
        first = [other for other in through.get(index, []) if other not in order and other != index]
        if first:
            waiting += [index, *first]
        else:
            order[index] = None
    return list(order)


def without(tokenizer: Tokenizer, ids: Iterable[int], renumber: bool) -> tuple[Tokenizer, np.ndarray]:
    """The tokenizer without these ids, and the new id of each old one (int64, -1 where it went). Ids close up if they
    are to be renumbered, else they stay, and those that went are free.

    `ids` is a beginning of what `removable` gives.
    """
    gone = set(ids)
    moves = np.arange(tokenizer.size)
    moves[sorted(gone)] = -1
    if renumber:
        moves[moves >= 0] = np.arange(tokenizer.size - len(gone))
    spec = copy.deepcopy(tokenizer.spec)
    vocabulary: dict[str, int] = spec["model"]["vocab"]
    lost = {token for token, index in vocabulary.items() if index in gone}
    spec["model"]["vocab"] = {token: int(moves[index]) for token, index in vocabulary.items() if token not in lost}
    spec["model"]["merges"] = [
        [left, right]
        for left, right in pairs(spec["model"]["merges"])
        if left not in lost and right not in lost and left + right not in lost
    ]
    for token in spec.get("added_tokens") or []:
        token["id"] = int(moves[token["id"]])
    for place, key in _places_elsewhere(spec):
        place[key] = int(moves[place[key]])
    return Tokenizer(spec, tokenizer.config, tokenizer.name), moves


def _ids_elsewhere(spec: Spec) -> set[int]:
    return {place[key] for place, key in _places_elsewhere(spec)}


def _places_elsewhere(spec: Spec) -> Iterator[tuple[Any, Any]]:
    """Where else than in its tables a spec tells an id: in post-processors and in how it pads."""
    for part in parts(spec, "post_processor"):
        for special in (part.get("special_tokens") or {}).values():
            yield from ((special["ids"], at) for at in range(len(special["ids"])))
        yield from ((part[side], 1) for side in ("sep", "cls") if isinstance(part.get(side), list))
    if spec.get("padding"):
        yield spec["padding"], "pad_id"
