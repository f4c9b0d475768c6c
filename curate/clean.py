"""What line rules leave of a document: as measures computed from line labels, and as text.

Rules are names from `label.lines`, in the order in which they act: a rule that removes a line takes it away from the
rules behind it, and a mark counts only if the line is still there at its turn. Decisions are made on `cleaned`, which
reads labels alone; `clean` rewrites a text when the corpus is written, and leaves what `cleaned` announced; the
passages that it cuts besides, since they stand elsewhere, are not among these measures.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np
import pyarrow as pa

from tilth.errors import RecipeError

from .label.lines import EDIT_BITS, EDITS, FLAGS, MARKS

RULES = tuple(FLAGS)
"""Every line rule there is."""

CLEANED = {
    "lines": "lines with text that would be left",
    "words": "their words",
    "sentences": "their sentences",
    "removed_words_share": "words that would go, as a share of the words before; 0 for a document without words",
    "lorem_ipsum": "1 where a line left at the mark's turn says lorem ipsum, else 0",
    "curly_bracket": "1 where a line left at the mark's turn has a {, else 0",
}
"""What `cleaned` measures."""

REPEATED = "repeated"
"""What `clean` counts cut spans under."""

_SHIFT = {rule: EDIT_BITS * index for index, rule in enumerate(EDITS)}


def cleaned(
    flags: pa.ListArray, words: pa.ListArray, sentences: pa.ListArray, edited_words: pa.ListArray, rules: Sequence[str]
) -> Mapping[str, np.ndarray]:
    """The measures named in CLEANED, one entry a document, from the columns of `label.lines.Lines`.

    Raises RecipeError for a rule that does not exist.
    """
    _check(rules)
    offsets = np.concatenate(([0], flags.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).cumsum()))
    bits, before, ends, edits = (_flat(column) for column in (flags, words, sentences, edited_words))
    left = before > 0
    gone = np.zeros(len(bits), np.int64)
    marked = {mark: np.zeros(len(bits), bool) for mark in MARKS}
    for rule in rules:
        hit = (bits & FLAGS[rule]) != 0
        if rule in MARKS:
            marked[rule] = hit & left
        elif rule in EDITS:
            gone += (edits >> _SHIFT[rule]) & (2**EDIT_BITS - 1)
        else:
            left &= ~hit
    after = np.where(left, np.maximum(before - gone, 0), 0)
    left = after > 0
    words_before, words_after = _sums(before, offsets), _sums(after, offsets)
    return {
        "lines": _sums(left, offsets),
        "words": words_after,
        "sentences": _sums(np.where(left, ends, 0), offsets),
        "removed_words_share": (words_before - words_after) / np.maximum(words_before, 1),
        "lorem_ipsum": np.minimum(_sums(marked["c4-lorem-ipsum"], offsets), 1),
        "curly_bracket": np.minimum(_sums(marked["c4-curly-bracket"], offsets), 1),
    }


def clean(
    text: str, flags: Sequence[int], rules: Sequence[str], spans: Sequence[tuple[int, int]] = ()
) -> tuple[str, dict[str, int]]:
    """The text without what the rules remove and without the spans, and how many lines each rule removed or edited,
    where it did; under REPEATED, how many spans were cut.

    Blank lines stay where there is text on both sides, at most one at a time. `flags` are `label.lines`' of this text.
    `spans` are starts and ends in characters, sorted and without overlap. They are cut first, and never a line break:
    what is left of a line stays a line, to which rules then do what its flags say; a line of which nothing visible is
    left goes, and is not counted under a rule. Raises RecipeError for a rule that does not exist.
    """
    _check(rules)
    removing = [rule for rule in rules if rule not in MARKS and rule not in EDITS]
    editing = [rule for rule in rules if rule in EDITS]
    counts = dict.fromkeys(rules, 0)
    kept: list[str] = []
    lines = text.split("\n")
    uncut, counts[REPEATED] = _cut(lines, spans)
    for line, edited, bits in zip(lines, uncut, flags, strict=True):
        if line and not edited:
            continue
        remover = next((rule for rule in removing if bits & FLAGS[rule]), None)
        if remover:
            counts[remover] += 1
            continue
        for rule in editing:
            if bits & FLAGS[rule]:
                edited = EDITS[rule].sub("", edited)
                counts[rule] += 1
        if edited.strip():
            kept.append(edited)
        elif not line.strip() and kept and kept[-1].strip():
            kept.append("")
    if kept and not kept[-1]:
        kept.pop()
    return "\n".join(kept), {rule: count for rule, count in counts.items() if count}


def _cut(lines: list[str], spans: Sequence[tuple[int, int]]) -> tuple[list[str], int]:
    """The lines without the spans, empty where nothing visible is left, and how many spans took something visible."""
    if not spans:
        return lines, 0
    cuts: dict[int, list[tuple[int, int]]] = {}
    begins = [0, *accumulate(len(line) + 1 for line in lines)]
    count = 0
    for start, end in spans:
        taken = False
        for number in range(bisect_right(begins, start) - 1, bisect_left(begins, end)):
            line = lines[number]
            low, high = max(start - begins[number], 0), min(end - begins[number], len(line))
            piece = line[low:high]
            if piece.strip():  # without the white space around, so that the words on both sides stay apart
                low, high = low + len(piece) - len(piece.lstrip()), high - len(piece) + len(piece.rstrip())
                cuts.setdefault(number, []).append((low, high))
                taken = True
        count += taken
    left = lines.copy()
    for number, own in cuts.items():
        left[number] = _without(lines[number], own)
    return left, count


def _without(line: str, cuts: Sequence[tuple[int, int]]) -> str:
    """Where a cut leaves white space on both sides, or nothing before it, that on the right goes; at the end all."""
    left = line[: cuts[0][0]]
    for (_, end), (following, _) in pairwise([*cuts, (len(line), len(line))]):
        rest = line[end:following]
        left += rest if left and not left[-1].isspace() else rest.lstrip()
    return left.rstrip()


def _check(rules: Sequence[str]) -> None:
    for rule in rules:
        if rule not in FLAGS:
            raise RecipeError(f"line rule {rule!r} does not exist; those that do: {', '.join(FLAGS)}")


def _flat(column: pa.ListArray) -> np.ndarray:
    return column.flatten().to_numpy(zero_copy_only=False).astype(np.int64)


def _sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Sum over each list of a list column, empty ones included."""
    return np.diff(np.concatenate(([0], values.cumsum(dtype=np.int64)))[offsets])
