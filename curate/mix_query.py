"""The parts of a mixture as DuckDB queries: what a user wrote of labels is checked, then becomes one query.

A condition is parsed first, and only an expression over one document gets through: no query, no function that tells
something else tomorrow. Files and network are out of DuckDB's reach besides.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import pyarrow as pa

from tilth.errors import RecipeError

from .mix import OTHERS, Balance, Part, Strata, near

GIVEN = ("id", "tokens", "place")  # what documents have before any label
NONE = "none"  # the value of a label that is null or empty

_SAFE: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "lock_configuration": True,
}
_ELSEWHERE = ("SUBQUERY", "WINDOW", "STAR", "PARAMETER", "DEFAULT")  # expressions over more than one document
_CLAUSES = ("where_clause", "group_expressions", "having", "qualify", "sample", "modifiers")
_NUMBERS = ("DOUBLE", "FLOAT", "DECIMAL", "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")


@contextmanager
def connected() -> Iterator[Any]:
    """A DuckDB in memory that reaches no file, no network and no variable of ours."""
    import duckdb

    with duckdb.connect(config=_SAFE) as connection:
        yield connection


@contextmanager
def told(where: str) -> Iterator[None]:
    """A mistake that DuckDB finds as a RecipeError in one line, without its drawing of the place."""
    import duckdb

    try:
        yield
    except (duckdb.Error, OSError) as error:  # the latter from what streams a result
        text = str(error).split("\n\nLINE ")[0].split(": ", 1)[-1]
        raise RecipeError(f"{where}: {'; '.join(line for line in text.splitlines() if line)}") from error


def quoted(label: str) -> str:
    """A label as SQL names it: family and measure."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in label.split("."))


def columns(parts: Mapping[str, Part], language: str | None, names: Sequence[str]) -> list[str]:
    """Those of the top-level columns `names` that the parts' conditions and labels look at, in their order.

    `language` is the label that stages have ratios of, if any has. Raises RecipeError for a condition that is none and
    for a label that is not there.
    """
    with connected() as connection:
        return columns_in(connection, parts, language, names)


def columns_in(connection: Any, parts: Mapping[str, Part], language: str | None, names: Sequence[str]) -> list[str]:
    """`columns`, where DuckDB is at hand."""
    known = {name.lower(): name for name in names}
    asked = set()
    for where, refs in _references(connection, parts, language):
        for ref in refs:
            if ref.lower() not in known:
                raise RecipeError(f"{where}: there is no label {ref}{near(ref, names)}")
            asked.add(known[ref.lower()])
    return [name for name in names if name in asked]


def check_types(connection: Any, parts: Mapping[str, Part], language: str | None, schema: pa.Schema) -> None:
    """Raises RecipeError for a condition that is not true or false, and for a label that is not there or not a number
    where it has to be one. `schema` has all columns that `columns` tells."""
    connection.register("unlabelled", pa.table([pa.nulls(1, field.type) for field in schema], names=schema.names))

    def kind(where: str, expression: str) -> str:
        with told(where):
            found = connection.sql(f"SELECT {expression} FROM unlabelled")
            found.fetchall()  # what is wrong whatever a label is fails here already
            return str(found.types[0])

    for name, part in parts.items():
        if part.where is not None and (found := kind(f"parts.{name}.where", f"({part.where}\n)")) != "BOOLEAN":
            raise RecipeError(f"parts.{name}.where: is {found}, and has to be true or false: {part.where}")
    for where, label, number in _labels(parts, language):
        found = kind(where, quoted(label))
        if number and not found.removeprefix("U").startswith(_NUMBERS):
            raise RecipeError(f"{where}: {label} is {found}, and has to be a number")
        if not number and found.startswith("STRUCT("):
            first = found.removeprefix("STRUCT(").split()[0].strip('"')
            raise RecipeError(f"{where}: {label} is a family of labels; name one of it, such as {label}.{first}")


def _references(connection: Any, parts: Mapping[str, Part], language: str | None) -> Iterator[tuple[str, list[str]]]:
    """Each place of the recipe that names labels, with the top-level columns it names."""
    for name, part in parts.items():
        if part.where is not None:
            yield f"parts.{name}.where", _columns_of(connection, f"parts.{name}.where", part.where)
    for where, label, _ in _labels(parts, language):
        yield where, [label.split(".")[0]]


