"""`tilth tokenize`: from a corpus to a vocabulary and token shards."""

from typing import Annotated, Any, Literal

import typer

from .options import (
    AsJson,
    InProcess,
    Quiet,
    Ray,
    RecipeName,
    Settings,
    Workers,
    print_json,
    print_recipes,
    work_options,
)

app = typer.Typer(help="From a corpus to a vocabulary and token shards.", no_args_is_help=True, rich_markup_mode=None)

_INPUT = typer.Option(
    "--input", metavar="PATH", help="A curation run, JSONL, Parquet or .txt: file, folder, glob or URL."
)
Inputs = Annotated[list[str], _INPUT]
Output = Annotated[str, typer.Option("--output", metavar="DIR", help="Where the result is written.")]
Tokenizer = Annotated[
    str,
    typer.Option(
        "--tokenizer", metavar="TOK", help="A tokenizer directory, tokenizer.json, .model, .tiktoken or vocab.txt."
    ),
]
Pattern = Annotated[
    str | None,
    typer.Option("--pattern", help="How tiktoken's ranks cut words: gpt2, gpt4 or a regular expression."),
]
Sample = Annotated[int, typer.Option("--sample", min=0, help="MB of the text to score on; 0 for no score card.")]
Label = Annotated[
    str | None,
    typer.Option("--label", metavar="COLUMN", help="What labels documents: a column, such as lang.code, or `file`."),
]
ReadSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one thing, such as read.kind=lines or read.text_field=body."
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over where a result stands already.")]


