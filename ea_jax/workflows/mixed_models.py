"""Whether vectors of two models lie in one index, seen from the vectors alone.

Two models of one width use unrelated axes, so neighbors are always of the same model, and what varies among the rows of
one has no relation to what varies among those of the other. Two topics of one model differ in the first respect
only. So the sample is cut where its neighbor graph is thin, and the covariances and means of both sides are compared.
Models that share a space, such as a model and its fine-tune, are not told apart.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import eigh

NEIGHBORS = 10
LEAST = 25  # rows of the smaller side: fewer say nothing of a covariance
CUTS = 4  # an index has thin places between its topics, too
# Real vectors of 13 models. Two models: alignment at most .005, cosine of the means at most .10. Two sources of one
# model: alignment at least .05, but about 0 for 30 rows of one template, whose mean had a cosine of .8.
ALIGNED = 0.02
SAME_MEAN = 0.2


class Populations(NamedTuple):
    """A sample cut in two.

    Attributes:
        second: Which rows lie on the smaller side.
        alignment: How much the covariances of the sides agree: 1 as of one cloud, 0 as of unrelated models.
        mean_cosine: Cosine of the means of the sides.
        mixed: Whether both are so low that two models must have made the rows.
    """

    second: Bool[np.ndarray, " n"]
    alignment: float
    mean_cosine: float
    mixed: bool


def find_populations(vectors: Float[np.ndarray, "n d"]) -> Populations | None:
    """Cut a sample where its neighbor graph is thin, and compare the sides.

    Args:
        vectors: Some 500 to 2,000 rows of an index, drawn at random; finite and not zero.

    Returns:
        The cut whose sides agree least; None if a side has too few rows to be judged.
    """
    x = np.asarray(vectors, np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    if len(x) < 2 * LEAST:
        return None
    cuts = [side for side in _thin_cuts(x @ x.T) if side.sum() >= LEAST]
    if not cuts:
        return None
    return min((_compare(x, side) for side in cuts), key=lambda found: (not found.mixed, found.alignment))


def _compare(x: Float[np.ndarray, "n d"], second: Bool[np.ndarray, " n"]) -> Populations:
    a, b = x[~second], x[second]
    alignment = covariance_alignment(a, b)
    means = a.mean(0), b.mean(0)
    mean_cosine = float(means[0] @ means[1] / (np.linalg.norm(means[0]) * np.linalg.norm(means[1]) + 1e-12))
    return Populations(second, alignment, mean_cosine, alignment < ALIGNED and mean_cosine < SAME_MEAN)


def _thin_cuts(similarities: Float[np.ndarray, "n n"]) -> list[Bool[np.ndarray, " n"]]:
    """The smaller sides of some normalized cuts of the neighbor graph (Shi and Malik 2000)."""
    n = len(similarities)
    np.fill_diagonal(similarities, -np.inf)
    nearest = np.argpartition(-similarities, NEIGHBORS, axis=1)[:, :NEIGHBORS]
    graph = np.zeros((n, n))
    graph[np.arange(n)[:, None], nearest] = 1
    graph = np.maximum(graph, graph.T)
    scale = 1 / np.sqrt(graph.sum(1))
    _, vectors = eigh(scale[:, None] * graph * scale, subset_by_index=[n - 1 - CUTS, n - 1])
    sides = []
    for vector in vectors.T[:CUTS]:  # the last one tells nothing apart
        order = np.argsort(vector * scale)
        side = np.zeros(n, bool)
        side[order[: _thinnest_place(graph[np.ix_(order, order)])]] = True
        sides.append(side if side.sum() <= n / 2 else ~side)
    return sides


def _thinnest_place(graph: Float[np.ndarray, "n n"]) -> int:
    """Where to cut ordered rows so that the fewest edges are cut for the edges of the smaller side."""
    degrees = graph.sum(1)
    within = 2 * np.cumsum(np.tril(graph, -1).sum(1))  # edge ends between the first k rows
    volume = np.cumsum(degrees)
    cut = volume - within
    conductance = cut[:-1] / np.minimum(volume[:-1], volume[-1] - volume[:-1])
    inner = conductance[LEAST - 1 : len(conductance) - LEAST + 1]
    return int(np.argmin(inner)) + LEAST if len(inner) else 0


def covariance_alignment(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """How much of the agreement of two covariances is left beside that of random axes.

    With `t(A, B) = tr(A B)`, `r = t(A, B) / sqrt(t(A, A) t(B, B))` is 1 for proportional covariances, and
    `r0 = tr(A) tr(B) / d / sqrt(t(A, A) t(B, B))` is what randomly rotated ones have; returned is
    `(r - r0) / (1 - r0)`. The squared norms are corrected for the samples' sizes.
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
