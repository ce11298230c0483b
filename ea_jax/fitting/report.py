"""Metrics of a fit on held-out queries, and their summary in a sentence."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ea_jax.fitting.features import Features
from ea_jax.fitting.output_layers import CORPUS, OutputLayers, as_float32
from ea_jax.fitting.query_layer import FineTuned
from ea_jax.retrieval.neighbors import TOP, rank_true_neighbors, unit_rows
from ea_jax.typing import ArrayIn


def verdict(report: dict[str, Any], source: str) -> str:
    """Summarize a report in a sentence: what local queries find of what native ones find, beside a re-embedded corpus.

    Args:
        report: The report of `fit`.
        source: Name of the source model.
    """
    ours, keep = report["query"], report["keep_source"]
    source = source if report["kept"] == "source" else report["kept"]
    text = (
        f"Of {report['held_out_queries']:,} held-out queries, {ours['recall@10']:.1%} return the first result of the "
        f"native query among their first ten ({ours['recall@1']:.1%} as the first), against {keep['recall@10']:.1%} "
        f"({keep['recall@1']:.1%}) after embedding the corpus again with {source}"
    )
    error = np.hypot(ours["standard_error"], keep["standard_error"])
    difference = ours["reciprocal_rank"] - keep["reciprocal_rank"]
    if difference > error:
        return f"{text}: the adapter ranks better."
    if difference < -error:
        return f"{text}: embedding it again ranks better."
    return f"{text}: they differ by less than the sampling error."


def measure_held_out(
    features: Features,
    x: Float[ArrayIn, "n d_in"],
    y: Float[ArrayIn, "n d_out"],
    blocks: Mapping[str, slice],
    layers: OutputLayers,
    tuned: FineTuned,
    validation: Int[np.ndarray, " v"],
    seed: int,
) -> dict[str, Any]:
    """Measure held-out queries that search the pairs, with the adapter and with the best of the source embeddings.

    Args:
        features: Features of the pairs.
        x: Source embeddings of the pairs.
        y: Target embeddings of the pairs.
        blocks: Columns of x that are embeddings on their own, by name.
        layers: Output layers with their out-of-fold outputs.
        tuned: The fine-tuned query layer. With zero steps, the out-of-fold outputs are measured instead.
        validation: Row numbers of the queries that fine-tuning did not train on.
        seed: Random seed of the searched sample.
    """
    queries, outputs = layers.rows[: len(layers.query_outputs)], layers.query_outputs
    if tuned.steps:
        queries, outputs = validation, tuned.layer.apply(as_float32(features.z[validation]))
    rows = np.sort(np.random.default_rng([seed, 4]).permutation(len(x))[:CORPUS])
    corpus, native = unit_rows(y[rows]), unit_rows(y[queries])
    ours = rank_true_neighbors(unit_rows(outputs), native, corpus).rank
    sources = {"source": slice(None), **blocks}
    keep = {
        name: rank_true_neighbors(unit_rows(x[queries][:, part]), native, corpus, unit_rows(x[rows][:, part])).rank
        for name, part in sources.items()
    }
    kept = max(keep, key=lambda name: float(np.mean(1 / keep[name])))
    true = unit_rows(y[layers.rows])
    mean = unit_rows(true.mean(axis=0)[None])[0]
    return {
        "held_out_queries": len(queries),
        "query": _recalls(ours),
        "keep_source": _recalls(keep[kept]),
        "kept": kept,
        "store": {
            "cosine": round(float(np.mean(np.sum(unit_rows(layers.store_outputs) * true, axis=1))), 4),
            "cosine_of_mean_vector": round(float(np.mean(true @ mean)), 4),
        },
    }


def _recalls(ranks: Int[np.ndarray, " q"]) -> dict[str, float]:
    metrics = {f"recall@{k}": float(np.mean(ranks <= k)) for k in (1, TOP)}
    metrics |= {"reciprocal_rank": float(np.mean(1 / ranks))}
    metrics |= {"standard_error": float(np.std(1 / ranks) / np.sqrt(len(ranks)))}
    return {name: round(value, 4) for name, value in metrics.items()}
