"""What a run came to: figures that add up over units, and samples to look at."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tilth.ledger import Ledger, total
from tilth.rundir import version

from .clean import REPEATED
from .decide import bins
from .dedup.options import COPY_LABELS, PASSAGE_LABELS, URL_LABELS
from .recipe import CurateRecipe, label_types
from .rules import Rule, shown
from .run import Run

SAMPLES = 10  # of what is kept, of what each rule dropped, of each reason of failure
EXCERPT = 600  # characters of a sample's text
LANGUAGES = DOMAINS = 30
CLUSTERS = 10  # the largest
KINDS = {  # what a rule on a label drops: counted of all documents under that name, by the pass that finds duplicates
    "exact": ("copies", {"dup.copy_of"}),
    "url": ("url", {*URL_LABELS}),
    "near": ("near", {*COPY_LABELS} - {"dup.copy_of"}),
    "passages": ("repeated", {*PASSAGE_LABELS}),
}
AUDIT = "dedup/audit.json"


def collect(run: Run, passes: Mapping[str, Iterable[Mapping[str, Any]]], inputs: list[str]) -> dict[str, Any]:
    """The figures of stats.json from the counts of the passes `read`, `decide` and `corpus`."""
    read, decide, corpus = (total(passes.get(name, ())) for name in ("read", "decide", "corpus"))
    rules = run.recipe.rules
    totals = {
        "records": read.get("records", 0),
        "record_bytes": read.get("record_bytes", 0),
        "failures": read.get("records", 0) - read.get("documents", 0),
        "documents": read.get("documents", 0),
        "document_bytes": read.get("document_bytes", 0),
        "kept": decide.get("kept", 0),
        "kept_bytes": decide.get("kept_bytes", 0),
        "emptied": corpus.get("emptied", 0),  # kept, but cleaning left no text of them: not in the corpus
        "corpus_bytes": corpus.get("bytes", decide.get("kept_bytes", 0)),  # the kept text, where no corpus was written
    }
    nothing = dict.fromkeys(("decided", "decided_bytes", "would_drop", "alone"), 0)
    judged = decide.get("rules", {})
    per_rule = [{"rule": name, **_rule(rule), **judged.get(name, nothing)} for name, rule in rules.items()]
    return {
        "tilth": version(),
        "recipe": run.name,
        "missing_units": run.missing,
        "inputs": inputs,
        "totals": totals,
        "failures": _failures(run, read.get("failures", {})),
        "rules": per_rule,
        "funnel": _funnel(totals, read.get("failures", {}), per_rule),
        "lines": [
            {"rule": rule, "lines": lines, "documents": corpus["touched"][rule]}
            for rule, lines in sorted(corpus.get("lines", {}).items(), key=lambda item: (-item[1], item[0]))
        ],
        "duplicates": _duplicates(run, per_rule, corpus) if decide else None,
        "histograms": _histograms(run.recipe, decide.get("histograms", {})),
        "languages": _languages(decide.get("languages", {})),
        "domains": _domains(run),
    }


def samples(run: Run) -> dict[str, Any]:
    """Documents to look at: ids are hashes, so the smallest ids are a random draw, and the same one every time."""
    kept: list[dict[str, Any]] = []
    clusters: list[dict[str, Any]] = []
    dropped: dict[str, list[dict[str, Any]]] = {rule: [] for rule in run.recipe.rules}
    decisions = run.dataset("decisions")
    if decisions is not None:
        picked = _query(
            decisions,
            """
            SELECT * FROM data
            QUALIFY row_number() OVER (PARTITION BY coalesce(rule, '') ORDER BY id) <= ? ORDER BY id
            """,
            [SAMPLES],
        ).to_pylist()
        texts = _documents(run, [row["id"] for row in picked])
        for row in picked:
            sample = _sample(row, texts[row["id"]])
            (kept if row["kept"] else dropped[row["rule"]]).append(sample)
        clusters = _clusters(run)
    failed: dict[str, list[dict[str, Any]]] = {}
    failures = run.dataset("failures")
    if failures is not None:
        rows = _query(
            failures,
            """
            SELECT stage, reason, url, path, "offset", detail FROM data
            QUALIFY row_number() OVER (PARTITION BY stage, reason ORDER BY id) <= ? ORDER BY stage, reason, id
            """,
            [SAMPLES],
        ).to_pylist()
        for row in rows:
            failed.setdefault(row["reason"], []).append(row)
    dropped = {rule: found for rule, found in dropped.items() if found}
    return {"kept": kept, "dropped": dropped, "failed": failed, "clusters": clusters}


def _rule(rule: Rule) -> dict[str, Any]:
    return {"label": rule.label, "test": rule.test(), "source": rule.source}


def _failures(run: Run, reasons: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    failures = run.dataset("failures")
    examples: dict[str, str] = {}
    if failures is not None:
        query = (
            "SELECT stage || ':' || reason AS name, min_by(coalesce(url, path), id) AS example FROM data GROUP BY name"
        )
        examples = {row["name"]: row["example"] for row in _query(failures, query, []).to_pylist()}
    rows = []
    for name, counts in sorted(reasons.items(), key=lambda item: (-item[1]["records"], item[0])):
        stage, _, reason = name.partition(":")
        rows.append({"stage": stage, "reason": reason, "example": examples.get(name, ""), **counts})
    return rows


def _funnel(
    totals: Mapping[str, int], failures: Mapping[str, Mapping[str, int]], rules: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What is left after each step. Bytes are those of the records as read, from the documents on those of the text."""
    left, size = totals["records"], totals["record_bytes"]
    steps = [_step("records read", "start", left, size, 0, 0, "html")]
    for stage, name in (
        ("read", "unreadable"),
        ("gate", "stopped at the gates"),
        ("decode", "not text"),
        ("extract", "not extracted"),
        ("label", "not labelled"),
    ):
        lost = [counts for reason, counts in failures.items() if reason.startswith(f"{stage}:")]
        if lost:
            removed, gone = sum(one["records"] for one in lost), sum(one["bytes"] for one in lost)
            left, size = left - removed, size - gone
            steps.append(_step(name, "failures", left, size, removed, gone, "html"))
    left, size = totals["documents"], totals["document_bytes"]
    steps.append(_step("documents", "start", left, size, 0, 0, "text"))
    for rule in rules:
        removed, gone = rule["decided"], rule["decided_bytes"]
        left, size = left - removed, size - gone
        steps.append(_step(rule["rule"], "rule", left, size, removed, gone, "text"))
    removed, gone = totals["emptied"], size - totals["corpus_bytes"]
    if gone:
        left, size = left - removed, totals["corpus_bytes"]
        steps.append(_step("lines cleaned", "cleaning", left, size, removed, gone, "text"))
    return steps


