"""What one condition finds: queries against a corpus, a value a query for each figure."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

from ea_jax.evaluation.dataset import Qrels
from ea_jax.retrieval.metrics import KS, recalls
from ea_jax.retrieval.search import search

DEPTH, SAMPLE = 100, 500
Values = dict[str, np.ndarray]


class Truth(NamedTuple):
    """What is right.

    Attributes:
        same: Of each corpus row, the first row with an equal native vector.
        native: First ten rows of the native queries; None without those.
        relevant: Judgments, or None.
        scores: Native scores of the sampled corpus rows, or None.
        sample: Which rows those are.
    """

    same: Int[np.ndarray, " m"]
    native: Int[np.ndarray, "n k"] | None
    relevant: Qrels | None
    scores: Float[np.ndarray, "n s"] | None
    sample: Int[np.ndarray, " s"]


def truth_of(y, corpus_y, same, relevant: Qrels | None, seed: int) -> Truth:
    """What native queries find, and their scores of corpus rows drawn at random."""
    drawn = np.sort(np.random.default_rng([seed, 1]).permutation(len(corpus_y))[:SAMPLE])
    if y is None:
        return Truth(same, None, relevant, None, drawn)
    return Truth(same, search(y, corpus_y, 10).row, relevant, y @ corpus_y[drawn].T, drawn)


def figures_of(queries, corpus, truth: Truth) -> tuple[Values, Int[np.ndarray, "n k"]]:
    """Each figure's value of every query, and the rows found. Equal native vectors count as one.

    Returns:
        `recall@k` (the native top hit is among the first k), `overlap@k` (share of the native first k found),
        `rank_correlation` (Spearman's, of scores over sampled rows), `equal@10` (a hit that is an equal row and not the
        row itself); with judgments `ndcg@10`, `mrr` (of the first 100), `judged_recall@k` (share of relevant rows) and
        `found@k` (any relevant row), nan for queries without relevant rows.
    """
    depth = min(DEPTH if truth.relevant else 10, len(corpus))
    rows = search(queries, corpus, depth).row
    values: Values = {}
    if truth.native is not None and truth.scores is not None:
        kinds, native = truth.same[rows[:, :10]], truth.same[truth.native]
        values |= recalls(rows[:, :10], truth.native[:, 0], truth.same)
        for k in KS:
            shared = (kinds[:, :k, None] == native[:, None, :k]).any(axis=2)
            values[f"overlap@{k}"] = shared.mean(axis=1)
        values["rank_correlation"] = correlations(queries @ corpus[truth.sample].T, truth.scores)
        itself = (rows[:, :10] == truth.native[:, :1]).any(axis=1)
        values["equal@10"] = values["recall@10"] * ~itself
    if truth.relevant:
        values |= judged(rows, truth.relevant, truth.same)
    return values, rows[:, :10]


def correlations(a: Float[np.ndarray, "n s"], b: Float[np.ndarray, "n s"]) -> Float[np.ndarray, " n"]:
    """Spearman's correlation of each row of a with that of b; 0 with a constant."""
    p, q = (rankdata(v, axis=1) - (v.shape[1] + 1) / 2 for v in (a, b))
    spread = np.sqrt((p * p).sum(axis=1) * (q * q).sum(axis=1))
    return (p * q).sum(axis=1) / np.where(spread > 0, spread, 1)


def judged(rows: Int[np.ndarray, "n k"], relevant: Qrels, same: Int[np.ndarray, " m"]) -> Values:
    """Figures with human judgments. A row that equals a relevant one is relevant, and counts once.

    Source: Järvelin and Kekäläinen 2002 (nDCG, the grade as gain); Voorhees 1999 (MRR).
    """
    names = ["ndcg@10", "mrr", *(f"{kind}@{k}" for k in KS for kind in ("judged_recall", "found"))]
    values = {name: np.full(len(rows), np.nan) for name in names}
    discount = 1 / np.log2(np.arange(rows.shape[1]) + 2)
    for query, grades in relevant.items():
        grade: dict[int, float] = {}
        for row, value in grades.items():
            if value > 0:
                grade[int(same[row])] = max(value, grade.get(int(same[row]), 0.0))
        if not grade:
            continue
        kinds = same[rows[query]]
        first = np.zeros(len(kinds), bool)
        first[np.unique(kinds, return_index=True)[1]] = True
        gains = np.asarray([grade.get(int(kind), 0.0) for kind in kinds]) * first
        ideal = np.sort(list(grade.values()))[::-1][:10]
        values["ndcg@10"][query] = (gains[:10] * discount[:10]).sum() / (ideal * discount[: len(ideal)]).sum()
        values["mrr"][query] = 1 / (1 + (gains > 0).argmax()) if (gains > 0).any() else 0.0
        for k in KS:
            values[f"judged_recall@{k}"][query] = (gains[:k] > 0).sum() / len(grade)
            values[f"found@{k}"][query] = float((gains[:k] > 0).any())
    return values
