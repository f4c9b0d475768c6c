"""Rows for new tokens: what each method makes, and what the choice of a method may not change."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expansions import ADD, BASE, REPLACE
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.errors import InputError, ModelError, UsageError
from tilth.tokenize.embed import EmbedOptions, mixture, new_rows, resized, sparsemax, train_vectors
from tilth.tokenize.expansion import Expansion, read


def test_expansions_that_contradict_themselves_are_told(tmp_path: Path):
    good = json.loads(ADD.model_dump_json())
    bad = [
        ({"parts": [[1]]}, "parts has 1 entries, 4 are due"),
        ({"base_counts": [1]}, "base_counts has 1 entries, 61 are due"),
        ({"parts": [[61], [1], [1], [1]]}, "none of the 61 base ids"),
        ({"new_rows": [61, 63, 62, 64]}, "ascend"),
        ({"new_rows": [60, 61, 62, 63]}, "do not fill the ids 0 to 64"),
        ({"size": 66}, "do not fill the ids 0 to 65"),
        ({"method": "guess"}, "method"),
        ({"extra": 1}, "extra"),
    ]
    for change, match in bad:
        (tmp_path / "expansion.json").write_text(json.dumps(good | change))
        with pytest.raises(ModelError, match=match) as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / "expansion.json").write_bytes(b"\xff{")
    with pytest.raises(ModelError, match="no expansion"):
        read(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        read(tmp_path / "nowhere")


# --- the rows themselves ---


def matrix(rows: int = BASE, width: int = 24, common: float = 0.05) -> np.ndarray:
    return (np.random.default_rng(3).normal(size=(rows, width)) * 0.2 + common).astype(np.float32)


def made(expansion: Expansion, vectors: np.ndarray | None = None, **options: Any) -> np.ndarray:
    chosen = EmbedOptions(**options)
    return new_rows(matrix(), expansion, mixture(expansion, chosen, vectors), chosen)


def test_each_method_is_what_it_says():
    old = matrix()
    mean = old.mean(0)
    counted = ADD.model_copy(update={"base_counts": tuple(900 if index == 3 else 100 for index in range(BASE))})
    share = np.array(counted.base_counts) / sum(counted.base_counts or ())
    rare = 1e-3 / (1e-3 + share)
    subword = [(old[3] + old[4]) / 2, old[5], (old[6] + 2 * old[7]) / 3, mean]
    weighted = [(rare[3] * old[3] + rare[4] * old[4]) / (rare[3] + rare[4]), *subword[1:]]
    np.testing.assert_allclose(made(ADD, method="mean"), np.tile(mean, (4, 1)), rtol=1e-5)
    np.testing.assert_allclose(made(ADD, method="subword", norm="kept"), subword, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(made(counted, method="weighted", norm="kept"), weighted, rtol=1e-5, atol=1e-7)
    assert rare[3] < rare[4] / 5  # the rarer part says more


def test_random_rows_have_the_old_rows_mean_and_deviation():
    new = tuple(range(BASE, BASE + 20000))
    many = Expansion(method="add", base_size=BASE, size=BASE + 20000, new_rows=new, parts=((),) * 20000)
    rows, old = made(many, method="random", norm="kept"), matrix()
    np.testing.assert_allclose(rows.mean(0), old.mean(0), atol=0.01)
    np.testing.assert_allclose(rows.std(0), old.std(0), atol=0.01)
    assert not np.array_equal(rows, made(many, method="random", norm="kept", seed=1))


def test_random_rows_of_embedding_and_head_are_not_the_same_draw():
    options = EmbedOptions(method="random", norm="kept")
    draws = []
    for old in (matrix(), matrix()[::-1] * 2 + 1, matrix()):
        rows = new_rows(old, ADD, mixture(ADD, options), options)
        draws.append((rows - old.mean(0)) / old.std(0))
    assert np.array_equal(draws[0], draws[2])
    assert abs(np.corrcoef(draws[0].ravel(), draws[1].ravel())[0, 1]) < 0.5


@pytest.mark.parametrize("method", ["random", "mean", "subword", "focus"])
@pytest.mark.parametrize("common", [0.0, 0.1, 2.0])  # 2: every row is mostly what all rows share
def test_matched_norms_are_the_median_whatever_the_method(method: Any, common: float):
    vectors = np.random.default_rng(1).normal(size=(ADD.size, 8)).astype(np.float32)
    old = matrix(common=common)
    options = EmbedOptions(method=method, norm="matched")
    rows = new_rows(old, ADD, mixture(ADD, options, vectors), options)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), np.median(np.linalg.norm(old, axis=1)), rtol=1e-4)


def test_matching_norms_leaves_what_all_rows_share():
    old = matrix(common=0.5)
    options = EmbedOptions(norm="matched")
    rows = new_rows(old, ADD, mixture(ADD, options), options)
    shared = old.mean(0) / np.linalg.norm(old.mean(0))
    own = np.std(old @ shared)
    assert np.all(np.abs(rows[:3] @ shared - np.mean(old @ shared)) < 3 * own)


def test_zero_rows_make_no_nonsense():
    zeros = np.zeros((BASE, 4), np.float32)
    skewed = zeros + np.float32(1)
    skewed[[3, 4, 5, 6, 7]] = 0
    skewed[0] = 1e4
    for old in (zeros, skewed):
        assert np.isfinite(new_rows(old, ADD, mixture(ADD, EmbedOptions()), EmbedOptions())).all()


def test_mean_rows_of_a_head_take_no_more_than_their_share():
    """Hewitt 2021: a mean row's logit is below the log-mean-exp of the old ones."""
    old = matrix(common=0.3).astype(np.float64)
    options = EmbedOptions(method="mean")
    rows = new_rows(old, ADD, mixture(ADD, options), options)
    for state in np.random.default_rng(0).normal(size=(50, old.shape[1])) * 5:
        odds = np.exp(old @ state)
        assert np.exp(rows @ state).sum() <= len(rows) / BASE * odds.sum() * (1 + 1e-9)


