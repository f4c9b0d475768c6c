"""The curation recipe: how a crawl is read, extracted, labelled, judged and cleaned. All of it is data."""

from typing import Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .clean import CLEANED
from .clean import RULES as LINE_RULES
from .extract import ExtractOptions
from .label import EARLY, LabelOptions, measures
from .read import ReadOptions
from .rules import Rule

PACKAGE = "tilth.curate.recipes"
COPY_OF = "dup.copy_of"  # the representative's id, or nothing; known once all documents are


def label_types() -> dict[str, pa.DataType]:
    """Every label that a rule may name: those that are stored, and those that follow from them."""
    shares = ("removed_words_share",)
    left = {f"cleaned.{name}": pa.float64() if name in shares else pa.int64() for name in CLEANED}
    return {**measures(), COPY_OF: pa.string(), **left}


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
    gates: dict[str, Rule] = Field(default={}, description="rules on early labels; what fails them becomes no document")
    rules: dict[str, Rule] = Field(default={}, description="in order: the first one failed drops the document")
    clean: tuple[str, ...] = Field(default=(), description="line rules applied to the text when the corpus is written")
    corpus: CorpusOptions = CorpusOptions()

    @model_validator(mode="after")
    def _labels_exist(self) -> Self:
        known = label_types()
        for section, rules in (("gates", self.gates), ("rules", self.rules)):
            for name, rule in rules.items():
                for label in rule.labels():
                    if label not in known:
                        raise ValueError(f"{section}.{name}: no label {label}{_near(label, list(known))}")
                    numeric = pa.types.is_integer(known[label]) or pa.types.is_floating(known[label])
                    if label == rule.label and not numeric and (rule.min is not None or rule.max is not None):
                        raise ValueError(f"{section}.{name}: {label} is text; min and max are for numbers")
                    if section == "gates" and label.split(".")[0] not in EARLY:
                        raise ValueError(f"gates.{name}: {label} is not known that early; make it a rule")
        for name in self.clean:
            if name not in LINE_RULES:
                raise ValueError(f"clean: no line rule {name}{_near(name, list(LINE_RULES))}")
        return self


def _near(name: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
