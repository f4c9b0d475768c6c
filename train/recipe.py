"""What a training run is, whole: the recipe that `tilth train run` reads."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..curate.mix import Part
from .checkpoint import CheckpointOptions
from .data.stream_options import StreamOptions
from .grown import GrowOptions
from .guard import GuardOptions
from .model.options import ModelOptions
from .objective.language import LanguageModel
from .objective.masked import MaskedModel
from .objective.spans import SpanCorruption
from .optimizer import OptimizerOptions
from .parallel import ParallelOptions
from .plan import MOST_BUCKETS, Rung, Stage, rises
from .schedule import ScheduleOptions
from .seen import SeenOptions
from .sizes import Step

PACKAGE = "tilth.train.recipes"


Packing = Literal["concat", "best-fit", "padded", "buckets"]


class BatchOptions(BaseModel):
    """How much a step sees, and how it is cut. The loss does not depend on the cut."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(default=256, ge=1, description="sequences in a step, over all ranks")
    micro: int = Field(
        default=4,
        ge=1,
        description="sequences that go through the model at once; of shorter ones than the plan's longest more, as far "
        "as they divide",
    )
    length: int = Field(default=2048, ge=8, description="tokens in a sequence")


class ValidationOptions(BaseModel):
    """The share of the documents that is never trained on, and when its loss is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(default=0.0, ge=0, lt=1, description="of the documents, chosen by the hash of their ids")
    every: int = Field(default=1000, ge=1, description="steps between two measurements; there is one at the end too")
    most: int | None = Field(
        default=None, ge=1, description="sequences of each source that are read; default: all, of a stream 32"
    )


class TrainRecipe(BaseModel):
    """A model, what it is trained on and for, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = Field(default="", description="what the recipe is for, in a line")
    model: ModelOptions
    steps: int | None = Field(
        default=None, ge=1, description="steps; default: as `tokens` says, or one pass over the data"
    )
    tokens: float | None = Field(default=None, gt=0, description="tokens to train on, such as 2e9, in place of steps")
    parts: dict[str, Part] = Field(
        default={}, description="what the data is made of, by name; a document is of the first part that takes it"
    )
    mixture: dict[str, float] = Field(default={}, description="weight of each part; default: as their sizes are")
    languages: dict[str, float] = Field(
        default={}, description="weight of each language over all parts, such as {zh: 6, en: 4}; default: as they come"
    )
    language_label: str = Field(default="lang.code", description="the label that tells a document's language")
    stages: dict[str, Stage] = Field(default={}, description="one after the other, by name; default: one stage")
    ramp: tuple[Rung, ...] = Field(default=(), description="without stages: how training begins")
    batch: BatchOptions = BatchOptions()
    packing: Packing = Field(
        default="concat",
        description="documents one behind the other, cut into samples (concat); whole where they fit (best-fit); one a "
        "sample (padded); or that, with steps of shorter samples for shorter documents (buckets)",
    )
    verify: bool = Field(
        default=True,
        description="whether all of the data are held against the hashes that were written with them, once, before the "
        "first step: a second or so for each GB",
    )
    stream: StreamOptions = Field(default=StreamOptions(), description="for data that is tokenized as it is read")
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
    grow: GrowOptions | None = Field(
        default=None,
        description="how rows are made for tokens that the start's tokenizer lacks; --tokenizer names the expanded one",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="of first weights, dropout and what is held out")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.steps and (self.tokens or self.stages):
            raise ValueError("steps and tokens or stages both say how long to train; give one, and null for the other")
        if self.steps and self.ramp:
            raise ValueError("with a ramp steps differ: say how long in tokens, and steps: null")
        if self.grow and not self.start:
            raise ValueError("grow: says how the rows of another run grow; name that run as start")
        if self.stages and self.ramp:
            raise ValueError("with stages, each has its own ramp")
        for where, mixture in [("", self.mixture), *((f"stages.{n}.", s.mixture) for n, s in self.stages.items())]:
            for name in mixture:
                if name not in self.parts:
                    there = f"there are: {', '.join(self.parts)}" if self.parts else "no parts are told"
                    raise ValueError(f"{where}mixture: {name} is none of the parts; {there}")
        if self.packing == "buckets" and self.model.family != "gpt":
            raise ValueError("packing: buckets are for gpt; take padded")
        if self.packing in ("padded", "buckets") and len(self._told_lengths()) > 1:
            raise ValueError(f"packing: {self.packing} samples have one length in all stages; take concat or best-fit")
        if self.packing == "buckets" and self._told_lengths().pop() % 16:
            raise ValueError("packing: buckets halve the length, which has to be a multiple of 16")
        each = self.batch.micro * self.parallel.data
        for size in sorted(self._told_sizes()):
            if size % each:
                raise ValueError(
                    f"batch.size {size} is not a multiple of batch.micro {self.batch.micro} x parallel.data "
                    f"{self.parallel.data}"
                )
            if self.parallel.virtual > 1 and size // each % self.parallel.pipeline:
                raise ValueError(
                    f"interleaving needs micro-batches in multiples of parallel.pipeline {self.parallel.pipeline}; "
                    f"batch.size {size} makes {size // each}"
                )
        if self.recompute != "none" and self.model.positions == "relative":
            raise ValueError(
                "recompute: Megatron-core cannot compute layers again that share a relative bias; take none"
            )
        return self

    def staged(self, one_pass: float) -> dict[str, Stage]:
        """The stages; where none are told, one: of `steps`, `tokens`, or one pass over so many tokens."""
        if self.stages:
            return self.stages
        batch = self.batch.size * self.batch.length
        tokens = self.steps * batch if self.steps else self.tokens or max(one_pass // batch, 1) * batch
        return {"train": Stage(tokens=max(tokens, batch), ramp=self.ramp)}

    def lengths(self) -> list[int]:
        """Tokens of the sequences that the plan has, the longest first."""
        told = self._told_lengths()
        if self.packing == "buckets":
            told |= {each >> halved for each in told for halved in range(1, MOST_BUCKETS) if not each % (8 << halved)}
        return sorted(told, reverse=True)

    def _told_lengths(self) -> set[int]:
        stages = {stage.length or self.batch.length for stage in self.stages.values()}
        return (stages or {self.batch.length}) | {rung.length for rung in self._rungs() if rung.length}

    def _told_sizes(self) -> set[int]:
        stages = {stage.size or self.batch.size for stage in self.stages.values()}
        return (stages or {self.batch.size}) | {rung.size for rung in self._rungs() if rung.size}

    def _rungs(self) -> list[Rung]:
        return [*self.ramp, *(rung for stage in self.stages.values() for rung in stage.ramp)]

    def objective(self) -> LanguageModel | MaskedModel | SpanCorruption:
        return {"gpt": self.language, "bert": self.masked, "t5": self.spans}[self.model.family]

    def decoder_length(self) -> int | None:
        """Tokens of t5's decoder."""
        if self.model.family != "t5":
            return None
        return self.spans.sizes(self.spans.length(self.lengths()[0])).decoder

    # --- what a plan is made of, before there is data -----------------------------------------------------------------

    def planned(self) -> ModelOptions:
        """The model; where the vocabulary is left to a tokenizer, with LLaMA's 32,000."""
        return self.model if self.model.vocab_size else self.model.model_copy(update={"vocab_size": 32_000})

    def planned_step(self) -> Step:
        """What one rank does in a step."""
        return Step(
            length=self.lengths()[0],
            decoder_length=self.decoder_length(),
            micro_batch=self.batch.micro,
            micro_batches=self.batch.size // self.batch.micro // self.parallel.data,
            precision=self.precision,
            optimizer=self.optimizer.name,
            recompute=self.recompute,
        )

    def planned_tokens(self) -> float | None:
        if self.stages:
            return sum(each.tokens for each in rises(self.stages, self.batch.size, self.batch.length, self.tokens)[0])
        return self.steps * self.batch.size * self.batch.length if self.steps else self.tokens
