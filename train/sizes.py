"""What a model weighs and costs: parameters, floating-point operations, memory of each rank.

Arithmetic on a shape, without torch: `tilth train plan` and the checks before a run read it. Every number follows from
one list, `weights`: what Megatron-core builds of the shape, tensor by tensor. What a plan makes of them stands in
`budget`.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from .model.options import ModelOptions
from .parallel import ParallelOptions, fit

Precision = Literal["fp32", "bf16", "fp16"]
Recompute = Literal["none", "selective", "full"]
Reader = Literal["input", "output"]  # tokens that a matrix is multiplied with: of t5 the encoder's, the decoder's
Optimizer = Literal["adamw", "adam", "lamb", "sgd", "adagrad", "muon"]

PARTS = ("embedding", "positions", "attention", "feed_forward", "experts", "router", "norms", "head")
BUCKETS = 32  # of T5's relative positions
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
STATES = {"adamw": 2, "adam": 2, "lamb": 2, "sgd": 1, "adagrad": 1, "muon": 1}  # float32 numbers for each parameter
SPANS = (114, 512)  # tokens of T5's decoder for those of its encoder (Raffel et al. 2020, section 3.1.4)


class Weight(NamedTuple):
    """One kind of tensor of a model."""

    part: str  # one of PARTS
    place: Literal["first", "layers", "last"]  # where in a pipeline
    times: int  # how often the model has it
    size: int  # elements of one, padding of the vocabulary apart
    padding: int = 0  # elements for ids that no token has
    split: bool = False  # over the tensor ranks
    read_by: Reader | None = None

    @property
    def elements(self) -> int:
        return self.times * self.size


def weights(model: ModelOptions) -> list[Weight]:
    """Every tensor of the model, as Megatron-core 0.16 builds it of our specs. Needs vocab_size."""
    assert model.vocab_size is not None, "the tokenizer's size is filled in before"
    hidden, vocab, filler = model.hidden, model.vocab_size, model.rows() - model.vocab_size
    found = [Weight("embedding", "first", 1, vocab * hidden, filler * hidden, split=True)]
    if model.positions == "learned":
        found.append(Weight("positions", "first", 1, model.max_length * hidden))
    if model.family == "t5":
        if model.positions == "relative":
            found.append(Weight("positions", "first", 2, BUCKETS * model.heads))
        found += [*_layers(model, "input"), *_layers(model, "output", over_encoder=True)]
        found.append(Weight("norms", "last", 2, _norm(model, hidden)))
    else:
        found += [*_layers(model, "input"), Weight("norms", "last", 1, _norm(model, hidden))]
    return [*found, *_head(model, vocab, filler)]


def _norm(model: ModelOptions, width: int) -> int:
    return width if model.norm == "rms" else 2 * width


def _layers(model: ModelOptions, read_by: Reader, over_encoder: bool = False) -> Iterator[Weight]:
    """One stack of layers; `over_encoder`: with attention over the encoder's output, whose keys see its tokens."""
    hidden, times = model.hidden, model.layers
    queries, keys = model.heads * model.kv_channels, model.groups * model.kv_channels
    yield Weight("norms", "layers", times, (3 if over_encoder else 2) * _norm(model, hidden))
    if model.qk_norm:
        yield Weight("norms", "layers", times, 2 * _norm(model, model.kv_channels))
    yield from _linear("attention", times, hidden, queries + 2 * keys, model.bias or model.qkv_bias, read_by)
    yield from _linear("attention", times, queries, hidden, model.bias, read_by, rows=True)
    if over_encoder:
        yield from _linear("attention", times, hidden, queries, model.bias, read_by)
        yield from _linear("attention", times, hidden, 2 * queries, model.bias, "input")
        yield from _linear("attention", times, queries, hidden, model.bias, read_by, rows=True)
    part, copies, width = "feed_forward", times, model.ffn_size
    if model.experts:
        part, copies, width = "experts", times * model.experts.number, model.experts.ffn or width
        yield from _linear("router", times, hidden, model.experts.number, model.bias, read_by, whole=True)
    yield from _linear(part, copies, hidden, (2 if model.gated else 1) * width, model.bias, read_by)
    yield from _linear(part, copies, width, hidden, model.bias, read_by, rows=True)


