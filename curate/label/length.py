"""How long a document is, in every unit that a rule may want."""

from typing import NamedTuple

import numpy as np

from ..segment import Segmented

LONG_LINE = 200  # characters


class Length(NamedTuple):
    """Sizes of a document."""

    bytes: int  # in UTF-8; a lone surrogate counts 3
    chars: int  # code points
    words: int | None  # words of the segmentation, punctuation marks left out
    sentences: int | None
    lines: int | None  # with visible text
    long_lines: int | None  # of at least 200 characters: mC4's paragraphs, of which it asks for three (Xue et al. 2021)
    paragraphs: int | None  # with visible text, separated by blank lines


def sizes(text: str) -> Length:
    """What costs nothing to know: bytes and characters."""
    return Length(len(text.encode("utf-8", "surrogatepass")), len(text), None, None, None, None, None)


def length(document: Segmented) -> Length:
    """Sizes of one document; total on any text."""
    return Length(
        bytes=len(document.text.encode("utf-8", "surrogatepass")),
        chars=len(document.text),
        words=int(np.count_nonzero(document.tokens.are_words)),
        sentences=len(document.sentences),
        lines=sum(not (line == "" or line.isspace()) for line in document.lines),
        long_lines=sum(len(line) >= LONG_LINE for line in document.lines),
        paragraphs=sum(not (paragraph == "" or paragraph.isspace()) for paragraph in document.paragraphs),
    )
