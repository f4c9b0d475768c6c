"""Vocabularies from counts: alphabets, special tokens, what is learned, and the tokenizers library as a judge."""

import gzip
import json
from collections import Counter
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.errors import UsageError
from tilth.tokenize.assemble import assemble
from tilth.tokenize.bpe import (
    LearnOptions,
    Vocabulary,
    byte_bpe,
    character_uses,
    fallback_bpe,
    frequent_characters,
    token_corpus,
    wordpiece,
)
from tilth.tokenize.count import Counts
from tilth.tokenize.learn import learn
from tilth.tokenize.merge import SEPARATOR, Corpus
from tilth.tokenize.recipe import ROLES, SpecialOptions, TokenizerRecipe
from tilth.tokenize.split import SplitOptions, Splitter
from tilth.tokenize.tokenizer import CHARACTERS, written
from tilth.tokenize.train import learned

EOS = ["<|endoftext|>"]
BERT = list(ROLES["wordpiece"].values())
LLAMA = list(ROLES["bpe"].values())
OPTIONS = LearnOptions()
EVERYTHING = LearnOptions(min_frequency=1, character_coverage=1)
TEXT = (
    "The worm eats what the garden gives it, and the garden eats what the worm gives back.\n"
    "Worms don't dig in frozen soil; 1234 of them slept under 12 leaves.\n"
    "土壤里有许多虫子，它们把落叶变成肥料。土壤是活的。\n"
    "मिट्टी में केंचुए रहते हैं।\n"
) * 8


def counts_of(words: dict[str, int]) -> Counts:
    encoded = [word.encode() for word in words]
    bounds = np.cumsum([0, *map(len, encoded)])
    return Counts(np.frombuffer(b"".join(encoded), np.uint8), bounds, np.array([*words.values()], np.int64))


def counted(text: str, recipe: TokenizerRecipe) -> Counts:
    words = Splitter(recipe.split_options).words(recipe.normalizer(text))
    return counts_of({word.decode(): count for word, count in Counter(words).items()})


def recipe_of(algorithm: str, size: int, **more) -> TokenizerRecipe:
    return TokenizerRecipe.model_validate({"algorithm": algorithm, "vocab_size": size, **more})


def shown(vocabulary: Vocabulary) -> list[str]:
    return [piece.decode() for piece in vocabulary.pieces[vocabulary.learned :]]


# Byte-level BPE


def test_special_tokens_come_first_then_the_bytes_then_what_was_learned():
    made = byte_bpe(counts_of({"the": 5, "then": 2}), 261, ["<|a|>", "<|b|>"], OPTIONS)
    letters = [bytes([byte]) for byte in range(256)]
    assert made.pieces == [b"<|a|>", b"<|b|>", *letters, b"he", b"the", b"then"]
    assert (made.alphabet, made.learned) == (2, 258)
    assert [tuple(made.pieces[part] for part in merge) for merge in made.merges] == [
        (b"h", b"e"),
        (b"t", b"he"),
        (b"the", b"n"),
    ]


def test_lower_is_learned_from_its_letters_as_the_seed_has_it():
    """e and r are what stands together most often."""
    words = {"lower": 5, "newer": 6, "wider": 3, "low": 2}
    made = byte_bpe(counts_of(words), 264, EOS, OPTIONS)
    assert shown(made)[0] == "er"
    tokenizer = assemble(made, recipe_of("byte-bpe", 264))
    ids = tokenizer.encode(["lower"])[0].tolist()
    assert [tokenizer.tokens[index] for index in ids][-1].endswith("er")
    assert tokenizer.decode(ids) == "lower"


def test_byte_level_pieces_may_cut_characters_and_every_text_comes_back():
    recipe = recipe_of("byte-bpe", 300)
    made = learned(counted(TEXT, recipe), recipe)
    for text in (TEXT, "anything: \x00\x7f ß 𝔘 🪱\n\n  \t", ""):
        assert made.decode(made.encode([text])[0]) == text


def test_a_size_with_no_room_for_anything_learned_is_refused():
    with pytest.raises(UsageError, match="257 leaves no room beside 1 special tokens and an alphabet of 256"):
        byte_bpe(counts_of({"the": 5}), 257, EOS, OPTIONS)
    with pytest.raises(UsageError, match=r"leaves no room .* lower character_coverage"):
        fallback_bpe(counts_of({"the": 5}), 260, LLAMA, OPTIONS)


def test_counts_that_cannot_fill_the_size_give_what_they_have():
    assert len(byte_bpe(counts_of({"the": 5}), 1000, EOS, OPTIONS).pieces) == 259
    assert len(byte_bpe(counts_of({"the": 1}), 1000, EOS, OPTIONS).pieces) == 257
    assert len(byte_bpe(counts_of({}), 1000, EOS, OPTIONS).pieces) == 257