def _step(step: str, kind: str, documents: int, size: int, removed: int, gone: int, unit: str) -> dict[str, Any]:
    return {
        "step": step,
        "kind": kind,
        "documents": documents,
        "bytes": size,
        "removed": removed,
        "removed_bytes": gone,
        "unit": unit,
    }


def audit_basis(run: Run) -> str:
    """Hash of what an audit of the duplicates speaks of: their labels, and what makes two texts alike."""
    labels = [
        (key, [file["sha256"] for file in record["files"]])
        for key, record in Ledger(run.folder, "dedup-duplicates").records().items()
    ]
    options = run.recipe.labels.minhash
    basis = (labels, run.recipe.dedup.verify, options.unit, options.ngram)
    return hashlib.sha256(repr(basis).encode()).hexdigest()


def _duplicates(run: Run, rules: list[dict[str, Any]], corpus: Mapping[str, Any]) -> dict[str, Any] | None:
    """What each kind of duplicate came to; None where none were looked for."""
    if not run.recipe.labels.measured("dup"):
        return None
    found = total(
        _counts(run, "dedup-duplicates", ("documents", "copies", "near", "url", "repeated", "repeated_chars"))
    )
    sizes = total(one["sizes"] for one in _counts(run, "dedup-chosen", ["sizes"]))
    kinds = []
    for kind, (count, labels) in KINDS.items():
        own = [rule for rule in rules if rule["label"] in labels]
        removed = {name: sum(rule[name] for rule in own) for name in ("decided", "decided_bytes")}
        kinds.append(
            {"kind": kind, "rules": [rule["rule"] for rule in own], "labelled": found.get(count, 0), **removed}
        )
    return {
        "kinds": kinds,
        "repeated_chars": found.get("repeated_chars", 0),
        "cut": {
            "passages": corpus.get("lines", {}).get(REPEATED, 0),
            "documents": corpus.get("touched", {}).get(REPEATED, 0),
        },
        "sizes": [
            {"least": int(least), **counts} for least, counts in sorted(sizes.items(), key=lambda item: int(item[0]))
        ],
        "largest": [{key: one[key] for key in ("cluster", "size", "standing")} for one in _largest(run)],
        "verify": run.recipe.dedup.verify,
        "audit": _audit(run),
    }


