"""MinHash signatures: the same bits as datasketch's, and bands by the formula."""

import hashlib

import datasketch
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tilth.curate.dedup.minhash import (
    Sketcher,
    band_keys,
    bands_and_rows,
    candidate_probability,
    curve,
    opened,
    sha1_hashes,
)
from tilth.curate.dedup.options import MinHashOptions
from tilth.curate.dedup.shingle import SLACK, text_key, tokenise
from tilth.errors import InputError

WORDS = [f"{stem}{ending}" for stem in ("soil", "rain", "Frucht", "поле", "春") for ending in ("", "s", "en", "42")]


def prose(words: int, seed: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


def reference(text: str, options: MinHashOptions) -> datasketch.MinHash:
    """datasketch's own signature, by a call a shingle."""
    tokens = tokenise(text, options).strings()
    count = max(1, len(tokens) - options.ngram + 1) if tokens else 0
    shingles = [" ".join(tokens[i : i + options.ngram]).encode() for i in range(count)]
    sketch = datasketch.MinHash(options.permutations, seed=options.seed, scheme=options.scheme)
    sketch.update_batch(shingles)
    return sketch


def messages(lengths: list[int]) -> tuple[bytes, np.ndarray, np.ndarray]:
    stops = np.cumsum(lengths)
    data = np.random.default_rng(0).integers(0, 256, sum(lengths) + SLACK, np.uint8).tobytes()
    return data, stops - lengths, stops


@pytest.mark.parametrize("bits", [32, 64])
def test_sha1_is_that_of_the_standard_library_for_every_length_and_any_order(bits: int) -> None:
    lengths = [*range(300), 10**5, 0, *range(130, 0, -1), 4095, 4096]
    data, starts, stops = messages(lengths)
    hashes = sha1_hashes(np.frombuffer(data, np.uint8), starts, stops, bits)
    digests = [hashlib.sha1(data[a:b]).digest() for a, b in zip(starts, stops, strict=True)]
    assert hashes.tolist() == [int.from_bytes(digest[: bits // 8], "little") for digest in digests]


@settings(max_examples=50, deadline=None)
@given(
    st.text(st.one_of(st.characters(categories=None), st.sampled_from("ab 的ด้ё")), max_size=300),
    st.builds(
        MinHashOptions,
        unit=st.sampled_from(["auto", "words", "characters"]),
        ngram=st.integers(1, 9),
        permutations=st.sampled_from([2, 112, 131]),
        seed=st.integers(0, 2**32 - 1),
        bits=st.sampled_from([32, 64]),
    ),
)
@example("\ud800", MinHashOptions())
@example("one", MinHashOptions())
def test_a_signature_has_the_bits_of_datasketch(text: str, options: MinHashOptions) -> None:
    sketch, expected = Sketcher(options)(text), reference(text, options)
    tokens = tokenise(text, options)
    assert (sketch.tokens, sketch.text_key) == (tokens.size, text_key(tokens))
    if sketch.signature is None:
        assert tokens.size == 0
    else:
        assert sketch.signature.dtype == expected.hashvalues.dtype
        assert sketch.signature.tolist() == expected.hashvalues.tolist()


@pytest.mark.parametrize("words", [64, 68, 69, 2052, 2053, 7000])
@pytest.mark.parametrize("bits", [32, 64])
def test_a_signature_has_the_bits_of_datasketch_for_texts_of_every_size(words: int, bits: int) -> None:
    text, options = prose(words, seed=words), MinHashOptions(bits=bits)
    assert Sketcher(options)(text).signature.tolist() == reference(text, options).hashvalues.tolist()


def test_a_token_of_a_megabyte_has_the_bits_of_datasketch() -> None:
    text, options = f"a b {'c' * 10**6} d e f", MinHashOptions()
    assert Sketcher(options)(text).signature.tolist() == reference(text, options).hashvalues.tolist()


def test_a_text_without_tokens_has_no_signature() -> None:
    assert Sketcher(MinHashOptions())("?! \n") == (0, "", None)


@pytest.mark.parametrize("bits", [32, 64])
def test_a_stored_signature_opens_in_datasketch_and_estimates_the_same_jaccard(bits: int) -> None:
    options = MinHashOptions(bits=bits, seed=7)
    texts = [prose(400, 1), prose(300, 1) + prose(100, 2)]
    stored = [Sketcher(options)(text).signature.tobytes() for text in texts]
    ours = [opened(np.frombuffer(row, f"uint{bits}"), options) for row in stored]
    theirs = [reference(text, options) for text in texts]
    assert 0.3 < ours[0].jaccard(ours[1]) < 0.9
    assert ours[0].jaccard(ours[1]) == theirs[0].jaccard(theirs[1]) == ours[0].jaccard(theirs[1])


@pytest.mark.parametrize("permutations", [16, 112, 128, 256])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.75, 0.8, 0.9])
def test_bands_and_rows_are_those_that_datasketch_chooses(threshold: float, permutations: int) -> None:
    try:
        index = datasketch.MinHashLSH(threshold=threshold, num_perm=permutations, weights=(0.1, 0.9))
    except ValueError:  # which refuses a single band
        assert bands_and_rows(threshold, permutations)[0] == 1
    else:
        assert bands_and_rows(threshold, permutations) == (index.b, index.r)


def test_the_curve_of_14_bands_of_8_rows_is_the_published_one() -> None:
    points = dict(curve(14, 8))
    assert list(points) == [step / 20 for step in range(6, 21)]
    assert {jaccard: round(points[jaccard], 3) for jaccard in (0.7, 0.75, 0.8, 0.85)} == {
        0.7: 0.565,
        0.75: 0.772,
        0.8: 0.924,
        0.85: 0.988,
    }
    assert points[1.0] == candidate_probability(1.0, 3, 4) == 1.0


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_band_keys_agree_just_where_all_rows_of_a_band_agree(dtype: type) -> None:
    signatures = np.random.default_rng(0).integers(0, 3, (300, 15)).astype(dtype)
    keys = band_keys(signatures, bands=7, rows=2)
    assert keys.shape == (300, 7)
    rows = signatures[:, :14].reshape(300, 7, 2)
    assert ((keys[:, None] == keys[None]) == (rows[:, None] == rows[None]).all(-1)).all()


def test_band_keys_of_different_bands_differ_for_the_same_values() -> None:
    keys = band_keys(np.zeros((1, 112), np.uint64), bands=14, rows=8)
    assert len(np.unique(keys)) == 14


def test_bands_that_need_more_values_than_a_signature_has_are_refused() -> None:
    with pytest.raises(InputError, match="14 bands of 9 rows need 126 permutations: 112 are there"):
        band_keys(np.zeros((1, 112), np.uint64), bands=14, rows=9)
