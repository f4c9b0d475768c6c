"""Which tokenizers the compiled encoder can do exactly, and that encoder for them."""

from collections.abc import Sequence

import numpy as np

from .bpe_encoder import BpeEncoder
from .formats import pairs
from .normalize import Form, Normalizer
from .split import SplitOptions, Splitter, known_patterns
from .tokenizer import BYTES, CHARACTERS, Spec, Tokenizer, byte_of, parts

_NEVER_IN_UTF8 = [0xC0, 0xC1, *range(0xF5, 0x100)]  # bytes that some vocabularies therefore leave out


class Compiled:
    """Texts to ids, several times as fast as the tokenizers library."""

    def __init__(self, normalizer: Normalizer, split: SplitOptions, encoder: BpeEncoder):
        self.normalizer = normalizer
        self.split = split  # on characters: what stands between two metaspaces
        self.splitter = Splitter(split)
        self.encoder = encoder

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """int32 ids of all texts, one behind the other, and how many each has (int64)."""
        return self.encoder.encode([self.normalizer(text) for text in texts])


def compiled_encoder(tokenizer: Tokenizer) -> Compiled | None:
    """The encoder; None for what only the tokenizers library can do: other models, normalisers, regular expressions."""
    spec = tokenizer.spec
    model = spec["model"]
    plain = (
        not model.get("dropout") and not model.get("continuing_subword_prefix") and not model.get("end_of_word_suffix")
    )
    if tokenizer.family not in ("byte-bpe", "bpe") or not plain:
        return None
    vocabulary: dict[str, int] = model["vocab"]
    merges = _merges(model, vocabulary)
    if merges is None:
        return None
    bytewise = tokenizer.family == "byte-bpe"
    split = split_of(spec) if bytewise else SplitOptions(pattern="metaspace", digits=0)
    encoder = _on_bytes(model, merges, split) if bytewise else _on_characters(spec, merges)
    normalizer = _normalizer(spec, metaspace=not bytewise)
    if encoder is None or normalizer is None or split is None:
        return None
    return Compiled(normalizer, split, encoder)


def _merges(model: Spec, vocabulary: dict[str, int]) -> np.ndarray | None:
    """int32[n, 3]: left, right and what they become."""
    try:
        rows = [
            (vocabulary[left], vocabulary[right], vocabulary[left + right]) for left, right in pairs(model["merges"])
        ]
    except (KeyError, ValueError):
        return None
    return np.array(rows, np.int32).reshape(-1, 3)


def split_of(spec: Spec) -> SplitOptions | None:
    """How a byte-level tokenizer cuts words, where that is one of the known ways."""
    steps = parts(spec, "pre_tokenizer")
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    if steps[-1].get("use_regex", True):
        return SplitOptions(pattern="gpt2", marks=False, digits=0) if len(steps) == 1 else None
    if len(steps) != 2 or steps[0]["type"] != "Split" or steps[0].get("invert"):
        return None
    if steps[0].get("behavior") not in ("Isolated", "isolated"):
        return None
    return known_patterns().get(steps[0]["pattern"].get("Regex", ""))


def _on_bytes(model: Spec, merges: np.ndarray, split: SplitOptions | None) -> BpeEncoder | None:
    symbols = np.array([model["vocab"].get(character, -1) for character in CHARACTERS], np.int32)
    if split is None or np.delete(symbols, _NEVER_IN_UTF8).min() < 0:
        return None
    encoder = BpeEncoder(symbols, merges, Splitter(split))
    if not model.get("ignore_merges"):
        return encoder
    words = {
        bytes(BYTES[character] for character in token): index
        for token, index in model["vocab"].items()
        if BYTES.keys() >= set(token)
    }
    unmerged = {word: index for word, index in words.items() if encoder.segment(word) != [index]}
    return BpeEncoder(symbols, merges, Splitter(split), whole=unmerged)


def _on_characters(spec: Spec, merges: np.ndarray) -> BpeEncoder | None:
    model = spec["model"]
    vocabulary: dict[str, int] = model["vocab"]
    fallback = np.array([vocabulary.get(f"<0x{byte:02X}>", -1) for byte in range(256)], np.int32)
    if parts(spec, "pre_tokenizer") or not model.get("byte_fallback") or fallback.min() < 0:
        return None
    symbols = np.full(0x110000, -1, np.int32)
    for token, index in vocabulary.items():
        if len(token) == 1:
            symbols[ord(token)] = index
    merged = pairs(model["merges"])
    if any(byte_of(token) for pair in merged for token in pair):  # its seam is no pair of characters
        return None
    seams = {(ord(left[-1]), ord(right[0])) for left, right in merged}
    return BpeEncoder(symbols, merges, fallback=fallback, seams=sorted(seams))


def _normalizer(spec: Spec, metaspace: bool) -> Normalizer | None:
    """What the spec's normaliser does, if it is one of ours."""
    steps = parts(spec, "normalizer")
    kinds = [step["type"] for step in steps]
    form: Form = "none"
    if kinds and kinds[0] in ("NFC", "NFKC"):
        form = "nfc" if kinds[0] == "NFC" else "nfkc"
        steps = steps[1:]
    made = Normalizer(form, metaspace, prefix=any(step["type"] == "Prepend" for step in steps))
    ours = [step for step in parts({"normalizer": made.spec()}, "normalizer") if step["type"] not in ("NFC", "NFKC")]
    return made if steps == ours else None
