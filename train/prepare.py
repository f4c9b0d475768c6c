"""The data of a run, before its first step: found, verified, dealt to the pools of its mixture, and written for ranks.

Rank 0 does this once. What is made a plan of them is `outline`'s.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from tilth import rundir
from tilth.errors import InputError, RecipeError, UsageError
from tilth.storage import Folder, explained, sha256

from ..curate import mix
from ..curate.mix import Part
from ..curate.run import COMMAND as CURATE
from ..tokenize.encode import EncodeOptions, special_ids
from ..tokenize.tokenizer import Tokenizer, absolute, load
from .checkpoint import found_at
from .data.build import Chosen, How, build
from .data.parquet import ParquetCorpus
from .data.shards import TokenShards, held_ids
from .data.stream_options import LANES
from .plan import Known, Plan
from .recipe import TrainRecipe

if TYPE_CHECKING:
    from .batches import Source

DATA = "data"  # the folder of what the ranks read
KEY = "key.json"  # what that was made of
POOLS = "pools.json"
ASSIGNED = "assigned.npy"  # a stream's: int16[rows], each one's pool or -1
HELD = "held.npy"  # a stream's: bool[rows], those held out
ALL = "all"  # the part of a recipe that names none


class Material(NamedTuple):
    """What there is to train on."""

    pools: list[mix.Pool]  # whose tokens are places in samples: padding counts, and what is cut off does not
    classes: list[Known]  # their cells; a pool has several where its samples are bucketed by length
    of_pool: list[int]  # the pool of each of these
    places: np.ndarray  # float64: tokens of their samples in an epoch, padding included
    tokens: int  # that there are, each counted once
    packing: dict[str, Any] | None  # the share of padding and the tokens lost; None: not known before
    stream: bool
    notes: list[str]
    key: dict[str, Any]  # what tells this from other material
    again: bool  # whether the run that this one starts from was trained on it


class _Found(NamedTuple):
    """The documents of a run, and which are in which pool."""

    pools: list[mix.Pool]
    assigned: np.ndarray | None  # int16[documents]; None: all in the only pool
    notes: list[str]


def prepare(
    recipe: TrainRecipe,
    tokenizer: Tokenizer | None,
    places: Sequence[str],
    labels: Sequence[str],
    folder: Path | None,
) -> Material:
    """The data of a recipe, found, verified, and dealt to the pools of its mixture.

    With the folder of a run, what its ranks read is written beside it, for `settle` to put in its place; what stands
    there already is taken if it is of the same. Raises InputError for data that cannot be read, RecipeError or
    UsageError for parts that cannot be.
    """
    corpus: TokenShards | ParquetCorpus
    stream = is_parquet(places)
    if stream:
        if tokenizer is None:
            raise UsageError("text is tokenized as it is read: name the tokenizer with --tokenizer")
        if recipe.packing != "concat":
            raise UsageError(
                f"packing: {recipe.packing} needs lengths in tokens: encode the data (tilth tokenize encode)"
            )
        for name, part in recipe.parts.items():
            if part.longest:
                advice = "encode the data (tilth tokenize encode), or let curation cut them"
                raise UsageError(f"parts.{name}.longest: a stream has documents whole; {advice}")
        special_ids(tokenizer, _around(recipe))
        corpus = ParquetCorpus(places)
    else:
        corpus = TokenShards(places)
        if tokenizer and corpus.digest and corpus.digest != tokenizer.digest:
            raise InputError(f"the shards were encoded by {corpus.tokenizer}, another tokenizer than {tokenizer.name}")
    if recipe.parts or _languages(recipe):
        named = labels or (corpus.inputs if isinstance(corpus, TokenShards) else ())
        labels = [absolute(place).rstrip("/") for place in named]
    recipe = _with_places(recipe, places)
    objective = recipe.objective()
    stored = {length: objective.length(length) for length in recipe.lengths()}
    overlap = 1 if recipe.model.family == "gpt" else 0  # other objectives leave a sample's last token to the next one
    key = {
        "data": corpus.fingerprint,
        "parts": {name: part.model_dump(mode="json") for name, part in recipe.parts.items()},
        "split": [sorted(_languages(recipe)), recipe.language_label],
        "labels": list(labels),
        "held": [recipe.validation.share, recipe.seed],
        "how": [recipe.packing, list(stored.values())],
        "vocabulary": recipe.model.vocab_size,
    }
    store = corpus.store.about()["shards"] if isinstance(corpus, TokenShards) else None
    line = orjson.dumps({**key, "store": store})
    if folder is not None and (folder / DATA / KEY).is_file() and (folder / DATA / KEY).read_bytes() == line:
        about = orjson.loads((folder / DATA / POOLS).read_bytes())
    else:
        about = _made(recipe, corpus, labels, tokenizer, How(recipe.packing, list(stored.values()), overlap), folder)
        if folder is not None:
            (beside(folder) / POOLS).write_bytes(orjson.dumps(about))
            (beside(folder) / KEY).write_bytes(line)
    return _material(recipe, about, stream, key)


def _again(recipe: TrainRecipe, key: Mapping[str, Any]) -> bool:
    """Whether `start` was trained on the same data, the same parts of them."""
    if not recipe.start:
        return False
    file = Path(found_at(recipe.start)[0], DATA, KEY)
    there = orjson.loads(file.read_bytes()) if file.is_file() else {}
    return all(there.get(name) == key[name] for name in ("data", "parts"))


def refuse_changed(run: Path, stream: bool, places: Sequence[str]) -> None:
    """Raises InputError where the data are not those that the run was prepared with."""
    corpus = ParquetCorpus(places) if stream else TokenShards(places)
    if orjson.loads((run / DATA / KEY).read_bytes())["data"] != corpus.fingerprint:
        raise InputError(f"{', '.join(places)}: is not what {run} was trained on; it has changed since")


def beside(run: Path) -> Path:
    """Where data are prepared for a run whose folder may still be another run's."""
    return run.with_name(f".{run.name}.tilth-preparing")


