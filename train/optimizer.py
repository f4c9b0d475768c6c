"""Optimizers: torch's own and LAMB, inside Megatron-core's wrappers, which know precision, sharding and experts.

A step is taken in two halves, so that a guard can judge the gradient before anything moves: `norm_of`, then `apply` or
`skip`. Which rate holds is the schedule's matter.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tilth.errors import UsageError

if TYPE_CHECKING:
    import torch

    from .model.precision import Precision
    from .parallel import ParallelOptions


class OptimizerOptions(BaseModel):
    """How gradients become steps. The defaults are GPT-3's (Brown et al. 2020, appendix B)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["adamw", "adam", "sgd", "adagrad", "lamb"] = Field(
        default="adamw",
        description="adamw and lamb decay weights apart from the gradient (Loshchilov and Hutter 2019); adam, sgd and "
        "adagrad add the decay to it",
    )
    weight_decay: float = Field(default=0.1, ge=0, description="of matrices; norms and biases have none")
    decay_embeddings: bool = Field(
        default=True, description="whether embeddings decay too, as in Megatron-LM and nanoGPT; OLMo 2 spares them"
    )
    beta1: float = Field(default=0.9, ge=0, lt=1, description="of adamw, adam, lamb: memory of the gradient")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="of adamw, adam, lamb: memory of its square")
    eps: float = Field(default=1e-8, gt=0, description="added where a root divides; lamb's paper has 1e-6")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    trust_limit: float | None = Field(
        default=None, gt=0, description="of lamb: the most that the norm of a layer's weights counts for; some take 10"
    )
    clip: float | None = Field(
        default=1.0, gt=0, description="gradients with a larger norm are made this long; null: as they are"
    )
    loss_scale: float = Field(
        default=2.0**16, ge=1, description="of fp16: what the loss is multiplied by at first, as torch's scaler has it"
    )


def fit(options: OptimizerOptions, parallel: "ParallelOptions", new_rows_only: bool = False) -> None:
    """Raises UsageError where this optimizer cannot work so."""
    for problem in misfits(options, parallel, new_rows_only):
        raise UsageError(problem)


def misfits(options: OptimizerOptions, parallel: "ParallelOptions", new_rows_only: bool = False) -> Iterator[str]:
    if options.name == "lamb" and parallel.shard_optimizer:
        yield (
            "optimizer.name=lamb needs the norms of whole layers, and parallel.shard_optimizer splits them anywhere; "
            "set it to false"
        )
    if options.name == "lamb" and new_rows_only:
        yield "optimizer.name=lamb scales steps by all rows of the embedding; with new_rows take adamw"


def make_optimizer(
    options: OptimizerOptions, parallel: "ParallelOptions", precision: "Precision", chunks: Sequence[Any]
) -> Any:
    """Megatron-core's optimizer (a ChainedOptimizer: one part for dense parameters, one for experts) of this rank's
    `chunks`, which are DistributedDataParallel. Its rate is 0 until `set_rate`."""
    from megatron.core.optimizer import OptimizerConfig, ParamKey, get_megatron_optimizer
    from megatron.core.optimizer.optimizer_config import ParamWithNamePredicate

    from .model.precision import DTYPES

    _mark_split(chunks)
    config = OptimizerConfig(
        optimizer="adam",
        lr=0.0,
        fp16=precision == "fp16",
        bf16=precision == "bf16",
        params_dtype=DTYPES[precision],
        initial_loss_scale=options.loss_scale,
        clip_grad=options.clip or 0.0,
        use_distributed_optimizer=parallel.shard_optimizer,
    )
    spared = ParamWithNamePredicate("spared", lambda parameter, name: not decays(name, parameter, options))
    undecayed: Any = {ParamKey(with_name_predicate=spared): {"wd_mult": 0.0}}
    optimizer: Any = get_megatron_optimizer(config, list(chunks), undecayed)
    for part in optimizer.chained_optimizers:
        # Megatron-core makes Adam and SGD alone, neither of them fused, and its sharded wrapper asks for AdamW. Once it
        # is made, a wrapper has put into the groups what is to be stepped (float32 copies, shards) and takes any other.
        if part.optimizer is not None:
            part.optimizer = _inner(options, part.optimizer.param_groups)
            part.init_state_fn = _fill_state
    return optimizer


def decays(name: str, parameter: "torch.Tensor", options: OptimizerOptions) -> bool:
    """Whether the weights of that parameter decay."""
    if parameter.dim() < 2 or name.endswith(".bias") or getattr(parameter, "new_rows_only", False):
        return False
    embedding = "embeddings.weight" in name or getattr(parameter, "shared_embedding", False)  # a tied head's copy too
    return options.decay_embeddings or not embedding


