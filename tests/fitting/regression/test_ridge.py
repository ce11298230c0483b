"""Ridge towards a prior against least squares on rows that carry the penalty, and against refits without a row."""

import numpy as np
import pytest

from ea_jax.fitting.regression import ridge
from ea_jax.fitting.regression.moments import covariance, moments
from ea_jax.fitting.regression.ridge import (
    PENALTIES,
    Directions,
    directions,
    factor_directions,
    fit_ridge,
    pooled,
    solve_ridge,
)

SHAPES = {"rows are many": (60, 6), "rows are fewer than columns": (12, 20)}


def noisy_pairs(n: int, d: int, d_out: int = 5, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows about a far mean, their noisy linear map, and a prior that is near to the map."""
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
    """The penalty of `fit_ridge` beside a sum over the rows."""
    return len(z) * penalty * np.trace(np.cov(z.T.astype(np.float64), bias=True)) / z.shape[1]


def left_out(z: np.ndarray, y: np.ndarray, penalty: float, w0: np.ndarray) -> np.ndarray:
    """Outputs for each row by a fit without it, whose penalty weighs as much as in the fit of all rows."""
    found = []
    for i in range(len(z)):
        kernel, bias = augmented(np.delete(z, i, 0), np.delete(y, i, 0), weight_of(z, penalty), w0)
        found.append(z[i] @ kernel + bias)
    return np.array(found)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("given", [False, True], ids=["no prior", "prior"])
@pytest.mark.parametrize("penalty", [0.03, 1.0])
def test_ridge_is_least_squares_on_rows_that_carry_the_penalty(shape, given, penalty):
    z, y, w0 = noisy_pairs(*SHAPES[shape])
    kernel, bias = augmented(z, y, weight_of(z, penalty), w0 if given else np.zeros_like(w0))
    found = solve_ridge(z, covariance(moments(z, y)), penalty, w0 if given else None)
    np.testing.assert_allclose(found.kernel, kernel, atol=2e-4)  # moments are sums of float32 products
    np.testing.assert_allclose(found.bias, bias, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("given", [False, True], ids=["no prior", "prior"])
def test_leave_one_out_outputs_are_those_of_refits(shape, given):
    z, y, w0 = noisy_pairs(*SHAPES[shape])
    fitted = fit_ridge(z, y, moments(z, y), w0 if given else None)
    wanted = left_out(z, y, fitted.penalty, w0 if given else np.zeros_like(w0))
    np.testing.assert_allclose(fitted.leave_one_out(z, y), wanted, atol=2e-3)
    assert np.abs(fitted.layer.apply(z) - wanted).max() > 0.05


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", [0.05, 3.0])
def test_the_penalty_has_the_smallest_error_of_refits(shape, noise):
    z, y, w0 = noisy_pairs(*SHAPES[shape], noise=noise)
    errors = {penalty: np.mean(np.square(y - left_out(z, y, penalty, w0))) for penalty in PENALTIES}
    fitted = fit_ridge(z, y, moments(z, y), w0)
    assert fitted.penalty == min(errors, key=errors.__getitem__)
    plain = solve_ridge(z, covariance(moments(z, y)), fitted.penalty, w0)
    np.testing.assert_allclose(fitted.layer.kernel, plain.kernel, atol=1e-6)


def test_few_noisy_pairs_stay_near_the_prior_and_many_leave_it():
    z, y, w0 = noisy_pairs(4000, 8, noise=0.1)
    few, many = (fit_ridge(z[:n], y[:n], moments(z[:n], y[:n]), w0).layer.kernel for n in (10, 4000))
    alone = fit_ridge(z[:10], y[:10], moments(z[:10], y[:10])).layer.kernel
    free = np.linalg.lstsq(z - z.mean(axis=0), y, rcond=None)[0]
    assert np.linalg.norm(few - w0) < 0.6 * np.linalg.norm(alone - w0)
    assert np.linalg.norm(few - free) < 0.6 * np.linalg.norm(alone - free)
    assert np.linalg.norm(many - free) < 0.3 * np.linalg.norm(w0 - free)


def test_a_prior_that_is_right_is_kept_whatever_its_mean():
    rng = np.random.default_rng(0)
    w0, z = rng.normal(size=(8, 5)), rng.normal(size=(40, 8)).astype(np.float32)
    y = (z @ w0 + 7).astype(np.float32)  # the prior knows no 7
    layer = fit_ridge(z, y, moments(z, y), w0).layer
    np.testing.assert_allclose(layer.kernel, w0, atol=1e-5)
    np.testing.assert_allclose(layer.bias, np.full(5, 7), atol=1e-4)


def test_the_error_is_taken_over_a_sample_of_many_rows(monkeypatch):
    z, y, _ = noisy_pairs(600, 6)
    whole = fit_ridge(z, y, moments(z, y))
    monkeypatch.setattr(ridge, "SCORED", 200)
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
def test_directions_describe_the_covariance_of_many_rows_and_of_few(n):
    z, y, _ = noisy_pairs(n, 30)
    c = covariance(moments(z, y))
    found = directions(z, c.x_mean, c.xx)
    wanted = np.cov(z.T.astype(np.float64), bias=True)
    np.testing.assert_allclose(found.matrix(), wanted, atol=2e-5)
    assert found.trace == pytest.approx(np.trace(wanted), rel=1e-4)
    assert found.values.min() >= 0
    assert len(found.values) <= min(n, 30)


def test_the_leading_directions_keep_the_trace():
    z, y, _ = noisy_pairs(200, 30)
    c = covariance(moments(z, y))
    found = directions(z, c.x_mean, c.xx, 5)
    values, vectors = np.linalg.eigh(np.cov(z.T.astype(np.float64), bias=True))
    lead = (vectors[:, -5:] * (values[-5:] - values[:-5].mean())) @ vectors[:, -5:].T
    np.testing.assert_allclose(found.matrix(), lead + values[:-5].mean() * np.eye(30), atol=2e-5)
    assert found.trace == pytest.approx(values.sum(), rel=1e-5)


@pytest.mark.parametrize("n", [200, 12])
def test_a_pooled_covariance_is_the_weighted_mean_of_both(n):
    rng = np.random.default_rng(1)
    z, y, _ = noisy_pairs(n, 30)
    vectors = np.linalg.qr(rng.normal(size=(30, 4)))[0]
    prior = Directions(np.array([4.0, 3.0, 2.0, 1.0]), vectors, 0.05)
    c = covariance(moments(z, y))
    found = pooled(z, c.x_mean, c.xx, prior, prior_rows=50)
    dense = (vectors * [4, 3, 2, 1]) @ vectors.T + 0.05 * np.eye(30)
    wanted = (n * np.cov(z.T.astype(np.float64), bias=True) + 50 * dense) / (n + 50)
    np.testing.assert_allclose(found.matrix(), wanted, atol=5e-5)
    assert found.trace == pytest.approx(np.trace(wanted), rel=1e-4)
    alone = pooled(z, c.x_mean, c.xx, None, prior_rows=50)
    np.testing.assert_allclose(alone.matrix(), np.cov(z.T.astype(np.float64), bias=True), atol=2e-5)


def test_rows_of_low_rank_have_no_more_directions():
    factor = np.random.default_rng(0).normal(size=(9, 2)) @ np.random.default_rng(1).normal(size=(2, 20))
    found = factor_directions(factor)
    assert len(found.values) == 2
    np.testing.assert_allclose(found.matrix(), factor.T @ factor, atol=1e-9)
