"""Metrics of query vectors that search a corpus, one value per query."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

from ea_jax.evaluation.dataset import Qrels
from ea_jax.retrieval.metrics import KS, recalls
from ea_jax.retrieval.search import search

DEPTH, SAMPLE = 100, 500  # results per query if there are judgments; corpus rows for the rank correlation
TOP = 10


class GroundTruth(NamedTuple):
    """The results that queries should return.

    Attributes:
        first_equal: For each corpus row, the first row with an equal native vector.
        neighbors: The first ten rows of the native queries, the true neighbor first; None without native queries.
        relevant: Relevance judgments, if any.
        sample: Random corpus rows for the rank correlation.
        sample_scores: Native scores of these rows; None without native queries.
    """

    first_equal: Int[np.ndarray, " m"]
    neighbors: Int[np.ndarray, "n k"] | None
    relevant: Qrels | None
    sample: Int[np.ndarray, " s"]
    sample_scores: Float[np.ndarray, "n s"] | None


class Ranking(NamedTuple):
    """Metrics of each query by name, and its first ten corpus rows."""

    metrics: dict[str, Float[np.ndarray, " n"]]
    rows: Int[np.ndarray, "n k"]


def find_ground_truth(
    y: Float[np.ndarray, "n d_out"] | None,
    corpus_y: Float[np.ndarray, "m d_out"],
    first_equal: Int[np.ndarray, " m"],
    relevant: Qrels | None,
    seed: int,
) -> GroundTruth:
    """Search the native corpus with the native queries, and score a random sample of its rows."""
    sample = np.sort(np.random.default_rng([seed, 1]).permutation(len(corpus_y))[:SAMPLE])
    if y is None:
        return GroundTruth(first_equal, None, relevant, sample, None)
    return GroundTruth(first_equal, search(y, corpus_y, TOP).row, relevant, sample, y @ corpus_y[sample].T)


def rerank(
    queries: Float[np.ndarray, "n d"],
    corpus: Float[np.ndarray, "m d"],
    rows: Int[np.ndarray, "n k"],
) -> Int[np.ndarray, "n k"]:
    """Order each query's results by its inner products with other vectors of the corpus, the largest first."""
    ordered = np.empty_like(rows)
    for i, (query, results) in enumerate(zip(queries, rows, strict=True)):
        ordered[i] = results[np.argsort(-(corpus[results] @ query), kind="stable")]
    return ordered


def rank(
    queries: Float[np.ndarray, "n d"],
    corpus: Float[np.ndarray, "m d"],
    truth: GroundTruth,
    rows: Int[np.ndarray, "n k"] | None = None,
) -> Ranking:
    """Search a corpus and compare the results with the ground truth. Rows with equal native vectors count as one.

    Args:
        queries: Query vectors.
        corpus: Vectors that they search.
        truth: The results that they should return.
        rows: Results of the queries, the best first, if they are not those of a search.

    Metrics, larger is better:
        recall@k: 1 if the true neighbor is in the top k.
        overlap@k: Fraction of the native top k that is in the top k.
        rank_correlation: Spearman correlation with the native scores of the sampled rows.
        equal@10: 1 if the true neighbor itself is not in the top ten, but a row with an equal vector is. It shows
            how hits were counted, and is neither good nor bad.

    With relevance judgments, also those of `relevance_metrics`.
    """
    if rows is None:
        rows = search(queries, corpus, min(DEPTH if truth.relevant else TOP, len(corpus))).row
    top, metrics = rows[:, :TOP], {}
    if truth.neighbors is not None and truth.sample_scores is not None:
        metrics |= recalls(top, truth.neighbors[:, 0], truth.first_equal)
        distinct, native = truth.first_equal[top], truth.first_equal[truth.neighbors]
        for k in KS:
            shared = (distinct[:, :k, None] == native[:, None, :k]).any(axis=2)
            metrics[f"overlap@{k}"] = shared.mean(axis=1)
        metrics["rank_correlation"] = correlations(queries @ corpus[truth.sample].T, truth.sample_scores)
        exact = (top == truth.neighbors[:, :1]).any(axis=1)
        metrics["equal@10"] = metrics["recall@10"] * ~exact
    if truth.relevant:
        metrics |= relevance_metrics(rows, truth.relevant, truth.first_equal)
    return Ranking(metrics, top)


def correlations(a: Float[np.ndarray, "n s"], b: Float[np.ndarray, "n s"]) -> Float[np.ndarray, " n"]:
    """Compute Spearman's correlation between each row of a and that of b; 0 if one is constant."""
    p, q = (rankdata(rows, axis=1) - (rows.shape[1] + 1) / 2 for rows in (a, b))
    scale = np.sqrt((p * p).sum(axis=1) * (q * q).sum(axis=1))
    return (p * q).sum(axis=1) / np.where(scale > 0, scale, 1)


def relevance_metrics(
    rows: Int[np.ndarray, "n k"], relevant: Qrels, first_equal: Int[np.ndarray, " m"]
) -> dict[str, Float[np.ndarray, " n"]]:
    """Compute metrics by relevance judgments; NaN for queries without relevant rows.

    A row that equals a relevant one is relevant, and equal rows count once.

    Metrics, larger is better:
        ndcg@10: Normalized discounted cumulative gain, with the grade as gain.
        mrr: Reciprocal rank of the first relevant row, 0 if none is among the results.
        relevant_recall@k: Fraction of the relevant rows that is in the top k.
        success@k: 1 if the top k contain a relevant row.

    Source: Järvelin and Kekäläinen 2002 (nDCG); Voorhees 1999 (MRR).
    """
    names = ["ndcg@10", "mrr", *(f"{name}@{k}" for k in KS for name in ("relevant_recall", "success"))]
    metrics = {name: np.full(len(rows), np.nan) for name in names}
    discount = 1 / np.log2(np.arange(rows.shape[1]) + 2)
    for query, judgments in relevant.items():
        grades: dict[int, float] = {}
        for row, grade in judgments.items():
            if grade > 0:
                distinct = int(first_equal[row])
                grades[distinct] = max(grade, grades.get(distinct, 0.0))
        if not grades:
            continue
        results = first_equal[rows[query]]
        is_first = np.zeros(len(results), bool)
        is_first[np.unique(results, return_index=True)[1]] = True
        gains = np.asarray([grades.get(int(row), 0.0) for row in results]) * is_first
        ideal = np.sort(list(grades.values()))[::-1][:10]
        metrics["ndcg@10"][query] = (gains[:10] * discount[:10]).sum() / (ideal * discount[: len(ideal)]).sum()
        metrics["mrr"][query] = 1 / (1 + (gains > 0).argmax()) if (gains > 0).any() else 0.0
        for k in KS:
            metrics[f"relevant_recall@{k}"][query] = (gains[:k] > 0).sum() / len(grades)
            metrics[f"success@{k}"][query] = float((gains[:k] > 0).any())
    return metrics
