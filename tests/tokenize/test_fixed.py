"""Rows of one length, against what transformers makes of the same texts."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.errors import UsageError
from tilth.tokenize.encode import EncodeOptions, special_ids
from tilth.tokenize.fixed import Frame, fixed
from tilth.tokenize.tokenizer import Tokenizer

BERT = Frame(begin=101, end=102, pad=0)
GPT = Frame(begin=None, end=50256, pad=50256)
IDS = st.lists(st.lists(st.integers(200, 2000), max_size=12).map(lambda ids: np.array(ids, np.int32)), max_size=6)


def plain(text: list[int], length: int, around: Frame) -> tuple[list[int], list[bool]]:
    """One row, step by step."""
    begin = [] if around.begin is None else [around.begin]
    row = [*begin, *text[: length - len(begin) - 1], around.end]
    return row + [around.pad] * (length - len(row)), [True] * len(row) + [False] * (length - len(row))


@given(IDS, st.integers(2, 16), st.sampled_from([BERT, GPT]))
def test_rows_are_what_one_writes_token_by_token(ids, length, around):
    made = fixed(ids, length, around)
    assert made.ids.shape == made.mask.shape == (len(ids), length)
    assert (made.ids.dtype, made.mask.dtype) == (np.int32, np.bool_)
    for row, mask, text in zip(made.ids.tolist(), made.mask.tolist(), ids, strict=True):
        assert (row, mask) == plain(text.tolist(), length, around)


def test_a_row_that_special_tokens_fill_has_no_text():
    text = [np.array([7, 8], np.int32)]
    assert fixed(text, 2, BERT).ids.tolist() == [[101, 102]]
    assert fixed(text, 1, GPT).ids.tolist() == [[50256]]


@pytest.mark.parametrize(("length", "around"), [(1, BERT), (0, GPT), (-3, GPT)])
def test_a_length_without_room_for_the_special_tokens_is_refused(length, around):
    with pytest.raises(UsageError, match="no room for"):
        fixed([], length, around)


def tokenizer(specials: list[str], **config: object) -> Tokenizer:
    added = [{"id": index, "content": content, "special": True} for index, content in enumerate(specials)]
    return Tokenizer({"model": {"type": "WordPiece", "vocab": {"a": 90}}, "added_tokens": added}, config, "small")


def frame(made: Tokenizer, style: str) -> Frame:
    """What documents of one length are put into."""
    ids = special_ids(made, EncodeOptions.model_validate({"length": 9, "style": style}))
    return Frame(ids.get("begin"), ids["end"], ids["pad"])


def test_special_tokens_are_found_by_configuration_then_by_their_usual_names():
    assert frame(tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]"]), "bert") == Frame(2, 3, 0)
    renamed = tokenizer(["<s>", "</s>", "[SEP]"], cls_token="<s>", sep_token={"content": "</s>"}, pad_token="</s>")
    assert frame(renamed, "bert") == Frame(0, 1, 1)
    assert frame(tokenizer(["<|x|>", "<|endoftext|>"]), "gpt") == Frame(None, 1, 1)
    assert frame(tokenizer(["<pad>", "</s>"], pad_token=None), "gpt") == Frame(None, 1, 0)


def test_a_tokenizer_without_the_special_tokens_is_told_which_it_lacks():
    with pytest.raises(UsageError, match="small: has no pad token, which bert documents need"):
        frame(tokenizer(["[CLS]", "[SEP]"]), "bert")
    with pytest.raises(UsageError, match="has no eos token, which gpt documents need"):
        frame(tokenizer(["[CLS]"]), "gpt")


@pytest.mark.realdata
def test_bert_s_rows_are_those_of_transformers(data, tmp_path):
    from transformers import BertTokenizer

    from tilth.tokenize.tokenizer import load

    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_bytes(gzip.decompress((data / "tokenizers" / "bert" / "vocab.txt.gz").read_bytes()))
    ours = load(vocabulary)
    texts = ["Rows of one length.", "", "one two three four five six seven eight nine ten eleven", "老師說 Ünïcode"]
    theirs = BertTokenizer(vocab=str(vocabulary))(texts, padding="max_length", truncation=True, max_length=9)
    made = fixed(ours.encode(texts), 9, frame(ours, "bert"))
    assert made.ids.tolist() == theirs["input_ids"]
    assert made.mask.astype(int).tolist() == theirs["attention_mask"]
