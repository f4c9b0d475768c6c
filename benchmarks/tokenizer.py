"""The tokenizer toolkit beside tokenizers, sentencepiece and tiktoken: time, memory, and whether results are the same.

    python benchmarks/tokenizer.py --data FOLDER [--only train memory merges encode expand extend] [--rounds 3]

FOLDER is the folder of real data (TILTH_DATA). All of its text/ becomes one file of lines, and one of JSON lines whose
documents are 200 lines each.

train    a 32k byte-level BPE, whole programs with their start-up; peak memory is that of the process tree
memory   the same for ours at 1, 4 and 16 times the text
merges   which of tokenizers' 32k merges ours are, with ties broken by bytes and by ids
encode   documents to token shards, files written, against encode_batch in memory; and whether all ids are the same
expand   LLaMA by 20,000 tokens learned from Chinese text, and by a second vocabulary as Chinese-LLaMA did
extend   a small English vocabulary extended for other English text: compression and dead tokens of each way to do it
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import Cost, measured
from texts import write_documents, write_lines
from vocabularies import extension_table, merges_shared

HERE = Path(__file__).parent
TILTH = [sys.executable, "-m", "tilth.cli.main", "tokenize"]
SIZE = 32_000
GPT2 = ["--set=split={pattern: gpt2, marks: false}"]
PARTS = ("train", "memory", "merges", "encode", "expand", "extend")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments.data, Path(folder), arguments.rounds)
        for name in arguments.only:
            print(json.dumps({name: getattr(bench, name)()}), flush=True)


class Bench:
    """The parts, in one folder with the text and what was made of it."""

    def __init__(self, data: Path, folder: Path, rounds: int):
        self.data, self.folder, self.rounds = data, folder, rounds
        self.lines, self.documents = folder / "all.txt", folder / "documents.jsonl"
        self.megabytes = write_lines(data / "text", self.lines) / 1e6
        write_documents(self.lines, self.documents, together=200)
        self.place("warm")  # compiles, once a machine
        self.ours("warm", size=400, text=data / "text" / "en" / "botchan.txt")

    def place(self, name: str) -> Path:
        """A folder that is there and empty."""
        made = self.folder / name
        made.mkdir(exist_ok=True)
        return made

    def ours(self, name: str, size: int = SIZE, text: Path | None = None) -> Cost:
        """Our training, whole program, without the score card, which the others do not make either."""
        command = [*TILTH, "train", f"--input={text or self.lines}", f"--output={self.folder / name}", *GPT2]
        return measured([*command, f"--vocab-size={size}", "--in-process", "--quiet", "--fresh", "--sample=0"])

    def peer(self, name: str) -> Cost:
        """The same by another library; it may use both cores."""
        script = str(HERE / "peers" / "tokenizer_train.py")
        return measured([sys.executable, script, name, str(self.lines), str(self.place(name)), str(SIZE)])

    def train(self) -> dict[str, Any]:
        """Medians of rounds in turn."""
        makers: dict[str, Callable[[], Cost]] = {
            "tilth": lambda: self.ours("tilth"),
            "tokenizers": lambda: self.peer("tokenizers"),
            "sentencepiece": lambda: self.peer("sentencepiece"),
        }
        costs: dict[str, list[Cost]] = {name: [] for name in makers}
        for _ in range(self.rounds):
            for name, make in makers.items():
                costs[name].append(make())
        told = {
            name: {
                "seconds": round(statistics.median(one.wall for one in found), 2),
                "cpu_seconds": round(statistics.median(one.cpu for one in found), 2),
                "peak_mb": round(statistics.median(one.peak_mb for one in found)),
            }
            for name, found in costs.items()
        }
        ours = told["tilth"]
        ratios = {
            name: {key: round(ours[key] / its[key], 3) for key in its} for name, its in told.items() if name != "tilth"
        }
        return {"text_mb": round(self.megabytes, 1), "vocab_size": SIZE, **told, "tilth_to": ratios}

    def memory(self) -> dict[str, Any]:
        """Peak memory and time for the text once, 4 and 16 times."""
        told = {}
        for times in (1, 4, 16):
            repeated = self.folder / f"times-{times}.txt"
            with open(repeated, "wb") as file:
                for _ in range(times):
                    file.write(self.lines.read_bytes())
            cost = self.ours("repeated", text=repeated)
            told[f"{times}x"] = {"peak_mb": round(cost.peak_mb), "seconds": round(cost.wall, 2)}
            repeated.unlink()
        return told

    def theirs(self) -> Path:
        """The vocabulary that tokenizers learns."""
        made = self.folder / "tokenizers" / "tokenizer.json"
        if not made.exists():
            self.peer("tokenizers")
        return made

    def merges(self) -> dict[str, Any]:
        """Shares of tokenizers' merges."""
        return merges_shared(self.lines, self.theirs(), SIZE)

    def encode(self) -> dict[str, Any]:
        """MB/s, and ids compared."""
        theirs = self.theirs()
        speeds: dict[str, float] = {}
        command = [*TILTH, "encode", f"--input={self.documents}", f"--tokenizer={theirs}", "--no-end", "--quiet"]
        for name, workers in (("tilth, one process", "--in-process"),):
            walls = []
            for _ in range(self.rounds):
                output = self.folder / "shards"
                cost = measured([*command, f"--output={output}", workers, "--fresh", "--json"])
                walls.append(_seconds_of(output))
                speeds[f"{name}, with start-up"] = self.megabytes / cost.wall
            speeds[name] = self.megabytes / statistics.median(walls)
        for name, threads in (("tokenizers", 1), ("tokenizers", 2), ("tiktoken", 1), ("tiktoken", 2)):
            os.environ["RAYON_NUM_THREADS"] = str(threads)
            script = str(HERE / "peers" / "tokenizer_encode.py")
            found = measured([sys.executable, script, name, str(theirs), str(self.documents), str(threads)])
            speeds[f"{name}, {threads} threads"] = self.megabytes / json.loads(found.output)["seconds"]
        ratio = speeds["tilth, one process"] / speeds["tokenizers, 1 threads"]
        return {
            "mb_per_second": {name: round(speed, 2) for name, speed in speeds.items()},
            "tilth_to_tokenizers_per_core": round(ratio, 2),
            "same_ids": self._same_ids(theirs),
        }

    def _same_ids(self, place: Path) -> dict[str, Any]:
        """Whether the shards hold the ids that the tokenizers library gives, document by document."""
        from tokenizers import Tokenizer

        made = Tokenizer.from_file(str(place))
        stored = np.fromfile(next((self.folder / "shards" / "shards").glob("*.bin")), np.uint16)
        at = documents = different = 0
        with open(self.documents, encoding="utf-8") as file:
            for line in file:
                ids = made.encode(json.loads(line)["text"], add_special_tokens=False).ids
                different += not np.array_equal(stored[at : at + len(ids)], ids)
                at += len(ids)
                documents += 1
        return {"documents": documents, "different": different, "tokens": at, "stored": len(stored)}

    def expand(self) -> dict[str, Any]:
        """Seconds of the whole program, and what it proved."""
        llama = self.data / "tokenizers" / "dolma" / "llama-test-tokenizer.json.gz"
        second = self.data / "tokenizers" / "chinese-llama" / "chinese_sp.model"
        text = [f"--input={self.data / 'text' / name}" for name in ("zh-hans", "zh-hant")]
        older = f"--check={self.data / 'text' / 'en'}"
        told = {}
        for name, arguments in (
            ("learned", [*text, older, "--tokens=20000"]),
            ("second vocabulary", [f"--add={second}"]),
            ("second vocabulary as published", [f"--add={second}", "--set=missing=keep"]),
            ("second vocabulary, used pieces, refilled to 20000", [f"--add={second}", *text, older, "--tokens=20000"]),
        ):
            output = self.folder / f"expanded-{len(told)}"
            command = [*TILTH, "expand", f"--base={llama}", f"--output={output}", *arguments, "--sample=0"]
            started = time.time()
            cost = measured([*command, "--in-process", "--quiet", "--json"])
            stats = json.loads(cost.output)
            kept = ("pieces", "new", "dead", "unused", "new_text", "old_text")
            told[name] = {"seconds": round(time.time() - started, 1), **{key: stats.get(key) for key in kept}}
        return told

    def extend(self) -> dict[str, Any]:
        """The table of ways to extend a vocabulary within a script."""
        english = self.data / "text" / "en"
        return extension_table(english / "botchan.txt", english / "tinyshakespeare.txt", self.place("extend"))


def _seconds_of(run: Path) -> float:
    """Seconds that the units of a run took, without start-up."""
    records = (run / "ledger" / "encode").glob("*.json")
    return sum(json.loads(record.read_bytes())["seconds"] for record in records)


if __name__ == "__main__":
    main()
