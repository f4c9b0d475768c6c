"""Foreign tokenizers in: what a file of SentencePiece, tiktoken or BERT says, as the content of a tokenizer.json.

Nothing is read or written here: bytes come in, a spec goes out that gives the ids of the library the file was made for.
"""

import base64
import binascii
import itertools
import re
from typing import Any

from tilth.errors import ModelError

from .split import METASPACE, SplitOptions, regular_expression
from .tokenizer import Spec, written

_SPECIAL = re.compile(rb"<\|.+\|>")
_RANKS_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\s*")
UTF8_BYTES = [*range(0xC0), *range(0xC2, 0xF5)]  # the bytes that text in UTF-8 has
_BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_HIDING = "\ufdd0{}\ufdd1"  # what is no character, and in no text that is to be read by others
Merge = tuple[str, str]


def from_sentencepiece(data: bytes, place: str) -> Spec:
    """A SentencePiece model, BPE or unigram, with its normalisation. Special are its control and unknown pieces.

    The tokenizers library cannot follow SentencePiece in four corners. Unigram: of segmentations that are equally
    likely it takes another one, since SentencePiece decides by rounding in 32 bits. Character maps: marks in another
    order than Unicode's, and characters newer than the map. BPE: runs in which two ways to the same piece overlap; and
    a text that is one user-defined symbol and nothing else gets no space before it.

    Raises ModelError for what is no such model, or one that the tokenizers library cannot follow: of words or of
    characters, with unused pieces, or with the metaspace behind words.
    """
    model = _parsed(data, place)
    trainer, kinds = model.trainer_spec, type(model).SentencePiece
    if trainer.model_type not in (trainer.BPE, trainer.UNIGRAM):
        name = trainer.ModelType.Name(trainer.model_type)
        raise ModelError(f"{place}: a SentencePiece model of kind {name}; only BPE and UNIGRAM can be read")
    if any(piece.type == kinds.UNUSED for piece in model.pieces):
        raise ModelError(f"{place}: holds unused pieces, which only SentencePiece can leave out; take a model without")
    if trainer.treat_whitespace_as_suffix:
        raise ModelError(f"{place}: puts spaces behind words (treat_whitespace_as_suffix), which cannot be read")
    unigram = trainer.model_type == trainer.UNIGRAM
    added = [added_token(index, piece.piece) for index, piece in enumerate(model.pieces) if piece.type in (2, 3)]
    symbols = [(index, piece.piece) for index, piece in enumerate(model.pieces) if piece.type == kinds.USER_DEFINED]
    if not unigram:
        added += [added_token(index, piece, special=False, normalized=True) for index, piece in symbols]
    return whole_spec(
        model=_unigram(model) if unigram else _bpe(model),
        added=sorted(added, key=lambda token: token["id"]),
        normalizer=normalizer(model.normalizer_spec, [piece for _, piece in symbols], cut=not unigram),
        pre_tokenizer=_apart(model) if unigram else None,
        decoder=_decoder(model),
    )


def _parsed(data: bytes, place: str) -> Any:
    from google.protobuf.message import DecodeError
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    try:
        model = sentencepiece_model_pb2.ModelProto.FromString(data)  # pyright: ignore[reportAttributeAccessIssue]
        SentencePieceProcessor(model_proto=data)
    except (DecodeError, RuntimeError) as error:
        hint = "; it holds tiktoken's ranks: name it *.tiktoken" if _RANKS_LINE.match(data) else ""
        raise ModelError(f"{place}: not a SentencePiece model{hint}") from error
    if not model.pieces:
        raise ModelError(f"{place}: not a SentencePiece model (it has no pieces)")
    return model


def whole_spec(model: Spec, added: list[Spec], **sections: Spec | None) -> Spec:
    """A tokenizer.json in the order in which the library writes it."""
    order = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    told = {section: sections.get(section) for section in order}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **told, "model": model}


