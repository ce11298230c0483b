"""Logistic regression by Newton's method."""

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
    """Weights and bias of a logistic regression, `P = 1 / (1 + exp(-z w - b))`, by Newton's method.

    Args:
        z: One row an observation.
        label: Its outcome.
        penalty: Of the squared distance of the weights from the prior's, for columns of variance one, beside the total
            log loss: so the more rows, the less the prior weighs. The bias is free.
        prior: Weights that the fit stays near to; zero if None.

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
            step /= 2  # far from the minimum a whole step may overshoot it
        weight -= step
        if np.abs(step).max() < SMALLEST_STEP:
            break
    plain = weight[:-1] / deviation
    return plain, float(weight[-1] - mean @ plain)
