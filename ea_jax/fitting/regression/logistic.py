"""Logistic regression towards a prior, by Newton's method."""

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy.special import expit

NEWTON_STEPS, SMALLEST_STEP = 50, 1e-6


def logistic(
    z: Float[np.ndarray, "n p"],
    label: Bool[np.ndarray, " n"],
    penalty: float,
    prior: Float[np.ndarray, " p"] | None = None,
) -> tuple[Float64[np.ndarray, " p"], float]:
    """Fit the weights and bias of a logistic regression, `P = 1 / (1 + exp(-z w - b))`.

    Args:
        z: One row per observation.
        label: The outcome of each observation.
        penalty: Weight of the squared distance from the prior weights, for columns scaled to variance one. It is added
            to the total log loss, so the influence of the prior falls with the number of rows. The bias is not
            penalized.
        prior: Weights that the penalty shrinks towards; zero if None.

    Source: Hastie, Tibshirani and Friedman 2009, section 4.4 (iteratively reweighted least squares).
    """
    mean, deviation = z.mean(axis=0), z.std(axis=0) + 1e-9
    design = np.concatenate([(z - mean) / deviation, np.ones((len(z), 1))], axis=1).astype(np.float64)
    pull = np.r_[np.full(z.shape[1], penalty), 1e-6] / len(z)
    start = np.append((np.zeros(z.shape[1]) if prior is None else prior) * deviation, 0.0)
    sign = np.where(label, -1.0, 1.0)

    def loss(w: Float64[np.ndarray, " q"]) -> float:
        return float(np.logaddexp(0, sign * (design @ w)).mean() + pull @ np.square(w - start) / 2)

    weight = start.copy()
    for _ in range(NEWTON_STEPS):
        chance = expit(design @ weight)
        slope = design.T @ (chance - label) / len(z) + pull * (weight - start)
        spread = np.maximum(chance * (1 - chance), 1e-6)
        step = np.linalg.solve(design.T @ (design * spread[:, None]) / len(z) + np.diag(pull), slope)
        before = loss(weight)
        while loss(weight - step) > before and np.abs(step).max() > SMALLEST_STEP:
            step /= 2  # far from the minimum, a full step may overshoot
        weight -= step
        if np.abs(step).max() < SMALLEST_STEP:
            break
    unscaled = weight[:-1] / deviation
    return unscaled, float(weight[-1] - mean @ unscaled)
