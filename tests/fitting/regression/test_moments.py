import numpy as np
import pytest

from ea_jax.fitting.regression import moments as solve
from tests.conftest import toy_pairs


@pytest.fixture
def pairs():
    return toy_pairs(400)


@pytest.fixture
def c(pairs):
    return solve.covariance(solve.moments(*pairs))


def test_moments_add_up_over_blocks_and_parts(pairs, monkeypatch):
    x, y = pairs
    whole = solve.moments(x, y)
    monkeypatch.setattr(solve, "BLOCK", 64)
    parts = solve.moments(x[:150], y[:150]).plus(solve.moments(x[150:], y[150:]))
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_covariance_agrees_with_numpy(pairs, c):
    x, y = pairs
    expected = np.cov(np.hstack([x, y]).T.astype(np.float64), bias=True)
    np.testing.assert_allclose(c.xx, expected[:8, :8], atol=1e-6)
    np.testing.assert_allclose(c.xy, expected[:8, 8:], atol=1e-6)
    np.testing.assert_allclose(c.yy, expected[8:, 8:], atol=1e-6)


def test_moments_of_row_numbers_agree_with_a_selection(pairs, monkeypatch):
    x, y = pairs
    monkeypatch.setattr(solve, "BLOCK", 64)
    rows = np.random.default_rng(0).permutation(400)[:170]
    for a, b in zip(solve.moments(x, y, rows), solve.moments(x[rows], y[rows]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_memory_maps_have_the_same_moments(pairs, tmp_path, monkeypatch):
    for name, rows in zip(("x", "y"), pairs, strict=True):
        mapped = np.memmap(tmp_path / name, rows.dtype, "w+", shape=rows.shape)
        mapped[:] = rows
        mapped.flush()
    x, y = (np.memmap(tmp_path / name, np.float32, "r", shape=a.shape) for name, a in zip("xy", pairs, strict=True))
    monkeypatch.setattr(solve, "BLOCK", 64)
    for a, b in zip(solve.moments(x, y), solve.moments(*pairs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_subtracted_moments_are_those_of_the_other_pairs(pairs):
    x, y = pairs
    others = solve.moments(x, y).minus(solve.moments(x, y, np.arange(150)))
    for a, b in zip(others, solve.moments(x[150:], y[150:]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_the_largest_eigenpairs_agree_with_numpy():
    a = np.random.default_rng(0).normal(size=(20, 9))
    values, vectors = np.linalg.eigh(a.T @ a)
    for k in (3, 9, 12):
        largest, basis = solve.largest_eigenpairs(a.T @ a, k)
        np.testing.assert_allclose(largest, values[-k:], rtol=1e-9)
        np.testing.assert_allclose(np.abs(np.sum(basis * vectors[:, -k:], axis=0)), 1, rtol=1e-9)
