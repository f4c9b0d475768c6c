"""Deduplication beside its peers: CPU seconds, memory, and how well the clusters agree with those of a made corpus.

    python benchmarks/dedup.py --text FOLDER [--documents 5000 20000 100000] [--rensa PYTHON] [--against-gold FOLDER]

The corpus is made of the paragraphs in FOLDER (see duplicates.py); half of its documents have edited copies. All read
the same JSON lines and write what they keep, and who stands for whom. datasketch and rensa are plain loops in one
process that hold every document: no resume, no verification. rensa runs in the environment of the Python that is
named, and is left out where none is; so is datasketch, which is tilth's own by default.

CPU and memory are those of the whole process tree (see measure.py). Start-up (interpreters, Ray) is what the same job
takes on 50 documents; the speed is given without it and, as `whole`, with it. Recall and precision are of pairs of
documents in one group, against pairs that were made from one original. `ideal` is what the closure of all pairs of at
least some true Jaccard similarity would recall: no verification at that similarity can recall more.

--against-gold takes a folder with docs.jsonl.gz (`id`, `text`) and pairs.tsv.gz (`id1`, `id2`, `jaccard`: every pair
of at least 0.2) and says what of its pairs is found, and whether anything is found that should not be.
"""

import argparse
import csv
import gzip
import itertools
import json
import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.dataset as ds
from duplicates import Corpus, Shape, agreement, ideals
from measure import Cost, measured

HERE = Path(__file__).parent
TILTH = [sys.executable, "-m", "tilth.cli.main", "curate", "run", "--recipe", "dedup", "--quiet"]
WIDE = [f"--set=dedup.{setting}" for setting in ("bands=22", "rows=5", "verify=0.5")]  # as many values, looser pairs
FEW = 50  # documents that show what starting takes
SPLIT = ("--set=read.unit_bytes=100000",)  # so that all workers start for them
THRESHOLDS = (0.5, 0.6, 0.7, 0.8)


class Contestant(NamedTuple):
    """A program that removes near-duplicates."""

    command: list[str]
    ours: bool = False

    def run(self, source: Path, output: Path, *settings: str) -> Cost:
        if self.ours:
            return measured([*self.command, "--input", str(source), "--output", str(output), *settings])
        return measured([*self.command, str(source), str(output)])

    def groups(self, source: Path, output: Path) -> dict[str, str]:
        """Each document and its group: those that removal takes for the same."""
        if self.ours:
            names, labels = ids(source, output), rows(output, "dedup/labels", ["id", "cluster"])
            return {names[row["id"]]: row["cluster"] or row["id"] for row in labels}
        return dict(csv.reader(open(output / "groups.tsv"), delimiter="\t"))

    def kept(self, output: Path) -> int:
        if self.ours:
            return sum(row["kept"] for row in rows(output, "decisions", ["kept"]))
        return sum(1 for _ in open(output / "kept.jsonl", "rb"))


def contestants(arguments: argparse.Namespace) -> dict[str, Contestant]:
    found = {
        "tilth": Contestant([*TILTH, f"--workers={arguments.workers}"], ours=True),
        "tilth in process": Contestant([*TILTH, "--in-process"], ours=True),
        "tilth in process, wide": Contestant([*TILTH, "--in-process", *WIDE], ours=True),
    }
    for name in ("datasketch", "rensa"):
        if python := getattr(arguments, name):
            found[name] = Contestant([python, str(HERE / "peers" / f"dedup_{name}.py")])
    return found


def rows(run: Path, output: str, columns: list[str]) -> list[dict[str, Any]]:
    return ds.dataset(run / output, format="parquet").to_table(columns=columns).to_pylist()


def ids(source: Path, run: Path) -> dict[str, str]:
    """The ids of the input by those that tilth gives; it knows a line by where it begins."""
    begins, at = {}, 0
    with open(source, "rb") as lines:
        for line in lines:
            begins[at] = json.loads(line)["id"]
            at += len(line)
    return {row["id"]: begins[row["offset"]] for row in rows(run, "documents", ["id", "offset"])}


