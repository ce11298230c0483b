"""Distance to the nearest reference."""

import jax.numpy as jnp
import numpy as np

from ea_jax.embeddings import unit
from ea_jax.retrieval.neighbors import nearest_distance


def test_nearest_distance_is_the_euclidean_distance_to_the_nearest_reference():
    rng = np.random.default_rng(0)
    x, references = (np.asarray(unit(jnp.asarray(rng.normal(size=(n, 6)), jnp.float32))) for n in (4, 9))
    expected = np.linalg.norm(x[:, None].astype(np.float64) - references[None], axis=-1).min(1)
    np.testing.assert_allclose(nearest_distance(jnp.asarray(x), jnp.asarray(references)), expected, atol=1e-5)
