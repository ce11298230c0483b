"""The last layer of an adapter for each purpose: an affine map of its features, faithful or made for ranking.

Regression shrinks towards the mean and the leading directions of the target, which makes hubs: native rows near to
every query. A query vector is therefore whitened in part, stretched about the mean, and trained to see the neighbours
that its native vector sees.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32
from scipy.optimize import isotonic_regression
from scipy.special import softmax
from scipy.stats import entropy

from ea_jax.arrays import ArrayIn, Params
from ea_jax.fitting.splits import Held
from ea_jax.losses import Terms
from ea_jax.metrics import mean_cosine, rank_of, reciprocal_rank, top_hit
from ea_jax.models import Linear
from ea_jax.ops import unit
from ea_jax.quality_store import KNOTS
from ea_jax.solve import Affine, Covariance, Spectrum, stretched, whitened, whitening
from ea_jax.train import Held as Judged
from ea_jax.train import Trained, Training, train

EXPONENTS = (0.0, 0.15, 0.3, 0.5, 0.7)
LENGTHS = (1.0, 2.0, 4.0)
POLISH = Training(
    steps=160,
    batch=2048,
    rate=1e-3,
    decay=0.0,
    warmup=0.05,
    terms=Terms(cosine=0.0, contrastive=0.5, neighbour=0.5),
    average=0.97,
    every=40,
    patience=2,
)
LEAST_BATCH, BATCHES = 512, 12  # rows of a batch at the least; in how many most sets are cut
PERPLEXITY = 10  # neighbours that weigh in a batch
TEMPERATURES = np.geomspace(1e-3, 1, 31)  # between which that of the perplexity is found
SAMPLE = 512  # rows whose perplexity is taken


class Shape(NamedTuple):
    """How query vectors are shaped: the exponent of a partial whitening, and the length of the centred part."""

    exponent: float
    length: float


PLAIN = Shape(0.3, 2.0)
FLAT = Shape(0.7, 4.0)  # where training a single matrix ends best, wherever it starts best


class Judge:
    """Held-out queries with their native top hits: judges outputs by cosine and by rank."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.hit = top_hit(held.y, held.corpus)

    def cosine(self, outputs: Float[ArrayIn, "q d_out"]) -> float:
        """Mean cosine to the native vectors; larger is better."""
        return float(mean_cosine(unit(np.asarray(outputs, np.float32)), self.held.y))

    def ranks(self, outputs: Float[ArrayIn, "q d_out"]) -> Float[np.ndarray, " q"]:
        """Reciprocal ranks of the native top hits; larger is better."""
        return 1 / np.asarray(rank_of(np.asarray(outputs, np.float32), self.held.corpus, self.hit))

    def keep_source(self) -> float:
        """The same of source embeddings that rank the corpus of source embeddings."""
        return float(reciprocal_rank(rank_of(self.held.x, self.held.corpus_x, self.hit)))


def shaped(
    outputs: Float[np.ndarray, "q d_out"], c: Covariance, flat: Float[np.ndarray, "d_out d_out"], length: float
) -> Float32[np.ndarray, "q d_out"]:
    """Faithful outputs as the query layer gives them, `flat` being its whitening; lengths are the outputs' own."""
    centred = (outputs - c.y_mean[None]).astype(np.float32) @ flat.astype(np.float32)
    factor = length * np.sqrt(np.trace(c.yy) / np.mean(np.sum(np.square(centred), axis=1)))
    return (c.y_mean[None] + factor * centred).astype(np.float32)


def query_layer(store: Affine, c: Covariance, spectrum: Spectrum, shape: Shape) -> Affine:
    """The layer for queries, out of the faithful one; c is the covariance of features and targets."""
    return stretched(whitened(store, c, spectrum, shape.exponent), c, shape.length)


def whitenings(spectrum: Spectrum) -> dict[float, Float32[np.ndarray, "d_out d_out"]]:
    """Partial whitenings of the target space by their exponent."""
    return {exponent: whitening(spectrum, exponent).astype(np.float32) for exponent in EXPONENTS}