def settle(run: Path) -> None:
    """Puts what was prepared for a run into its folder, if it has not been there already."""
    made = beside(run)
    if made.is_dir():
        shutil.rmtree(run / DATA, ignore_errors=True)
        made.rename(run / DATA)


def _material(recipe: TrainRecipe, about: Mapping[str, Any], stream: bool, key: dict[str, Any]) -> Material:
    pools = about["pools"]
    of_pool = [int(each["source"]) for each in pools]
    places = np.array([each["tokens"] if stream else each["cells"] * each["length"] for each in pools], np.float64)
    sums = np.bincount(of_pool, places, len(about["mixed"]))
    documents = np.bincount(of_pool, [each["documents"] for each in pools], len(sums))
    mixed = [
        mix.Pool(*pool)._replace(documents=int(count), tokens=int(size))
        for pool, count, size in zip(about["mixed"], documents, sums, strict=True)
    ]
    classes = [Known(each["name"], each.get("cells", 1), each.get("length", 1), each["bucket"]) for each in pools]
    packing = None
    if not stream:
        room = sum(each["cells"] * (each["length"] + (recipe.packing != "concat")) for each in pools)
        padding, lost = (sum(each[what] for each in pools) for what in ("padding", "lost"))
        packing = {"how": recipe.packing, "padding": padding / room if room else 0.0, "lost": lost}
    tokens = sum(int(each["tokens"]) for each in pools)
    if not tokens:
        raise InputError("the data have no token to train on")
    return Material(mixed, classes, of_pool, places, tokens, packing, stream, about["notes"], key, _again(recipe, key))


def is_parquet(places: Sequence[str]) -> bool:
    """Whether the data are Parquet, to be tokenized as they are read, and not token shards; never both."""
    kinds = {place: _is_parquet(place) for place in places}
    if len(set(kinds.values())) > 1:
        names = [next(place for place, kind in kinds.items() if kind is wanted) for wanted in (True, False)]
        raise InputError(f"{names[0]} is Parquet and {names[1]} token shards; encode the one, or leave the other out")
    return next(iter(kinds.values()), False)


def _is_parquet(place: str) -> bool:
    if "://" in place.removeprefix("file://") or place.endswith((".parquet", ".pq")):
        return True
    folder = Path(place.removeprefix("file://"))
    if (folder / rundir.MANIFEST).is_file():
        return rundir.read(Folder(folder))["command"] == CURATE
    return folder.is_dir() and not any(folder.glob("*.bin")) and any(folder.rglob("*.parquet"))


