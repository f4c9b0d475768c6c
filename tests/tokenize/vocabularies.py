"""Small vocabularies that several tests share: learned from a text, changed, and asked of the tokenizers library."""

import functools
from collections import Counter
from typing import Any

import numpy as np

from tilth.tokenize.count import Counts
from tilth.tokenize.recipe import TokenizerRecipe
from tilth.tokenize.split import Splitter
from tilth.tokenize.tokenizer import Tokenizer
from tilth.tokenize.train import learned

TEXT = (
    "Whoever digs finds stones, and whoever finds stones builds a wall; that's how 1,250 walls were built by 1899.\n"
    "The wall keeps the goats out, they'll say. It DOESN'T, we've seen them on it: 12 goats, 3 kids.\n\n"
    "    for stone in heap:\n\t\twall.append(stone)  # two by two\n"
    "山上的石头搬到田边，砌成一道墙；羊还是跳了过去。石头和土，土和石头。\n"
    "石垣の上にヤギがいる。ヤギは草を食べている。\n"
    "खेत के किनारे पत्थर की दीवार है, और दीवार पर बकरी।\n"
    "ชาวนาก่อกำแพงหินไว้ข้างไร่ แพะก็กระโดดข้ามไป\n"
    "Козы перепрыгнули через каменную стену, и огород остался без капусты.\n"
    "돌담 위에 염소가 있다. 염소는 풀을 뜯는다.\n"
) * 3
SMALL: dict[str, dict[str, Any]] = {
    "gpt2": {"split": {"pattern": "gpt2", "marks": False}},
    "gpt2 with marks, two digits": {"split": {"pattern": "gpt2", "digits": 2}},
    "gpt4": {"split": {"pattern": "gpt4", "marks": False}},
    "gpt4 with marks": {},
    "gpt4, scripts apart": {"split": {"scripts": True, "cjk_limit": 4, "digits": 1}},
    "gpt4, nfc": {"normalize": "nfc"},
    "gpt4, nfkc": {"normalize": "nfkc"},
    "characters": {"algorithm": "bpe"},
    "characters, nfkc": {"algorithm": "bpe", "normalize": "nfkc"},
    "characters, scripts apart": {"algorithm": "bpe", "split": {"scripts": True}, "vocab_size": 500},
    "a few characters": {"algorithm": "bpe", "learn": {"character_coverage": 0.7}, "vocab_size": 400},
}


def learned_from(text: str, **recipe: Any) -> Tokenizer:
    """A tokenizer learned from a text."""
    chosen = TokenizerRecipe.model_validate({"vocab_size": 600, "learn": {"min_frequency": 1}, **recipe})
    counted = Counter(Splitter(chosen.split_options).words(chosen.normalizer(text)))
    bounds = np.cumsum([0, *map(len, counted)])
    return learned(Counts(np.frombuffer(b"".join(counted), np.uint8), bounds, np.array([*counted.values()])), chosen)


@functools.cache
def small(name: str) -> Tokenizer:
    """One of those above, learned from the text above."""
    return learned_from(TEXT, **SMALL[name])


def changed(tokenizer: Tokenizer, **model: Any) -> Tokenizer:
    """The same with other settings of its model."""
    return Tokenizer({**tokenizer.spec, "model": {**tokenizer.spec["model"], **model}})


def added(content: str, index: int, **flags: bool) -> dict[str, Any]:
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": index, "content": content, **usual, **flags}


def by_library(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [one.ids for one in tokenizer.library.encode_batch(texts, add_special_tokens=False)]