@pytest.mark.parametrize("algorithm", ["byte-bpe", "bpe", "wordpiece"])
@pytest.mark.parametrize("special", ["<|endoftext|>", "[SEP]", "</s>"])
def test_special_tokens_that_text_spells_are_neither_learned_nor_read(algorithm, special):
    """However often they stand there, and though nothing but them is left to learn."""
    text = TEXT + f"soil and worms {special} " * 1000 + special * 1000
    size = {"byte-bpe": 320, "bpe": 350, "wordpiece": 120}[algorithm]
    recipe = recipe_of(algorithm, size, specials={"unk": "<unk>", "eos": special})
    made = learned(counted(text, recipe), recipe)
    assert made.tokens[:2] == ["<unk>", special]
    assert made.tokens.count(special) == 1
    ids = made.encode([text, special, special * 2])
    assert all(made.specials[special] not in one.tolist() for one in ids)
    encoded = made.library.encode(text, add_special_tokens=False).ids
    assert encoded == ids[0].tolist()
    if algorithm != "wordpiece":
        assert made.decode(ids[0]) == text


@pytest.mark.parametrize(
    ("algorithm", "special"),
    [("byte-bpe", written(b" the")), ("byte-bpe", "Ċ" * 2), ("bpe", "<0x41>"), ("wordpiece", "##s")],
)
def test_a_special_token_written_as_another_token_is_refused(algorithm, special):
    text = TEXT + "\n\n" * 9
    size = {"byte-bpe": 320, "bpe": 350, "wordpiece": 120}[algorithm]
    recipe = recipe_of(algorithm, size, specials={"unk": "<unk>", "eos": special})
    with pytest.raises(UsageError, match="is also how"):
        learned(counted(text, recipe), recipe)


# BPE on characters


def test_the_alphabet_is_all_bytes_and_the_characters_that_cover_the_share():
    words = {"▁aaaa": 100, "▁bb": 50, "▁c": 3, "▁é": 1}  # a 400, ▁ 154, b 100, c 3, é 1
    made = fallback_bpe(counts_of(words), 270, LLAMA, LearnOptions(character_coverage=0.99))
    assert made.pieces[3:259] == [f"<0x{byte:02X}>".encode() for byte in range(256)]
    assert [piece.decode() for piece in made.pieces[259 : made.learned]] == ["a", "b", "▁"]
    every = fallback_bpe(counts_of(words), 270, LLAMA, LearnOptions(character_coverage=1))
    assert [piece.decode() for piece in every.pieces[259 : every.learned]] == ["a", "b", "c", "é", "▁"]


def test_a_character_without_an_id_cuts_its_word_and_is_written_as_bytes():
    words = {"▁ab" + "é" + "ab": 50, "▁" + "x" * 9: 500}
    made = fallback_bpe(counts_of(words), 275, LLAMA, LearnOptions(character_coverage=0.98, min_frequency=2))
    assert "é" not in "".join(piece.decode() for piece in made.pieces)
    recipe = recipe_of("bpe", len(made.pieces))
    tokenizer = assemble(made, recipe)
    ids = tokenizer.encode(["abéab"])[0].tolist()
    tokens = [tokenizer.tokens[index] for index in ids]
    assert [token for token in tokens if token.startswith("<0x")] == ["<0xC3>", "<0xA9>"]
    assert tokenizer.decode(ids) == "abéab"


def test_the_metaspace_has_an_id_even_where_text_has_hardly_a_space():
    recipe = recipe_of("bpe", 280)
    made = learned(counted("土壤里有许多虫子" * 2000, recipe), recipe)
    assert "▁" in made.tokens
    assert made.decode(made.encode(["ends in a space "])[0]) == "ends in a space "


def test_characters_are_taken_by_frequency_and_ties_by_code_point():
    uses = character_uses(counts_of({"bac": 2, "é": 2, "aa": 1}))
    assert {chr(point): int(uses[point]) for point in np.flatnonzero(uses)} == {"a": 4, "b": 2, "c": 2, "é": 2}
    for coverage, expected in [(0.1, "a"), (0.41, "ab"), (0.6, "ab"), (0.61, "abc"), (0.9, "abcé"), (1.0, "abcé")]:
        assert "".join(map(chr, frequent_characters(uses, coverage))) == expected
    assert frequent_characters(np.zeros(5, np.int64), 1) == []


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5), st.integers(1, 99)))
def test_characters_of_any_words_are_counted(words):
    plain = Counter()
    for word, count in words.items():
        plain.update({character: count * number for character, number in Counter(word).items()})
    uses = character_uses(counts_of(words))
    assert {chr(point): int(uses[point]) for point in np.flatnonzero(uses)} == plain
    assert sorted(map(ord, plain)) == frequent_characters(uses, 1)


