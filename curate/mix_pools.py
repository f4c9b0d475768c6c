"""Which documents are in which pool of a mixture: its parts become one query over whole columns (DuckDB).

The query reads the documents once, in batches. What stays in memory is two bytes a document, and for parts that are
ranked or freed of duplicates the ids and labels that this takes; labels that come from elsewhere are joined in memory.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tilth.errors import InputError, RecipeError

from .mix import OTHERS, Part, Pool
from .mix_query import GIVEN, check_types, columns_in, connected, labelled, query, told
from .mix_thin import copies, worst

MOST = 2000  # pools; a label with more values tells documents, not kinds of them
BATCH = 1 << 17
_REASONS = ("", "no part", "shorter", "no share")  # by the state that the query tells; the first is of pools
_BETWEEN = "\x1f"  # the parts of a key


class Left(NamedTuple):
    """Documents of a part that are not in its pools; for `longer`, that are there cut."""

    part: str | None  # None where no part takes them
    reason: str  # no part, shorter, no share, unique, rank, longer
    documents: int
    tokens: int  # that are not read


class Selection(NamedTuple):
    """Which pool each document is in."""

    pools: list[Pool]
    assigned: np.ndarray  # int16[rows]: index of the document's pool, or -1
    left: list[Left]
    unlabelled: int  # documents that `labels` does not know


def select(
    documents: pa.RecordBatchReader | pa.Table,
    parts: Mapping[str, Part],
    languages: Sequence[str] = (),
    language: str = "lang.code",
    labels: Any = None,
) -> Selection:
    """Finds the part, and the pool in it, of each document.

    `documents` has the columns id (string), tokens (int64) and place (string), and labels, a struct column for each
    family; or the labels come by id from `labels` (a pyarrow dataset or table), and a document that is not there
    has none of them. Where a stage has a ratio of `languages`, every part splits by `language` into these and others.

    The same documents get the same pools in whatever order they come, as long as their ids differ.
    Raises RecipeError for a condition or a label that cannot be, InputError for an id that is twice in `labels`.
    """
    split = language if languages else None
    for name in parts:
        if not name or "/" in name:
            raise RecipeError(f"parts: {name!r} is no name for a part: it is empty or has a /")
    own = documents.schema
    fields = [*own, *(field for field in (labels.schema if labels is not None else ()) if field.name not in own.names)]
    scan = _Scan()
    with connected() as connection:
        asked = columns_in(connection, parts, split, [field.name for field in fields])
        needed = pa.schema([field for field in fields if field.name in (*GIVEN, *asked)])
        check_types(connection, parts, split, needed)
        source = _Source(documents, asked)
        joined = [name for name in asked if name not in own.names]
        connection.register("documents", source.reader)
        if labels is not None:
            connection.register("labels", labels)
        text = query(list(parts.values()), split, languages, labelled(source.names, joined, labels is not None))
        try:
            with told("parts: a condition cannot be worked out"):
                for batch in connection.sql(text).to_arrow_reader(BATCH):
                    scan.take(batch)
        except RecipeError as error:
            raise (source.broken or error) from None
        if scan.rows != source.rows:
            raise InputError(f"labels: {scan.rows - source.rows} ids are there twice; a document has one set of labels")
    for index, (name, part) in enumerate(parts.items()):
        scan.thin(index, name, part)
    return scan.selection(parts, languages)


class _Source:
    """The documents with their row numbers, read once; only the columns that are asked for."""

    def __init__(self, documents: pa.RecordBatchReader | pa.Table, asked: Sequence[str]):
        self.names = [name for name in documents.schema.names if name in (*GIVEN, *asked)]
        schema = pa.schema([pa.field("#row", pa.int64()), *(documents.schema.field(name) for name in self.names)])
        self.rows = 0
        self.broken: Exception | None = None
        batches = documents.to_batches() if isinstance(documents, pa.Table) else documents
        self.reader = pa.RecordBatchReader.from_batches(schema, self._numbered(batches, schema))

    def _numbered(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        try:
            for batch in batches:
                rows = pa.array(np.arange(self.rows, self.rows + len(batch)))
                self.rows += len(batch)
                yield pa.record_batch([rows, *(batch[name] for name in self.names)], schema=schema)
        except Exception as error:  # DuckDB would tell it as a fault of its own
            self.broken = error
            raise


class _Kind(NamedTuple):
    """What tells a pool from the others of its part; empty where the part does not split so."""

    value: str
    stratum: int
    language: str


class _Scan:
    """What the query tells, taken batch by batch: the key of each document, and counts by key.

    A key is state, part, stratum, language and value: of a pool, or of documents that are left out alike.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._unlabelled = 0
        self._keys: dict[str, int] = {}
        self._key_of = np.zeros(0, np.int16)  # by row; with room for more rows than there are
        self._counts = np.zeros((MOST, 4), np.int64)  # by key, see `_counted`
        self._thinned: dict[int, list[pa.Table]] = {}  # by part
        self._left: list[Left] = []

    def take(self, batch: pa.RecordBatch) -> None:
        encoded = batch["key"].dictionary_encode()
        keys = [self._keys.setdefault(key, len(self._keys)) for key in encoded.dictionary.to_pylist()]
        if len(self._keys) > MOST:
            raise RecipeError(
                f"parts: they split into more than {MOST:,} pools; balance by a label with fewer values, or tell the "
                f"shares of some and of '{OTHERS}'"
            )
        key_of = np.array(keys, np.int16)[encoded.indices.to_numpy()]
        rows = batch["row"].to_numpy()
        room, needed = len(self._key_of), int(rows.max(initial=-1)) + 1
        if needed > room:
            self._key_of = np.concatenate([self._key_of, np.empty(max(needed - room, room // 2), np.int16)])
        self._key_of[rows] = key_of
        self.rows += len(rows)
        self._unlabelled += len(rows) - batch["known"].true_count
        self._counts += _counted(key_of, batch["tokens"].to_numpy(), batch["kept"].to_numpy())
        thinned = pa.Table.from_batches([batch.filter(pc.is_valid(batch["id"]))]).drop_columns(["known", "key"])
        for part in pc.unique(thinned["part"]).to_pylist():
            self._thinned.setdefault(part, []).append(thinned.filter(pc.equal(thinned["part"], part)))

    def thin(self, index: int, name: str, part: Part) -> None:
        """Drops copies, then the worst, of a part that is to be without."""
        if index not in self._thinned:
            return
        documents = pa.concat_tables(self._thinned.pop(index))
        if part.unique:
            documents = self._without(documents, copies(documents), name, "unique")
        if part.rank:
            self._without(documents, worst(documents, part.rank), name, "rank")

    def _without(self, documents: pa.Table, dropped: np.ndarray, part: str, reason: str) -> pa.Table:
        gone = documents.select(["row", "tokens", "kept"]).filter(pa.array(dropped))
        rows, tokens, kept = (column.to_numpy() for column in gone.columns)
        self._counts -= _counted(self._key_of[rows], tokens, kept)
        self._key_of[rows] = -1
        self._left.append(Left(part, reason, len(rows), int(tokens.sum())))
        return documents.filter(pa.array(~dropped))

    def selection(self, parts: Mapping[str, Part], languages: Sequence[str]) -> Selection:
        pools: list[Pool] = []
        pool_of = np.full(len(self._keys) + 1, -1, np.int16)  # by key; the last is for what was dropped
        found: dict[int, dict[_Kind, int]] = {index: {} for index in range(len(parts))}
        left = list(self._left)
        for text, key in self._keys.items():
            state, part, *kind = text.split(_BETWEEN, 4)
            if state == "0":
                found[int(part)][_Kind(kind[2], int(kind[0]), kind[1])] = key
            else:
                name = None if part == "-1" else list(parts)[int(part)]
                documents, tokens = self._counts[key, :2].tolist()
                left.append(Left(name, _REASONS[int(state)], documents, tokens))
        for index, (name, part) in enumerate(parts.items()):
            counts = {kind: self._counts[key] for kind, key in found[index].items()}
            cut, whole, kept = (sum(int(one[column]) for one in counts.values()) for column in (2, 1, 3))
            left += [Left(name, "longer", cut, whole - kept)] if cut else []
            for kind, pool in _pools(name, part, counts, languages):
                if kind in found[index]:
                    pool_of[found[index][kind]] = len(pools)
                pools.append(pool)
        order = [None, *parts]
        left = sorted((one for one in left if one.documents), key=lambda one: (order.index(one.part), one.reason))
        return Selection(pools, pool_of[self._key_of[: self.rows]], left, self._unlabelled)


def _pools(
    name: str, part: Part, counts: Mapping[_Kind, np.ndarray], languages: Sequence[str]
) -> Iterator[tuple[_Kind, Pool]]:
    """The pools of a part, in an order of their own; one without documents for a value or a stratum that has none."""
    there = {kind: count for kind, count in counts.items() if count[0]}
    targets: dict[str, float | None] = {"": None}
    if part.balance:
        asked = part.balance.to
        weights = dict.fromkeys(sorted({kind.value for kind in there}), 1.0) if asked == "even" else asked
        targets = {value: weight / sum(weights.values()) for value, weight in weights.items()} or targets
    strata = part.strata.names() if part.strata else [""]
    for value, target in targets.items():
        for stratum, stratum_name in enumerate(strata):
            spoken = [one for one in [*languages, OTHERS, ""] if _Kind(value, stratum, one) in there]
            for language in spoken or [""]:
                kind = _Kind(value, stratum, language)
                documents, _, _, tokens = there[kind].tolist() if kind in there else (0, 0, 0, 0)
                yield (
                    kind,
                    Pool(
                        name="/".join(filter(None, [name, value, stratum_name, language])),
                        part=name,
                        value=value or None,
                        target=target,
                        often=part.strata.often[stratum] if part.strata else 1.0,
                        language=language or None,
                        documents=documents,
                        tokens=tokens,
                        max_epochs=part.max_epochs,
                    ),
                )


def _counted(keys: np.ndarray, tokens: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Documents, their tokens, documents that are cut, tokens that are kept: int64[MOST, 4] by key.

    Sums of a batch are exact as float64, below 2**53.
    """
    weights = (None, tokens, tokens > kept, kept)
    return np.stack([np.bincount(keys, weight, MOST) for weight in weights], 1).astype(np.int64)