def race(entrants: Mapping[str, Contestant], corpus: Corpus, folder: Path, repeat: int) -> list[dict[str, Any]]:
    """A row for each contestant. Rounds go through all in turn, so that a slow minute hits each of them."""
    source, few = folder / "docs.jsonl", folder / "few.jsonl"
    megabytes = corpus.write(source) / 1e6
    with open(source, encoding="utf-8") as lines:
        few.write_text("".join(itertools.islice(lines, FEW)), encoding="utf-8")
        lines.seek(0)
        truth = {row["id"]: row["cluster"] for row in map(json.loads, lines)}
    starts: dict[str, list[Cost]] = defaultdict(list)
    costs: dict[str, list[Cost]] = defaultdict(list)
    results = {}
    for turn in range(repeat):
        for name, contestant in entrants.items():
            starts[name].append(contestant.run(few, folder / "few", *SPLIT))
            costs[name].append(contestant.run(source, output := folder / "output"))
            if not turn:
                closure = agreement(contestant.groups(source, output), truth)
                results[name] = {"kept": contestant.kept(output), **closure._asdict()}
            shutil.rmtree(folder / "few")
            shutil.rmtree(output)
    return [
        {"contestant": name, "documents": len(truth), "mb": round(megabytes, 1)}
        | _speed(megabytes, costs[name], starts[name])
        | {measure: round(value, 4) for measure, value in found.items()}
        for name, found in results.items()
    ]


def _speed(megabytes: float, costs: Sequence[Cost], starts: Sequence[Cost]) -> dict[str, float]:
    cpu, start = (statistics.median(cost.cpu for cost in taken) for taken in (costs, starts))
    return {
        "wall_s": round(statistics.median(cost.wall for cost in costs), 1),
        "cpu_s": round(cpu, 1),
        "start_cpu_s": round(start, 1),
        "mb_per_cpu_s": round(megabytes / (cpu - start), 2),
        "mb_per_cpu_s_whole": round(megabytes / cpu, 2),
        "peak_mb": round(max(cost.peak_mb for cost in costs)),
        "largest_process_mb": round(max(cost.largest_mb for cost in costs)),
    }


def ratios(table: Sequence[Mapping[str, Any]], ours: Iterable[str]) -> dict[str, float]:
    """How many times a peer's speed tilth's is, start-up left out."""
    speed = {row["contestant"]: row["mb_per_cpu_s"] for row in table}
    peers = [name for name in speed if not name.startswith("tilth")]
    return {f"{own} / {peer}": round(speed[own] / speed[peer], 2) for own in ours for peer in peers}


class Gold(NamedTuple):
    """Documents whose similar pairs are all known."""

    source: Path
    jaccard: dict[frozenset[str], float]  # of every pair of at least 0.2

    def at_least(self, threshold: float) -> set[frozenset[str]]:
        return {pair for pair, jaccard in self.jaccard.items() if jaccard >= threshold}

    def below(self, pairs: Iterable[frozenset[str]], threshold: float) -> int:
        return sum(self.jaccard.get(pair, 0.0) < threshold for pair in pairs)


def read_gold(folder: Path, into: Path) -> Gold:
    source = into / "docs.jsonl"
    source.write_bytes(gzip.decompress((folder / "docs.jsonl.gz").read_bytes()))
    with gzip.open(folder / "pairs.tsv.gz", "rt") as lines:
        pairs = csv.DictReader(lines, delimiter="\t")
        return Gold(source, {frozenset((row["id1"], row["id2"])): float(row["jaccard"]) for row in pairs})