# WordPiece


def wordpiece_plainly(words: dict[str, int], size: int, specials: list[str], likelihood: bool) -> list[str]:
    """As BERT's vocabulary is made, everything counted anew in each step."""
    cut = {word: [word[0], *(f"##{letter}" for letter in word[1:])] for word in words}
    first = sorted({parts[0] for parts in cut.values()})
    rest = sorted({part for parts in cut.values() for part in parts[1:]})
    vocabulary = [*specials, *first, *rest]
    while len(vocabulary) < size:
        uses, pairs = Counter(), Counter()
        for word, parts in cut.items():
            for part in parts:
                uses[part] += words[word]
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        worth = {
            (a, b): (-count / (uses[a] * uses[b]) if likelihood else -count, a.encode(), b.encode())
            for (a, b), count in pairs.items()
            if count >= 2 and a + b[2:] not in vocabulary
        }
        if not worth:
            break
        a, b = min(worth, key=worth.__getitem__)
        vocabulary.append(a + b[2:])
        for parts in cut.values():
            place = 0
            while place + 1 < len(parts):
                if parts[place : place + 2] == [a, b]:
                    parts[place : place + 2] = [a + b[2:]]
                place += 1
    return vocabulary


WORDS = st.dictionaries(st.text("aबé中x", min_size=1, max_size=7), st.integers(1, 30), min_size=1, max_size=12)


@pytest.mark.parametrize("score", ["likelihood", "frequency"])
@settings(max_examples=60, deadline=None)
@given(words=WORDS, steps=st.integers(1, 15))
def test_wordpiece_is_what_counting_anew_gives(score, words, steps):
    letters = len({word[0] for word in words}) + len({letter for word in words for letter in word[1:]})
    size = len(BERT) + letters + steps
    made = wordpiece(counts_of(words), size, BERT, LearnOptions(score=score, character_coverage=1))
    plain = wordpiece_plainly(words, size, BERT, score == "likelihood")
    assert [piece.decode() for piece in made.pieces] == plain


@pytest.mark.parametrize("score", ["likelihood", "frequency"])
def test_unwanted_is_cut_into_its_parts_as_the_seed_has_it(score):
    parts = product(["un", "re", "mis"], ["want", "lock", "fold", "pick", "hug"], ["ed", "ing", "s"])
    recipe = recipe_of("wordpiece", 50, learn={"score": score})
    made = learned(counts_of({"".join(word): 5 for word in parts}), recipe)
    assert [made.tokens[index] for index in made.encode(["unwanted"])[0]] == ["un", "##want", "##ed"]


def test_ids_begin_at_0_with_the_special_tokens_and_what_is_unknown_is_unk():
    recipe = recipe_of("wordpiece", 120)
    made = learned(counted(TEXT, recipe), recipe)
    assert made.tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert [made.specials[token] for token in made.tokens[:5]] == [0, 1, 2, 3, 4]
    assert sorted(made.vocabulary.values()) == list(range(120))
    assert made.encode(["ж"])[0].tolist() == [1]
    assert made.encode(["worm ж worm"])[0].tolist().count(1) == 1


def test_likelihood_and_frequency_are_two_ways():
    recipes = [recipe_of("wordpiece", 110, learn={"score": score}) for score in ("likelihood", "frequency")]
    likely, frequent = (learned(counted(TEXT, recipe), recipe).tokens for recipe in recipes)
    assert likely != frequent


# What all of them promise


@pytest.mark.parametrize("algorithm", ["byte-bpe", "bpe", "wordpiece"])
def test_the_order_of_words_in_the_counts_changes_nothing(algorithm):
    recipe = recipe_of(algorithm, {"byte-bpe": 320, "bpe": 350, "wordpiece": 120}[algorithm])
    counts = counted(TEXT, recipe)
    pairs = list(zip([word.decode() for word in counts.words()], counts.counts.tolist(), strict=True))
    first, second = (learned(counts_of(dict(some)), recipe).spec for some in (pairs, sorted(pairs)[::-1]))
    assert first == second


@pytest.mark.parametrize("algorithm", ["byte-bpe", "bpe", "wordpiece"])
def test_required_tokens_are_in_the_vocabulary_and_text_leads_to_them(algorithm):
    required = ("zebra", "quagga", "worm")
    size = {"byte-bpe": 330, "bpe": 370, "wordpiece": 130}[algorithm]
    recipe = recipe_of(algorithm, size, learn={"required": required})
    made = learned(counted(TEXT, recipe), recipe)
    assert made.size == len(set(made.vocabulary.values())) == size
    for token in required:
        assert token in made.vocabulary
        assert made.segment(token) == [made.vocabulary[token]]


