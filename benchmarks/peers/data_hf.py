"""Batches out of Hugging Face's datasets: Parquet files streamed, shuffled, tokenized and cut; prints one JSON line.

It runs in an environment of its own (see data.py). --packing lists is what the example scripts of transformers do
(run_clm.py: one map to tokenize, one to concatenate and cut lists); arrays does both in one map, and in numpy.
"""

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from reading import arguments, timed


def main() -> None:
    given = arguments(
        str(__doc__),
        corpus={"type": Path, "required": True, "help": "a folder of Parquet files with a column `text`"},
        tokenizer={"required": True, "help": "tokenizer.json"},
        end={"required": True, "help": "the token behind each document"},
        packing={"choices": ("lists", "arrays"), "default": "arrays"},
        threads={"action": "store_true", "help": "tokenizers may use all cores, in each process"},
        buffer={"type": int, "default": 1000, "help": "documents that are shuffled together"},
    )
    os.environ["TOKENIZERS_PARALLELISM"] = str(given.threads).lower()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from datasets import load_dataset
    from torch.utils.data import DataLoader
    from transformers import PreTrainedTokenizerFast, default_data_collator

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=given.tokenizer, eos_token=given.end)
    end, length = tokenizer.eos_token_id, given.length
    files = sorted(map(str, given.corpus.glob("*.parquet")))

    def tokenized(rows: dict[str, list[str]]) -> list[list[int]]:
        found: Any = tokenizer(rows["text"], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return found

    def ended(rows: dict[str, list[str]]) -> dict[str, Any]:
        return {"input_ids": [[*ids, end] for ids in tokenized(rows)]}

    def cut(rows: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        flat = list(chain(*rows["input_ids"]))
        cuts = [flat[at : at + length] for at in range(0, len(flat) // length * length, length)]
        return {"input_ids": cuts, "labels": cuts}

    def packed(rows: dict[str, list[str]]) -> dict[str, np.ndarray]:
        flat = np.fromiter(chain.from_iterable(chain(ids, (end,)) for ids in tokenized(rows)), np.int64)
        return {"input_ids": flat[: len(flat) // length * length].reshape(-1, length)}

    def opened() -> Iterator[dict[str, Any]]:
        rows = load_dataset("parquet", data_files=files, split="train", streaming=True)
        rows = rows.select_columns(["text"]).shuffle(seed=0, buffer_size=given.buffer)
        if given.packing == "lists":
            rows = rows.map(ended, batched=True, remove_columns=["text"]).map(cut, batched=True)
        else:
            rows = rows.map(packed, batched=True, remove_columns=["text"])
        how: dict[str, Any] = {"batch_size": given.size, "num_workers": given.workers, "drop_last": True}
        if given.packing == "lists":
            how["collate_fn"] = default_data_collator
        loader = DataLoader(rows, **how)  # pyright: ignore[reportArgumentType]
        for batch in loader:
            yield batch if "labels" in batch else {**batch, "labels": batch["input_ids"]}

    timed(opened, given)


if __name__ == "__main__":
    main()
