"""Span corruption and text to text: tasks of an encoder with a decoder (Raffel et al. 2020, sections 2.4 and 3.1.4).

Span corruption takes spans out of a text and puts a sentinel in the place of each; the decoder tells them, each behind
its sentinel: `Thank you <X> me to your party <Y> week.` gives `<X> for inviting <Y> last <Z>`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tilth.errors import InputError, UsageError

from ...tokenize.fixed import Frame, fixed
from .language import Arrays, stacked

if TYPE_CHECKING:
    from ...tokenize.tokenizer import Tokenizer
    from ..data.shards import Sample

SENTINELS = 100  # as many as T5 has


class Sizes(NamedTuple):
    """What becomes of a text of so many tokens."""

    noise: int  # tokens that are taken out
    spans: int
    encoder: int  # what is left, a sentinel for each span, and the end
    decoder: int  # what is taken out, a sentinel before each span and one behind the last, and the end


class SpanCorruption(BaseModel):
    """What a sample becomes for an encoder with a decoder (T5).

    As in T5, attention may cross the documents of a sample: a span may lie in two of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    density: float = Field(default=0.15, gt=0, le=0.5, description="share of tokens that is taken out (T5: 0.15)")
    mean_span: float = Field(default=3.0, ge=1, description="mean length of a span (T5: 3)")
    sentinels: tuple[int, ...] = Field(
        default=(),
        description="ids of the sentinels, first to last; default: the tokenizer's <extra_id_0> and so on, or "
        "from the top of the model's vocabulary down, where the tokenizer does not reach",
    )
    end: int | None = Field(default=None, ge=0, description="id of the end; default: the tokenizer's eos")
    pad: int | None = Field(default=None, ge=0, description="id of padding, before the decoder's first too (T5: 0)")

    def sizes(self, tokens: int) -> Sizes:
        """Noise and spans of a text, rounded as in the paper's code, and how long that makes the two sides."""
        noise = min(tokens, max(1, round(tokens * self.density)))
        spans = min(noise, max(1, round(noise / self.mean_span)))
        return Sizes(noise, spans, tokens - noise + spans + 1, noise + spans + 2)

    def length(self, model_length: int) -> int:
        """Tokens of a stored sample that fill the encoder's `model_length` exactly.

        A token more makes the encoder's side one longer or leaves it as it is (where it is noise within a span), so
        every length is met. Raises UsageError for a length that a text cannot make, or that has more spans than there
        are sentinels.
        """
        if model_length < self.sizes(1).encoder:
            raise UsageError(f"an encoder that reads {model_length} tokens has no room for a sentinel and the end")
        tokens = max(1, int((model_length - 1) / (1 - self.density + self.density / self.mean_span)) - 2)
        while self.sizes(tokens).encoder > model_length:
            tokens -= 1
        while self.sizes(tokens + 1).encoder <= model_length:
            tokens += 1
        most = self.sizes(tokens).spans
        if self.sentinels and most >= len(self.sentinels):
            advice = "shorten the samples, make spans longer, or name more"
            raise UsageError(f"{most} spans need {most + 1} sentinels, there are {len(self.sentinels)}; {advice}")
        return tokens

    def fitted(self, tokenizer: "Tokenizer", vocab_size: int) -> Self:
        """The same with the tokenizer's ids where none are told; `vocab_size` is the model's.

        Raises UsageError where the end is not known or there are no ids for the sentinels.
        """
        end = tokenizer.roles.get("eos") if self.end is None else self.end
        if end is None:
            raise UsageError(f"{tokenizer.name}: has no eos token, which span corruption needs; name its id as end")
        named = [tokenizer.specials.get(f"<extra_id_{number}>") for number in range(SENTINELS)]
        sentinels = self.sentinels or tuple(id_ for id_ in named if id_ is not None)
        if not sentinels:
            sentinels = tuple(range(vocab_size - 1, max(tokenizer.size, vocab_size - SENTINELS) - 1, -1))
        if len(sentinels) < 2:
            advice = f"set model.vocab_size to {tokenizer.size + SENTINELS}"
            raise UsageError(f"{tokenizer.name}: its {tokenizer.size} ids leave none for sentinels; {advice}")
        pad = tokenizer.roles.get("pad", end) if self.pad is None else self.pad
        return self.model_copy(update={"end": end, "pad": pad, "sentinels": sentinels})

    def arrays(self, samples: Sequence["Sample"], seeds: Sequence[tuple[int, ...]]) -> Arrays:
        """The batch: tokens (int64), documents (int32) [b, encoder]; decoder_tokens, labels (int64), decoder_documents
        (int32), weights (float32) [b, decoder]; sources (int64[b]). Documents are 1, padding is 0.

        A sample's last token, which is the next one's first, is left to that. The spans follow from the sample's seed
        alone, one a sample: they are the same in any batch. Their number and tokens are those of `sizes`; where they
        begin and end is drawn evenly from all ways there are. Raises InputError for a sentinel in the text.
        """
        assert self.end is not None, "`fitted` sees to it"
        assert self.pad is not None
        tokens, documents, sources = stacked(samples)
        tokens, there = tokens[:, :-1], documents[:, :-1] > 0
        counts = there.sum(axis=1)
        text = _to_the_left(tokens, there, tokens.shape[1], self.pad)
        sizes = [self.sizes(count) for count in counts.tolist()]
        self._refuse_sentinels(text)
        noise = np.zeros(text.shape, bool)
        for row, count, size, seed in zip(noise, counts.tolist(), sizes, seeds, strict=True):
            if count:
                row[:count] = spans(np.random.default_rng(seed), count, size)
        starts = noise.copy()
        starts[:, 1:] &= ~noise[:, :-1]
        sentinels = np.array(self.sentinels)
        marks = sentinels[np.maximum(np.cumsum(starts, axis=1) - 1, 0)]
        full = self.sizes(text.shape[1])
        left = (np.arange(text.shape[1]) < counts[:, None]) & (~noise | starts)
        encoder = _to_the_left(np.where(starts, marks, text), left, full.encoder, self.pad)
        inputs = left.sum(axis=1)[:, None]
        np.put_along_axis(encoder, inputs, self.end, axis=1)
        told = np.stack([marks, text], axis=-1).reshape(len(text), -1)  # a mark and a token by turns
        decoder = _to_the_left(told, np.stack([starts, noise], axis=-1).reshape(told.shape), full.decoder, self.pad)
        targets = (noise.sum(axis=1) + starts.sum(axis=1))[:, None]
        np.put_along_axis(decoder, targets, sentinels[starts.sum(axis=1)][:, None], axis=1)
        np.put_along_axis(decoder, targets + 1, self.end, axis=1)
        some = counts[:, None] > 0
        return {
            "tokens": encoder,
            "documents": (some & (np.arange(full.encoder) <= inputs)).astype(np.int32),
            **_decoder_side(decoder, some & (np.arange(full.decoder) <= targets + 1), self.pad),
            "sources": sources,
        }

    def _refuse_sentinels(self, text: np.ndarray) -> None:
        sentinel = np.zeros(max(text.max(), *self.sentinels) + 1, bool)
        sentinel[list(self.sentinels)] = True
        found = text[sentinel[text]]
        if found.size:
            raise InputError(f"token id {found[0]}, which is a sentinel, stands in the text; name other sentinels")


