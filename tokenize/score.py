"""What a tokenizer makes of texts and what its vocabulary holds, as figures.

`Scorer` measures texts by label (a language, a source); only whole numbers are carried, so that units scored in several
processes add up exactly. The vocabulary is looked at on its own: its scripts, its lengths, the tokens that no text can
give. Reading corpora and writing pages happen elsewhere.
"""

import functools
import re
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..curate.segment import UNSPACED, segment
from .split import HAN, METASPACE
from .tokenizer import Spec, Tokenizer, byte_of, parts

EXAMPLES = 5  # round-trip failures of a label that are kept
LISTED = 50  # dead, unused and duplicate tokens that are named
LONGEST = 20  # tokens of a script that are named
EXCERPT = 60  # characters of an example

# What shows how numbers and white space are cut.
DIGITS = ("1", "12", "123", "1234", "12345", "123456", "3.14159", "2026-11-26")
WHITE_SPACE = (
    *(f"a{' ' * run}b" for run in (1, 2, 4, 8, 16)),
    *("a\tb", "a\t\tb", "a\nb", "a\n\n\nb", "a\r\nb", "a \n b"),
    "def f(x):\n    if x:\n        return 1\n",
    "if x:\n\tif y:\n\t\tz()\n",
)

_HAN_RUN = re.compile(f"[{HAN}]+")
_SPACE_DROPPING = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_SCRIPT_NAMES = {
    "Latn": "Latin", "Hani": "Han", "Jpan": "Kana", "Kore": "Hangul", "Cyrl": "Cyrillic", "Arab": "Arabic",
    "Grek": "Greek", "Hebr": "Hebrew", "Deva": "Devanagari", "Thai": "Thai", "Beng": "Bengali", "Taml": "Tamil",
    "Telu": "Telugu", "Knda": "Kannada", "Mlym": "Malayalam", "Gujr": "Gujarati", "Guru": "Gurmukhi", "Orya": "Odia",
    "Sinh": "Sinhala", "Armn": "Armenian", "Geor": "Georgian", "Ethi": "Ethiopic", "Khmr": "Khmer", "Laoo": "Lao",
    "Mymr": "Burmese", "Tibt": "Tibetan", "Mong": "Mongolian", "Syrc": "Syriac", "Thaa": "Thaana", "Bopo": "Bopomofo",
}  # fmt: skip


