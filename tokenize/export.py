"""Tokenizers out: the directory that transformers, vLLM, SentencePiece and tiktoken read, all with the same ids.

The forms are tokenizer.json with its tokenizer_config.json, SentencePiece's tokenizer.model and tiktoken's
ranks.tiktoken. Texts with their ids travel with them, and nothing is left behind in which a form gives others.
"""

import base64
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from tilth.errors import ModelError, TilthError

from . import formats
from .split import METASPACE, SplitOptions, regular_expression
from .tokenizer import BYTES, CONFIG, SELFTEST, TOKENIZER, Tokenizer, byte_of, load, parts

SENTENCEPIECE = "tokenizer.model"
RANKS = "ranks.tiktoken"
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
# No metaspace among them: SentencePiece reads it as a space, and so does not give it back.
SELFTEST_TEXTS = (
    "",
    " ",
    "The plough turns the soil; the rain does the rest.",
    "  two spaces before, and two behind  ",
    "one\ttab,\t\ttwo tabs,    four spaces",
    "unix\nwindows\r\nold mac\rvertical\x0bform\x0cnext\x85line\u2028paragraph\u2029end",
    "\n\n\n",
    "def area(r):\n\tif r < 0:\n\t\treturn None\n    return 3.14159 * r ** 2  # no units\n",
    'for (int i = 0; i < n; ++i) { sum += a[i] & 0xFF; } /* "ok" */',
    '{"id": 10437, "ok": true, "share": -0.25e-3}',
    "0 1 12 123 1234 12345 1234567890 3.14 1,000,000 2026-01-31 ½ ² Ⅷ ٣٤٥ १२३",
    "I'll say we've seen it's DON'T and they'Re; 'tis rock'n'roll",
    "naïve café, Ångström, Straße, İstanbul, ﬁnal",
    "e\u0301 and é, a\u0323\u0302 and ậ, Z\u0335a\u0334l\u0338g\u0337o\u0336",
    "春天播下的种子，秋天才有收成。",
    "農夫清晨到田裡翻土，傍晚才回家。",
    "全角ＡＢＣ１２３，「引號」……——～",
    "𠮷野家、𪚥𠀀、㐂",
    "畑を耕して、種をまく。カタカナとひらがな、ﾊﾝｶｸ。",
    "か\u3099き\u3099 と がぎ",
    "봄에 씨를 뿌리고 가을에 거둔다.",
    "\u1112\u1161\u11ab\u1100\u1173\u11af",
    "किसान सुबह खेत में हल चलाता है।",
    "ชาวนาไถนาตั้งแต่เช้าตรู่",
    "يحرث الفلاح أرضه قبل المطر، ثُمَّ يَزرع.",
    "האיכר חורש את השדה לפני הגשם; שָׁלוֹם",
    "Весной сеют, осенью собирают урожай.",
    "Ο γεωργός οργώνει το χωράφι του πριν από τη βροχή.",
    "Գարնանը ցանում են, ქართული, አማርኛ, বাংলা, தமிழ், བོད་ཡིག, ខ្មែរ",
    "Nông dân cày ruộng từ sáng sớm.",
    "🌱🌾 👩\u200d🌾 👨\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 👍🏽 🇨🇳🇫🇷 ☀\ufe0f",
    "𝒻𝓊𝓃 𐍈𐌿𐌽 𓀀𓂀 𝄞 \U000f0000\U0010fffd",
    "zero\u200bwidth\u200cnon\u200djoiner \ufeffmark\u00adsoft\u2060word",
    "\x01\x02\x07\x1b[0m\x7f\x80\x9f",
    "no\u00a0break\u2007figure\u202fnarrow\u3000ideographic",
    "<|endoftext|> <|im_start|>user<|im_end|><|begin_of_text|>",
    "<s>a</s> <unk> <pad><mask>",
    "[CLS] a [SEP] b [MASK][PAD][UNK]",
    "<0x0A><0xE4> ##ing Ġword Ċ",
    "https://example.org/a?b=c&d=%20#e me@example.org C:\\temp\\new",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa----------------================",
    "x" * 40 + " " * 40 + "y",
    "ends in a space ",
)
Encode = Callable[[str], list[int]]
Decode = Callable[[list[int]], str]


