"""One document's story: each rule against its label, what was removed from the text, what decided."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from collections.abc import Iterator
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds

from tilth.errors import InputError

from .clean import clean
from .decide import DecideWorker
from .rules import Rule, judge, shown
from .run import Run

MOST = 20  # stories told when many documents match
STORY = ["id", "url", "title", "source", "path", "offset", "text", "lines", "length", "lang"]


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
    lines.append(
        f"  {story['title'] or 'no title'}; {story['language']}, {story['words']} words, {story['chars']} characters"
    )
    if story["fate"] == "dropped":
        lines.append(
            f"  dropped by {story['rule']}: {story['label']} is {story['value']}, and has to be {story['test']}"
        )
    lines.append("")
    marks = {True: "pass", False: "FAIL", None: "n/a"}
    width = max((len(rule["rule"]) for rule in story["rules"]), default=0)
    lines += [
        f"  {marks[rule['passes']]:<5}{rule['rule']:<{width}}  {rule['value']:<12}{rule['test']}"
        for rule in story["rules"]
    ]
    for rule, count in story["removed"].items():
        lines.append(f"  {rule}: {count} {'line' if count == 1 else 'lines'} removed or edited")
    lines += [f"    - {line}" for line in story["removed_lines"]]
    return "\n".join(lines)


def _documents(run: Run, wanted: str) -> Iterator[dict[str, Any]]:
    dataset = run.dataset("documents")
    if dataset is None:
        return
    matches = dataset.to_table(columns=["id", "__filename"], filter=_matching(wanted)).to_pylist()
    worker = DecideWorker(run, run.recipe)
    for match in matches[:MOST]:
        key = match["__filename"].rsplit("/", 1)[-1].removesuffix(".parquet")
        columns = worker.columns(key)
        row = columns["id"].to_pylist().index(match["id"])
        one = {name: column.slice(row, 1) for name, column in columns.items()}
        document = run.table(key, STORY).slice(row, 1).to_pylist()[0]
        yield _story(run, document, one)


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
    left, removed = clean(document["text"], document["lines"]["flags"], run.recipe.clean)
    remaining = left.split("\n")
    return {
        "fate": "dropped" if name else "kept",
        **decided,
        "id": document["id"],
        "url": document["url"],
        "title": document["title"],
        "from": f"{document['source']} {document['path']} at {document['offset']}",
        "language": f"{document['lang']['code']} ({document['lang']['score']:.2f})",
        "words": document["length"]["words"],
        "chars": document["length"]["chars"],
        "rules": [_against(one, rule, columns) for one, rule in rules.items()],
        "removed": removed,
        "removed_lines": [line for line in document["text"].split("\n") if line.strip() and line not in remaining][:10],
    }


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
