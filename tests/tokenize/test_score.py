import json
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.tokenize.score import Scorer, dead_tokens, describe, script_of, words_and_han
from tilth.tokenize.score_report import MEASURES, render_scores, table, visible
from tilth.tokenize.tokenizer import CHARACTERS, Tokenizer, load, written

ENGLISH = "Compost is what a garden makes of its leaves.\n\nTurn it twice, and keep it damp."
CHINESE = "土壤里有许多虫子，它们把落叶变成肥料。"
ATTACK = '"><script>alert(1)</script>&\u202e\x00\ud800'


def added(content, index, special=False):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": content, "special": special} | flags


def make(model, name="made", tokens=(), **sections):
    empty = {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None}
    return Tokenizer({"version": "1.0", "added_tokens": list(tokens), **empty, **sections, "model": model}, name=name)


def byte_level(merges=(), extra=(), name="bytes", **sections):
    """Byte-level BPE with GPT-2's words: the 256 bytes, what the merges of bytes make, tokens without merges."""
    pairs = [(written(left), written(right)) for left, right in merges]
    tokens = [*CHARACTERS, *("".join(pair) for pair in pairs), *map(written, extra)]
    model = {"type": "BPE", "merges": pairs, "vocab": {token: index for index, token in enumerate(tokens)}}
    part = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return make(model, name, **{"pre_tokenizer": part, "decoder": part} | sections)


def characters(alphabet, merges=(), extra=(), **sections):
    """SentencePiece's kind of BPE, with a space before each text, without bytes to fall back to."""
    tokens = ["<unk>", "▁", *alphabet, *("".join(pair) for pair in merges), *extra]
    model = {"type": "BPE", "merges": list(merges), "vocab": {token: index for index, token in enumerate(tokens)}}
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    usual = {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, spaces]},
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "Fuse"}, strip]},
    }
    unknown = added("<unk>", 0, special=True)
    return make(model | {"unk_token": "<unk>"}, "characters", [unknown], **usual | sections)


def wordpiece(*words):
    vocabulary = {word: index for index, word in enumerate(["[UNK]", *words])}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": vocabulary}
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}
    return make(
        model | {"max_input_chars_per_word": 100},
        "wordpiece",
        [added("[UNK]", 0, special=True)],
        normalizer=normalizer | {"strip_accents": None},
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    )


def unigram(*pieces):
    return make({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], *map(list, pieces)]}, "unigram")


def scored(tokenizer, **texts):
    scorer = Scorer(tokenizer)
    for label, text in texts.items():
        scorer.add([text] if isinstance(text, str) else text, label)
    return scorer


# --- Texts ----------------------------------------------------------------------------------------------------------


def test_every_measure_has_the_value_that_counting_by_hand_gives():
    result = scored(byte_level([(b" ", b"a")]), mixed="土a b a").result()
    found = result["total"]
    assert found | {"megabytes_per_second": None} == {
        "documents": 1,
        "bytes": 8,
        "characters": 6,
        "words": 4,  # 土, a, b, a: one script writes no spaces, so ICU cuts
        "han_characters": 1,
        "tokens": 7,  # three bytes, a, space, b, and one token for the space and the second a
        "bytes_per_token": 8 / 7,
        "characters_per_token": 6 / 7,
        "tokens_per_word": 7 / 4,
        "tokens_per_han_character": 3.0,
        "partial_share": 3 / 7,
        "unknown_share": 0.0,
        "round_trip_failures": 0,
        "normalized": 0,
        "megabytes_per_second": None,
    }
    assert result["labels"] == {"mixed": found}
    assert json.loads(json.dumps(result)) == result


def test_scorers_of_parts_add_up_to_the_scorer_of_the_whole():
    tokenizer = characters("abcdefghijklmnopqrstuvwxyz")
    texts = [f"{ENGLISH} {number}" for number in range(9)]
    whole, first, second = (Scorer(tokenizer) for _ in range(3))
    whole.add(texts, "en")
    whole.add([CHINESE], "zh")
    first.add(texts[:4], "en")
    second.add(texts[4:], "en")
    second.add([CHINESE], "zh")
    first.merge(json.loads(json.dumps(second.counts())), second.uses)
    assert np.array_equal(first.uses, whole.uses)
    results = [first.result(), whole.result()]
    for result in results:
        for found in (result["total"], *result["labels"].values()):
            assert found.pop("megabytes_per_second") > 0
    assert results[0] == results[1]
    assert results[0]["total"]["documents"] == 10
    assert len(results[0]["failures"]["en"]) == 5


