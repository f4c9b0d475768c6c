"""The text that tokenizers are made from and that they encode: a curation run's corpus, JSONL, Parquet, or plain text.

`plan` turns what the user names into units of work, `batches` reads one. A document that cannot be read is counted with
its reason, as everywhere.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tilth import rundir
from tilth.document import document_id
from tilth.errors import DirectoryConflict, InputError, UnitsFailed
from tilth.ledger import Ledger
from tilth.storage import Folder
from tilth.work import Outcome, Unit

from ..curate import read
from ..curate.read import Failure, InputUnit, ReadOptions
from ..curate.run import COMMAND

ADVICE = "choose another --output, or start over with --fresh"
STATS = "stats.json"
LIGHT = 512 * 2**20  # bytes of input that are worked on without processes of their own
BATCH_BYTES = 4 * 2**20
_SUFFIX = re.compile(r"\.(txt|jsonl|ndjson|parquet|pq)?(\.(gz|zst|zstd))?$")
FILE = "file"  # the label that the name of the input file is


class Mixture(BaseModel):
    """How much of what: the share that documents of each label get, whatever share of the input they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str = Field(description="the label: a column, such as lang.code in a curation run; `file` for the file's name")
    weights: dict[str, float] = Field(
        default={}, description="share by value of the label; '*' is for all others together; none: as they come"
    )

    @field_validator("weights")
    @classmethod
    def _sound(cls, weights: dict[str, float]) -> dict[str, float]:
        if any(not 0 <= weight < math.inf for weight in weights.values()) or (weights and not sum(weights.values())):
            raise ValueError("weights are finite and not negative, and one of them is more than nothing")
        return weights

    def factors(self, amounts: Mapping[str, int]) -> dict[str, float]:
        """By how much each label's counts are multiplied, given the bytes of each, so that the shares are as asked and
        the total stays. Raises InputError for a weight of what the input does not have."""
        if not self.weights:
            return dict.fromkeys(amounts, 1.0)
        missing = [name for name in self.weights if name != "*" and not amounts.get(name)]
        if missing:
            there = ", ".join(sorted(amounts)[:12])
            raise InputError(f"mixture: no document has {self.by} {missing[0]}; there are {there}")
        named = {name: weight for name, weight in self.weights.items() if name != "*"}
        rest = sum(amount for name, amount in amounts.items() if name not in named)
        others = self.weights.get("*", 0) if rest else 0
        whole, total = sum(named.values()) + others, sum(amounts.values())
        if not whole:
            raise InputError(f"mixture: nothing is left of the input, whose {self.by} all have the weight 0")
        shares = {name: named.get(name, others * amounts[name] / rest if rest else 0) for name in sorted(amounts)}
        return {name: share / whole * total / amounts[name] if amounts[name] else 0.0 for name, share in shares.items()}


class CorpusUnit(NamedTuple):
    """One unit of the input, and how it is read."""

    unit: InputUnit
    options: ReadOptions


class Batch(NamedTuple):
    """Some documents, one behind the other."""

    ids: list[str]
    texts: list[str]
    labels: list[str]
    skipped: Counter[str]  # records that are none, by reason


def plan(inputs: Sequence[str], options: ReadOptions, label: str | None, output: str = "") -> list[Unit]:
    """Units of all inputs; a curation run stands for its corpus. Raises InputError for what cannot be read, and for a
    curation run without a whole corpus."""
    if label and label != FILE:
        options = options.model_copy(update={"label_field": label})
    runs = [place for place in inputs if is_run(place)]
    others = [place for place in inputs if place not in runs]
    units: list[CorpusUnit] = []
    if runs:
        own = ReadOptions(id_field="id", label_field=options.label_field, unit_bytes=options.unit_bytes)
        planned = read.plan([corpus_of(place) for place in runs], own)
        units += [CorpusUnit(unit._replace(key=f"run-{unit.key}"), own) for unit in planned.units]
    if others or not runs:
        planned = read.plan(others, options, output, plain_text=True)
        units += [CorpusUnit(unit, options) for unit in planned.units]
    return [Unit(one.unit.key, one, one.unit.size) for one in units]


def fingerprint(units: Sequence[Unit]) -> str:
    """Hash of the inputs by name, place and size."""
    told = [
        (unit.key, unit.payload.unit.name, unit.payload.unit.start, unit.payload.unit.end, unit.size) for unit in units
    ]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def whole(outcome: Outcome, name: str) -> Outcome:
    """The outcome of a pass, all of whose units must be done. Raises UnitsFailed where some are not."""
    if outcome.failed:
        key, reason = next(iter(outcome.failed.items()))
        raise UnitsFailed(
            f"{name}: {len(outcome.failed)} units failed, the first is {key}: {reason}; the same command tries again"
        )
    return outcome


def batches(corpus_unit: CorpusUnit, label: str | None = None) -> Iterator[Batch]:
    """The unit's documents, as many together as are about BATCH_BYTES long."""
    unit, options = corpus_unit
    name = _SUFFIX.sub("", unit.name.rsplit("/", 1)[-1])
    batch, size = Batch([], [], [], Counter()), 0
    for page in read.read_unit(unit, options):
        if isinstance(page, Failure) or page.text is None:
            reason = page.reason if isinstance(page, Failure) else "no_text"
            batch.skipped[reason] += 1
            continue
        batch.ids.append(page.id or document_id(page.source, page.path, page.offset, page.url))
        batch.texts.append(page.text)
        batch.labels.append(name if label == FILE else page.label or "")
        size += len(page.text)
        if size > BATCH_BYTES:
            yield batch
            batch, size = Batch([], [], [], Counter()), 0
    yield batch


def beginnings(units: Sequence[Unit], sample: int) -> Iterator[list[str]]:
    """Texts of about `sample` bytes in all, from the beginning of each unit by its share."""
    size = sum(unit.size for unit in units)
    for unit in units:
        left = -(-unit.size * sample // max(size, 1))
        for batch in batches(unit.payload):
            texts = at_most(batch.texts, left)
            left -= sum(map(len, texts))
            yield texts
            if left <= 0:
                break


def at_most(texts: Sequence[str], characters: int) -> list[str]:
    """Texts from the first on, until they have so many characters together; the last one is cut at a line's end."""
    taken: list[str] = []
    for text in texts:
        if characters <= 0:
            break
        if len(text) > characters:
            text = text[: text.find("\n", characters - 1) + 1 or len(text)]
        taken.append(text)
        characters -= len(text)
    return taken


def is_run(place: str) -> bool:
    if not place.strip():
        raise InputError("an input's name is empty")
    folder = Folder(place)
    return folder.exists(rundir.MANIFEST) and rundir.read(folder)["command"] == COMMAND


def corpus_of(place: str) -> str:
    """The folder of the run's corpus, which must be whole."""
    folder = Folder(place)
    shards = Ledger(folder, "corpus").records()
    if not shards or int(next(iter(shards)).rsplit("-", 1)[-1]) != len(shards):
        raise DirectoryConflict(f"{folder.url}: its corpus is not written yet; finish `tilth curate run` first")
    return f"{folder.url}/corpus"
