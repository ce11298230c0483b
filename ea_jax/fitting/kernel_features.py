"""Fit the features of the `kernel` family: Nystrom features around random landmarks."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32

from ea_jax.adapters.families import radial
from ea_jax.adapters.quantization import quantize_columns, quantize_rows
from ea_jax.fitting.features import Features
from ea_jax.fitting.regression.moments import largest_eigenpairs
from ea_jax.retrieval.neighbors import unit_rows
from ea_jax.typing import ArrayIn

LANDMARKS = 2048  # and principal components: the in-domain cosine of the store layer is .76, that of a linear map .70
BANDWIDTH = 1.0  # gamma: exp(-gamma |x - z|^2 / 2); .7 to 1.5 differ by less than .005
SAMPLE, BLOCK = 8192, 8192


def kernel_features(x: Float[ArrayIn, "n d_in"], y: Float[ArrayIn, "n d_out"], seed: int = 0) -> Features:
    """Concatenate the inputs and kernel principal components around random landmarks, `[x, (phi(x) - mean) V L^-1/2]`.

    `phi_j(x) = exp(gamma (cos(x, z_j) - 1))`, and `V L V^T` are the leading eigenpairs of the kernel between landmarks.
    Landmarks and projection are quantized before the features are computed, so that the fit sees the stored values.
    The targets `y` are not used.

    Source: Williams and Seeger 2001 (Nystrom).
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(x))[:LANDMARKS])
    landmarks = quantize_rows(unit_rows(x[rows])).values
    scale = (1 / np.linalg.norm(landmarks.astype(np.float32), axis=1)).astype(np.float32)
    z = landmarks * scale[:, None]
    values, vectors = largest_eigenpairs(np.exp(BANDWIDTH * (z.astype(np.float64) @ z.T - 1)), len(z))
    mix = quantize_columns((vectors / np.sqrt(np.maximum(values, 1e-9))).astype(np.float32))
    ones = np.ones(1, np.float32)

    def phi(block: Float[ArrayIn, "b d_in"]) -> Float32[np.ndarray, "b m"]:
        cosine = unit_rows(block) @ landmarks.astype(np.float32).T
        return np.asarray(radial(*map(jnp.asarray, (cosine, scale, BANDWIDTH * ones, ones))))

    center = phi(x[np.sort(rng.permutation(len(x))[:SAMPLE])]).mean(axis=0)
    weights = mix.values.astype(np.float32) * mix.scale[None]
    parts = [(phi(x[i : i + BLOCK]) - center) @ weights for i in range(0, len(x), BLOCK)]
    params = {
        "landmarks": landmarks,
        "scale": scale,
        "gamma": BANDWIDTH * ones,
        "weight": ones,
        "centre": center.astype(np.float32),
        "mix": mix.values,
        "step": mix.scale,
    }
    sizes = {"landmarks": len(z), "rank": weights.shape[1], "bandwidths": 1}
    return Features("kernel", sizes, params, np.concatenate([np.asarray(x, np.float32), np.concatenate(parts)], axis=1))
