"""The output layer for queries: partial whitening in closed form, then contrastive fine-tuning if it helps.

Regression shrinks outputs towards the mean and the leading directions of the target space. This creates hubs: native
rows that are close to every query. Whitening reverses the shrinkage.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.optimize import isotonic_regression

from ea_jax.adapters.families import Linear
from ea_jax.fitting.regression.moments import Affine, Covariance
from ea_jax.fitting.regression.ridge import LowRankCovariance
from ea_jax.fitting.training.train import TrainingConfig, ValidationSet, train
from ea_jax.quality.schema import KNOTS
from ea_jax.retrieval.neighbors import unit_rows
from ea_jax.typing import ArrayIn, Params

# R@1 across sources is .464 to .467 for powers .5 to .7 and lengths 2 to 8.
SHRINKAGE, POWER, LENGTH = 0.3, 0.5, 4.0
FINE_TUNING = TrainingConfig()


def whitening_matrix(y: LowRankCovariance) -> Float64[np.ndarray, "d_out d_out"]:
    """Partial whitening of the target covariance C, `(C + s c I)^-p`, where c is its mean eigenvalue.

    Source: Radovanovic et al. 2010, JMLR 11 (hubs); Mu and Viswanath 2018, arXiv:1702.01417 (leading directions).
    """
    floor = y.rest + SHRINKAGE * y.trace / len(y.vectors)
    gain = (y.values + floor) ** -POWER - floor**-POWER
    return floor**-POWER * np.eye(len(y.vectors)) + (y.vectors * gain) @ y.vectors.T


def whiten_layer(store: Affine, c: Covariance, xx: Float64[np.ndarray, "d d"], y: LowRankCovariance) -> Affine:
    """Whiten the centered output of the store layer, and rescale it.

    `y = mu + f (x W + b - mu) H`, where H is the whitening matrix, and f gives the centered part `LENGTH` times the
    root mean square length of centered native vectors. A longer centered part reduces the weight of the mean, which
    all outputs share.

    Args:
        store: The store layer.
        c: Means of features and targets.
        xx: Covariance of the features, averaged with the prior's.
        y: Covariance of the targets, averaged with the prior's.
    """
    kernel = store.kernel @ whitening_matrix(y)
    factor = LENGTH * np.sqrt(y.trace / np.sum(kernel * (xx @ kernel)))
    return Affine(factor * kernel, c.y_mean - factor * (c.x_mean @ kernel))


class FineTuned(NamedTuple):
    """Result of fine-tuning a query layer.

    Attributes:
        layer: The layer with the best validation score.
        steps: The number of steps that led to it; 0 for the start.
        scores: Mean reciprocal rank of the true neighbors at each evaluation; the first is the start's.
    """

    layer: Affine
    steps: int
    scores: list[float]


def fine_tune(
    start: Affine,
    z: Float[ArrayIn, "n d"],
    y: Float[ArrayIn, "n d_out"],
    validation: ValidationSet,
    training: TrainingConfig = FINE_TUNING,
    *,
    rows: Int[np.ndarray, " k"] | None = None,
    seed: int = 0,
    show_progress: bool = False,
) -> FineTuned:
    """Fine-tune a query layer contrastively, with early stopping on validation queries.

    Args:
        start: The closed-form layer.
        z: Features of the pairs.
        y: Native vectors of the pairs.
        validation: Queries that neither the start nor the training has seen, and a native corpus.
        training: Hyperparameters.
        rows: Row numbers to train on, ascending; all rows if None. Only a batch of them is copied at a time.
        seed: Random seed of the batches.
        show_progress: Show a progress bar on stderr.
    """
    params = {"out": {"kernel": start.kernel.astype(np.float32), "bias": start.bias.astype(np.float32)}}
    module = Linear(len(start.bias), unit_norm=True)
    trained = train(module, params, z, y, validation, training, rows=rows, seed=seed, show_progress=show_progress)
    scores = [score for _, score in trained.scores]
    if not trained.best:
        return FineTuned(start, 0, scores)
    out = jax.tree.map(lambda a: np.asarray(a, np.float64), trained.params["out"])
    return FineTuned(Affine(out["kernel"], out["bias"]), trained.best, scores)


def similarity_map(
    queries: Float[np.ndarray, "q d_out"], native: Float[np.ndarray, "q d_out"], corpus: Float[np.ndarray, "c d_out"]
) -> Params:
    """Fit a monotone map from scores of query vectors to native similarities, as knots for `np.interp`.

    It is an isotonic regression over the 50 best corpus rows of each query, where thresholds are applied.

    Source: Barlow et al. 1972; Zadrozny and Elkan 2002 (calibration).
    """
    score, truth = unit_rows(queries) @ corpus.T, native @ corpus.T
    best = np.argpartition(-score, min(50, score.shape[1] - 1), axis=1)[:, :50]
    score, truth = (np.take_along_axis(s, best, axis=1).ravel() for s in (score, truth))
    order = np.argsort(score, kind="stable")
    fitted = isotonic_regression(truth[order]).x
    at = np.linspace(0, len(order) - 1, KNOTS).astype(int)
    return {"score": score[order][at].astype(np.float32), "native": fitted[at].astype(np.float32)}
