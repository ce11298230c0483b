"""Pure functions on embeddings. Shapes: `*batch` leading axes, `d` width, `m` reference rows."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ea_jax.arrays import ArrayIn
from ea_jax.errors import BadInput


def check_embeddings(x: Any, width: int, model: str) -> None:
    """Raise BadInput unless x is an array of floats whose last axis has the model's width."""
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
        kind = getattr(x, "dtype", type(x).__name__)
        raise BadInput(f"Embeddings must be an array of floats, not {kind}. Try `np.asarray(x, np.float32)`.")
    if not x.ndim or x.shape[-1] != width:
        raise BadInput(
            f"x has shape {x.shape}, but {model!r} embeddings have width {width}. "
            "Did another model make them? `ea-jax list` shows what fits."
        )


@jax.jit
def unit(x: Float[ArrayIn, "*batch d"]) -> Float[Array, "*batch d"]:
    """Each row scaled to length one, in float32 at least; a zero row stays zero and has a finite gradient."""
    wide = jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
    squared = jnp.sum(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))).astype(x.dtype)


def mahalanobis(
    x: Float[Array, "*batch d"], mean: Float[Array, " d"], spread: Float[Array, ""], directions: Float[Array, "d k"]
) -> Float[Array, "*batch"]:
    """Distance of each embedding from a Gaussian fitted to in-domain data, `sqrt(|c|^2 / s^2 - |c U|^2)`, c = x - mean.

    Args:
        x: Embeddings, at the scale the statistics were fitted at.
        mean: In-domain mean.
        spread: Standard deviation s of every direction but the leading ones.
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


def nearest_distance(x: Float[Array, "*batch d"], references: Float[Array, "m d"]) -> Float[Array, "*batch"]:
    """Chord length `sqrt(2 - 2 cos)` from each unit row to the nearest unit reference.

    Returns:
        Distances from 0 (the same direction) to 2 (the opposite one); larger is further.

    Errors: raises nothing; a non-finite row scores non-finite, no other row does.
    """
    cosine = jnp.max(x @ references.T, axis=-1)
    return jnp.sqrt(jnp.maximum(2 - 2 * cosine, 0))


def distance_confidence(
    distance: Float[Array, "*batch"], p95: Float[Array, ""], p99: Float[Array, ""]
) -> Float[Array, "*batch"]:
    """Logistic of a distance that is 0.8 at the 95th percentile of in-domain rows and 0.2 at the 99th.

    Returns:
        Confidences between 0 and 1; larger is better.
    """
    slope = 2 * jnp.log(4.0) / (p99 - p95)
    return jax.nn.sigmoid(-slope * (distance - (p95 + p99) / 2))


def mean_pool(hidden: Float[Array, "*batch t d"], mask: Float[Array, "*batch t"]) -> Float[Array, "*batch d"]:
    """Mean of the token vectors whose mask is one. A row without any token gives zeros."""
    total = jnp.einsum("...td,...t->...d", hidden, mask)
    return total / jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)


def radial(
    cosine: Float[Array, "*batch m"], scale: Float[Array, " m"], gamma: Float[Array, " s"], weight: Float[Array, " s"]
) -> Float[Array, "*batch m"]:
    """Sum of radial functions on the sphere, `phi = sum_s w_s exp(gamma_s (c - 1))`, of cosines to landmarks.

    Args:
        cosine: Inner products of unit rows with the landmarks, before their scale.
        scale: What makes an inner product a cosine, `1 / |z_j|`.
        gamma: Bandwidths: `exp(-gamma |x - z|^2 / 2)` of unit rows; larger is narrower.
        weight: Of each bandwidth.

    Source: Schoenberg 1942: non-negative sums of these are positive definite on the sphere.
    """
    away = cosine * jnp.broadcast_to(scale, cosine.shape) - 1
    return sum((w * jnp.exp(g * away) for g, w in zip(gamma, weight, strict=True)), jnp.zeros_like(away))
