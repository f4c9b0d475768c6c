"""Labels: what is measured of a document, family by family. Nothing here decides anything.

A family is a NamedTuple of measures and becomes one struct column. It carries a version, which goes up whenever the
same text would get other values, so that a run knows which of its labels are out of date.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import xxhash
from pydantic import BaseModel, ConfigDict, Field

from tilth.document import FIELDS, struct_of

from ..segment import Segmented, segment
from .fineweb import FineWeb, FineWebOptions, fineweb
from .gopher import Gopher, GopherOptions, gopher
from .language import LanguageIdentifier, LanguageOptions, find_model
from .length import Length, length
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

    exact: str  # hash of the text


class LabelOptions(BaseModel):
    """The `labels` section of a recipe: one entry for each family that can be set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    language: LanguageOptions = LanguageOptions()
    url: UrlOptions = UrlOptions()
    gopher: GopherOptions = GopherOptions()
    fineweb: FineWebOptions = FineWebOptions()
    lines: LinesOptions = LinesOptions()
    sensitive: SensitiveOptions = Field(default=SensitiveOptions(), description="measured where lists are given")


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
VERSIONS = dict.fromkeys(FAMILIES, 1)
SECTIONS = {  # of the recipe's `labels`, with the families that each of them changes
    "language": ("lang", "gopher", "sensitive"),
    "url": ("url_labels",),
    "gopher": ("gopher", "repetition"),
    "fineweb": ("fineweb",),
    "lines": ("lines",),
    "sensitive": ("sensitive",),
}
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
        self._identify = LanguageIdentifier(options.language)
        self._url = UrlLabeller(options.url)
        self._sensitive = SensitiveMatcher(options.sensitive) if options.sensitive.lists else None

    def url(self, url: str | None) -> UrlLabels:
        return self._url(url)

    def early(self, text: str) -> tuple[Segmented, Labels]:
        """The text segmented, once for all labels, and the labels that gates may ask for."""
        document = segment(text)
        language = self._identify(text)
        return document, {"lang": Lang(*language, script=document.script), "length": length(document)}

    def late(self, document: Segmented, early: Labels) -> Labels:
        """Every other label of the text."""
        language = early["lang"][0]
        return {
            "gopher": gopher(document, self._options.gopher, language),
            "repetition": repetition(document, self._options.gopher),
            "fineweb": fineweb(document, self._options.fineweb),
            "lines": lines(document, self._options.lines),
            "noise": noise(document),
            "sensitive": self._sensitive(document.text, language) if self._sensitive else None,
            "dup": Dup(exact_hash(document.text)),
        }


def resources(options: LabelOptions) -> list[str]:
    """What labels depend on beside the options: the last part of each model's and list's path, a hash of its bytes."""
    places = [find_model(options.language.model), *map(Path, options.url.lists), *map(Path, options.sensitive.lists)]
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


def exact_hash(text: str) -> str:
    """128 bits of the text as 32 hex digits. Letter case and line breaks count: rules that look at lines judge copies
    alike, so that the one that stands for the others is kept where any of them would be."""
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))
