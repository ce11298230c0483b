"""Judge maps on test pairs: cosine to the native vectors, and recall of the native top hit in a native corpus."""

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


def held_out_metrics(
    test: HeldOut,
    outputs: Mapping[str, Float[np.ndarray, "n d_out"]],
    blocks: Mapping[str, slice] | None = None,
) -> dict[str, dict[str, float]]:
    """Figures of each map on one test set, and of keeping the source model on both sides.

    Args:
        test: Queries and corpus.
        outputs: By name, what a map makes of `test.x`.
        blocks: Columns of x that are embeddings of their own, by name: keeping one of them, `keep_NAME`, may be better
            than keeping the whole.

    Returns:
        By name: `cosine`, the mean cosine to the native query vectors, and `recall@k`, the share of queries whose
        native top hit is among the first k when they rank the native corpus. `keep_source` ranks the corpus of source
        embeddings by source queries, against the same native truth, and has no cosine. Rows of the corpus with equal
        native vectors count as one. These are the functions of `ea_jax.evaluation`, without its intervals.
    """
    same, native = first_equal(test.corpus_y), search(test.y, test.corpus_y, 1).row[:, 0]

    def hits_of(queries, corpus) -> dict[str, float]:
        found = recalls(search(queries, corpus, max(KS)).row, native, same)
        return {name: _mean(values) for name, values in found.items()}

    figures = {
        name: {"cosine": _mean(cosines(out, test.y)), **hits_of(out, test.corpus_y)} for name, out in outputs.items()
    }
    for name, part in (blocks or {}).items():
        figures[f"keep_{name}"] = hits_of(unit(test.x[:, part]), unit(test.corpus_x[:, part]))
    return figures | {KEEP_SOURCE: hits_of(test.x, test.corpus_x)}


def _mean(values: Float[np.ndarray, " n"]) -> float:
    return round(float(values.mean()), 4)
