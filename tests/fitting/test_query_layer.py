import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power
from sklearn.isotonic import IsotonicRegression

from ea_jax.fitting.query_layer import (
    LENGTH,
    POWER,
    SHRINKAGE,
    fine_tune,
    similarity_map,
    whiten_layer,
    whitening_matrix,
)
from ea_jax.fitting.regression.moments import Affine, Covariance, covariance, moments
from ea_jax.fitting.regression.ridge import LowRankCovariance, low_rank_covariance, solve_ridge
from ea_jax.fitting.training.train import TrainingConfig, ValidationSet
from ea_jax.quality.schema import KNOTS
from tests.conftest import toy_pairs, unit_rows

SHORT = TrainingConfig(steps=20, batch_size=256, eval_every=10, learning_rate=3e-2, ema_decay=0.8)


@pytest.fixture(scope="module")
def pairs():
    return toy_pairs(600)


@pytest.fixture(scope="module")
def c(pairs) -> Covariance:
    return covariance(moments(*pairs))


def test_whitening_is_a_power_of_the_shrunk_covariance(pairs, c):
    _, y = pairs
    dense = np.cov(y.T.astype(np.float64), bias=True)
    expected = fractional_matrix_power(dense + SHRINKAGE * np.trace(dense) / 12 * np.eye(12), -POWER)
    actual = whitening_matrix(low_rank_covariance(y, c.y_mean, c.yy))
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


def test_whitening_a_low_rank_covariance_agrees_with_the_dense_one():
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(20, 3)))[0]
    y = LowRankCovariance(np.array([5.0, 2.0, 1.0]), vectors, 0.1)
    dense = (vectors * [5, 2, 1]) @ vectors.T + 0.1 * np.eye(20)
    expected = fractional_matrix_power(dense + SHRINKAGE * np.trace(dense) / 20 * np.eye(20), -POWER)
    np.testing.assert_allclose(whitening_matrix(y), expected, atol=1e-9)


def test_the_query_layer_is_the_whitened_and_rescaled_store_layer(pairs, c):
    x, y = (rows.astype(np.float64) for rows in pairs)
    store = solve_ridge(pairs[0], c, 0.1)
    layer = whiten_layer(store, c, c.xx, low_rank_covariance(pairs[1], c.y_mean, c.yy))
    dense = np.cov(y.T, bias=True)
    power = fractional_matrix_power(dense + SHRINKAGE * np.trace(dense) / 12 * np.eye(12), -POWER)
    plain = (x @ store.kernel + store.bias - y.mean(axis=0)) @ power
    centered = x @ layer.kernel + layer.bias - y.mean(axis=0)
    factor = centered.std() / plain.std()
    np.testing.assert_allclose(centered, factor * plain, atol=5e-3)
    length = np.sqrt(np.mean(np.sum(centered**2, axis=1)))
    assert length == pytest.approx(LENGTH * np.sqrt(np.trace(dense)), rel=1e-3)
    np.testing.assert_allclose(centered.mean(axis=0), np.zeros(12), atol=1e-4)


@pytest.fixture(scope="module")
def validation(pairs):
    x, y = pairs
    return ValidationSet(x[:100], y[:100], y[100:300])


def test_fine_tuning_improves_a_poor_start(pairs, validation):
    x, y = pairs
    poor = solve_ridge(x, covariance(moments(x, y)), 0.1)
    poor = Affine(poor.kernel + 0.5 * np.random.default_rng(0).normal(size=(8, 12)), poor.bias)
    tuned = fine_tune(poor, x[300:], y[300:], validation, SHORT)
    assert tuned.steps in (10, 20)
    assert len(tuned.scores) == 3
    assert max(tuned.scores) == tuned.scores[tuned.steps // 10] > tuned.scores[0] + 0.02
    assert np.abs(tuned.layer.kernel - poor.kernel).max() > 1e-3


def test_a_start_that_ranks_perfectly_is_returned_unchanged():
    x = unit_rows(np.random.default_rng(0), 600, 8)
    perfect = Affine(np.eye(8), np.zeros(8))
    tuned = fine_tune(perfect, x[300:], x[300:], ValidationSet(x[:100], x[:100], x[100:300]), SHORT)
    assert tuned.steps == 0
    assert tuned.layer is perfect
    assert tuned.scores[0] == 1


def test_the_similarity_map_is_isotonic_regression():
    rng = np.random.default_rng(0)
    native, corpus = unit_rows(rng, 30, 12), unit_rows(rng, 40, 12)
    queries = 3 * (native + 0.3 * unit_rows(rng, 30, 12))
    knots = similarity_map(queries, native, corpus)
    score = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ corpus.T
    theirs = IsotonicRegression().fit(score.ravel(), (native @ corpus.T).ravel())
    assert knots["score"].shape == knots["native"].shape == (KNOTS,)
    np.testing.assert_allclose(knots["native"], theirs.predict(knots["score"]), atol=1e-4)
    assert np.all(np.diff(knots["native"]) >= 0)


def test_the_similarity_map_uses_the_best_rows_of_queries():
    rng = np.random.default_rng(0)
    native, corpus = unit_rows(rng, 30, 12), unit_rows(rng, 400, 12)
    score = native @ corpus.T
    best = np.sort(score, axis=1)[:, -50:]
    knots = similarity_map(native, native, corpus)
    assert knots["score"][0] == pytest.approx(best.min(), abs=1e-5)
    assert knots["score"][-1] == pytest.approx(best.max(), abs=1e-5)