def write_directory(
    folder: Path, tokenizer: Tokenizer, selftest: Sequence[str] = SELFTEST_TEXTS
) -> dict[str, str | None]:
    """Writes every form that the tokenizer has into `folder`; other files there stay. Returns for each form why it was
    left out, or None where it stands.

    All forms are verified first. A tokenizer.model or ranks.tiktoken that gives other ids is left out; where
    tokenizer.json does, for whatever library, TilthError is raised and nothing in `folder` changed.
    """
    config = _config(tokenizer)
    ids = [one.tolist() for one in tokenizer.encode(selftest)]
    rows = [orjson.dumps({"text": text, "ids": one}) + b"\n" for text, one in zip(selftest, ids, strict=True)]
    files = {
        TOKENIZER: orjson.dumps(tokenizer.spec, option=orjson.OPT_INDENT_2),
        CONFIG: orjson.dumps(config, option=orjson.OPT_INDENT_2),
        SELFTEST: b"".join(rows),
    }
    forms: dict[str, str | None] = {TOKENIZER: None}
    for name, made in ((SENTENCEPIECE, to_sentencepiece), (RANKS, to_ranks)):
        try:
            files[name] = made(tokenizer)
            forms[name] = None
        except TilthError as error:
            forms[name] = str(error)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for name, content in files.items():
            (scratch / name).write_bytes(content)
        for line in reversed(verify(scratch)):
            name = line.split(": ")[0]
            if name not in (SENTENCEPIECE, RANKS):
                raise TilthError(f"{folder}: not written, its forms do not agree; {line}")
            forms[name] = line
            files.pop(name, None)
        folder.mkdir(exist_ok=True)
        for name in (SENTENCEPIECE, RANKS):
            (folder / name).unlink(missing_ok=True)
        for name in reversed(files):  # tokenizer.json last: where it stands, the rest does
            os.replace(scratch / name, folder / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return forms


def _config(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer_config.json. transformers reads special tokens out of plain text unless told to split them; with a
    chat template it cannot be told so, since the template's own tokens are read out of its text."""
    given = tokenizer.config
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for role in ROLES:
        token = given.get(role)
        content = token.get("content") if isinstance(token, dict) else token
        if content is None:
            continue
        if content not in tokenizer.specials:
            raise ModelError(f"{tokenizer.name}: the {role} {content!r} is no special token of the vocabulary; add it")
        config[role] = content
    for key in ("chat_template", "model_max_length"):
        if given.get(key) is not None:
            config[key] = given[key]
    config["clean_up_tokenization_spaces"] = False
    config["split_special_tokens"] = "chat_template" not in config
    return config


def verify(folder: Path) -> list[str]:
    """What is wrong with the forms in a folder: one line for each text of selftest.jsonl to which a form gives other
    ids, or that it does not give back where the tokenizer loses nothing. Raises ModelError without self-test."""
    place = folder / SELFTEST
    if not place.exists():
        raise ModelError(
            f"{folder}: has no {SELFTEST} to verify against; write the tokenizer with tilth tokenize export"
        )
    try:
        rows = [orjson.loads(line) for line in place.read_bytes().splitlines()]
        told = [(row["text"], row["ids"]) for row in rows]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ModelError(f"{place}: not a self-test; write the tokenizer with tilth tokenize export") from error
    tokenizer = load(folder, check=False)
    wrong: list[str] = []
    for form, opened in _forms(folder, tokenizer):
        try:
            encode, decode = opened()
            wrong += _differences(form, told, encode, decode if lossless(tokenizer) else None)
        except Exception as error:  # libraries raise whatever they like over a file that is none
            wrong.append(f"{form}: cannot be used ({error})")
    return wrong


def _differences(form: str, told: list[tuple[str, list[int]]], encode: Encode, decode: Decode | None) -> Iterator[str]:
    for text, ids in told:
        found = encode(text)
        if found != ids:
            at = next((at for at, (one, other) in enumerate(zip(found, ids, strict=False)) if one != other), 0)
            yield f"{form}: {text[:40]!r} gives {found[at : at + 3]} and not {ids[at : at + 3]} at its id {at}"
        elif decode and (back := decode(ids)) != text:
            yield f"{form}: {text[:40]!r} comes back as {back[:40]!r}"


def lossless(tokenizer: Tokenizer) -> bool:
    """Whether every text comes back: each byte has a token, and the normaliser does no more than write spaces."""
    if tokenizer.family != "byte-bpe" and not tokenizer.spec["model"].get("byte_fallback"):
        return False
    if not {bytes([byte]) for byte in formats.UTF8_BYTES} <= set(tokenizer.pieces):
        return False
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": METASPACE}
    changes = [part for part in parts(tokenizer.spec, "normalizer") if part["type"] != "Prepend" and part != spaces]
    return not changes


def _forms(folder: Path, tokenizer: Tokenizer) -> Iterator[tuple[str, Callable[[], tuple[Encode, Decode]]]]:
    """Each form in the folder, and what opens it."""
    yield "tilth", lambda: (lambda text: tokenizer.encode([text])[0].tolist(), tokenizer.decode)
    yield TOKENIZER, lambda: _tokenizers(folder / TOKENIZER)
    yield "AutoTokenizer", lambda: _transformers(folder)
    if (folder / SENTENCEPIECE).exists():
        yield SENTENCEPIECE, lambda: _sentencepiece(folder / SENTENCEPIECE)
    if (folder / RANKS).exists():
        yield RANKS, lambda: _tiktoken(folder / RANKS, tokenizer)


def _tokenizers(place: Path) -> tuple[Encode, Decode]:
    import tokenizers

    made = tokenizers.Tokenizer.from_file(str(place))
    made.encode_special_tokens = True
    return lambda text: made.encode(text, add_special_tokens=False).ids, made.decode


def _transformers(folder: Path) -> tuple[Encode, Decode]:
    """As users get it; only with a chat template it must be told to read no special tokens out of plain text."""
    import transformers

    made = transformers.AutoTokenizer.from_pretrained(folder)
    told = {"split_special_tokens": True} if made.chat_template else {}
    return lambda text: made(text, add_special_tokens=False, **told)["input_ids"], made.decode


def _sentencepiece(place: Path) -> tuple[Encode, Decode]:
    import sentencepiece

    made: Any = sentencepiece.SentencePieceProcessor(model_proto=place.read_bytes())
    return made.encode, made.decode


def _tiktoken(place: Path, tokenizer: Tokenizer) -> tuple[Encode, Decode]:
    import tiktoken

    ranks = formats.read_ranks(place.read_bytes(), str(place))
    made = tiktoken.Encoding("ranks", pat_str=_regex(tokenizer), mergeable_ranks=ranks, special_tokens={})
    return made.encode_ordinary, made.decode


def to_sentencepiece(tokenizer: Tokenizer) -> bytes:
    """A SentencePiece model that gives the same ids.

    For BPE over metaspaces and unigram. SentencePiece merges what gives the piece of the best score, so the score of a
    piece is the rank of its first merge, negative. Raises TilthError where SentencePiece has no way to do the same.
    """
    from sentencepiece import sentencepiece_model_pb2

    spec, name = tokenizer.spec["model"], tokenizer.name
    if tokenizer.family not in ("bpe", "unigram"):
        raise TilthError(f"{name}: SentencePiece has no {tokenizer.family}")
    if "" in tokenizer.tokens:
        raise TilthError(f"{name}: id {tokenizer.tokens.index('')} has no token, and SentencePiece leaves none out")
    unigram = tokenizer.family == "unigram"
    unknown = spec.get("unk_id") if unigram else tokenizer.vocabulary.get(spec.get("unk_token"))
    if unknown is None:
        raise TilthError(f"{name}: SentencePiece needs an unknown token")
    if not unigram:
        _check_merges(tokenizer)
    model: Any = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    kinds, scores = model.SentencePiece, _unigram_scores(tokenizer) if unigram else _merge_scores(tokenizer)
    for index, token in enumerate(tokenizer.tokens):
        kind = kinds.BYTE if spec.get("byte_fallback") and byte_of(token) else kinds.NORMAL
        kind = kinds.USER_DEFINED if token in tokenizer.added else kind
        kind = kinds.CONTROL if token in tokenizer.specials else kind
        kind = kinds.UNKNOWN if index == unknown else kind
        model.pieces.add(piece=token, score=scores[index], type=kind)
    _tell_trainer(model, tokenizer, unknown)
    _tell_normalizer(model, tokenizer)
    return model.SerializeToString(deterministic=True)


def _check_merges(tokenizer: Tokenizer) -> None:
    model = tokenizer.spec["model"]
    if model.get("ignore_merges") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise TilthError(f"{tokenizer.name}: a BPE that does more than merge, which SentencePiece cannot")
    if not model.get("byte_fallback") and not model.get("fuse_unk"):
        raise TilthError(
            f"{tokenizer.name}: each unknown character is an id of its own, SentencePiece makes one of all"
        )


def _unigram_scores(tokenizer: Tokenizer) -> list[float]:
    scores = [score for _, score in tokenizer.spec["model"]["vocab"]]
    return scores + [0.0] * (tokenizer.size - len(scores))


def _merge_scores(tokenizer: Tokenizer) -> list[float]:
    """0, -1, -2 ... in the order in which pieces are first merged; what is never merged comes behind, by id."""
    made = dict.fromkeys(left + right for left, right in formats.pairs(tokenizer.spec["model"]["merges"]))
    vocabulary = tokenizer.vocabulary
    scores = {vocabulary[piece]: -float(rank) for rank, piece in enumerate(made)}
    named = tokenizer.specials.keys() | tokenizer.added.keys()
    for token, index in vocabulary.items():
        if index in scores or token in named or byte_of(token):
            continue
        if any(token[:cut] in vocabulary and token[cut:] in vocabulary for cut in range(1, len(token))):
            raise TilthError(f"{tokenizer.name}: no merge makes {token!r}, but SentencePiece would")
    behind = itertools.count(len(made))
    return [
        0.0 if token in named or byte_of(token) else scores[index] if index in scores else -float(next(behind))
        for index, token in enumerate(tokenizer.tokens)
    ]


def _tell_trainer(model: Any, tokenizer: Tokenizer, unknown: int) -> None:
    trainer = model.trainer_spec
    trainer.model_type = trainer.UNIGRAM if tokenizer.family == "unigram" else trainer.BPE
    trainer.vocab_size = tokenizer.size
    trainer.byte_fallback = bool(tokenizer.spec["model"].get("byte_fallback"))
    trainer.unk_id, trainer.unk_piece = unknown, tokenizer.tokens[unknown]
    config = _config(tokenizer)
    for role in ("bos", "eos", "pad"):
        token = config.get(f"{role}_token")
        setattr(trainer, f"{role}_id", -1 if token is None else tokenizer.specials[token])
        if token is not None:
            setattr(trainer, f"{role}_piece", token)


def _tell_normalizer(model: Any, tokenizer: Tokenizer) -> None:
    """The settings that `formats` would turn into this tokenizer's normaliser."""
    settings, found = model.normalizer_spec, _normalizers(tokenizer)
    charsmap = next((part["precompiled_charsmap"] for part in found if part["type"] == "Precompiled"), "")
    names = ("nmt_nfkc", "nfkc", "user_defined") if charsmap else ("identity",)
    settings.precompiled_charsmap = base64.b64decode(charsmap)
    for settings.name, prefix, strip, escape in itertools.product(names, *[(True, False)] * 3):
        settings.add_dummy_prefix, settings.remove_extra_whitespaces, settings.escape_whitespaces = (
            prefix,
            strip,
            escape,
        )
        made = [formats.normalizer(settings, symbols, cut=True) for symbols in ([], list(tokenizer.added))]
        if found in [parts({"normalizer": one}, "normalizer") for one in made]:
            return
    raise TilthError(f"{tokenizer.name}: its normaliser is none of SentencePiece's")


def _normalizers(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The normaliser's steps, with what a Metaspace pre-tokenizer would do behind them."""
    steps, splits = list(parts(tokenizer.spec, "normalizer")), parts(tokenizer.spec, "pre_tokenizer")
    own = tokenizer.family == "unigram" and [split["type"] for split in splits] == ["Split"]  # see formats
    if not splits or own:
        return steps
    if len(splits) != 1 or splits[0]["type"] != "Metaspace" or splits[0]["replacement"] != METASPACE:
        raise TilthError(f"{tokenizer.name}: cuts words as SentencePiece does not")
    if splits[0].get("prepend_scheme", "always") != "never":
        steps.append({"type": "Prepend", "prepend": METASPACE})
    return [*steps, {"type": "Replace", "pattern": {"String": " "}, "content": METASPACE}]


def to_ranks(tokenizer: Tokenizer) -> bytes:
    """tiktoken's ranks of a byte-level BPE, without its special tokens; a rank is the token's id.

    tiktoken merges whatever gives the token of the lowest rank. Raises TilthError where the merges come in another
    order than the ids of what they make, or tiktoken would make tokens that they do not.
    """
    model, name = tokenizer.spec["model"], tokenizer.name
    if tokenizer.family != "byte-bpe":
        raise TilthError(f"{name}: tiktoken has no {tokenizer.family}")
    if tokenizer.added:
        raise TilthError(
            f"{name}: tiktoken has no added tokens that are not special, such as {next(iter(tokenizer.added))!r}"
        )
    ranks = {token: index for token, index in model["vocab"].items() if token not in tokenizer.specials}
    if foreign := next((token for token in ranks if not BYTES.keys() >= set(token)), None):
        raise TilthError(f"{name}: {foreign!r} is no token of bytes")
    listed = [(left, right) for left, right in formats.pairs(model["merges"])]
    last = -1
    for left, right in listed:
        rank = ranks.get(left + right, -1)
        if rank < last:
            raise TilthError(
                f"{name}: ids are not in the order of merges (id {rank} is merged after id {last}), "
                "so tiktoken would merge in another order"
            )
        last = rank
    rows = [base64.b64encode(tokenizer.bytes_of(token)) + b" %d\n" % rank for token, rank in ranks.items()]
    rows.sort(key=lambda row: int(row.split()[1]))
    data = b"".join(rows)
    merged = formats.from_ranks(data, name, _regex(tokenizer))
    if unlisted := {tuple(pair) for pair in merged["model"]["merges"]} - set(listed):
        raise TilthError(f"{name}: no merge of {' and '.join(min(unlisted))}, but tiktoken would merge them")
    if merged["added_tokens"] or (merged["model"]["ignore_merges"] and not model.get("ignore_merges")):
        raise TilthError(f"{name}: holds tokens that its merges never make, but tiktoken would take them for words")
    return data


def _regex(tokenizer: Tokenizer) -> str:
    """The regular expression that cuts words, for tiktoken, which has nothing else to do so."""
    splits = parts(tokenizer.spec, "pre_tokenizer")
    if parts(tokenizer.spec, "normalizer"):
        raise TilthError(f"{tokenizer.name}: tiktoken has no normaliser")
    kinds = [split["type"] for split in splits]
    if any(split.get("add_prefix_space") for split in splits):
        raise TilthError(f"{tokenizer.name}: tiktoken puts no space before a text")
    if kinds == ["ByteLevel"] and splits[0].get("use_regex", True):
        return regular_expression(SplitOptions(pattern="gpt2", marks=False))
    isolated = kinds == ["Split", "ByteLevel"] and splits[0]["behavior"] == "Isolated" and not splits[0].get("invert")
    pattern = splits[0].get("pattern", {}).get("Regex") if isolated else None
    if pattern is None or splits[1].get("use_regex", True):
        raise TilthError(f"{tokenizer.name}: cuts words as tiktoken cannot")
    return pattern
