"""Labels: what is measured of a document, family by family. Nothing here decides anything.

A family is a NamedTuple of measures and becomes one struct column. It carries a version, which goes up whenever the
same text would get other values, so that a run knows which of its labels are out of date.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator

from tilth.document import FIELDS, struct_of

from ..dedup.options import MinHashOptions
from ..segment import Segmented, segment
from .fineweb import FineWeb, FineWebOptions, fineweb
from .gopher import Gopher, GopherOptions, gopher
from .language import LanguageIdentifier, LanguageOptions, find_model
from .length import Length, length, sizes
from .lines import Lines, LinesOptions, lines
from .noise import Noise, noise
from .repetition import Repetition, repetition
from .sensitive import Sensitive, SensitiveMatcher, SensitiveOptions
from .url import UrlLabeller, UrlLabels, UrlOptions


class Lang(NamedTuple):
    """The two likeliest languages and the script that most letters belong to (ISO 15924)."""

    code: str
    score: float
    second: str
    second_score: float
    script: str


class Dup(NamedTuple):
    """What duplicates are found by."""

    exact: str  # hash of the text's tokens: letter case, punctuation and white space do not count; "" without tokens


FAMILIES: dict[str, type] = {
    "url_labels": UrlLabels,
    "lang": Lang,
    "length": Length,
    "gopher": Gopher,
    "repetition": Repetition,
    "fineweb": FineWeb,
    "lines": Lines,
    "noise": Noise,
    "sensitive": Sensitive,
    "dup": Dup,
}


class LabelOptions(BaseModel):
    """The `labels` section of a recipe: one entry for each family that can be set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    families: tuple[str, ...] = Field(
        default=tuple(FAMILIES), description="what is measured; of length always the bytes"
    )
    language: LanguageOptions = LanguageOptions()
    url: UrlOptions = UrlOptions()
    gopher: GopherOptions = GopherOptions()
    fineweb: FineWebOptions = FineWebOptions()
    lines: LinesOptions = LinesOptions()
    minhash: MinHashOptions = MinHashOptions()
    sensitive: SensitiveOptions = Field(default=SensitiveOptions(), description="measured where lists are given")

    @field_validator("families")
    @classmethod
    def _exist(cls, families: tuple[str, ...]) -> tuple[str, ...]:
        for family in families:
            if family not in FAMILIES:
                raise ValueError(f"no label family {family}; there are {', '.join(FAMILIES)}")
        return families

    def measured(self, label: str) -> bool:
        """Whether a label will be there."""
        return label.split(".")[0] in self.families or label in ("length.bytes", "length.chars")


VERSIONS = dict.fromkeys(FAMILIES, 1) | {"dup": 2}
SECTIONS = {  # of the recipe's `labels`, with the families that each of them changes
    "language": ("lang", "gopher", "sensitive"),
    "url": ("url_labels",),
    "gopher": ("gopher", "repetition"),
    "fineweb": ("fineweb",),
    "lines": ("lines",),
    "sensitive": ("sensitive",),
    "minhash": ("dup",),
}
NEED_LANGUAGE = {"lang", "gopher", "sensitive"}
EARLY = ("url_labels", "lang", "length")  # known before the expensive ones; gates may ask for these

Labels = dict[str, Any]  # a family's NamedTuple by the family's name; None where it was not measured


def schema() -> pa.Schema:
    """The columns of `documents/`, with the version of each label family in the metadata."""
    families = [pa.field(family, struct_of(measures)) for family, measures in FAMILIES.items()]
    versions = {f"version.{family}": str(version) for family, version in VERSIONS.items()}
    return pa.schema([*FIELDS, *families], metadata=versions)


def measures() -> dict[str, pa.DataType]:
    """Every label that a rule may name, with its type: `gopher.words`, `lang.code`, ..."""
    names = {f"{family}.{field.name}": field.type for family in FAMILIES for field in struct_of(FAMILIES[family])}
    return {name: kind for name, kind in names.items() if not pa.types.is_list(kind)}


class Labeller:
    """Computes all labels; built once in each process, because models and lists are loaded here."""

    def __init__(self, options: LabelOptions):
        self._options = options
        self._families = frozenset(options.families)
        self._identify = LanguageIdentifier(options.language) if self._families & NEED_LANGUAGE else None
        self._url = UrlLabeller(options.url) if "url_labels" in self._families else None
        self._sensitive = SensitiveMatcher(options.sensitive) if options.sensitive.lists else None
        self._sketch = _sketcher(options.minhash) if "dup" in self._families else None

    def url(self, url: str | None) -> UrlLabels | None:
        return self._url(url) if self._url else None

    def early(self, text: str) -> tuple[Segmented, Labels]:
        """The text segmented, once for all labels, and the labels that gates may ask for."""
        document = segment(text)
        lang = Lang(*self._identify(text), script=document.script) if self._identify else None
        return document, {"lang": lang, "length": length(document) if "length" in self._families else sizes(text)}

    def late(self, document: Segmented, early: Labels) -> Labels:
        """Every other label of the text."""
        options, language = self._options, early["lang"][0] if early["lang"] else ""
        makers: dict[str, Callable[[], Any]] = {
            "gopher": lambda: gopher(document, options.gopher, language),
            "repetition": lambda: repetition(document, options.gopher),
            "fineweb": lambda: fineweb(document, options.fineweb),
            "lines": lambda: lines(document, options.lines),
            "noise": lambda: noise(document),
            "sensitive": lambda: self._sensitive(document.text, language) if self._sensitive else None,
        }
        return {family: make() if family in self._families else None for family, make in makers.items()}

    def dup(self, text: str) -> tuple[Dup | None, bytes | None]:
        """What duplicates are found by: the label, and the MinHash signature, of texts that are long enough for one."""
        if not self._sketch:
            return None, None
        sketch = self._sketch(text)
        if sketch.signature is None or sketch.tokens < self._options.minhash.min_tokens:
            return Dup(sketch.text_key), None
        return Dup(sketch.text_key), sketch.signature.tobytes()


def _sketcher(options: MinHashOptions) -> Any:
    from ..dedup.minhash import Sketcher  # numba and datasketch are slow to import

    return Sketcher(options)


def resources(options: LabelOptions) -> list[str]:
    """What labels depend on beside the options: the last part of each model's and list's path, a hash of its bytes."""
    model = [find_model(options.language.model)] if NEED_LANGUAGE & {*options.families} else []
    places = [*model, *map(Path, options.url.lists), *map(Path, options.sensitive.lists)]
    named = (options.url.model, options.url.strict_words, options.url.hard_words, options.url.soft_words)
    places += [Path(place) for place in named if place]
    return [f"{place.name} {_contents(place)}" for place in places]


def _contents(place: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
        if file.is_file():
            digest.update(str(file.relative_to(place)).encode())
            with open(file, "rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()