def source(
    run: Path, made: Plan, recipe: TrainRecipe, stream: bool, places: Sequence[str], tokenizer: str | None,
    share: int, shares: int,
) -> "Source":  # fmt: skip
    """The samples of a run, for the rank that reads one of so many shares of each step."""
    folder = run / DATA
    if not stream:
        from .data.tokens import TokenSource

        return TokenSource(folder, made, recipe.seed)
    from .data.stream import ParquetStream
    from .data.stream_encode import Frame

    assert tokenizer is not None, "a stream has one"
    names = [str(each["name"]) for each in orjson.loads((folder / POOLS).read_bytes())["pools"]]
    assigned, held = (np.load(folder / name, mmap_mode="r") for name in (ASSIGNED, HELD))
    ids = special_ids(load(tokenizer, check=False), _around(recipe))
    frame, lanes = Frame(ids.get("begin"), ids.get("end")), recipe.stream.lanes or LANES
    mine = range(share * lanes // shares, (share + 1) * lanes // shares)
    corpus = ParquetCorpus(places)
    return ParquetStream(
        corpus, assigned, held, names, tokenizer, frame, made.segments, recipe.stream, recipe.seed, mine
    )


def _around(recipe: TrainRecipe) -> EncodeOptions:
    """What stands around a document of a stream: an end; nothing for BERT, whose samples have [CLS] and [SEP]."""
    return EncodeOptions(ends=recipe.model.family != "bert")


# --- Which documents --------------------------------------------------------------------------------------------------


def _with_places(recipe: TrainRecipe, places: Sequence[str]) -> TrainRecipe:
    """The recipe whose parts name places as the data are named. Raises RecipeError for one that is none of these."""
    known = {absolute(place).rstrip("/"): place for place in places}
    parts = {}
    for name, part in recipe.parts.items():
        for place in part.data or ():
            if absolute(place).rstrip("/") not in known:
                raise RecipeError(f"parts.{name}.data: {place} is none of the data; they are {', '.join(places)}")
        found = part.data and tuple(known[absolute(place).rstrip("/")] for place in part.data)
        parts[name] = part.model_copy(update={"data": found})
    return recipe.model_copy(update={"parts": parts})


def _languages(recipe: TrainRecipe) -> list[str]:
    """Languages that some stage tells a ratio of."""
    told = [recipe.languages, *(stage.languages for stage in recipe.stages.values())]
    return list(dict.fromkeys(name for ratio in told for name in ratio if name != mix.OTHERS))


def _selected(
    recipe: TrainRecipe, corpus: TokenShards | ParquetCorpus, labels: Sequence[str], tokenizer: Tokenizer | None
) -> _Found:
    from ..curate import mix_pools
    from ..curate.mix_query import columns

    languages = _languages(recipe)
    rate = 1.0
    if isinstance(corpus, ParquetCorpus):
        assert tokenizer is not None
        rate = corpus.tokens_per_byte(tokenizer)
    if not recipe.parts and not languages:
        documents, tokens = _size(corpus, rate)
        return _Found([mix.Pool(ALL, ALL, None, None, 1.0, None, documents, tokens, Part().max_epochs)], None, [])
    parts = recipe.parts or {ALL: Part()}
    if isinstance(corpus, ParquetCorpus):
        asked = columns(parts, recipe.language_label if languages else None, _tops([*mix_pools.GIVEN, *corpus.columns]))
        selection = mix_pools.select(corpus.documents(asked, rate), parts, languages, recipe.language_label)
    else:
        known = [place for place in labels if _is_parquet(place)]
        told = ParquetCorpus(known) if known else None
        own = corpus.documents().schema.names
        names = _tops([*own, *(told.columns if told else [])])
        asked = [
            each for each in columns(parts, recipe.language_label if languages else None, names) if each not in own
        ]
        of_labels = told.documents(asked, 1.0) if told and asked else None
        selection = mix_pools.select(corpus.documents(), parts, languages, recipe.language_label, of_labels)
    notes = [_left(each) for each in selection.left if each.part is None or each.reason != "no part"]
    if selection.unlabelled:
        notes.append(f"{selection.unlabelled:,} documents have no labels in {', '.join(labels) or 'what was encoded'}")
    return _Found(selection.pools, selection.assigned, notes)


def _tops(columns: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name.split(".")[0] for name in columns))


