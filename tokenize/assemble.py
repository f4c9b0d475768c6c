"""A vocabulary that was learned, as the content of a tokenizer.json and its configuration."""

from typing import Any

from tilth.errors import UsageError

from .bpe import Vocabulary
from .formats import added_token, around, byte_level, whole_spec
from .recipe import SpecialOptions, TokenizerRecipe
from .split import METASPACE, regular_expression
from .tokenizer import Spec, Tokenizer, written


def assemble(vocabulary: Vocabulary, recipe: TokenizerRecipe) -> Tokenizer:
    """The tokenizer of a vocabulary that was learned as the recipe says: byte-bpe, bpe or wordpiece.

    Raises UsageError for a special token that is written as another token is.
    """
    config = configuration(recipe.special_tokens, recipe.chat_template)
    added = [added_token(index, token) for index, token in enumerate(recipe.special_tokens.tokens)]
    bytewise = recipe.algorithm == "byte-bpe"
    tokens = [piece.decode() for piece in vocabulary.pieces[: vocabulary.alphabet]]
    tokens += [written(piece) if bytewise else piece.decode() for piece in vocabulary.pieces[vocabulary.alphabet :]]
    own = {*tokens[vocabulary.alphabet :]}
    if clash := [token for token in tokens[: vocabulary.alphabet] if token in own]:
        raise UsageError(
            f"the special token {clash[0]!r} is also how {recipe.algorithm} writes text; name it otherwise"
        )
    ids = {token: index for index, token in enumerate(tokens)}
    normalizer = recipe.normalizer.spec()
    if recipe.algorithm == "wordpiece":
        return Tokenizer(_wordpiece(ids, added, normalizer, recipe.special_tokens), config)
    merges = [(tokens[left], tokens[right]) for left, right in vocabulary.merges]
    if bytewise:
        spec = byte_level(ids, merges, added, regular_expression(recipe.split_options), whole=False)
        return Tokenizer({**spec, "normalizer": normalizer}, config)
    return Tokenizer(_fallback(ids, merges, added, normalizer, recipe.special_tokens.unk), config)


def configuration(specials: SpecialOptions, chat_template: str | None) -> dict[str, Any]:
    """What a tokenizer_config.json says: roles of special tokens, the chat template."""
    config: dict[str, Any] = {f"{role}_token": token for role, token in specials.roles.items()}
    if specials.others:
        config["additional_special_tokens"] = list(specials.others)
    return config | ({"chat_template": chat_template} if chat_template else {})


def _fallback(
    ids: dict[str, int], merges: list[tuple[str, str]], added: list[Spec], normalizer: Spec | None, unknown: str | None
) -> Spec:
    """BPE on characters, with the bytes of those that have no id, and metaspaces."""
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": ids,
        "merges": [list(merge) for merge in merges],
    }
    steps: list[Spec] = [
        {"type": "Replace", "pattern": {"String": METASPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    decoder = {"type": "Sequence", "decoders": steps}
    return whole_spec(model, added, normalizer=normalizer, decoder=decoder)


def _wordpiece(ids: dict[str, int], added: list[Spec], normalizer: Spec | None, specials: SpecialOptions) -> Spec:
    model = {
        "type": "WordPiece",
        "unk_token": specials.unk,
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": ids,
    }
    return whole_spec(
        model,
        added,
        normalizer=normalizer,
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=around(ids, specials.cls, specials.sep) if specials.cls and specials.sep else None,
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": False},
    )
