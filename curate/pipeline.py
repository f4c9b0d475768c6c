"""The passes of a curation run, in order: read and label, find duplicates, decide, write the corpus, report.

Every pass is a list of units on the engine. A pass that depends on others says on what (a hash of their files and of
the part of the recipe that it reads), and is done anew when that changes: so the same command resumes, and a changed
rule costs a pass over labels, not over text.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import orjson

from tilth import rundir
from tilth.errors import UsageError
from tilth.ledger import Ledger, Record
from tilth.progress import Progress
from tilth.storage import Folder
from tilth.work import Engine, Outcome, Unit, WorkOptions

from .corpus import DEALT, CorpusWorker, DealWorker, deals, shard_count, shards
from .decide import DecideWorker
from .documents import ReadWorker
from .label import SECTIONS, VERSIONS, Labeller, resources
from .read import InputUnit, plan
from .recipe import CurateRecipe
from .relabel import LabelWorker
from .report import render_report
from .run import COMMAND, Run
from .stats import collect, samples

ADVICE = "choose another --output, start over with --fresh, or apply changed rules with `tilth curate decide`"
LIGHT = 100_000  # documents that passes over labels do without processes of their own
FIRST_PASS = ("read", "extract", "labels", "gates")  # sections of the recipe that it depends on


class Result(NamedTuple):
    """What a command came to: the figures of stats.json, and the units that failed every attempt, with reasons."""

    stats: dict[str, Any]
    failed: dict[str, str]


def curate(
    inputs: Sequence[str],
    output: Folder,
    name: str,
    recipe: CurateRecipe,
    work: WorkOptions,
    progress: Progress,
    fresh: bool = False,
) -> Result:
    """The whole run: from `inputs` to a corpus and a report in `output`; resumes what is there, unless `fresh`."""
    rundir.refuse_foreign(output)
    planned = plan(inputs, recipe.read, output.url)
    Labeller(recipe.labels)  # a model or list that is none is told before anything is written
    _check_earlier(recipe, output)
    with Engine(work, progress) as engine, output.lock():
        if fresh:
            rundir.start_over(output, COMMAND)
        rundir.claim(output, COMMAND, _request(recipe, planned.units), name, ADVICE)
        if planned.passed_over:
            count, example = len(planned.passed_over), planned.passed_over[0]
            progress.note(f"passed over {count} files of no kind that is read, such as {example}")
        units = [Unit(unit.key, unit, unit.size) for unit in planned.units]
        outputs = ["documents", "failures", "signatures"]
        read = engine.run("read", units, partial(ReadWorker, recipe), output, outputs)
        return _finish(Run(output), engine, read.failed)


def decide(
    output: Folder, name: str, recipe: CurateRecipe, work: WorkOptions, progress: Progress, corpus: bool = True
) -> Result:
    """Applies changed rules to the labels of a finished run, and writes decisions, corpus and report anew."""
    with Engine(work, progress) as engine, output.lock():
        run = Run(output)
        changed = [part for part in FIRST_PASS if getattr(run.recipe, part) != getattr(recipe, part)]
        if changed:
            raise UsageError(
                f"{output.url}: `decide` changes rules, dedup, clean and corpus, not {', '.join(changed)}: "
                "use `tilth curate label` for labels, another run for the rest"
            )
        _check_earlier(recipe, output)
        request = {**run.request, "recipe": recipe.model_dump(mode="json", by_alias=True)}
        rundir.write(output, COMMAND, request, name)
        return _finish(Run(output), engine, {}, corpus)


def relabel(
    output: Folder, families: Sequence[str], recipe: CurateRecipe, work: WorkOptions, progress: Progress
) -> Result:
    """Computes some label families of a finished run anew, with the recipe's options, and decides again."""
    with Engine(work, progress) as engine, output.lock():
        run = Run(output, relabelling=True)
        if run.missing:
            raise UsageError(
                f"{output.url}: {run.missing} units of the input are not read yet; first finish `curate run`"
            )
        begun = run.request.get("relabelling", [])
        if not set(begun) <= set(families):
            raise UsageError(
                f"{output.url}: first finish `tilth curate label` with --family {' --family '.join(begun)}"
            )
        _check_families(run, families, recipe)
        _check_earlier(recipe, output)
        Labeller(recipe.labels)
        settled = run.request | {"relabelled": sorted({*run.relabelled, *families})}
        settled["recipe"] = run.request["recipe"] | {"labels": recipe.labels.model_dump(mode="json")}
        settled["labels"] = run.request["labels"] | {family: VERSIONS[family] for family in families}
        settled["resources"] = resources(recipe.labels)
        # Said before it is done: a run stopped in between has labels of two kinds, and must not be judged by them.
        rundir.write(output, COMMAND, run.request | {"relabelling": list(families)}, run.name)
        units = [Unit(key, key, record["counts"]["document_bytes"]) for key, record in run.documents.items()]
        base = {key: [file["sha256"] for file in record["files"]] for key, record in run.documents.items()}
        failed: dict[str, str] = {}
        for family in families:
            depends = _hash(settled["recipe"]["labels"], settled["resources"], VERSIONS[family], base)
            worker = partial(LabelWorker, output, family, recipe.labels)
            outputs = [f"labels/{family}", *(["labels/signatures"] if family == "dup" else [])]
            failed |= engine.run(f"label-{family}", units, worker, output, outputs, depends_on=depends).failed
        if failed:
            return Result({}, failed)
        settled.pop("relabelling", None)
        rundir.write(output, COMMAND, settled, run.name)
        return _finish(Run(output), engine, failed)


