"""Score cards over a corpus: units of work that count, one page and one JSON that tell."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field

from tilth import rundir
from tilth.errors import InputError
from tilth.progress import Progress
from tilth.storage import Folder
from tilth.work import Engine, Outbox, Unit, WorkOptions

from ..curate.read import ReadOptions
from .corpus import ADVICE, LIGHT, CorpusUnit, at_most, batches, fingerprint, plan, whole
from .score import Scorer
from .score_report import render_scores
from .tokenizer import Tokenizer, absolute, load

COMMAND = "tokenize score"
USES = "uses"
SCORES = "scorecard.json"
REPORT = "report.html"
SAMPLE = 64 * 2**20  # bytes of text that are enough for every figure


class ScoreOptions(BaseModel):
    """What tokenizers are scored on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample: int = Field(default=SAMPLE, gt=0, description="bytes of text, from the beginning of each unit by its share")
    label: str | None = Field(default=None, description="column by which the figures are told apart, or file")
    pattern: str | None = Field(default=None, description="how tiktoken's ranks cut words: gpt2, gpt4 or a regex")
    read: ReadOptions = ReadOptions()


class ScoreWorker:
    """Scores tokenizers on the beginning of one unit."""

    def __init__(self, places: Sequence[str], pattern: str | None, label: str | None):
        self._tokenizers = [load(place, pattern, check=False) for place in places]
        self._label = label

    def __call__(self, payload: tuple[CorpusUnit, int], outbox: Outbox) -> Mapping[str, Any]:
        unit, most = payload
        scorers = [Scorer(tokenizer) for tokenizer in self._tokenizers]
        left = most
        for batch in batches(unit, self._label):
            texts = at_most(batch.texts, left)
            left -= sum(map(len, texts))
            for label in sorted(set(batch.labels[: len(texts)])):
                own = [text for text, its in zip(texts, batch.labels, strict=False) if its == label]
                for scorer in scorers:
                    scorer.add(own, label)
            if left <= 0:
                break
        np.save(outbox.file(USES, len(scorers), ".npy"), np.concatenate([scorer.uses for scorer in scorers]))
        return {"scores": [scorer.counts() for scorer in scorers]}


def score(
    places: Sequence[str],
    inputs: Sequence[str],
    output: Folder,
    options: ScoreOptions,
    work: WorkOptions,
    progress: Progress,
    fresh: bool = False,
) -> list[dict[str, Any]]:
    """Score cards of the tokenizers at `places` on `inputs`, also written to `output`; resumes what is there, unless
    `fresh`.

    Raises InputError where there is no text.
    """
    tokenizers = [load(place, options.pattern) for place in places]
    rundir.refuse_foreign(output)
    units = plan(inputs, options.read, options.label, output.url)
    with Engine(work, progress) as engine, output.lock():
        if fresh:
            rundir.start_over(output, COMMAND)
        request = {
            "options": options.model_dump(mode="json"),
            "tokenizers": [one.digest for one in tokenizers],
            "inputs": fingerprint(units),
        }
        rundir.claim(output, COMMAND, request, "", ADVICE)
        return score_into(output, tokenizers, places, units, options.label, options.sample, engine, options.pattern)


def score_into(
    output: Folder,
    tokenizers: Sequence[Tokenizer],
    places: Sequence[str],
    units: Sequence[Unit],
    label: str | None,
    sample: int,
    engine: Engine,
    pattern: str | None = None,
) -> list[dict[str, Any]]:
    """Score cards of tokenizers that stand at `places`, after which they are called, on the same share of every unit,
    written into `output`: a page and a JSON."""
    size = sum(unit.size for unit in units)
    shares = [-(-unit.size * sample // max(size, 1)) for unit in units]
    told = f"{sample} {[one.digest for one in tokenizers]}"
    todo = [Unit(unit.key, (unit.payload, most), most) for unit, most in zip(units, shares, strict=True)]
    worker = partial(ScoreWorker, [absolute(place) for place in places], pattern, label)
    light = min(sample, size) < LIGHT
    done = whole(engine.run("score", todo, worker, output, [USES], light=light, depends_on=told), "score")
    scorers = [Scorer(tokenizer) for tokenizer in tokenizers]
    ends = np.cumsum([tokenizer.size for tokenizer in tokenizers])[:-1]
    for key, record in done.records.items():
        with output.open(f"{USES}/{key}.npy") as file:
            uses = np.split(np.load(file), ends)
        for scorer, counts, its in zip(scorers, record["counts"]["scores"], uses, strict=True):
            scorer.merge(counts, its)
    if not scorers[0].uses.sum():
        raise InputError("no text in the input to score on")
    names = [place.rstrip("/").rsplit("/", 1)[-1] for place in places]
    names = names if len(set(names)) == len(names) else places
    results = [{**scorer.result(), "tokenizer": name} for scorer, name in zip(scorers, names, strict=True)]
    output.write(SCORES, orjson.dumps(results, option=orjson.OPT_INDENT_2))
    output.write(REPORT, render_scores(results).encode())
    return results