def set_rate(optimizer: Any, rate: float) -> None:
    """The learning rate of the next steps."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def norm_of(optimizer: Any) -> tuple[bool, float]:
    """Whether the loss scaler of fp16 found an overflow, and the L2 norm of the whole gradient before clipping.

    Both are the same on every rank. Gradients are ready afterwards for `apply`; weights have not moved. With an
    overflow the norm is infinite, the scale is lower, and only `skip` is left to do. Without a scaler, a norm that is
    not finite is told as it is: what then happens says the guard.
    """
    found = [part.prepare_grads() for part in optimizer.chained_optimizers]
    if any(found):
        _agree_on_scale(optimizer.chained_optimizers, found)
    optimizer.known_norm = math.inf if any(found) else float(optimizer.get_grad_norm())
    return any(found), optimizer.known_norm


def apply(optimizer: Any) -> None:
    """Clips by the norm that `norm_of` found, takes the step, and gathers the parameters of a sharded optimizer.

    `norm_of` and this together do what `optimizer.step()` does, bit for bit.
    """
    import torch

    factor = optimizer.config.clip_grad / (optimizer.known_norm + 1e-6)
    if optimizer.config.clip_grad and factor < 1:
        for part in optimizer.chained_optimizers:
            gradients = [each.grad for each in part.get_parameters() if each.grad is not None]
            if gradients:
                torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]
    optimizer.step_with_ready_grads()
    del optimizer.known_norm


def skip(optimizer: Any) -> None:
    """Leaves the step: neither weights nor the optimizer's memory move."""
    optimizer.zero_grad()
    del optimizer.known_norm


def _mark_split(chunks: Sequence[Any]) -> None:
    """Tells parameters that they are parts of a larger one, which norms need to know. Megatron-core does so when it
    draws first weights; ours come from elsewhere."""
    from megatron.core.tensor_parallel.layers import (
        ColumnParallelLinear,
        RowParallelLinear,
        VocabParallelEmbedding,
        set_tensor_model_parallel_attributes,
    )

    along = {ColumnParallelLinear: 0, RowParallelLinear: 1, VocabParallelEmbedding: 0}
    for module in (module for chunk in chunks for module in chunk.modules()):
        weight = getattr(module, "weight", None) if type(module) in along else None
        if weight is not None and not hasattr(weight, "tensor_model_parallel"):
            set_tensor_model_parallel_attributes(weight, True, along[type(module)], 1)


def _inner(options: OptimizerOptions, groups: Sequence[dict[str, Any]]) -> "torch.optim.Optimizer":
    """The optimizer that `options` name, on groups of parameters that Megatron-core has made."""
    import torch
    from megatron.core import parallel_state

    from .lamb import Lamb

    for each in (each for group in groups for each in group["params"]):
        if not each.is_leaf:  # a shard of float32 weights is a view; torch wants to hear that its gradient is meant
            each.retain_grad()
    own = [{"params": group["params"], "weight_decay": options.weight_decay * group["wd_mult"]} for group in groups]
    betas = (options.beta1, options.beta2)
    if options.name == "sgd":
        return torch.optim.SGD(own, lr=0.0, momentum=options.momentum, fused=True)
    if options.name == "adagrad":
        return torch.optim.Adagrad(own, lr=0.0, eps=options.eps, fused=True)
    if options.name == "lamb":
        experts = any(group["is_expert_parallel"] for group in groups)
        split_over: Any = (
            parallel_state.get_expert_tensor_parallel_group()
            if experts
            else parallel_state.get_tensor_model_parallel_group()
        )
        return Lamb(own, 0.0, betas, options.eps, limit=options.trust_limit, tensor_group=split_over)
    kind = torch.optim.AdamW if options.name == "adamw" else torch.optim.Adam
    return kind(own, lr=0.0, betas=betas, eps=options.eps, fused=True)


def _fill_state(optimizer: "torch.optim.Optimizer", _: object = None) -> None:
    """Makes the state that an optimizer makes at its first step, for a checkpoint to be read into."""
    import torch

    moments = {torch.optim.SGD: ["momentum_buffer"], torch.optim.Adagrad: ["sum"]}.get(
        type(optimizer), ["exp_avg", "exp_avg_sq"]
    )
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if state or group.get("momentum") == 0:
                continue
            if "momentum" not in group:
                state["step"] = torch.zeros((), device=parameter.device if group.get("fused") else "cpu")
            state.update({name: torch.zeros_like(parameter) for name in moments})


def _agree_on_scale(parts: Sequence[Any], found: Sequence[bool]) -> None:
    """Dense parameters and experts have a loss scaler each, but the loss has one scale: all lower it together."""
    state = parts[found.index(True)].grad_scaler.state_dict()
    for part, overflow in zip(parts, found, strict=True):
        if not overflow:
            part.grad_scaler.load_state_dict(state)