class Scorer:
    """Counts what a tokenizer does to texts."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.uses = np.zeros(tokenizer.size, np.int64)
        self._labels: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._failures: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
        self._inside = inside(tokenizer)
        self._partial = partial_tokens(tokenizer)
        self._unknown = unknown_token(tokenizer)
        self._drops_space = any(part["type"] in _SPACE_DROPPING for part in parts(tokenizer.spec, "pre_tokenizer"))
        tokenizer.encode([""])  # what is built at first use must not count as time spent encoding

    def add(self, texts: Sequence[str], label: str) -> None:
        """Counts documents of one label. Lone surrogates, which UTF-8 has no form for, are read as question marks."""
        encoded = [text.encode("utf-8", "replace") for text in texts]
        texts = [text.decode() for text in encoded]
        began = time.perf_counter_ns()
        ids, lengths = self.tokenizer.encode_flat(texts)
        nanoseconds = time.perf_counter_ns() - began
        uses = np.bincount(ids, minlength=self.tokenizer.size)
        self.uses += uses
        words, runs = words_and_han(texts)
        self._labels[label].update(
            documents=len(texts),
            bytes=sum(map(len, encoded)),
            characters=sum(map(len, texts)),
            words=words,
            han_characters=sum(len(run) * times for run, times in runs.items()),
            han_tokens=int(self._inside.encode_flat(list(runs))[1] @ np.fromiter(runs.values(), np.int64, len(runs))),
            tokens=len(ids),
            partial_tokens=int(uses[self._partial].sum()),
            unknown_tokens=0 if self._unknown is None else int(uses[self._unknown]),
            nanoseconds=nanoseconds,
        )
        flat, ends = ids.tolist(), lengths.cumsum().tolist()
        self._check_round_trip(texts, [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)], label)

    def _check_round_trip(self, texts: Sequence[str], ids: list[list[int]], label: str) -> None:
        decoded = self.tokenizer.library.decode_batch(ids, skip_special_tokens=True)
        for text, back in zip(texts, decoded, strict=True):
            if back == text:
                continue
            declared, back = self._comparable(self._normalized(text)), self._comparable(back)
            if back == declared:
                self._labels[label]["normalized"] += 1
                continue
            self._labels[label]["failures"] += 1
            if len(self._failures[label]) < EXAMPLES:
                self._failures[label].append(_first_difference(declared, back))

    def _normalized(self, text: str) -> str:
        """What the tokenizer says that it makes of a text before it cuts it."""
        normalizer = self.tokenizer.library.normalizer
        text = normalizer.normalize_str(text) if normalizer else text
        return text.replace(METASPACE, " ") if self.tokenizer.family in ("bpe", "unigram") else text

    def _comparable(self, text: str) -> str:
        """Without the space that is put before the first word, or without all white space where none of it is kept."""
        return "".join(text.split()) if self._drops_space else text.removeprefix(" ")

    def counts(self) -> dict[str, Any]:
        """What was counted but `uses`, as JSON can carry it; `merge` takes both."""
        return {
            "labels": {label: dict(counts) for label, counts in self._labels.items()},
            "failures": {label: list(found) for label, found in self._failures.items()},
        }

    def merge(self, counts: Mapping[str, Any], uses: np.ndarray) -> None:
        """Adds what another scorer of the same tokenizer counted: its `counts()` and its `uses`."""
        for label, counted in counts["labels"].items():
            self._labels[label].update(counted)
        for label, found in counts["failures"].items():
            self._failures[label] = (self._failures[label] + found)[:EXAMPLES]
        self.uses += uses

    def result(self) -> dict[str, Any]:
        """The score card as JSON can carry it: `tokenizer`, `family`, `total` and `labels` (see `measures`),
        `failures` by label, `vocabulary` (see `describe`), and how `digits` and `white_space` are cut."""
        total: Counter[str] = Counter()
        for counts in self._labels.values():
            total.update(counts)
        return {
            "tokenizer": self.tokenizer.name,
            "family": self.tokenizer.family,
            "total": measures(total),
            "labels": {label: measures(self._labels[label]) for label in sorted(self._labels)},
            "failures": {label: found for label, found in sorted(self._failures.items()) if found},
            "vocabulary": describe(self.tokenizer, self.uses),
            "digits": _cut(self._inside, DIGITS),
            "white_space": _cut(self._inside, WHITE_SPACE),
        }


def measures(counts: Mapping[str, int]) -> dict[str, float | int | None]:
    """The figures of one label's counts; None for a share of nothing. Speed is in MB of UTF-8 for each second that a
    process spent encoding."""
    counts = Counter(counts)

    def ratio(part: float, whole: int) -> float | None:
        return part / whole if whole else None

    tokens = counts["tokens"]
    return {
        **{name: counts[name] for name in ("documents", "bytes", "characters", "words", "han_characters", "tokens")},
        "bytes_per_token": ratio(counts["bytes"], tokens),
        "characters_per_token": ratio(counts["characters"], tokens),
        "tokens_per_word": ratio(tokens, counts["words"]),
        "tokens_per_han_character": ratio(counts["han_tokens"], counts["han_characters"]),
        "partial_share": ratio(counts["partial_tokens"], tokens),
        "unknown_share": ratio(counts["unknown_tokens"], tokens),
        "round_trip_failures": counts["failures"],
        "normalized": counts["normalized"],
        "megabytes_per_second": ratio(1000 * counts["bytes"], counts["nanoseconds"]),
    }


def words_and_han(texts: Sequence[str]) -> tuple[int, Counter[str]]:
    """How many words there are, and the runs of Han characters. White space parts words, as is usual for tokens a word;
    in a text with letters of a script that writes no spaces they are ICU's."""
    words, runs = 0, Counter[str]()
    for text in texts:
        document = segment(text)
        if text.isascii() or not document.count(UNSPACED):
            words += len(text.split())
        else:
            words += int(np.count_nonzero(document.tokens.are_words))
            runs.update(_HAN_RUN.findall(text))
    return words, runs


