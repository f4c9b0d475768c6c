"""The passes that find duplicates, in order.

Equal texts, then near-duplicates: keys and bands, buckets, components, verification. They look at texts and signatures,
and are done once. Then, among what the rules of a recipe leave, canonical URLs, the choice of what stays, and repeated
passages: these look at labels (passages at texts too) and are done anew when rules change. At the end stand
`dedup/labels/`, and `dedup/pairs/` with the verified pairs; beside them what changed rules start from, some dozen bytes
a document. What was only on its way is deleted.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tilth.errors import DirectoryConflict, UsageError
from tilth.ledger import Ledger
from tilth.storage import Folder
from tilth.work import Engine, Outcome, Unit

from ..label import VERSIONS
from ..recipe import CurateRecipe
from ..run import DUPLICATES, Run
from . import near
from .census import Census
from .choose import (
    ADDRESSED,
    ADDRESSES,
    CHOSEN,
    MEMBERS,
    AddressedWorker,
    AddressWorker,
    ChooseWorker,
    MemberWorker,
)
from .components import connect
from .exact import COPIES, KEYS, PARTITION, CopyWorker, KeyWorker
from .labels import DuplicatesWorker
from .repeats import ANCHORED, ANCHORS, PASSAGES, REPEATS, PassageWorker, RepeatWorker, passage_partitions
from .shuffle import names, partitions

VERSION = 2  # goes up whenever the same labels would get other duplicates
OVER_TEXTS = ("gather", "verify", "anchors", "passages")
SMALL = 16 * 2**20  # bytes of text that passes over texts do without processes of their own


class Failed(Exception):
    """Units of a pass failed, and what follows cannot be done."""


class Passes:
    """The passes over one run's documents, beside those that earlier runs kept."""

    def __init__(self, run: Run, engine: Engine, light: int):
        self._run = run
        self._engine = engine
        self._options = run.recipe.dedup
        self._minhash = run.recipe.labels.minhash
        earlier = earlier_runs(run.recipe, run.folder)
        self._census = Census.of(run, earlier)
        self._light = self._census.documents < light
        self._basis = [run.fingerprint(), *(kept_fingerprint(one) for one in earlier)]

    def __call__(self) -> str:
        """Does what is not done yet; returns a hash of what the labels depend on. Raises Failed."""
        recipe = self._run.recipe
        graph = _hash(VERSION, self._basis, self._graph_options())
        clusters = self._clusters(graph)
        rules = recipe.model_dump(mode="json", include={"rules", "clean"})
        judged = _hash(graph, rules, self._options.url, self._options.url_keep)
        addressed = self._addressed(judged)
        chosen = self._chosen(judged, clusters, addressed)
        final = _hash(judged, self._options.passages)
        repeats = self._repeats(final, addressed, chosen)
        worker = partial(DuplicatesWorker, self._census, addressed, chosen, repeats)
        self._pass("duplicates", self._census.units(), worker, [DUPLICATES], final)
        return final

    def _graph_options(self) -> Any:
        """What of the options the verified pairs depend on."""
        return self._options.model_dump(mode="json", exclude={"url", "url_keep", "passages", "against"})

    def _clusters(self, depends: str) -> list[str]:
        """Equal texts and verified pairs; the keys of the units that hold their clusters."""
        census, options = self._census, self._options
        keys = names("part", partitions(census.bytes, near.COMPONENT_BYTES))
        if not self._stands("verify", keys, [near.PAIRS, near.CLUSTERS], depends):
            groups = census.units(all_runs=True)
            sources = [unit.key for unit in groups]
            parts = partitions(census.documents, PARTITION)
            worker = partial(KeyWorker, census, options.quality, parts)
            self._pass("keys", groups, worker, [KEYS], depends)
            copies = [Unit(key, place, 1) for place, key in enumerate(names("range", parts))]
            worker = partial(CopyWorker, census, sources, parts)
            found = self._pass("copies", copies, worker, [COPIES], depends)
            copied = [unit.key for unit in copies]
            edges = self._edges(groups, copied, depends) if options.near else {}
            files = {f"{near.EDGES}/{key}.arrow": count for key, count in edges.items()}
            files |= {f"{COPIES}/{key}.arrow": record["counts"]["copies"] for key, record in found.records.items()}
            joined = connect(self._engine, self._run.folder, files, census.documents, depends, self._light)
            if joined.failed:
                raise Failed(joined.failed)
            worker = partial(near.GatherWorker, census, self._minhash, list(edges), copied, len(keys))
            self._pass("gather", groups, worker, [near.SETS, near.CANDIDATES, near.LINKS], depends)
            verify = [Unit(key, place, 1) for place, key in enumerate(keys)]
            worker = partial(near.VerifyWorker, census, sources, len(keys), options.verify)
            self._pass("verify", verify, worker, [near.PAIRS, near.CLUSTERS], depends)
        self._drop(keys=[KEYS], copies=[COPIES], bands=[near.BANDS], edges=[near.EDGES, near.ENDS])
        self._drop(gather=[near.SETS, near.CANDIDATES, near.LINKS])
        Ledger(self._run.folder, "components").forget()
        for folder in ("dedup/components", "dedup/components-passes"):
            self._run.folder.delete(folder)
        return keys

    def _edges(self, groups: Sequence[Unit], copied: Sequence[str], depends: str) -> dict[str, int]:
        """Candidate pairs: how many, by the unit that made them."""
        bands, _ = self._options.banding(self._minhash.permutations)
        count, buckets = near.bucket_units(self._census.documents, bands)
        worker = partial(near.BandWorker, self._census, self._options, self._minhash, copied, count)
        self._pass("bands", groups, worker, [near.BANDS], depends)
        worker = partial(near.EdgeWorker, self._census, [unit.key for unit in groups], bands * count)
        found = self._pass("edges", buckets, worker, [near.EDGES, near.ENDS], depends)
        return {key: record["counts"]["edges"] for key, record in found.records.items()}

    def _addressed(self, depends: str) -> list[str]:
        """Documents of one canonical URL; the keys of the units that found them."""
        if not self._options.url:
            self._drop(addresses=[ADDRESSES], addressed=[ADDRESSED])
            return []
        keys = names("range", partitions(self._census.documents, PARTITION))
        if not self._stands("addressed", keys, [ADDRESSED], depends):
            groups = self._census.units(all_runs=True)
            worker = partial(AddressWorker, self._census, self._run.recipe, len(keys))
            self._pass("addresses", groups, worker, [ADDRESSES], depends)
            units = [Unit(key, place, 1) for place, key in enumerate(keys)]
            sources = [unit.key for unit in groups]
            worker = partial(AddressedWorker, self._census, self._run.recipe, sources, len(keys))
            self._pass("addressed", units, worker, [ADDRESSED], depends)
        self._drop(addresses=[ADDRESSES])
        return keys

    def _chosen(self, depends: str, clusters: Sequence[str], addressed: Sequence[str]) -> list[str]:
        """What stays of each cluster."""
        if not self._stands("chosen", clusters, [CHOSEN], depends):
            groups = self._census.units(all_runs=True)
            worker = partial(MemberWorker, self._census, self._run.recipe, clusters, addressed)
            self._pass("members", groups, worker, [MEMBERS], depends)
            units = [Unit(key, (place, key), 1) for place, key in enumerate(clusters)]
            worker = partial(ChooseWorker, self._census, [unit.key for unit in groups], len(clusters))
            self._pass("chosen", units, worker, [CHOSEN], depends)
        self._drop(members=[MEMBERS])
        return list(clusters)

    def _repeats(self, depends: str, addressed: Sequence[str], chosen: Sequence[str]) -> list[str]:
        """Passages that stand more than once."""
        options = self._options.passages
        temporary = {"anchors": [ANCHORS], "anchored": [ANCHORED], "passages": [PASSAGES]}
        if not options.any():
            self._drop(**temporary, repeats=[REPEATS])
            return []
        keys = names("range", passage_partitions(self._census))
        if not self._stands("repeats", keys, [REPEATS], depends):
            groups = self._census.units()
            sources = [unit.key for unit in groups]
            units = [Unit(key, place, 1) for place, key in enumerate(keys)]
            deal = partial(PassageWorker, self._census, self._run.recipe, addressed, chosen, len(keys))
            if options.substrings:
                self._pass("anchors", groups, partial(deal, None), [ANCHORS], depends)
                worker = partial(RepeatWorker, self._census, ANCHORS, ANCHORED, sources, len(keys))
                self._pass("anchored", units, worker, [ANCHORED], depends)
            shared = keys if options.substrings else []
            self._pass("passages", groups, partial(deal, shared), [PASSAGES], depends)
            worker = partial(RepeatWorker, self._census, PASSAGES, REPEATS, sources, len(keys))
            self._pass("repeats", units, worker, [REPEATS], depends)
        self._drop(**temporary)
        return keys

    def _pass(
        self, name: str, units: Sequence[Unit], build: Callable[[], Any], outputs: Sequence[str], depends: str
    ) -> Outcome:
        folder = self._run.folder
        light = self._light and (name not in OVER_TEXTS or self._census.bytes < SMALL)
        outcome = self._engine.run(f"dedup-{name}", units, build, folder, outputs, light=light, depends_on=depends)
        if outcome.failed:
            raise Failed(outcome.failed)
        return outcome

    def _stands(self, name: str, keys: Sequence[str], outputs: Sequence[str], depends: str) -> bool:
        """Whether a pass is done: then those that led to it need not be."""
        ledger = Ledger(self._run.folder, f"dedup-{name}")
        ledger.serve(depends)
        return set(keys) <= ledger.reconcile(outputs).keys()

    def _drop(self, **passes: Sequence[str]) -> None:
        """Forgets passes and deletes their outputs, also those of a run that was killed while it did this."""
        for name, outputs in passes.items():
            Ledger(self._run.folder, f"dedup-{name}").forget()
            for output in outputs:
                self._run.folder.delete(output)


