"""Rows for new tokens: what a model's embedding, output head and output bias become when its vocabulary has changed.

No model's files are known here: `checkpoint` does this to a Hugging Face directory, and the trainer, for checkpoints of
its own, calls `mixture` once and `resized` for each matrix. Old rows are moved, never computed with, so they stay the
same bit for bit; which rows are new is told, so that training can update only these.
"""

import tempfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy import sparse

from tilth.errors import InputError, UsageError
from tilth.storage import explained

from .expansion import Expansion

Method = Literal["random", "mean", "subword", "weighted", "focus"]
BLOCK = 2**25  # similarities held at once


class EmbedOptions(BaseModel):
    """How rows for new tokens are made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = Field(
        default="subword",
        description="random (normal, with the old rows' mean and deviation in each dimension), mean (of all old rows), "
        "subword (mean of the rows of what the base tokenizer makes of the token), weighted (the same, rare parts "
        "weighing more), focus (mean of old tokens used alike, by word vectors)",
    )
    norm: Literal["matched", "kept"] | None = Field(
        default=None,
        description="matched: each new row as long as the median old row; kept: as the method made it; "
        "default: matched, but kept for mean",
    )
    smoothing: float = Field(
        default=1e-3,
        gt=0,
        description="a of the weights a / (a + p) of weighted, p being the part's share of the corpus "
        "(Arora et al. 2017: 1e-4 to 1e-3)",
    )
    seed: int = Field(default=0, ge=0, description="of random")
    multiple: int = Field(
        default=128,
        ge=1,
        description="rows are filled up to a multiple of this: Megatron's 128, times the tensor parallel size",
    )

    @property
    def matches(self) -> bool:
        """Whether norms are matched. The mean's stays: a head's new logits are then the mean of the old ones, which
        bounds what new tokens take from old ones (Hewitt 2021); a longer row can take everything."""
        return self.norm == "matched" or (self.norm is None and self.method != "mean")

    def rows(self, size: int) -> int:
        """Rows of a matrix for `size` tokens, padding included."""
        return -(-size // self.multiple) * self.multiple


def mixture(expansion: Expansion, options: EmbedOptions, vectors: np.ndarray | None = None) -> sparse.csr_array:
    """[new rows, base_size]: how much of each old row a new one is made of. A row's weights sum to 1; a row without any
    is left to the mean of all old rows, or to chance, as `options.method` says.

    It is the same for embedding, head and bias. `vectors` are `train_vectors`', which focus needs; its tokens without a
    vector, and all of them where no old token has one, are made as subword does. Raises UsageError for weighted without
    base_counts and focus without vectors.
    """
    if options.method in ("random", "mean"):
        return sparse.csr_array((len(expansion.new_rows), expansion.base_size))
    if options.method == "weighted":
        if expansion.base_counts is None:
            raise UsageError(
                "weighted needs the base tokenizer's counts on a corpus; expand with one, or choose subword"
            )
        counts = np.array(expansion.base_counts, np.float64)
        return _of_parts(expansion, options.smoothing / (options.smoothing + counts / max(counts.sum(), 1)))
    of_parts = _of_parts(expansion, np.ones(expansion.base_size))
    if options.method == "subword":
        return of_parts
    if vectors is None:
        raise UsageError("focus needs vectors of the new tokenizer's tokens; name a corpus, or choose subword")
    if len(vectors) != expansion.size:
        raise UsageError(f"focus: {len(vectors):,} vectors for {expansion.size:,} tokens; train them on this tokenizer")
    return _focus(expansion, vectors, of_parts)


def _of_parts(expansion: Expansion, weights: np.ndarray) -> sparse.csr_array:
    """Means of sub-tokens, each weighing what `weights` [base_size] says."""
    lengths = np.array([len(parts) for parts in expansion.parts], np.int64)
    parts = np.array([part for parts in expansion.parts for part in parts], np.int64)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    sums = np.bincount(rows, weights[parts], minlength=len(lengths))
    bounds = np.concatenate(([0], lengths.cumsum()))
    return sparse.csr_array((weights[parts] / sums[rows], parts, bounds), shape=(len(lengths), expansion.base_size))


def _focus(expansion: Expansion, vectors: np.ndarray, of_parts: sparse.csr_array) -> sparse.csr_array:
    """FOCUS (Dobler and de Melo 2023, section 2): sparsemax of the cosines to tokens that both vocabularies have."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    known = norms[:, 0] > 0
    moves, new = expansion.moves, np.array(expansion.new_rows, np.int64)
    anchors = np.flatnonzero((moves >= 0) & known[moves])  # base ids
    rows = np.flatnonzero(known[new])
    if not len(anchors) or not len(rows):
        return of_parts
    columns = unit[moves[anchors]].T
    step = max(BLOCK // len(anchors), 1)
    blocks = [
        sparse.csr_array(sparsemax(unit[new[rows[at : at + step]]] @ columns)) for at in range(0, len(rows), step)
    ]
    near: Any = sparse.vstack(blocks, format="csr")
    near = sparse.csr_array((near.data, anchors[near.indices], near.indptr), shape=(len(rows), expansion.base_size))
    others = np.flatnonzero(~known[new])
    both: Any = sparse.vstack([near, of_parts[others]], format="csr")
    return both[np.argsort(np.concatenate((rows, others)))]


def sparsemax(scores: np.ndarray) -> np.ndarray:
    """[n, k] scores to [n, k] shares: each row's nearest point on the simplex, where most scores get nothing (Martins
    and Astudillo 2016, algorithm 1)."""
    shifted = scores - scores.max(axis=1, keepdims=True)  # the same result, and small sums where it is decided
    descending = np.sort(shifted, axis=1)[:, ::-1]
    sums = descending.cumsum(axis=1)
    ranks = np.arange(1, scores.shape[1] + 1, dtype=scores.dtype)
    support = np.count_nonzero(1 + ranks * descending > sums, axis=1)[:, None]
    threshold = (np.take_along_axis(sums, support - 1, axis=1) - 1) / support.astype(scores.dtype)
    return np.maximum(shifted - threshold, 0)


def new_rows(matrix: np.ndarray, expansion: Expansion, mixed: sparse.csr_array, options: EmbedOptions) -> np.ndarray:
    """[new rows, width], of the type of `matrix`.

    `matrix` [at least base_size, width] is float32 or float64; rows beyond base_size are padding and count for nothing.
    `mixed` is `mixture`'s.
    """
    old = matrix[: expansion.base_size]
    mean = _mean(old)
    if options.method == "random":
        # an embedding and a head that are the same draw the same, others do not
        generator = np.random.default_rng((options.seed, zlib.crc32(mean.tobytes())))
        chance = generator.standard_normal((len(expansion.new_rows), len(mean)), np.float32)
        rows = mean + old.std(axis=0) * chance
    else:
        rows = mixed.astype(old.dtype) @ old
        rows[np.diff(mixed.indptr) == 0] = mean
    if options.matches:
        rows = _matched(rows, mean, float(np.median(np.linalg.norm(old, axis=1))))
    return rows.astype(old.dtype, copy=False)


def _mean(rows: np.ndarray) -> np.ndarray:
    return rows.mean(axis=0, dtype=np.float64).astype(rows.dtype)


def _matched(rows: np.ndarray, mean: np.ndarray, norm: float) -> np.ndarray:
    """Rows of that norm. All rows of a vocabulary share a component (Mu and Viswanath 2018), which a mean of few rows
    keeps and whose stretching would shift the token's logit everywhere; it is what a row has of its own that the mean
    shrank. So `mean + s (row - mean)` it is, s the positive root of a quadratic; s row where there is none.
    """
    own = rows - mean
    square, along = (own**2).sum(axis=1), own @ mean
    rest = norm**2 - float(mean @ mean)
    away = (square > (1e-6 * norm) ** 2) & (rest > 0)
    root = (np.sqrt(along**2 + square * max(rest, 0)) - along) / np.where(away, square, 1)
    lengths = np.linalg.norm(rows, axis=1)
    plain = np.divide(norm, lengths, out=np.ones_like(lengths), where=lengths > 0)
    return np.where(away[:, None], mean + root[:, None] * own, plain[:, None] * rows)


def resized(
    matrix: np.ndarray, expansion: Expansion, mixed: sparse.csr_array, options: EmbedOptions
) -> tuple[np.ndarray, np.ndarray]:
    """The matrix of the new vocabulary [rows, width] and which of its rows are new (bool[rows]).

    `matrix` and `mixed` as for `new_rows`. `rows` is the new tokenizer's size, filled up to the multiple with rows that
    are the mean of the old ones and not new: no token leads there, and training leaves them alone.
    """
    moves = expansion.moves
    old, stays = matrix[: expansion.base_size], np.flatnonzero(moves >= 0)
    rows = options.rows(expansion.size)
    result = np.empty((rows, matrix.shape[1]), matrix.dtype)
    result[expansion.size :] = _mean(old)
    result[moves[stays]] = old[stays]
    is_new = np.zeros(rows, bool)
    is_new[list(expansion.new_rows)] = True
    result[is_new] = new_rows(matrix, expansion, mixed, options)
    return result, is_new


def train_vectors(
    lines: Iterable[Sequence[int]], size: int, width: int = 300, epochs: int = 3, min_count: int = 10
) -> np.ndarray:
    """float32[size, width]: fastText vectors of a tokenizer's `size` tokens, from `lines` of ids; zeros for tokens that
    occur fewer than `min_count` times.

    Tokens are the words, without n-grams of their own, and one thread trains, so that the same lines give the same
    vectors. CBOW, 10 negative samples and the defaults are FOCUS's (Dobler and de Melo 2023). The lines go through a
    temporary file. Raises InputError where no token occurs often enough.
    """
    import fasttext

    with explained(tempfile.gettempdir()), tempfile.TemporaryDirectory(prefix="tilth-") as folder:
        text = Path(folder, "ids.txt")
        with text.open("w") as file:
            file.writelines(" ".join(map(str, line)) + "\n" for line in lines)
        try:
            model = fasttext.train_unsupervised(
                str(text), model="cbow", dim=width, epoch=epochs, minCount=min_count, minn=0, maxn=0, neg=10, thread=1,
                verbose=0,
            )  # fmt: skip
        except (ValueError, RuntimeError) as error:
            raise InputError(f"vectors: no token occurs {min_count} times; give more text, or a lower count") from error
    vectors = np.zeros((size, width), np.float32)
    for word in model.get_words():
        if word != "</s>":  # the end of a line, which fastText counts among the words
            vectors[int(word)] = model.get_word_vector(word)
    return vectors
