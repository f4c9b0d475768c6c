"""Agreement with datatrove, filter by filter: do our labels with the same thresholds keep and drop the same documents?

Usage: python benchmarks/agreement.py INPUT --peer-python PEER/bin/python [--differences]
INPUT is a curation run (its documents/ are read), or a JSONL file with `text` in each line. The texts are labelled
here, in the datatrove variant. Prints one JSON line: for each filter the share of documents with the same decision and
their number, in all and by script; once with each page's own word tokenizer in datatrove, as far as one needs nothing
heavy (Chinese: jieba; the others: English, its default), and once with English for every page. With --differences, the
documents that differ go to standard error, with datatrove's reason and ours.

C4's lines are compared twice. datatrove counts words between white space and knows five ASCII marks, so that a line of
Chinese is one word without an end, and falls: so does ours in `labels.lines.variant: datatrove`. By default each
script's own words and marks count here (`c4_script_aware`), and that differs outside Latin script on purpose.
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
from tilth.curate.label.lines import SCRIPT_AWARE, Lines, LinesOptions, lines
from tilth.curate.label.repetition import repetition
from tilth.curate.segment import Segmented, segment
from tilth.document import struct_of

PEER = Path(__file__).parent / "peers" / "datatrove_filters.py"
OWN_LANGUAGE = {"Hani": "cmn_Hani"}  # datatrove's language by script; Japanese, Thai ... need more than jieba

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


def c4(document: Segmented, options: LinesOptions, terminal: bool) -> tuple[str, float | None]:
    rules = tuple(rule for rule in C4_LINES if terminal or rule != "c4-no-terminal-punctuation")
    labels = pa.array([lines(document, options)._asdict()], struct_of(Lines))
    left = cleaned(*labels.flatten(), rules=rules)
    return decision({name: values[0] for name, values in left.items()}, C4)


def ours(document: Segmented) -> dict[str, dict[str, tuple[str, float | None]]]:
    """Decisions by datatrove's filter, then by the name under which ours is reported."""
    options, to_the_letter = GopherOptions(variant="datatrove"), LinesOptions(variant="datatrove")
    repeats, quality = repetition(document, options), gopher(document, options, "en")
    line_measures = fineweb(document, FineWebOptions(short_line_length_unspaced=30))
    return {
        "gopher_repetition": {"gopher_repetition": decision(repeats._asdict(), REPETITION)},
        "gopher_quality": {"gopher_quality": decision(quality._asdict(), QUALITY)},
        "c4": {"c4": c4(document, to_the_letter, False), "c4_script_aware": c4(document, SCRIPT_AWARE, False)},
        "c4_terminal": {
            "c4_terminal": c4(document, to_the_letter, True),
            "c4_terminal_script_aware": c4(document, SCRIPT_AWARE, True),
        },
        "fineweb": {"fineweb": decision(line_measures._asdict(), FINEWEB)},
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


def compare(
    documents: list[Segmented], mine: list[dict[str, Any]], judged: list[dict[str, str]], show: bool
) -> dict[str, dict[str, list[float]]]:
    """Share of equal decisions and number of documents, by filter and script; differences to standard error."""
    table: dict[str, dict[str, list[int]]] = {}
    for number, (document, own, peer) in enumerate(zip(documents, mine, judged, strict=True)):
        for filter_name, reason in peer.items():
            for name, (reason_of_ours, value) in own[filter_name].items():
                same = bool(reason) == bool(reason_of_ours)
                for group in ("all", document.script):
                    counts = table.setdefault(name, {}).setdefault(group, [0, 0])
                    counts[0] += same
                    counts[1] += 1
                if show and not same:
                    told = [number, name, document.script, len(document.text), reason, reason_of_ours, value]
                    print(json.dumps(told), file=sys.stderr)
    return {
        name: {group: [round(same / count, 4), count] for group, (same, count) in groups.items()}
        for name, groups in table.items()
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("input", type=Path)
    arguments.add_argument("--peer-python", required=True)
    arguments.add_argument("--differences", action="store_true")
    options = arguments.parse_args()
    documents = [segment(text) for text in texts(options.input) if text]
    mine = [ours(document) for document in documents]
    result: dict[str, Any] = {"documents": len(documents)}
    for name, own_language in (("own_tokenizer", True), ("as_english", False)):
        if options.differences:
            print(name, file=sys.stderr)
        judged = theirs(options.peer_python, documents, own_language)
        result[name] = compare(documents, mine, judged, options.differences)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
