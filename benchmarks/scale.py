"""What finding duplicates among very many documents would take, extrapolated from a run that was measured.

    python benchmarks/scale.py RUN [--documents 1e9] [--bytes 5000]

RUN is a finished run of the recipe `dedup` made with --in-process on a quiet machine: its events tell how long each
pass took, and how many pairs, sets and members there were. Times grow with the documents; how many units, files and
batches there will be is computed by the functions that the passes use. Memory is what one unit holds of the data it
works on; libraries and the like take 0.4 GB more in each process.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import orjson

from tilth.curate.dedup import census, components, exact, near
from tilth.curate.dedup.shuffle import BUDGET, MOST_PARTITIONS, partitions

GIGABYTE = 1e9


class Measured(NamedTuple):
    """What a run's events tell."""

    seconds: dict[str, float]  # by pass
    counts: dict[str, int]  # by pass and count: dedup-verify.pairs
    documents: int
    bytes: int


class Pass(NamedTuple):
    """A pass at scale."""

    name: str
    hours: float  # of CPU
    units: float
    batches: float  # read or written, of all units
    disk: float  # bytes that it leaves
    memory: float  # bytes that a unit holds


def measured(run: Path) -> Measured:
    events = [orjson.loads(line) for line in (run / "events.jsonl").read_bytes().splitlines()]
    last = max(index for index, event in enumerate(events) if (event["event"], event.get("name")) == ("pass", "read"))
    events = events[last:]
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        if event["event"] == "pass_end":
            name = event["name"]
            seconds["components" if name.startswith("components") else name] += event["seconds"]
    counts: dict[str, int] = defaultdict(int)
    for event in events:
        if event["event"] == "unit":
            for count, value in event["counts"].items():
                if isinstance(value, int):
                    counts[f"{event['pass_name']}.{count}"] += value
    return Measured(dict(seconds), dict(counts), counts["read.documents"], counts["read.document_bytes"])


def extrapolated(
    found: Measured, documents: float, size: float, bands: int = 14, permutations: int = 112
) -> list[Pass]:
    """The passes for so many documents of so many bytes of text in all."""
    scale = documents / found.documents
    times = {name: seconds * scale / 3600 for name, seconds in found.seconds.items()}
    by_text = size / found.bytes / scale  # longer documents take longer where texts are read

    groups = max(
        documents / max(census.GROUP_DOCUMENTS, documents // MOST_PARTITIONS),
        size / max(census.GROUP_BYTES, size // MOST_PARTITIONS),
    )
    ranges = partitions(int(documents), exact.PARTITION)
    count, buckets = near.bucket_units(int(documents), bands)
    parts = partitions(int(size), near.COMPONENT_BYTES)
    edges = found.counts["dedup-edges.edges"] * scale
    pairs = found.counts["dedup-gather.candidates"] * scale
    ends = found.counts["dedup-gather.documents"] * scale
    members = found.counts["dedup-chosen.members"] * scale
    sets = ends / documents * size * 1.4  # 8 bytes a shingle, and a shingle for each 6 bytes of text
    rounds = partitions(int(edges), components.PARTITION_EDGES)
    shuffle = 3 * BUDGET
    return [
        Pass("read, text only", times["read"] * by_text, size / 64e6, 0, documents * 8 * permutations, 0.2e9),
        Pass("keys", times["dedup-keys"], groups, groups * ranges, 32 * documents, shuffle),
        Pass("copies", times["dedup-copies"], ranges, groups * ranges, 0, 80 * documents / ranges),
        Pass("bands", times["dedup-bands"], groups, groups * bands * count, 24 * bands * documents, shuffle),
        Pass(
            "edges",
            times["dedup-edges"],
            len(buckets),
            groups * bands * count,
            16 * edges,
            90 * documents / count + shuffle,
        ),
        Pass(
            "components", times["components"] * 10, rounds * 10, rounds * rounds * 10, 48 * edges, 90 * edges / rounds
        ),
        Pass("gather", times["dedup-gather"] * by_text, groups, 3 * groups * parts, sets + 16 * edges, shuffle),
        Pass(
            "verify",
            times["dedup-verify"] * by_text,
            parts,
            3 * groups * parts,
            100 * pairs,
            8 * near.CHUNK + 60 * edges / parts,
        ),
        Pass("members", times["dedup-members"], groups, 2 * groups * parts, 80 * members, shuffle),
        Pass("chosen", times["dedup-chosen"], parts, groups * parts, 60 * members, 600 * members / parts),
        Pass("duplicates", times["dedup-duplicates"], groups, groups * parts, 30 * documents, 500 * documents / groups),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--documents", type=float, default=1e9)
    parser.add_argument("--bytes", type=float, help="of text in a document; default: as in RUN")
    arguments = parser.parse_args()
    found = measured(arguments.run)
    each = arguments.bytes or found.bytes / found.documents
    print(f"measured: {found.documents:,} documents, {found.bytes / 1e6:,.0f} MB of text")
    print(f"at scale: {arguments.documents:,.0f} documents, {arguments.documents * each / 1e12:.1f} TB of text\n")
    print("| pass | CPU hours | units | batches | on disk, GB | a unit holds, GB |\n|---|---|---|---|---|---|")
    passes = extrapolated(found, arguments.documents, arguments.documents * each)
    for one in passes:
        print(
            f"| {one.name} | {one.hours:,.1f} | {one.units:,.0f} | {one.batches:,.0f} | {one.disk / GIGABYTE:,.0f} "
            f"| {one.memory / GIGABYTE:.2f} |"
        )
    rest = sum(one.hours for one in passes[1:])
    print(f"| all but reading | {rest:,.1f} | | | | |")


if __name__ == "__main__":
    main()
