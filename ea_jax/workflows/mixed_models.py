"""Detect vectors of two models in one index, from the vectors alone.

Two models of one width have unrelated axes: nearest neighbors belong to the same model, and the covariances of the two
parts are unrelated. Two topics of one model are separated in the neighbor graph as well, but their covariances agree.
So the sample is split where its neighbor graph is sparse, and the covariances and means of both sides are compared.
Models that share a space, such as a model and its fine-tune, cannot be distinguished.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import eigh

NEIGHBORS = 10
MIN_ROWS = 25  # of the smaller side, to estimate a covariance
CUTS = 4  # candidates: some cuts separate topics, not models
# Measured on vectors of 13 models. Two models: alignment at most .005, cosine of the means at most .10. Two datasets of
# one model: alignment at least .05, except 30 texts of one template: alignment 0, cosine of the means .8.
MIN_ALIGNMENT = 0.02
MIN_MEAN_COSINE = 0.2


class Populations(NamedTuple):
    """A sample, split into two sides.

    Attributes:
        second: Mask of the smaller side.
        alignment: Agreement of the two covariances: 1 if proportional, 0 if as unrelated as those of two models.
        mean_cosine: Cosine between the means of the two sides.
        mixed: Whether both are so low that two models must have made the rows.
    """

    second: Bool[np.ndarray, " n"]
    alignment: float
    mean_cosine: float
    mixed: bool


def find_populations(vectors: Float[np.ndarray, "n d"]) -> Populations | None:
    """Split a sample where its neighbor graph is sparse, and compare the sides.

    Args:
        vectors: Random sample of 500 to 2,000 rows of an index, all finite and non-zero.

    Returns:
        The split whose sides agree least; None if there are too few rows to compare.
    """
    x = np.asarray(vectors, np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    if len(x) < 2 * MIN_ROWS:
        return None
    cuts = [side for side in _sparse_cuts(x @ x.T) if side.sum() >= MIN_ROWS]
    if not cuts:
        return None
    return min((_compare(x, side) for side in cuts), key=lambda result: (not result.mixed, result.alignment))


def _compare(x: Float[np.ndarray, "n d"], second: Bool[np.ndarray, " n"]) -> Populations:
    a, b = x[~second], x[second]
    alignment = covariance_alignment(a, b)
    means = a.mean(0), b.mean(0)
    mean_cosine = float(means[0] @ means[1] / (np.linalg.norm(means[0]) * np.linalg.norm(means[1]) + 1e-12))
    return Populations(second, alignment, mean_cosine, alignment < MIN_ALIGNMENT and mean_cosine < MIN_MEAN_COSINE)


def _sparse_cuts(similarities: Float[np.ndarray, "n n"]) -> list[Bool[np.ndarray, " n"]]:
    """Return the smaller side of each candidate: normalized cuts of the neighbor graph (Shi and Malik 2000)."""
    n = len(similarities)
    np.fill_diagonal(similarities, -np.inf)
    nearest = np.argpartition(-similarities, NEIGHBORS, axis=1)[:, :NEIGHBORS]
    graph = np.zeros((n, n))
    graph[np.arange(n)[:, None], nearest] = 1
    graph = np.maximum(graph, graph.T)
    scale = 1 / np.sqrt(graph.sum(1))
    _, vectors = eigh(scale[:, None] * graph * scale, subset_by_index=[n - 1 - CUTS, n - 1])
    sides = []
    for vector in vectors.T[:CUTS]:  # the last one is constant
        order = np.argsort(vector * scale)
        side = np.zeros(n, bool)
        side[order[: _sparsest_position(graph[np.ix_(order, order)])]] = True
        sides.append(side if side.sum() <= n / 2 else ~side)
    return sides


def _sparsest_position(graph: Float[np.ndarray, "n n"]) -> int:
    """Return the position that splits ordered rows with the lowest conductance."""
    degrees = graph.sum(1)
    within = 2 * np.cumsum(np.tril(graph, -1).sum(1))  # edge ends within the first k rows
    volume = np.cumsum(degrees)
    cut = volume - within
    conductance = cut[:-1] / np.minimum(volume[:-1], volume[-1] - volume[:-1])
    inner = conductance[MIN_ROWS - 1 : len(conductance) - MIN_ROWS + 1]
    return int(np.argmin(inner)) + MIN_ROWS if len(inner) else 0


def covariance_alignment(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """Measure the agreement of two covariances `A` and `B`, relative to that of random axes.

    With `t(A, B) = tr(A B)`, `r = t(A, B) / sqrt(t(A, A) t(B, B))` is 1 for proportional covariances, and
    `r0 = tr(A) tr(B) / d / sqrt(t(A, A) t(B, B))` is its expectation under random rotations.

    Args:
        a: Vectors of the first side.
        b: Vectors of the second side.

    Returns:
        `(r - r0) / (1 - r0)`, with `t(A, A)` and `t(B, B)` corrected for the sample sizes.
    """
    a, b = a - a.mean(0), b - b.mean(0)
    d = a.shape[1]
    traces = [float((v**2).sum() / (len(v) - 1)) for v in (a, b)]
    squares = []
    for v, trace in zip((a, b), traces, strict=True):
        gram = v @ v.T / (len(v) - 1)
        squares.append(max(float((gram**2).sum()) - trace**2 / (len(v) - 1), 1e-12))
    cross = float(((a @ b.T) ** 2).sum()) / ((len(a) - 1) * (len(b) - 1))
    norm = float(np.sqrt(squares[0] * squares[1]))
    r, r0 = cross / norm, traces[0] * traces[1] / d / norm
    return (r - r0) / max(1 - r0, 1e-6)