def _check_earlier(recipe: CurateRecipe, output: Folder) -> None:
    if recipe.dedup.against:
        from .dedup.passes import earlier_runs

        earlier_runs(recipe, output)


def _check_families(run: Run, families: Sequence[str], recipe: CurateRecipe) -> None:
    """Refuses settings that would leave a family out of date, and those that are no labels' at all."""
    for family in families:
        if family not in recipe.labels.families:
            families_then = ", ".join([*recipe.labels.families, family])
            raise UsageError(
                f"--family {family}: not measured in this run; --set 'labels.families=[{families_then}]' adds it"
            )
    for part in type(recipe).model_fields:
        if part != "labels" and getattr(run.recipe, part) != getattr(recipe, part):
            raise UsageError(f"--set {part}: `tilth curate label` changes labels only")
    for section, touched in SECTIONS.items():
        if getattr(run.recipe.labels, section) != getattr(recipe.labels, section):
            for family in touched:
                if family not in families:
                    raise UsageError(f"--set labels.{section}: changes the family {family} too; add --family {family}")


def _finish(run: Run, engine: Engine, failed: dict[str, str], corpus: bool = True) -> Result:
    """Everything after the labels."""
    keys = [key for key, record in run.documents.items() if record["counts"]["documents"]]
    count = sum(record["counts"]["documents"] for record in run.documents.values())
    output, recipe, light = run.folder, run.recipe, count < LIGHT
    lost = dict(failed)
    if run.missing > len(failed):
        lost["read"] = f"{run.missing} units of the input are not read yet; `tilth curate run` goes on with them"

    found, troubled = _find_duplicates(run, engine)
    if troubled:  # what was decided before stays as it is
        return Result({}, {**lost, **troubled})

    judged = _hash(run.fingerprint(), found, _rules(recipe))
    units = [Unit(key, key, run.documents[key]["counts"]["documents"]) for key in keys]
    worker = partial(DecideWorker, run, recipe)
    decided = engine.run("decide", units, worker, output, ["decisions"], light=light, depends_on=judged)
    lost |= decided.failed

    # Without all decisions there is nothing a corpus could be made of; what was made of others goes.
    whole = corpus and not decided.failed
    kept = {key: record["counts"]["kept_bytes"] for key, record in decided.records.items()}
    written = _write_corpus(run, engine, kept if whole else {}, judged if whole else "", light)
    passes = {"read": run.documents, "decide": decided.records, "corpus": written.records}
    return Result(report(run, passes), lost | written.failed)