def test_the_space_before_a_text_is_no_token_of_a_han_run():
    tokenizer = characters("土壤虫", merges=[("土", "壤")])
    assert len(tokenizer.encode(["土壤"])[0]) == 2
    assert scored(tokenizer, zh="虫 土壤").result()["total"]["tokens_per_han_character"] == 2 / 3


def test_words_are_cut_by_a_dictionary_only_where_a_script_writes_no_spaces():
    assert words_and_han(["Don't over-water: it's café time", ""]) == (5, {})
    words, runs = words_and_han([CHINESE, "土壤里"])
    assert 10 <= words <= 16
    assert runs == {"土壤里有许多虫子": 1, "它们把落叶变成肥料": 1, "土壤里": 1}


def test_what_the_vocabulary_cannot_write_is_a_failure_with_the_place_shown():
    result = scored(characters("abc "), x=["a b", "a b c é b"]).result()
    assert result["total"]["round_trip_failures"] == 1
    assert result["total"]["unknown_share"] > 0
    assert result["failures"] == {"x": [{"expected": "a b c é b", "decoded": "a b c  b"}]}


def test_unknown_characters_that_vanish_without_a_token_are_a_failure():
    model = {"type": "BPE", "merges": [], "vocab": {"a": 0, "b": 1}}
    found = scored(make(model, decoder={"type": "Fuse"}), x="a?b").result()["total"]
    assert (found["round_trip_failures"], found["unknown_share"]) == (1, 0)


@pytest.mark.parametrize(
    ("normalizer", "text"), [({"type": "NFC"}, "cafe\u0301"), ({"type": "Lowercase"}, "A Garden"), (None, "plain")]
)
def test_declared_normalisation_is_counted_apart_from_failures(normalizer, text):
    found = scored(byte_level(normalizer=normalizer), x=text).result()["total"]
    assert (found["round_trip_failures"], found["normalized"]) == (0, int(normalizer is not None))


def test_bert_fails_on_unknown_words_but_not_on_case_or_white_space():
    tokenizer = wordpiece("the", "soil", "##s", ".", "土")
    found = scored(tokenizer, good=["The  soils.", "the soil 土 ."], bad=["The worm."]).result()["labels"]
    assert (found["good"]["round_trip_failures"], found["good"]["normalized"]) == (0, 2)
    assert (found["bad"]["round_trip_failures"], found["bad"]["normalized"]) == (1, 0)
    assert found["bad"]["unknown_share"] == 1 / 3


def test_no_texts_give_dashes_and_not_an_error():
    result = scored(byte_level()).result()
    assert result["total"]["bytes_per_token"] is None
    assert "No texts were measured" in render_scores([result])
    assert "–" in table([result])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(codec=None)), max_size=4))
def test_any_text_is_counted_and_comes_back_from_bytes(texts):
    scorer = scored(byte_level([(b"a", b"b")]), x=texts)
    found = scorer.result()["total"]
    assert found["round_trip_failures"] == found["normalized"] == 0
    assert found["tokens"] == scorer.uses.sum() <= found["bytes"]
    assert found["bytes"] == sum(len(text.encode("utf-8", "replace")) for text in texts)


# --- Vocabularies ---------------------------------------------------------------------------------------------------


def dead(tokenizer):
    return [tokenizer.tokens[index] for index in dead_tokens(tokenizer)]


def test_a_byte_level_token_that_no_merge_builds_is_dead_and_parts_of_characters_are_not():
    soil = "土".encode()
    tokenizer = byte_level([(b"a", b"b"), (soil[:1], soil[1:2])], extra=[b"abc", soil])
    assert dead(tokenizer) == ["abc", written(soil)]


