"""Data for training on two cores: tokens per second out of each source beside its peer, first batch, seek, memory.

    python benchmarks/data.py --data FOLDER [--only shards stream first] [--rounds 3] [--hf PYTHON] [--folder FOLDER]

FOLDER is the folder of real data (TILTH_DATA): all of its text/, in documents of 3,000 characters or a little more, as
four Parquet files such as curation writes, is the corpus; our tokenizer of 32,000 ids makes token shards of it. With
--folder they are made there once.

shards  batches of 16 sequences of 2,048 out of token shards, beside Megatron-core's GPTDataset through torch's
        DataLoader: with positions and loss that heed documents (resets), without (plain), and with the attention mask
        that Megatron-LM makes if it is not told otherwise. Of the DataLoader's 0, 1 and 2 processes the best counts.
        The 16 million tokens are read again and again, epoch by epoch; their pages are in the system's cache.
stream  the same batches out of the Parquet files, tokenized as they are read, beside a plain loop of Hugging Face's
        datasets: streamed, 1,000 documents shuffled together, tokenized with the same vocabulary, concatenated, cut.
        Of its packings (see peers/data_hf.py), threads and processes the best counts. It runs with the Python that is
        named: an environment with datasets, transformers and torch; without, this part is left out.
first   seconds to the first batch of simulated shards: 10^8, 10^9 and 10^10 tokens in documents of 1,000 (files with
        holes); and to a batch in the midst of training. `index` is what each builds once a run, and finds again.

Each measurement in a process of its own, all with two threads. Every setting of a peer is tried once, and its two best
go into rounds with ours, whose order turns; what is told are medians, and of the rounds' ratios the smallest and the
largest too. Memory is that of all processes of a contestant, without pages of mapped files, at the first and the last
tenth of what is read.

Use it on a quiet machine. All of it takes about fifteen minutes.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from texts import write_lines

PEERS = Path(__file__).parent / "peers"
TILTH = [sys.executable, "-m", "tilth.cli.main", "tokenize"]
PARTS = ("shards", "stream", "first")
SIZE, LENGTH = 16, 2048  # of a batch
VOCABULARY = 32_000
CHARACTERS = 3000  # of a document, at least
FILES, ROW_GROUP = 4, 1000  # of the corpus
WORKERS = (0, 1, 2)
SIMULATED = (10**8, 10**9, 10**10)  # tokens
ABSENT = 1  # a token that no simulated document has, and so no end of one


class Way(NamedTuple):
    """One contestant in one setting."""

    who: str
    setting: str
    command: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hf", metavar="PYTHON", help="with datasets, transformers and torch")
    parser.add_argument("--folder", type=Path, help="where the corpus, and what is made of it, is kept")
    parser.add_argument("--batches", type=int, default=1000, help="out of shards; the stream reads a fifth of that")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments, Path(folder))
        for name in arguments.only:
            for line in getattr(bench, name)():
                print(line, flush=True)


class Bench:
    """The parts, over one corpus."""

    def __init__(self, arguments: argparse.Namespace, folder: Path):
        self.rounds, self.batches, self.hf = arguments.rounds, arguments.batches, arguments.hf
        self.scratch = folder
        made = arguments.folder or folder / "made"
        self.corpus, self.tokenizer, self.encoded = made / "corpus", made / "tokenizer", made / "shards"
        if not (self.encoded / "stats.json").exists():
            write_corpus(arguments.data / "text", self.corpus)
            ran([*TILTH, "train", f"--input={self.corpus}", f"--output={self.tokenizer}", "--in-process", "--quiet",
                 f"--vocab-size={VOCABULARY}", "--sample=0"])  # fmt: skip
            ran([*TILTH, "encode", f"--input={self.corpus}", f"--output={self.encoded}", "--in-process", "--quiet",
                 f"--tokenizer={self.tokenizer}"])  # fmt: skip
        self.stats = orjson.loads((self.encoded / "stats.json").read_bytes())
        self.prefixes = [str(self.encoded / name) for name in self.stats["shards"]]

    # --- the parts ----------------------------------------------------------------------------------------------------

    def shards(self) -> Iterator[str]:
        """Token shards beside GPTDataset."""
        yield f"token shards: {self.stats['documents']:,} documents, {self.stats['tokens']:,} tokens"
        for name, resets, mask in (("resets", True, False), ("plain", False, False), ("resets and mask", True, True)):
            ways = [self.ours("shards", [str(self.encoded)], resets=resets, batches=self.batches)]
            for workers in WORKERS:
                setting = f"{workers} workers"
                batches = self.batches // 20 if mask else self.batches
                ways.append(self.megatron(self.prefixes, resets, mask, workers, batches)._replace(setting=setting))
            yield from self.compared(name, ways)

    def stream(self) -> Iterator[str]:
        """Parquet beside Hugging Face's datasets."""
        if not self.hf:
            yield "stream: left out; name a Python that has datasets, transformers and torch with --hf"
            return
        size, tokens = self.stats["bytes"], self.stats["tokens"]
        yield f"Parquet: {self.stats['documents']:,} documents, {size / 1e6:.1f} MB of text, {tokens:,} tokens"
        count = self.batches // 5
        ways = [self.ours("stream", [str(self.corpus)], resets=True, batches=count, workers=2)]
        for workers in WORKERS:
            for packing in ("lists", "arrays"):
                for threads in ([], ["--threads"]):
                    setting = " ".join([f"{workers} workers,", packing, *(["threads"] if threads else [])])
                    ways.append(self.hugging_face(setting, count, workers, f"--packing={packing}", *threads))
        yield from self.compared("stream", ways)

    def first(self) -> Iterator[str]:
        """Simulated shards of several sizes."""
        heads = ("index", "first batch", "index again", "first batch", "at step 1,000", "in the midst")
        yield f"{'seconds':<28}" + "".join(f"{head:>15}" for head in heads)
        for tokens in SIMULATED:
            folder = self.scratch / f"simulated-{tokens}"
            place = simulated(folder, tokens)
            for who in ("tilth", "GPTDataset"):
                row: list[float] = []
                for start in (0, 0, 1000, tokens // (SIZE * LENGTH) // 2):
                    if who == "tilth":
                        way = self.ours("shards", [str(place)], True, 0, start=start, run=folder / who)
                    else:
                        way = self.megatron([str(place)], True, False, 0, 0, start, folder / who, ABSENT, "--one-epoch")
                    found = measured(way)
                    times = [found["index"], found["first"] - found["index"]]
                    row += times if start == 0 else times[1:]
                yield f"{f'{who}, {tokens:.0e} tokens':<28}" + "".join(f"{seconds:>15.3f}" for seconds in row)
            shutil.rmtree(folder)

    # --- the contestants ----------------------------------------------------------------------------------------------

    def ours(
        self, kind: str, data: Sequence[str], resets: bool, batches: int, workers: int = 0, start: int = 0,
        run: Path | None = None,
    ) -> Way:  # fmt: skip
        command = [sys.executable, str(PEERS / "data_tilth.py"), "--data", *data]
        command += [f"--run={run or self.scratch / kind}", f"--vocab-size={VOCABULARY}", f"--workers={workers}"]
        command += [f"--tokenizer={self.tokenizer}"] if kind == "stream" else []
        return Way(
            "tilth", "as a rank reads them", [*command, *(["--resets"] if resets else []), *counted(batches, start)]
        )

    def megatron(
        self, prefixes: Sequence[str], resets: bool, mask: bool, workers: int, batches: int, start: int = 0,
        cache: Path | None = None, end: int | None = None, *more: str,
    ) -> Way:  # fmt: skip
        command = [sys.executable, str(PEERS / "data_gptdataset.py"), "--prefixes", *prefixes]
        command += [f"--cache={cache or self.scratch / 'cache'}", f"--vocab-size={VOCABULARY}"]
        command += [f"--end={self.stats['end'] if end is None else end}", f"--workers={workers}"]
        command += [*(["--resets"] if resets else []), *(["--mask"] if mask else []), *more]
        return Way("GPTDataset", "", [*command, *counted(batches, start)])

    def hugging_face(self, setting: str, batches: int, workers: int, *more: str) -> Way:
        configuration = orjson.loads((self.tokenizer / "tokenizer_config.json").read_bytes())
        command = [self.hf, str(PEERS / "data_hf.py"), f"--corpus={self.corpus}", f"--workers={workers}", *more]
        command += [f"--tokenizer={self.tokenizer / 'tokenizer.json'}", f"--end={configuration['eos_token']}"]
        return Way("datasets", setting, [*command, *counted(batches)])

    def compared(self, name: str, ways: Sequence[Way]) -> Iterator[str]:
        """Tries every way once, then the first, which is ours, and the two best of the others in rounds."""
        tried = [measured(way) for way in ways]
        for way, found in zip(ways[1:], tried[1:], strict=True):
            yield f"{f'{name}: tried {way.who}, {way.setting}':<55}{found['tokens_per_second']:>12,} tokens/s"
        order = sorted(range(1, len(ways)), key=lambda at: -tried[at]["tokens_per_second"])
        chosen = [ways[0], *(ways[at] for at in order[:2])]
        rounds: list[list[dict[str, Any]]] = [[] for _ in chosen]
        for turn in range(self.rounds):
            for at in range(len(chosen)) if turn % 2 == 0 else reversed(range(len(chosen))):
                rounds[at].append(measured(chosen[at]))
        speeds, cpu = (
            [[each[what] for each in found] for found in rounds]
            for what in ("tokens_per_second", "tokens_per_cpu_second")
        )
        for at, (way, found) in enumerate(zip(chosen, rounds, strict=True)):
            first, memory = statistics.median(each["first"] for each in found), found[-1]["memory"]
            each = f"{statistics.median(cpu[at]):,.0f} a CPU second"
            told = f"{each}; first batch {first:.2f} s; memory {memory[0]:,} to {memory[-1]:,} MB"
            yield f"{f'{name}: {way.who}, {way.setting}':<55}{spread(speeds[at]):>20} tokens/s; {told}"
        best = max((1, 2), key=lambda at: statistics.median(speeds[at]))
        told = f"{paired(speeds[0], speeds[best])}; by CPU seconds {paired(cpu[0], cpu[best])}"
        yield f"{name}: tilth to {chosen[best].who} ({chosen[best].setting}): {told}"


def counted(batches: int, start: int = 0) -> list[str]:
    return [f"--size={SIZE}", f"--length={LENGTH}", f"--batches={batches}", f"--start={start}"]


def measured(way: Way) -> dict[str, Any]:
    """What one process tells."""
    return json.loads(ran(way.command).splitlines()[-1])


def ran(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return done.stdout


def spread(speeds: Sequence[float]) -> str:
    """The median, and how far the rounds lie apart."""
    off = (max(speeds) - min(speeds)) / 2 / statistics.median(speeds)
    return f"{statistics.median(speeds):,.0f} ±{off:.1%}"


def paired(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The median of the rounds' ratios, the smallest and the largest."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


# --- Data ------------------------------------------------------------------------------------------------------------


def write_corpus(texts: Path, folder: Path) -> None:
    """Documents of whole lines with ids, in the order of these: files such as a curation run's corpus has."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        lines = Path(scratch, "lines.txt")
        write_lines(texts, lines)
        documents = sorted((hashlib.sha256(text.encode()).hexdigest()[:32], text) for text in cut(lines))
    for number in range(FILES):
        part = documents[len(documents) * number // FILES : len(documents) * (number + 1) // FILES]
        ids, own = zip(*part, strict=True)
        place = folder / f"corpus-{number:05d}-of-{FILES:05d}.parquet"
        pq.write_table(pa.table({"id": ids, "text": own}), place, compression="zstd", row_group_size=ROW_GROUP)


def cut(lines: Path) -> Iterator[str]:
    """Neighbouring lines, as many as make a document."""
    held: list[str] = []
    with open(lines, encoding="utf-8", newline="\n") as file:
        for line in file:
            held.append(line)
            if sum(map(len, held)) >= CHARACTERS:
                yield "".join(held)
                held = []
    if held:
        yield "".join(held)


def simulated(folder: Path, tokens: int) -> Path:
    """One of Megatron's pairs of files with documents of 1,000 tokens, all of them 0: a hole, which takes no disk."""
    folder.mkdir()
    lengths = np.full(tokens // 1000, 1000, np.int32)
    with open(folder / "simulated.bin", "wb") as file:
        file.truncate(2 * tokens)
    with open(folder / "simulated.idx", "wb") as file:
        file.write(b"MMIDIDX\x00\x00" + (1).to_bytes(8, "little") + bytes([8]))  # version 1, uint16
        file.write(len(lengths).to_bytes(8, "little") + (len(lengths) + 1).to_bytes(8, "little"))
        lengths.tofile(file)
        (2 * (np.cumsum(lengths, dtype=np.int64) - lengths)).tofile(file)
        np.arange(len(lengths) + 1, dtype=np.int64).tofile(file)
    return folder / "simulated"


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "2"
    main()
