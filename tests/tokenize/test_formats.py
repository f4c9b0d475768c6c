"""Foreign tokenizers give the ids of the library that they were made for."""

import base64
import functools
import gzip
import io
import random
from pathlib import Path

import pytest
import sentencepiece
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from tilth.errors import ModelError
from tilth.tokenize.formats import from_bert, from_ranks, from_sentencepiece
from tilth.tokenize.tokenizer import Tokenizer, load

SENTENCES = (
    "The miller grinds 40 sacks of barley before noon, and 125 more by 1999.",
    "Whoever sows late, the others say, will also reap late: there is no other way.",
    "春天播种，秋天收获；农夫的手从不停歇。",
    "水田のなかで、カエルが鳴いている。",
    "Зерно лежит в амбаре, и мыши его ещё не нашли.",
    "खेत की मिट्टी काली और उपजाऊ है।",
    "밭을 갈고 씨를 뿌린다.",
    "for row in rows:\n\tprint(row,  row * 2)",
    "naïve café ﬁnally ½ … ～ ＡＢＣ",
)
HOSTILE = (
    "",
    "  ",
    " a  b ",
    "▁",
    "▁a▁ ▁b▁",
    "\r\n\r\nx\ty\t",
    "a\u00a0b\u3000c",
    "</s> <s> <unk> x</s>y <0x41>a<0x0A>",
    "ﬁﬂ ½ … ～ ｶﾞ",
    "e\u0301 か\u3099 \u1112\u1161\u11ab",
    "\0a\0",
    "🌾👩\u200d🌾",
    "𠀀𪚥",
    "\u2028x\x85y",
    "<sep>x <sep>  yield   1212 121",
    "<ctl>a<ctl>",
)
SAME_AS_LLAMA = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
SYMBOLS = {"user_defined_symbols": ["<sep>", "ield", "12", "\n", "▁▁▁"], "control_symbols": ["<ctl>"]}
KINDS = {
    "bpe as LLaMA has it": {"model_type": "bpe", "byte_fallback": True, "split_digits": True, **SAME_AS_LLAMA},
    "bpe without prefix": {"model_type": "bpe", "byte_fallback": True, "add_dummy_prefix": False, **SAME_AS_LLAMA},
    "bpe with unknowns, nmt_nfkc": {"model_type": "bpe", "character_coverage": 0.98},
    "bpe with symbols": {"model_type": "bpe", "byte_fallback": True, **SAME_AS_LLAMA, **SYMBOLS},
    "unigram, nmt_nfkc": {"model_type": "unigram", "character_coverage": 0.98},
    "unigram with bytes": {"model_type": "unigram", "byte_fallback": True, **SAME_AS_LLAMA},
    "unigram with symbols": {"model_type": "unigram", **SYMBOLS},
}
# No marks: where they stand in another order than Unicode's, the tokenizers library cannot do what SentencePiece does;
# nor with characters that the map's version of Unicode did not have.
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Mn", "Mc", "Me", "Cn"]), max_size=30)
FRAGMENTS = st.lists(st.sampled_from([*"a12 ▁<>/s的\n\t", "the ", "  ", "<sep>", "</s>", "<unk>", "ield"]), max_size=20)


@functools.cache
def trained(kind: str) -> bytes:
    """A SentencePiece model trained on the sentences above, shuffled into longer ones."""
    chance, written = random.Random(7), io.BytesIO()
    words = " ".join(SENTENCES).split(" ")
    lines = [*SENTENCES, *(" ".join(chance.choices(words, k=12)) for _ in range(300))]
    options = {"vocab_size": 300 + 256 * KINDS[kind].get("byte_fallback", False), "hard_vocab_limit": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=written, minloglevel=2, num_threads=1, **{**options, **KINDS[kind]}
    )
    return written.getvalue()


@functools.cache
def pair(kind: str) -> tuple[Tokenizer, sentencepiece.SentencePieceProcessor]:
    data = trained(kind)
    return Tokenizer(from_sentencepiece(data, kind)), sentencepiece.SentencePieceProcessor(model_proto=data)


def assert_same(tokenizer: Tokenizer, processor: sentencepiece.SentencePieceProcessor, texts: list[str]) -> None:
    """The same ids from both of our ways; or, for unigram, ids of the same likelihood: SentencePiece adds in 32 bits,
    and so decides by rounding between segmentations that are equally likely."""
    for text, ours, library in zip(texts, tokenizer.encode(texts), tokenizer.library.encode_batch(texts), strict=True):
        told = processor.encode(text)
        assert ours.tolist() == library.ids
        if ours.tolist() != told:
            assert tokenizer.family == "unigram", text
            assert len(tokenizer.decode(told)) == len(tokenizer.decode(ours)), text
            likelihoods = [sum(processor.get_score(int(one)) for one in ids) for ids in (told, ours)]
            assert likelihoods[0] == pytest.approx(likelihoods[1], rel=1e-5), text


