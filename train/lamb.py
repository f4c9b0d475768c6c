"""LAMB (You et al. 2020, algorithm 2), which torch does not have."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist


class Lamb(torch.optim.Optimizer):
    """Adam's step, decay included, made as long as the layer's weights are: large batches then need no other rate.

    A layer is a parameter, whole: where it is split over the ranks of `tensor_group` (the parameter's attribute
    `tensor_model_parallel` says so), norms are of all its parts, and one all-reduce brings those of all layers. What
    Megatron-core keeps in one parameter (queries, keys and values; gate and up) is one layer. Norms and biases take
    Adam's step as it is, as in the authors' code: a bias begins at 0 and could otherwise never grow.

    A layer whose weights or step are all 0 takes it as it is too. `limit` is the most that the norm of a layer's
    weights counts for: the upper bound of the paper's phi, which is the identity otherwise. The step is written over
    the gradient, which nothing reads afterwards.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        limit: float | None = None,
        tensor_group: dist.ProcessGroup | None = None,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.limit, self.tensor_group = limit, tensor_group

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert closure is None
        layers = [(group, each) for group in self.param_groups for each in group["params"] if each.grad is not None]
        for group, parameter in layers:
            self._gradient_to_step(group, parameter)
        ratios = self._ratios([parameter for _, parameter in layers])
        for (group, parameter), ratio in zip(layers, ratios, strict=True):
            if ratio is None:
                parameter.add_(parameter.grad, alpha=-group["lr"])
            else:
                parameter.addcmul_(parameter.grad, ratio, value=-group["lr"])

    def _gradient_to_step(self, group: dict[str, Any], parameter: torch.Tensor) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        count, mean, square = float(state["step"]), state["exp_avg"], state["exp_avg_sq"]
        beta1, beta2 = group["betas"]
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        torch.div(square, 1 - beta2**count, out=gradient).sqrt_().add_(group["eps"])
        torch.div(mean, gradient, out=gradient).div_(1 - beta1**count)
        if group["weight_decay"]:
            gradient.add_(parameter, alpha=group["weight_decay"])

    def _ratios(self, parameters: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
        """What each layer's step is multiplied by; None for norms and biases."""
        layers = [each for each in parameters if each.dim() > 1]
        if not layers:
            return [None] * len(parameters)
        both = [*layers, *(each.grad for each in layers)]
        squares = torch.stack([torch.linalg.vector_norm(each) for each in both]).square().view(2, -1)
        split = [number for number, each in enumerate(layers) if getattr(each, "tensor_model_parallel", False)]
        if self.tensor_group is not None and self.tensor_group.size() > 1 and split:
            parts = squares[:, split].contiguous()
            dist.all_reduce(parts, group=self.tensor_group)
            squares[:, split] = parts
        weights, steps = squares.sqrt()
        longest = math.inf if self.limit is None else self.limit
        ratios = iter(torch.where((weights > 0) & (steps > 0), weights.clamp(max=longest) / steps, 1.0))
        return [next(ratios) if each.dim() > 1 else None for each in parameters]
