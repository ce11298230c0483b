"""Distances from in-domain embeddings. Shapes: `*batch` leading axes, `d` width, `k` directions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def mahalanobis(
    x: Float[Array, "*batch d"], mean: Float[Array, " d"], spread: Float[Array, ""], directions: Float[Array, "d k"]
) -> Float[Array, "*batch"]:
    """Distance of each embedding from a Gaussian fitted to in-domain data, `sqrt(|c|^2 / s^2 - |c U|^2)`, c = x - mean.

    Args:
        x: Embeddings, at the scale the statistics were fitted at.
        mean: In-domain mean.
        spread: Standard deviation s of every direction except the leading ones.
        directions: The k leading eigenvectors u_j of the covariance, each times `sqrt(1 / s^2 - 1 / l_j)`.

    Returns:
        Distances in standard deviations; larger is further out of domain.
        In-domain rows lie near `sqrt(d)`, not near 1.

    Errors: raises nothing; a non-finite row scores non-finite, no other row does.
    Source: Lee et al. 2018, arXiv:1807.03888 (one class, no perturbation); Tipping and Bishop 1999 (the covariance).
    """
    c = x - jnp.broadcast_to(mean, x.shape)
    squared = jnp.sum(jnp.square(c), axis=-1) / jnp.square(spread) - jnp.sum(jnp.square(c @ directions), axis=-1)
    return jnp.sqrt(jnp.maximum(squared, 1e-12))


def distance_confidence(
    distance: Float[Array, "*batch"], p95: Float[Array, ""], p99: Float[Array, ""]
) -> Float[Array, "*batch"]:
    """Map a distance to a confidence: 0.8 at the 95th percentile of in-domain rows and 0.2 at the 99th, by a logistic.

    Returns:
        Confidences between 0 and 1; larger is better.
    """
    slope = 2 * jnp.log(4.0) / (p99 - p95)
    return jax.nn.sigmoid(-slope * (distance - (p95 + p99) / 2))