@app.command(
    "train", epilog="Example: tilth tokenize train --input run/ --output tok/ --algorithm byte-bpe --vocab-size 32000"
)
def train(
    output: Output,
    inputs: Annotated[list[str] | None, _INPUT] = None,
    earlier: Annotated[
        list[str] | None,
        typer.Option("--counts", metavar="RUN", help="An earlier `train` whose counts are added. Repeatable."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="A shipped recipe by name, or a .yaml file; default: the algorithm's."),
    ] = None,
    algorithm: Annotated[
        Literal["byte-bpe", "bpe", "wordpiece", "unigram"] | None, typer.Option("--algorithm", help="What is learned.")
    ] = None,
    vocab_size: Annotated[int | None, typer.Option("--vocab-size", help="Ids, special tokens among them.")] = None,
    settings: Settings = None,
    sample: Sample = 64,
    workers: Workers = None,
    in_process: InProcess = False,
    ray: Ray = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Count the words of a corpus and learn a vocabulary from them. The same command again resumes.

    Writes tokenizer.json with its configuration (transformers and vLLM read it), where the family allows it
    tokenizer.model (SentencePiece) or ranks.tiktoken, the counts, a score card and a report.
    """
    from tilth.progress import Progress
    from tilth.recipe import load_recipe
    from tilth.storage import Folder

    from ..tokenize import train as room
    from ..tokenize.recipe import PACKAGE, TokenizerRecipe

    name = recipe or algorithm or "byte-bpe"
    own = [f"algorithm={algorithm}"] * bool(algorithm) + [f"vocab_size={vocab_size}"] * (vocab_size is not None)
    chosen = load_recipe(TokenizerRecipe, name, PACKAGE, [*own, *(settings or [])])
    folder = Folder(output)
    work = work_options(workers, in_process, ray)
    result = room.train(
        inputs or [], folder, name, chosen, work, Progress(folder, quiet), fresh, sample * 2**20, earlier or []
    )
    if as_json:
        print_json({"tokenizer": output, **result.stats})
    else:
        print(_trained(result.stats, output))


@app.command("expand", epilog="Example: tilth tokenize expand --base llama/ --add zh.model --output tok-zh/")
def expand(
    base: Annotated[str, typer.Option("--base", metavar="TOK", help="The tokenizer that is changed.")],
    output: Output,
    add: Annotated[
        list[str] | None, typer.Option("--add", metavar="TOK", help="A vocabulary whose tokens are added. Repeatable.")
    ] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", metavar="PATH", help="New text: tokens are learned from it.")
    ] = None,
    check: Annotated[
        list[str] | None, typer.Option("--check", metavar="PATH", help="Older text: what changes in it is told.")
    ] = None,
    method: Annotated[
        Literal["add", "replace", "prune"] | None,
        typer.Option("--method", help="Add tokens, give rows that the text never uses to new ones, or prune these."),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", min=1, help="How many tokens come (or, pruning, go).")
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", help="A shipped recipe by name, or a .yaml file.")] = "expand",
    settings: Settings = None,
    pattern: Pattern = None,
    sample: Sample = 64,
    workers: Workers = None,
    in_process: InProcess = False,
    ray: Ray = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Change an existing vocabulary for new text; old ids stay, and each new token can be reached.

    Tokens come from another vocabulary (--add), are learned on top of the old segmentation (--input), or both: then
    those that the text never uses are left out and others are learned in their place.
    """
    from tilth.progress import Progress
    from tilth.recipe import load_recipe
    from tilth.storage import Folder

    from ..tokenize import expand as room
    from ..tokenize.change import ExpandRecipe
    from ..tokenize.recipe import PACKAGE

    own = [f"method={method}"] * bool(method) + [f"tokens={tokens}"] * bool(tokens)
    chosen = load_recipe(ExpandRecipe, recipe, PACKAGE, [*own, *(settings or [])])
    folder = Folder(output)
    places = room.Places(base, add or [], inputs or [], check or [], pattern)
    work = work_options(workers, in_process, ray)
    stats = room.expand(places, folder, recipe, chosen, work, Progress(folder, quiet), fresh, sample * 2**20)
    if as_json:
        print_json({"tokenizer": output, **stats})
    else:
        print(_expanded(stats, output))


@app.command(
    "embed", epilog="Example: tilth tokenize embed --model llama-hf/ --tokenizer tok-zh/ --output llama-zh-hf/"
)
def embed(
    model: Annotated[str, typer.Option("--model", metavar="DIR", help="A Hugging Face checkpoint directory.")],
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", metavar="TOK", help="The expanded tokenizer's directory, with expansion.json.")
    ],
    output: Output,
    method: Annotated[
        Literal["random", "mean", "subword", "weighted", "focus"],
        typer.Option("--method", help="What a new row is made of."),
    ] = "subword",
    multiple: Annotated[
        int,
        typer.Option("--multiple", min=1, help="Rows are padded to a multiple of this: 128 x tensor parallel size."),
    ] = 128,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", metavar="PATH", help="focus: text to train token vectors on.")
    ] = None,
    sample: Annotated[int, typer.Option("--sample", min=1, help="focus: MB of that text.")] = 64,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one thing, such as norm=kept or seed=1."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give a model rows for the new tokens of an expanded tokenizer; new_rows.json says which rows these are."""
    from pathlib import Path

    from tilth.errors import UsageError
    from tilth.recipe import changed

    from ..tokenize import checkpoint, expansion
    from ..tokenize.embed import EmbedOptions

    own = {"method": method, "multiple": multiple}
    options = changed(EmbedOptions, own, settings or (), "embed")
    if options.method == "focus" and not inputs:
        raise UsageError("focus compares tokens by how the text uses them; name text with --input")
    told = expansion.read(tokenizer)
    vectors = _vectors(tokenizer, told.size, inputs or [], sample * 2**20) if options.method == "focus" else None
    result = checkpoint.embed(Path(model), told, Path(tokenizer), Path(output), options, vectors)
    if as_json:
        print_json(result)
    else:
        print(
            f"{len(told.new_rows):,} new rows, {result['rows']:,} in all, by {options.method}: "
            f"{', '.join(result['tensors'])}"
        )
        print(f"which rows are new: {output.rstrip('/')}/new_rows.json")


