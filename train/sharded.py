"""What a checkpoint holds of a model and its optimizer: tensors by name, and where in the whole each rank's parts are.

Megatron-core's models tell this of their weights. Of optimizers it has one layout for each of its wrappers, and for
Adam alone; here there is one for all. A state that is as large as its parameter is `optimizer.state.STATE.PARAMETER`
and lies as the parameter does, the float32 copy of a parameter being its state `fp32_param`. A sharded optimizer holds
runs of a parameter's elements, which are cut into boxes; nothing is gathered. A checkpoint therefore does not show on
how many ranks it was written, nor whether the optimizer was sharded. What has one value for all parameters, such as
Adam's count of steps, is kept apart (`counts`).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, ShardedTensorFactory

from tilth.errors import TilthError

STATE = "optimizer.state."
MASTER = f"{STATE}fp32_param."  # the float32 copies of weights in 16 bits

Tensors = dict[str, list[ShardedTensor]]  # by global name; the data are views of what trains
Stored = Mapping[str, tuple[tuple[int, ...], torch.dtype]]  # what a checkpoint has: global shape and type by name
Box = tuple[tuple[int, ...], tuple[int, ...]]  # offset and size along each axis


def tensors(chunks: Sequence[Any], optimizer: Any = None) -> Tensors:
    """This rank's parts of all tensors of a model, and of its optimizer if there is one, whose state is made if it has
    not stepped yet. Reading into them is loading.

    Raises TilthError for a state of the optimizer that is neither as large as its parameter nor a number.
    """
    found: Tensors = defaultdict(list)
    weights: dict[int, tuple[torch.Tensor, list[ShardedTensor]]] = {}
    for chunk in chunks:
        for weight, parts in _weights(chunk):
            weights[id(weight)] = weight, parts
            for part in parts:
                found[part.key].append(part)
    for wrapper in _wrappers(optimizer):
        wrapper.init_state_fn(wrapper.optimizer, wrapper.config)
        instance = getattr(wrapper, "distributed_optimizer_instance_id", None)
        for parameter, start, stepped in _slots(wrapper):
            weight, parts = weights[id(parameter)]
            for name, state in _states(wrapper, weight, stepped):
                flat = state.detach().view(-1)
                for part in parts:
                    replica: Any = part.replica_id
                    if instance is not None:  # a sharded optimizer: no other rank has the same elements
                        replica = (*replica[:2], instance)
                    for piece in _pieces(part, weight, flat, start):
                        key = f"{STATE}{name}.{part.key}"
                        found[key].append(replace(piece, key=key, replica_id=replica))
    return dict(found)


def objects(chunks: Sequence[Any]) -> dict[str, list[ShardedObject]]:
    """What else Megatron-core's layers put into a checkpoint and look for when it loads one; ours is empty."""
    entries = (entry for chunk in chunks for entry in _entries(chunk))
    return {entry.unique_key: [entry] for entry in entries if isinstance(entry, ShardedObject)}


def boxes(shape: Sequence[int], begin: int, end: int) -> Iterator[Box]:
    """The fewest boxes of an array of `shape` that elements begin..end of its flattened form make up, in order. Each is
    itself a run of elements."""
    if begin == end:
        return
    if len(shape) < 2:
        yield ((begin,), (end - begin,)) if shape else ((), ())
        return
    row = math.prod(shape[1:])
    (first, head), (last, tail) = divmod(begin, row), divmod(end, row)
    whole = (0,) * (len(shape) - 1), tuple(shape[1:])
    if first == last:
        pieces = [(first, 1, inner) for inner in boxes(shape[1:], head, tail)]
    else:
        pieces = [(first, 1, inner) for inner in boxes(shape[1:], head, row)] if head else []
        first += bool(head)
        pieces += [(first, last - first, whole)] if last > first else []
        pieces += [(last, 1, inner) for inner in boxes(shape[1:], 0, tail)]
    for at, many, (offset, size) in pieces:
        yield (at, *offset), (many, *size)