def _find_duplicates(run: Run, engine: Engine) -> tuple[str, Mapping[str, str]]:
    """A hash of what the labels of duplicates depend on, and the units that failed; nothing if none are looked for."""
    if not run.recipe.labels.measured("dup"):
        return "", {}
    if run.request["labels"]["dup"] != VERSIONS["dup"]:
        advice = f"renew them with `tilth curate label {run.folder.url} --family dup`"
        raise UsageError(f"{run.folder.url}: duplicates were looked for by another version; {advice}")
    from .dedup.passes import find_duplicates  # numba and scipy are slow to import

    return find_duplicates(run, engine, LIGHT)


def _write_corpus(run: Run, engine: Engine, kept: dict[str, int], judged: str, light: bool) -> Outcome:
    """The corpus of the decisions `judged`, given the bytes kept of each unit; without any decisions, no corpus."""
    output, recipe = run.folder, run.recipe
    count = shard_count(sum(kept.values()), recipe.corpus.shard_bytes)
    parts, groups = (shards(count), deals(kept)) if judged else ([], [])
    depends = _hash(judged, recipe.clean, count)
    writer = partial(CorpusWorker, run, recipe, [group.key for group in groups], count)
    ledger = Ledger(output, "corpus")
    ledger.serve(depends)
    if {part.key for part in parts} - ledger.reconcile(["corpus"]).keys():
        dealer = partial(DealWorker, run, count)
        dealt = engine.run("deal", groups, dealer, output, [DEALT], light=light, depends_on=depends)
        if dealt.failed:
            return Outcome({}, dealt.failed)
    written = engine.run("corpus", parts, writer, output, ["corpus"], light=light, depends_on=depends)
    if not written.failed:
        Ledger(output, "deal").forget()
        output.delete(DEALT)  # and what a run left that was killed while it forgot
    return written


def audit(output: Folder, documents: int, work: WorkOptions, progress: Progress) -> Result:
    """Measures what the search for near-duplicates found and missed, and writes the report with it."""
    Run(output)  # what is no run is told before anything is written there
    from .dedup.audit import audit_duplicates  # numba and scipy are slow to import

    with Engine(work, progress) as engine, output.lock():
        run = Run(output)
        light = sum(record["counts"]["documents"] for record in run.documents.values()) < LIGHT
        figures, failed = audit_duplicates(run, engine, documents, light)
        if not failed:
            report(run, {name: Ledger(run.folder, name).records() for name in ("read", "decide", "corpus")})
        return Result(figures, dict(failed))


def rewrite_report(output: Folder) -> None:
    """The report of a finished run, from what its ledger says."""
    with output.lock():
        run = Run(output)
        report(run, {name: Ledger(run.folder, name).records() for name in ("read", "decide", "corpus")})


def report(run: Run, passes: dict[str, dict[str, Record]]) -> dict[str, Any]:
    """Writes stats.json and report.html; they hold no clock, so equal runs write equal files."""
    counts = {name: [record["counts"] for record in records.values()] for name, records in passes.items()}
    stats = collect(run, counts, run.request["inputs"]["names"])
    run.folder.write("stats.json", orjson.dumps(stats, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")
    run.folder.write("report.html", render_report(stats, samples(run)).encode())
    return stats


def _request(recipe: CurateRecipe, units: Sequence[InputUnit]) -> dict[str, Any]:
    """What makes two runs the same: recipe, lists and models, versions of the labels, the inputs by name and size."""
    names = sorted({unit.name.split("/")[0] for unit in units})
    inputs = [(unit.key, unit.name, unit.kind, unit.start, unit.end, unit.size) for unit in units]
    return {
        "recipe": recipe.model_dump(mode="json", by_alias=True),
        "resources": resources(recipe.labels),
        "labels": VERSIONS,
        "inputs": {"names": names, "units": len(units), "fingerprint": _hash(inputs)},
    }


def _rules(recipe: CurateRecipe) -> Any:
    """What decisions depend on; the cleaning is part of it, since rules may look at what is left after it."""
    return recipe.model_dump(mode="json", include={"rules", "clean"})


def _hash(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
