"""The curation recipe: how a crawl is read, extracted, labelled, judged and cleaned. All of it is data."""

from typing import Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .clean import CLEANED, REPEATED
from .clean import RULES as LINE_RULES
from .dedup.options import DERIVED, NEAR_LABELS, PASSAGE_LABELS, URL_LABELS, DedupOptions
from .extract import ExtractOptions
from .label import EARLY, LabelOptions, measures
from .read import ReadOptions
from .rules import Rule

PACKAGE = "tilth.curate.recipes"


def label_types() -> dict[str, pa.DataType]:
    """Every label that a rule may name: those that are stored, and those that follow from them."""
    shares = ("removed_words_share",)
    left = {f"cleaned.{name}": pa.float64() if name in shares else pa.int64() for name in CLEANED}
    return {**measures(), **DERIVED, **left}


class CorpusOptions(BaseModel):
    """How what is kept is written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard_bytes: int = Field(default=256 * 2**20, gt=0, description="text in one shard of the corpus, about")


class CurateRecipe(BaseModel):
    """Everything that a curation run depends on, apart from its inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = Field(default="", description="what the recipe is for, one line")
    read: ReadOptions = ReadOptions()
    extract: ExtractOptions = ExtractOptions()
    labels: LabelOptions = LabelOptions()
    dedup: DedupOptions = DedupOptions()
    gates: dict[str, Rule] = Field(default={}, description="rules on early labels; what fails them becomes no document")
    rules: dict[str, Rule] = Field(default={}, description="in order: the first one failed drops the document")
    clean: tuple[str, ...] = Field(
        default=(), description="line rules applied when the corpus is written; repeated cuts what dedup.passages finds"
    )
    corpus: CorpusOptions = CorpusOptions()

    @property
    def line_rules(self) -> tuple[str, ...]:
        """What of `clean` looks at lines."""
        return tuple(name for name in self.clean if name != REPEATED)

    @property
    def cuts_repeated(self) -> bool:
        """Whether passages that stand elsewhere are cut."""
        return REPEATED in self.clean

    @model_validator(mode="after")
    def _labels_exist(self) -> Self:
        known = label_types()
        for section, rules in (("gates", self.gates), ("rules", self.rules)):
            for name, rule in rules.items():
                for label in rule.labels():
                    if label not in known:
                        raise ValueError(f"{section}.{name}: no label {label}{_near(label, list(known))}")
                    if not self.labels.measured("lines" if label.startswith("cleaned.") else label):
                        raise ValueError(f"{section}.{name}: {label} is not measured: see labels.families")
                    numeric = pa.types.is_integer(known[label]) or pa.types.is_floating(known[label])
                    if label == rule.label and not numeric and (rule.min is not None or rule.max is not None):
                        raise ValueError(f"{section}.{name}: {label} is text; min and max are for numbers")
                    if section == "gates" and label.split(".")[0] not in EARLY:
                        raise ValueError(f"gates.{name}: {label} is not known that early; make it a rule")
        for name in self.clean:
            if name not in (*LINE_RULES, REPEATED):
                raise ValueError(f"clean: no line rule {name}{_near(name, [*LINE_RULES, REPEATED])}")
        return self

    @model_validator(mode="after")
    def _duplicates_can_be_found(self) -> Self:
        dedup, permutations = self.dedup, self.labels.minhash.permutations
        passages = dedup.passages
        if self.cuts_repeated and not passages.any():
            raise ValueError("clean: repeated cuts what dedup.passages finds; set lines, sentences or substrings there")
        if dedup.against and not self.labels.measured("dup"):
            raise ValueError("dedup.against: needs dup among labels.families")
        if dedup.url and not self.labels.measured("url_labels.canonical"):
            raise ValueError("dedup.url: needs url_labels among labels.families")
        off = () if dedup.url else URL_LABELS
        off = {*off, *(() if passages.any() else PASSAGE_LABELS), *(() if dedup.near else NEAR_LABELS)}
        for name, rule in self.rules.items():
            for label in off.intersection(rule.labels()):
                raise ValueError(f"rules.{name}: {label} is looked for only where the section dedup says so")
        if dedup.threshold is None and dedup.bands * dedup.rows > permutations:
            raise ValueError(
                f"dedup: {dedup.bands} bands of {dedup.rows} rows need {dedup.bands * dedup.rows} values, "
                f"and labels.minhash.permutations is {permutations}"
            )
        if dedup.quality is not None:
            kind = measures().get(dedup.quality)
            if kind is None or not self.labels.measured(dedup.quality):
                raise ValueError(f"dedup.quality: no label {dedup.quality} is measured")
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                raise ValueError(f"dedup.quality: {dedup.quality} is no number")
        return self


def _near(name: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