def _counts(run: Run, name: str, keys: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Some counts of each unit of a pass."""
    for record in Ledger(run.folder, name).records().values():
        yield {key: record["counts"][key] for key in keys}


def _audit(run: Run) -> dict[str, Any] | None:
    """The figures of `tilth curate audit`; None where there are none, or they speak of other duplicates."""
    if not run.folder.exists(AUDIT):
        return None
    try:
        figures = orjson.loads(run.folder.read(AUDIT))
    except ValueError:
        return None
    return figures if figures.pop("basis") == audit_basis(run) else None


def _largest(run: Run) -> list[dict[str, Any]]:
    """The largest clusters; each part of the run tells its own."""
    if not run.recipe.labels.measured("dup"):
        return []
    found = [one for counts in _counts(run, "dedup-chosen", ["largest"]) for one in counts["largest"]]
    ranked = sorted(found, key=lambda one: (-one["size"], one["cluster"]))
    return ranked[:CLUSTERS]


def _clusters(run: Run) -> list[dict[str, Any]]:
    """Samples of the largest clusters: the document that stands for most of the others, and the two least like it."""
    return [
        {key: one[key] for key in ("cluster", "size", "lead", "standing")}
        | {"members": [_member(run, member) for member in one["members"]]}
        for one in _largest(run)
    ]


def _member(run: Run, member: Mapping[str, Any]) -> dict[str, Any]:
    unit, row = member["unit"], member["row"]
    document = run.document(unit, row, ["id", "url", "title", "text"])
    with run.opened(f"decisions/{unit}.parquet") as file:
        decision = pq.read_table(file).slice(row, 1).to_pylist()[0]
    return _sample(decision, document) | {"similarity": member["similarity"]}


def _histograms(recipe: CurateRecipe, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How the documents that each rule speaks of lie on its label."""
    types = label_types()
    rows = []
    for name, rule in recipe.rules.items():
        if name not in found:
            continue
        edges = bins(rule, types[rule.label])
        row = {"label": rule.label, "rule": name, "min": rule.min, "max": rule.max}
        row["scale"] = "log" if pa.types.is_integer(types[rule.label]) else "linear"
        row["edges"] = [round(float(edge), 6) for edge in edges]
        for side in ("kept", "dropped"):
            row[side] = [found[name].get(side, {}).get(str(place), 0) for place in range(len(edges) - 1)]
        rows.append(row)
    return rows


def _languages(found: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    ranked = sorted(found.items(), key=lambda item: (-item[1]["documents"], item[0]))
    rows = [{"code": code, **counts} for code, counts in ranked[:LANGUAGES]]
    if len(ranked) > LANGUAGES:
        rows.append({"code": "other", **total(counts for _, counts in ranked[LANGUAGES:])})
    return rows


def _domains(run: Run) -> list[dict[str, Any]]:
    decisions = run.dataset("decisions")
    if decisions is None:
        return []
    query = """
        SELECT domain, count(*) AS documents, count(*) FILTER (kept) AS kept
        FROM data WHERE domain != '' GROUP BY domain ORDER BY documents DESC, domain LIMIT ?
    """
    return _query(decisions, query, [DOMAINS]).to_pylist()


def _documents(run: Run, ids: list[str]) -> dict[str, dict[str, Any]]:
    dataset = run.dataset("documents")
    if dataset is None or not ids:
        return {}
    columns = ["id", "url", "title", "text"]
    wanted = pc.field("id").isin(ids) & (pc.field("id") <= max(ids))  # the second half is what row groups are told by
    rows = dataset.to_table(columns=columns, filter=wanted).to_pylist()
    return {row["id"]: row for row in rows}


def _sample(decision: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("id", "language", "rule", "label", "value", "test", "also")
    text = document["text"]
    return {
        **{key: decision[key] for key in keys},
        "value": _short(decision["value"]),
        "url": document["url"],
        "title": document["title"],
        "chars": len(text),
        "text": text[:EXCERPT],
    }


def _short(value: str | None) -> str | None:
    """A decision's value with as many digits as a person reads."""
    try:
        return shown(float(value)) if value and not value.isdigit() else value
    except ValueError:
        return value


def _query(data: Any, query: str, parameters: list[Any]) -> pa.Table:
    import duckdb

    with duckdb.connect() as connection:
        connection.register("data", data)
        return connection.sql(query, params=parameters).to_arrow_table()