def _linear(
    part: str,
    times: int,
    inputs: int,
    outputs: int,
    bias: bool,
    read_by: Reader,
    rows: bool = False,
    whole: bool = False,
) -> Iterator[Weight]:
    """A matrix and its bias: split by outputs, or by `rows` (inputs; the bias is then whole), or not (`whole`)."""
    yield Weight(part, "layers", times, inputs * outputs, split=not whole, read_by=read_by)
    if bias:
        yield Weight(part, "layers", times, outputs, split=not (rows or whole))


def _head(model: ModelOptions, vocab: int, filler: int) -> Iterator[Weight]:
    hidden = model.hidden
    read_by: Reader = "output" if model.family == "t5" else "input"
    if model.head == "scalar":
        yield Weight("head", "last", 1, hidden, read_by=read_by)
        return
    if model.family == "bert":
        yield Weight("head", "last", 1, hidden * hidden, read_by=read_by)
        yield Weight("head", "last", 1, hidden + _norm(model, hidden))
    if not model.tied:
        yield Weight("head", "last", 1, vocab * hidden, filler * hidden, split=True, read_by=read_by)
    if model.family == "bert" or (model.family == "t5" and model.tied):
        yield Weight("head", "last", 1, vocab, filler, split=True)


def parameters(model: ModelOptions) -> dict[str, int]:
    """Parameters by part; `total` of them; `active`, those that one token meets (fewer with experts); and apart from
    all these, `padding`: elements of rows that fill the vocabulary up. What Megatron-core builds is total + padding."""
    every = weights(model)
    counts = {part: sum(weight.elements for weight in every if weight.part == part) for part in PARTS}
    total = sum(counts.values())
    active = total - round(counts["experts"] * (1 - _active(model)))
    padding = sum(weight.times * weight.padding for weight in every)
    return {**counts, "total": total, "active": active, "padding": padding}


def _active(model: ModelOptions) -> float:
    """Share of the experts that a token goes to."""
    return model.experts.per_token / model.experts.number if model.experts else 1.0


# --- Floating-point operations --------------------------------------------------------------------------------------


class Flops(NamedTuple):
    """Operations for one token, forward and backward."""

    others: float  # feed-forward networks and the head
    projections: float  # attention's matrices
    scores: float  # queries by keys, and weights by values: what grows with the length

    @property
    def total(self) -> float:
        return sum(self)

    @property
    def attention_share(self) -> float:
        """Of attention, with its matrices."""
        return (self.projections + self.scores) / self.total

    @property
    def scores_share(self) -> float:
        """Of the part that is O(length^2 x width) for a sequence."""
        return self.scores / self.total


def flops(model: ModelOptions, length: int, decoder_length: int | None = None) -> Flops:
    """Operations of training one token of a sequence of `length`, by the convention of PaLM (Chowdhery et al. 2022,
    appendix B): 6 for each element of a matrix that the token meets, and 12 x layers x heads x head width x length for
    the scores. So counted, published MFU can be compared: scores are full, not the half that a causal kernel has to
    compute; recomputation and padding of the vocabulary do not count. A sliding window counts as its width.

    Of t5, `length` is the encoder's and `decoder_length` the decoder's (default: 114 for 512), and the result is the
    mean over the tokens of both.
    """
    tokens = {"input": length, "output": output_length(model, length, decoder_length)}
    experts = _active(model)
    by_part: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    for weight in weights(model):
        if weight.read_by:
            share = experts if weight.part == "experts" else 1.0
            by_part[weight.part] += 6 * share * weight.elements * tokens[weight.read_by]
    if model.tied and model.head == "vocabulary":
        reader = "output" if model.family == "t5" else "input"
        by_part["head"] += 6 * (model.vocab_size or 0) * model.hidden * tokens[reader]
    pairs = length * min(length, model.window or length)
    if model.family == "t5":
        pairs += tokens["output"] * (tokens["output"] + length)
    scores = 12.0 * model.layers * model.heads * model.kv_channels * pairs
    count = length + (tokens["output"] if model.family == "t5" else 0)
    projections = by_part.pop("attention")
    return Flops(sum(by_part.values()) / count, projections / count, scores / count)


def output_length(model: ModelOptions, length: int, decoder_length: int | None) -> int:
    """Tokens of t5's decoder in a sequence, as given, or those of span corruption; of other models `length`."""
    if model.family != "t5":
        return length
    return decoder_length or max(1, round(length * SPANS[0] / SPANS[1]))


