"""Pools from token shards: which documents are in each, as samples are made of them, written once for all ranks."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from tilth.errors import InputError

from . import pack
from .pools import Columns, Pool
from .shards import TokenShards

INDEX = "index.json"


class Chosen(NamedTuple):
    """The documents of a pool."""

    name: str
    documents: np.ndarray  # int64[n]: numbers in the shards
    longest: int | None = None  # tokens that are read of a document


class How(NamedTuple):
    """How samples are made of documents."""

    packing: str  # concat, best-fit, padded or buckets
    lengths: Sequence[int]  # tokens of stored samples, the longest first; of which buckets are made
    overlap: int = 1  # tokens that neighbouring samples of a document have in common


def build(
    shards: TokenShards, chosen: Sequence[Chosen], held: np.ndarray, how: How, by_label: bool, folder: Path | None
) -> list[dict[str, Any]]:
    """Makes the pools; what is known of each: name, documents, tokens, cells, length, bucket, padding, lost.

    `held` (bool[documents]) are kept for validation. Losses are told by label where `by_label`, else by pool. With a
    folder all of it is written there, the index last; None is for a plan that nobody runs.

    Raises InputError where there is not enough for one sample, or nothing to hold out.
    """
    sources = shards.table.sources if by_label else [each.name for each in chosen]
    pools: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = []
    tokens = 0
    for number, each in enumerate(chosen):
        trained = each._replace(documents=each.documents[~held[each.documents]])
        tokens += int(np.minimum(shards.table.lengths[trained.documents], each.longest or 2**62).sum())
        for bucket, documents, columns, lost in _packed(shards, trained, how, by_label):
            length = how.lengths[bucket]
            pool = Pool(shards.store, columns, length, number)
            about = {"name": each.name, "source": number, "length": length, "bucket": bucket, "lost": lost}
            about |= {"documents": documents, "tokens": pool.tokens, "cells": pool.cells}
            pools.append(about | {"padding": pool.padding(), "file": f"pool-{len(pools):04d}"})
            if folder:
                columns.save(folder / pools[-1]["file"])
        kept += _held(shards, each, held, how, number, by_label, folder, len(kept))
    if tokens < how.lengths[0] + 1:
        beside = f" (beside {int(held.sum())} documents held out)" if held.any() else ""
        asked = f"{tokens} training tokens{beside} do not make one sample of {how.lengths[0] + 1}"
        raise InputError(f"{', '.join(dict.fromkeys(shards.places))}: {asked}")
    if folder:
        told = [{**each, "source": 0} for each in pools] if by_label else pools  # several labels are told by document
        index = {"sources": sources, "length": how.lengths[0], "pools": told, "held": kept}
        (folder / INDEX).write_bytes(orjson.dumps({**index, "store": shards.store.about()}))
    return pools


def _held(
    shards: TokenShards, each: Chosen, held: np.ndarray, how: How, number: int, by_label: bool,
    folder: Path | None, made: int,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The held-out documents of a pool, apart by what losses are told by; one a sample where training has that."""
    documents = each.documents[held[each.documents]]
    alone = how._replace(packing="padded" if how.packing == "buckets" else how.packing)
    for source in np.unique(shards.table.labels[documents]).tolist() if by_label else [number] * bool(len(documents)):
        part = documents[shards.table.labels[documents] == source] if by_label else documents
        (*_, columns, _), *_ = _packed(shards, each._replace(documents=part), alone, False)
        about = {"file": f"held-{made:04d}", "length": how.lengths[0], "source": source}
        made += 1
        if folder:
            columns.save(folder / about["file"])
        yield about


def _packed(shards: TokenShards, chosen: Chosen, how: How, by_label: bool) -> Iterator[tuple[int, int, Columns, int]]:
    """Bucket, documents, columns and tokens lost, of each length class of a pool; there is one but for buckets."""
    documents = chosen.documents
    lengths = shards.table.lengths[documents]
    if chosen.longest:
        lengths = np.minimum(lengths, chosen.longest)
    if how.packing == "concat":
        yield 0, len(documents), _columns(shards, documents, np.zeros_like(lengths), lengths, None, by_label), 0
    elif how.packing == "best-fit":
        bins = pack.best_fit(lengths, how.lengths[0], how.overlap)
        yield 0, len(documents), _binned(shards, documents, bins, by_label), 0
    else:
        sizes = how.lengths if how.packing == "buckets" else how.lengths[:1]
        classes = len(sizes) - 1 - pack.buckets(lengths, np.array(sizes[::-1]), how.overlap)
        for bucket, size in enumerate(sizes):
            of = np.flatnonzero(classes == bucket)
            if len(of):
                bins = pack.padded(lengths[of], size, how.overlap)
                yield bucket, len(of), _binned(shards, documents[of], bins, by_label), bins.figures.lost


def _binned(shards: TokenShards, documents: np.ndarray, bins: pack.Bins, by_label: bool) -> Columns:
    return _columns(shards, documents[bins.documents], bins.firsts, bins.counts, bins.starts, by_label)


def _columns(
    shards: TokenShards, documents: np.ndarray, firsts: np.ndarray, counts: np.ndarray,
    starts: np.ndarray | None, by_label: bool,
) -> Columns:  # fmt: skip
    """Pieces of documents, by each one's document, first token in it and tokens."""
    whole = np.clip(shards.table.whole[documents] - firsts, 0, counts) if shards.filled else None
    labels = shards.table.labels[documents] if by_label and len(shards.table.sources) > 1 else None
    return Columns(shards.table.begins[documents] + firsts, np.cumsum(counts, dtype=np.int64), whole, labels, starts)