@pytest.mark.parametrize("algorithm", ["byte-bpe", "bpe", "wordpiece"])
def test_no_token_is_longer_than_asked(algorithm):
    size = {"byte-bpe": 300, "bpe": 345, "wordpiece": 115}[algorithm]
    recipe = recipe_of(algorithm, size, learn={"max_token_length": 3})
    made = learned(counted(TEXT, recipe), recipe)
    special = {*made.specials.values()}
    longest = [piece for index, piece in enumerate(made.pieces) if index not in special]
    assert max(len(piece.decode("utf-8", "ignore")) for piece in longest) == 3


def test_a_pair_below_the_frequency_becomes_no_token():
    words = {"abab": 3, "cd": 6, "xy": 5}
    for least, expected in [(7, []), (6, ["ab", "cd"]), (5, ["ab", "cd", "xy"]), (3, ["ab", "cd", "xy", "abab"])]:
        assert shown(byte_bpe(counts_of(words), 300, [], LearnOptions(min_frequency=least))) == expected


def test_counts_beyond_31_bits_give_what_small_ones_give():
    recipe = recipe_of("byte-bpe", 320)
    counts = counted(TEXT, recipe)
    large = counts._replace(counts=counts.counts * 2**33)
    assert learned(large, recipe).spec == learned(counts, recipe).spec


def test_ids_follow_the_roles_in_their_order():
    specials = SpecialOptions(mask="<mask>", unk="<unk>", bos="<s>", others=("<|b|>", "<|a|>"))
    assert specials.tokens == ["<unk>", "<s>", "<mask>", "<|b|>", "<|a|>"]
    recipe = recipe_of("byte-bpe", 270, specials=specials.model_dump())
    assert learned(counted(TEXT, recipe), recipe).specials == {token: i for i, token in enumerate(specials.tokens)}


def test_barred_tokens_cut_their_word():
    barred = np.array([False, True, False])
    corpus = token_corpus(np.array([0, 1, 2, 0, 2]), np.array([3, 2]), np.array([4, 9]), barred)
    assert corpus.slots.tolist() == [-1, 0, 2, -1, 0, -1, 2, -1]
    assert (corpus.ends.tolist(), corpus.counts.tolist()) == ([4, 8], [9, 4])


# The tokenizers library as a judge


def judged(text: str, size: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]], Counts]:
    """Merges of byte-level BPE as the library learns them, and as this does with ids in the library's order."""
    from tokenizers import Tokenizer as Library
    from tokenizers import models, pre_tokenizers, trainers

    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False, min_frequency=2)
    library.train_from_iterator([text], trainer)
    theirs = [tuple(merge) for merge in json.loads(library.to_str())["model"]["merges"]]

    words = Counter(Splitter(SplitOptions(pattern="gpt2", marks=False, digits=0)).words(text))
    order = sorted(range(256), key=CHARACTERS.__getitem__)  # the library numbers bytes by the characters they are
    rank = {byte: index for index, byte in enumerate(order)}
    slots, ends, numbers = [int(SEPARATOR)], [], []
    for word, count in sorted(words.items(), key=lambda entry: -entry[1]):
        slots += [*(rank[byte] for byte in word), int(SEPARATOR)]
        ends.append(len(slots))
        numbers.append(count)
    corpus = Corpus(np.array(slots, np.int32), np.array(ends), np.array(numbers))
    found = learn(corpus, [bytes([byte]) for byte in order], size - 256, ties="ids")
    ours = [(written(found.pieces[left]), written(found.pieces[right])) for left, right in found.merges.tolist()]
    return theirs, ours, counts_of({word.decode(): count for word, count in words.items()})


@settings(max_examples=40, deadline=None)
@given(st.text("ab é中\n", max_size=80))
def test_merges_of_any_text_are_those_of_tokenizers(text):
    theirs, ours, _ = judged(text, 275)
    made = ["".join(merge) for merge in theirs]
    first = next((index for index, token in enumerate(made) if token in made[:index]), None)
    assert ours[:first] == theirs[:first]  # until the library makes a token once more, by another pair


@pytest.mark.realdata
def test_merges_of_real_text_are_those_of_tokenizers(data: Path):
    english = (data / "text" / "en" / "botchan.txt").read_text() + (
        data / "text" / "en" / "tinyshakespeare.txt"
    ).read_text()
    with gzip.open(data / "text" / "zh-hans" / "fortunes-chinese.u8.txt.gz", "rt") as file:
        text = english + file.read()
    theirs, ours, counts = judged(text, 4000)
    assert ours == theirs
    made = byte_bpe(counts, 4000, [], LearnOptions(ties="bytes"))
    by_bytes = {(written(made.pieces[left]), written(made.pieces[right])) for left, right in made.merges}
    assert len(by_bytes & set(theirs)) / len(theirs) > 0.95  # of equally rare pairs others come in
