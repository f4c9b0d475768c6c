"""Training of new tokens' rows alone: everything else in a model stays as it is, bit for bit.

`tilth tokenize embed` writes which rows are new. Only the matrices with a row for each token are trained, and their old
rows never get a gradient, so that no optimizer moves them or remembers anything of them; they do not decay either.

A run that trains new rows first and then all has a trainer for each of the two: the second takes the weights of the
first's last checkpoint, and its optimizer begins anew.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from tilth.errors import InputError, UsageError

if TYPE_CHECKING:
    import torch

# Of Megatron-core's models: what has a row, or an entry, for each token. A tied head has none of its own, except for
# the copy of the embedding that it keeps on another pipeline stage.
BY_TOKEN = ("embedding.word_embeddings.weight", "output_layer.weight", "output_layer.bias")


def read_rows(path: str | Path) -> list[int]:
    """The rows that a `new_rows.json` (or an `expansion.json`) names. Raises InputError."""
    try:
        found = orjson.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    rows = found.get("new_rows") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not all(type(row) is int and row >= 0 for row in rows):
        raise InputError(f"{path}: names no new_rows; take the new_rows.json that tilth tokenize embed wrote")
    if not rows:
        raise InputError(f"{path}: no row is new, so there is nothing to train; leave new_rows out")
    return rows


def train_rows_only(chunks: Sequence[Any], rows: Sequence[int]) -> None:
    """Freezes this rank's model chunks but for `rows` (token ids) of the embedding and the output head.

    Call it before DistributedDataParallel wraps them: that takes what has gradients. Pipeline stages between the first
    and the last then train nothing, and pass gradients on. Raises UsageError for a row that the model does not have.
    """
    import torch
    from megatron.core import parallel_state
    from megatron.core.utils import get_attr_wrapped_model

    rank, size = (
        parallel_state.get_tensor_model_parallel_rank(),
        parallel_state.get_tensor_model_parallel_world_size(),
    )
    for chunk in chunks:
        for parameter in chunk.parameters():
            parameter.requires_grad_(False)
        count = get_attr_wrapped_model(chunk, "vocab_size")
        if max(rows) >= count:
            raise UsageError(f"new row {max(rows)}, and the model has {count} rows; take its own new_rows.json")
        trained = torch.zeros(count, dtype=torch.bool)
        trained[list(rows)] = True
        for parameter in _by_token(chunk, count // size):
            kept = ~trained[rank * len(parameter) : (rank + 1) * len(parameter)].to(parameter.device)
            parameter.requires_grad_(True)
            parameter.new_rows_only = True  # which the optimizer reads: it does not decay them
            parameter.register_hook(partial(_without, kept))


def _by_token(chunk: Any, length: int) -> Iterator[Any]:
    for name, parameter in chunk.named_parameters():
        if name.endswith(BY_TOKEN) and len(parameter) == length:  # a scalar head has one row
            yield parameter


def _without(kept: "torch.Tensor", gradient: "torch.Tensor") -> "torch.Tensor":
    """The gradient with 0 for the rows that are kept, whatever stood there."""
    return gradient.masked_fill(kept.view(-1, *[1] * (gradient.dim() - 1)), 0)
