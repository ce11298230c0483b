"""A last layer drawn towards a linear one: a map that bends puts queries near to what it was fitted on."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ea_jax.solve import Affine

SHARES = tuple(i / 10 for i in range(11))

Scores = Float[np.ndarray, " q"]


class Mix(NamedTuple):
    """Weights of a body's own layer and of a linear one in their average."""

    own: float
    linear: float


def drawn(
    layer: Affine,
    linear: Affine,
    a: Float[np.ndarray, "q d_out"],
    b: Float[np.ndarray, "q d_out"],
    score: Callable[[np.ndarray], Scores],
    errors: float,
) -> tuple[Affine, Mix, Float[np.ndarray, "q d_out"]]:
    """A layer averaged with a linear one, by the share that is best for rows held out, or less if that is as good.

    Args:
        layer: Affine map of the features.
        linear: Affine map of the inputs, which are the first features.
        a: The layer's outputs for held-out rows.
        b: The linear one's.
        score: One number a row of outputs, or of the first of them; larger is better.
        errors: Standard errors within which the least share is as good as the best one.

    Returns:
        The average, the weights of both, the linear layer's outputs being first scaled to the other's length, and the
        average of the outputs.
    """
    found = {share: score(averaged(a, b, share)[0]) for share in SHARES}
    best = max(found.values(), key=np.mean)
    share = next(share for share, one in found.items() if within(errors, best, one))
    (outputs, mix), wide = averaged(a, b, share), widened(linear, len(layer.kernel))
    average = [mix.own * p + mix.linear * q for p, q in zip(layer, wide, strict=True)]
    return Affine(*average), mix, outputs.astype(np.float32)


def within(errors: float, best: Scores, one: Scores) -> bool:
    """Whether what scores fall short of the best is within some standard errors of the paired differences.

    Source: Breiman et al. 1984, section 3.4.3, for one standard error.
    """
    cost = best - one
    return bool(cost.mean() <= errors * cost.std() / np.sqrt(len(cost)))


def averaged(
    a: Float[np.ndarray, "q d_out"], b: Float[np.ndarray, "q d_out"], share: float
) -> tuple[Float[np.ndarray, "q d_out"], Mix]:
    """Average of outputs, `share` of it the latter's, scaled to the length of the former; and the weights of both."""
    mix = Mix(1 - share, share * float(np.sqrt(np.mean(np.square(a)) / np.mean(np.square(b)))))
    return mix.own * a + mix.linear * b, mix


def widened(linear: Affine, features: int) -> Affine:
    """An affine map of the inputs as one of features that begin with them."""
    unread = np.zeros((features - len(linear.kernel), linear.kernel.shape[1]))
    return Affine(np.concatenate([linear.kernel, unread]), linear.bias)