def test_a_token_is_dead_if_a_stronger_merge_takes_its_middle():
    tokenizer = byte_level([(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")])
    assert dead(tokenizer) == ["abc"]


def test_a_token_across_words_is_dead():
    assert dead(byte_level([(b"a", b"1"), (b" ", b"a"), (b"a", b" ")])) == ["a1", written(b"a ")]


def test_a_token_that_normalisation_changes_is_dead():
    assert dead(byte_level([(b"A", b"b"), (b"a", b"b")], normalizer={"type": "Lowercase"}))[-1] == "Ab"


def test_an_id_without_a_token_is_dead_and_a_special_never():
    tokenizer = byte_level()
    tokens = [added("<end>", 258, special=True), added("<note>", 259)]
    spec = tokenizer.spec | {"added_tokens": tokens}
    assert dead_tokens(Tokenizer(spec)) == [256, 257]


def test_pieces_live_with_or_without_the_space_before_them():
    tokenizer = characters("abc", merges=[("▁", "a"), ("b", "c"), ("▁a", "bc"), ("▁", "▁")], extra=["ca"])
    assert dead(tokenizer) == ["ca"]


def test_a_continuation_lives_where_a_word_can_hold_it():
    tokenizer = wordpiece("a", "ab", "the", "##s", "##b", "##!", "##土", "!", "b!", "土", "The")
    # `a` before `##b` is `ab`; the letter `土` is set apart from what follows; so no word holds `##b`
    assert dead(tokenizer) == ["##b", "##!", "##土", "b!", "The"]
    assert "##b" not in dead(wordpiece("a", "c", "ab", "##b"))


def test_a_unigram_piece_is_dead_if_its_parts_are_likelier():
    assert dead(unigram(("a", -1.0), ("b", -1.0), ("ab", -3.0), ("ba", -1.5))) == ["ab"]


def test_composition_counts_every_token_once():
    tokenizer = byte_level([(b" ", b"a")], extra=["土".encode(), "ソイル".encode(), b"  ", b"--", b"12"])
    found = describe(tokenizer, np.arange(tokenizer.size))
    scripts = {row["script"]: row for row in found["scripts"]}
    assert sum(row["tokens"] for row in scripts.values()) == tokenizer.size
    assert sum(row["uses"] for row in scripts.values()) == sum(range(tokenizer.size))
    assert scripts["Kana"]["longest"] == ["ソイル"]
    assert scripts["Parts of characters"]["tokens"] == found["partial"] == 128
    assert {row["characters"]: row["tokens"] for row in found["lengths"]} == {1: 129, 2: 4, 3: 1}
    assert found["unused"] == {"tokens": 1, "examples": [{"ids": [0], "token": "\x00"}]}


def test_ids_of_the_same_bytes_are_named_together():
    spaced = Tokenizer(byte_level().spec | {"added_tokens": [added(" ", 256)]})
    found = describe(spaced, np.zeros(spaced.size, np.int64))["duplicates"]
    assert found == {"tokens": 1, "examples": [{"ids": [32, 256], "token": " "}]}
    endings = wordpiece("ing", "##ing")
    assert describe(endings, np.zeros(endings.size, np.int64))["duplicates"]["tokens"] == 0


@pytest.mark.parametrize(
    ("text", "script"),
    [
        (" the", "Latin"),
        ("土", "Han"),
        ("食べる", "Kana"),
        ("흙", "Hangul"),
        (" почва", "Cyrillic"),
        ("μm", "Several scripts"),
        ("2026", "Digits"),
        ("\n  ", "White space"),
        ("--", "Punctuation and symbols"),
        ("\u0301", "Other letters and marks"),
    ],
)
def test_a_token_belongs_to_the_script_of_its_letters(text, script):
    assert script_of(text) == script


def test_cuts_of_digits_and_white_space_join_to_the_text():
    result = scored(byte_level([(b"1", b"2"), (b" ", b" ")])).result()
    for sample in result["digits"] + result["white_space"]:
        assert "".join(sample["tokens"]) == sample["text"]
    assert {"text": "123", "tokens": ["12", "3"]} in result["digits"]
    assert {"text": "a    b", "tokens": ["a", "  ", " ", " b"]} not in result["white_space"]
    assert {"text": "a    b", "tokens": ["a", "  ", " ", " ", "b"]} in result["white_space"]


# --- Pages ----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page holds: its tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words += data


def hostile():
    tokens = [added(ATTACK.encode("utf-8", "replace").decode(), 256), added("x" * 5000, 257)]
    tokenizer = Tokenizer(byte_level().spec | {"added_tokens": tokens}, name=ATTACK)
    result = scored(tokenizer, **{ATTACK: ATTACK}).result()
    return result | {"failures": {ATTACK: [{"expected": ATTACK, "decoded": ATTACK}]}}


def test_hostile_names_labels_and_tokens_stay_text():
    page = render_scores([hostile(), scored(byte_level(), en=ENGLISH).result()])
    found = Page(page)
    assert not {"script", "img", "link", "iframe"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name == "src"]
    assert all(value.startswith("#") for name, value in found.attributes if name == "href")
    page.encode()
    assert not set("\u202e\x00") & set(page)
    assert "x" * 300 not in page
    assert all(line.isprintable() for line in table([hostile()]).splitlines())


def test_the_page_shows_tokenizers_side_by_side_and_is_the_same_again():
    results = [
        scored(byte_level([(b"i", b"t")], name="first"), en=ENGLISH, zh=CHINESE).result(),
        scored(byte_level(name="second"), en=ENGLISH).result(),
    ]
    page = render_scores(results)
    assert page == render_scores(json.loads(json.dumps(results)))
    words = Page(page).words
    for measure in MEASURES:
        assert measure.name in words
    assert "a····b" in words
    assert page.count("<rect") >= 3  # a bar for each label and tokenizer


def test_the_table_names_a_figure_for_each_tokenizer_and_a_dash_where_a_label_is_missing():
    first = scored(byte_level(name="first"), en=ENGLISH, zh=CHINESE).result()
    second = scored(byte_level(name="second"), en=ENGLISH).result()
    lines = table([first, second]).splitlines()
    assert len({len(line) for line in lines if line}) == 1
    assert next(line for line in lines if "Bytes per token" in line).split()[-2:] == ["1.00", "1.00"]
    assert next(line for line in lines if line.split()[:1] == ["zh"]).split()[-2:] == ["1.00", "–"]


def test_a_score_card_without_a_figure_is_refused():
    result = scored(byte_level(), en=ENGLISH).result()
    del result["vocabulary"]["dead"]
    with pytest.raises(KeyError):
        render_scores([result])


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", "·the"),
        ("\n\t", "↵→"),
        (" " * 64, "·×64"),
        ("\u0301", "◌\u0301"),
        ("\u200b\u00a0", "[U+200B][U+00A0]"),
        ("", ""),
    ],
)
def test_what_cannot_be_seen_in_a_token_is_shown(token, shown):
    assert visible(token) == shown


# --- Real vocabularies ----------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_dead_pieces_of_a_sentencepiece_model_are_those_that_sentencepiece_does_not_give(data):
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    place = data / "tokenizers/chinese-llama/chinese_sp.model"
    proto = sentencepiece_model_pb2.ModelProto.FromString(place.read_bytes())
    proto.normalizer_spec.add_dummy_prefix = proto.normalizer_spec.remove_extra_whitespaces = False
    oracle = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    pieces = [oracle.id_to_piece(index).replace("▁", " ") for index in range(oracle.get_piece_size())]
    expected = [index for index, ids in enumerate(oracle.encode(pieces)) if index >= 3 and ids != [index]]
    assert dead_tokens(load(place)) == expected
    assert 0 < len(expected) < 20


@pytest.mark.realdata
def test_llama_has_no_dead_token_and_bert_has_those_that_its_words_never_hold(data):
    assert dead_tokens(load(data / "tokenizers/dolma/llama-test-tokenizer.json.gz")) == []
    bert = dead(load(data / "tokenizers/bert/vocab.txt.gz"))
    assert {"##土", "##!", "[unused7]"} <= set(bert)
    assert not {"##ing", "the", "土"} & set(bert)
