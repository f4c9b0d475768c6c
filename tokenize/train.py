"""A tokenizer from text: words are counted, tokens learned from the counts, and everything is written that others read.

Counting is units of work, resumed where it was stopped; learning is one process. The directory is a run directory and a
tokenizer directory at once.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tilth import rundir
from tilth.errors import DirectoryConflict, InputError, UsageError
from tilth.ledger import Ledger, Record, total
from tilth.progress import Progress
from tilth.recipe import validated
from tilth.storage import Folder, explained
from tilth.work import Engine, Unit, WorkOptions

from ..curate.dedup.shuffle import names, partitions
from .assemble import assemble, configuration
from .bpe import Vocabulary, byte_bpe, fallback_bpe, wordpiece
from .corpus import ADVICE, LIGHT, STATS, fingerprint, plan, whole
from .count import COUNTS, DEALT, PARTITION_BYTES, CountOptions, Counts, CountWorker, MergeWorker, load_counts
from .export import write_directory
from .grow import with_required
from .normalize import Normalizer
from .recipe import TokenizerRecipe
from .scoring import SAMPLE, score_into
from .split import SplitOptions
from .tokenizer import TOKENIZER, Tokenizer, load

COMMAND = "tokenize train"


class Result(NamedTuple):
    """What a command came to."""

    stats: dict[str, Any]
    tokenizer: Tokenizer


def train(
    inputs: Sequence[str],
    output: Folder,
    name: str,
    recipe: TokenizerRecipe,
    work: WorkOptions,
    progress: Progress,
    fresh: bool = False,
    sample: int = SAMPLE,
    earlier: Sequence[str] = (),
) -> Result:
    """Learns a tokenizer from `inputs`, writes it to `output`, and scores it on about `sample` bytes of them; resumes
    what is there, unless `fresh`. What the runs `earlier` counted, with the same words, is counted with it.

    Raises UsageError where the text cannot fill the vocabulary, InputError where there is none; the counts then stay,
    so that another size costs no reading.
    """
    rundir.refuse_foreign(output)
    label = recipe.mixture.by if recipe.mixture else None
    units = plan(inputs, recipe.read, label, output.url) if inputs or not earlier else []
    tables = [Folder(place) for place in earlier]
    before = total([already_counted(folder, recipe) for folder in tables])
    with Engine(work, progress) as engine, output.lock():
        if fresh:
            rundir.start_over(output, COMMAND)
        request = {"recipe": recipe.model_dump(mode="json"), "inputs": fingerprint(units)}
        request |= {"counts": [_files_of(folder) for folder in tables]} if tables else {}
        claim(output, COMMAND, request, name)
        there = output.exists(STATS) and output.exists(TOKENIZER)
        if there:
            progress.note(f"{output.url}: this tokenizer is there already; --fresh makes it anew")
            stats, tokenizer = orjson.loads(output.read(STATS)), load(output.url)
        else:
            stats = before
            if units:
                own = count(units, output, recipe.normalizer, recipe.split_options, label, recipe.count, engine)
                stats, tables = total([before, own]), [output, *tables]
            if recipe.mixture:
                stats["factors"] = recipe.mixture.factors(stats["bytes"])
            counts = load_counts(tables, stats.get("factors"))
            stats["words"] = len(counts.counts)
            progress.note(f"learning {recipe.vocab_size:,} ids from {len(counts.counts):,} words")
            tokenizer = learned(counts, recipe)
            with explained(output.url):
                forms = write(output, tokenizer)
            stats |= {"size": tokenizer.size, "family": tokenizer.family, "forms": forms}
        unscored = bool(sample and units) and "score" not in stats
        if unscored:
            cards = score_into(output, [tokenizer], [output.url], units, label, sample, engine)
            stats["score"] = cards[0]["total"]
        if unscored or not there:
            output.write(STATS, orjson.dumps(stats, option=orjson.OPT_INDENT_2))
        return Result(stats, tokenizer)


def claim(output: Folder, command: str, request: Mapping[str, Any], name: str) -> None:
    """Makes the folder this request's, or, where only what is learned differs and nothing was, this request's too."""
    if output.exists(rundir.MANIFEST) and not output.exists(TOKENIZER):
        before = rundir.read(output)
        if before["command"] == command and before["request"].get("inputs") == request["inputs"]:
            rundir.write(output, command, request, name)
    rundir.claim(output, command, request, name, ADVICE)


def count(
    units: Sequence[Unit],
    output: Folder,
    normalizer: Normalizer,
    split: SplitOptions,
    label: str | None,
    options: CountOptions,
    engine: Engine,
) -> dict[str, Any]:
    """Fills `counts/`, and tells what was counted: documents, bytes by label, words, what was pruned and skipped; all
    of it can be summed.

    Raises UnitsFailed for units that could not be counted, InputError where there is no text.
    """
    size = sum(unit.size for unit in units)
    light = size < LIGHT
    shares = partitions(size, PARTITION_BYTES)
    density = options.documents / max(size, 1) if options.documents else None
    counter = partial(CountWorker, normalizer, split, label, shares, density)
    read = {unit.payload.options.model_dump_json() for unit in units}  # of curation runs, and of all else
    asked = (normalizer.form, normalizer.prefix, split, label, shares, density, sorted(read), fingerprint(units))
    told = hashlib.sha256(repr(asked).encode()).hexdigest()
    keys = names("part", shares)
    parts = [Unit(key, index, 1) for index, key in enumerate(keys)]
    merger = partial(MergeWorker, output, sorted(unit.key for unit in units), shares, options.min_count)
    depends = f"{told} {options.min_count}"
    ledger = Ledger(output, "merge")
    ledger.serve(depends)
    counted = Ledger(output, "count")
    counted.serve(told)
    if set(keys) - ledger.reconcile([COUNTS]).keys():
        whole(engine.run("count", units, counter, output, [DEALT], light=light, depends_on=told), "count")
    merged = whole(engine.run("merge", parts, merger, output, [COUNTS], light=light, depends_on=depends), "merge")
    found = _told(counted.records(), merged.records)
    output.delete(DEALT)
    if not found["running_words"]:
        skipped = ", ".join(f"{number} {reason}" for reason, number in found["skipped"].items())
        raise InputError(f"no text in the input: {found['documents']} documents{f' ({skipped})' if skipped else ''}")
    return found


def _files_of(folder: Folder) -> str:
    """Hash of a run's tables."""
    merged = Ledger(folder, "merge").records()
    told = [file["sha256"] for record in merged.values() for file in record["files"]]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _told(counted: Mapping[str, Record], merged: Mapping[str, Record]) -> dict[str, Any]:
    found, sums = (total(record["counts"] for record in records.values()) for records in (counted, merged))
    return {
        "documents": found["documents"],
        "bytes": found["bytes"],
        "skipped": found["skipped"],
        "running_words": found["words"],
        "words": sums["words"],
        "pruned": sums["pruned"],
    }


