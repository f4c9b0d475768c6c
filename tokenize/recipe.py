"""The tokenizer recipe: which text is counted, how it is cut, what is learned, which special tokens there are."""

import re
from typing import Literal, Self

from jinja2 import Environment, TemplateSyntaxError
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..curate.read import ReadOptions
from .bpe import LearnOptions
from .corpus import Mixture
from .count import CountOptions
from .normalize import Form, Normalizer
from .split import SplitOptions

PACKAGE = "tilth.tokenize.recipes"

Algorithm = Literal["byte-bpe", "bpe", "wordpiece", "unigram"]

ROLES: dict[str, dict[str, str]] = {
    "byte-bpe": {"eos": "<|endoftext|>"},
    "bpe": {"unk": "<unk>", "bos": "<s>", "eos": "</s>"},
    "unigram": {"unk": "<unk>", "bos": "<s>", "eos": "</s>"},
    "wordpiece": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
}
PATTERNS = {"byte-bpe": "gpt4", "bpe": "metaspace", "unigram": "metaspace", "wordpiece": "bert"}


_GENERATION = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")  # a tag of transformers' own, with loop controls


class SpecialOptions(BaseModel):
    """Special tokens. They take the first ids, in this order, and are never read out of text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pad: str | None = Field(default=None, description="what fills a text up to a length")
    unk: str | None = Field(default=None, description="what stands for a character that the vocabulary does not have")
    bos: str | None = Field(default=None, description="what a text begins with, where a model wants that")
    eos: str | None = Field(default=None, description="what ends a document")
    cls: str | None = Field(default=None, description="BERT: what a text begins with")
    sep: str | None = Field(default=None, description="BERT: what ends a text")
    mask: str | None = Field(default=None, description="BERT: what hides a token")
    others: tuple[str, ...] = Field(default=(), description="more of them, such as those of a chat template")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        tokens = self.tokens
        twice = next((token for token in tokens if tokens.count(token) > 1), None)
        if twice is not None:
            raise ValueError(f"the special token {twice!r} is named twice")
        short = next((token for token in tokens if len(token) < 2 or not token.strip()), None)
        if short is not None:
            raise ValueError(
                f"the special token {short!r} is too short to be told from text; use one such as <|{short}|>"
            )
        return self

    @property
    def roles(self) -> dict[str, str]:
        """Tokens by role, in the order of ids."""
        return {role: token for role, token in self if role != "others" and token}

    @property
    def tokens(self) -> list[str]:
        """All of them, in the order of ids."""
        return [*self.roles.values(), *self.others]


class TokenizerRecipe(BaseModel):
    """Everything that a tokenizer depends on, apart from the text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = Field(default="", description="what the recipe is for, one line")
    algorithm: Algorithm = Field(
        default="byte-bpe",
        description="byte-bpe (GPT), bpe (LLaMA: characters, bytes for the rest), wordpiece, unigram",
    )
    vocab_size: int = Field(default=32000, ge=2, description="ids, special tokens among them")
    normalize: Form | None = Field(
        default=None, description="none, nfc, nfkc, bert, bert-cased; default: bert for WordPiece, else none"
    )
    read: ReadOptions = ReadOptions()
    split: SplitOptions = SplitOptions()
    mixture: Mixture | None = None
    count: CountOptions = CountOptions()
    learn: LearnOptions = LearnOptions()
    specials: SpecialOptions | None = Field(default=None, description="default: those the algorithm is known with")
    chat_template: str | None = Field(default=None, description="Jinja template that writes a conversation as one text")

    @field_validator("chat_template")
    @classmethod
    def _sound_template(cls, template: str | None) -> str | None:
        if template is not None:
            try:
                Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub("", template))
            except TemplateSyntaxError as error:
                raise ValueError(f"not a Jinja template ({error})") from error
        return template

    @model_validator(mode="after")
    def _fits(self) -> Self:
        wanted = PATTERNS[self.algorithm]
        pattern = self.split.pattern or wanted
        if pattern != wanted and {pattern, wanted} != {"gpt2", "gpt4"}:
            raise ValueError(f"split.pattern: {self.algorithm} takes {wanted}, not {pattern}")
        if self.algorithm == "wordpiece" and self.specials is not None and not self.specials.unk:
            raise ValueError("specials.unk: wordpiece needs one")
        if self.algorithm in ("bpe", "unigram") and self.specials is not None and not self.specials.unk:
            raise ValueError(f"specials.unk: {self.algorithm} needs one, as SentencePiece does")
        if self.algorithm == "unigram" and self.learn.character_coverage < 0.98:
            raise ValueError("learn.character_coverage: unigram takes 0.98 to 1, as SentencePiece does")
        if self.algorithm == "unigram" and self.learn.max_token_length and not 2 <= self.learn.max_token_length <= 512:
            raise ValueError("learn.max_token_length: unigram takes 2 to 512, or 0 for SentencePiece's 16")
        return self

    @property
    def split_options(self) -> SplitOptions:
        """With the pattern that the algorithm is known with, where none is chosen."""
        return SplitOptions.model_validate(
            {**self.split.model_dump(), "pattern": self.split.pattern or PATTERNS[self.algorithm]}
        )

    @property
    def normalizer(self) -> Normalizer:
        """What is done to text first."""
        form = self.normalize or ("bert" if self.algorithm == "wordpiece" else "none")
        return Normalizer(form, metaspace=self.split_options.pattern == "metaspace")

    @property
    def special_tokens(self) -> SpecialOptions:
        """Those of the recipe, or those that the algorithm is known with."""
        return self.specials or SpecialOptions.model_validate(ROLES[self.algorithm])
