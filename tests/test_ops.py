import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax import embeddings as ops
from ea_jax.errors import BadInput


def test_unit_rows_have_length_one_and_keep_their_direction(key):
    x = jax.random.normal(key, (5, 7))
    y = np.asarray(ops.unit(x), np.float64)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(y * np.linalg.norm(x, axis=1)[:, None], x, rtol=1e-5, atol=1e-6)


def test_a_zero_row_stays_zero_with_a_finite_gradient():
    gradient = jax.grad(lambda x: ops.unit(x).sum())(jnp.zeros(4))
    assert np.all(np.asarray(ops.unit(jnp.zeros((2, 4)))) == 0)
    assert np.all(np.isfinite(gradient))


def test_mahalanobis_is_the_textbook_distance(key):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5))
    mean, inverse = data.mean(0), np.linalg.inv(np.cov(data.T))
    x = rng.normal(size=(2, 3, 5))
    wanted = np.sqrt(np.einsum("...i,ij,...j->...", x - mean, inverse, x - mean))
    values, vectors = np.linalg.eigh(np.cov(data.T))
    directions = vectors[:, 1:] * np.sqrt(1 / values[0] - 1 / values[1:])  # all but the least: nothing is averaged
    found = ops.mahalanobis(*(jnp.asarray(a, jnp.float32) for a in (x, mean, np.sqrt(values[0]), directions)))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_nearest_distance_is_the_chord_to_the_nearest_reference():
    rng = np.random.default_rng(0)
    x, references = (np.asarray(ops.unit(jnp.asarray(rng.normal(size=(n, 6)), jnp.float32))) for n in (4, 9))
    wanted = np.linalg.norm(x[:, None].astype(np.float64) - references[None], axis=-1).min(1)
    np.testing.assert_allclose(ops.nearest_distance(jnp.asarray(x), jnp.asarray(references)), wanted, atol=1e-5)


def test_confidence_is_four_fifths_at_p95_and_one_fifth_at_p99():
    p95, p99 = jnp.float32(2.0), jnp.float32(3.0)
    found = ops.distance_confidence(jnp.asarray([2.0, 3.0, 0.0, 9.0]), p95, p99)
    np.testing.assert_allclose(found[:2], [0.8, 0.2], rtol=1e-5)
    assert found[2] > 0.99
    assert found[3] < 0.01


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_spoils_no_other_row(bad):
    x = np.ones((3, 4), np.float32)
    x[1, 2] = bad
    gaussian = jnp.zeros(4), jnp.float32(1), 0.5 * jnp.eye(4)
    assert list(np.isfinite(ops.mahalanobis(jnp.asarray(x), *gaussian))) == [True, False, True]
    assert list(np.isfinite(ops.unit(jnp.asarray(x))).all(1)) == [True, False, True]


def test_mean_pool_ignores_padding_whatever_it_holds():
    hidden = jnp.asarray([[[1.0, 2.0], [3.0, 4.0], [99.0, 99.0]]])
    np.testing.assert_allclose(ops.mean_pool(hidden, jnp.asarray([[1.0, 1.0, 0.0]])), [[2.0, 3.0]])


@pytest.mark.parametrize(
    ("x", "told"),
    [
        ([[1.0, 2.0]], "array of floats, not list"),
        (np.ones((1, 3), np.int32), "array of floats, not int32"),
        (np.ones((1, 2), np.float32), "width 3"),
        (np.float32(1), "width 3"),
    ],
)
def test_what_is_not_an_embedding_is_refused_with_both_facts(x, told):
    with pytest.raises(BadInput, match=told):
        ops.check_embeddings(x, 3, "toy/source")


def test_radial_functions_are_gaussians_of_the_distance_on_the_sphere():
    rng = np.random.default_rng(0)
    x, z = (np.asarray(ops.unit(jnp.asarray(rng.normal(size=(n, 6)), jnp.float32))) for n in (4, 7))
    squared = np.square(x[:, None].astype(np.float64) - z[None]).sum(-1)
    wanted = 0.7 * np.exp(-0.5 * squared / 2) + 0.3 * np.exp(-3 * squared / 2)
    gamma, weight = jnp.asarray([0.5, 3.0]), jnp.asarray([0.7, 0.3])
    found = ops.radial(jnp.asarray(x @ (5 * z).T), jnp.full(7, 0.2), gamma, weight)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