def spans(rng: np.random.Generator, tokens: int, size: Sizes) -> np.ndarray:
    """bool[tokens]: what is taken out, in as many spans as told, with a token between any two of them."""
    gaps = _parts(rng, tokens - size.noise + 2, size.spans + 1)
    gaps[[0, -1]] -= 1  # the text may begin and end with a span
    lengths = np.zeros(2 * size.spans + 1, np.int64)
    lengths[::2], lengths[1::2] = gaps, _parts(rng, size.noise, size.spans)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def text_to_text(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], encoder_length: int, decoder_length: int, end: int, pad: int
) -> Arrays:
    """Pairs of source and target ids (without special tokens) as the arrays of `SpanCorruption`, but for the sources.

    Each side ends with `end`, and is cut before it where it is too long.
    """
    inputs = fixed([source for source, _ in pairs], encoder_length, Frame(None, end, pad))
    labels = fixed([target for _, target in pairs], decoder_length, Frame(None, end, pad))
    encoder = {"tokens": inputs.ids.astype(np.int64), "documents": inputs.mask.astype(np.int32)}
    return {**encoder, **_decoder_side(labels.ids.astype(np.int64), labels.mask, pad)}


def _decoder_side(labels: np.ndarray, there: np.ndarray, pad: int) -> Arrays:
    """What the decoder reads, one place behind what it tells, and what counts."""
    before = np.pad(labels[:, :-1], ((0, 0), (1, 0)), constant_values=pad)
    return {
        "decoder_tokens": np.where(there, before, pad),
        "decoder_documents": there.astype(np.int32),
        "labels": labels,
        "weights": there.astype(np.float32),
    }


def _parts(rng: np.random.Generator, total: int, parts: int) -> np.ndarray:
    """int64[parts]: the total in parts of at least one each; every way to do so is as likely."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)


def _to_the_left(values: np.ndarray, kept: np.ndarray, width: int, pad: int) -> np.ndarray:
    """int64[b, width]: the values of each row that are kept, one behind the other, and padding."""
    made = np.full((len(values), width), pad, np.int64)
    made[np.arange(width) < kept.sum(axis=1)[:, None]] = values[kept]
    return made
