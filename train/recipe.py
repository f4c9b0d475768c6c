"""What a training run is, whole: the recipe that `tilth train run` reads."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .checkpoint import CheckpointOptions
from .guard import GuardOptions
from .model.options import ModelOptions
from .objective.language import LanguageModel
from .objective.masked import MaskedModel
from .objective.spans import SpanCorruption
from .optimizer import OptimizerOptions
from .parallel import ParallelOptions
from .schedule import ScheduleOptions
from .seen import SeenOptions
from .sizes import Step

PACKAGE = "tilth.train.recipes"


class BatchOptions(BaseModel):
    """How much a step sees, and how it is cut. The loss does not depend on the cut."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(default=256, ge=1, description="sequences in a step, over all ranks")
    micro: int = Field(default=4, ge=1, description="sequences that go through the model at once")
    length: int = Field(default=2048, ge=8, description="tokens in a sequence")


class ValidationOptions(BaseModel):
    """The share of the documents that is never trained on, and when its loss is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(default=0.0, ge=0, lt=1, description="of the documents, chosen by the hash of their ids")
    every: int = Field(default=1000, ge=1, description="steps between two measurements; there is one at the end too")
    most: int | None = Field(default=None, ge=1, description="sequences of each source that are read; default: all")


class TrainRecipe(BaseModel):
    """A model, what it is trained on and for, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = Field(default="", description="what the recipe is for, in a line")
    model: ModelOptions
    steps: int | None = Field(
        default=None, ge=1, description="steps; default: as `tokens` says, or one pass over the data"
    )
    tokens: float | None = Field(default=None, gt=0, description="tokens to train on, such as 2e9, in place of steps")
    batch: BatchOptions = BatchOptions()
    language: LanguageModel = Field(default=LanguageModel(), description="gpt's objective")
    masked: MaskedModel = Field(default=MaskedModel(), description="bert's objective")
    spans: SpanCorruption = Field(default=SpanCorruption(), description="t5's objective")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="bf16", description="of weights and activations; the optimizer's are float32; fp16 needs a GPU"
    )
    matmul: Literal["highest", "high", "medium"] = Field(
        default="highest", description="of float32 products (torch.set_float32_matmul_precision)"
    )
    recompute: Literal["none", "selective", "full"] = Field(
        default="none", description="what backward computes again, to save memory: attention, or whole layers"
    )
    optimizer: OptimizerOptions = OptimizerOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    parallel: ParallelOptions = ParallelOptions()
    checkpoint: CheckpointOptions = CheckpointOptions()
    validation: ValidationOptions = ValidationOptions()
    guard: GuardOptions = GuardOptions()
    seen: SeenOptions = SeenOptions()
    new_rows: str | None = Field(
        default=None, description="a new_rows.json: only these rows of embedding and head are trained (tokenize embed)"
    )
    start: str | None = Field(default=None, description="a training run or checkpoint whose weights are taken")
    seed: int = Field(default=0, ge=0, lt=2**31, description="of first weights, dropout and what is held out")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        each = self.batch.micro * self.parallel.data
        if self.batch.size % each:
            raise ValueError(
                f"batch.size {self.batch.size} is not a multiple of batch.micro {self.batch.micro} x "
                f"parallel.data {self.parallel.data}"
            )
        if self.steps and self.tokens:
            raise ValueError("steps and tokens both say how long to train; give one")
        if self.recompute != "none" and self.model.positions == "relative":
            raise ValueError(
                "recompute: Megatron-core cannot compute layers again that share a relative bias; take none"
            )
        micro = self.batch.size // each
        if self.parallel.virtual > 1 and micro % self.parallel.pipeline:
            raise ValueError(
                f"interleaving needs micro-batches in multiples of parallel.pipeline {self.parallel.pipeline}; "
                f"batch.size {self.batch.size} makes {micro}"
            )
        return self

    def step_count(self, samples: int) -> int:
        """Steps in all, for data of so many samples a pass."""
        if self.steps:
            return self.steps
        if self.tokens:
            return max(1, round(self.tokens / (self.batch.size * self.batch.length)))
        return max(1, samples // self.batch.size)

    def objective(self) -> LanguageModel | MaskedModel | SpanCorruption:
        return {"gpt": self.language, "bert": self.masked, "t5": self.spans}[self.model.family]

    def decoder_length(self) -> int | None:
        """Tokens of t5's decoder."""
        if self.model.family != "t5":
            return None
        return self.spans.sizes(self.spans.length(self.batch.length)).decoder

    # --- what a plan is made of, before there is data -----------------------------------------------------------------

    def planned(self) -> ModelOptions:
        """The model; where the vocabulary is left to a tokenizer, with LLaMA's 32,000."""
        return self.model if self.model.vocab_size else self.model.model_copy(update={"vocab_size": 32_000})

    def planned_step(self) -> Step:
        """What one rank does in a step."""
        return Step(
            length=self.batch.length,
            decoder_length=self.decoder_length(),
            micro_batch=self.batch.micro,
            micro_batches=self.batch.size // self.batch.micro // self.parallel.data,
            precision=self.precision,
            optimizer=self.optimizer.name,
            recompute=self.recompute,
        )

    def planned_tokens(self) -> float | None:
        return self.steps * self.batch.size * self.batch.length if self.steps else self.tokens
