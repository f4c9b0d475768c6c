"""Hugging Face model directories whose vocabulary changes: safetensors in, safetensors out.

`embed` rewrites the tensors that have a row for each token and takes everything else as it is; `only_embeddings` keeps
just these tensors. What the new rows are is `embed.py`'s matter. An output appears whole or not at all.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from tilth.errors import DirectoryConflict, ModelError, NoSpaceLeft, StorageError
from tilth.storage import explained

from .embed import EmbedOptions, mixture, resized
from .expansion import EXPANSION, Expansion
from .tokenizer import CONFIG, SELFTEST, TOKENIZER, load

if TYPE_CHECKING:
    import torch

Shapes = Mapping[str, tuple[int, ...]]  # by tensor

MODEL = "model.safetensors"
INDEX = "model.safetensors.index.json"
MODEL_CONFIG = "config.json"
GENERATION = "generation_config.json"
NEW_ROWS = "new_rows.json"
TOKENIZER_FILES = (
    TOKENIZER, CONFIG, SELFTEST, EXPANSION, "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip

# A row for each token have: LLaMA's embed_tokens and lm_head, GPT-2's wte, GPT-NeoX's embed_in and embed_out, BERT's
# word_embeddings, T5's shared, and whatever else has that many rows, outside numbered layers, and counts no positions.
_VOCABULARY = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings|shared|lm_head|embed_out)\.weight$")
_BIAS = re.compile(r"(^|\.)(lm_head|embed_out|predictions|(lm_head|predictions)\.decoder)\.bias$")
_OTHER = re.compile(r"\.\d+\.|position|wpe|token_type")


def embed(
    base: Path,
    expansion: Expansion,
    tokenizer: Path | None,
    output: Path,
    options: EmbedOptions,
    vectors: np.ndarray | None = None,
) -> dict[str, Any]:
    """Writes to `output` the model in `base` with rows for the expanded tokenizer, and that tokenizer's files.

    Embedding, head (where there is one of its own) and output bias keep their types (bfloat16, float16, float32,
    float64), and old rows their bits. `vectors` are what focus needs. What is returned stands in `new_rows.json` too:
    new_rows (ids), size (tokens), rows (with padding), method, and tensors (their names), so that training can update
    only the new rows of these.

    Shards that hold none of these are links to the base's files. Memory: one shard, and one of its tensors in float32
    twice. Raises ModelError for a base that is no safetensors model or fits neither expansion nor itself,
    DirectoryConflict for an output that is not empty, StorageError.
    """
    _refuse_used(output)
    config, shards = _opened(base)
    rows = config["vocab_size"]
    if rows < expansion.base_size:
        raise ModelError(
            f"{base}: {rows:,} rows for a base tokenizer of {expansion.base_size:,} ids; name the model it belongs to"
        )
    if tokenizer is not None and (size := load(tokenizer, check=False).size) != expansion.size:
        raise ModelError(
            f"{tokenizer}: {size:,} ids, and the expansion makes {expansion.size:,}; take that one's tokenizer"
        )
    names = _vocabulary_tensors(base, shards, rows)
    mixed = mixture(expansion, options, vectors)
    report = {
        "new_rows": list(expansion.new_rows),
        "size": expansion.size,
        "rows": options.rows(expansion.size),
        "method": options.method,
        "tensors": names,
    }
    with _appearing(output) as scratch:
        moved = _moved_ids(config, expansion, base / MODEL_CONFIG)
        _write_json(scratch / MODEL_CONFIG, moved | {"vocab_size": report["rows"]})
        if (base / GENERATION).exists():
            generation = _read_json(base / GENERATION)
            _write_json(scratch / GENERATION, _moved_ids(generation, expansion, base / GENERATION))
        _write_json(scratch / NEW_ROWS, report)
        _copy(base, _names(base, "*.py"), scratch)
        if tokenizer is not None:
            _copy(tokenizer, [*TOKENIZER_FILES, *_names(tokenizer, "*.tiktoken")], scratch)
        _resize(base, shards, names, scratch, lambda tensor, where: _resized(tensor, expansion, mixed, options, where))
    return report


def _resize(
    base: Path,
    shards: Mapping[str, Shapes],
    names: Sequence[str],
    scratch: Path,
    remade: "Callable[[torch.Tensor, str], torch.Tensor]",
) -> None:
    """Writes all shards, and their index if there is one: named tensors as `remade` makes them, others as they are."""
    size = numbers = 0
    for shard, shapes in shards.items():
        inside = [name for name in names if name in shapes]
        if not inside:
            _link(base / shard, scratch / shard)
            continue
        tensors, metadata = _read(base / shard)
        for name in inside:
            before = tensors[name]
            after = tensors[name] = remade(before, f"{base / shard}: {name}")
            size += after.nbytes - before.nbytes
            numbers += after.numel() - before.numel()
        _write(scratch / shard, tensors, metadata)
    if MODEL not in shards:
        _write_json(scratch / INDEX, _grown(_read_json(base / INDEX), size, numbers))


def only_embeddings(base: Path, output: Path) -> dict[str, Any]:
    """Writes to `output` the model in `base` without anything but its embedding, head and output bias: loaded from
    there, every other weight begins at random. Configuration and tokenizer stay. Returns tensors, their names.

    Raises as `embed` does.
    """
    _refuse_used(output)
    config, shards = _opened(base)
    names = _vocabulary_tensors(base, shards, config["vocab_size"])
    kept: dict[str, torch.Tensor] = {}
    for shard, shapes in shards.items():
        inside = [name for name in names if name in shapes]
        kept |= _read(base / shard, inside)[0] if inside else {}
    with _appearing(output) as scratch:
        _write(scratch / MODEL, kept, {"format": "pt"})
        carried = (MODEL_CONFIG, GENERATION, NEW_ROWS, *TOKENIZER_FILES)
        _copy(base, [*carried, *_names(base, "*.py"), *_names(base, "*.tiktoken")], scratch)
    return {"tensors": names}


def _opened(base: Path) -> tuple[dict[str, Any], dict[str, Shapes]]:
    """The configuration and, by name of its file, what tensors the model has. Raises ModelError."""
    config = _read_json(base / MODEL_CONFIG)
    rows = config.get("vocab_size")
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
        raise ModelError(f"{base / MODEL_CONFIG}: tells no vocab_size; tilth knows models of text alone")
    if (base / MODEL).exists():
        return config, {MODEL: _shapes(base / MODEL)}
    if (base / INDEX).exists():
        listed = _read_json(base / INDEX).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise ModelError(f"{base / INDEX}: lists no tensors; take the file from its source")
        shards = {shard: _shapes(base / shard) for shard in sorted(set(listed.values()))}
        lost = next((name for name, shard in listed.items() if name not in shards[shard]), None)
        if lost:
            raise ModelError(f"{base / listed[lost]}: lacks {lost}, which the index promises; take it from its source")
        return config, shards
    if any(base.glob("pytorch_model*.bin")):
        raise ModelError(f"{base}: holds pickled weights, which can run code; save the model as safetensors first")
    raise ModelError(f"{base}: no model (neither {MODEL} nor {INDEX})")


def _vocabulary_tensors(base: Path, shards: Mapping[str, Shapes], rows: int) -> list[str]:
    """Names, sorted, of the tensors with a row, or an entry, for each token."""
    found = []
    for shapes in shards.values():
        for name, shape in shapes.items():
            known = bool(_VOCABULARY.search(name)) and len(shape) == 2
            if known and shape[0] != rows:
                raise ModelError(f"{base}: {name} has {shape[0]:,} rows, {MODEL_CONFIG} says {rows:,}; make them agree")
            if shape[:1] == (rows,) and (
                known or (len(shape) == 1 and _BIAS.search(name)) or (len(shape) == 2 and not _OTHER.search(name))
            ):
                found.append(name)
    if not found:
        raise ModelError(f"{base}: no tensor has a row for each of the {rows:,} tokens of {MODEL_CONFIG}")
    return sorted(found)


def _resized(
    tensor: "torch.Tensor", expansion: Expansion, mixed: sparse.csr_array, options: EmbedOptions, where: str
) -> "torch.Tensor":
    """The tensor of the new vocabulary, computed in float32 or better; biases are mixed as rows are."""
    import torch

    if tensor.dtype not in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        raise ModelError(f"{where} is of {tensor.dtype}, which has no means; save the model unquantized first")
    matrix = (tensor if tensor.dtype == torch.float64 else tensor.float()).numpy()
    if tensor.dim() == 1:
        method = "mean" if options.method == "random" else options.method
        options = options.model_copy(update={"method": method, "norm": "kept"})
        return torch.from_numpy(resized(matrix[:, None], expansion, mixed, options)[0][:, 0].copy()).to(tensor.dtype)
    return torch.from_numpy(resized(matrix, expansion, mixed, options)[0]).to(tensor.dtype)


def _moved_ids(config: Mapping[str, Any], expansion: Expansion, place: Path) -> dict[str, Any]:
    """The configuration with every token id that it names (`eos_token_id`, one or several) where that token is now."""
    moves = expansion.moves

    def moved(key: str, value: Any) -> Any:
        if isinstance(value, list):
            return [moved(key, one) for one in value]
        if not isinstance(value, int) or not 0 <= value < len(moves):
            return value
        if moves[value] < 0:
            raise ModelError(f"{place}: {key} is {value}, a token that went; expand so that it stays")
        return int(moves[value])

    return {key: moved(key, value) if key.endswith("_token_id") else value for key, value in config.items()}


def _grown(index: dict[str, Any], size: int, numbers: int) -> dict[str, Any]:
    """The index of shards, its totals brought up to date."""
    metadata = dict(index.get("metadata") or {})
    for key, more in (("total_size", size), ("total_parameters", numbers)):
        if key in metadata:
            metadata[key] += more
    return index | {"metadata": metadata}


def _refuse_used(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DirectoryConflict(f"{output}: exists and is not empty; choose another --output")


@contextlib.contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """A folder beside `output` that takes its name when all is done, and goes where it is not."""
    scratch = output.absolute().parent / f".{output.absolute().name}.part"
    with explained(str(output)):
        shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
        scratch.mkdir(parents=True)
        try:
            yield scratch
            for path in scratch.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            os.replace(scratch, output)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _read_json(place: Path) -> dict[str, Any]:
    try:
        found = json.loads(place.read_bytes())
    except OSError as error:
        raise ModelError(f"{place}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ModelError(f"{place}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ModelError(f"{place}: not a JSON object")
    return found


def _write_json(place: Path, content: Mapping[str, Any]) -> None:
    place.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _names(folder: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


def _copy(folder: Path, names: Iterable[str], to: Path) -> None:
    for name in names:
        if (folder / name).exists():
            shutil.copyfile(folder / name, to / name)


def _link(place: Path, to: Path) -> None:
    """The same file under another name; a copy where the file system has no such thing."""
    try:
        os.link(place.resolve(), to)
    except OSError:
        shutil.copyfile(place, to)


@contextlib.contextmanager
def _reading(place: Path) -> Iterator[Any]:
    """A safetensors file, open. Raises ModelError for what is none, or where torch is missing."""
    try:
        import torch  # noqa: F401 (safetensors imports it by itself, and says less)
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ModelError("models need torch, which is not installed; install tilth[train]") from error
    try:
        with safe_open(place, "pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{place}: not a whole safetensors file ({error}); take it from its source") from error


def _shapes(place: Path) -> Shapes:
    with _reading(place) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)


def _read(place: Path, names: Sequence[str] | None = None) -> "tuple[dict[str, torch.Tensor], dict[str, str]]":
    """Tensors (all, or the named ones) and the file's metadata."""
    with _reading(place) as file:
        return {name: file.get_tensor(name) for name in names or file.keys()}, file.metadata() or {}


def _write(place: Path, tensors: "Mapping[str, torch.Tensor]", metadata: Mapping[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), place, dict(metadata))
    except SafetensorError as error:  # the library keeps the system's own error to itself
        kind = NoSpaceLeft if "No space" in str(error) else StorageError
        raise kind(f"{place.parent}: {error}") from error