def added_token(index: int, token: str, special: bool = True, normalized: bool = False) -> Spec:
    plain = {"single_word": False, "lstrip": False, "rstrip": False}
    return {"id": index, "content": token, **plain, "normalized": normalized, "special": special}


def _sequence(inner: str, members: list[Spec]) -> Spec | None:
    return {"type": "Sequence", inner: members} if members else None


def _replace(pattern: Spec, content: str) -> Spec:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _bpe(model: Any) -> Spec:
    """Merges are every way to build a piece of two others: SentencePiece merges whatever gives the best piece."""
    normal = {piece.piece: (piece.score, index) for index, piece in enumerate(model.pieces) if piece.type == 1}
    ranked = []
    for piece, (score, _) in normal.items():
        for cut in range(1, len(piece)):
            left, right = normal.get(piece[:cut]), normal.get(piece[cut:])
            if left and right:
                ranked.append((-score, left[1], right[1], piece[:cut], piece[cut:]))
    byte_fallback = model.trainer_spec.byte_fallback
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": model.trainer_spec.unk_piece,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": byte_fallback,
        "ignore_merges": False,
        "vocab": {piece.piece: index for index, piece in enumerate(model.pieces)},
        "merges": [[left, right] for *_, left, right in sorted(ranked)],
    }


def _unigram(model: Any) -> Spec:
    """A user-defined symbol scores what SentencePiece gives it: for its bytes, and better than any piece."""
    best = max((piece.score for piece in model.pieces if piece.type == 1), default=0.0)
    vocabulary = [
        [piece.piece, len(piece.piece.encode()) * max(best, 0.0) - 0.1 if piece.type == 4 else piece.score]
        for piece in model.pieces
    ]
    unknown = next(index for index, piece in enumerate(model.pieces) if piece.type == 2)
    byte_fallback = model.trainer_spec.byte_fallback
    return {"type": "Unigram", "unk_id": unknown, "vocab": vocabulary, "byte_fallback": byte_fallback}


def pairs(merges: list[Any]) -> list[Merge]:
    """The merges of a tokenizer.json, which writes each as two tokens, or formerly as one text."""
    parted = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    return [(left, right) for left, right in parted]


def normalizer(settings: Any, symbols: list[str], cut: bool) -> Spec | None:
    """SentencePiece's normalisation: character map, spaces, the space before the text, metaspaces, none at the end.

    `settings` is a NormalizerSpec, `symbols` the user-defined ones, which stay as they are. Where they are tokens that
    `cut` the text, the library normalises them too, and a symbol must get no space before it.
    """
    space = METASPACE if settings.escape_whitespaces else " "
    members = _character_map(settings, symbols) if settings.precompiled_charsmap else []
    if settings.remove_extra_whitespaces:
        members += [_replace({"Regex": r"\A +"}, ""), _replace({"Regex": " {2,}"}, " ")]
    if settings.add_dummy_prefix and symbols and cut:
        symbol = "|".join(map(_quoted, symbols))
        members.append(_replace({"Regex": rf"\A(?!(?:{symbol})\z)(?=[\s\S])"}, space))
    elif settings.add_dummy_prefix:
        members.append({"type": "Prepend", "prepend": space})
    if settings.escape_whitespaces:
        members.append(_replace({"String": " "}, METASPACE))
    if settings.remove_extra_whitespaces:
        members.append(_replace({"Regex": rf"{space}+\z"}, ""))
    return _sequence("normalizers", members)


