"""Example queries with their results, and a projection of the query vectors to two dimensions."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from ea_jax.evaluation.dataset import EvaluationSet
from ea_jax.evaluation.ranking import GroundTruth
from ea_jax.evaluation.results import Example, Neighbor, Projection

EXAMPLES, RESULTS = 8, 5
MAX_POINTS = 400
MAX_CHARACTERS = 160


def pick_examples(
    evaluation_set: EvaluationSet, rows: Mapping[str, Int[np.ndarray, "n k"]], truth: GroundTruth, seed: int
) -> list[Example]:
    """Pick random queries, and list the first results of their native and adapted vectors.

    Args:
        evaluation_set: Queries and corpus; without texts, rows are called by their numbers.
        rows: Condition -> result rows of each query. Without the condition `native` there are no examples.
        truth: Which corpus rows are equal.
        seed: Seed of the random choice.
    """
    if "native" not in rows:
        return []

    def neighbors(results: Int[np.ndarray, " k"], others: Int[np.ndarray, " k"]) -> list[Neighbor]:
        both = np.isin(truth.first_equal[results], truth.first_equal[others])
        return [
            Neighbor(row, _label("row", row, evaluation_set.corpus_text), in_both)
            for row, in_both in zip(results.tolist(), both.tolist(), strict=True)
        ]

    queries = np.sort(np.random.default_rng([seed, 3]).permutation(len(evaluation_set.x))[:EXAMPLES])
    examples = []
    for query in queries.tolist():
        native, adapter = (rows[name][query][:RESULTS] for name in ("native", "adapter"))
        label = _label("query", query, evaluation_set.text)
        examples.append(Example(label, neighbors(native, adapter), neighbors(adapter, native)))
    return examples


def project(
    y: Float[np.ndarray, "n d_out"] | None, stored: Float[np.ndarray, "n d_out"], seed: int
) -> Projection | None:
    """Project native vectors and `store` outputs of some queries on two principal components of the native ones."""
    if y is None or len(y) < 3:
        return None
    rows = np.random.default_rng([seed, 4]).permutation(len(y))[:MAX_POINTS]
    mean = y[rows].mean(axis=0, keepdims=True)
    _, singular, directions = np.linalg.svd(y[rows] - mean, full_matrices=False)
    native, adapted = (np.round((side[rows] - mean) @ directions[:2].T, 4) for side in (y, stored))
    explained = (singular[:2] ** 2).sum() / max((singular**2).sum(), 1e-12)
    return Projection(float(explained), native, adapted)


def _label(kind: str, number: int, texts: Sequence[str] | None) -> str:
    """The text on one line, cut to a limit; its number if there are no texts."""
    if texts is None:
        return f"{kind} {number}"
    text = " ".join(texts[number].split())
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"
