"""All text of a folder as one file of lines: .txt, JSON lines, JSON of poems, plain or gzip, and NLTK's archives."""

import gzip
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

LONGEST = 4000  # characters of a line


def write_lines(folder: Path, output: Path) -> int:
    """Writes every line that is not empty, none longer than LONGEST; returns how many bytes that is."""
    with open(output, "w", encoding="utf-8", newline="\n") as file:
        for text in texts(folder):
            for line in re.split(r"[\r\n]+", text):
                for start in range(0, len(line), LONGEST):
                    file.write(line[start : start + LONGEST] + "\n")
    return output.stat().st_size


def write_documents(lines: Path, output: Path, together: int) -> None:
    """JSON lines whose `text` is so many lines of a file."""
    with open(lines, encoding="utf-8", newline="\n") as source, open(output, "w", encoding="utf-8") as file:
        held: list[str] = []
        for line in source:
            held.append(line)
            if len(held) == together:
                file.write(json.dumps({"text": "".join(held)}, ensure_ascii=False) + "\n")
                held = []
        if held:
            file.write(json.dumps({"text": "".join(held)}, ensure_ascii=False) + "\n")


def texts(folder: Path) -> Iterator[str]:
    """The texts of a folder, in the order of its files' names."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.name.removesuffix(".gz")
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for entry in sorted(archive.namelist()):
                    if not entry.endswith("/") and "README" not in entry:
                        yield archive.read(entry).decode("utf-8", "replace")
        elif name.endswith((".txt", ".jsonl", ".json")):
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", "replace")
            yield from _texts_of(text, name, path)


def _texts_of(text: str, name: str, path: Path) -> Iterator[str]:
    if name.endswith(".jsonl") or path.parent.name == "dolma":
        for line in text.split("\n"):
            row = _parsed(line)
            if isinstance(row, dict):
                yield row.get("text") or row.get("content") or ""
    elif name.endswith(".json"):
        rows = [row for row in _parsed(text) or [] if isinstance(row, dict)]
        yield "\n".join("\n".join(row.get("paragraphs") or row.get("content") or []) for row in rows)
    else:
        yield text


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None
