"""What a trained model writes on: one sequence, token by token, to be looked at. Serving is a matter of other tools."""

from typing import Any

import torch

from ..tokenize.tokenizer import Tokenizer
from . import launch, parallel
from .checkpoint import Checkpoints
from .parallel import ParallelOptions
from .rank import read


def continuation(
    folder: str, tokenizer: Tokenizer, prompt: str, tokens: int, temperature: float = 0.8, seed: int = 0
) -> str:
    """What the last checkpoint of the run in `folder` writes behind `prompt`, at most so many tokens, in this process,
    however many the model was trained on. The whole sequence is read again for each token."""
    recipe = read(folder).recipe
    alone = ParallelOptions()
    with launch.alone() as seat:
        parallel.start(alone, seat)
        from .model.build import build  # imports Megatron-core, which has to find its device first

        try:
            (model,) = build(recipe.model, alone, recipe.precision, recipe.seed)
            checkpoints = Checkpoints(folder, recipe.checkpoint)
            latest = checkpoints.latest()
            assert latest is not None, "the run is complete"
            checkpoints.load(latest, [model])
            ids = tokenizer.encode([prompt])[0].tolist()
            found = written(model, ids, tokens, tokenizer.roles.get("eos"), tokenizer.size, temperature, seed)
        finally:
            parallel.stop()
    return tokenizer.decode(found)


@torch.no_grad()
def written(
    model: Any, ids: list[int], tokens: int, end: int | None, vocab_size: int, temperature: float, seed: int
) -> list[int]:
    """The ids that a GPT draws behind `ids`, up to `tokens` or the end token; its padding rows are left out."""
    from megatron.core.utils import get_attr_wrapped_model

    from . import device

    model.eval()
    one = get_attr_wrapped_model(model, "read")
    longest = get_attr_wrapped_model(model, "max_sequence_length")
    generator = torch.Generator().manual_seed(seed)
    drawn: list[int] = []
    for _ in range(tokens):
        context = torch.tensor([[*ids, *drawn][-longest:]], device=device.here())
        batch = {"tokens": context, "positions": torch.arange(context.shape[1], device=device.here())[None]}
        logits = one(batch)[-1, 0, :vocab_size].float().cpu()
        chances = torch.softmax(logits / temperature, dim=-1)
        token = int(torch.multinomial(chances, 1, generator=generator))
        if token == end:
            break
        drawn.append(token)
    return drawn
