"""What a URL tells before its page is read: canonical form, domain, blocklists, words, a learned score.

Nothing is fetched: the public suffix list is the snapshot in tldextract. Which label drops a page is a rule.
"""

import gzip
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import ahocorasick
import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field
from xxhash import xxh3_64_intdigest

from tilth.errors import ModelError

from .canonical_url import Address, ascii_host, parse_url
from .fasttext_model import load_fasttext

SHIPPED_WORDS = Path(__file__).with_name("url_words.yaml")
BLOCK_BYTES = 1 << 24
MAX_NAMES = 32  # parents of a host or a path that are looked up
_WORD = re.compile(r"[^\W_]+")
_IGNORED_IN_STRICT = str.maketrans("", "", "-. ")
_BEFORE_NAME = re.compile(rb"^(?:[a-z]+://)?(?:www\.|\.)?", re.MULTILINE)
_AFTER_NAME = re.compile(rb"[/.? \t\r]+$", re.MULTILINE)


class UrlOptions(BaseModel):
    """The lists and the model that URLs are compared with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lists: tuple[str, ...] = Field(
        default=(),
        description="folders as UT1 has them: a folder a category, in it files domains and urls, plain or .gz",
    )
    categories: tuple[str, ...] = Field(
        default=(),
        description="categories to use; where several list a page, the one named first here is told; "
        "default: all, in alphabetical order",
    )
    strict_words: str | None = Field(
        default=None,
        description="file, a word a line: counted anywhere in the URL, - and . ignored; default: a short own list",
    )
    hard_words: str | None = Field(
        default=None, description="file, a word or phrase a line: counted as whole words; default: a short own list"
    )
    soft_words: str | None = Field(
        default=None,
        description="file, like hard_words, for what means something only together; default: a short own list",
    )
    model: str | None = Field(
        default=None, description="fastText classifier of what `url_words` gives; default: no score"
    )
    model_label: str = Field(default="bad", description="the model's label whose probability is the score")


class UrlLabels(NamedTuple):
    """What is known of one URL; empty and zero where there is none, or none with a host."""

    canonical: str  # see canonical_url
    host: str  # lower case, IDN as punycode
    domain: str  # registered domain by the public suffix list; of IP addresses and the like the host
    domain_listed: str  # category that lists the host or a parent of it among its domains
    url_listed: str  # category that lists the page or a path above it among its urls
    strict_words: int  # different words of each list
    hard_words: int
    soft_words: int
    score: float | None  # the model's, 0 to 1


class UrlLabeller:
    """Labels URLs; lists and model are loaded once, here. Raises ModelError for any that is missing or is none.

    A listed domain or URL takes ten bytes of memory, 5 million of them 50 MB; they load at about a million a second.
    """

    def __init__(self, options: UrlOptions) -> None:
        from tldextract import TLDExtract

        self._suffixes = TLDExtract(suffix_list_urls=(), cache_dir=None)
        folders = _category_folders(options.lists, options.categories)
        self._domains, self._urls = Listing(folders, "domains"), Listing(folders, "urls")
        if folders and not len(self._domains) + len(self._urls):
            raise ModelError(f"URL lists {', '.join(options.lists)}: they are empty; correct labels.url.lists")
        shipped = yaml.safe_load(SHIPPED_WORDS.read_text("utf-8"))
        strict = _read_words(options.strict_words) if options.strict_words else shipped["strict"]
        self._strict = ahocorasick.Automaton()
        for word in {word.lower().translate(_IGNORED_IN_STRICT) for word in strict} - {""}:
            self._strict.add_word(word, word)
        self._strict.make_automaton()
        self._hard = _Words(_read_words(options.hard_words) if options.hard_words else shipped["hard"])
        self._soft = _Words(_read_words(options.soft_words) if options.soft_words else shipped["soft"])
        self._model = load_fasttext(options.model) if options.model else None
        self._model_label = f"__label__{options.model_label}"
        if self._model and self._model_label not in self._model.get_labels():
            raise ModelError(
                f"{options.model}: this model has no label {options.model_label!r}; set labels.url.model_label"
            )

    def __call__(self, url: str | None) -> UrlLabels:
        """The labels of one URL; total on any string."""
        address = parse_url(url) if url else None
        if address is None:
            return UrlLabels("", "", "", "", "", 0, 0, 0, None)
        canonical = str(address)
        words = url_words(canonical)
        squeezed = unquote(canonical).lower().translate(_IGNORED_IN_STRICT)
        return UrlLabels(
            canonical=canonical,
            host=address.host,
            domain=self._suffixes.extract_str(address.host).top_domain_under_public_suffix or address.host,
            domain_listed=self._domains.category(_parent_domains(address)),
            url_listed=self._urls.category(_parent_pages(address)),
            strict_words=len({word for _, word in self._strict.iter(squeezed)}) if self._strict else 0,
            hard_words=self._hard.count(words),
            soft_words=self._soft.count(words),
            score=self._score(words),
        )

    def _score(self, words: list[str]) -> float | None:
        if self._model is None:
            return None
        labels, scores = self._model.predict(" ".join(words), k=-1)
        return min(1.0, float(scores[labels.index(self._model_label)])) if self._model_label in labels else 0.0


def url_words(url: str) -> list[str]:
    """The words of a URL in lower case, its scheme left out: what word lists and models see of it."""
    return _WORD.findall(unquote(url.partition("://")[2] or url).lower())


class Listing:
    """Which category lists a name, as a sorted array of 64-bit hashes: small, and quick to load and to ask."""

    def __init__(self, folders: Sequence[Path], kind: str) -> None:
        """`folders`: one a category, the first that lists a name names it; `kind`: domains or urls."""
        self._categories = [folder.name for folder in folders]
        blocks = [np.empty(0, np.uint64)]
        owners = [np.empty(0, np.uint16)]
        for index, folder in enumerate(folders):
            for file in _files(folder, kind):
                hashes = _hashes(file)
                blocks.append(hashes)
                owners.append(np.full(len(hashes), index, np.uint16))
        self._hashes, first = np.unique(np.concatenate(blocks), return_index=True)
        self._owners = np.concatenate(owners)[first]

    def category(self, names: Sequence[str]) -> str:
        """The category of the first of the names that is listed; empty where none is."""
        if not len(self._hashes):
            return ""
        hashes = np.array([xxh3_64_intdigest(name.encode()) for name in names], np.uint64)
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        listed = np.flatnonzero(self._hashes[places] == hashes)
        return self._categories[self._owners[places[listed[0]]]] if len(listed) else ""

    def __len__(self) -> int:
        return len(self._hashes)


def _files(folder: Path, kind: str) -> list[Path]:
    return [file for file in (folder / kind, folder / f"{kind}.gz") if file.is_file()]


def _hashes(file: Path) -> np.ndarray:
    """The hash of each name in a list, in the form in which names are asked for."""
    blocks = [np.empty(0, np.uint64)]
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
            while block := b"".join(lines.readlines(BLOCK_BYTES)):
                names = _AFTER_NAME.sub(b"", _BEFORE_NAME.sub(b"", block.lower())).split(b"\n")
                if not block.isascii():
                    names = [name if name.isascii() else _ascii_name(name) for name in names]
                names = [name for name in names if name]
                blocks.append(np.fromiter(map(xxh3_64_intdigest, names), np.uint64, len(names)))
    except (OSError, EOFError) as error:
        raise ModelError(f"URL list {file}: {error}; it must be a list of names, one a line, plain or .gz") from error
    return np.concatenate(blocks)


def _ascii_name(name: bytes) -> bytes:
    host, slash, path = name.decode("utf-8", "replace").partition("/")
    address = parse_url(ascii_host(host) + slash + path)
    return f"{address.host}{address.path if slash else ''}".lower().encode() if address else b""


def _category_folders(lists: Iterable[str], categories: Sequence[str]) -> list[Path]:
    """The folders of the wanted categories, in order of precedence."""
    found: list[Path] = []
    for source in map(Path, lists):
        folders = [f for f in sorted(source.glob("*")) if _files(f, "domains") or _files(f, "urls")]
        if not folders:
            raise ModelError(
                f"URL lists {source}: no category/domains or category/urls in it; correct labels.url.lists"
            )
        found += folders
    names = {folder.name for folder in found}
    if missing := set(categories) - names:
        there = ", ".join(sorted(names)) or "no lists are named"
        raise ModelError(f"URL category {min(missing)}: it is in none of labels.url.lists; there is: {there}")
    order = categories or sorted(names)
    return [folder for name in order for folder in found if folder.name == name]


def _without_www(host: str) -> str:
    return host.removeprefix("www.")


def _parent_domains(address: Address) -> list[str]:
    """The host and every domain above it."""
    labels = _without_www(address.host).split(".")[-MAX_NAMES:]
    return [".".join(labels[start:]) for start in range(len(labels))]


def _parent_pages(address: Address) -> list[str]:
    """The page and every path above it, without scheme and port, in lower case."""
    host, path = _without_www(address.host), address.path.lower()
    pages = [f"{host}{path}{address.query.lower()}"]
    segments = path.rstrip("/").split("/")[:MAX_NAMES]
    return pages + [host + "/".join(segments[:end]) for end in range(len(segments), 0, -1)]


class _Words:
    """Words and phrases, each counted once a URL."""

    def __init__(self, entries: Iterable[str]) -> None:
        split = [_WORD.findall(entry.lower()) for entry in entries]
        self._words = {words[0] for words in split if len(words) == 1}
        self._phrases = {f" {' '.join(words)} " for words in split if len(words) > 1}

    def count(self, words: list[str]) -> int:
        joined = f" {' '.join(words)} "
        return len(self._words.intersection(words)) + sum(phrase in joined for phrase in self._phrases)


def _read_words(file: str) -> list[str]:
    try:
        lines = [line.strip() for line in Path(file).read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"word list {file}: {error}; it must be a text file in UTF-8, one word a line") from error
    words = [line for line in lines if line and not line.startswith("#")]
    if not words:
        raise ModelError(f"word list {file}: it is empty; fill it or take it out of labels.url")
    return words
