"""One document's story: each rule against its label, what was removed from the text, what decided."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from collections.abc import Iterator
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tilth.errors import InputError, TilthError
from tilth.ledger import Ledger
from tilth.storage import Folder

from .clean import REPEATED, clean
from .decide import DecideWorker
from .dedup.options import SPANS, STANDING
from .rules import Rule, judge, shown
from .run import Run

MOST = 20  # stories told when many documents match
MEMBERS = 5  # documents named of those that one stands for
STORY = ["id", "url", "title", "source", "path", "offset", "text", "lines", "length", "lang"]
DUPLICATE = ["similarity", "cluster", "size", *(f"{kind}_{of}" for kind in STANDING for of in ("of", "run"))]


def stories(run: Run, wanted: str) -> list[dict[str, Any]]:
    """The stories of the documents and failures with that id, an id that begins so (8 digits or more), or that URL.

    Raises InputError where the run knows none.
    """
    found = [*_documents(run, wanted), *_failures(run, wanted)]
    if not found:
        raise InputError(f"{run.folder.url}: no document or failure with the id or URL {wanted}")
    return found[:MOST]


def told(story: dict[str, Any]) -> str:
    """A story as text for a terminal."""
    lines = [f"{story['fate'].upper()}  {story['id']}", f"  {story['url'] or 'no URL'}", f"  {story['from']}"]
    if story["fate"] == "failed":
        return "\n".join([*lines, f"  {story['stage']}: {story['reason']} ({story['detail']})"])
    measures = [story["language"], None if story["words"] is None else f"{story['words']} words"]
    measured = ", ".join([*filter(None, measures), f"{story['chars']} characters"])
    lines.append(f"  {story['title'] or 'no title'}; {measured}")
    if story["fate"] == "dropped":
        lines.append(
            f"  dropped by {story['rule']}: {story['label']} is {story['value']}, and has to be {story['test']}"
        )
    lines += [f"  {line}" for line in _of_duplicates(story["duplicates"])]
    lines.append("")
    marks = {True: "pass", False: "FAIL", None: "n/a"}
    width = max((len(rule["rule"]) for rule in story["rules"]), default=0)
    lines += [
        f"  {marks[rule['passes']]:<5}{rule['rule']:<{width}}  {rule['value']:<11} {rule['test']}"
        for rule in story["rules"]
    ]
    for rule, count in story["removed"].items():
        what, done = ("passage", "cut") if rule == REPEATED else ("line", "removed or edited")
        lines.append(f"  {rule}: {count} {what if count == 1 else f'{what}s'} {done}")
    lines += [f"    - {line}" for line in story["removed_lines"]]
    if story["emptied"]:
        lines.append("  cleaning left nothing of its text, so it is not in the corpus")
    return "\n".join(lines)


def _of_duplicates(found: dict[str, Any] | None) -> Iterator[str]:
    """What is known of a document's duplicates, in lines."""
    if not found:
        return
    similar = "the same text as" if found["equal"] else f"similarity {found['similarity'] or 0:.4g} to"
    for name, alike in (("near_of", similar), ("url_of", "the same URL as")):
        if found[name]:
            of = found[name]
            fate = {True: "kept", False: f"dropped by {of['rule']}", None: "no longer to be found"}[of["kept"]]
            yield f"{alike} {of['id']} ({of['url'] or 'no URL'}), which is {fate}{of['where']}"
    if found["size"] > 1:
        yield f"one of a cluster of {found['size']} documents"
    if found["stands_for"]:
        named = ", ".join(one["url"] or one["id"] for one in found["members"])
        more = f" and {found['stands_for'] - len(found['members'])} more"
        yield f"stands for {found['stands_for']} of them: {named}{more if found['stands_for'] > MEMBERS else ''}"


def _documents(run: Run, wanted: str) -> Iterator[dict[str, Any]]:
    dataset = run.dataset("documents")
    if dataset is None:
        return
    if run.recipe.labels.measured("dup") and not Ledger(run.folder, "dedup-duplicates").records():
        raise InputError(f"{run.folder.url}: its duplicates are not found yet; first finish `tilth curate run`")
    matches = dataset.to_table(columns=["id", "__filename"], filter=_matching(wanted)).to_pylist()
    worker = DecideWorker(run, run.recipe)
    for match in matches[:MOST]:
        key = _unit(match["__filename"])
        columns = worker.columns(key)
        row = columns["id"].to_pylist().index(match["id"])
        one = {name: column.slice(row, 1) for name, column in columns.items()}
        document = run.table(key, [*STORY, *([SPANS] if run.recipe.cuts_repeated else [])]).slice(row, 1).to_pylist()[0]
        found = _duplicates(run, key, row, document["id"]) if run.recipe.labels.measured("dup") else None
        yield _story(run, document, one) | {"duplicates": found}