def test_matrices_grow_move_and_are_padded():
    options = EmbedOptions(multiple=16)
    old = matrix(BASE + 3)
    result, is_new = resized(old, REPLACE, mixture(REPLACE, options), options)
    assert result.shape == (64, 24)
    assert result.dtype == np.float32
    assert np.flatnonzero(is_new).tolist() == [10, 20]
    assert np.array_equal(result[0], old[58])
    assert np.array_equal(result[58], old[0])
    assert np.array_equal(result[21:58], old[21:58])
    np.testing.assert_allclose(result[61:], np.tile(old[:BASE].mean(0), (3, 1)), rtol=1e-5)


def test_methods_that_lack_what_they_need_say_so():
    with pytest.raises(UsageError, match="counts"):
        made(ADD, method="weighted")
    with pytest.raises(UsageError, match="vectors"):
        made(ADD, method="focus")
    with pytest.raises(UsageError, match="61 vectors for 65 tokens"):
        made(ADD, np.ones((BASE, 4), np.float32), method="focus")


# --- FOCUS ---


def test_focus_finds_the_neighbour_in_the_vectors():
    vectors = np.eye(ADD.size, 80, dtype=np.float32)
    vectors[61] = vectors[17] * 3  # exactly like 17
    vectors[62] = vectors[30] + vectors[31]  # between two
    vectors[63] = 0  # seen too rarely
    mixed = mixture(ADD, EmbedOptions(method="focus"), vectors).toarray()
    assert mixed[0].argmax() == 17
    assert mixed[0, 17] == pytest.approx(1)
    assert np.flatnonzero(mixed[1] > 0.4).tolist() == [30, 31]
    assert np.array_equal(mixed[2], mixture(ADD, EmbedOptions()).toarray()[2])
    np.testing.assert_allclose(mixed[:3].sum(1), 1, rtol=1e-5)


def test_focus_knows_where_old_tokens_moved_and_which_are_gone():
    vectors = np.eye(BASE, dtype=np.float32)
    vectors[10] = vectors[58]  # now what was 0 before
    vectors[20] = vectors[0]  # now what was 58 before
    mixed = mixture(REPLACE, EmbedOptions(method="focus"), vectors).toarray()
    assert mixed.argmax(1).tolist() == [0, 58]
    assert not mixed[:, [10, 20]].any()


