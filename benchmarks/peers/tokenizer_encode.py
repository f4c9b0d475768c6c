"""NAME TOKENIZER.json DOCUMENTS.jsonl THREADS: encodes all documents in memory three times and prints the median
seconds.

Nothing is written, and reading is not timed. tiktoken has the same vocabulary as ranks.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


def tokenizers(place: str, threads: int) -> Callable[[list[str]], int]:
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(place)  # its threads are told by RAYON_NUM_THREADS
    return lambda texts: sum(len(one.ids) for one in made.encode_batch(texts, add_special_tokens=False))


def tiktoken(place: str, threads: int) -> Callable[[list[str]], int]:
    import tiktoken

    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in letters]
    byte_of = {chr(byte): byte for byte in letters} | {chr(256 + index): byte for index, byte in enumerate(others)}
    vocabulary = json.loads(Path(place).read_bytes())["model"]["vocab"]
    special = "<|endoftext|>"
    ranks = {bytes(byte_of[letter] for letter in token): rank for token, rank in vocabulary.items() if token != special}
    made = tiktoken.Encoding("x", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={special: vocabulary[special]})
    return lambda texts: sum(map(len, made.encode_ordinary_batch(texts, num_threads=threads)))


if __name__ == "__main__":
    name, place, documents, threads = sys.argv[1:]
    encode = {"tokenizers": tokenizers, "tiktoken": tiktoken}[name](place, int(threads))
    with open(documents, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        tokens = encode(texts)
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": statistics.median(seconds), "tokens": tokens}))