def already_counted(folder: Folder, recipe: TokenizerRecipe) -> dict[str, Any]:
    """What `count` told of an earlier run. Raises DirectoryConflict for a folder that is none, is not done counting, or
    has other words."""
    manifest = rundir.read(folder)
    if manifest["command"] != COMMAND:
        raise DirectoryConflict(f"{folder.url}: a run of `{manifest['command']}`, not of `{COMMAND}`")
    its = validated(TokenizerRecipe, manifest["request"]["recipe"], folder.url)
    if (its.normalizer.spec(), its.split_options) != (recipe.normalizer.spec(), recipe.split_options):
        raise DirectoryConflict(f"{folder.url}: its words are cut or normalised otherwise; they cannot be added")
    if (its.mixture and its.mixture.by) != (recipe.mixture and recipe.mixture.by):
        raise DirectoryConflict(f"{folder.url}: its documents are counted by another label; they cannot be added")
    merged = Ledger(folder, "merge").records()
    if not merged or int(next(iter(merged)).rsplit("-", 1)[-1]) != len(merged):
        raise DirectoryConflict(f"{folder.url}: is not done counting; give its own command again")
    return _told(Ledger(folder, "count").records(), merged)


def learned(counts: Counts, recipe: TokenizerRecipe) -> Tokenizer:
    """The tokenizer of the recipe, from word counts. Raises UsageError where they cannot fill its vocabulary."""
    specials = recipe.special_tokens
    if recipe.algorithm == "unigram":
        return _unigram(counts, recipe)
    learn = {"byte-bpe": byte_bpe, "bpe": fallback_bpe, "wordpiece": wordpiece}[recipe.algorithm]
    vocabulary: Vocabulary = learn(counts, recipe.vocab_size, specials.tokens, recipe.learn)
    if len(vocabulary.pieces) < recipe.vocab_size:
        limits = f"learn.min_frequency {recipe.learn.min_frequency}"
        limits += f" and count.min_count {recipe.count.min_count}" if recipe.count.min_count > 1 else ""
        raise UsageError(
            f"vocab_size {recipe.vocab_size} is more than this text can fill: it gives {len(vocabulary.pieces)} at "
            f"{limits}; ask for less, or give more text"
        )
    if not recipe.learn.required:
        return assemble(vocabulary, recipe)
    return with_required(
        lambda size: assemble(vocabulary.shortened(size), recipe), recipe.vocab_size, recipe.learn.required
    )


def _unigram(counts: Counts, recipe: TokenizerRecipe) -> Tokenizer:
    from .formats import from_sentencepiece
    from .unigram import UnigramOptions
    from .unigram import train as train_unigram

    options = UnigramOptions(
        vocab_size=recipe.vocab_size,
        character_coverage=recipe.learn.character_coverage,
        max_piece_length=recipe.learn.max_token_length or 16,
        required=recipe.learn.required,
    )
    specials = recipe.special_tokens
    model = train_unigram(counts, options, specials.tokens, specials.roles)
    return Tokenizer(from_sentencepiece(model, "unigram"), configuration(recipe.special_tokens, recipe.chat_template))


def write(output: Folder, tokenizer: Tokenizer) -> dict[str, str | None]:
    """Puts every form of the tokenizer into the run directory, once all of them give the same ids; returns for each why
    it was not written, or None."""
    with output.scratch() as scratch:
        place = Path(scratch) / "tokenizer"
        place.mkdir()
        forms = write_directory(place, tokenizer)
        files = sorted(place.iterdir(), key=lambda file: file.name == TOKENIZER)  # the one that says it is there, last
        for file in files:
            output.adopt(file, file.name)
    return forms
