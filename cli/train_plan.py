"""The plan of a training as plain text."""

from collections.abc import Iterator
from typing import Any

from ..train.budget import human

PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "total")


def plan_text(result: dict[str, Any]) -> str:
    """What `tilth.train.budget.plan` found, a section for each question."""
    sections = (_model, _cost, _memory, _time, _tokens, _ppo, _budgets, _warnings)
    blocks = ("\n".join(section(result)) for section in sections)
    return "\n\n".join(block for block in blocks if block)


def _model(result: dict[str, Any]) -> Iterator[str]:
    model, counts = result["model"], result["model"]["parameters"]
    yield f"{model['preset'] or model['family']}: {counts['total']:,} parameters ({human(counts['total'])})"
    if counts["active"] != counts["total"]:
        yield f"  {'a token meets':<14}{counts['active']:>18,}"
    for part, count in counts.items():
        if count and part not in ("total", "active"):
            name = "and as padding" if part == "padding" else part.replace("_", " ")
            yield f"  {name:<14}{count:>18,}"


def _cost(result: dict[str, Any]) -> Iterator[str]:
    cost = result["flops"]
    yield f"Operations: {cost['per_token']:.3g} a token, {cost['total']:.3g} in all"
    yield (
        f"  attention {cost['attention_share']:.0%} at length {cost['length']:,}, of which its scores, O(n^2 d), are "
        f"{cost['scores_share']:.0%} of the whole"
    )
    if cost["even_length"]:
        yield f"  scores cost as much as all the rest at length {cost['even_length']:,.0f}"


def _memory(result: dict[str, Any]) -> Iterator[str]:
    memory = result["memory"]
    size, unit = _unit(memory["peak"])
    yield (
        f"Memory of a rank in {unit} ({memory['precision']}, {memory['optimizer']}, recompute {memory['recompute']}); "
        f"the device has {memory['device_memory'] / 1e9:g} GB"
    )
    yield f"  {'stage':<6}" + "".join(f"{part:>13}" for part in PARTS)
    for row in memory["stages"]:
        yield f"  {row['stage']:<6}" + "".join(f"{row[part] / size:>13.2f}" for part in PARTS)


def _time(result: dict[str, Any]) -> Iterator[str]:
    time = result["time"]
    yield (
        f"Time: {duration(time['seconds'])} at {time['mfu']:.0%} MFU on {time['devices']:,} x {time['device']} of "
        f"{time['peak'] / 1e12:g} TFLOP/s: {human(time['tokens_per_second'])} tokens a second, "
        f"{time['device_days']:,.1f} device days"
    )


def _tokens(result: dict[str, Any]) -> Iterator[str]:
    tokens, best = result["tokens"], result["optimal"]
    yield f"Tokens: {human(tokens['tokens'])}, {tokens['per_parameter']:.3g} for each parameter"
    for rule in tokens["rules"]:
        yield f"  {rule['per_parameter']:>4g} for each would be {human(rule['tokens']):>6}  {rule['source']}"
    if not best:
        return
    yield "The same compute, spent best:"
    for name, source in (
        ("rule", "20 tokens for each parameter"),
        ("hoffmann", "Hoffmann et al. 2022, approach 3"),
        ("besiroglu", "Besiroglu et al. 2024, the same data again"),
    ):
        split = best["splits"][name]
        yield f"  {human(split['parameters']):>6} parameters, {human(split['tokens']):>6} tokens  {source}"
    yield f"  the last fit expects a loss of {best['loss']:.3f} nats a token, and {best['lowest_loss']:.3f} at best"


def _ppo(result: dict[str, Any]) -> Iterator[str]:
    if not result["ppo"]:
        return
    readings = result["ppo"]["readings"]
    size, unit = _unit(readings[0]["bytes"])
    yield f"PPO with a reward model of this shape, weights and optimizers in {unit}:"
    for reading in readings:
        models = ", ".join(f"{model['name']} {model['bytes'] / size:.1f}" for model in reading["models"])
        yield f"  {reading['bytes'] / size:>9,.1f}  {reading['assumption']} ({models})"
    yield f"  {result['ppo']['quoted_for_7b'] / 1e9:g} GB are quoted for 7B and 7B: the first line, for LLaMA-7B"


def _budgets(result: dict[str, Any]) -> Iterator[str]:
    budgets = result["budgets"]
    yield "Rough budgets, as a course quotes them:"
    for name, row in budgets["table"].items():
        tokens = _span(row["tokens"]) if row["tokens"] else "made meanwhile"
        yield (
            f"  {name:<12} {tokens:>14} tokens  {_span(row['parameters']):>9} parameters  {row['devices']:>4} x A100  "
            f"{row['days'][0]:g}-{row['days'][1]:g} days"
        )
    devices = budgets["table"][budgets["stage"]]["devices"]
    ours = [f"{_amount(name, each['value'], devices)} ({each['lies']})" for name, each in budgets["ours"].items()]
    yield f"  this plan beside {budgets['stage']}: {', '.join(ours)}"


def _amount(name: str, value: float, devices: int) -> str:
    return f"{value:,.3g} days on {devices:,} x A100" if name == "days" else f"{human(value)} {name}"


def _span(span: tuple[float, float]) -> str:
    return f"{human(span[0])}-{human(span[1])}"


def _warnings(result: dict[str, Any]) -> Iterator[str]:
    for warning in result["warnings"]:
        yield f"Note: {warning}"


def _unit(size: float) -> tuple[float, str]:
    return (1e9, "GB") if size >= 1e9 else (1e6, "MB")


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} seconds"
