"""Unigram vocabularies: trained by sentencepiece from counts, judged by sentencepiece on raw text."""

import collections
import gzip
import io
import random

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from tilth.errors import UsageError
from tilth.tokenize.count import Counts
from tilth.tokenize.normalize import Normalizer
from tilth.tokenize.split import METASPACE, SplitOptions, Splitter
from tilth.tokenize.unigram import UnigramOptions, _seeds, train

SPLITTER = Splitter(SplitOptions(pattern="metaspace"))
NORMALIZER = Normalizer("none", metaspace=True)
SPECIALS = ["<s>", "</s>", "<|user|>"]
OPTIONS = UnigramOptions(vocab_size=800)


def counts_of(words: dict[str, int]) -> Counts:
    encoded = [word.encode() for word in words]
    bounds = np.cumsum([0, *map(len, encoded)])
    return Counts(np.frombuffer(b"".join(encoded), np.uint8), bounds, np.array([*words.values()], np.int64))


def counted(texts: list[str], scale: int = 1) -> dict[str, int]:
    words = collections.Counter(word.decode() for text in texts for word in SPLITTER.words(NORMALIZER(text)))
    return {word: count * scale for word, count in words.items()}


def processor(model: bytes, raw: bool = True) -> sentencepiece.SentencePieceProcessor:
    """The model at work, on raw text or on words that have their metaspace already."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    proto.normalizer_spec.add_dummy_prefix = raw
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def _corpus() -> list[str]:
    """Lines of made-up words with stems and endings, numbers, code and a rare script, always the same."""
    chance = random.Random(7)
    stems = ["".join(chance.choices("aeioustrnlmdkp", k=chance.randint(2, 6))) for _ in range(400)]
    endings = ["", "", "s", "ed", "ing", "er", "ation", "ly", ",", ".", "'s"]
    lines = []
    for _ in range(1500):
        words = [chance.choice(stems[: chance.randint(5, 400)]) + chance.choice(endings) for _ in range(8)]
        words.insert(3, str(chance.randint(0, 3000)))
        lines.append("    " * chance.randint(0, 2) + " ".join(words) + "中" * (chance.random() < 0.05))
    return lines


CORPUS = _corpus()
WORDS = counted(CORPUS)
MODEL = train(counts_of(WORDS), OPTIONS, SPECIALS)


def test_the_vocabulary_has_the_size_and_begins_with_specials_and_bytes():
    made = processor(MODEL)
    pieces = [made.id_to_piece(index) for index in range(made.get_piece_size())]
    assert len(pieces) == len({*pieces}) == 800
    assert pieces[:4] == [*SPECIALS, "<unk>"]
    assert pieces[4:260] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert (made.bos_id(), made.eos_id(), made.pad_id(), made.unk_id()) == (0, 1, -1, 3)
    assert all(made.is_control(index) for index in range(3))


def test_special_tokens_keep_their_roles_under_other_names():
    roles = {"unk": "[UNK]", "eos": "<|end|>", "cls": "[CLS]"}
    made = processor(train(counts_of(WORDS), OPTIONS, ["[CLS]", "<|end|>", "[UNK]"], roles))
    assert [made.id_to_piece(index) for index in range(3)] == ["[CLS]", "<|end|>", "[UNK]"]
    assert (made.bos_id(), made.eos_id(), made.unk_id()) == (-1, 1, 2)
    assert made.is_control(0)


def test_the_same_counts_give_the_same_bytes_in_any_order():
    shuffled = [*WORDS.items()]
    random.Random(1).shuffle(shuffled)
    assert train(counts_of(dict(shuffled)), OPTIONS, SPECIALS) == MODEL


def test_threads_are_part_of_the_result_and_of_nothing_else():
    four = [train(counts_of(WORDS), OPTIONS.model_copy(update={"threads": 4}), SPECIALS) for _ in range(2)]
    assert four[0] == four[1]
    assert len({*_pieces(four[0])} & {*_pieces(MODEL)}) > 0.97 * 800


def _pieces(model: bytes) -> list[str]:
    return [piece.piece for piece in sentencepiece_model_pb2.ModelProto.FromString(model).pieces]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from([*CORPUS[:40], *" a1.,'中\u00e9\n\t\u2581", "  ", "\u0301"]) | st.text(max_size=5), max_size=6
    )
)
def test_raw_text_is_cut_where_words_end_and_they_get_pieces_as_good_as_alone(parts):
    """Not always the same pieces: where two ways are as good but for rounding, what stands before a word decides."""
    text = "".join(parts)
    pieces = RAW.encode(text)
    if METASPACE not in text:
        assert RAW.decode(pieces) == text
    for word in SPLITTER.words(NORMALIZER(text)):
        taken = b""
        score = 0.0
        while len(taken) < len(word):
            index = pieces.pop(0)
            taken += PIECES[index]
            score += RAW.get_score(index)
        assert taken == word
        assert score == pytest.approx(sum(map(RAW.get_score, OF_WORDS.encode(word.decode()))), abs=0.01)
    assert pieces == []


RAW, OF_WORDS = processor(MODEL), processor(MODEL, raw=False)
PIECES = [
    bytes([index - 4]) if RAW.is_byte(index) else RAW.id_to_piece(index).encode() for index in range(RAW.vocab_size())
]


def tokens(model: bytes, words: dict[str, int]) -> int:
    made = processor(model, raw=False)
    return sum(len(made.encode(word)) * count for word, count in words.items())


@pytest.mark.realdata
@pytest.mark.parametrize(("file", "size"), [("en/botchan.txt", 2000), ("ja/wagahaiwa_nekodearu.txt.gz", 4000)])
def test_real_text_takes_as_few_tokens_as_with_the_seeds_of_sentencepiece_within_one_percent(
    data, file, size, tmp_path
):
    place = data / "text" / file
    content = gzip.decompress(place.read_bytes()) if place.suffix == ".gz" else place.read_bytes()
    words = counted(content.decode().splitlines()[-4000:])
    tsv = tmp_path / "words.tsv"
    tsv.write_text("".join(f"{word}\t{count}\n" for word, count in sorted(words.items())))
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        input=str(tsv), input_format="tsv", model_writer=made, vocab_size=size, model_type="unigram",
        byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False, num_threads=2,
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, split_by_unicode_script=False,
        split_by_number=False, control_symbols=["<|user|>"], minloglevel=2,
    )  # fmt: skip
    ours = train(counts_of(words), UnigramOptions(vocab_size=size), SPECIALS)
    assert tokens(ours, words) <= 1.01 * tokens(made.getvalue(), words)


def test_counts_beyond_32_bits_give_as_good_a_vocabulary():
    scaled = train(counts_of(counted(CORPUS, scale=2**36)), OPTIONS, SPECIALS)
    assert tokens(scaled, WORDS) <= 1.03 * tokens(MODEL, WORDS)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text("abc▁中", min_size=1, max_size=7), st.integers(1, 2**40), min_size=1, max_size=8))
def test_seeds_are_the_substrings_with_two_continuations(words):
    frequency: collections.Counter[str] = collections.Counter()
    followers = collections.defaultdict(set)
    for number, (word, count) in enumerate(words.items()):
        for start in range(len(word)):
            for end in range(start + 2, min(len(word), start + 5) + 1):
                frequency[word[start:end]] += count
                followers[word[start:end]].add(word[end] if end < len(word) else (number, start))
    expected = {part: total * len(part) for part, total in frequency.items() if len(followers[part]) > 1}
    found = _seeds(counts_of(words), OPTIONS.model_copy(update={"max_piece_length": 5}))
    assert dict(found) == expected
    assert [score for _, score in found] == sorted(expected.values(), reverse=True)
    few = _seeds(counts_of(words), OPTIONS.model_copy(update={"max_piece_length": 5, "seed_size": 3}))
    assert few == found[:3]


def test_no_piece_is_longer_than_asked():
    short = train(counts_of(WORDS), UnigramOptions(vocab_size=500, max_piece_length=4), SPECIALS)
    assert max(len(piece) for piece in _pieces(short)[260:]) == 4


def test_required_tokens_are_in_the_vocabulary_and_come_out_of_text():
    required = ("zebra", " tilth", "quixotic", "中文", "ẞ")
    made = processor(train(counts_of(WORDS), OPTIONS.model_copy(update={"required": required}), SPECIALS))
    assert made.get_piece_size() == 800
    for token in required:
        piece = token.replace(" ", METASPACE)
        assert piece in made.encode("x" + token, out_type=str), token


@pytest.mark.parametrize("coverage", [0.99, 1.0])
def test_rare_characters_have_pieces_only_under_full_coverage(coverage):
    model = train(counts_of({**WORDS, "ŋ": 1}), OPTIONS.model_copy(update={"character_coverage": coverage}), SPECIALS)
    assert ("ŋ" in _pieces(model)) == (coverage == 1.0)


def test_words_that_sentencepiece_cannot_read_are_left_out():
    odd = {"a\tb": 9, "\n": 900, "\r\n": 4, "\x00": 3, "y" * 5000: 50, "": 4}
    assert train(counts_of({**odd, **WORDS}), OPTIONS, SPECIALS) == MODEL


@pytest.mark.parametrize(
    ("words", "options", "told"),
    [
        ({}, {}, "no words"),
        ({"\n": 3}, {}, "no words"),
        ({"▁low": 5, "▁lower": 2, "▁newest": 6}, {}, r"vocab_size 800: the counts fill 2\d\d at most"),
        (WORDS, {"vocab_size": 270}, r"vocab_size 270: specials, bytes and characters alone are \d\d\d pieces"),
        (WORDS, {"vocab_size": 10}, "specials, bytes and characters alone"),
        (WORDS, {"required": ("<s>",)}, "<s> is both a special and a required token"),
        (WORDS, {"vocab_size": 300, "required": tuple(f"token{n}" for n in range(90))}, "room"),
    ],
)
def test_what_cannot_be_trained_is_told_in_one_line_and_leaves_nothing(
    words, options, told, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(UsageError, match=told) as error:
        train(counts_of(words), OPTIONS.model_copy(update=options), SPECIALS)
    assert "\n" not in str(error.value)
    assert [*tmp_path.iterdir()] == []
    assert capfd.readouterr().err == ""
