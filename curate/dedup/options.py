"""The `dedup` section of a recipe: what counts as a duplicate, and which of several stays."""

from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from .passages import PassageOptions

URL_LABELS = {"dup.url_of": pa.string()}
COPY_LABELS = {
    "dup.copy_of": pa.string(),  # id of the document that stays of those with the same text; "" for that one
    "dup.near_of": pa.string(),  # id of the document that stays of those similar; "" for that one
    "dup.similarity": pa.float64(),  # true Jaccard similarity with that one; null for one that stays
    "dup.cluster": pa.string(),  # smallest id here of those that similarity connects; "" for one alone
    "dup.size": pa.int64(),  # documents in the cluster
}
PASSAGE_LABELS = {"dup.repeated_share": pa.float64()}  # characters in passages that stand elsewhere, as a share
NEAR_LABELS = ("dup.near_of", "dup.similarity")  # of COPY_LABELS, those that say nothing without dedup.near
DERIVED = URL_LABELS | COPY_LABELS | PASSAGE_LABELS
"""Labels of duplicates that are known once all documents are, by the stage that finds them."""
SPANS = "dup.spans"  # where the passages to cut start and end, in characters, in turn; no label for rules
STANDING = ("url", "copy", "near")  # beside `copy_of` stands `copy_run`: 0 for this run, k for the k-th of `against`


class ShingleOptions(BaseModel):
    """How a text is cut into shingles."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Literal["auto", "words", "characters"] = Field(
        default="auto",
        description="what a token is: a word, a character, or (auto) a word, but each character where no spaces are",
    )
    ngram: int = Field(default=5, ge=1, description="tokens of a shingle; a shorter text is one shingle")


class MinHashOptions(ShingleOptions):
    """How a document's MinHash signature is made."""

    permutations: int = Field(default=112, ge=2, le=4096, description="values of a signature: 14 bands of 8 rows")
    seed: int = Field(default=1, ge=0, lt=2**32, description="of the permutations; others cannot be compared")
    bits: Literal[32, 64] = Field(default=64, description="of a hash value; 32 halves the signatures")
    min_tokens: int = Field(default=5, ge=1, description="shorter texts are told apart by their whole text only")

    @property
    def scheme(self) -> Literal["affine32", "affine64"]:
        """The name that datasketch has for it."""
        return "affine64" if self.bits == 64 else "affine32"


class DedupOptions(BaseModel):
    """How duplicates are found. What is dropped for it, rules on the labels `dup.*` say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    near: bool = Field(default=True, description="find near-duplicates by MinHash; equal texts are always found")
    bands: int = Field(default=14, ge=1, description="bands of the signature; FineWeb's number (Penedo et al. 2024)")
    rows: int = Field(default=8, ge=1, description="values in a band; two texts meet where one band is equal")
    threshold: float | None = Field(
        default=None, gt=0, lt=1, description="choose bands and rows for this Jaccard similarity, in their place"
    )
    verify: float = Field(
        default=0.7, ge=0, le=1, description="true Jaccard similarity that a pair needs; 0 trusts every meeting"
    )
    quality: str | None = Field(
        default=None, description="label of which more is better; of several alike the best stays, then the earliest"
    )
    url: bool = Field(default=False, description="find documents of one canonical URL")
    url_keep: Literal["newest", "best"] = Field(default="newest", description="which document of a URL stays")
    passages: PassageOptions = PassageOptions()
    against: tuple[str, ...] = Field(
        default=(), description="earlier runs: what they kept stays, and what says the same here is a duplicate"
    )

    def banding(self, permutations: int) -> tuple[int, int]:
        """Bands and rows for signatures of so many values."""
        if self.threshold is None:
            return self.bands, self.rows
        from .minhash import bands_and_rows  # needs numba and scipy, which a command line's help does not

        return bands_and_rows(self.threshold, permutations)