def _character_map(settings: Any, symbols: list[str]) -> list[Spec]:
    """The map, which the library applies to one character after the other, or to what readers see as one.

    It does not compose what SentencePiece composes (Hangul from its parts, ｶ and ﾞ, Vietnamese letters and marks): NFKC
    does that before it. What the map leaves alone and NFKC does not, the symbols and NMT's ～, is hidden meanwhile.
    """
    from tokenizers import normalizers

    charsmap = settings.precompiled_charsmap
    steps: list[Spec] = [{"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}]
    if settings.name.endswith(("nfkc", "nfkc_cf")):
        steps.insert(0, {"type": "NFKC"})
    mapped = normalizers.Sequence([normalizers.NFKC(), normalizers.Precompiled(charsmap)])
    kept = [symbol for symbol in symbols if mapped.normalize_str(symbol) != symbol]
    if settings.name.startswith("nmt_nfkc"):
        kept.append("～")
    hidden = [(symbol, _HIDING.format(at)) for at, symbol in enumerate(sorted(kept, key=len, reverse=True))]
    before = [_replace({"String": symbol}, stand_in) for symbol, stand_in in hidden]
    return [*before, *steps, *(_replace({"String": stand_in}, symbol) for symbol, stand_in in hidden)]


def _apart(model: Any) -> Spec | None:
    """Cuts text that spells a control, unknown or byte piece, which the library's unigram would take for that piece."""
    plain = {piece.piece for piece in model.pieces if piece.type in (1, 4)}
    rests: dict[str, list[str]] = {}
    for spelling in [piece.piece for piece in model.pieces if piece.type in (2, 3, 6) and len(piece.piece) > 1]:
        cut = next((cut for cut in range(1, len(spelling)) if _harmless(spelling, cut, plain)), 1)
        rests.setdefault(spelling[:cut], []).append(spelling[cut:])
    cuts = [f"{_quoted(first)}(?={'|'.join(map(_quoted, rest))})" for first, rest in rests.items()]
    pattern = {"Regex": "|".join(cuts)}
    return {"type": "Split", "pattern": pattern, "behavior": "MergedWithPrevious", "invert": False}


def _harmless(spelling: str, cut: int, plain: set[str]) -> bool:
    """Whether no piece inside the spelling crosses the cut, and no run of unknown characters, which are one id."""
    around = (spelling[start:end] for start in range(cut) for end in range(cut + 1, len(spelling) + 1))
    return plain.isdisjoint(around) and not plain.isdisjoint(spelling[cut - 1 : cut + 1])


def _quoted(text: str) -> str:
    """Text as a regular expression that matches it; Oniguruma's signs are all ASCII."""
    return re.sub(r"([^\w\s])", r"\\\1", text, flags=re.ASCII) if text.isascii() else re.escape(text)


def _decoder(model: Any) -> Spec | None:
    settings = model.normalizer_spec
    members: list[Spec] = []
    if settings.escape_whitespaces:
        members.append(_replace({"String": METASPACE}, " "))
    if model.trainer_spec.byte_fallback:
        members.append({"type": "ByteFallback"})
    members.append({"type": "Fuse"})
    if settings.add_dummy_prefix:
        members.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return _sequence("decoders", members)


def from_ranks(data: bytes, place: str, pattern: str | None) -> Spec:
    """tiktoken's ranks as byte-level BPE. `pattern` is gpt2, gpt4 or a regular expression; the file does not tell it.

    Raises ModelError for a line that is none, a token or rank that comes twice, and a byte without a rank.
    """
    ranks = read_ranks(data, place)
    if missing := [byte for byte in UTF8_BYTES if bytes([byte]) not in ranks]:
        raise ModelError(f"{place}: {len(missing)} bytes have no rank, the first is 0x{missing[0]:02X}; not whole")
    merges: list[tuple[int, Merge]] = []
    added, whole = [], False
    for token, rank in ranks.items():
        if len(token) == 1:
            continue
        parts = _parts(token, ranks, rank)
        if len(parts) == 2:
            merges.append((rank, (written(parts[0]), written(parts[1]))))
        elif _SPECIAL.fullmatch(token):
            added.append(added_token(rank, token.decode("utf-8", "replace")))
        else:
            whole = True
            cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
            found = [(left, right) for left, right in cuts if left in ranks and right in ranks]
            merges += [(rank, (written(left), written(right))) for left, right in found]
    merges.sort(key=lambda merge: merge[0])
    return byte_level(
        {written(token): rank for token, rank in ranks.items()},
        [merge for _, merge in merges],
        added,
        _pattern(pattern, len(ranks)),
        whole,
    )


def byte_level(vocabulary: dict[str, int], merges: list[Merge], added: list[Spec], pattern: str, whole: bool) -> Spec:
    """A byte-level BPE; with `whole` a word that is a token is taken as it is, whatever the merges would make of it."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": whole,
        "vocab": vocabulary,
        "merges": [list(merge) for merge in merges],
    }
    return whole_spec(model, added, pre_tokenizer=_sequence("pretokenizers", [split, byte]), decoder=dict(byte))


def read_ranks(data: bytes, place: str) -> dict[bytes, int]:
    """Ranks by token of a .tiktoken file. Raises ModelError for a line that is none, and what comes twice."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            piece, index = base64.b64decode(token, validate=True), int(rank)
        except (ValueError, binascii.Error) as error:
            raise ModelError(
                f"{place}:{number}: not a base64 token and its rank, as tiktoken's files have them"
            ) from error
        if not piece or piece in ranks:
            raise ModelError(f"{place}:{number}: a token that is empty or came before")
        ranks[piece] = index
    if len(set(ranks.values())) != len(ranks):
        raise ModelError(f"{place}: a rank that two tokens have")
    return ranks


def _parts(token: bytes, ranks: dict[bytes, int], limit: int) -> list[bytes]:
    """What byte pair encoding with the ranks below `limit` leaves of the token."""
    parts = [token[index : index + 1] for index in range(len(token))]
    while len(parts) > 2:
        found = [ranks.get(left + right, limit) for left, right in itertools.pairwise(parts)]
        least = min(found)
        if least >= limit:
            break
        index = found.index(least)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return parts


def _pattern(pattern: str | None, size: int) -> str:
    """100,000 tokens and more came with GPT-4's pattern."""
    name = pattern or ("gpt4" if size >= 100_000 else "gpt2")
    if name == "gpt4":
        return regular_expression(SplitOptions(pattern="gpt4", marks=False, digits=3))
    return regular_expression(SplitOptions(pattern="gpt2", marks=False)) if name == "gpt2" else name


def from_bert(data: bytes, place: str) -> Spec:
    """BERT's vocab.txt, one token a line: WordPiece over BERT's words, with [CLS] and [SEP] around a text.

    Text is put in lower case, and stripped of accents, where no token has a capital. Raises ModelError for a file that
    is no such list.
    """
    try:
        lines = data.decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ModelError(f"{place}: not a BERT vocabulary (not UTF-8)") from error
    tokens = [line.removesuffix("\r") for line in lines]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if missing := [token for token in ("[UNK]", "[CLS]", "[SEP]") if token not in vocabulary]:
        raise ModelError(f"{place}: not a BERT vocabulary ({', '.join(missing)} missing)")
    if len(vocabulary) != len(tokens):
        raise ModelError(f"{place}: a BERT vocabulary in which a token comes twice")
    specials = [token for token in tokens if token in _BERT_SPECIALS]
    lower = not any(re.search("[A-Z]", token) for token in tokens if not re.fullmatch(r"\[.+\]", token))
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": vocabulary,
    }
    return whole_spec(
        model,
        [added_token(vocabulary[token], token) for token in specials],
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": lower,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=around(vocabulary, "[CLS]", "[SEP]"),
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": False},
    )


def around(vocabulary: dict[str, int], first: str, last: str) -> Spec:
    """The post-processor that puts special tokens around a text: first A last, and for pairs first A last B last."""

    def special(token: str, kind: int) -> Spec:
        return {"SpecialToken": {"id": token, "type_id": kind}}

    def text(name: str, kind: int) -> Spec:
        return {"Sequence": {"id": name, "type_id": kind}}

    single = [special(first, 0), text("A", 0), special(last, 0)]
    told = {token: {"id": token, "ids": [vocabulary[token]], "tokens": [token]} for token in (first, last)}
    pair = [*single, text("B", 1), special(last, 1)]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": told}
