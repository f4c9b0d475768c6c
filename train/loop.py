"""The training loop: one for every objective, every model and every way to split them.

An `Objective` says what samples become and what the loss is; Megatron-core's schedules run forward and backward over
the micro-batches; the guard judges the step before the optimizer takes it. What a step does follows from its number:
the data it reads, its learning rate, its random state. A resumed run is therefore the same as an uninterrupted one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from megatron.core.utils import get_attr_wrapped_model

from . import device
from .batches import Batch, MakeArrays
from .loss import Loss, log_probabilities, token_loss
from .model.build import build
from .model.initial import seed_of
from .optimizer import apply, make_optimizer, norm_of, set_rate, skip
from .parallel import Place, agreed
from .recipe import TrainRecipe

LossFunction = Callable[[torch.Tensor, Batch], Loss]


class Objective(NamedTuple):
    """What a model is trained for.

    `arrays` makes a micro-batch of samples, `loss` takes the model's output on it. `frozen` are further models, built
    like the one that is trained, whose log-probabilities of the batch's labels `loss` finds in the batch under their
    names (a reference of DPO or PPO): computed before the step, without gradients, on the last pipeline stage.
    """

    arrays: MakeArrays
    loss: LossFunction = token_loss
    figures: Sequence[str] = ()  # the names of Loss.figures
    frozen: Mapping[str, Sequence[Any]] = {}


class Measured(NamedTuple):
    """A step's global numbers, the same on every rank."""

    loss: float
    tokens: int
    sources: dict[str, "Part"]  # those that are in the batch
    figures: dict[str, float]
    grad_norm: float | None  # None: the loss scaler found an overflow


class Part(NamedTuple):
    """What one source had in a step."""

    loss: float
    tokens: int


class Trainer:
    """The model of this rank, its optimizer, and what a step does with them."""

    def __init__(self, recipe: TrainRecipe, objective: Objective, sources: Sequence[str], rows: Sequence[int] = ()):
        self.recipe, self.objective, self.sources = recipe, objective, list(sources)
        torch.set_float32_matmul_precision(recipe.matmul)
        self.place = Place()
        device.seed(recipe.seed)
        self.chunks = build(recipe.model, recipe.parallel, recipe.precision, recipe.seed, recipe.recompute)
        self.config = self.chunks[0].config
        if rows:
            from .rows import train_rows_only

            train_rows_only(self.chunks, rows)
        self.model = [self._spread(chunk, first=not number) for number, chunk in enumerate(self.chunks)]
        self.optimizer = make_optimizer(recipe.optimizer, recipe.parallel, recipe.precision, self.model)
        self.config.grad_scale_func = self.optimizer.scale_loss if recipe.precision == "fp16" else None
        if recipe.parallel.overlap:
            syncs = [chunk.no_sync for chunk in self.model]
            self.config.no_sync_func = syncs if len(syncs) > 1 else syncs[0]  # pyright: ignore[reportAttributeAccessIssue]
        self._run = get_forward_backward_func()
        self._random = recipe.model.dropout > 0 or recipe.model.attention_dropout > 0

    def _spread(self, chunk: Any, first: bool) -> Any:
        parallel = self.recipe.parallel
        options = DistributedDataParallelConfig(
            grad_reduce_in_fp32=True,
            use_distributed_optimizer=parallel.shard_optimizer,
            overlap_grad_reduce=parallel.overlap,
        )
        return DistributedDataParallel(self.config, options, chunk, disable_bucketing=not first)

    def gradients(self, step: int, batches: Sequence[Batch]) -> Measured:
        """Forward and backward over a step's micro-batches of this rank: gradients are there, and nothing has moved."""
        if self._random:
            device.seed(seed_of(self.recipe.seed, f"step {step}") % 2**31)
        for chunk in self.model:
            chunk.train()
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        for name, frozen in self.objective.frozen.items():
            self._add_log_probabilities(name, frozen, batches)
        losses = self._passes(self.model, batches, self.objective.loss, forward_only=False)
        overflow, norm = norm_of(self.optimizer)
        return self._measured(losses, batches, None if overflow else norm)

    def update(self, rate: float) -> None:
        """The optimizer takes the step."""
        set_rate(self.optimizer, rate)
        apply(self.optimizer)

    def skip(self) -> None:
        """The optimizer leaves it."""
        skip(self.optimizer)

    def evaluate(self, batches: Sequence[Batch]) -> Measured:
        """The loss of micro-batches, without gradients and dropout; every rank needs equally many."""
        for chunk in self.model:
            chunk.eval()
        with torch.no_grad():
            losses = self._passes(self.model, batches, self.objective.loss, forward_only=True)
        return self._measured(losses, batches, None)

    def _passes(
        self, model: Sequence[Any], batches: Sequence[Batch], loss: Callable[..., Loss], forward_only: bool
    ) -> list[Loss]:
        """Runs the schedule; what `loss` gave for each micro-batch, on the last pipeline stage."""
        shape = batches[0]["tokens"].shape
        iterators = [iter(batches) for _ in model]
        return self._run(
            forward_step_func=partial(_forward, loss),
            data_iterator=iterators if len(model) > 1 else iterators[0],
            model=list(model),
            num_microbatches=len(batches),
            seq_length=shape[1],
            micro_batch_size=shape[0],
            forward_only=forward_only,
        )

    def _add_log_probabilities(self, name: str, frozen: Sequence[Any], batches: Sequence[Batch]) -> None:
        def remember(logits: torch.Tensor, batch: Batch) -> Loss:
            batch[name] = log_probabilities(logits, batch["labels"])
            return Loss(batch[name].sum(), batch["weights"].sum().int(), batch[name].new_zeros(0, 2))

        for chunk in frozen:
            chunk.eval()
        with torch.no_grad():
            self._passes(frozen, batches, remember, forward_only=True)

    def _measured(self, losses: Sequence[Loss], batches: Sequence[Batch], norm: float | None) -> Measured:
        """Sums over the micro-batches of all ranks: those of the last stage, once for each tensor group."""
        by_source = torch.zeros(len(self.sources), 2, dtype=torch.float64)
        figures = torch.zeros(len(self.objective.figures), dtype=torch.float64)
        if self.place.last and not self.place.tensor:
            for loss, batch in zip(losses, batches, strict=True):
                by_source.index_add_(0, batch["sources"].cpu(), loss.rows.double().cpu())
                figures += torch.tensor([float(loss.figures[name]) for name in self.objective.figures]).double()
        total = agreed(torch.cat([by_source.flatten(), figures]).to(device.here())).cpu()
        sums, means = total[: by_source.numel()].view_as(by_source), total[by_source.numel() :]
        loss, tokens = sums.sum(dim=0).tolist()
        return Measured(
            loss / max(tokens, 1),
            int(tokens),
            {
                name: Part(each / many, int(many))
                for name, (each, many) in zip(self.sources, sums.tolist(), strict=True)
                if many
            },
            dict(zip(self.objective.figures, (means / max(tokens, 1)).tolist(), strict=True)),
            norm,
        )


def _forward(loss: Callable[..., Loss], batches: Iterator[Batch], model: Any) -> tuple[torch.Tensor, Any]:
    """Megatron-core's forward step: the output, and what makes a loss of it on the last stage."""
    batch = next(batches)
    output = get_attr_wrapped_model(model, "read")(batch)
    return output, partial(_taken, loss, batch)


def _taken(loss: Callable[..., Loss], batch: Batch, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Loss]:
    found = loss(output, batch)
    return found.total, found.tokens, found._replace(total=found.total.detach())
