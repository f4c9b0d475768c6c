"""An existing vocabulary changed for new text: tokens added, rows that the text never uses given to new ones, or
pruned.

What is promised is proved before anything is written: each new token is reached, ids that stay mean what they meant,
and a word without a new token is cut as it was. `expansion.json` tells a model's embedding what to do.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from tilth import rundir
from tilth.errors import UsageError
from tilth.progress import Progress
from tilth.storage import Folder, explained
from tilth.work import Engine, WorkOptions

from .change import ExpandRecipe, changed
from .compiled import Compiled
from .corpus import STATS, fingerprint, plan
from .count import CountOptions, Counts, load_counts
from .expansion import EXPANSION
from .grow import changeable
from .prove import expansion_of, proved
from .scoring import SAMPLE, score_into
from .split import SplitOptions
from .tokenizer import TOKENIZER, Tokenizer, load
from .train import claim, count, write

COMMAND = "tokenize expand"
CHECK = "check"  # the folder of what is counted of older text
_NO_WORDS = Counts(np.zeros(0, np.uint8), np.zeros(1, np.int64), np.zeros(0, np.int64))


class Places(NamedTuple):
    """Where everything is that a vocabulary is changed with."""

    base: str  # the tokenizer
    add: Sequence[str] = ()  # tokenizers whose tokens are added
    inputs: Sequence[str] = ()  # new text
    check: Sequence[str] = ()  # older text, of which is told what changes
    pattern: str | None = None  # how tiktoken's ranks cut words, among these tokenizers


def expand(
    places: Places,
    output: Folder,
    name: str,
    recipe: ExpandRecipe,
    work: WorkOptions,
    progress: Progress,
    fresh: bool = False,
    sample: int = SAMPLE,
) -> dict[str, Any]:
    """Changes the base for the new text, by the tokens of others, or both, writes it to `output`, and scores it and the
    base on about `sample` bytes of that text. Returns what was done and proved.

    Raises UsageError where the request cannot be met, TilthError where a proof fails; nothing is written then.
    """
    base = load(places.base, places.pattern)
    seconds = [load(place, places.pattern) for place in places.add]
    if not places.inputs and (recipe.method != "add" or not seconds):
        others = "" if recipe.method != "add" else ", or tokens with --add"
        raise UsageError(f"{recipe.method} needs text: name it with --input{others}")
    encoder = changeable(base, base.compiled)
    rundir.refuse_foreign(output)
    label = recipe.mixture.by if recipe.mixture else None
    units = plan(places.inputs, recipe.read, label, output.url) if places.inputs else []
    old_units = plan(places.check, recipe.read, None, output.url) if places.check else []
    with Engine(work, progress) as engine, output.lock():
        if fresh:
            rundir.start_over(output, COMMAND)
        request = {
            "recipe": recipe.model_dump(mode="json"),
            "inputs": fingerprint([*units, *old_units]),
            "base": base.digest,
            "add": [one.digest for one in seconds],
        }
        claim(output, COMMAND, request, name)
        if output.exists(STATS) and output.exists(TOKENIZER):
            progress.note(f"{output.url}: this tokenizer is there already; --fresh makes it anew")
            return orjson.loads(output.read(STATS))
        split, normalizer = _split(base, encoder, recipe), encoder.normalizer
        counts, old_counts, counted = _NO_WORDS, _NO_WORDS, {}
        if units:
            counted = count(units, output, normalizer, split, label, recipe.count, engine)
            factors = recipe.mixture.factors(counted["bytes"]) if recipe.mixture else None
            counts = load_counts([output], factors)
        if old_units:
            place = Folder(f"{output.url}/{CHECK}")
            count(old_units, place, normalizer, split, None, CountOptions(), engine)
            old_counts = load_counts([place])
        progress.note(f"{recipe.method} on {base.name}, {base.size:,} ids, with {len(counts.counts):,} words")
        change = changed(base, seconds, counts, recipe)
        told = proved(change, recipe.missing == "keep", counts, old_counts)
        expansion = expansion_of(change, recipe.method, counts)
        with explained(output.url):
            stats = {"text": counted, "missed": change.missed, **told, "forms": write(output, change.grown)}
        output.write(EXPANSION, expansion.model_dump_json().encode())
        if sample and units:
            both = [places.base, output.url]
            before, after = score_into(output, [base, change.grown], both, units, label, sample, engine, places.pattern)
            stats["score"] = {"before": before["total"], "after": after["total"]}
        output.write(STATS, orjson.dumps(stats, option=orjson.OPT_INDENT_2))
        return stats


def _split(base: Tokenizer, encoder: Compiled, recipe: ExpandRecipe) -> SplitOptions:
    """How text is cut for counting: as the base cuts it; on characters, as the recipe says."""
    if base.family == "byte-bpe":
        return encoder.split
    return SplitOptions.model_validate({**recipe.split.model_dump(), "pattern": "metaspace"})