def counts(optimizer: Any) -> dict[str, Any]:
    """The optimizer's numbers: those that each parameter's state has (all the same), and the loss scalers' states.

    Raises TilthError where parameters differ.
    """
    numbers: dict[str, float] = {}
    for wrapper in _wrappers(optimizer):
        for _, _, stepped in _slots(wrapper):
            for name, value in wrapper.optimizer.state[stepped].items():
                if _is_number(value, stepped) and numbers.setdefault(name, float(value)) != float(value):
                    raise TilthError(
                        f"optimizer: {name} is {numbers[name]:g} for one parameter and {float(value):g} for another; "
                        "a checkpoint has one for all"
                    )
    scalers = [each.grad_scaler.state_dict() for each in _wrappers(optimizer) if _scaler(each)]
    return {"numbers": numbers, "scalers": scalers}


def set_counts(optimizer: Any, saved: Mapping[str, Any]) -> None:
    """Puts back what `counts` gave."""
    for wrapper in _wrappers(optimizer):
        for _, _, stepped in _slots(wrapper):
            state = wrapper.optimizer.state[stepped]
            for name, value in saved["numbers"].items():
                if isinstance(state.get(name), torch.Tensor):
                    state[name].fill_(value)  # it stays where the optimizer wants it
                else:
                    state[name] = type(state[name])(value) if name in state else torch.tensor(value)
    scaled = [wrapper for wrapper in _wrappers(optimizer) if _scaler(wrapper)]
    for wrapper, scaler in zip(scaled, saved["scalers"], strict=False):  # none from a run in another precision
        wrapper.grad_scaler.load_state_dict(scaler)


def sources(wanted: Tensors, stored: Stored) -> tuple[Tensors, Tensors]:
    """Under which names `wanted` is read, in two goes, the second being for what has a name twice.

    In a checkpoint of another precision float32 weights are the copies that 16-bit training keeps, and such copies are
    the float32 weights.
    """
    first, second = dict(wanted), {}
    for key, parts in wanted.items():
        if key not in stored:
            weight = key.removeprefix(MASTER)
            if weight != key and weight in stored:
                second[weight] = _renamed(first.pop(key), weight)
        elif f"{MASTER}{key}" in stored and f"{MASTER}{key}" not in wanted and parts[0].dtype == torch.float32:
            first[f"{MASTER}{key}"] = _renamed(first.pop(key), f"{MASTER}{key}")
    return first, second


def weights(wanted: Tensors) -> Tensors:
    """The weights alone, float32 copies included; not what an optimizer remembers."""
    return {key: parts for key, parts in wanted.items() if not key.startswith(STATE) or key.startswith(MASTER)}


def _renamed(parts: list[ShardedTensor], key: str) -> list[ShardedTensor]:
    return [replace(part, key=key) for part in parts]


def misfits(wanted: Mapping[str, Sequence[int]], stored: Mapping[str, Sequence[int]]) -> list[str]:
    """What differs between global shapes by name, those of a model and those in a checkpoint; where weights do, it is
    told of them alone."""
    here, there = ({key: "x".join(map(str, shape)) for key, shape in shapes.items()} for shapes in (wanted, stored))
    lines = {
        key: f"{key} is {there[key]} there, {here[key]} here" for key in here if here[key] != there.get(key, here[key])
    }
    lines |= {key: f"{key} ({shape}) is not there" for key, shape in here.items() if key not in there}
    lines |= {key: f"{key} ({shape}) is there, not here" for key, shape in there.items() if key not in here}
    return [line for key, line in lines.items() if not key.startswith(STATE)] or list(lines.values())


# --- the model -------------------------------------------------------------------------------------------------------


def _weights(chunk: Any) -> Iterator[tuple[torch.Tensor, list[ShardedTensor]]]:
    """Each tensor of a model chunk with its parts; several where halves of it lie apart in the whole (gate and up)."""
    for entry in _entries(chunk):
        if isinstance(entry, ShardedTensorFactory):
            yield entry.data, [_plain(part) for part in _leaves(entry.build())]
        elif isinstance(entry, ShardedTensor):
            assert entry.data is not None
            yield entry.data, [_plain(entry)]


