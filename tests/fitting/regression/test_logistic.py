"""Logistic regression against scikit-learn and its own loss."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from ea_jax.fitting.regression.logistic import logistic


@pytest.fixture
def labelled():
    """Columns of unlike scale, and labels that depend on them."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 5)) * [1, 2, 3, 4, 5] + 1
    return z, rng.random(400) < 1 / (1 + np.exp(-(z @ [1, -0.5, 0.2, 0, 0.1] - 0.3)))


def test_logistic_regression_agrees_with_scikit_learn(labelled):
    z, label = labelled
    weight, bias = logistic(z, label, 4.0)
    deviation = z.std(axis=0)
    theirs = LogisticRegression(C=1 / 4.0, tol=1e-10, max_iter=1000).fit((z - z.mean(axis=0)) / deviation, label)
    np.testing.assert_allclose(weight * deviation, theirs.coef_[0], atol=1e-4)
    np.testing.assert_allclose(bias + z.mean(axis=0) @ weight, theirs.intercept_[0], atol=1e-4)


@pytest.mark.parametrize("penalty", [0.1, 30.0])
def test_logistic_regression_towards_a_prior_minimizes_its_loss(labelled, penalty):
    z, label = labelled
    prior, deviation, sign = np.array([0.5, 0.5, 0, -0.2, 0.3]), z.std(axis=0), np.where(label, 1, -1)

    def loss(w):
        return np.logaddexp(0, -sign * (z @ w[:5] + w[5])).sum() + penalty / 2 * np.sum(
            ((w[:5] - prior) * deviation) ** 2
        )

    expected = minimize(loss, np.zeros(6), tol=1e-10).x
    weight, bias = logistic(z, label, penalty, prior)
    np.testing.assert_allclose(weight, expected[:5], atol=1e-4)
    assert bias == pytest.approx(expected[5], abs=1e-3)


def test_only_a_huge_penalty_keeps_the_prior(labelled):
    z, label = labelled
    prior = np.array([0.5, 0.5, 0, -0.2, 0.3])
    kept, bias = logistic(z, label, 1e9, prior)
    np.testing.assert_allclose(kept, prior, atol=1e-5)
    chance = 1 / (1 + np.exp(-(z @ prior + bias)))
    assert chance.mean() == pytest.approx(label.mean(), abs=1e-4)  # the bias is free
    theirs = LogisticRegression(C=1e6, tol=1e-10, max_iter=5000).fit(z, label)
    np.testing.assert_allclose(logistic(z, label, 1e-6, prior)[0], theirs.coef_[0], atol=1e-3)


def test_the_more_rows_the_less_the_prior_weighs(labelled):
    z, label = labelled
    prior, free = np.full(5, 0.5), logistic(z, label, 1e-6)[0]
    many = [logistic(np.tile(z, (k, 1)), np.tile(label, k), 30.0, prior)[0] for k in (1, 10, 100)]
    distance = [np.linalg.norm(weight - free) for weight in many]
    assert distance[0] > 3 * distance[1] > 9 * distance[2]


def test_a_distant_prior_with_a_small_penalty_has_no_effect(labelled):
    z, label = labelled
    free = logistic(z, label, 1e-6)[0]
    for scale in (-20.0, 20.0):
        np.testing.assert_allclose(logistic(z, label, 1e-6, np.full(5, scale))[0], free, atol=1e-3)


def test_separable_labels_have_finite_weights():
    z = np.linspace(-1, 1, 40)[:, None]
    weight, bias = logistic(z, z[:, 0] > 0, 1e-4)
    assert np.isfinite(weight).all()
    assert np.all(((z @ weight + bias) > 0) == (z[:, 0] > 0))


def test_equal_labels_have_a_finite_bias():
    weight, bias = logistic(np.random.default_rng(0).normal(size=(40, 3)), np.ones(40, bool), 1.0)
    assert np.isfinite([*weight, bias]).all()
    assert bias > 5
