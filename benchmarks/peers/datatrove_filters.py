"""Decisions of datatrove's quality filters over a JSONL file; runs in datatrove's own environment, not in ours.

Usage: python datatrove_filters.py IN.jsonl OUT.jsonl [--own-language]. A line of IN has `text` and `language` (a code
of datatrove's, or null); a line of OUT has for each filter "" (kept) or the reason. With --own-language the word
tokenizer is that of the document's language; without it datatrove's default, English.
Needs: datatrove, spacy, and for Chinese jieba.
"""

import argparse
import json

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)


def filters(language: str) -> dict:
    return {
        "gopher_repetition": GopherRepetitionFilter(language=language),
        "gopher_quality": GopherQualityFilter(language=language),
        "c4": C4QualityFilter(filter_no_terminal_punct=False, language=language),
        "c4_terminal": C4QualityFilter(filter_no_terminal_punct=True, language=language),
        "fineweb": FineWebQualityFilter(language=language),
    }


def decision(judge, text: str) -> str:
    """The reason, "" where the document is kept. Documents are fresh: the C4 filter rewrites the text it is given."""
    try:
        verdict = judge.filter(Document(text=text, id="0"))
    except (ZeroDivisionError, IndexError) as error:  # known on texts without words
        return f"error {type(error).__name__}"
    if isinstance(verdict, tuple):
        return "" if verdict[0] else verdict[1]
    return "" if verdict else "dropped"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("input")
    arguments.add_argument("output")
    arguments.add_argument("--own-language", action="store_true")
    options = arguments.parse_args()
    by_language: dict[str, dict] = {}
    with open(options.input, encoding="utf-8") as lines, open(options.output, "w", encoding="utf-8") as out:
        for line in lines:
            record = json.loads(line)
            language = (options.own_language and record["language"]) or "eng"
            judges = by_language.setdefault(language, filters(language))
            out.write(json.dumps({name: decision(judge, record["text"]) for name, judge in judges.items()}) + "\n")


if __name__ == "__main__":
    main()