def find_duplicates(run: Run, engine: Engine, light: int) -> tuple[str, Mapping[str, str]]:
    """Labels every document of a run with its duplicates; fewer documents than `light` need no processes of their own.

    Returns a hash of what the labels depend on, and the units that failed, with reasons.
    """
    if not any(record["counts"]["documents"] for record in run.documents.values()):
        return "", {}
    try:
        return Passes(run, engine, light)(), {}
    except Failed as error:
        return "", error.args[0]


def earlier_runs(recipe: CurateRecipe, output: Folder) -> list[Run]:
    """The earlier runs that a recipe names. Raises UsageError for one that cannot be compared with."""
    found = []
    for url in recipe.dedup.against:
        if Folder(url).url == output.url:
            raise UsageError(f"dedup.against: {url} is this run itself")
        try:
            earlier = Run(Folder(url))
        except DirectoryConflict as error:
            advice = "--set 'dedup.against=[]' does without it, and keeps again what it kept"
            raise UsageError(f"dedup.against: {error}; {advice}") from error
        if earlier.recipe.labels.minhash != recipe.labels.minhash:
            raise UsageError(f"dedup.against: {url} has signatures of other labels.minhash; they cannot be compared")
        if not earlier.recipe.labels.measured("dup") or earlier.request["labels"]["dup"] != VERSIONS["dup"]:
            raise UsageError(
                f"dedup.against: {url} has no signatures; `tilth curate label` adds them there (--family dup)"
            )
        written = {key for key, record in earlier.documents.items() if record["counts"]["documents"]}
        if earlier.missing or written - Ledger(earlier.folder, "decide").records().keys():
            raise UsageError(f"dedup.against: {url} is not finished; give its command again first")
        found.append(earlier)
    return found


def kept_fingerprint(run: Run) -> str:
    """What a later run depends on: the documents, and which of them are kept."""
    decided = Ledger(run.folder, "decide").records()
    return _hash(run.fingerprint(), [(key, record["files"]) for key, record in decided.items()])


def _hash(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
