"""NAME TEXT OUTPUT SIZE: a 32k vocabulary with tokenizers (byte-level BPE, GPT-2's words) or sentencepiece (BPE)."""

import sys


def tokenizers(text: str, output: str, size: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    with open(text, encoding="utf-8", newline="\n") as lines:
        made.train_from_iterator(lines, trainer)
    made.save(f"{output}/tokenizer.json")


def sentencepiece(text: str, output: str, size: int) -> None:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        input=text,
        model_prefix=f"{output}/spm",
        vocab_size=size,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.9995,
        max_sentence_length=65536,
        num_threads=2,
        input_sentence_size=0,
        minloglevel=2,
    )


if __name__ == "__main__":
    name, text, output, size = sys.argv[1:]
    {"tokenizers": tokenizers, "sentencepiece": sentencepiece}[name](text, output, int(size))