def _labels(parts: Mapping[str, Part], language: str | None) -> Iterator[tuple[str, str, bool]]:
    """Labels that are named outside conditions: where, which, and whether it has to be a number."""
    for name, part in parts.items():
        yield from ((f"parts.{name}.thresholds", label, True) for label in part.thresholds)
        yield from ((f"parts.{name}.rank.by", label, True) for label in (part.rank.by if part.rank else ()))
        if part.strata:
            yield f"parts.{name}.strata.by", part.strata.by, True
        if part.balance:
            yield f"parts.{name}.balance.by", part.balance.by, False
        if part.unique:
            yield f"parts.{name}.unique", part.unique, False
    if language:
        yield "languages", language, False


def _columns_of(connection: Any, where: str, condition: str) -> list[str]:
    """The top-level columns that a condition names. Raises RecipeError for what is no expression over one document."""
    text = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT ({condition}\n)"]).fetchall()[0][0]
    parsed = orjson.loads(text)
    if parsed["error"]:
        raise RecipeError(f"{where}: {parsed['error_message']} in: {condition}")
    nodes = [statement["node"] for statement in parsed["statements"]]
    alone = len(nodes) == 1 and nodes[0]["type"] == "SELECT_NODE" and len(nodes[0]["select_list"]) == 1
    if not alone or nodes[0]["from_table"]["type"] != "EMPTY" or any(nodes[0].get(clause) for clause in _CLAUSES):
        raise RecipeError(f"{where}: is not one condition: {condition}")
    found: dict[str, None] = {}
    for node, bound in _expressions(nodes[0]["select_list"], frozenset()):
        if node["class"] in _ELSEWHERE:
            kind = node["class"].lower()
            raise RecipeError(f"{where}: a {kind} is not for a condition, which sees one document: {condition}")
        if node["class"] == "FUNCTION":
            _check_function(connection, where, node["function_name"])
        if node["class"] == "COLUMN_REF" and node["column_names"][0] not in bound:
            found[node["column_names"][0]] = None
    return list(found)


def _expressions(node: Any, bound: frozenset[str]) -> Iterator[tuple[dict[str, Any], frozenset[str]]]:
    """Every expression inside a parsed one, with the names that lambdas around it bind."""
    if isinstance(node, list):
        for one in node:
            yield from _expressions(one, bound)
    elif isinstance(node, dict):
        if node.get("class") == "LAMBDA":
            own = (inner for inner, _ in _expressions(node["lhs"], bound))
            bound |= {inner["column_names"][0] for inner in own if inner["class"] == "COLUMN_REF"}
        if "class" in node:
            yield node, bound
        for one in node.values():
            yield from _expressions(one, bound)


def _check_function(connection: Any, where: str, name: str) -> None:
    """Refuses functions over many documents, and those that tell something else at another time."""
    query = "SELECT function_type, stability FROM duckdb_functions() WHERE function_name = ?"
    kinds = connection.execute(query, [name.lower()]).fetchall()
    if kinds and all(kind == "aggregate" for kind, _ in kinds):
        raise RecipeError(f"{where}: {name} is over many documents, and a condition sees one")
    if any(stability in ("VOLATILE", "CONSISTENT_WITHIN_QUERY") for _, stability in kinds):
        raise RecipeError(f"{where}: {name} differs from one run to the next, and a mixture must not")


# The query. Columns of ours begin with #, as no label does.