def _size(corpus: TokenShards | ParquetCorpus, rate: float) -> tuple[int, int]:
    if isinstance(corpus, ParquetCorpus):
        return corpus.rows, int(corpus.groups.sizes.sum() * rate)
    return len(corpus), int(corpus.table.lengths.sum())


def _left(left: Any) -> str:
    where = f"part {left.part}" if left.part else "no part"
    what = "cut to their length" if left.reason == "longer" else f"left out ({left.reason})"
    return f"{where}: {left.documents:,} documents {what}, {left.tokens:,} tokens"


# --- What the ranks read ----------------------------------------------------------------------------------------------


def _made(
    recipe: TrainRecipe,
    corpus: TokenShards | ParquetCorpus,
    labels: Sequence[str],
    tokenizer: Tokenizer | None,
    how: How,
    folder: Path | None,
) -> dict[str, Any]:
    """The pools, dealt and written: what is known of each, as parts of the mixture and as ranks read them."""
    if folder is not None:
        folder = beside(folder)
        shutil.rmtree(folder, ignore_errors=True)
        with explained(str(folder)):
            folder.mkdir(parents=True)
    if isinstance(corpus, TokenShards):
        assert recipe.model.vocab_size is not None
        corpus.check(recipe.model.vocab_size)
    if recipe.verify:
        _verify(corpus.hashes)
    found = _selected(recipe, corpus, labels, tokenizer)
    if not any(pool.documents for pool in found.pools):
        named = ", ".join(recipe.parts) or ALL
        raise UsageError(f"parts: none of {named} takes any document; look at their conditions")
    pools = (
        _streamed(recipe, corpus, found, folder)
        if isinstance(corpus, ParquetCorpus)
        else _built(recipe, corpus, found, how, folder)
    )
    return {"mixed": [list(pool) for pool in found.pools], "pools": pools, "notes": found.notes}


def _built(
    recipe: TrainRecipe, corpus: TokenShards, found: _Found, how: How, folder: Path | None
) -> list[dict[str, Any]]:
    held = corpus.held(recipe.validation.share, recipe.seed)
    if recipe.validation.share and not held.any():
        share = f"validation.share {recipe.validation.share:g} of {len(held)} documents holds none"
        raise InputError(f"{', '.join(dict.fromkeys(corpus.places))}: {share}; ask for more")
    chosen = [
        Chosen(
            pool.name,
            np.arange(len(corpus)) if found.assigned is None else np.flatnonzero(found.assigned == number),
            recipe.parts[pool.part].longest if pool.part in recipe.parts else None,
        )
        for number, pool in enumerate(found.pools)
    ]
    return build(corpus, chosen, held, how, found.assigned is None, folder)


def _verify(hashes: Mapping[str, str]) -> None:
    """Raises InputError for a file that does not have the bytes that were written."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        for path, here in zip(hashes, threads.map(_hash_of, hashes), strict=True):
            if here != hashes[path]:
                raise InputError(f"{path}: has other bytes than were written (SHA-256); make it or fetch it again")


def _hash_of(path: str) -> str:
    try:
        return sha256(Path(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _streamed(recipe: TrainRecipe, corpus: ParquetCorpus, found: _Found, folder: Path | None) -> list[dict[str, Any]]:
    """What is known of a stream's pools, tokens about. A folder gets which row is in which, and what is held out."""
    assigned = np.zeros(corpus.rows, np.int16) if found.assigned is None else found.assigned
    held = np.zeros(corpus.rows, bool)
    if recipe.validation.share:
        ids = (batch["id"].to_pylist() for batch in corpus.documents([], 1.0))
        held = np.concatenate([held_ids(some, recipe.validation.share, recipe.seed) for some in ids])
        if not held.any():
            raise InputError(
                f"validation.share {recipe.validation.share:g} of {corpus.rows} documents holds none; ask for more"
            )
    if folder is not None:
        np.save(folder / ASSIGNED, assigned)
        np.save(folder / HELD, held)
    kept = np.bincount(assigned[(assigned >= 0) & ~held], minlength=len(found.pools)).tolist()
    return [
        {
            "name": pool.name, "source": number, "documents": count, "bucket": 0,
            "tokens": pool.tokens * count // max(pool.documents, 1),
        }
        for number, (pool, count) in enumerate(zip(found.pools, kept, strict=True))
    ]  # fmt: skip