def test_focus_without_any_shared_vector_is_subword():
    vectors = np.zeros((ADD.size, 8), np.float32)
    for filled in (range(0), range(61, 65), range(61)):
        vectors[:] = 0
        vectors[list(filled)] = 1
        mixed = mixture(ADD, EmbedOptions(method="focus"), vectors)
        assert np.array_equal(mixed.toarray(), mixture(ADD, EmbedOptions()).toarray())


def test_focus_is_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch):
    vectors = np.random.default_rng(0).normal(size=(ADD.size, 8)).astype(np.float32)
    whole = mixture(ADD, EmbedOptions(method="focus"), vectors).toarray()
    monkeypatch.setattr("tilth.tokenize.embed.BLOCK", 61)
    np.testing.assert_allclose(mixture(ADD, EmbedOptions(method="focus"), vectors).toarray(), whole, atol=1e-6)


def toy_lines() -> list[list[int]]:
    """Ids 0 to 9 are spoken of with 20 to 29, 10 to 19 with 30 to 39; 61 is used as 0 to 9 are, 62 as 10 to 19."""
    generator = np.random.default_rng(5)
    lines = []
    for _ in range(4000):
        topic = int(generator.integers(2))
        subject = int(generator.integers(11))
        word = 61 + topic if subject == 10 else 10 * topic + subject
        around = generator.integers(20 + 10 * topic, 30 + 10 * topic, 6).tolist()
        lines.append([*around[:3], word, *around[3:]])
    return lines


def test_vectors_of_a_corpus_put_new_tokens_among_their_like():
    vectors = train_vectors(toy_lines(), ADD.size, width=24, epochs=20, min_count=5)
    assert vectors.shape == (65, 24)
    assert not vectors[[50, 63, 64]].any()
    mixed = mixture(ADD, EmbedOptions(method="focus"), vectors).toarray()
    assert set(np.argsort(-mixed[0])[:5]) <= {*range(10)}
    assert set(np.argsort(-mixed[1])[:5]) <= {*range(10, 20)}
    assert np.array_equal(vectors, train_vectors(iter(toy_lines()), ADD.size, width=24, epochs=20, min_count=5))


def test_a_corpus_without_frequent_tokens_is_told():
    with pytest.raises(InputError, match="no token occurs 10 times"):
        train_vectors([[1, 2, 3]], 5)


# --- sparsemax ---


def nearest(scores: np.ndarray) -> np.ndarray:
    """The nearest point on the simplex, by trying every support: for each, the projection on its plane."""
    best, distance = scores, np.inf
    for bits in range(1, 2 ** len(scores)):
        support = np.array([bits >> index & 1 for index in range(len(scores))], bool)
        point = np.where(support, scores - (scores[support].sum() - 1) / support.sum(), 0)
        if (point >= -1e-12).all() and (away := float(((point - scores) ** 2).sum())) < distance:
            best, distance = point, away
    return best


scores = st.lists(st.floats(-4, 4).map(lambda value: round(value, 3)), min_size=1, max_size=6)


@given(scores)
@settings(max_examples=150, deadline=None)
def test_sparsemax_is_the_nearest_point_on_the_simplex(row: list[float]):
    np.testing.assert_allclose(sparsemax(np.array([row]))[0], nearest(np.array(row)), atol=1e-9)


@given(st.integers(1, 5), scores)
@settings(deadline=None)
def test_sparsemax_of_many_rows_is_that_of_each(rows: int, row: list[float]):
    block = np.array([np.roll(row, shift) for shift in range(rows)])
    assert np.array_equal(sparsemax(block), np.concatenate([sparsemax(one[None]) for one in block]))


def test_sparsemax_holds_for_long_rows_in_single_precision():
    long = np.random.default_rng(0).normal(0.15, 0.1, (4, 50000)).astype(np.float32)
    shares = sparsemax(long)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-4)
    np.testing.assert_allclose(shares, sparsemax(long.astype(np.float64)), atol=1e-5)
    np.testing.assert_allclose(sparsemax(np.zeros((1, 50000), np.float32)), 1 / 50000)