def flops_per_token(model: ModelOptions, length: int, decoder_length: int | None = None) -> float:
    """Operations of training one token; see `flops`."""
    return flops(model, length, decoder_length).total


def mfu(tokens_per_second: float, flops_per_token: float, peak: float, devices: int = 1) -> float:
    """Model FLOPs utilization: the share of `devices` x `peak` operations a second that the model uses (PaLM,
    appendix B). Tokens a second are those of all devices together."""
    return tokens_per_second * flops_per_token / (devices * peak)


# --- Memory ---------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What a rank does in one step of training."""

    length: int  # tokens of a sequence; of t5: of the encoder's
    decoder_length: int | None = None  # of t5
    micro_batch: int = 1  # sequences in one pass
    micro_batches: int = 1  # passes
    precision: Precision = "bf16"
    optimizer: Optimizer = "adamw"
    recompute: Recompute = "none"
    flash: bool = True  # attention keeps no scores


def memory(model: ModelOptions, parallel: ParallelOptions, step: Step) -> list[dict[str, int]]:
    """Bytes on one rank of each pipeline stage: weights, gradients, optimizer, activations, logits, and their total;
    beside them `stage` and `parameters`, those that the rank holds.

    Gradients are kept in float32; bf16 and fp16 have a float32 copy of the weights beside the optimizer's states. That
    makes 18 bytes a parameter with Adam, of which `shard_optimizer` splits 12 (Megatron-core, distributed optimizer).
    Not counted: buffers of communication, of kernels and of the allocator, about 1 to 3 GB on a GPU. Raises UsageError,
    with the numbers, where the model cannot be split so.
    """
    fit(model, parallel, step.length, step.decoder_length)
    stages = []
    for stage in range(parallel.pipeline):
        row = _state(model, parallel, stage, step)
        row["activations"] = round(_activations(model, parallel, stage, step))
        row["logits"] = round(_logits(model, parallel, step)) if stage == parallel.pipeline - 1 else 0
        row["total"] = sum(row[part] for part in ("weights", "gradients", "optimizer", "activations", "logits"))
        stages.append({"stage": stage, **row})
    return stages


def _state(model: ModelOptions, parallel: ParallelOptions, stage: int, step: Step) -> dict[str, int]:
    """Parameters of a rank of the stage, and the bytes of weights, gradients and optimizer."""
    states = 4 * STATES[step.optimizer] + (0 if step.precision == "fp32" else 4)
    last = parallel.pipeline - 1
    count = states_count = 0.0
    for weight in weights(model):
        here, replicas = _share(weight, parallel)
        if weight.place == "layers":
            here /= parallel.pipeline
        elif weight.part == "embedding" and model.tied and model.head == "vocabulary":
            here *= stage in (0, last)  # the last stage has its own copy of what is also the head
        else:
            here *= stage == (0 if weight.place == "first" else last)
        count += here
        states_count += here / (replicas if parallel.shard_optimizer else 1)
    return {
        "parameters": round(count),
        "weights": round(count * BYTES[step.precision]),
        "gradients": round(count * 4),
        "optimizer": round(states_count * states),
    }


def _share(weight: Weight, parallel: ParallelOptions) -> tuple[float, int]:
    """Elements of the weight on a rank that has it, and how many ranks have the same ones."""
    whole, replicas = weight.times * (weight.size + weight.padding), parallel.data * parallel.context
    if weight.part == "experts" and parallel.expert > 1:  # whole experts, dealt over the tensor ranks as well
        return whole / parallel.expert, parallel.tensor * replicas // parallel.expert
    return whole / (parallel.tensor if weight.split else 1), replicas


def _activations(model: ModelOptions, parallel: ParallelOptions, stage: int, step: Step) -> float:
    """Bytes that a rank of the stage keeps for its backward passes, at the fullest moment."""
    element, length = BYTES[step.precision], step.length
    whole = model.hidden * (1 / parallel.tensor if parallel.sequence else 1)
    layer, kept = layer_activations(model, parallel, step, length), element * whole
    if model.family == "t5":  # a layer of the decoder with each of the encoder
        target = output_length(model, length, step.decoder_length)
        layer += target / length * layer_activations(model, parallel, step, target, over=length)
        kept *= 1 + target / length
    flying = _in_flight(parallel, stage, step.micro_batches)
    layers = model.layers / parallel.pipeline * flying
    total = layers * kept + layer if step.recompute == "full" else layers * layer
    if stage == 0 and model.dropout:
        total += flying * whole
    if stage == parallel.pipeline - 1:  # inputs of the last norm and of the head; BERT's has a matrix and a norm more
        total += (5 if model.family == "bert" else 2) * element * whole
    return step.micro_batch * length / parallel.context * total


