"""Batches out of Megatron-core's GPTDataset through torch's DataLoader, as Megatron-LM does; prints one JSON line.

--prefixes are paths of .bin and .idx without suffix. --resets starts positions anew at each document and takes the end
of one out of the loss (reset_position_ids, reset_attention_mask, eod_mask_loss); without it masks and positions are the
same for all samples and made once. --mask makes the attention mask too, [size, 1, length, length], which Megatron-LM
does by default; its users who have long sequences turn it off, as kernels make their own.

`index` is the seconds of building the index, or of opening it where --cache has it.
"""

import time
import warnings
from collections.abc import Iterator
from typing import Any

from reading import arguments, timed


class Vocabulary:
    """What a GPTDataset asks of its tokenizer: it reads tokens, and makes none."""

    def __init__(self, vocab_size: int, end: int):
        self.vocab_size, self.eod = vocab_size, end
        self.unique_identifiers = {"class": "Vocabulary", "vocab_size": vocab_size, "eod": end}


def main() -> None:
    given = arguments(
        str(__doc__),
        prefixes={"nargs": "+", "required": True},
        cache={"required": True},
        vocab_size={"type": int, "required": True},
        end={"type": int, "required": True},
        resets={"action": "store_true"},
        mask={"action": "store_true"},
        one_epoch={"action": "store_true", "help": "the index is for one, whatever is read; default: for what is read"},
    )
    warnings.simplefilter("ignore")
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from torch.utils.data import DataLoader

    told: dict[str, Any] = {}

    def opened() -> Iterator[dict[str, Any]]:
        begun = time.perf_counter()
        config = GPTDatasetConfig(
            random_seed=1234,
            sequence_length=given.length,
            blend=(given.prefixes, None),
            split="1,0,0",
            path_to_cache=given.cache,
            tokenizer=Vocabulary(given.vocab_size, given.end),  # pyright: ignore[reportArgumentType]
            reset_position_ids=given.resets,
            reset_attention_mask=given.resets,
            eod_mask_loss=given.resets,
            create_attention_mask=given.mask,
        )
        wanted = None if given.one_epoch else (given.start + 1 + given.warm + given.batches) * given.size
        sizes: list[Any] = [wanted, 0, 0]
        dataset = BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config).build()[0]
        assert dataset is not None
        told["index"] = round(time.perf_counter() - begun, 4)
        numbers = range(given.start * given.size, len(dataset) - given.size + 1, given.size)
        order = (range(number, number + given.size) for number in numbers)  # as MegatronPretrainingSampler's
        return iter(
            DataLoader(
                dataset,
                batch_sampler=order,  # pyright: ignore[reportArgumentType]
                num_workers=given.workers,
                persistent_workers=given.workers > 0,
            )
        )

    timed(opened, given, told)


if __name__ == "__main__":
    main()
