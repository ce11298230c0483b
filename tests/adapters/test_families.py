"""The families' formulas."""

import jax.numpy as jnp
import numpy as np

from ea_jax.adapters.families import radial
from ea_jax.embeddings import unit


def test_radial_functions_are_gaussians_of_the_distance_on_the_sphere():
    rng = np.random.default_rng(0)
    x, z = (np.asarray(unit(jnp.asarray(rng.normal(size=(n, 6)), jnp.float32))) for n in (4, 7))
    squared = np.square(x[:, None].astype(np.float64) - z[None]).sum(-1)
    wanted = 0.7 * np.exp(-0.5 * squared / 2) + 0.3 * np.exp(-3 * squared / 2)
    gamma, weight = jnp.asarray([0.5, 3.0]), jnp.asarray([0.7, 0.3])
    found = radial(jnp.asarray(x @ (5 * z).T), jnp.full(7, 0.2), gamma, weight)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
