"""Notice vectors of another model than the adapter's source, by their distances from the inputs of the fit."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ea_jax.embeddings import unit
from ea_jax.errors import FingerprintMismatch
from ea_jax.quality.scores import SOURCE_FEATURES, Quality, distances, standardize

logger = logging.getLogger(__name__)

STATISTICS = ("mean", "spread", "directions", "references")
SAMPLE_ROWS, MIN_ROWS = 512, 20
MIN_WIDTH = 64  # in few dimensions, vectors of other models lie where those of the source do
FOREIGN = 0.9  # probability from which a vector counts as another model's
# Of 67 sets of MiniLM vectors, of other domains and languages, at most 0.19 of the rows count as another model's. Of 21
# sets that are (vectors of 15 models cut to 384 dimensions, rotated, permuted or random), at least 0.71 do.
STOP, WARN = 0.5, 0.2


def foreign_fraction(quality: Quality, x: Float[np.ndarray, "n d_in"]) -> float | None:
    """Return the fraction of vectors that are not the source model's; None for imported adapters, which cannot tell."""
    params = quality.params
    if "foreign" not in params:
        return None
    rows = unit(jnp.asarray(x))
    far, near = distances({name: params[name] for name in STATISTICS}, rows)
    features = jnp.stack([far, near, rows @ unit(params["mean"])], axis=1)
    scale = {name: params["features"][name][:SOURCE_FEATURES] for name in ("mean", "deviation")}
    logits = standardize(scale, features) @ params["foreign"]["features"] + params["foreign"]["bias"]
    return float(jnp.mean(jax.nn.sigmoid(logits) > FOREIGN))


def check_source_sample(
    quality: Quality, x: Float[np.ndarray, "n d_in"], where: str, assume_source: bool = False
) -> None:
    """Check a sample of vectors before they are used.

    Fewer than 20 vectors, and vectors of few dimensions, are not checked.

    Raises:
        FingerprintMismatch: Most of them are not the source model's, unless `assume_source` is set. If fewer are, or if
            it is set, a warning is logged.
    """
    if len(x) < MIN_ROWS or x.shape[1] < MIN_WIDTH:
        return
    sample = np.asarray(x[np.unique(np.linspace(0, len(x) - 1, SAMPLE_ROWS).astype(int))], np.float32)
    fraction = foreign_fraction(quality, sample)
    if fraction is None or fraction <= WARN:
        return
    model = quality.spec.source
    message = f"{where}: {fraction:.0%} of {len(sample)} sampled vectors do not look like vectors of {model}."
    if fraction > STOP and not assume_source:
        raise FingerprintMismatch(
            f"{message} Did another model make them, or were they cut or rotated? Use them anyway with `assume_source`."
        )
    logger.warning(message)