def polished(
    start: Affine,
    features: Float[ArrayIn, "n k"],
    y: Float[ArrayIn, "n d_out"],
    judged: Judged,
    training: Training,
    *,
    seed: int,
    show_progress: bool = False,
) -> tuple[Affine, Trained]:
    """The query layer trained on who is near to whom in the target space; the start, if that ranks better.

    Args:
        start: The layer in closed form.
        features: Rows that are trained on; out of sample, as far as the features were fitted to the pairs.
        y: Their native vectors.
        judged: What judges: queries (as features), their native vectors, and a native corpus.
        training: Steps and rate; the temperature is that at which ten neighbours weigh in a batch.
        seed: Of the order of the rows.
        show_progress: Draw a bar on stderr.

    Source: van den Oord et al. 2018 and Hinton and Roweis 2002 (see `contrastive_loss` and `neighbour_loss`), in equal
    parts.
    """
    some = np.asarray(y[:: max(1, len(y) // training.batch)], np.float32)
    training = replace(training, terms=training.terms._replace(temperature=temperature_of(some)))
    module = Linear(start.kernel.shape[1], True)
    out = {"kernel": start.kernel.astype(np.float32), "bias": start.bias.astype(np.float32)}
    trained = train(module, {"out": out}, features, y, judged, training, seed=seed, show_progress=show_progress)
    if not trained.best:
        return start, trained
    kernel, bias = (np.asarray(trained.params["out"][name], np.float64) for name in ("kernel", "bias"))
    return Affine(kernel, bias), trained


def suited(training: Training, pairs: int, unfitted: float) -> Training:
    """The training with batches, and a mixing of pairs, that suit them and the corpus.

    A batch is a twelfth of the pairs, 512 rows at the least and its own number at the most: its neighbours stand for
    those in a corpus, and the larger that is, the nearer they have to be. To know its pairs by heart serves a query
    layer where they are the corpus, and harms it where that is other rows: the more are, the more pairs are mixed.

    Args:
        training: Steps and rate, and the largest batch.
        pairs: How many are fitted on.
        unfitted: Share of the native corpus that will not have been fitted on.
    """
    return replace(training, batch=min(training.batch, max(LEAST_BATCH, pairs // BATCHES)), mixup=unfitted)


def temperature_of(y: Float[np.ndarray, "n d_out"]) -> float:
    """Temperature at which the neighbours of a row, by `p_ij = softmax_j (y_i . y_j / T)`, have the wanted perplexity.

    The median over some rows of `exp(-sum_j p_ij log p_ij)`, between temperatures on a grid.

    Source: van der Maaten and Hinton 2008, JMLR 9, with one temperature for all rows.
    """
    score = y[:SAMPLE] @ y.T
    np.fill_diagonal(score, -np.inf)
    found = [np.median(np.exp(entropy(softmax(score / t, axis=1), axis=1))) for t in TEMPERATURES]
    return float(np.exp(np.interp(np.log(PERPLEXITY), np.log(found), np.log(TEMPERATURES))))


def similarity_map(
    queries: Float[np.ndarray, "q d_out"], native: Float[np.ndarray, "q d_out"], corpus: Float[np.ndarray, "c d_out"]
) -> Params:
    """Monotone map from scores of query vectors to native similarities, as knots for `np.interp`.

    Isotonic least squares over each query's 50 best rows of the corpus, which is where thresholds are set.

    Source: Barlow et al. 1972; Zadrozny and Elkan 2002, for calibration.
    """
    queries, corpus = np.asarray(unit(queries)), np.asarray(unit(corpus))
    score, truth = queries @ corpus.T, native @ corpus.T
    best = np.argsort(-score, axis=1)[:, :50]
    score, truth = (np.take_along_axis(s, best, axis=1).ravel() for s in (score, truth))
    order = np.argsort(score, kind="stable")
    fitted = isotonic_regression(truth[order]).x
    at = np.linspace(0, len(order) - 1, KNOTS).astype(int)
    return {"score": score[order][at].astype(np.float32), "native": fitted[at].astype(np.float32)}
