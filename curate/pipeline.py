"""The passes of a curation run, in order: read and label, find duplicates, decide, write the corpus, report.

Every pass is a list of units on the engine. A pass that depends on others says on what (a hash of their files and of
the part of the recipe that it reads), and is done anew when that changes: so the same command resumes, and a changed
rule costs a pass over labels, not over text.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import orjson

from tilth import rundir
from tilth.errors import UsageError
from tilth.ledger import Ledger, Record
from tilth.progress import Progress
from tilth.storage import Folder
from tilth.work import Engine, Unit, WorkOptions

from .corpus import CorpusWorker, shards
from .decide import DecideWorker
from .dedup.exact import OUTPUT as EXACT
from .dedup.exact import ExactWorker
from .documents import ReadWorker
from .label import VERSIONS, Labeller
from .read import InputUnit, plan
from .recipe import CurateRecipe
from .relabel import LabelWorker
from .report import render_report
from .run import COMMAND, Run
from .stats import collect, samples

ADVICE = "choose another --output, start over with --fresh, or apply changed rules with `tilth curate decide`"
LABEL_SECTIONS = ("read", "extract", "labels", "gates")  # what the first pass depends on


class Result(NamedTuple):
    """What a command came to: the figures of stats.json, and the units that failed every attempt, with reasons."""

    stats: dict[str, Any]
    failed: dict[str, str]


def curate(
    inputs: Sequence[str], output: Folder, name: str, recipe: CurateRecipe, work: WorkOptions, progress: Progress
) -> Result:
    """The whole run: from `inputs` to a corpus and a report in `output`; resumes what is there already."""
    planned = plan(inputs, recipe.read)
    Labeller(recipe.labels)  # a model or list that is none is told before anything is written
    with output.lock(), Engine(work, progress) as engine:
        rundir.claim(output, COMMAND, _request(name, recipe, planned.units), ADVICE)
        if planned.passed_over:
            count, example = len(planned.passed_over), planned.passed_over[0]
            progress.note(f"passed over {count} files of no kind that is read, such as {example}")
        units = [Unit(unit.key, unit, unit.size) for unit in planned.units]
        read = engine.run("read", units, partial(ReadWorker, recipe), output, ["documents", "failures"])
        return _finish(Run(output), engine, read.failed)


def decide(
    output: Folder, name: str, recipe: CurateRecipe, work: WorkOptions, progress: Progress, corpus: bool = True
) -> Result:
    """Applies changed rules to the labels of a finished run, and writes decisions, corpus and report anew."""
    with output.lock(), Engine(work, progress) as engine:
        run = Run(output)
        changed = [part for part in LABEL_SECTIONS if getattr(run.recipe, part) != getattr(recipe, part)]
        if changed:
            raise UsageError(
                f"{output.url}: `decide` changes rules, clean and corpus; {', '.join(changed)} would change labels: "
                "use `tilth curate label` for labels, another run for the rest"
            )
        request = {**run.request, "name": name, "recipe": recipe.model_dump(mode="json", by_alias=True)}
        rundir.write(output, COMMAND, request)
        return _finish(Run(output), engine, {}, corpus)


def relabel(
    output: Folder, families: Sequence[str], recipe: CurateRecipe, work: WorkOptions, progress: Progress
) -> Result:
    """Computes some label families of a finished run anew, with the recipe's options, and decides again."""
    with output.lock(), Engine(work, progress) as engine:
        run = Run(output)
        units = [Unit(key, key, record["counts"]["document_bytes"]) for key, record in run.documents().items()]
        settings = _hash(recipe.labels.model_dump(mode="json"), {family: VERSIONS[family] for family in families})
        failed: dict[str, str] = {}
        for family in families:
            worker = partial(LabelWorker, output, family, recipe.labels)
            outcome = engine.run(
                f"label-{family}", units, worker, output, [f"labels/{family}"], depends_on=f"{settings} {_hash(units)}"
            )
            failed |= outcome.failed
        if failed:
            return Result({}, failed)
        own = {**run.request["recipe"], "labels": recipe.labels.model_dump(mode="json")}
        labels = {**run.request["labels"], **{family: VERSIONS[family] for family in families}}
        later = sorted({*run.relabelled, *families})
        rundir.write(output, COMMAND, {**run.request, "recipe": own, "labels": labels, "relabelled": later})
        return _finish(Run(output), engine, failed)


def _finish(run: Run, engine: Engine, failed: dict[str, str], corpus: bool = True) -> Result:
    """Everything after the labels."""
    documents = run.documents()
    keys = [key for key, record in documents.items() if record["counts"]["documents"]]
    output, recipe = run.folder, run.recipe

    base = run.fingerprint()
    one = [Unit("all", keys, len(keys))]
    exact = engine.run("exact", one, partial(ExactWorker, run), output, [EXACT], light=True, depends_on=base)

    judged = _hash(base, _rules(recipe))
    units = [Unit(key, key, documents[key]["counts"]["documents"]) for key in keys]
    decided = engine.run(
        "decide", units, partial(DecideWorker, run, recipe), output, ["decisions"], light=True, depends_on=judged
    )
    written: dict[str, Record] = {}
    lost = failed | exact.failed | decided.failed
    kept = sum(record["counts"]["kept_bytes"] for record in decided.records.values())
    if corpus and not (exact.failed or decided.failed):
        parts = shards(kept, recipe.corpus.shard_bytes)
        cleaned = _hash(judged, recipe.clean, recipe.corpus.model_dump())
        worker = partial(CorpusWorker, run, recipe, keys)
        outcome = engine.run("corpus", parts, worker, output, ["corpus"], light=kept < 2**26, depends_on=cleaned)
        written, lost = outcome.records, lost | outcome.failed
    elif not corpus:
        engine.run("corpus", [], partial(CorpusWorker, run, recipe, keys), output, ["corpus"], depends_on="none")
    records = {"read": documents, "decide": decided.records, "corpus": written}
    return Result(report(run, records), lost)


def rewrite_report(run: Run) -> dict[str, Any]:
    """The report of a finished run, from what its ledger says."""
    return report(run, {name: Ledger(run.folder, name).records() for name in ("read", "decide", "corpus")})


def report(run: Run, passes: dict[str, dict[str, Record]]) -> dict[str, Any]:
    """Writes stats.json and report.html; they hold no clock, so equal runs write equal files."""
    counts = {name: [record["counts"] for record in records.values()] for name, records in passes.items()}
    stats = collect(run, counts, run.request["inputs"]["names"])
    run.folder.write("stats.json", orjson.dumps(stats, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")
    run.folder.write("report.html", render_report(stats, samples(run)).encode())
    return stats


def _request(name: str, recipe: CurateRecipe, units: Sequence[InputUnit]) -> dict[str, Any]:
    """What makes two runs the same: recipe, versions of the labels, the inputs by name and size, wherever mounted."""
    names = sorted({unit.name.split("/")[0] for unit in units})
    inputs = [(unit.key, unit.name, unit.kind, unit.start, unit.end, unit.size) for unit in units]
    return {
        "name": name,
        "recipe": recipe.model_dump(mode="json", by_alias=True),
        "labels": VERSIONS,
        "inputs": {"names": names, "fingerprint": _hash(inputs)},
    }


def _rules(recipe: CurateRecipe) -> Any:
    """What decisions depend on: the rules, and the cleaning where a rule looks at what is left after it."""
    return recipe.model_dump(mode="json", include={"rules", "clean"})


def _hash(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
