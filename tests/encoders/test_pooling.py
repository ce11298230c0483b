"""Pooling of token vectors."""

import jax.numpy as jnp
import numpy as np

from ea_jax.encoders.architectures.pooling import mean_pool


def test_mean_pool_ignores_padding():
    hidden = jnp.asarray([[[1.0, 2.0], [3.0, 4.0], [99.0, 99.0]]])
    np.testing.assert_allclose(mean_pool(hidden, jnp.asarray([[1.0, 1.0, 0.0]])), [[2.0, 3.0]])
