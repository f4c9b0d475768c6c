"""Which device a process trains on, and what Megatron-core needs to run there.

Megatron-core is written for CUDA: it names that device in many places, and asks for its random state, its streams and
its type names. On a machine without one, `enter` sends all of this to the CPU, once a process; where CUDA is, it picks
this rank's GPU and changes nothing. No other file names a device.
"""

import logging
import platform
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_entered: "OnCpu | bool | None" = False


def enter(local_rank: int = 0) -> torch.device:
    """Makes this process ready for Megatron-core; call it before anything of that is imported, as often as you like.

    `local_rank` says which of this machine's GPUs is its own.
    """
    global _entered
    if _entered is False:
        _entered = None
        # of Apex and TransformerEngine, which are not asked for, and of torch's names that Megatron-core still uses
        warnings.filterwarnings("ignore", module=r"megatron\.|torch\.distributed\.c10d_logger")
        if on_cuda():
            torch.cuda.set_device(local_rank % torch.cuda.device_count())
        else:
            _send_to_cpu()
            _entered = OnCpu()
            _entered.__enter__()
    return here()


def on_cuda() -> bool:
    return torch.cuda.is_available()


def here() -> torch.device:
    """This rank's device."""
    return torch.device("cuda", torch.cuda.current_device()) if on_cuda() else torch.device("cpu")


def backend() -> str:
    """What processes talk through: of torch.distributed."""
    return "nccl" if on_cuda() else "gloo"


def synchronize() -> None:
    """Waits until the device has done what it was told."""
    if on_cuda():
        torch.cuda.synchronize()


def name() -> str:
    """What the device is called, for people."""
    return torch.cuda.get_device_name() if on_cuda() else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def peak_memory() -> int:
    """The most bytes that were in use at once: of the GPU, or of this process."""
    if on_cuda():
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def seed(number: int) -> None:
    """Sets the random state of this rank, and those of Megatron-core for what is split and what is not."""
    from megatron.core import tensor_parallel

    torch.manual_seed(number)
    tensor_parallel.model_parallel_cuda_manual_seed(number, force_reset_rng=True)


def matmul_rate(dtype: torch.dtype, size: int = 4096, seconds: float = 0.3) -> float:
    """Floating-point operations a second of square matrix products of that type here, measured."""
    size = size if on_cuda() else 1024
    left, right = (torch.randn(size, size, device=here()).to(dtype) for _ in range(2))
    best, until = 0.0, time.perf_counter() + seconds
    while not best or time.perf_counter() < until:
        synchronize()
        start = time.perf_counter()
        torch.mm(left, right)
        synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


class OnCpu(TorchFunctionMode):
    """Reads "cuda" as "cpu" in what Megatron-core asks of torch."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        asked = kwargs.get("device")
        if asked is not None and str(asked).startswith("cuda"):
            kwargs["device"] = "cpu"
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            return func(*args).replace("torch.", "torch.cuda.")  # which Megatron-core compares with
        return func(*args, **kwargs)


class NoStream:
    """Stands where Megatron-core makes CUDA streams and events: on a CPU everything happens in order."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __getattr__(self, _: str) -> Callable[..., "NoStream"]:
        return NoStream

    def __enter__(self) -> "NoStream":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _send_to_cpu() -> None:
    """The parts of torch.cuda that Megatron-core calls, on the CPU's generator and without waiting."""
    cuda: Any = torch.cuda
    cuda.current_device = lambda: torch.device("cpu")
    cuda.synchronize = lambda *_: None
    cuda.get_rng_state = lambda *_, **__: torch.get_rng_state()
    cuda.set_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    cuda.random.get_rng_state = cuda.get_rng_state
    cuda.manual_seed = torch.manual_seed
    cuda.Stream = cuda.Event = cuda.current_stream = cuda.default_stream = NoStream
    cuda.stream = NoStream

    # as a decorator there, of kernels for GPUs: it would load torch's compiler, for a second and more
    compiler, torch.compile = torch.compile, lambda function=None, **_: function or (lambda each: each)
    try:
        from megatron.core.tensor_parallel import random
    finally:
        torch.compile = compiler

    megatron: Any = random
    megatron._get_cuda_rng_state = cuda.get_rng_state
    megatron._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    # there the CPU's generator and the GPU's must not mix; here they are one
    logging.getLogger(random.__name__).addFilter(lambda record: "RNG state changed" not in record.getMessage())
