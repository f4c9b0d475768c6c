"""FineWeb's own quality measures (Penedo et al. 2024), as datatrove takes them.

Lines are those with visible text. What ends a sentence is a terminal mark of any script.
"""

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from ..segment import TERMINAL_MARKS, Segmented


class FineWebOptions(BaseModel):
    """How FineWeb's measures are taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    short_line_length: int = Field(default=30, ge=0, description="a line of at most so many characters is short")
    short_line_length_unspaced: int = Field(
        default=10,
        ge=0,
        description="the same in scripts without spaces (Chinese, Japanese, Thai ...): 30 English characters are "
        "5 words, 5 Chinese words 10 characters",
    )


class FineWeb(NamedTuple):
    """FineWeb's measures of a document; all 0 where it has no line with text."""

    line_punct_ratio: float  # share of lines whose last character is a terminal mark
    short_line_ratio: float  # share of lines that are short
    char_dup_ratio: float  # share of characters, newlines apart, in lines that occurred before
    new_line_ratio: float  # newlines a token (word or punctuation mark), at most 1


def fineweb(document: Segmented, options: FineWebOptions) -> FineWeb:
    """Measures of one document; total on any text."""
    lines = [line for line in document.lines if line and not line.isspace()]
    if not lines:
        return FineWeb(0.0, 0.0, 0.0, 0.0)
    ended = sum(line[-1] in TERMINAL_MARKS for line in lines)
    limit = options.short_line_length_unspaced if document.unspaced else options.short_line_length
    short = sum(len(line) <= limit for line in lines)
    repeated = sum(map(len, lines)) - sum(map(len, set(lines)))
    newlines = len(document.lines) - 1
    return FineWeb(
        line_punct_ratio=ended / len(lines),
        short_line_ratio=short / len(lines),
        char_dup_ratio=repeated / (len(document.text) - newlines),
        new_line_ratio=min(newlines / max(len(document.tokens.strings), 1), 1.0),
    )