def _in_flight(parallel: ParallelOptions, stage: int, micro_batches: int) -> float:
    """Micro-batches whose activations a stage holds at the fullest moment.

    1F1B: stage i of p holds p - i (Narayanan et al. 2021, section 2.2). Interleaved, in v parts: 2(p - i - 1) +
    (v - 1)p + 1 parts; on the first stage that is 1 + (p - 1)/(pv) times 1F1B's (Korthikanti et al. 2022, section
    4.2.3).
    """
    stages, parts = parallel.pipeline, parallel.virtual
    most = stages - stage if parts == 1 else (2 * (stages - stage - 1) + (parts - 1) * stages + 1) / parts
    return min(most, micro_batches)


def layer_activations(
    model: ModelOptions, parallel: ParallelOptions, step: Step, length: int, over: int | None = None
) -> float:
    """Bytes for each token that one layer keeps for its backward pass, on one tensor rank; with `over`, the layer also
    attends to an encoder's output of that length.

    After Korthikanti et al. 2022, section 4: an ordinary layer of width h keeps 34h + 5 x heads x length bytes, on one
    of t tensor ranks 10h + (24h + 5 x heads x length) / t, with sequence parallelism all of it over t. Here the same
    reckoning for any number of key heads, positions, gates, dropout and number formats. With flash attention one
    float32 a row stands in place of the scores; selective recomputation keeps neither.
    """
    element, t = BYTES[step.precision], parallel.tensor
    whole = model.hidden * (1 / t if parallel.sequence else 1)  # what is split neither by heads nor by columns
    block = 2 * element * whole + (whole if model.dropout else 0)  # inputs of norm and matrix; the dropout's mask
    queries, keys = model.heads * model.kv_channels / t, model.groups * model.kv_channels / t
    kept = block + element * 2 * (queries + keys) + _scores(model, step, length, model.positions == "relative") / t
    if model.positions == "rope":  # as turned, beside what the values are a view of
        kept += element * (queries + keys)
    if over:
        kept += block + element * 2 * (queries + queries * over / length) + _scores(model, step, over) / t
    return kept + block + element * _feed_forward(model, parallel)


def _scores(model: ModelOptions, step: Step, length: int, biased: bool = False) -> float:
    """Bytes that attention keeps for a token of what it computed for `length` keys; `biased` by a learned table."""
    if step.recompute == "selective":
        return 0.0
    element = BYTES[step.precision]
    dropped = 1 + element if model.attention_dropout else 0  # a mask, and what it left
    bias = length * element if biased else 0
    return model.heads * (bias + (4 if step.flash else length * (element + dropped)))


def _feed_forward(model: ModelOptions, parallel: ParallelOptions) -> float:
    """Elements that the inside of a feed-forward network keeps for a token."""
    # a gate, without Megatron-core's fused kernel: both halves, the gate's activation, a copy of the other half (for
    # its offset) and their product; relu's backward reads what comes out
    tensors = 5 if model.gated else 1 if model.activation == "relu" else 2
    if not model.experts:
        return tensors * model.ffn_size / parallel.tensor
    width = tensors * (model.experts.ffn or model.ffn_size)
    if parallel.expert > 1:  # whole experts, each for its share of the tokens
        return model.experts.per_token * (model.hidden + width) / parallel.tensor
    return model.experts.per_token * (model.hidden + width / parallel.tensor)


def _logits(model: ModelOptions, parallel: ParallelOptions, step: Step) -> float:
    """Bytes of the scores over the vocabulary, of one micro-batch: float32 for the loss and, where they are born
    smaller, those too (vocabulary-parallel cross entropy works in place)."""
    tokens = step.micro_batch * output_length(model, step.length, step.decoder_length) / parallel.context
    if model.head == "scalar":
        return tokens * 4
    return tokens * model.rows() / parallel.tensor * (4 if step.precision == "fp32" else 6)
