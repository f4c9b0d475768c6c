"""Components depend on the edges alone: not on their order, on partitions, on workers, or on a stop in between."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.curate.dedup.components import (
    RANGE,
    Pass,
    components,
    connect,
    forest,
    large_star,
    lowest,
    next_pass,
    roots,
)
from tilth.errors import StorageError
from tilth.progress import Progress
from tilth.storage import Folder
from tilth.work import Engine, WorkOptions

FAR = 10**10


def oracle(edges) -> dict[int, int]:
    """Plain union-find: every node of the edges, with the smallest node of its component."""
    parent: dict[int, int] = {}

    def find(node: int) -> int:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b in np.asarray(edges).reshape(-1, 2).tolist():
        low, high = sorted((find(a), find(b)))
        parent[high] = low
    return {node: find(node) for node in sorted(parent)}


def found(pair) -> dict[int, int]:
    nodes, smallest = pair
    assert nodes.dtype == smallest.dtype == np.int64
    return dict(zip(nodes.tolist(), smallest.tolist(), strict=True))


def joined(edges) -> dict[int, int]:
    """The oracle without documents that stand alone."""
    edges = np.asarray(edges).reshape(-1, 2)
    return oracle(edges[edges[:, 0] != edges[:, 1]])


def array(pairs) -> np.ndarray:
    return np.array(pairs, np.int64).reshape(-1, 2)


def path(length: int, seed: int = 0) -> np.ndarray:
    """One path through nodes in a random order, its edges in another."""
    random = np.random.default_rng(seed)
    nodes = random.permutation(length)
    return random.permutation(np.stack([nodes[:-1], nodes[1:]], axis=1))


def clusters(nodes: int, edges: int, seed: int) -> np.ndarray:
    """Random edges within clusters of random size, with repeats and loops, of nodes that lie far apart."""
    random = np.random.default_rng(seed)
    centres = np.sort(random.choice(nodes, nodes // 20, replace=False))
    a = random.integers(0, nodes, edges)
    b = centres[np.searchsorted(centres, a, side="right") - 1]
    return random.permutation(np.stack([a, b], axis=1)) * 1001


few = st.integers(0, 25)
far = st.integers(0, FAR - 1)
graphs = st.lists(st.tuples(few, few), max_size=60) | st.lists(st.tuples(far, few), max_size=30)


@given(graphs)
def test_components_are_those_of_a_plain_union_find(pairs):
    assert found(components(array(pairs))) == oracle(array(pairs))


@given(graphs)
def test_a_forest_connects_the_same_with_fewer_edges_than_nodes(pairs):
    trees, changed = forest(array(pairs))
    assert found(components(trees)) == joined(array(pairs))
    assert len(trees) <= max(0, len(oracle(array(pairs))) - 1)
    assert forest(trees)[0].tolist() == trees.tolist()
    assert forest(trees)[1] == 0
    assert changed == sum(oracle(array(pairs))[a] != b for a, b in pairs)


@given(graphs)
def test_large_star_hangs_larger_neighbours_on_the_smallest(pairs):
    edges = array([(max(pair), min(pair)) for pair in pairs if pair[0] != pair[1]])
    hung, changed = large_star(edges, lowest(edges))
    neighbours: dict[int, set[int]] = {}
    for larger, smaller in edges.tolist():
        neighbours.setdefault(larger, set()).add(smaller)
    expected = [[larger, min(neighbours.get(smaller, {smaller}))] for larger, smaller in edges.tolist()]
    assert hung.tolist() == expected
    assert changed == sum(before != after for before, after in zip(edges.tolist(), expected, strict=True))
    assert found(components(hung)) == found(components(edges))


def test_a_long_path_in_bad_order_is_one_component():
    nodes, smallest = components(path(100_000))
    assert nodes.tolist() == list(range(100_000))
    assert not smallest.any()


def test_passes_follow_from_what_came_before():
    contract, small, large = Pass("contract", 2, 9, 9), Pass("small", 2, 8, 0), Pass("large", 2, 8, 0)
    assert next_pass([], 5) == "contract"
    assert next_pass([contract], 9) == "join"
    assert next_pass([contract], 5) == "small"
    assert next_pass([contract, small], 5) == "large"
    assert next_pass([contract, small, large], 5) == "spread"
    assert next_pass([contract, small, large._replace(changed=1)], 5) == "small"
    assert next_pass([contract, small._replace(changed=1), large], 5) == "small"
    assert next_pass([contract, small._replace(changed=1), large], 8) == "join"
    assert next_pass([contract, small, large, Pass("spread", 2, 9, 0)], 5) == "write"
    assert next_pass([contract, Pass("join", 1, 0, 0)], 5) is None


def given_files(folder: Folder, files: Sequence[np.ndarray]) -> dict[str, int]:
    """Writes files of edges, one kind and the other in turn."""
    place = Path(folder.url, "pairs")
    place.mkdir(parents=True, exist_ok=True)
    rows = {}
    for index, edges in enumerate(files):
        table = pa.table({"a": edges[:, 0], "b": edges[:, 1]})
        name = f"pairs/{index:03d}.{'arrow' if index % 2 else 'parquet'}"
        if index % 2:
            with pa.ipc.new_file(place.parent / name, table.schema) as file:
                file.write_table(table, max_chunksize=97)
        else:
            pq.write_table(table, place.parent / name)
        rows[name] = len(edges)
    return rows


def connected(folder: Folder, files: Sequence[np.ndarray], documents: int, workers: int = 0, **sizes) -> dict[str, int]:
    """Connects files of edges, in this process or by workers; the counts of all records."""
    options = WorkOptions(workers=workers) if workers else WorkOptions(in_process=True)
    with Engine(options, Progress(folder, quiet=True)) as engine:
        outcome = connect(engine, folder, given_files(folder, files), documents, "these edges", **sizes)
    assert not outcome.failed
    counts = [record["counts"] for record in outcome.records.values()]
    return {name: sum(one[name] for one in counts) for name in ("nodes", "components")}


def written(folder: Folder, name: str = "components") -> dict[str, bytes]:
    return {file: folder.read(f"dedup/{name}/{file}") for file in folder.names(f"dedup/{name}")}


ROUNDS = {"memory_edges": 0}


@pytest.mark.parametrize(
    "edges",
    [
        pytest.param(clusters(2000, 3000, 1), id="clusters"),
        pytest.param(path(3000), id="path"),
        pytest.param(np.stack([np.full(3000, 7), np.arange(3000)], axis=1), id="star"),
        pytest.param(np.stack([np.arange(3000), np.full(3000, 2999)], axis=1), id="star around the largest"),
        pytest.param(np.repeat([[5, 5], [9, 2], [2, 9]], 100, axis=0), id="loops and repeats"),
        pytest.param(array([]), id="nothing"),
    ],
)
def test_rounds_of_any_number_of_partitions_give_the_bytes_that_one_node_gives(tmp_path, edges):
    documents = 2_100_000
    files = np.array_split(edges, 7)
    one = Folder(tmp_path / "one")
    counts = connected(one, files, documents)
    expected = joined(edges)
    assert found(roots(one, 0, documents)) == expected
    assert counts == {"nodes": len(expected), "components": len({*expected.values()})}
    for size in (5000, 700, 300):
        many = Folder(tmp_path / f"many-{size}")
        assert connected(many, files, documents, partition_edges=size, **ROUNDS) == counts
        assert written(many) == written(one)
    other = Folder(tmp_path / "other")
    connected(other, [edges[::-1]], documents, partition_edges=500)
    assert written(other) == written(one)


@settings(max_examples=15, deadline=None)
@given(graphs, st.integers(1, 20))
def test_rounds_find_the_components_of_any_graph(tmp_path_factory, pairs, size):
    folder = Folder(tmp_path_factory.mktemp("graph"))
    edges = array(pairs) % (3 * RANGE)
    connected(folder, np.array_split(edges, 3), 3 * RANGE, partition_edges=size, **ROUNDS)
    assert found(roots(folder, 0, 3 * RANGE)) == joined(edges)


def test_a_path_of_1e5_in_bad_order_takes_few_rounds(tmp_path):
    folder = Folder(tmp_path)
    counts = connected(folder, [path(100_000)], 100_000, partition_edges=10_000, **ROUNDS)
    assert counts == {"nodes": 100_000, "components": 1}
    done = folder.names("ledger/components/passes")
    assert sum("large" in name for name in done) <= 16


def test_workers_on_ray_give_the_same_bytes(ray, tmp_path):
    files = np.array_split(clusters(2000, 3000, 2), 5)
    one, many = Folder(tmp_path / "one"), Folder(tmp_path / "many")
    connected(one, files, 2_100_000)
    connected(many, files, 2_100_000, workers=2, partition_edges=700, **ROUNDS)
    assert written(many) == written(one)


@pytest.mark.parametrize("sizes", [{}, {"partition_edges": 20, **ROUNDS}], ids=["one node", "rounds"])
def test_large_numbers_go_to_the_file_of_their_range(tmp_path, sizes):
    folder = Folder(tmp_path)
    edges = array([(3 * RANGE - 1, RANGE), (RANGE, 3 * RANGE - 2), (2 * RANGE, RANGE - 1), (3 * RANGE, 3)] * 20)
    connected(folder, [edges], 3 * RANGE + 1, **sizes)
    assert folder.names("dedup/components") == [f"nodes-{index:05d}.parquet" for index in range(4)]
    assert found(roots(folder, RANGE, 3 * RANGE)) == {
        RANGE: RANGE,
        2 * RANGE: RANGE - 1,
        3 * RANGE - 2: RANGE,
        3 * RANGE - 1: RANGE,
    }
    assert found(roots(folder, 3, 3)) == {}
    assert found(roots(folder, 3, RANGE)) == {3: 3, RANGE - 1: RANGE - 1}


def test_a_range_is_read_without_the_rest_of_the_file(tmp_path):
    folder = Folder(tmp_path)
    nodes = np.arange(350_000)
    connected(folder, [np.stack([nodes, nodes // 2 * 2], axis=1)], 350_000)
    place = tmp_path / "dedup/components/nodes-00000.parquet"
    groups = pq.ParquetFile(place).metadata
    assert groups.num_row_groups == 4
    damaged = groups.row_group(2).column(0)
    with open(place, "r+b") as file:  # whoever reads the third group now fails
        file.seek(damaged.data_page_offset)
        file.write(bytes(damaged.total_compressed_size))
    read, _ = roots(folder, 120_000, 190_000)
    assert read.tolist() == list(range(120_000, 190_000))
    with pytest.raises(StorageError, match="cannot be read"):
        roots(folder, 190_000, 210_000)


def test_a_second_call_does_nothing_and_other_edges_start_anew(tmp_path):
    folder = Folder(tmp_path)
    options = {"partition_edges": 500, **ROUNDS}
    connected(folder, [path(2000)], 2000, **options)
    events = folder.read("events.jsonl")
    counts = connected(folder, [path(2000)], 2000, **options)
    assert counts == {"nodes": 2000, "components": 1}
    assert folder.read("events.jsonl") == events
    connected(folder, [path(1000)], 2000, **options)
    assert len(roots(folder, 0, 2000)[0]) == 1000


def test_two_graphs_stand_side_by_side_and_nothing_else_is_left(tmp_path):
    folder = Folder(tmp_path)
    connected(folder, [path(1000)], 1000, partition_edges=200, **ROUNDS)
    before = written(folder)
    connected(folder, [path(500)], 1000, name="verified", partition_edges=200, **ROUNDS)
    assert written(folder) == before
    assert len(roots(folder, 0, 1000, "verified")[0]) == 500
    files = {name for name in folder.names("dedup") if not name.endswith("nodes-00000.parquet")}
    assert not files


def test_a_result_that_lost_a_file_is_made_anew(tmp_path):
    folder = Folder(tmp_path)
    connected(folder, [path(1000)], 2 * RANGE, partition_edges=200, **ROUNDS)
    before = written(folder)
    folder.delete("dedup/components/nodes-00000.parquet")
    connected(folder, [path(1000)], 2 * RANGE, partition_edges=200, **ROUNDS)
    assert written(folder) == before


def test_a_missing_result_is_told(tmp_path):
    with pytest.raises(StorageError, match=r"nodes-00000\.parquet"):
        roots(Folder(tmp_path), 0, 10)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_components import ROUNDS, connected, path, written
from tilth.storage import Folder

def attempt(place, steps):
    # in a process of its own, which is killed before that step of all that move or remove files
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    left = [steps]
    for name in ("adopt", "delete"):
        def step(self, *arguments, plain=getattr(Folder, name)):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(self, *arguments)
        setattr(Folder, name, step)
    connected(Folder(place), [path(200)], 200, partition_edges=70, **ROUNDS)
    os._exit(0)

place = Path({place!r})
assert attempt(place / "whole", -1) == 0
steps = 1
while attempt(place / f"killed-{{steps}}", steps) == signal.SIGKILL:
    assert attempt(place / f"killed-{{steps}}", -1) == 0
    steps += {stride}
"""


@pytest.mark.slow
def test_kill_9_between_any_two_steps_leaves_a_run_that_goes_on_to_the_same_bytes(tmp_path):
    program = KILLED.format(tests=str(Path(__file__).parent), place=str(tmp_path), stride=2)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    whole = Folder(tmp_path / "whole")
    killed = sorted(tmp_path.glob("killed-*"))
    assert len(killed) > 10
    for place in killed:
        assert written(Folder(place)) == written(whole)
        assert Folder(place).names("dedup") == whole.names("dedup")
