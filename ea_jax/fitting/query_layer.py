"""The output layer for queries: partial whitening in closed form, then contrastive fine-tuning where it gains.

Regression shrinks outputs towards the mean and the leading directions of the target space, which makes hubs: native
rows that are near to every query. Whitening undoes that.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.optimize import isotonic_regression

from ea_jax.adapters.families import Linear
from ea_jax.fitting.regression.moments import Affine, Covariance
from ea_jax.fitting.regression.ridge import Directions
from ea_jax.fitting.training.train import Held, Training, train
from ea_jax.quality.schema import KNOTS
from ea_jax.retrieval.neighbors import unit_rows
from ea_jax.typing import ArrayIn, Params

# Results hardly depend on these three: R@1 across sources is .464 to .467 for powers .5 to .7 and lengths 2 to 8.
SHRINKAGE, POWER, LENGTH = 0.3, 0.5, 4.0
FINE_TUNING = Training()


def whitening(y: Directions) -> Float64[np.ndarray, "d_out d_out"]:
    """Partial whitening of the target covariance C by its leading directions, `(C + s c I)^-p`, c its mean eigenvalue.

    Source: Radovanovic et al. 2010, JMLR 11, on hubs; Mu and Viswanath 2018, arXiv:1702.01417, on leading directions.
    """
    floor = y.rest + SHRINKAGE * y.trace / len(y.vectors)
    gain = (y.values + floor) ** -POWER - floor**-POWER
    return floor**-POWER * np.eye(len(y.vectors)) + (y.vectors * gain) @ y.vectors.T


def whitened(store: Affine, c: Covariance, xx: Float64[np.ndarray, "d d"], y: Directions) -> Affine:
    """The store layer with its centered output whitened, and given a fixed length.

    `y = mu + f (x W + b - mu) H`, f such that the centered part has `LENGTH` times the root mean square length of
    centered native vectors: the longer it is, the less weighs the mean, which all outputs share.

    Args:
        store: The layer for faithful vectors.
        c: Covariance of features and targets, whose means are kept.
        xx: Covariance of the features, pooled with a prior's.
        y: Directions of the targets, likewise.
    """
    kernel = store.kernel @ whitening(y)
    factor = LENGTH * np.sqrt(y.trace / np.sum(kernel * (xx @ kernel)))
    return Affine(factor * kernel, c.y_mean - factor * (c.x_mean @ kernel))


class FineTuned(NamedTuple):
    """A query layer after fine-tuning, and how the validation score went.

    Attributes:
        layer: The best layer by validation score; the start where no step gained.
        steps: Steps that led to it; 0 where no step gained.
        scores: Mean reciprocal rank of the true neighbors at each evaluation, the start's first.
    """

    layer: Affine
    steps: int
    scores: list[float]


def fine_tune(
    start: Affine,
    z: Float[ArrayIn, "n d"],
    y: Float[ArrayIn, "n d_out"],
    held: Held,
    training: Training = FINE_TUNING,
    *,
    rows: Int[np.ndarray, " k"] | None = None,
    seed: int = 0,
    show_progress: bool = False,
) -> FineTuned:
    """Train a query layer to have the neighbors that native vectors have, as long as validation queries gain.

    Args:
        start: The closed-form layer.
        z: Features that are trained on.
        y: Native vectors of the same rows.
        held: Queries that neither the start nor the training has seen, and the native corpus that they search.
        training: Steps, batch, rate and loss.
        rows: Row numbers to train on, ascending; all rows if None. No more than a batch of them is copied.
        seed: Of the order of rows.
        show_progress: Draw a bar on stderr.
    """
    params = {"out": {"kernel": start.kernel.astype(np.float32), "bias": start.bias.astype(np.float32)}}
    module = Linear(len(start.bias), unit_norm=True)
    trained = train(module, params, z, y, held, training, rows=rows, seed=seed, show_progress=show_progress)
    scores = [score for _, score in trained.scores]
    if not trained.best:
        return FineTuned(start, 0, scores)
    out = jax.tree.map(lambda a: np.asarray(a, np.float64), trained.params["out"])
    return FineTuned(Affine(out["kernel"], out["bias"]), trained.best, scores)


def similarity_map(
    queries: Float[np.ndarray, "q d_out"], native: Float[np.ndarray, "q d_out"], corpus: Float[np.ndarray, "c d_out"]
) -> Params:
    """Monotone map from scores of query vectors to native similarities, as knots for `np.interp`.

    Isotonic least squares over each query's 50 best rows of the corpus, which is where thresholds are set.

    Source: Barlow et al. 1972; Zadrozny and Elkan 2002, for calibration.
    """
    score, truth = unit_rows(queries) @ corpus.T, native @ corpus.T
    best = np.argpartition(-score, min(50, score.shape[1] - 1), axis=1)[:, :50]
    score, truth = (np.take_along_axis(s, best, axis=1).ravel() for s in (score, truth))
    order = np.argsort(score, kind="stable")
    fitted = isotonic_regression(truth[order]).x
    at = np.linspace(0, len(order) - 1, KNOTS).astype(int)
    return {"score": score[order][at].astype(np.float32), "native": fitted[at].astype(np.float32)}
