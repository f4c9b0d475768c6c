"""How a model and its data are split over processes: the sizes, what they must fit, and the groups."""

import datetime
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tilth.errors import UsageError

from .model.options import ModelOptions

if TYPE_CHECKING:
    import torch

    from .launch import Seat


class ParallelOptions(BaseModel):
    """Parallel sizes, as Megatron-core has them. Data parallelism takes what ranks are left."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensor: int = Field(default=1, ge=1, description="ranks that each matrix is split over")
    pipeline: int = Field(default=1, ge=1, description="ranks that the layers are split over")
    virtual: int = Field(
        default=1, ge=1, description="parts that each pipeline rank's layers are dealt in: more than 1 interleaves"
    )
    data: int = Field(default=1, ge=1, description="copies of the model, each with its share of a batch")
    context: int = Field(default=1, ge=1, description="ranks that a sequence is split over: needs TransformerEngine")
    expert: int = Field(default=1, ge=1, description="ranks that the experts are split over, among the data-parallel")
    sequence: bool = Field(
        default=False, description="split norms and dropout along the sequence too, over the tensor ranks"
    )
    shard_optimizer: bool = Field(
        default=False, description="split the optimizer's state over the data-parallel ranks (ZeRO 1)"
    )
    overlap: bool = Field(default=False, description="reduce gradients while backward goes on: for GPUs")

    @model_validator(mode="after")
    def _fits(self) -> "ParallelOptions":
        if self.sequence and self.tensor == 1:
            raise ValueError("sequence splits along the tensor ranks; with tensor 1 there is nothing to split")
        if self.virtual > 1 and self.pipeline == 1:
            raise ValueError(f"virtual {self.virtual} deals a pipeline's layers; there is no pipeline")
        if (self.data * self.context) % self.expert:
            raise ValueError(f"expert {self.expert} must divide data x context, {self.data * self.context}")
        return self

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.tensor * self.pipeline * self.data * self.context


def fit(model: ModelOptions, parallel: ParallelOptions, length: int, decoder_length: int | None = None) -> None:
    """Raises UsageError, with the numbers, where a model or sequences of `length` tokens cannot be split so."""
    for problem in misfits(model, parallel, length, decoder_length):
        raise UsageError(problem)


def misfits(model: ModelOptions, parallel: ParallelOptions, length: int, decoder_length: int | None) -> Iterator[str]:
    tensor, stages = parallel.tensor, parallel.pipeline * parallel.virtual
    for what, number in (
        ("heads", model.heads),
        ("ffn", model.ffn_size),
        ("hidden", model.hidden),
        ("rows of the embedding", model.rows()),
    ):
        if number % tensor:
            raise_to = "; choose another vocab_multiple" if what.startswith("rows") else ""
            yield f"parallel.tensor={tensor} does not divide {number} {what}{raise_to}"
    if model.groups % tensor:
        yield f"parallel.tensor={tensor} does not divide kv_heads {model.groups}"
    if model.layers % stages:
        parts = f"parallel.pipeline x parallel.virtual = {stages}" if parallel.virtual > 1 else f"pipeline={stages}"
        yield f"{parts} does not divide {model.layers} layers"
    if model.family == "t5" and parallel.pipeline > 1:
        yield f"parallel.pipeline={parallel.pipeline}: Megatron-core pipelines one stack, t5 has two; use tensor"
    if parallel.expert > 1 and not model.experts:
        yield f"parallel.expert={parallel.expert}, but the model has no experts"
    if model.experts and model.experts.number % parallel.expert:
        yield f"parallel.expert={parallel.expert} does not divide {model.experts.number} experts"
    if model.experts and tensor > 1 and not parallel.sequence:
        yield "experts with tensor parallelism need parallel.sequence=true (Megatron-core)"
    for each in (length, *([decoder_length] if decoder_length else [])):
        if parallel.sequence and each % tensor:
            yield f"parallel.sequence: parallel.tensor={tensor} does not divide the sequence length {each}"
        if each % (2 * parallel.context) and parallel.context > 1:
            yield f"parallel.context={parallel.context}: twice that does not divide the sequence length {each}"
    if length > model.max_length and model.positions == "learned":
        yield f"sequence length {length} is longer than the model's {model.max_length} learned positions"


def start(options: ParallelOptions, seat: "Seat", minutes: float = 120) -> None:
    """Joins the processes' group and makes Megatron's groups. `minutes`: how long a rank waits for another; the
    watchdog, which can say where they stand, has to be quicker."""
    import torch
    import torch.distributed as dist

    from . import device
    from .launch import threads

    if seat.world != options.world:
        raise UsageError(
            f"{seat.world} processes were started; parallel sizes tensor {options.tensor} x pipeline "
            f"{options.pipeline} x data {options.data} x context {options.context} need {options.world}"
        )
    device.enter(seat.local_rank)
    if seat.local_world > 1:
        torch.set_num_threads(threads(seat.local_world))
    patience = datetime.timedelta(minutes=minutes)
    dist.init_process_group(
        device.backend(), init_method=seat.rendezvous, rank=seat.rank, world_size=seat.world, timeout=patience
    )
    groups(options, minutes)


def groups(options: ParallelOptions, minutes: float = 120) -> None:
    """Makes Megatron's groups of the processes that have joined."""
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=options.tensor,
        pipeline_model_parallel_size=options.pipeline,
        virtual_pipeline_model_parallel_size=options.virtual if options.virtual > 1 else None,
        context_parallel_size=options.context,
        expert_model_parallel_size=options.expert,
        expert_tensor_parallel_size=1 if options.expert > 1 else None,
        distributed_timeout_minutes=int(minutes),
    )


def stop() -> None:
    """Leaves the groups."""
    import torch.distributed as dist
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()


class Place:
    """Where this rank stands in each group, once they are made."""

    def __init__(self) -> None:
        from megatron.core import parallel_state as state

        self.tensor = state.get_tensor_model_parallel_rank()
        self.pipeline = state.get_pipeline_model_parallel_rank()
        self.data = state.get_data_parallel_rank()
        self.data_size = state.get_data_parallel_world_size()
        self.first = state.is_pipeline_first_stage(ignore_virtual=True)
        self.last = state.is_pipeline_last_stage(ignore_virtual=True)


def agreed(values: "torch.Tensor", operation: Any = None) -> "torch.Tensor":
    """The sum (or what `operation` says) of a tensor over all ranks."""
    import torch.distributed as dist

    dist.all_reduce(values, op=operation or dist.ReduceOp.SUM)
    return values
