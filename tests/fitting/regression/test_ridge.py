"""Ridge towards a prior, against augmented least squares and against refits without a row."""

import numpy as np
import pytest

from ea_jax.fitting.regression import ridge
from ea_jax.fitting.regression.moments import covariance, moments
from ea_jax.fitting.regression.ridge import (
    PENALTIES,
    LowRankCovariance,
    covariance_of_factor,
    fit_ridge,
    low_rank_covariance,
    pool_covariances,
    solve_ridge,
)

SHAPES = {"rows are many": (60, 6), "rows are fewer than columns": (12, 20)}


def noisy_pairs(n: int, d: int, d_out: int = 5, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with a large mean, their noisy linear map, and a prior close to the map."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(d, d_out))
    z = (rng.normal(size=(n, d)) * np.geomspace(1, 0.1, d) + 1).astype(np.float32)
    y = (z @ true + 3 + noise * rng.normal(size=(n, d_out))).astype(np.float32)
    return z, y, true + 0.3 * rng.normal(size=true.shape)


def augmented(z: np.ndarray, y: np.ndarray, weight: float, w0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of least squares on the rows and on `sqrt(weight) (W - W0) = 0`; the bias is free."""
    d = z.shape[1]
    rows = np.block([[z.astype(np.float64), np.ones((len(z), 1))], [np.sqrt(weight) * np.eye(d), np.zeros((d, 1))]])
    solution = np.linalg.lstsq(rows, np.vstack([y.astype(np.float64), np.sqrt(weight) * w0]), rcond=None)[0]
    return solution[:-1], solution[-1]


def weight_of(z: np.ndarray, penalty: float) -> float:
    """The penalty of `fit_ridge` for an objective summed over rows."""
    return len(z) * penalty * np.trace(np.cov(z.T.astype(np.float64), bias=True)) / z.shape[1]


def left_out(z: np.ndarray, y: np.ndarray, penalty: float, w0: np.ndarray) -> np.ndarray:
    """Outputs for each row by a fit without it, with the total penalty of the fit of all rows."""
    outputs = []
    for i in range(len(z)):
        kernel, bias = augmented(np.delete(z, i, 0), np.delete(y, i, 0), weight_of(z, penalty), w0)
        outputs.append(z[i] @ kernel + bias)
    return np.array(outputs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_prior", [False, True], ids=["no prior", "prior"])
@pytest.mark.parametrize("penalty", [0.03, 1.0])
def test_ridge_agrees_with_augmented_least_squares(shape, has_prior, penalty):
    z, y, w0 = noisy_pairs(*SHAPES[shape])
    kernel, bias = augmented(z, y, weight_of(z, penalty), w0 if has_prior else np.zeros_like(w0))
    layer = solve_ridge(z, covariance(moments(z, y)), penalty, w0 if has_prior else None)
    np.testing.assert_allclose(layer.kernel, kernel, atol=2e-4)  # moments are sums of float32 products
    np.testing.assert_allclose(layer.bias, bias, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_prior", [False, True], ids=["no prior", "prior"])
def test_leave_one_out_outputs_agree_with_refits(shape, has_prior):
    z, y, w0 = noisy_pairs(*SHAPES[shape])
    fitted = fit_ridge(z, y, moments(z, y), w0 if has_prior else None)
    expected = left_out(z, y, fitted.penalty, w0 if has_prior else np.zeros_like(w0))
    np.testing.assert_allclose(fitted.leave_one_out(z, y), expected, atol=2e-3)
    assert np.abs(fitted.layer.apply(z) - expected).max() > 0.05


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", [0.05, 3.0])
def test_the_penalty_minimizes_the_error_of_refits(shape, noise):
    z, y, w0 = noisy_pairs(*SHAPES[shape], noise=noise)
    errors = {penalty: np.mean(np.square(y - left_out(z, y, penalty, w0))) for penalty in PENALTIES}
    fitted = fit_ridge(z, y, moments(z, y), w0)
    assert fitted.penalty == min(errors, key=errors.__getitem__)
    plain = solve_ridge(z, covariance(moments(z, y)), fitted.penalty, w0)
    np.testing.assert_allclose(fitted.layer.kernel, plain.kernel, atol=1e-6)


def test_only_fits_on_few_pairs_stay_close_to_the_prior():
    z, y, w0 = noisy_pairs(4000, 8, noise=0.1)
    few, many = (fit_ridge(z[:n], y[:n], moments(z[:n], y[:n]), w0).layer.kernel for n in (10, 4000))
    alone = fit_ridge(z[:10], y[:10], moments(z[:10], y[:10])).layer.kernel
    free = np.linalg.lstsq(z - z.mean(axis=0), y, rcond=None)[0]
    assert np.linalg.norm(few - w0) < 0.6 * np.linalg.norm(alone - w0)
    assert np.linalg.norm(few - free) < 0.6 * np.linalg.norm(alone - free)
    assert np.linalg.norm(many - free) < 0.3 * np.linalg.norm(w0 - free)


def test_a_correct_prior_is_kept_for_any_mean():
    rng = np.random.default_rng(0)
    w0, z = rng.normal(size=(8, 5)), rng.normal(size=(40, 8)).astype(np.float32)
    y = (z @ w0 + 7).astype(np.float32)  # the prior has no mean of 7
    layer = fit_ridge(z, y, moments(z, y), w0).layer
    np.testing.assert_allclose(layer.kernel, w0, atol=1e-5)
    np.testing.assert_allclose(layer.bias, np.full(5, 7), atol=1e-4)


def test_the_error_of_many_rows_is_estimated_on_a_sample(monkeypatch):
    z, y, _ = noisy_pairs(600, 6)
    whole = fit_ridge(z, y, moments(z, y))
    monkeypatch.setattr(ridge, "SAMPLE", 200)
    sampled = fit_ridge(z, y, moments(z, y), seed=1)
    assert abs(PENALTIES.index(sampled.penalty) - PENALTIES.index(whole.penalty)) <= 1


def test_memory_maps_give_the_same_fit(tmp_path):
    z, y, w0 = noisy_pairs(300, 6)
    for name, rows in {"z": z, "y": y}.items():
        np.save(tmp_path / f"{name}.npy", rows)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("z", "y")]
    a, b = (fit_ridge(*pairs, moments(*pairs), w0) for pairs in ((z, y), mapped))
    np.testing.assert_array_equal(a.layer.kernel, b.layer.kernel)
    np.testing.assert_array_equal(a.leave_one_out(z, y), b.leave_one_out(z, y))


def test_a_row_that_alone_spans_a_direction_has_finite_outputs():
    z, y, _ = noisy_pairs(50, 6)
    z[:, 5] = 0
    z[7, 5] = 1e4
    assert np.isfinite(fit_ridge(z, y, moments(z, y)).leave_one_out(z, y)).all()


@pytest.mark.parametrize("n", [90, 30, 12, 4])
def test_the_low_rank_covariance_agrees_with_numpy(n):
    z, y, _ = noisy_pairs(n, 30)
    c = covariance(moments(z, y))
    low_rank = low_rank_covariance(z, c.x_mean, c.xx)
    expected = np.cov(z.T.astype(np.float64), bias=True)
    np.testing.assert_allclose(low_rank.matrix(), expected, atol=2e-5)
    assert low_rank.trace == pytest.approx(np.trace(expected), rel=1e-4)
    assert low_rank.values.min() >= 0
    assert len(low_rank.values) <= min(n, 30)


def test_leading_eigenvectors_keep_the_trace():
    z, y, _ = noisy_pairs(200, 30)
    c = covariance(moments(z, y))
    low_rank = low_rank_covariance(z, c.x_mean, c.xx, 5)
    values, vectors = np.linalg.eigh(np.cov(z.T.astype(np.float64), bias=True))
    lead = (vectors[:, -5:] * (values[-5:] - values[:-5].mean())) @ vectors[:, -5:].T
    np.testing.assert_allclose(low_rank.matrix(), lead + values[:-5].mean() * np.eye(30), atol=2e-5)
    assert low_rank.trace == pytest.approx(values.sum(), rel=1e-5)


@pytest.mark.parametrize("n", [200, 12])
def test_a_pooled_covariance_is_the_weighted_mean(n):
    rng = np.random.default_rng(1)
    z, y, _ = noisy_pairs(n, 30)
    vectors = np.linalg.qr(rng.normal(size=(30, 4)))[0]
    prior = LowRankCovariance(np.array([4.0, 3.0, 2.0, 1.0]), vectors, 0.05)
    c = covariance(moments(z, y))
    low_rank = pool_covariances(z, c.x_mean, c.xx, prior, prior_rows=50)
    dense = (vectors * [4, 3, 2, 1]) @ vectors.T + 0.05 * np.eye(30)
    expected = (n * np.cov(z.T.astype(np.float64), bias=True) + 50 * dense) / (n + 50)
    np.testing.assert_allclose(low_rank.matrix(), expected, atol=5e-5)
    assert low_rank.trace == pytest.approx(np.trace(expected), rel=1e-4)
    alone = pool_covariances(z, c.x_mean, c.xx, None, prior_rows=50)
    np.testing.assert_allclose(alone.matrix(), np.cov(z.T.astype(np.float64), bias=True), atol=2e-5)


def test_rows_of_low_rank_have_few_eigenvectors():
    factor = np.random.default_rng(0).normal(size=(9, 2)) @ np.random.default_rng(1).normal(size=(2, 20))
    low_rank = covariance_of_factor(factor)
    assert len(low_rank.values) == 2
    np.testing.assert_allclose(low_rank.matrix(), factor.T @ factor, atol=1e-9)