def against_gold(entrants: Mapping[str, Contestant], gold: Gold, folder: Path) -> list[dict[str, Any]]:
    """What of the gold's pairs each contestant finds: in its groups, and tilth also in its verified pairs."""
    similar, very = gold.at_least(0.7), gold.at_least(0.8)
    table = []
    for name, contestant in entrants.items():
        output = folder / "output"
        contestant.run(gold.source, output)
        groups: dict[str, list[str]] = defaultdict(list)
        for one, group in contestant.groups(gold.source, output).items():
            groups[group].append(one)
        closure = set(pairs_within(groups.values()))
        row = {
            "contestant": name,
            "closure_recall_0.8": round(len(closure & very) / len(very), 4),
            "closure_precision_0.7": round(len(closure & similar) / max(1, len(closure)), 4),
        }
        if contestant.ours:
            found, stood_for = verified(gold.source, output)
            row |= {
                "pairs": len(found),
                "pairs_recall_0.8": round(len(found & very) / len(very), 4),
                "pairs_below_0.7": gold.below(found, 0.7),
                "dropped": len(stood_for),
                "dropped_below_0.7": gold.below(stood_for, 0.7),
            }
        table.append(row)
        shutil.rmtree(output)
    return table


def verified(source: Path, run: Path) -> tuple[set[frozenset[str]], list[frozenset[str]]]:
    """The pairs that tilth found similar or of equal tokens, and each dropped document with the one kept for it."""
    names = ids(source, run)
    texts: dict[str, list[str]] = defaultdict(list)  # one of them stands for all in the verified pairs
    for row in rows(run, "documents", ["id", "dup"]):
        texts[row["dup"]["exact"] or row["id"]].append(row["id"])
    same = {one: equal for equal in texts.values() for one in equal}
    found = set(pairs_within(texts.values()))
    for row in rows(run, "dedup/pairs", ["a", "b"]):
        found |= {frozenset(pair) for pair in itertools.product(same[row["a"]], same[row["b"]])}
    labels = rows(run, "dedup/labels", ["id", "copy_of", "near_of"])
    stood_for = [(row["id"], row["copy_of"] or row["near_of"]) for row in labels if row["copy_of"] or row["near_of"]]
    return (
        {frozenset(map(names.__getitem__, pair)) for pair in found},
        [frozenset(map(names.__getitem__, pair)) for pair in stood_for],
    )


def pairs_within(groups: Iterable[Sequence[str]]) -> Iterator[frozenset[str]]:
    return (frozenset(pair) for group in groups for pair in itertools.combinations(group, 2))


def show(table: Sequence[Mapping[str, Any]]) -> None:
    """Aligned columns; what a row lacks is left blank."""
    columns = list(dict.fromkeys(name for row in table for name in row))
    cells = [columns, *([str(row.get(name, "")) for name in columns] for row in table)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        first, *rest = (
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join([first, *rest]))
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a folder of *.txt and *.jsonl, plain or *.gz")
    parser.add_argument("--documents", type=int, nargs="+", default=[5000, 20_000, 100_000])
    parser.add_argument("--datasketch", default=sys.executable, help="Python of an environment with datasketch 2")
    parser.add_argument("--rensa", help="Python of an environment with rensa")
    parser.add_argument("--only", nargs="+", help="contestants by name; default: all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--against-gold", type=Path)
    arguments = parser.parse_args()
    if not arguments.text and not arguments.against_gold:
        parser.error("give --text, --against-gold, or both")
    entrants = contestants(arguments)
    entrants = {name: entrants[name] for name in arguments.only or entrants}

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for count in arguments.documents if arguments.text else ():
            corpus = Corpus(arguments.text, Shape(count))
            show(
                [
                    {"ideal": one.threshold, "pairs": one.pairs, "recall": round(one.recall, 4)}
                    for one in ideals(corpus, THRESHOLDS)
                ]
            )
            table = race(entrants, corpus, folder, arguments.repeat)
            show(table)
            show(
                [
                    {"ratio": name, "": value}
                    for name, value in ratios(table, [n for n in entrants if entrants[n].ours]).items()
                ]
            )
        if arguments.against_gold:
            show(against_gold(entrants, read_gold(arguments.against_gold, folder), folder))


if __name__ == "__main__":
    main()
