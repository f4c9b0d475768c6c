"""Connected components of generated candidate pairs: CPU seconds and peak memory of three ways to find them.

python benchmarks/components.py [--edges 1000000 10000000] [--partition 2000000] [--giant 0.1] [--folder DIR]

The graph has clusters of 2 to 1000 documents (sizes by a power law), whose members are tied to the first and to a
random earlier one, and one giant path through documents in random order, which has the share `--giant` of all edges:
the worst that rounds can meet. Edges of one cluster lie in many files, as those of bands do. The ways are: all edges at
once with scipy; forests of groups of files, joined by one worker; and rounds of small and large stars, with so many
edges a partition. Each runs in a process of its own, one unit after the other; all must find the same.

--edges 100000000 takes 6 GB of memory for the first two ways. At 10^7 edges a round takes 0.35 to 0.5 CPU microseconds
an edge; there are 15 rounds with the path of 10^6 documents, 5 without it.
"""

import argparse
import hashlib
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tilth.curate.dedup.components import EDGES, components, connect, roots
from tilth.ledger import Ledger
from tilth.progress import Progress
from tilth.storage import Folder
from tilth.work import Engine, WorkOptions

SPARSE = 3  # document numbers for each document that has a pair
CHUNK = 500_000  # edges that are made at a time
FILE_EDGES = 1_000_000
EXPONENT = 2.5  # of the power law of cluster sizes


def cluster_edges(random: np.random.Generator, count: int) -> tuple[np.ndarray, int]:
    """About `count` edges int64[m, 2] of whole clusters of documents 0..n-1, and n."""
    sizes = np.arange(2, 1001)
    weights = sizes**-EXPONENT
    weights /= weights.sum()
    drawn = random.choice(sizes, max(1, round(count / 2 / ((sizes - 1) @ weights))), p=weights)
    first = np.repeat(np.cumsum(drawn) - drawn, drawn - 1)
    place = np.arange(len(first)) - np.repeat(np.cumsum(drawn - 1) - drawn + 1, drawn - 1) + 1
    member = first + place
    earlier = first + (random.random(len(first)) * place).astype(np.int64)
    pairs = [np.stack([member, first], axis=1), np.stack([earlier, member], axis=1)]
    return np.concatenate(pairs), int(drawn.sum())


def generate(folder: Path, count: int, giant: float) -> tuple[dict[str, int], int]:
    """Writes about `count` edges to Arrow files; their names with their rows, and the number of documents."""
    random = np.random.default_rng(0)
    most = count + 10_000  # documents
    numbers = random.permutation(most)
    files = max(1, count // FILE_EDGES)
    (folder / "pairs").mkdir(parents=True)
    names = [f"pairs/{index:04d}.arrow" for index in range(files)]
    writers = [pa.ipc.new_file(folder / name, EDGES) for name in names]
    rows = [0] * files
    path = int(count * giant)
    made, documents = 0, path + 1
    while made < count:
        if made < path:
            start = np.arange(made, min(made + CHUNK, path))
            edges = np.stack([start, start + 1], axis=1)
        else:
            edges, own = cluster_edges(random, min(CHUNK, count - made))
            edges += documents
            documents += own
        made += len(edges)
        edges = numbers[random.permutation(edges)] * SPARSE
        for index, part in enumerate(np.array_split(edges, files)):
            writers[index].write_batch(pa.record_batch([part[:, 0], part[:, 1]], schema=EDGES))
            rows[index] += len(part)
    for writer in writers:
        writer.close()
    return dict(zip(names, rows, strict=True)), most * SPARSE


def at_once(place: Path, files: dict[str, int], documents: int, partition: int) -> dict[str, Any]:
    """scipy on all edges."""
    edges = np.empty((sum(files.values()), 2), np.int64)
    start = 0
    for name in files:
        with pa.ipc.open_file(pa.memory_map(str(place / name))) as reader:
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                for column in range(2):
                    edges[start : start + len(batch), column] = batch.column(column).to_numpy()
                start += len(batch)
    return digest([components(edges)]) | {"rounds": 0, "units": 1}


def forests(place: Path, files: dict[str, int], documents: int, partition: int) -> dict[str, Any]:
    """A forest of each group of files, then scipy."""
    return passes(place, files, documents, partition, 10**12)


def rounds(place: Path, files: dict[str, int], documents: int, partition: int) -> dict[str, Any]:
    """Small and large stars until nothing changes."""
    return passes(place, files, documents, partition, 0)


def passes(place: Path, files: dict[str, int], documents: int, partition: int, memory: int) -> dict[str, Any]:
    folder = Folder(place)
    with Engine(WorkOptions(in_process=True), Progress(folder, quiet=True)) as engine:
        sizes = {"partition_edges": partition, "memory_edges": memory}
        outcome = connect(engine, folder, files, documents, "generated", name="found", **sizes)
    assert not outcome.failed, outcome.failed
    done = Ledger(folder, "found/passes").records()
    step = 1 << 22
    found = digest(roots(folder, low, min(low + step, documents), "found") for low in range(0, documents, step))
    counts = {"rounds": sum("large" in key for key in done), "units": done["000-contract"]["counts"]["units"]}
    for name in ("ledger", "dedup"):
        folder.delete(name)
    return found | counts


def digest(parts: Any) -> dict[str, Any]:
    """Hash of all nodes and of all roots, and how many there are of each."""
    nodes, smallest = hashlib.sha256(), hashlib.sha256()
    count = centres = 0
    for own, found in parts:
        nodes.update(own.tobytes())
        smallest.update(found.tobytes())
        count += len(own)
        centres += int(np.count_nonzero(own == found))
    return {"found": nodes.hexdigest() + smallest.hexdigest(), "nodes": count, "components": centres}


def measured(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The work's result with its CPU seconds and the peak of its process."""
    started, wall = time.process_time(), time.monotonic()
    result = work(*arguments)
    cpu, wall = time.process_time() - started, time.monotonic() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return result | {"cpu": cpu, "wall": wall, "peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, nargs="+", default=[10**6, 10**7])
    parser.add_argument("--partition", type=int, default=2_000_000, help="edges of a partition")
    parser.add_argument("--giant", type=float, default=0.1, help="share of edges in the giant path")
    parser.add_argument("--ways", nargs="+", default=["at_once", "forests", "rounds"])
    parser.add_argument("--folder", type=Path, help="where files go for the time; default: the system's")
    arguments = parser.parse_args()
    ways = {work.__name__: work for work in (at_once, forests, rounds)}
    print(f"{'edges':>11} {'nodes':>11} {'components':>11}  {'way':<8} {'units':>5} {'rounds':>6} ", end="")
    print(f"{'CPU s':>7} {'wall s':>7} {'peak GB':>7}")
    for count in arguments.edges:
        place = Path(tempfile.mkdtemp(dir=arguments.folder))
        try:
            with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as alone:
                files, documents = alone.apply(generate, (place, count, arguments.giant))
                seen = set()
                for way in arguments.ways:
                    result = alone.apply(measured, (ways[way], place, files, documents, arguments.partition))
                    seen.add(result["found"])
                    print(
                        f"{sum(files.values()):>11} {result['nodes']:>11} {result['components']:>11}  {way:<8} "
                        f"{result['units']:>5} {result['rounds']:>6} "
                        f"{result['cpu']:>7.1f} {result['wall']:>7.1f} {result['peak']:>7.2f}",
                        flush=True,
                    )
            assert len(seen) == 1, "two ways found different components"
        finally:
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
