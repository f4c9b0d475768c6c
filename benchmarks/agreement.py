"""Agreement with datatrove, filter by filter: do our labels with the same thresholds keep and drop the same documents?

Usage: python benchmarks/agreement.py INPUT --peer-python PEER/bin/python [--differences]
INPUT is a curation run (its documents/ are read), or a JSONL file with `text` in each line. Prints one JSON line: for
each filter the share of documents with the same decision and their number, by script, judged by datatrove as it does by
default (English words in every language) and, where the script has a tokenizer of its own there (Chinese: jieba), by
that one. With --differences, the documents that differ go to standard error with datatrove's reason and ours.

What differs by design is C4's line rules outside Latin script. datatrove counts words between white space and knows
five ASCII marks, so that a line of Chinese is one word without an end, and falls; here its own words and marks count.
"""

# pyright: reportMissingImports=false

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tilth.curate.clean import cleaned
from tilth.curate.label.fineweb import FineWebOptions, fineweb
from tilth.curate.label.gopher import GopherOptions, gopher
from tilth.curate.label.lines import Lines, lines
from tilth.curate.label.repetition import repetition
from tilth.curate.segment import Segmented, segment
from tilth.document import struct_of

PEER = Path(__file__).parent / "peers" / "datatrove_filters.py"
OWN_LANGUAGE = {"Hani": "cmn_Hani"}  # datatrove's languages whose word tokenizer needs no more than jieba

# datatrove's defaults: (our measure, datatrove's reason, lowest and highest value that is kept), in its order.
QUALITY = (
    ("words", "gopher_short_doc", 50, None),
    ("words", "gopher_long_doc", None, 100_000),
    ("mean_word_length", "gopher_below_avg_threshold", 3, None),
    ("mean_word_length", "gopher_above_avg_threshold", None, 10),
    ("hash_ratio", "gopher_too_many_hashes", None, 0.1),
    ("ellipsis_ratio", "gopher_too_many_ellipsis", None, 0.1),
    ("bullet_lines", "gopher_too_many_bullets", None, 0.9),
    ("ellipsis_lines", "gopher_too_many_end_ellipsis", None, 0.3),
    ("alphabetic_words", "gopher_below_alpha_threshold", 0.8, None),
    ("stop_words", "gopher_enough_stop_words", 2, None),
)
REPETITION = (
    ("dup_paragraph_frac", "dup_para_frac", None, 0.3),
    ("dup_paragraph_chars", "dup_para_char_frac", None, 0.2),
    ("dup_line_frac", "dup_line_frac", None, 0.3),
    ("dup_line_chars", "dup_line_char_frac", None, 0.2),
    ("top_2_gram", "top_2_gram", None, 0.2),
    ("top_3_gram", "top_3_gram", None, 0.18),
    ("top_4_gram", "top_4_gram", None, 0.16),
    *((f"dup_{n}_gram", f"duplicated_{n}_n_grams", None, 0.2 - n / 100) for n in range(5, 11)),
)
FINEWEB = (
    ("line_punct_ratio", "line_punct_ratio", 0.12, None),
    ("short_line_ratio", "short_line_ratio", None, 0.67),
    ("char_dup_ratio", "char_dup_ratio", None, 0.01),
    ("new_line_ratio", "list_ratio", None, 0.3),
)
C4 = (
    ("lorem_ipsum", "lorem_ipsum", None, 0),
    ("curly_bracket", "curly_bracket", None, 0),
    ("sentences", "too_few_sentences", 5, None),
)
C4_LINES = (
    "c4-long-word",
    "c4-citation",
    "c4-no-terminal-punctuation",
    "c4-few-words",
    "c4-lorem-ipsum",
    "c4-javascript",
    "c4-curly-bracket",
    "c4-policy",
)


def decision(measures: dict[str, Any], rules: tuple) -> tuple[str, float | None]:
    """Reason and value of the first rule that drops the document, "" if none does."""
    for name, reason, low, high in rules:
        value = measures[name]
        if (low is not None and value < low) or (high is not None and value > high):
            return reason, float(value)
    return "", None


def cleaned_measures(document: Segmented, rules: tuple[str, ...]) -> dict[str, Any]:
    labels = pa.array([lines(document)._asdict()], struct_of(Lines))
    return {name: values[0] for name, values in cleaned(*labels.flatten(), rules=rules).items()}


def ours(document: Segmented, language: str) -> dict[str, tuple[str, float | None]]:
    options = GopherOptions(variant="datatrove")
    unended = tuple(rule for rule in C4_LINES if rule != "c4-no-terminal-punctuation")
    return {
        "gopher_repetition": decision(repetition(document, options)._asdict(), REPETITION),
        "gopher_quality": decision(gopher(document, options, language)._asdict(), QUALITY),
        "c4": decision(cleaned_measures(document, unended), C4),
        "c4_terminal": decision(cleaned_measures(document, C4_LINES), C4),
        "fineweb": decision(fineweb(document, FineWebOptions(short_line_length_unspaced=30))._asdict(), FINEWEB),
    }


def theirs(python: str, documents: list[Segmented], own_language: bool) -> list[dict[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "in.jsonl"), Path(folder, "out.jsonl")
        with source.open("w", encoding="utf-8") as file:
            for document in documents:
                record = {"text": document.text, "language": OWN_LANGUAGE.get(document.script)}
                file.write(json.dumps(record) + "\n")
        command = [python, str(PEER), str(source), str(result), *(["--own-language"] if own_language else [])]
        subprocess.run(command, check=True, stdout=sys.stderr)
        return [json.loads(line) for line in result.read_text(encoding="utf-8").splitlines()]


def texts(path: Path) -> Iterator[str]:
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            yield from (json.loads(line)["text"] for line in file)
        return
    for part in sorted(path.glob("documents/*.parquet")):
        yield from pq.read_table(part, columns=["text"])["text"].to_pylist()


def compare(documents: list[Segmented], judged: list[dict[str, str]], language: str, show: bool) -> dict[str, Any]:
    """Share of equal decisions by filter and script; differences to standard error."""
    table: dict[str, dict[str, list[int]]] = {}
    for number, (document, peer) in enumerate(zip(documents, judged, strict=True)):
        mine = ours(document, language)
        for name, reason in peer.items():
            same = bool(reason) == bool(mine[name][0])
            for group in ("all", document.script):
                counts = table.setdefault(name, {}).setdefault(group, [0, 0])
                counts[0] += same
                counts[1] += 1
            if show and not same:
                reason_of_ours, value = mine[name]
                print(
                    json.dumps([number, name, document.script, len(document.text), reason, reason_of_ours, value]),
                    file=sys.stderr,
                )
    return {
        name: {group: [round(same / count, 4), count] for group, (same, count) in groups.items()}
        for name, groups in table.items()
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("input", type=Path)
    arguments.add_argument("--peer-python", required=True)
    arguments.add_argument("--differences", action="store_true")
    options = arguments.parse_args()
    documents = [segment(text) for text in texts(options.input) if text]
    result: dict[str, Any] = {"documents": len(documents)}
    result["as_english"] = compare(documents, theirs(options.peer_python, documents, False), "en", options.differences)
    own = [document for document in documents if document.script in OWN_LANGUAGE]
    if own:
        judged = theirs(options.peer_python, own, True)
        result["own_tokenizer"] = compare(own, judged, "en", options.differences)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
