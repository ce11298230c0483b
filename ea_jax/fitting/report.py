"""Figures of a fit on held-out queries, and what they say."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ea_jax.fitting.features import Features
from ea_jax.fitting.output_layers import CORPUS, Solution, as_float32
from ea_jax.fitting.query_layer import FineTuned
from ea_jax.retrieval.neighbors import TOP, rank_true_neighbors, unit_rows
from ea_jax.typing import ArrayIn


def verdict(report: dict[str, Any], source: str) -> str:
    """A sentence: recall of local queries, recall of keeping the source model, and which of them is better."""
    ours, keep, n = report["query"], report["keep_source"], report["held_out_queries"]
    source = source if report["kept"] == "source" else report["kept"]
    found = f"{ours['recall@10']:.1%} of {n:,} held-out queries find their true neighbor among the first ten"
    beside = (
        f"({ours['recall@1']:.1%} first); with {source} on both sides, {keep['recall@10']:.1%} ({keep['recall@1']:.1%})"
    )
    error = np.hypot(ours["standard_error"], keep["standard_error"])
    difference = ours["reciprocal_rank"] - keep["reciprocal_rank"]
    if difference > error:
        return f"{found} {beside}. The adapter is better."
    if difference < -error:
        return f"{found} {beside}. Embedding the corpus again with {source} would rank better."
    return f"{found} {beside}. They differ by less than the sampling error."


def measure_held_out(
    features: Features,
    x: Float[ArrayIn, "n d_in"],
    y: Float[ArrayIn, "n d_out"],
    blocks: Mapping[str, slice],
    solution: Solution,
    tuned: FineTuned,
    validation: Int[np.ndarray, " v"],
    seed: int,
) -> dict[str, Any]:
    """Figures of held-out queries that search the pairs, by the adapter and by the best of the source embeddings."""
    rows = solution.rows[: len(solution.asked)]
    asked, outputs = rows, solution.asked
    if tuned.steps:
        asked, outputs = validation, tuned.layer.apply(as_float32(features.z[validation]))
    searched = np.sort(np.random.default_rng([seed, 4]).permutation(len(x))[:CORPUS])
    corpus, native = unit_rows(y[searched]), unit_rows(y[asked])
    ours = rank_true_neighbors(unit_rows(outputs), native, corpus).rank
    sources = {"source": slice(None), **blocks}
    keep = {
        name: rank_true_neighbors(unit_rows(x[asked][:, part]), native, corpus, unit_rows(x[searched][:, part])).rank
        for name, part in sources.items()
    }
    kept = max(keep, key=lambda name: float(np.mean(1 / keep[name])))
    truth = unit_rows(y[solution.rows])
    mean = unit_rows(truth.mean(axis=0)[None])[0]
    return {
        "held_out_queries": len(asked),
        "query": _recalls(ours),
        "keep_source": _recalls(keep[kept]),
        "kept": kept,
        "store": {
            "cosine": round(float(np.mean(np.sum(unit_rows(solution.store) * truth, axis=1))), 4),
            "cosine_of_mean_vector": round(float(np.mean(truth @ mean)), 4),
        },
    }


def _recalls(ranks: Int[np.ndarray, " q"]) -> dict[str, float]:
    figures = {f"recall@{k}": float(np.mean(ranks <= k)) for k in (1, TOP)}
    figures |= {"reciprocal_rank": float(np.mean(1 / ranks))}
    figures |= {"standard_error": float(np.std(1 / ranks) / np.sqrt(len(ranks)))}
    return {name: round(value, 4) for name, value in figures.items()}