def _first_difference(expected: str, found: str) -> dict[str, str]:
    """What surrounds the first place where two texts differ."""
    shared = min(len(expected), len(found))
    place = next((at for at in range(shared) if expected[at] != found[at]), shared)
    begin = max(0, place - EXCERPT // 3)
    return {"expected": expected[begin : begin + EXCERPT], "decoded": found[begin : begin + EXCERPT]}


# --- The vocabulary -------------------------------------------------------------------------------------------------


def inside(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer as it works inside a text: without the space that it puts before the first word."""
    spec = tokenizer.spec
    normalizers, splitters = parts(spec, "normalizer"), parts(spec, "pre_tokenizer")
    bare_normalizers = [part for part in normalizers if part["type"] != "Prepend"]
    bare_splitters = [_without_prefix(part) for part in splitters]
    if bare_normalizers == normalizers and bare_splitters == splitters:
        return tokenizer
    sections = {
        "normalizer": {"type": "Sequence", "normalizers": bare_normalizers} if bare_normalizers else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": bare_splitters} if bare_splitters else None,
    }
    return Tokenizer({**spec, **sections}, tokenizer.config, tokenizer.name)


def _without_prefix(part: Spec) -> Spec:
    if part["type"] == "Metaspace":
        return {**{key: part[key] for key in part if key != "add_prefix_space"}, "prepend_scheme": "never"}
    return {**part, "add_prefix_space": False} if part.get("add_prefix_space") else part


def unknown_token(tokenizer: Tokenizer) -> int | None:
    """The id that stands for whatever the vocabulary has nothing for, if there is one."""
    model = tokenizer.spec["model"]
    return model.get("unk_id") if tokenizer.family == "unigram" else tokenizer.vocabulary.get(model.get("unk_token"))


def partial_tokens(tokenizer: Tokenizer) -> np.ndarray:
    """bool an id: its bytes are no whole characters. So is `<0xE4>`; `<0x0A>`, which is a newline, is not."""
    return np.array([_whole(piece) is None for piece in tokenizer.pieces], bool)


def _whole(piece: bytes) -> str | None:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None


def dead_tokens(tokenizer: Tokenizer) -> list[int]:
    """Ids that no text gives: their own text is not encoded as them alone. Specials, added tokens and single bytes are
    never dead, an id without a token always is. Of parts of characters, which are no text, and of SentencePiece's white
    space, which is often trimmed, the model alone is asked; a `##ing` lives if some letter before it gives it."""
    inner = inside(tokenizer)
    exempt = {*tokenizer.specials.values(), *tokenizer.added.values(), unknown_token(tokenizer)}
    continues = _continuation(tokenizer)
    dead, whole, endings = [], {}, {}
    for index, (token, piece) in enumerate(zip(tokenizer.tokens, tokenizer.pieces, strict=True)):
        if index in exempt or byte_of(token) or (tokenizer.family == "byte-bpe" and len(piece) == 1):
            continue
        text = _whole(piece)
        if not token:
            dead.append(index)
        elif text is None or (text.isspace() and tokenizer.family in ("bpe", "unigram")):
            if tokenizer.segment(token) != [index]:
                dead.append(index)
        elif continues and token.startswith(continues):
            endings[index] = text
        else:
            whole[index] = text
    failed = _not_alone(inner, whole)
    beginnings = {index: text[1:] for index, text in failed.items() if text.startswith(" ")}  # where spaces are trimmed
    living = beginnings.keys() - _not_alone(tokenizer, beginnings).keys()
    return sorted([*dead, *(failed.keys() - living), *_dead_endings(inner, endings)])


def _not_alone(tokenizer: Tokenizer, texts: Mapping[int, str]) -> dict[int, str]:
    """Those of the texts, by id, that are not encoded as that id alone."""
    encoded = tokenizer.encode(list(texts.values()))
    return {index: texts[index] for index, ids in zip(texts, encoded, strict=True) if ids.tolist() != [index]}


def _dead_endings(tokenizer: Tokenizer, endings: dict[int, str]) -> list[int]:
    """Which of WordPiece's continuations no beginning of one letter gives."""
    beginnings = sorted(token for token in tokenizer.vocabulary if len(token) == 1 and token.isalnum())[:50]
    for beginning in beginnings:
        encoded = tokenizer.encode([beginning + text for text in endings.values()])
        endings = {
            index: text
            for (index, text), ids in zip(endings.items(), encoded, strict=True)
            if ids[-1:].tolist() != [index]
        }
    return list(endings)


def _continuation(tokenizer: Tokenizer) -> str:
    model = tokenizer.spec["model"]
    return (model.get("continuing_subword_prefix") or "##") if tokenizer.family == "wordpiece" else ""


def describe(tokenizer: Tokenizer, uses: np.ndarray) -> dict[str, Any]:
    """What a vocabulary holds, and how often texts used it (`uses`, int64 an id).

    `unused`, `dead` and `duplicates` (ids of the same bytes, but for byte fallback) say how many there are and name
    some; `scripts` and `lengths` (in characters, of whole tokens) count tokens and their uses.
    """
    shown = shown_tokens(tokenizer)
    special = set(tokenizer.specials.values())
    ordinary = [index for index, token in enumerate(tokenizer.tokens) if token and index not in special]
    texts = {index: _whole(tokenizer.pieces[index]) for index in ordinary if not byte_of(tokenizer.tokens[index])}
    unused = [index for index, used in enumerate(uses.tolist()) if not used and index not in special]

    def named(groups: Sequence[Sequence[int]]) -> dict[str, Any]:
        found = [{"ids": list(ids), "token": shown[ids[0]]} for ids in groups[:LISTED]]
        return {"tokens": len(groups), "examples": found}

    return {
        "size": tokenizer.size,
        "specials": len(tokenizer.specials),
        "added": len(tokenizer.added),
        "partial": int(partial_tokens(tokenizer).sum()),
        "unused": named([[index] for index in unused]),
        "dead": named([[index] for index in dead_tokens(tokenizer)]),
        "duplicates": named(_duplicates(tokenizer, ordinary)),
        "scripts": _by_script(tokenizer, texts, uses, shown),
        "lengths": _by_length(texts, uses),
    }


def shown_tokens(tokenizer: Tokenizer) -> list[str]:
    """Tokens by id for people: their text, parts of characters as `\\xe4`; `<0x0A>`, `##ing`, specials as written."""
    return [
        token
        if tokenizer.family == "wordpiece" or not piece or byte_of(token)
        else piece.decode("utf-8", "backslashreplace")
        for token, piece in zip(tokenizer.tokens, tokenizer.pieces, strict=True)
    ]


def _cut(tokenizer: Tokenizer, texts: Sequence[str]) -> list[dict[str, Any]]:
    shown = shown_tokens(tokenizer)
    return [
        {"text": text, "tokens": [shown[index] for index in ids]}
        for text, ids in zip(texts, tokenizer.encode(texts), strict=True)
    ]


def _duplicates(tokenizer: Tokenizer, ordinary: Sequence[int]) -> list[list[int]]:
    """Ids of the same bytes, each group ascending. A continuation is not the same as the word."""
    groups: defaultdict[tuple[bytes, bool], list[int]] = defaultdict(list)
    continues = _continuation(tokenizer)
    for index in ordinary:
        token = tokenizer.tokens[index]
        if not byte_of(token):
            groups[tokenizer.pieces[index], bool(continues) and token.startswith(continues)].append(index)
    return [ids for ids in groups.values() if len(ids) > 1]


def _by_length(texts: Mapping[int, str | None], uses: np.ndarray) -> list[dict[str, int]]:
    lengths = {index: len(text) for index, text in texts.items() if text is not None}
    numbers = list(lengths.values())
    tokens = np.bincount(numbers, minlength=1)
    used = np.zeros(len(tokens), np.int64)
    np.add.at(used, numbers, uses[list(lengths)])
    present = np.flatnonzero(tokens).tolist()
    return [{"characters": length, "tokens": int(tokens[length]), "uses": int(used[length])} for length in present]


def _by_script(
    tokenizer: Tokenizer, texts: Mapping[int, str | None], uses: np.ndarray, shown: Sequence[str]
) -> list[dict[str, Any]]:
    """How many tokens each script has, the largest first, and its longest ones."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index in range(tokenizer.size):
        if index in texts:
            text = texts[index]
            groups["Parts of characters" if text is None else script_of(text)].append(index)
        elif tokenizer.tokens[index]:
            groups["Byte fallback" if byte_of(tokenizer.tokens[index]) else "Special tokens"].append(index)
    rows = []
    for script, ids in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        longest = sorted(ids, key=lambda index: (-len(shown[index]), index))[:LONGEST]
        row = {"script": script, "tokens": len(ids), "uses": int(uses[ids].sum())}
        rows.append(row | {"longest": [shown[index] for index in longest]})
    return rows


def script_of(text: str) -> str:
    """The script of a token's letters, Han with kana being Japanese; what else it is where it has none."""
    scripts = set(map(_script, text)) - {"Zyyy"}
    if len(scripts) == 1 or scripts == {"Hani", "Jpan"}:
        script = max(scripts)
        return _SCRIPT_NAMES.get(script, script)
    if scripts:
        return "Several scripts"
    if any(unicodedata.category(character)[0] in "LM" for character in text):
        return "Other letters and marks"
    if any(character.isnumeric() for character in text):
        return "Digits"
    return "White space" if text.isspace() else "Punctuation and symbols"


@functools.cache
def _script(character: str) -> str:
    return segment(character).script
