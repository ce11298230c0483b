"""Measure maps on held-out queries: cosine to the native vectors, and recall of the true neighbors."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ea_jax.embeddings import unit
from ea_jax.retrieval.metrics import KS, cosines, first_equal, recalls
from ea_jax.retrieval.search import search

KEEP_SOURCE = "keep_source"


@dataclass(frozen=True)
class HeldOut:
    """Held-out queries and a corpus, both in the source and in the target space.

    Attributes:
        x: Source embeddings of the queries.
        y: Native target embeddings of the queries.
        corpus_x: Source embeddings of the corpus.
        corpus_y: Native target embeddings of the corpus.
    """

    x: Float[np.ndarray, "n d_in"]
    y: Float[np.ndarray, "n d_out"]
    corpus_x: Float[np.ndarray, "m d_in"]
    corpus_y: Float[np.ndarray, "m d_out"]


def held_out_metrics(
    test: HeldOut,
    outputs: Mapping[str, Float[np.ndarray, "n d_out"]],
    blocks: Mapping[str, slice] | None = None,
) -> dict[str, dict[str, float]]:
    """Measure maps on one test set, beside keeping the source model for queries and corpus.

    Args:
        test: Queries and corpus.
        outputs: Outputs of each map for `test.x`, by the name of the map.
        blocks: Columns of x that are embeddings on their own, by name. Each is measured as `keep_NAME`.

    Returns:
        Metrics by name of the map: `cosine`, the mean cosine to the native query vectors, and `recall@k`, the fraction
        of queries with the true neighbor among the first k results in the native corpus. `keep_source` searches the
        source embeddings of the corpus with those of the queries, for the same true neighbors; it has no cosine.
        Corpus rows with equal native vectors count as one. `ea_jax.evaluation` adds confidence intervals.
    """
    same, native = first_equal(test.corpus_y), search(test.y, test.corpus_y, 1).row[:, 0]

    def mean_recalls(queries, corpus) -> dict[str, float]:
        by_query = recalls(search(queries, corpus, max(KS)).row, native, same)
        return {name: _mean(values) for name, values in by_query.items()}

    metrics = {
        name: {"cosine": _mean(cosines(out, test.y)), **mean_recalls(out, test.corpus_y)}
        for name, out in outputs.items()
    }
    for name, part in (blocks or {}).items():
        metrics[f"keep_{name}"] = mean_recalls(unit(test.x[:, part]), unit(test.corpus_x[:, part]))
    return metrics | {KEEP_SOURCE: mean_recalls(test.x, test.corpus_x)}


def _mean(values: Float[np.ndarray, " n"]) -> float:
    return round(float(values.mean()), 4)
