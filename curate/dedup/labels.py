"""The labels of duplicates: what the passes before found of each document, beside the documents they belong to."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tilth.work import Outbox

from ..run import DUPLICATES, Run
from .census import Census, Part
from .choose import CHOICE, CHOSEN, of_url, spread
from .options import DERIVED, STANDING
from .passages import repeated
from .repeats import REPEAT, REPEATS
from .shuffle import column, gathered

LABELS = pa.schema(
    [
        pa.field("id", pa.string()),
        *(pa.field(name.removeprefix("dup."), kind) for name, kind in DERIVED.items()),
        pa.field("spans", pa.list_(pa.int64())),  # where passages to cut start and end, in characters, in turn
        *(pa.field(f"{name}_run", pa.int32()) for name in STANDING),
    ]
)


class DuplicatesWorker:
    """Writes the labels of one group's documents, a row group for each unit of the first pass."""

    def __init__(self, census: Census, addressed: Sequence[str], chosen: Sequence[str], repeats: Sequence[str]):
        self._census = census
        self._run = Run(census.folders[0])
        self._addressed = addressed
        self._chosen = chosen
        self._repeats = repeats

    def __call__(self, payload: int, outbox: Outbox) -> Mapping[str, Any]:
        census, groups = self._census, len(self._census.groups)
        url_of = of_url(census, self._addressed, payload)
        chosen = gathered(census.folders[0], CHOSEN, self._chosen, payload, groups, CHOICE)
        repeats = gathered(census.folders[0], REPEATS, self._repeats, payload, groups, REPEAT)
        parts = census.groups[payload]
        place = outbox.file(DUPLICATES, sum(part.documents for part in parts))
        counts: Counter[str] = Counter()
        with pq.ParquetWriter(place, LABELS, compression="zstd") as file:
            for part in parts:
                table = self._labels(part, url_of, chosen, repeats)
                file.write_table(table, row_group_size=len(table))
                counts.update(_counts(table))
        return {**counts, "parts": {part.key: number for number, part in enumerate(parts)}}

    def _labels(self, part: Part, url_of: pa.Table, chosen: pa.Table, repeats: pa.Table) -> pa.Table:
        stored = self._run.table(part.key, ["id", "length.chars"])
        spans = spans_of(repeats, part)
        cut = np.array([sum(one[1::2]) - sum(one[::2]) for one in spans], float)
        columns = {
            "id": stored["id"],
            "url_of": spread(url_of, "url_of", part, ""),
            "copy_of": spread(chosen, "copy_of", part, ""),
            "near_of": spread(chosen, "near_of", part, ""),
            "similarity": spread(chosen, "similarity", part, None),
            "cluster": spread(chosen, "cluster", part, ""),
            "size": spread(chosen, "size", part, 1),
            "repeated_share": cut / np.maximum(stored["length.chars"].to_numpy(), 1),
            "spans": pa.array(spans, pa.list_(pa.int64())),
        }
        for name in STANDING:
            number = spread(url_of if name == "url" else chosen, name, part, part.first)  # else: some one of this run
            columns[f"{name}_run"] = runs_of(self._census, number.to_numpy())
        return pa.table([columns[name] for name in LABELS.names], schema=LABELS)


def runs_of(census: Census, numbers: np.ndarray) -> np.ndarray:
    """int32[n]: the place in `census.folders` of the run that each document is of."""
    return np.array([group[0].run for group in census.groups], np.int32)[census.group_of(numbers)]


def spans_of(repeats: pa.Table, part: Part) -> list[list[int]]:
    """For each document of a part: start, end, start, end, ... of the passages to cut; kinds are cut one by one."""
    spans: list[list[int]] = [[] for _ in range(part.documents)]
    document = column(repeats, "document")
    here = repeats.take(np.flatnonzero(part.holds(document)))
    if not len(here):
        return spans
    document, kind = column(here, "document"), column(here, "kind")
    rank = np.lexsort((kind, document))
    here, document, kind = here.take(rank), document[rank], kind[rank]
    starts, ends = column(here, "start"), column(here, "end")
    first = here["first"].to_numpy()
    change = np.flatnonzero(np.diff(document) | np.diff(kind)) + 1
    for low, high in zip([0, *change.tolist()], [*change.tolist(), len(here)], strict=True):
        found = repeated(starts[low:high], ends[low:high], first[low:high])
        spans[int(document[low]) - part.first] += [edge for span in found for edge in span]
    return [_union(one) for one in spans]


def _union(spans: list[int]) -> list[int]:
    """Sorted spans without overlap, from those of several kinds."""
    union: list[int] = []
    for start, end in sorted(zip(spans[::2], spans[1::2], strict=True)):
        if union and start <= union[-1]:
            union[-1] = max(union[-1], end)
        else:
            union += [start, end]
    return union


def _counts(table: pa.Table) -> dict[str, int]:
    """How many documents each kind speaks of, and the characters in repeated passages."""
    copies, near, url = (pc.not_equal(table[name], "").to_numpy() for name in ("copy_of", "near_of", "url_of"))
    spans = table["spans"].combine_chunks()
    edges = spans.flatten().to_numpy()
    return {
        "documents": len(table),
        "copies": int(copies.sum()),
        "near": int((near & ~copies).sum()),
        "url": int(url.sum()),
        "repeated": int(np.count_nonzero(spans.value_lengths().to_numpy(zero_copy_only=False))),
        "repeated_chars": int(edges[1::2].sum() - edges[::2].sum()),
    }
