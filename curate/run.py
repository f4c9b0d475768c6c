"""A curation run as a thing to read: its recipe, its documents with their labels, its decisions."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import contextlib
import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tilth import rundir
from tilth.errors import DirectoryConflict, StorageError
from tilth.ledger import Ledger, Record
from tilth.recipe import validated
from tilth.storage import Folder
from tilth.work import first_line

from .dedup.options import DERIVED, SPANS
from .recipe import CurateRecipe

COMMAND = "curate run"
DUPLICATES = "dedup/labels"  # what is known of a document once all are: a file for a group of units, a row group each


class Run:
    """One run directory. Labels added later stand in `labels/<family>/` and win over those of `documents/`."""

    def __init__(self, folder: Folder, relabelling: bool = False):
        self.folder = folder
        manifest = rundir.read(folder)
        if manifest["command"] != COMMAND:
            raise DirectoryConflict(f"{folder.url}: a run of `{manifest['command']}`, not of `{COMMAND}`")
        self.name: str = manifest["name"]  # of the recipe
        self.request: dict[str, Any] = manifest["request"]
        self.recipe = validated(CurateRecipe, self.request["recipe"], f"{folder.url}/{rundir.MANIFEST}")
        self.relabelled: list[str] = self.request.get("relabelled", [])

        if self.request.get("relabelling") and not relabelling:
            families = " --family ".join(self.request["relabelling"])
            raise DirectoryConflict(
                f"{folder.url}: `tilth curate label` was stopped half way here; give it again: --family {families}"
            )

    def __reduce__(self):
        return Run, (self.folder,)

    @functools.cached_property
    def documents(self) -> dict[str, Record]:
        """The units that wrote documents, with their records."""
        return Ledger(self.folder, "read").records()

    @property
    def missing(self) -> int:
        """Units of the input that are not read: never begun, or failed every attempt."""
        return self.request["inputs"]["units"] - len(self.documents)

    def fingerprint(self) -> str:
        """Hash of every document file's bytes, those of labels added later among them."""
        digest = hashlib.sha256()
        later = {f"label-{family}": Ledger(self.folder, f"label-{family}").records() for family in self.relabelled}
        for name, records in {"read": self.documents, **later}.items():
            for key, record in records.items():
                digest.update(repr((name, key, [file["sha256"] for file in record["files"]])).encode())
        return digest.hexdigest()

    def whole(self, key: str, columns: pa.Schema) -> Iterator[tuple[int, pa.Table]]:
        """All columns of one unit's documents, with their newest labels, a row group at a time and its first row."""
        later = {}
        for family in self.relabelled:
            with self.opened(f"labels/{family}/{key}.parquet") as file:
                later[family] = pq.read_table(file, columns=[family])[family]
        for start, table in self.pieces(key):
            for family, labels in later.items():
                place = table.schema.get_field_index(family)
                table = table.set_column(place, columns.field(family), labels.slice(start, len(table)))
            yield start, table.cast(columns)

    def pieces(
        self, key: str, columns: Sequence[str] | None = None, wanted: np.ndarray | None = None
    ) -> Iterator[tuple[int, pa.Table]]:
        """Columns of one unit's documents, a row group at a time, and the number of its first row.

        Given the rows `wanted`, row groups without any are passed over.
        """
        end = 0
        with self.opened(f"documents/{key}.parquet") as opened, pq.ParquetFile(opened) as file:
            for group in range(file.num_row_groups):
                start, end = end, end + file.metadata.row_group(group).num_rows
                if wanted is None or ((wanted >= start) & (wanted < end)).any():
                    yield start, file.read_row_group(group, columns=columns)

    def document(self, key: str, row: int, columns: Sequence[str]) -> dict[str, Any]:
        """Columns of one document; only its row group is read."""
        with self.opened(f"documents/{key}.parquet") as opened, pq.ParquetFile(opened) as file:
            group, place = divmod(row, file.metadata.row_group(0).num_rows)  # all but the last are of one size
            return file.read_row_group(group, columns=columns).slice(place, 1).to_pylist()[0]

    def table(self, key: str, labels: Iterable[str]) -> pa.Table:
        """Columns of one unit's documents, named as asked (`id`, `gopher.words`, or a whole family `gopher`)."""
        wanted = list(labels)
        derived = [name for name in wanted if name in DERIVED or name == SPANS]
        stored = [name for name in wanted if name not in derived]
        of = {family: [name for name in stored if name.split(".")[0] == family] for family in self.relabelled}
        own = [name for name in stored if name.split(".")[0] not in of]
        columns: dict[str, pa.ChunkedArray] = {}
        if derived:
            found = self.duplicates(key, [name.removeprefix("dup.") for name in derived])
            columns |= {name: found[name.removeprefix("dup.")] for name in derived}
        for place, names in [("documents", own), *((f"labels/{family}", of[family]) for family in sorted(of))]:
            with self.opened(f"{place}/{key}.parquet") as file:
                columns |= _columns(file, names)
        return pa.table([columns[name] for name in wanted], names=wanted)

    def duplicates(self, key: str, columns: Sequence[str]) -> pa.Table:
        """What was found of one unit's documents once all were there: columns of `dedup/labels/`."""
        group, place = self._duplicates[key]
        with self.opened(f"{DUPLICATES}/{group}.parquet") as file:
            return pq.ParquetFile(file).read_row_group(place, columns=list(columns))

    @functools.cached_property
    def _duplicates(self) -> dict[str, tuple[str, int]]:
        """By unit: the file that holds its documents' duplicates, and the row group in there."""
        records = Ledger(self.folder, "dedup-duplicates").records()
        return {
            unit: (group, place)
            for group, record in records.items()
            for unit, place in record["counts"]["parts"].items()
        }

    def signatures(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """MinHash signatures of one unit's documents, uint64 or uint32 [n, permutations]; bool[n]: it has one."""
        options = self.recipe.labels.minhash
        place = "labels/signatures" if "dup" in self.relabelled else "signatures"
        with self.opened(f"{place}/{key}.parquet") as file:
            found = pq.read_table(file, columns=["signature"])["signature"].combine_chunks()
        signed = found.is_valid().to_numpy(zero_copy_only=False)
        values = np.zeros((len(found), options.permutations), np.dtype(f"uint{options.bits}"))
        values[signed] = np.frombuffer(b"".join(found.drop_null().to_pylist()), values.dtype).reshape(
            -1, options.permutations
        )
        return values, signed

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Any]:
        """A file of the run, open for reading; what is wrong with it is told with its name."""
        try:
            with self.folder.open(name) as file:
                yield file
        except (OSError, pa.ArrowException) as error:
            advice = "delete it and give the `tilth curate run` command again"
            raise StorageError(f"{self.folder.url}/{name}: cannot be read ({first_line(error)}); {advice}") from error

    def dataset(self, output: str) -> ds.Dataset | None:
        """All files of `decisions`, `failures` or `corpus` as one dataset; None where there are none."""
        names = [f"{output}/{name}" for name in self.folder.names(output) if name.endswith(".parquet")]
        if not names:
            return None
        filesystem: Any = None if self.folder.local else self.folder.filesystem
        return ds.dataset([self.folder.path(name) for name in names], filesystem=filesystem, format="parquet")


def _columns(file: Any, names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """Columns of a Parquet file by name; `gopher.words` is the field `words` of the struct column `gopher`."""
    table = pq.ParquetFile(file).read(columns=list(names)) if names else pa.table({})
    return {name: _reach(table, name) for name in names}


def _reach(table: pa.Table, name: str) -> pa.ChunkedArray:
    first, *rest = name.split(".")
    column = table[first]
    for part in rest:
        column = pc.struct_field(column, part)
    return column
