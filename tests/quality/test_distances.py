"""Distances against their textbook formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.embeddings import unit
from ea_jax.quality.distances import distance_confidence, mahalanobis


def test_mahalanobis_is_the_textbook_distance(key):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5))
    mean, inverse = data.mean(0), np.linalg.inv(np.cov(data.T))
    x = rng.normal(size=(2, 3, 5))
    expected = np.sqrt(np.einsum("...i,ij,...j->...", x - mean, inverse, x - mean))
    values, vectors = np.linalg.eigh(np.cov(data.T))
    directions = vectors[:, 1:] * np.sqrt(
        1 / values[0] - 1 / values[1:]
    )  # all but the smallest, so no variance is averaged
    actual = mahalanobis(*(jnp.asarray(a, jnp.float32) for a in (x, mean, np.sqrt(values[0]), directions)))
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_confidence_is_defined_at_the_95th_and_99th_percentile():
    p95, p99 = jnp.float32(2.0), jnp.float32(3.0)
    actual = distance_confidence(jnp.asarray([2.0, 3.0, 0.0, 9.0]), p95, p99)
    np.testing.assert_allclose(actual[:2], [0.8, 0.2], rtol=1e-5)
    assert actual[2] > 0.99
    assert actual[3] < 0.01


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_row_changes_no_other_row(bad):
    x = np.ones((3, 4), np.float32)
    x[1, 2] = bad
    gaussian = jnp.zeros(4), jnp.float32(1), 0.5 * jnp.eye(4)
    assert list(np.isfinite(mahalanobis(jnp.asarray(x), *gaussian))) == [True, False, True]
    assert list(np.isfinite(unit(jnp.asarray(x))).all(1)) == [True, False, True]
