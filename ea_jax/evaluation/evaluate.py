"""`evaluate`: compare an adapter with the alternatives on an evaluation set."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from ea_jax.adapters.adapter import Adapter
from ea_jax.errors import BadInput
from ea_jax.evaluation.bootstrap import estimate_mean, estimate_quantiles, mean_difference
from ea_jax.evaluation.calibration import (
    forecast_columns,
    quality_metrics,
    reliability_diagram,
    routing_curve,
    threshold_table,
)
from ea_jax.evaluation.dataset import EvaluationSet, check_evaluation_set, content_digest
from ea_jax.evaluation.examples import pick_examples, project
from ea_jax.evaluation.ranking import find_ground_truth, rank, rerank
from ea_jax.evaluation.report import Report
from ea_jax.evaluation.results import AdapterFacts, CosineDistribution, DataFacts, Estimates, ProtocolFacts, Values
from ea_jax.evaluation.slices import score_slices
from ea_jax.quality.scores import Quality
from ea_jax.retrieval.metrics import cosines, first_equal
from ea_jax.retrieval.search import search

Protocol = Literal["agreement", "qa"]
Vectors = Float[np.ndarray, "_ _"]
HISTOGRAM_BINS, MIN_HISTOGRAM_WIDTH = 30, 1e-3
QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
SHORTLIST = 100  # results of the adapter that the source model orders again
ADAPTER_CONDITIONS = ("adapter", "adapter_store", "adapter_to_adapter")
MEASURES = {
    "agreement": (
        "The true neighbor of a query is the corpus row that the target model itself ranks first. recall@k is the "
        "share of queries whose true neighbor is in the top k. It measures agreement with the target model, not "
        "whether the results are useful."
    ),
    "qa": (
        "Each query is a question, and the corpus rows that are relevant to it are its answers. success@k is the share "
        "of questions with an answer in the top k, over all questions and over those whose confidence reaches a "
        "threshold. Native and source rows are over the same questions."
    ),
}


def evaluate(
    store: Adapter,
    evaluation_set: EvaluationSet,
    *,
    query: Adapter | None = None,
    quality: Quality | None = None,
    protocol: Protocol = "agreement",
    seed: int = 0,
    notes: Sequence[str] = (),
) -> Report:
    """Evaluate an adapter on queries and a corpus.

    Args:
        store: The adapter for stored vectors (`purpose="store"`).
        evaluation_set: Queries, corpus and, optionally, relevance judgments.
        query: The adapter for queries (`purpose="query"`); `store` if None.
        quality: The quality part of the adapter; if None, the report has no sections on confidence.
        protocol: `agreement` with the target model, or `qa`, which needs relevance judgments.
        seed: Seed of all random sampling.
        notes: Sentences to add to the report, such as how the evaluation set was made.

    Returns:
        A report in which every metric has a 95 % interval.

    Raises:
        BadInput: The evaluation set does not fit the adapter, or lacks data that the protocol needs.
    """
    if protocol not in MEASURES:
        raise BadInput(f"protocol is {protocol!r}; it must be one of {', '.join(MEASURES)}.")
    if (protocol == "qa" and not evaluation_set.relevant) or (protocol == "agreement" and evaluation_set.y is None):
        missing = "judgments (which rows answer a query)" if protocol == "qa" else "native vectors of the queries"
        raise BadInput(f"The protocol {protocol} needs {missing}. Give them, or choose the other protocol.")
    check_evaluation_set(evaluation_set, store.spec)
    query = query or store
    x, corpus = np.asarray(evaluation_set.x, np.float32), np.asarray(evaluation_set.corpus_y, np.float32)
    y, corpus_x = _as_float32(evaluation_set.y), _as_float32(evaluation_set.corpus_x)
    queried, stored = (np.asarray(adapter(adapter.params, x)) for adapter in (query, store))
    adapted_corpus = None if corpus_x is None else np.asarray(store(store.params, corpus_x))
    distinct = first_equal(corpus)
    truth = find_ground_truth(y, corpus, distinct, evaluation_set.relevant, seed)
    conditions = _conditions(x, y, corpus_x, corpus, queried, stored, adapted_corpus)
    rankings = {name: rank(*vectors, truth) for name, vectors in conditions.items()}
    if corpus_x is not None:
        shortlist = search(queried, corpus, min(SHORTLIST, len(corpus))).row
        rankings["two_stages"] = rank(x, corpus_x, truth, rerank(x, corpus_x, shortlist))
    values = {name: ranking.metrics for name, ranking in rankings.items()}
    metric = "success" if protocol == "qa" else "recall"
    score = values["adapter"][f"{metric}@10"]
    cosine = None if y is None else cosines(stored, y)
    forecast = {} if quality is None else forecast_columns(quality(quality.params, x), score, cosine)
    equal_rows = int((distinct != np.arange(len(distinct))).sum())
    if equal_rows:
        note = f"{equal_rows:,} corpus rows have the same native vector as an earlier row; either counts as a hit."
        notes = [*notes, note]
    return Report(
        adapter=AdapterFacts(store.spec.source, store.spec.target, store.spec.family),
        protocol=ProtocolFacts(protocol, MEASURES[protocol]),
        data=DataFacts(len(x), len(corpus), equal_rows, seed, content_digest(evaluation_set)),
        notes=tuple(notes),
        verdict=_verdict(values, metric, protocol),
        cosine=None if cosine is None else _distribution(cosine, seed),
        conditions={name: _estimate_means(metrics, seed) for name, metrics in values.items()},
        mixed=_mixed_index(y, queried, corpus, adapted_corpus, truth.neighbors, seed),
        slices=score_slices(evaluation_set, score, cosine, forecast.get("confidence"), seed),
        neighbors=pick_examples(evaluation_set, {name: r.rows for name, r in rankings.items()}, truth, seed),
        projection=project(y, stored, seed),
        per_query={
            **{name: values[name] for name in ADAPTER_CONDITIONS if name in values},
            "forecast": forecast,
            "vectors": {} if cosine is None else {"cosine": cosine},
        },
        measure=f"{metric}@10",
        **(_confidence_sections(forecast, values, metric, seed) if forecast else {}),
    )


def _as_float32(vectors: Vectors | None) -> Vectors | None:
    return None if vectors is None else np.asarray(vectors, np.float32)


def _estimate_means(values: Values, seed: int) -> Estimates:
    return {metric: estimate_mean(column, seed) for metric, column in values.items()}


def _confidence_sections(forecast: Values, values: Mapping[str, Values], metric: str, seed: int) -> dict[str, Any]:
    """The sections of a report that need a confidence for each query."""
    confidence, outcome = forecast["confidence"], forecast["outcome"]
    native = values["native"][f"{metric}@10"] if "native" in values else np.ones(len(confidence))
    compared = {name: values[name] for name in ("adapter", "native", "keep_source") if name in values}
    return {
        "confidence": quality_metrics(forecast, seed),
        "reliability": reliability_diagram(confidence, outcome, seed),
        "routing": routing_curve(confidence, outcome, native, seed),
        "thresholds": threshold_table(confidence, compared, metric, seed),
    }


def _conditions(
    x: Vectors,
    y: Vectors | None,
    corpus_x: Vectors | None,
    corpus: Vectors,
    queried: Vectors,
    stored: Vectors,
    adapted_corpus: Vectors | None,
) -> dict[str, tuple[Vectors, Vectors]]:
    """Condition -> query vectors and the corpus that they search."""
    conditions = {"adapter": (queried, corpus), "adapter_store": (stored, corpus)}
    if adapted_corpus is not None:
        conditions["adapter_to_adapter"] = (stored, adapted_corpus)
    if y is not None:
        conditions["native"] = (y, corpus)
    if corpus_x is not None:
        conditions["keep_source"] = (x, corpus_x)
    if x.shape[1] == corpus.shape[1]:
        conditions["naive_swap"] = (x, corpus)
    conditions["mean_vector"] = (np.repeat(corpus.mean(axis=0, keepdims=True), len(x), axis=0), corpus)
    return conditions


def _distribution(cosine: Float[np.ndarray, " n"], seed: int) -> CosineDistribution:
    limits = (cosine.min(), max(cosine.max(), cosine.min() + MIN_HISTOGRAM_WIDTH))
    counts, edges = np.histogram(cosine, HISTOGRAM_BINS, limits)
    quantiles = dict(zip(map(str, QUANTILES), estimate_quantiles(cosine, QUANTILES, seed), strict=True))
    return CosineDistribution(estimate_mean(cosine, seed), quantiles, counts, edges)


def _mixed_index(
    y: Vectors | None,
    queried: Vectors,
    corpus: Vectors,
    adapted_corpus: Vectors | None,
    neighbors: Int[np.ndarray, "n k"] | None,
    seed: int,
) -> dict[str, Estimates] | None:
    """Search an index of which a random half of the rows is adapted and the other half native.

    Returns:
        For native and for adapted queries: `adapted_share`, the fraction of adapted rows in the top ten (.5 if neither
        kind displaces the other), and `recall@10` of all queries and by the kind of the true neighbor.
    """
    if adapted_corpus is None or y is None or neighbors is None:
        return None
    is_adapted = np.zeros(len(corpus), bool)
    is_adapted[np.random.default_rng([seed, 2]).permutation(len(corpus))[: len(corpus) // 2]] = True
    index = np.where(is_adapted[:, None], adapted_corpus, corpus)
    neighbor_is_adapted = is_adapted[neighbors[:, 0]]
    results = {}
    for name, queries in {"native queries": y, "adapted queries": queried}.items():
        rows = search(queries, index, 10).row
        hit = (rows == neighbors[:, :1]).any(axis=1).astype(float)
        results[name] = {
            "adapted_share": estimate_mean(is_adapted[rows].mean(axis=1), seed),
            "recall@10": estimate_mean(hit, seed),
            "recall@10_of_native_rows": estimate_mean(hit[~neighbor_is_adapted], seed),
            "recall@10_of_adapted_rows": estimate_mean(hit[neighbor_is_adapted], seed),
        }
    return results


def _verdict(values: Mapping[str, Values], metric: str, protocol: str) -> str:
    """State the score of the adapter, and whether keeping the source model would be better."""
    adapter = values["adapter"][f"{metric}@10"]
    estimate = estimate_mean(adapter)
    target = "an answer" if protocol == "qa" else "the true neighbor"
    sentence = f"The adapter returns {target} in its top ten for {estimate.value:.1%} of queries"
    sentence += f" ({estimate.low:.1%} to {estimate.high:.1%})"
    if protocol == "qa" and "native" in values:
        sentence += f", the target model itself for {estimate_mean(values['native'][f'{metric}@10']).value:.1%}"
    if "keep_source" not in values:
        return f"{sentence}; keeping the source model was not evaluated: the corpus has no source vectors."
    keep_source = values["keep_source"][f"{metric}@10"]
    difference = mean_difference(keep_source, adapter)
    alternative = f"keeping the source model for queries and corpus ({estimate_mean(keep_source).value:.1%})"
    if difference.low > 0:
        return f"{sentence}: better than {alternative}."
    if difference.high < 0:
        return f"{sentence}: worse than {alternative}. Use the adapter only if you cannot re-embed the corpus."
    return f"{sentence}: no clear difference from {alternative}."