def query(parts: Sequence[Part], language: str | None, languages: Sequence[str], documents: str) -> str:
    """For each document: its row, the key of its pool or of why it has none, its tokens, and what thinning needs."""
    # Conditions are columns of their own: what is around one cannot change what it means.
    conditions = "".join(f', ({part.where}\n) AS "#{i}"' for i, part in enumerate(parts) if part.where is not None)

    def by_part(expressions: Mapping[int, str], otherwise: str) -> str:
        return _case([(f'"#part" = {index}', one) for index, one in expressions.items()], otherwise)

    numbered = dict(enumerate(parts))
    thinned = {i: part for i, part in numbered.items() if part.unique or part.rank}
    ranks = {i: [_number(label) for label in part.rank.by] for i, part in thinned.items() if part.rank}
    ranked = {
        f"x{n}": by_part({i: labels[n] for i, labels in ranks.items() if n < len(labels)}, "NULL")
        for n in range(max(map(len, ranks.values()), default=0))
    }
    spoken = _among(language, languages, OTHERS) if language else "''"
    of_document = {
        "row": '"#row"',
        "known": '"#known"',
        "part": '"#part"',
        "tokens": "tokens",
        "kept": by_part({i: f"least(tokens, {one.longest})" for i, one in numbered.items() if one.longest}, "tokens"),
        "short": by_part({i: f"tokens < {one.shortest}" for i, one in numbered.items() if one.shortest}, "false"),
        "value": by_part({i: _balanced(one.balance) for i, one in numbered.items() if one.balance}, "''"),
        "stratum": by_part({i: _stratum(one.strata) for i, one in numbered.items() if one.strata}, "0"),
        "spoken": spoken,
        "id": by_part(dict.fromkeys(thinned, "id"), "NULL"),
        "same": by_part({i: _string(one.unique) for i, one in thinned.items() if one.unique}, "NULL"),
        **ranked,
    }
    return f"""
        SELECT row, known, part, tokens, kept, md5_number_lower(same) AS low,
            md5_number_upper(same) AS high{"".join(f", {rank}" for rank in ranked)},
            CASE WHEN state = 0 THEN id END AS id,
            CASE WHEN state = 0 THEN concat_ws(chr(31), state, part, stratum, spoken, value)
                ELSE concat_ws(chr(31), state, part) END AS key
        FROM (
        SELECT *, CASE WHEN part < 0 THEN 1 WHEN short THEN 2 WHEN value IS NULL THEN 3 ELSE 0 END AS state FROM (
        SELECT {", ".join(f"{expression} AS {name}" for name, expression in of_document.items())} FROM (
        SELECT *, {_case([(_meets(i, part), str(i)) for i, part in numbered.items()], "-1")} AS "#part" FROM (
        SELECT *{conditions} FROM ({documents})))))"""


def labelled(own: Sequence[str], joined: Sequence[str], join: bool) -> str:
    """The documents beside those of their labels that are asked for."""
    documents = ", ".join(f"d.{_name(name)}" for name in ["#row", *own])
    if not join:
        return f'SELECT {documents}, true AS "#known" FROM documents AS d'
    labels = "".join(f", l.{_name(name)}" for name in joined)
    return f"""SELECT {documents}, l.id IS NOT NULL AS "#known"{labels} FROM documents AS d
        LEFT JOIN (SELECT {", ".join(map(_name, ["id", *joined]))} FROM labels) AS l ON d.id = l.id"""


def _meets(index: int, part: Part) -> str:
    tests = [f'"#{index}"'] if part.where is not None else []
    tests += [f"place IN ({', '.join(map(_text, part.data))})"] if part.data else []
    for label, span in part.thresholds.items():
        tests += [f"{_number(label)} >= {span.min!r}"] if span.min is not None else []
        tests += [f"{_number(label)} <= {span.max!r}"] if span.max is not None else []
    return " AND ".join(tests) or "true"


def _balanced(balance: Balance) -> str:
    """The value that a document counts as; null for one that no share is told for."""
    if balance.to == "even":
        return _value(balance.by)
    named = [value for value in balance.to if value != OTHERS]
    return _among(balance.by, named, OTHERS if OTHERS in balance.to else None)


def _stratum(strata: Strata) -> str:
    bounds = reversed(list(enumerate(strata.bounds, 1)))
    return _case([(f"{_number(strata.by)} >= {bound!r}", str(index)) for index, bound in bounds], "0")


def _among(label: str, values: Sequence[str], others: str | None) -> str:
    otherwise = "NULL" if others is None else _text(others)
    test = f"{_value(label)} IN ({', '.join(map(_text, values))})"
    return _case([(test, _value(label))] if values else [], otherwise)


def _case(cases: Sequence[tuple[str, str]], otherwise: str) -> str:
    told = " ".join(f"WHEN {test} THEN {expression}" for test, expression in cases)
    return f"CASE {told} ELSE {otherwise} END" if cases else otherwise


def _number(label: str) -> str:
    """As a double; NaN, which DuckDB takes for the greatest of numbers, as null."""
    return f"nullif(CAST({quoted(label)} AS DOUBLE), CAST('nan' AS DOUBLE))"


def _string(label: str | None) -> str:
    return f"nullif(CAST({quoted(label or '')} AS VARCHAR), '')"


def _value(label: str) -> str:
    return f"coalesce({_string(label)}, {_text(NONE)})"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'