def _story(run: Run, document: dict[str, Any], columns: dict[str, Any]) -> dict[str, Any]:
    rules = run.recipe.rules
    verdict = judge(columns, rules, 1)
    first = int(verdict.first[0])
    name = list(rules)[first] if first >= 0 else None
    decided = (
        {"rule": name, "label": rules[name].label, "value": verdict.value[0], "test": rules[name].test()}
        if name
        else {}
    )
    text, spans = document["text"], document.get(SPANS) or []
    flags = document["lines"]["flags"] if document["lines"] else [0] * (text.count("\n") + 1)
    left, removed = clean(text, flags, run.recipe.line_rules, list(zip(spans[::2], spans[1::2], strict=True)))
    remaining = left.split("\n")
    language = document["lang"]
    return {
        "fate": "dropped" if name else "kept",
        **decided,
        "id": document["id"],
        "url": document["url"],
        "title": document["title"],
        "from": f"{document['source']} {document['path']} at {document['offset']}",
        "language": f"{language['code']} ({language['score']:.2f})" if language else None,
        "words": document["length"]["words"],
        "chars": document["length"]["chars"],
        "rules": [_against(one, rule, columns) for one, rule in rules.items()],
        "removed": removed,
        "emptied": name is None and not left.strip(),
        "removed_lines": [line for line in text.split("\n") if line.strip() and line not in remaining][:10],
    }


def _duplicates(run: Run, key: str, row: int, own: str) -> dict[str, Any]:
    """The document that stands for this one, or those that this one stands for."""
    labels = run.duplicates(key, DUPLICATE).slice(row, 1).to_pylist()[0]
    members, count = [], 0
    if not labels["near_of"] and labels["size"] > 1:
        dataset = run.dataset("dedup/labels")
        assert dataset is not None, "this document has labels of duplicates"
        stood_for = (pc.field("near_of") == own) & (pc.field("near_run") == 0)
        ids = dataset.to_table(columns=["id"], filter=stood_for)["id"].sort().to_pylist()
        count, members = len(ids), _located(run, ids[:MEMBERS])
    named = {kind: (labels[f"{kind}_run"], labels[f"{kind}_of"]) for kind in STANDING}
    return {
        **{name: labels[name] for name in ("similarity", "cluster", "size")},
        **{f"{kind}_of": _representative(run, *named[kind]) for kind in ("near", "url")},
        "equal": labels["copy_of"] != "" and named["copy"] == named["near"],
        "stands_for": count,
        "members": members,
    }


def _representative(run: Run, place: int, wanted: str) -> dict[str, Any] | None:
    """Who stands for a document, and what became of it: of this run (place 0), or of the earlier one of that place."""
    if not wanted:
        return None
    where = ""
    try:
        if place:
            url = run.recipe.dedup.against[place - 1]
            run, where = Run(Folder(url)), f" (in {url})"
        for found in _located(run, [wanted]):
            return found | {"where": where}
    except TilthError:  # an earlier run may be gone; what it said stays
        pass
    return {"id": wanted, "url": None, "kept": None, "rule": None, "where": where}


def _located(run: Run, ids: list[str]) -> list[dict[str, Any]]:
    """Documents of a run with their URLs, and which rule dropped them."""
    dataset = run.dataset("documents")
    if dataset is None or not ids:
        return []
    rows = dataset.to_table(columns=["id", "url", "__filename"], filter=pc.field("id").isin(ids)).to_pylist()
    found = []
    for row in sorted(rows, key=lambda row: row["id"]):
        with run.opened(f"decisions/{_unit(row['__filename'])}.parquet") as file:
            told = pq.read_table(file, columns=["kept", "rule"], filters=[("id", "=", row["id"])]).to_pylist()[0]
        found.append({"id": row["id"], "url": row["url"], **told})
    return found


def _unit(name: str) -> str:
    return name.rsplit("/", 1)[-1].removesuffix(".parquet")


def _against(name: str, rule: Rule, columns: dict[str, Any]) -> dict[str, Any]:
    """One rule against the document's label; passes is None where the rule does not speak of such documents."""
    applies = rule.applies(columns)[0]
    return {
        "rule": name,
        "label": rule.label,
        "value": shown(columns[rule.label][0].as_py()),
        "test": rule.test(),
        "passes": bool(not rule.failed(columns)[0]) if applies else None,
    }


def _failures(run: Run, wanted: str) -> Iterator[dict[str, Any]]:
    dataset = run.dataset("failures")
    if dataset is None:
        return
    for row in dataset.to_table(filter=_matching(wanted)).to_pylist()[:MOST]:
        origin = f"{row['source']} {row['path']} at {row['offset']}"
        yield {"fate": "failed", **row, "from": origin}


def _matching(wanted: str) -> ds.Expression:
    expression = (pc.field("id") == wanted) | (pc.field("url") == wanted)
    if len(wanted) >= 8:
        expression |= pc.starts_with(pc.field("id"), wanted)
    return expression
