"""`tilth demo`: the whole way on a small crawl that it writes itself."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from tilth.work import WorkOptions

EXAMPLE = "Example: tilth demo demo-run/"
VOCAB_SIZE = 1000
LABEL = "lang.code"  # by which losses are told
TRAINING = [  # about 3 million parameters, two processes, a minute; the best text comes last
    "tokens=184320",
    "model={preset: tiny, layers: 6}",
    "stages.rapid.ramp=[]",
    "batch={size: 8, micro: 4, length: 256}",
    "parallel.tensor=2",
    "checkpoint.every=45",
    "validation.every=45",
]
STAGED = "late-quality"
PROMPT, TOKENS = "The ", 60


def demo(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Where to put the crawl and the run.")] = "demo-run",
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes at work.")] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Do everything in this process, without Ray.")
    ] = False,
) -> None:
    """Write a small crawl, curate it, learn a tokenizer, encode it, train a model on it, and say where to look."""
    from pathlib import Path

    from tilth.errors import DirectoryConflict
    from tilth.progress import Progress
    from tilth.recipe import load_recipe
    from tilth.storage import Folder, explained
    from tilth.work import WorkOptions

    from ..curate.demo import write_crawl
    from ..curate.pipeline import curate
    from ..curate.recipe import PACKAGE, CurateRecipe
    from .curate import _finish

    place = Path(directory)
    crawl, run = place / "crawl", place / "curated"
    with explained(directory):
        written = write_crawl(crawl)
    print(f"{crawl}: {written.records + written.garbage} records of a small web, written for this demo")
    recipe = load_recipe(CurateRecipe, "demo", PACKAGE)
    work = WorkOptions(workers=workers, in_process=in_process)
    folder = Folder(run)
    try:
        result = curate([str(crawl)], folder, "demo", recipe, work, Progress(folder))
    except DirectoryConflict:  # a demo of another version
        result = curate([str(crawl)], folder, "demo", recipe, work, Progress(folder), fresh=True)
    _finish(result, str(run), as_json=False)
    spam = next(entry.url for entry in written.entries if entry.kind == "spam" and entry.url)
    print(f"what became of one page: {_program()} curate why {run} {spam}")
    _tokenize(run, place, work)
    _train(place)


def _program() -> str:
    """How the reader calls this program."""
    import shutil
    import sys

    return "tilth" if shutil.which("tilth") else sys.argv[0]


def _tokenize(run: "Path", place: "Path", work: "WorkOptions") -> None:
    """A tokenizer of the demo's corpus, and the corpus as tokens."""
    from tilth.errors import DirectoryConflict
    from tilth.progress import Progress
    from tilth.recipe import load_recipe
    from tilth.storage import Folder

    from ..tokenize.encode import EncodeOptions, encode
    from ..tokenize.recipe import PACKAGE, TokenizerRecipe
    from ..tokenize.train import train

    recipe = load_recipe(TokenizerRecipe, "byte-bpe", PACKAGE, [f"vocab_size={VOCAB_SIZE}"])
    folder, shards = Folder(place / "tokenizer"), Folder(place / "shards")
    try:
        made = train([str(run)], folder, "byte-bpe", recipe, work, Progress(folder))
        stats = encode([str(run)], folder.url, shards, EncodeOptions(label=LABEL), work, Progress(shards))
    except DirectoryConflict:  # a demo of another version
        made = train([str(run)], folder, "byte-bpe", recipe, work, Progress(folder), fresh=True)
        stats = encode([str(run)], folder.url, shards, EncodeOptions(label=LABEL), work, Progress(shards), fresh=True)
    score = made.stats["score"]["bytes_per_token"]
    print(f"{folder.url}: {made.tokenizer.size:,} ids, {score:.2f} bytes a token; report: {folder.url}/report.html")
    print(f"{shards.url}: {stats['tokens']:,} tokens of {stats['documents']:,} documents, as Megatron reads them")


def _train(place: "Path") -> None:
    """A small model of the demo's tokens, on two processes by tensor parallelism, and what it writes."""
    import importlib.util

    from tilth.errors import DirectoryConflict
    from tilth.recipe import load_recipe
    from tilth.storage import Folder

    if importlib.util.find_spec("megatron") is None:
        print("no model is trained: pip install 'tilth[train]'")
        return
    from ..tokenize.tokenizer import load
    from ..train.recipe import PACKAGE, TrainRecipe
    from ..train.run import Launch, run
    from ..train.sample import continuation

    recipe = load_recipe(TrainRecipe, STAGED, PACKAGE, TRAINING)
    shards, tokenizer, folder = str(place / "shards"), str(place / "tokenizer"), Folder(place / "model")
    try:
        stats = run([shards], tokenizer, folder, STAGED, recipe, Launch())
    except DirectoryConflict:  # a demo of another version
        stats = run([shards], tokenizer, folder, STAGED, recipe, Launch(), fresh=True)
    about = stats["about"]
    print(
        f"{folder.url}: {about['parameters']:,} parameters, {stats['steps']} steps on 2 processes, "
        f"held-out loss {stats['validation']:.2f}; by part of the mixture, and more: {folder.url}/report.html"
    )
    print(f"its stages: {folder.url}/plan.html; what a step saw: {_program()} train which {folder.url} --step 80")
    written = continuation(folder.url, load(tokenizer), PROMPT, TOKENS)
    print(f"what it writes behind {PROMPT!r}, with another split than it was trained with: {written!r}")