def _entries(chunk: Any) -> Iterable[Any]:
    """What Megatron-core says of a model chunk, whose names do not depend on what it is wrapped in."""
    while hasattr(chunk, "module"):
        chunk = chunk.module
    return nested_values(chunk.sharded_state_dict(prefix=""))


def _leaves(built: Any) -> Iterable[ShardedTensor]:
    return [built] if isinstance(built, ShardedTensor) else nested_values(built)


def _plain(part: ShardedTensor) -> ShardedTensor:
    """The part with the axes of the whole, on no grid: boxes of any size then go by the same name."""
    assert part.data is not None
    assert part.data.is_contiguous(), part.key
    shape = (1,) * part.prepend_axis_num + tuple(part.local_shape)
    return replace(
        part,
        data=part.data.detach().view(shape),
        local_shape=shape,
        prepend_axis_num=0,
        axis_fragmentations=None,
        allow_shape_mismatch=False,
    )


def _pieces(part: ShardedTensor, weight: torch.Tensor, flat: torch.Tensor, start: int) -> Iterator[ShardedTensor]:
    """What `flat`, which goes with the elements of a weight from `start` on, has of one of the weight's parts."""
    assert part.data is not None
    origin = (part.data.data_ptr() - weight.data_ptr()) // weight.element_size()
    begin, end = max(start, origin), min(start + flat.numel(), origin + part.data.numel())
    at = begin - start
    for offset, size in boxes(part.local_shape, begin - origin, end - origin) if begin < end else ():
        many = math.prod(size)
        yield replace(
            part,
            data=flat[at : at + many].view(size),
            dtype=flat.dtype,
            local_shape=size,
            global_offset=tuple(sum(both) for both in zip(part.global_offset, offset, strict=True)),
        )
        at += many


# --- the optimizer ---------------------------------------------------------------------------------------------------


def _wrappers(optimizer: Any) -> list[Any]:
    """Megatron-core's wrappers around optimizers of torch: one for dense parameters, one for experts."""
    wrappers = getattr(optimizer, "chained_optimizers", [optimizer] if optimizer is not None else [])
    return [wrapper for wrapper in wrappers if not wrapper.is_stub_optimizer]


def _slots(wrapper: Any) -> Iterator[tuple[torch.Tensor, int, torch.Tensor]]:
    """Each parameter of the model that is stepped here, its first element that is, and what is stepped in its stead."""
    groups = wrapper.optimizer.param_groups
    if hasattr(wrapper, "model_param_group_index_map"):  # sharded
        for parameter, (group, number) in wrapper.model_param_group_index_map.items():
            run = wrapper._get_model_param_range_map(parameter)["param"]
            yield parameter, run.start, groups[group]["params"][number]
        return
    copies = zip(getattr(wrapper, "float16_groups", ()), getattr(wrapper, "fp32_from_float16_groups", ()), strict=True)
    originals = {id(copy): parameter for pair in copies for parameter, copy in zip(*pair, strict=True)}
    for stepped in (each for group in groups for each in group["params"]):
        yield originals.get(id(stepped), stepped), 0, stepped


def _states(wrapper: Any, weight: torch.Tensor, stepped: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The states of a parameter that are as large as it is here, by name."""
    if stepped.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr():
        yield "fp32_param", stepped
    for name, value in wrapper.optimizer.state[stepped].items():
        if isinstance(value, torch.Tensor) and value.shape == stepped.shape:
            yield name, value
        elif value is not None and not _is_number(value, stepped):
            raise TilthError(f"optimizer: its state {name} is not as large as its parameter, and cannot be saved")


def _is_number(value: Any, stepped: torch.Tensor) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and value.shape != stepped.shape
    return isinstance(value, int | float)


def _scaler(wrapper: Any) -> Any:
    return getattr(wrapper, "grad_scaler", None)
