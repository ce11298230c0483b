"""Judge maps on test pairs: cosine to the native vectors, and recall of the native top hit in a native corpus."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ea_jax.metrics import mean_cosine, rank_of, recall_at, top_hit
from ea_jax.ops import unit

KS = (1, 5, 10)
KEEP_SOURCE = "keep_source"


@dataclass(frozen=True)
class HeldOut:
    """Queries with their native vectors, and a corpus in both spaces.

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


def held_out_figures(test: HeldOut, outputs: Mapping[str, Float[np.ndarray, "n d_out"]]) -> dict[str, dict[str, float]]:
    """Figures of each map on one test set, and of keeping the source model on both sides.

    Args:
        test: Queries and corpus.
        outputs: By name, what a map makes of `test.x`.

    Returns:
        By name: `cosine`, the mean cosine to the native query vectors, and `recall@k`, the share of queries whose
        native top hit is among the first k when they rank the native corpus. `keep_source` ranks the corpus of source
        embeddings by source queries, against the same native truth, and has no cosine.
    """
    hit = top_hit(test.y, test.corpus_y)
    figures = {
        name: {"cosine": _rounded(mean_cosine(unit(out), test.y)), **_recall(out, test.corpus_y, hit)}
        for name, out in outputs.items()
    }
    return figures | {KEEP_SOURCE: _recall(test.x, test.corpus_x, hit)}


def _recall(queries, corpus, hit) -> dict[str, float]:
    rank = rank_of(queries, corpus, hit)
    return {f"recall@{k}": _rounded(recall_at(rank, k)) for k in KS}


def _rounded(value) -> float:
    return round(float(value), 4)