@pytest.mark.parametrize("kind", KINDS)
def test_a_sentencepiece_model_gives_its_ids(kind: str) -> None:
    assert_same(*pair(kind), [*SENTENCES, *HOSTILE])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(st.one_of(TEXTS, FRAGMENTS.map("".join)))
@example("a b")
def test_foreign_text_gives_the_ids_of_sentencepiece(kind: str, text: str) -> None:
    tokenizer, processor = pair(kind)
    if (
        text not in SYMBOLS["user_defined_symbols"]
    ):  # the prefix before a text that is a symbol and nothing else is lost
        assert_same(tokenizer, processor, [text])


@pytest.mark.parametrize("kind", ["bpe as LLaMA has it", "bpe without prefix", "unigram with bytes"])
@given(TEXTS)
@settings(max_examples=40, deadline=None)
def test_bytes_lose_nothing(kind: str, text: str) -> None:
    tokenizer, _ = pair(kind)
    assert tokenizer.decode(tokenizer.encode([text])[0]) == text.replace("▁", " ")


def test_control_pieces_are_special_and_symbols_are_not() -> None:
    tokenizer, _ = pair("bpe with symbols")
    assert {"<unk>", "<s>", "</s>", "<ctl>"} == tokenizer.specials.keys()
    assert set(SYMBOLS["user_defined_symbols"]) == tokenizer.added.keys()


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name", ["chinese-llama/chinese_sp.model", "sentencepiece/test_model.model", "sentencepiece/test_ja_model.model"]
)
def test_real_models_give_their_ids_on_real_text(name: str, data: Path) -> None:
    place = data / "tokenizers" / name
    processor = sentencepiece.SentencePieceProcessor(model_proto=place.read_bytes())
    assert_same(load(place), processor, [*HOSTILE, *real_lines(data, 1500)])


def real_lines(data: Path, count: int) -> list[str]:
    """Lines of real text in several languages, the same each time."""
    lines: list[str] = []
    for place in sorted((data / "text").rglob("*")):
        if place.is_file():
            with gzip.open(place) if place.suffix == ".gz" else place.open("rb") as file:
                lines += file.read(200_000).decode("utf-8", "ignore").splitlines()
    return random.Random(3).sample(lines, min(count, len(lines)))


def model_with(**trainer: object) -> bytes:
    model = sentencepiece_model_pb2.ModelProto.FromString(trained("bpe as LLaMA has it"))
    for key, value in trainer.items():
        setattr(model.trainer_spec, key, value)
    return model.SerializeToString()


def with_unused() -> bytes:
    model = sentencepiece_model_pb2.ModelProto.FromString(trained("bpe as LLaMA has it"))
    model.pieces[-1].type = 5
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lambda: b"no model at all", "not a SentencePiece model"),
        (lambda: b"", "not a SentencePiece model"),
        (lambda: b"IQ== 0\nIg== 1\n", "name it *.tiktoken"),
        (lambda: trained("unigram, nmt_nfkc")[:-100], "not a SentencePiece model"),
        (lambda: model_with(model_type=3), "WORD"),
        (lambda: model_with(model_type=4), "CHAR"),
        (lambda: model_with(treat_whitespace_as_suffix=True), "treat_whitespace_as_suffix"),
        (with_unused, "unused"),
    ],
)
def test_what_is_no_model_that_can_be_read_is_told_in_one_line(content, told: str) -> None:
    with pytest.raises(ModelError) as raised:
        from_sentencepiece(content(), "some.model")
    assert str(raised.value).startswith("some.model: ")
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def ranks_of(data: bytes) -> dict[bytes, int]:
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in data.splitlines())}


def ranks_file(ranks: dict[bytes, int]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())


