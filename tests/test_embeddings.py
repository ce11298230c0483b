import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.embeddings import check_embeddings, unit
from ea_jax.errors import BadInput


def test_unit_rows_have_length_one_and_keep_their_direction(key):
    x = jax.random.normal(key, (5, 7))
    y = np.asarray(unit(x), np.float64)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(y * np.linalg.norm(x, axis=1)[:, None], x, rtol=1e-5, atol=1e-6)


def test_a_zero_row_stays_zero_with_a_finite_gradient():
    gradient = jax.grad(lambda x: unit(x).sum())(jnp.zeros(4))
    assert np.all(np.asarray(unit(jnp.zeros((2, 4)))) == 0)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[1.0, 2.0]], "array of floats, not list"),
        (np.ones((1, 3), np.int32), "array of floats, not int32"),
        (np.ones((1, 2), np.float32), "width 3"),
        (np.float32(1), "width 3"),
    ],
)
def test_invalid_embeddings_are_refused(x, message):
    with pytest.raises(BadInput, match=message):
        check_embeddings(x, 3, "toy/source")
