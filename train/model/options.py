"""What a model is: its shape, as a recipe gives it; presets of known models; how many parameters that makes.

Nothing here needs torch: `tilth train plan` and the checks before a run read these alone.
"""

import functools
from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

Family = Literal["gpt", "bert", "t5"]
Positions = Literal["rope", "learned", "alibi", "relative", "none"]
Activation = Literal["swiglu", "geglu", "gelu", "relu"]


class Experts(BaseModel):
    """A mixture of experts in place of each feed-forward network (Megatron's MoE layer)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=2, description="experts in each layer")
    per_token: int = Field(default=2, ge=1, description="experts that a token goes to")
    ffn: int | None = Field(default=None, ge=1, description="width of an expert; default: the model's ffn")
    balance_loss: float = Field(default=1e-2, ge=0, description="weight of the load-balancing loss (Switch: 1e-2)")


class ModelOptions(BaseModel):
    """The shape of a model. With `preset`, the preset's values hold where nothing else is said."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str | None = Field(default=None, description="a shape by name: tilth train presets")
    family: Family = Field(default="gpt", description="gpt (decoder), bert (encoder), t5 (encoder and decoder)")
    layers: int = Field(ge=1, description="layers; of t5: in the encoder and in the decoder each")
    hidden: int = Field(ge=1, description="width of the residual stream")
    heads: int = Field(ge=1, description="attention heads")
    kv_heads: int | None = Field(
        default=None, ge=1, description="heads that keys and values have: 1 is multi-query attention; default: as heads"
    )
    head_size: int | None = Field(default=None, ge=1, description="width of a head; default: hidden / heads")
    ffn: int | None = Field(default=None, ge=1, description="width of the feed-forward network; default: 4 x hidden")
    vocab_size: int | None = Field(default=None, ge=1, description="default: as the tokenizer's")
    vocab_multiple: int = Field(
        default=128, ge=1, description="rows of the embedding are filled up to a multiple of this, at any parallel size"
    )
    max_length: int = Field(default=2048, ge=1, description="the longest sequence; learned positions end there")
    positions: Positions = Field(default="rope", description="rope, learned, alibi, relative (t5) or none")
    rope_base: int = Field(default=10_000, ge=1, description="base of the rotary frequencies")
    rope_share: float = Field(default=1.0, gt=0, le=1, description="share of a head's width that is rotated")
    norm: Literal["rms", "layer"] = Field(default="rms", description="RMSNorm or LayerNorm, before each block")
    norm_eps: float = Field(default=1e-5, gt=0)
    activation: Activation = Field(default="swiglu", description="swiglu and geglu have a gate")
    bias: bool = Field(default=False, description="whether linear layers have biases")
    qkv_bias: bool = Field(default=False, description="whether queries, keys and values alone have (Qwen 2)")
    qk_norm: bool = Field(default=False, description="whether queries and keys are normed, head by head (Qwen 3)")
    tied: bool = Field(default=False, description="whether the output head is the embedding")
    window: int | None = Field(
        default=None, ge=1, description="sliding window: a token sees itself and this many less one before it"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of embeddings and residuals")
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    init_std: float = Field(default=0.02, gt=0, description="deviation of first weights; outputs: / sqrt(2 layers)")
    experts: Experts | None = None
    head: Literal["vocabulary", "scalar"] = Field(
        default="vocabulary", description="scalar: one number a token, for reward and value models"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("preset"):
            name = values["preset"]
            known = presets()
            if name not in known:
                raise ValueError(f"preset {name!r} is not known; there are {', '.join(known)}")
            return {**known[name]["model"], **values}
        return values

    @model_validator(mode="after")
    def _fits(self) -> "ModelOptions":
        if self.head_size is None and self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} does not divide into {self.heads} heads")
        if self.heads % self.groups:
            raise ValueError(f"{self.heads} heads do not divide among kv_heads {self.groups}")
        if self.positions == "rope" and (self.kv_channels * self.rope_share) % 2:
            raise ValueError(f"rope turns pairs: {self.kv_channels} x rope_share {self.rope_share:g} must be even")
        if self.positions == "relative" and self.family != "t5":
            raise ValueError("relative positions are T5's; gpt and bert have rope, learned, alibi or none")
        if self.positions == "alibi" and self.family != "gpt":
            raise ValueError("alibi is for gpt: it tells how far back a token is")
        if self.window and self.family != "gpt":
            raise ValueError("a sliding window is for gpt")
        if self.experts and self.experts.per_token > self.experts.number:
            raise ValueError(f"experts.per_token {self.experts.per_token} is more than {self.experts.number} experts")
        if self.experts and self.family != "gpt":
            raise ValueError("experts are for gpt")
        return self

    @property
    def groups(self) -> int:
        """Heads of keys and values."""
        return self.kv_heads or self.heads

    @property
    def kv_channels(self) -> int:
        """Width of a head."""
        return self.head_size or self.hidden // self.heads

    @property
    def ffn_size(self) -> int:
        return self.ffn or 4 * self.hidden

    @property
    def gated(self) -> bool:
        return self.activation in ("swiglu", "geglu")

    def rows(self) -> int:
        """Rows of the embedding, padding included. Needs vocab_size."""
        assert self.vocab_size is not None, "the tokenizer's size is filled in before"
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple


@functools.cache
def presets() -> dict[str, dict[str, Any]]:
    """Shapes by name: {model: fields of ModelOptions, parameters: as published, source: where that stands}."""
    text = (resources.files("tilth.train.model") / "presets.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)