@app.command("encode", epilog="Example: tilth tokenize encode --input run/ --tokenizer tok/ --output shards/")
def encode(
    inputs: Inputs,
    tokenizer: Tokenizer,
    output: Output,
    end: Annotated[
        str | None, typer.Option("--end", metavar="TOKEN", help="What ends a document; default: the tokenizer's own.")
    ] = None,
    ends: Annotated[bool, typer.Option("--ends/--no-end", help="Whether documents end with a token.")] = True,
    begin: Annotated[
        str | None, typer.Option("--begin", metavar="TOKEN", help="A special token before each document.")
    ] = None,
    length: Annotated[
        int | None, typer.Option("--length", help="Cut or fill every document to this many tokens.")
    ] = None,
    style: Annotated[
        Literal["gpt", "bert"], typer.Option("--style", help="With --length: an end token, or [CLS] and [SEP].")
    ] = "gpt",
    label: Label = None,
    settings: ReadSettings = None,
    pattern: Pattern = None,
    workers: Workers = None,
    in_process: InProcess = False,
    ray: Ray = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn a corpus into token shards: Megatron's .bin and .idx, and the id and length of each document.

    Special tokens that text spells stay text. The same command again resumes.
    """
    from tilth.progress import Progress
    from tilth.recipe import changed
    from tilth.storage import Folder

    from ..tokenize import encode as room

    chosen = {"begin": begin, "end": end, "ends": ends, "length": length, "style": style}
    chosen |= {"label": label, "pattern": pattern}
    options = changed(room.EncodeOptions, chosen, settings or (), "encode")
    folder = Folder(output)
    work = work_options(workers, in_process, ray)
    stats = room.encode(inputs, tokenizer, folder, options, work, Progress(folder, quiet), fresh)
    if as_json:
        print_json({"shards": output, **stats})
    else:
        print(f"{stats['documents']:,} documents, {stats['tokens']:,} tokens, {stats['bytes'] / 1e6:,.1f} MB of text")
        if stats["cut"]:
            print(f"cut to {options.length:,} tokens: {stats['cut']:,} documents")
        if stats["shards"]:
            first = f"{output.rstrip('/')}/{stats['shards'][0]}.bin"
            print(f"{len(stats['shards'])} shards of {stats['dtype']}, the first: {first}")
        _tell_skipped(stats["skipped"])


@app.command(
    "score",
    epilog="Example: tilth tokenize score --tokenizer tok/ --tokenizer llama.model --input run/ --output scores/",
)
def score(
    tokenizers: Annotated[
        list[str],
        typer.Option("--tokenizer", metavar="TOK", help="A tokenizer, ours or foreign. Several stand side by side."),
    ],
    inputs: Inputs,
    output: Output,
    label: Label = None,
    sample: Annotated[int, typer.Option("--sample", min=1, help="MB of the text to score on.")] = 64,
    settings: ReadSettings = None,
    pattern: Pattern = None,
    workers: Workers = None,
    in_process: InProcess = False,
    ray: Ray = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure tokenizers on text: compression, coverage, dead tokens, round trip, speed; one page for all of them."""
    from tilth.progress import Progress
    from tilth.recipe import changed
    from tilth.storage import Folder

    from ..tokenize import scoring
    from ..tokenize.score_report import table

    chosen = {"sample": sample * 2**20, "label": label, "pattern": pattern}
    options = changed(scoring.ScoreOptions, chosen, settings or (), "score")
    folder = Folder(output)
    work = work_options(workers, in_process, ray)
    results = scoring.score(tokenizers, inputs, folder, options, work, Progress(folder, quiet), fresh)
    if as_json:
        print_json(results)
    else:
        print(table(results))
        print(f"report: {output.rstrip('/')}/{scoring.REPORT}")


@app.command("export", epilog="Example: tilth tokenize export zh.model --output zh-hf/")
def export(
    tokenizer: Annotated[
        str,
        typer.Argument(metavar="TOK", help="A tokenizer directory, tokenizer.json, .model, .tiktoken or vocab.txt."),
    ],
    output: Output,
    chat_template: Annotated[
        str | None, typer.Option("--chat-template", metavar="FILE", help="A Jinja template to go with it.")
    ] = None,
    pattern: Pattern = None,
    as_json: AsJson = False,
) -> None:
    """Write a tokenizer in every form that it has: tokenizer.json, tokenizer.model, ranks.tiktoken; all are checked."""
    from pathlib import Path

    from tilth.errors import InputError, UsageError
    from tilth.storage import explained

    from ..tokenize.export import write_directory
    from ..tokenize.tokenizer import load

    if Path(output).is_file():
        raise UsageError(f"--output {output}: is a file; name a directory")
    found = load(tokenizer, pattern)
    if chat_template:
        try:
            found.config["chat_template"] = Path(chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--chat-template {chat_template}: cannot be read ({error})") from error
    with explained(output):
        forms = write_directory(Path(output), found)
    if as_json:
        print_json({"tokenizer": output, "size": found.size, "forms": forms})
    else:
        print(f"{output}: {found.size:,} ids")
        print(_forms(forms))


@app.command("verify", epilog="Example: tilth tokenize verify tok/")
def verify(
    tokenizer: Annotated[str, typer.Argument(metavar="TOK", help="A tokenizer directory with its self-test.")],
) -> None:
    """Check that every form in a tokenizer directory gives the ids of its self-test, and the text back."""
    from pathlib import Path

    from tilth.errors import TilthError

    from ..tokenize.export import verify as check

    wrong = check(Path(tokenizer))
    if wrong:
        raise TilthError(f"{tokenizer}: {len(wrong)} differences, the first: {wrong[0]}")
    print(f"{tokenizer}: every form gives the same ids")


@app.command("recipes", epilog="Example: tilth tokenize recipes expand-zh > my.yaml")
def recipes(name: RecipeName = None) -> None:
    """List the recipes that travel with tilth, or print one."""
    from ..tokenize.recipe import PACKAGE

    print_recipes(PACKAGE, name)


def _vectors(tokenizer: str, size: int, inputs: list[str], sample: int) -> Any:
    """fastText vectors of the tokenizer's tokens, by id."""
    from ..curate.read import ReadOptions
    from ..tokenize.corpus import beginnings, plan
    from ..tokenize.embed import train_vectors
    from ..tokenize.tokenizer import load

    made = load(tokenizer)
    units = plan(inputs, ReadOptions(), None)
    return train_vectors((ids.tolist() for texts in beginnings(units, sample) for ids in made.encode(texts)), size)


def _trained(stats: dict[str, Any], output: str) -> str:
    rows = [
        f"{stats['size']:,} ids of the family {stats['family']}, from {stats['documents']:,} documents, "
        f"{sum(stats['bytes'].values()) / 1e6:,.1f} MB, {stats['words']:,} different words"
    ]
    if stats["pruned"]["words"]:
        rows.append(
            f"left out as rare: {stats['pruned']['words']:,} words, {stats['pruned']['occurrences']:,} occurrences"
        )
    if stats.get("score"):
        rows.append(f"{stats['score']['bytes_per_token']:.3f} bytes a token; report: {output.rstrip('/')}/report.html")
    _tell_skipped(stats["skipped"])
    return "\n".join([*rows, _forms(stats["forms"])])


def _expanded(stats: dict[str, Any], output: str) -> str:
    rows = [
        f"{stats['base_size']:,} ids before, {stats['size']:,} now: {stats['new']:,} new, {stats['removed']:,} removed",
        f"{stats['pieces']:,} pieces in its model; new ones that no text leads to: {stats['dead']:,}",
    ]
    for name, text in (("new_text", "new text"), ("old_text", "older text")):
        if name in stats:
            told = stats[name]
            before, after = told["bytes_per_token"]["before"], told["bytes_per_token"]["after"]
            rows.append(
                f"{text}: {before:.3f} bytes a token before, {after:.3f} now; "
                f"{100 * told['words_cut_otherwise']:.2f}% of words are cut otherwise"
            )
    if stats["missed"]:
        rows.append(f"not added: {len(stats['missed']):,} tokens, such as {stats['missed'][0]!r}")
    rows.append(f"which rows a model has to make: {output.rstrip('/')}/expansion.json")
    if "score" in stats:
        rows.append(f"report: {output.rstrip('/')}/report.html")
    return "\n".join([*rows, _forms(stats["forms"])])


def _forms(forms: dict[str, str | None]) -> str:
    written = [name for name, reason in forms.items() if reason is None]
    others = [f"no {name}: {reason}" for name, reason in forms.items() if reason]
    return "\n".join([f"written and checked: {', '.join(written)}", *others])


def _tell_skipped(skipped: dict[str, int]) -> None:
    if skipped:
        told = ", ".join(f"{number:,} {reason}" for reason, number in sorted(skipped.items()))
        typer.echo(f"records that were no documents: {told}", err=True)
