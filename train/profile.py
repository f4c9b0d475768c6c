"""Where a training step's time goes, by torch's profiler: attention, matrix products, communication, the rest.

The share of attention is what its O(n² d) costs beside everything else (Vaswani et al. 2017, table 1).
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import orjson

from tilth.storage import Folder

if TYPE_CHECKING:
    from torch.autograd.profiler_util import FunctionEvent

PROFILE = "profile.json"
TRACE = "trace.json.gz"
RANGE = "attention"  # the record_function range around core attention
BEFORE = 4  # steps that pass unrecorded: compilation, first allocations, and the profiler's own start
ROWS = 25

Part = Literal["attention", "matmul", "communication", "other"]
PARTS: tuple[Part, ...] = ("attention", "matmul", "communication", "other")

# Operators and kernels that are attention wherever they stand, then the other parts.
_ATTENTION = re.compile(r"scaled_?dot_?product|flash_(attn|fwd|bwd|attention)|fmha|flex_attention", re.I)
_COMMUNICATION = re.compile(r"^(c10d::|gloo:|nccl:|record_param_comms)|nccl(Dev)?Kernel", re.I)
_MATMUL = re.compile(
    r"^aten::(mm|addmm|bmm|baddbmm|matmul|linear|_scaled_mm|_grouped_mm|_scaled_grouped_mm)(_|$|\.)"
    r"|^mkldnn::_?linear|gemm|cutlass|nvjet|triton_tem_fused\w*_(add|b)?mm",
    re.I,
)
_PYTHON = re.compile(r"^(ProfilerStep|Optimizer\.)")  # ranges whose own time is Python's, between operators


@contextlib.contextmanager
def profiled(folder: Folder, steps: int | None) -> Iterator[Callable[[], Any]]:
    """Records `steps` steps after the first BEFORE - 1, of which the last one warms the profiler up; the loop calls
    what this yields at the end of every step. Writes `profile.json`, and `trace.json.gz` for Perfetto or
    chrome://tracing. With no steps it does nothing. A run that ends before the first recorded step leaves no file."""
    if not steps:
        yield lambda: None
        return
    import torch.profiler as torch_profiler

    def write(profiler: Any) -> None:
        found = shares(profiler.events())
        folder.write(PROFILE, orjson.dumps(found, option=orjson.OPT_INDENT_2))
        with folder.scratch() as scratch:
            profiler.export_chrome_trace(str(scratch / TRACE))
            folder.adopt(scratch / TRACE, TRACE)

    with torch_profiler.profile(
        activities=torch_profiler.supported_activities(),
        schedule=torch_profiler.schedule(wait=BEFORE - 1, warmup=1, active=steps, repeat=1),
        on_trace_ready=write,
        acc_events=True,
    ) as profiler:
        yield profiler.step


def shares(events: Sequence["FunctionEvent"]) -> dict[str, Any]:
    """What a recording says: `steps`, `seconds` (of the steps, by the wall), `on` (`kernels` where an accelerator ran
    some, else `operators` of the CPU), `busy` (seconds that those took), `parts` (their shares of `busy`) and `table`
    (the costliest, with calls, seconds and part).

    Attention is what ran inside a range of that name or under an operator known for it, and the backward functions
    that autograd made there, which it numbers like the forward operators. Kernels of communication may run beside
    others, so that `busy` may be more than `seconds`.
    """
    mine = [event for event in events if event.device_type.name == "CPU"]
    steps = [event for event in mine if event.name.startswith("ProfilerStep")]
    on_device = any(_kernels(event) for event in mine)
    attention = _attention(mine)
    rows: dict[tuple[Part, str], list[float]] = {}
    for event in mine:
        if on_device:
            timed = [(kernel.name, kernel.duration) for kernel in _kernels(event)]
        else:
            timed = [] if _PYTHON.match(event.name) else [(event.name, event.self_cpu_time_total)]
        for name, microseconds in timed:
            part = "attention" if event.id in attention else _part(event.name, name)
            calls, seconds = rows.get((part, name), (0, 0.0))
            rows[part, name] = [calls + 1, seconds + microseconds / 1e6]
    busy = sum(seconds for _, seconds in rows.values())
    spent = {part: sum(seconds for (of, _), (_, seconds) in rows.items() if of == part) for part in PARTS}
    costliest = sorted(rows.items(), key=lambda item: (-item[1][1], item[0]))[:ROWS]
    return {
        "steps": len(steps),
        "seconds": sum(event.time_range.elapsed_us() for event in steps) / 1e6,
        "on": "kernels" if on_device else "operators",
        "busy": busy,
        "parts": {part: seconds / busy if busy else 0.0 for part, seconds in spent.items()},
        "table": [
            {"name": name, "part": part, "calls": int(calls), "seconds": seconds}
            for (part, name), (calls, seconds) in costliest
        ],
    }


def _attention(events: Sequence["FunctionEvent"]) -> set[int]:
    """Ids of the events that belong to attention, forward and backward."""
    found = _below(
        event
        for event in events
        if event.name == RANGE
        or _ATTENTION.search(event.name)
        or any(_ATTENTION.search(kernel.name) for kernel in event.kernels)
    )
    made = {(event.thread, event.sequence_nr) for event in events if event.id in found and event.sequence_nr >= 0}
    return found | _below(event for event in events if (event.fwd_thread, event.sequence_nr) in made)


def _below(events: Iterable["FunctionEvent"]) -> set[int]:
    """Ids of these and of all that they called."""
    found: set[int] = set()
    waiting = list(events)
    while waiting:
        event = waiting.pop()
        if event.id not in found:
            found.add(event.id)
            waiting += event.cpu_children
    return found


def _kernels(event: "FunctionEvent") -> list[Any]:
    """Kernels that the event itself started; a range's shadow on the device is no kernel (pytorch issue 130730)."""
    return [kernel for kernel in event.kernels if kernel.name != event.name]


def _part(*names: str) -> Part:
    if any(map(_COMMUNICATION.search, names)):
        return "communication"
    return "matmul" if any(map(_MATMUL.search, names)) else "other"
