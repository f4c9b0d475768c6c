"""What the plain loops over an index of signatures have in common: reading, shingles, clusters, writing."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

TOKEN = re.compile(r"[\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]|[^\W_]+")
NGRAM = 5
PERMUTATIONS, BANDS, ROWS = 112, 14, 8


def shingles(text: str) -> Iterator[str]:
    """Runs of five tokens, joined by a space; a shorter text is one."""
    tokens = TOKEN.findall(text.lower())
    return (" ".join(tokens[at : at + NGRAM]) for at in range(max(1, len(tokens) - NGRAM + 1)))


def deduplicate(source: str, output: str, sign: Callable, index) -> None:
    """Reads JSON lines and writes `kept.jsonl`, and `groups.tsv`: each id with that of the document kept for it."""
    with open(source, encoding="utf-8") as lines:
        documents = [json.loads(line) for line in lines]
    signatures = [sign(document["text"]) for document in documents]
    above = list(range(len(documents)))

    def top(one: int) -> int:
        while above[one] != one:
            above[one] = one = above[above[one]]
        return one

    for number, signature in enumerate(signatures):
        for other in index.query(signature):
            low, high = sorted((top(number), top(other)))
            above[high] = low
        index.insert(number, signature)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "kept.jsonl", "w", encoding="utf-8") as kept, open(folder / "groups.tsv", "w") as groups:
        for number, document in enumerate(documents):
            if top(number) == number:
                kept.write(json.dumps(document, ensure_ascii=False) + "\n")
            groups.write(f"{document['id']}\t{documents[top(number)]['id']}\n")
