"""A tokenizer at work: text to ids and back, whatever system made it.

Its one form here is the content of a `tokenizer.json` (Hugging Face tokenizers): what comes as a SentencePiece model,
tiktoken ranks or BERT's vocabulary is turned into that (`formats`). BPE that `bpe_encoder` knows runs there, the rest
in the tokenizers library. Special tokens are never read out of text: only `Tokenizer.specials` leads to their ids.
"""

import functools
import gzip
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson

from tilth.errors import ModelError
from tilth.storage import Folder

from .split import METASPACE

if TYPE_CHECKING:
    from .compiled import Compiled

Family = Literal["byte-bpe", "bpe", "wordpiece", "unigram"]
Spec = dict[str, Any]  # the content of a tokenizer.json

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
SELFTEST = "selftest.jsonl"
_USUAL_NAMES = {
    "bos": ("<s>", "<|begin_of_text|>"),
    "eos": ("</s>", "<|endoftext|>", "<|end_of_text|>"),
    "unk": ("<unk>", "[UNK]"),
    "pad": ("<pad>", "[PAD]", "<|pad|>"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
    "mask": ("[MASK]", "<mask>"),
}


class Tokenizer:
    """A vocabulary, and how text becomes ids of it. Raises ModelError for a spec that is none."""

    def __init__(self, spec: Spec, config: dict[str, Any] | None = None, name: str = "tokenizer"):
        self.spec = spec
        self.config = config or {}
        self.name = name
        self.family = _family(spec, name)
        tokens = spec.get("added_tokens") or []
        self.specials: dict[str, int] = {token["content"]: token["id"] for token in tokens if token["special"]}
        self.added: dict[str, int] = {token["content"]: token["id"] for token in tokens if not token["special"]}

    @functools.cached_property
    def roles(self) -> dict[str, int]:
        """Ids of special tokens by what they are for: bos, eos, unk, pad, cls, sep, mask. They are those that the
        configuration names, or else those of the usual names."""
        found = {}
        for role, usual in _USUAL_NAMES.items():
            named = self.config.get(f"{role}_token")
            named = named.get("content") if isinstance(named, dict) else named  # as older transformers write it
            token = next((name for name in ((named,) if named else usual) if name in self.specials), None)
            if token is not None:
                found[role] = self.specials[token]
        return found

    @functools.cached_property
    def vocabulary(self) -> dict[str, int]:
        """Ids by token, as the spec writes tokens; added ones among them."""
        model = self.spec["model"]
        if self.family == "unigram":
            own = {piece: index for index, (piece, _) in enumerate(model["vocab"])}
        else:
            own = model["vocab"]
        return {**own, **self.added, **self.specials}

    @functools.cached_property
    def tokens(self) -> list[str]:
        """Tokens by id, as the spec writes them; empty where an id has none."""
        tokens = [""] * self.size
        for token, index in self.vocabulary.items():
            tokens[index] = token
        return tokens

    @functools.cached_property
    def size(self) -> int:
        """How many ids there are: the largest and one."""
        return max(self.vocabulary.values(), default=-1) + 1

    @functools.cached_property
    def pieces(self) -> list[bytes]:
        """The bytes that each id stands for: a metaspace is a space, `<0x41>` is A, `##ing` ing; empty for specials."""
        special = set(self.specials.values())
        return [b"" if index in special else self.bytes_of(token) for index, token in enumerate(self.tokens)]

    def bytes_of(self, token: str) -> bytes:
        """The bytes that a token, as the spec writes it, stands for."""
        if token in self.added:
            return token.encode()
        if self.family == "byte-bpe":
            return bytes(BYTES.get(character, 0x3F) for character in token)
        if self.family == "wordpiece":
            return token.removeprefix(self.spec["model"].get("continuing_subword_prefix") or "##").encode()
        if byte := byte_of(token):
            return byte
        return token.replace(METASPACE, " ").encode()

    @functools.cached_property
    def digest(self) -> str:
        """Hash of the spec: what makes two tokenizers the same."""
        return hashlib.sha256(orjson.dumps(self.spec)).hexdigest()

    @functools.cached_property
    def library(self) -> Any:
        """The same as a `tokenizers.Tokenizer`; it too reads no special tokens out of text."""
        made = _opened(self.spec, self.name)
        made.encode_special_tokens = True
        made.no_truncation()
        made.no_padding()
        return made

    @functools.cached_property
    def compiled(self) -> "Compiled | None":
        """The compiled encoder, where it can do what the spec says."""
        from .compiled import compiled_encoder

        return compiled_encoder(self)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of each text; no special token is added, and none is read out of the text."""
        ids, lengths = self.encode_flat(texts)
        return np.split(ids, np.cumsum(lengths)[:-1]) if len(texts) else []

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The same as int32 ids of all texts, one behind the other, and how many each has (int64)."""
        fast = self.compiled
        if fast is None:
            return self._by_library(texts)
        cut = [bool(self.added) and self._is_cut(text, fast.normalizer) for text in texts]
        if not any(cut):
            return fast.encode(texts)
        parts = []  # texts with added tokens are the library's
        for its, run in itertools.groupby(zip(cut, texts, strict=True), lambda pair: pair[0]):
            own = [text for _, text in run]
            parts.append(self._by_library(own) if its else fast.encode(own))
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([lengths for _, lengths in parts])

    def _by_library(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        valid = [text.encode("utf-8", "replace").decode() for text in texts]  # no lone surrogates
        encoded = [one.ids for one in self.library.encode_batch(valid, add_special_tokens=False)]
        ids = np.fromiter(itertools.chain.from_iterable(encoded), np.int32)
        return ids, np.array([len(one) for one in encoded], np.int64)

    def _is_cut(self, text: str, normalize: Callable[[str], str]) -> bool:
        """Whether an added token may stand in the text, as it is or as it is normalised."""
        if any(token in text for token in self.added):
            return True
        added = [token for token in self.spec["added_tokens"] if not token["special"]]
        normalized = [token["content"] for token in added if token["normalized"]]
        text = normalize(text) if normalized else ""
        return any(normalize(token) in text for token in normalized)

    def segment(self, token: str) -> list[int]:
        """What the model alone makes of a token as the spec writes it: no normaliser, nothing cut."""
        return [one.id for one in self.library.model.tokenize(token)] if token else []

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, special tokens left out."""
        return self.library.decode([int(one) for one in ids], skip_special_tokens=True)


def load(place: str | Path, pattern: str | None = None, check: bool = True) -> Tokenizer:
    """The tokenizer at `place`: a directory that holds one, or a `tokenizer.json`, SentencePiece `.model`, `.tiktoken`
    or BERT `vocab.txt`, each also as `.gz`. `pattern` (gpt2, gpt4 or a regular expression) is what tiktoken's ranks do
    not tell. The self-test of a directory is checked unless told otherwise.

    Raises ModelError for what is missing, of another kind, or fails its self-test.
    """
    if "://" in str(place):
        return _fetched(str(place), pattern, check)
    path = Path(place)
    if path.is_dir():
        found = next(
            (path / name for name in (TOKENIZER, "tokenizer.model", "vocab.txt") if (path / name).exists()), None
        )
        if found is None:
            ranks = sorted(path.glob("*.tiktoken"))
            if not ranks:
                raise ModelError(
                    f"{place}: holds no tokenizer (no {TOKENIZER}, tokenizer.model, *.tiktoken or vocab.txt)"
                )
            found = ranks[0]
        config = _config(path / CONFIG)
        made = Tokenizer(_spec(found, pattern), config, path.resolve().name)
        if check and (path / SELFTEST).exists():
            check_selftest(made, path / SELFTEST)
        return made
    if not path.is_file():
        raise ModelError(f"{place}: no such tokenizer")
    name = path.name.removesuffix(".gz").removesuffix(".json")
    generic = name in ("tokenizer", "tokenizer.model", "vocab.txt")  # then the folder's name tells more
    return Tokenizer(_spec(path, pattern), name=path.resolve().parent.name if generic else name)


def _fetched(url: str, pattern: str | None, check: bool) -> Tokenizer:
    """The tokenizer of a remote directory."""
    folder = Folder(url)
    wanted = (TOKENIZER, CONFIG, SELFTEST, "tokenizer.model", "vocab.txt")
    with TemporaryDirectory(prefix="tilth-") as scratch:
        place = Path(scratch) / folder.url.rsplit("/", 1)[-1]
        place.mkdir()
        for name in folder.top():
            if name in wanted or name.endswith(".tiktoken"):
                (place / name).write_bytes(folder.read(name))
        return load(place, pattern, check)


def absolute(place: str) -> str:
    """The place as processes in other folders find it."""
    return place if "://" in place else os.path.abspath(place)


def check_selftest(tokenizer: Tokenizer, place: Path) -> None:
    """Raises ModelError where a text of the self-test gives other ids than those that travel with it."""
    for number, line in enumerate(place.read_bytes().splitlines(), 1):
        try:
            row = orjson.loads(line)
            text, ids = row["text"], row["ids"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise ModelError(f"{place}:{number}: not a line of a self-test") from error
        if tokenizer.encode([text])[0].tolist() != ids:
            raise ModelError(
                f"{place}:{number}: {text[:40]!r} gives other ids than when the tokenizer was made; fetch it again"
            )


def _config(place: Path) -> dict[str, Any]:
    if not place.exists():
        return {}
    try:
        found = orjson.loads(place.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ModelError(f"{place}: not JSON ({error})") from error
    return found if isinstance(found, dict) else {}


def _spec(path: Path, pattern: str | None) -> Spec:
    """The content of a file as a tokenizer.json would say it."""
    from . import formats

    name = path.name.removesuffix(".gz")
    try:
        data = path.read_bytes()
        if path.name.endswith(".gz"):
            data = gzip.decompress(data)
    except (OSError, EOFError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
    if name.endswith(".json"):
        try:
            spec = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{path}: not a tokenizer.json ({error})") from error
        if not isinstance(spec, dict) or not isinstance(spec.get("model"), dict):
            raise ModelError(f"{path}: not a tokenizer.json (it has no model)")
        _opened(spec, str(path))
        return spec
    if name.endswith(".model"):
        return formats.from_sentencepiece(data, str(path))
    if name.endswith(".tiktoken"):
        return formats.from_ranks(data, str(path), pattern)
    if name.endswith(".txt"):
        return formats.from_bert(data, str(path))
    raise ModelError(f"{path}: none of tokenizer.json, *.model, *.tiktoken, vocab.txt")


def _opened(spec: Spec, name: str) -> Any:
    """The spec as the tokenizers library reads it. Raises ModelError with what the library has against it, and where it
    gives added tokens, which it counts from the end of the model's, other ids than the spec tells."""
    import tokenizers

    try:
        _check(spec["model"])
        made = tokenizers.Tokenizer.from_buffer(orjson.dumps(spec))
        for token in spec.get("added_tokens") or []:
            if (index := made.token_to_id(token["content"])) != token["id"]:
                raise ValueError(f"{token['content']!r} has the id {token['id']}, but tokenizers gives it {index}")
    except Exception as error:  # the library raises Exception itself
        raise ModelError(f"{name}: not a tokenizer that can be used ({error})") from error
    return made


def _check(model: Spec) -> None:
    """Raises ValueError for what the library does not mind and others do, or what it dies of: an id of more than 31
    bits, a merge that makes no token."""
    from .formats import pairs

    vocabulary = model.get("vocab") or {}
    if isinstance(vocabulary, dict) and max(vocabulary.values(), default=0) >= 2**31:
        raise ValueError("it has an id of more than 31 bits")
    if "merges" in model and not model.get("continuing_subword_prefix"):
        for left, right in pairs(model["merges"]):
            if left + right not in vocabulary:
                raise ValueError(f"its merge of {left!r} and {right!r} makes no token")


def _family(spec: Spec, name: str) -> Family:
    """Which of the families that tilth knows the spec belongs to."""
    model = spec["model"]
    kind = model.get("type") or ("BPE" if "merges" in model else "Unigram" if "unk_id" in model else None)
    if kind == "WordPiece":
        return "wordpiece"
    if kind == "Unigram":
        return "unigram"
    if kind == "BPE":
        return "byte-bpe" if any(part["type"] == "ByteLevel" for part in parts(spec, "pre_tokenizer")) else "bpe"
    raise ModelError(f"{name}: a tokenizer of kind {kind}; tilth works with BPE, WordPiece and Unigram")


def parts(spec: Spec, section: str) -> list[Spec]:
    """The members of a section (normalizer, pre_tokenizer, decoder, post_processor), a sequence or not."""
    found = spec.get(section)
    if not found:
        return []
    inner = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}.get(
        section, "processors"
    )
    return found[inner] if found["type"] == "Sequence" else [found]


def byte_of(token: str) -> bytes:
    """The byte of a token like `<0x41>`; none for any other."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass
    return b""


def _byte_characters() -> list[str]:
    """GPT-2's letters for bytes: printable Latin-1 stands for itself, the rest are moved behind it (Radford et al.
    2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(moved)) for byte in range(256)]


CHARACTERS = _byte_characters()  # by byte
BYTES = {character: byte for byte, character in enumerate(CHARACTERS)}


def written(piece: bytes) -> str:
    """How byte-level BPE writes bytes as a token."""
    return "".join([CHARACTERS[byte] for byte in piece])