def tiktoken_of(tokenizer: Tokenizer, ranks: dict[bytes, int]) -> tiktoken.Encoding:
    pattern = tokenizer.spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    return tiktoken.Encoding("oracle", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


@functools.cache
def small_ranks() -> dict[bytes, int]:
    """All bytes, some merges, a token that two others never make ("abcd"), a hole, a special token."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    merged = [b"th", b"the", b" the", b"bc", b"abcd", b"  ", b"    ", b"cd", b"\xe6\xb0", b"\xe6\xb0\xb4", b"ab"]
    ranks |= {token: 256 + at for at, token in enumerate(merged)}
    return ranks | {b"<|end|>": 300, b"unreachable": 301}


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=40), st.text("abcdthe 水<|n>", max_size=60)))
@example("unreachable <|end|> abcd xabcd abcdabcd the   the")
def test_ranks_give_the_ids_of_tiktoken(text: str) -> None:
    tokenizer = Tokenizer(from_ranks(ranks_file(small_ranks()), "small.tiktoken", "gpt4"))
    text = text.encode("utf-8", "replace").decode()
    told = tiktoken_of(tokenizer, small_ranks()).encode_ordinary(text)
    assert tokenizer.encode([text])[0].tolist() == told
    assert tokenizer.library.encode(text).ids == told
    assert tokenizer.decode(told) == text


def test_one_merge_is_recovered_for_each_token_that_merges_make() -> None:
    spec = from_ranks(ranks_file({token: rank for token, rank in small_ranks().items() if rank < 300}), "x", "gpt2")
    merges = [tuple(merge) for merge in spec["model"]["merges"]]
    assert merges[:4] == [("t", "h"), ("th", "e"), ("Ġ", "the"), ("b", "c")]
    assert ("ab", "cd") in merges
    assert from_ranks(ranks_file({b"<|end|>": 300, **small_ranks()}), "x", None)["added_tokens"][0]["id"] == 300


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "specials"),
    [("dclm/meta-llama-3-8B.tiktoken.gz", 256), ("dclm/EleutherAI_gpt-neox-20b.tiktoken.gz", 2)],
)
def test_real_ranks_give_the_ids_of_tiktoken_on_real_text(name: str, specials: int, data: Path) -> None:
    place = data / "tokenizers" / name
    tokenizer, ranks = load(place), ranks_of(gzip.decompress(place.read_bytes()))
    oracle, chance = tiktoken_of(tokenizer, ranks), random.Random(11)
    joined = [b"".join(chance.choices(list(ranks), k=3)).decode("utf-8", "replace") for _ in range(1000)]
    texts = [*SENTENCES, *HOSTILE, *joined, *real_lines(data, 1500), *(" " * width + "x" for width in range(60))]
    told = [oracle.encode_ordinary(text) for text in texts]
    assert [one.tolist() for one in tokenizer.encode(texts)] == told
    assert [one.ids for one in tokenizer.library.encode_batch(texts)] == told
    assert len(tokenizer.specials) == specials


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"no ranks", "x:1: not a base64 token"),
        (b"IQ== 0\nIQ== 1\n", "x:2: a token that is empty or came before"),
        (b"IQ== 0\nIg== 0\n", "a rank that two tokens have"),
        (b"IQ== 0\n", "bytes have no rank"),
        (b"", "bytes have no rank"),
    ],
)
def test_what_are_no_ranks_is_told(content: bytes, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        from_ranks(content, "x", None)


VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefgst水田,.!",
    *("##" + one for one in "abcdefgst水田"),
    "sta",
]


@pytest.fixture(scope="module", params=[VOCABULARY, [*VOCABULARY, *"ABST", "##T"]], ids=["uncased", "cased"])
def bert(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Our tokenizer of a vocabulary, and BERT's."""
    from transformers import BertTokenizer

    place = tmp_path_factory.mktemp("bert") / "vocab.txt"
    place.write_text("\n".join(request.param) + "\n", encoding="utf-8")
    return load(place), BertTokenizer(str(place), do_lower_case="A" not in request.param)


@settings(max_examples=80, deadline=None)
@given(st.one_of(st.text(max_size=30), st.text("abcdstABÉé 水\t,.[CLS]", max_size=40)))
@example("stab, A BAÑd 水田 [CLS] [MASK] " + "a" * 101)
def test_a_vocabulary_gives_the_ids_of_bert(bert, text: str) -> None:
    tokenizer, oracle = bert
    text = text.encode("utf-8", "replace").decode()
    told = oracle(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.encode([text])[0].tolist() == told
    assert tokenizer.library.encode(text).ids == oracle(text, split_special_tokens=True)["input_ids"]


@pytest.mark.realdata
def test_the_real_vocabulary_gives_the_ids_of_bert(data: Path, tmp_path: Path) -> None:
    from transformers import BertTokenizer

    place = data / "tokenizers" / "bert" / "vocab.txt.gz"
    (tmp_path / "vocab.txt").write_bytes(gzip.decompress(place.read_bytes()))
    tokenizer, oracle = load(place), BertTokenizer(str(tmp_path / "vocab.txt"))
    texts = [*SENTENCES, *HOSTILE, *real_lines(data, 500)]
    told = oracle(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert [one.tolist() for one in tokenizer.encode(texts)] == told


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"\xff\xfe", "not UTF-8"), (b"a\nb\n", "missing"), (b"[UNK]\n[CLS]\n[SEP]\na\na\n", "comes twice")],
)
def test_what_is_no_vocabulary_is_told(content: bytes, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        from_bert(content, "vocab.txt")
