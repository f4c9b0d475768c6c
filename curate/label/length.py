"""How long a document is, in every unit that a rule may want."""

from typing import NamedTuple

import numpy as np

from ..segment import Segmented

LONG_LINE = 200  # characters


class Length(NamedTuple):
    """Sizes of a document."""

    bytes: int  # in UTF-8; a lone surrogate counts 3
    chars: int  # code points
    words: int  # words of the segmentation, punctuation marks left out
    sentences: int
    lines: int  # with visible text
    long_lines: int  # of at least 200 characters: mC4's paragraphs, of which it asks for three (Xue et al. 2021)
    paragraphs: int  # with visible text, separated by blank lines


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
