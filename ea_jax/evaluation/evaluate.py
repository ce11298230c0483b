"""`evaluate`: an adapter on a trial, beside what one would have without it."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ea_jax.adapters.adapter import Adapter
from ea_jax.errors import BadInput
from ea_jax.evaluation import calibration as judging
from ea_jax.evaluation.bootstrap import Figure, difference, mean_of, quantiles_of
from ea_jax.evaluation.dataset import Trial, check_trial, digest_of
from ea_jax.evaluation.examples import neighbours, projection
from ea_jax.evaluation.ranking import Values, figures_of, truth_of
from ea_jax.evaluation.report import Report
from ea_jax.evaluation.slices import slices_of
from ea_jax.quality.scores import Quality
from ea_jax.retrieval.metrics import cosines, first_equal
from ea_jax.retrieval.search import search

Protocol = Literal["agreement", "qa"]
BINS, NARROW = 30, 1e-3
QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
OURS = ("adapter", "adapter_store", "adapter_to_adapter")
MEASURES = {
    "agreement": (
        "For each query, the native top hit is the corpus row that the target model itself ranks first. recall@k is "
        "the share of queries whose native top hit is among the first k. It measures agreement with the target model, "
        "not whether what is found is useful."
    ),
    "qa": (
        "Each query is a question, and its judged corpus rows are its answers. found@k is the share of questions with "
        "an answer among the first k, over all questions and over those whose confidence reaches a threshold. Native "
        "and source rows are over the same questions."
    ),
}


def evaluate(
    store: Adapter,
    trial: Trial,
    *,
    query: Adapter | None = None,
    quality: Quality | None = None,
    protocol: Protocol = "agreement",
    seed: int = 0,
    notes: Sequence[str] = (),
) -> Report:
    """Judge an adapter on queries and a corpus.

    Args:
        store: The adapter for vectors that are kept (`purpose="store"`).
        trial: Queries, corpus, and judgments where there are any.
        query: The adapter for queries (`purpose="query"`); `store` if None.
        quality: Its quality part; without it, confidence is not judged.
        protocol: `agreement` with the target model, or `qa`, the answers of the judgments.
        seed: Of all sampling.
        notes: Sentences on how the trial was made, for the report.

    Returns:
        A report, each of whose figures has an interval.

    Raises:
        BadInput: The trial is not what the adapter and the protocol take.
    """
    if protocol not in MEASURES:
        raise BadInput(f"protocol is {protocol!r}; it must be one of {', '.join(MEASURES)}.")
    if (protocol == "qa" and not trial.relevant) or (protocol == "agreement" and trial.y is None):
        lacks = "judgments (which corpus rows answer a query)" if protocol == "qa" else "native vectors of the queries"
        raise BadInput(f"The protocol {protocol} needs {lacks}. Give them, or choose the other protocol.")
    check_trial(trial, store.spec)
    query = query or store
    x, y, corpus = (None if v is None else np.asarray(v, np.float32) for v in (trial.x, trial.y, trial.corpus_y))
    assert x is not None
    assert corpus is not None
    asked, stored = (np.asarray(a(a.params, x)) for a in (query, store))
    adapted = (
        None if trial.corpus_x is None else np.asarray(store(store.params, np.asarray(trial.corpus_x, np.float32)))
    )
    same = first_equal(corpus)
    truth = truth_of(y, corpus, same, trial.relevant, seed)
    values, rows = {}, {}
    for name, (queries, against) in _conditions(trial, x, y, corpus, asked, stored, adapted).items():
        values[name], rows[name] = figures_of(queries, against, truth)
    kind = "found" if protocol == "qa" else "recall"
    cosine = None if y is None else cosines(stored, y)
    found = values["adapter"][f"{kind}@10"]
    told: dict[str, Any] = {"measure": f"{kind}@10"}
    said, forecast = None, {}
    if quality is not None:
        forecast = judging.forecasts(quality(quality.params, x), found, cosine)
        said = forecast["confidence"]
        told |= _judged(said, found, values, kind, seed) | {"confidence": judging.confidence_figures(forecast, seed)}
    duplicates = int((same != np.arange(len(same))).sum())
    if duplicates:
        notes = [
            *notes,
            f"{duplicates:,} corpus rows have the native vector of an earlier row; finding either counts as a hit.",
        ]
    return Report(
        adapter={"source": store.spec.source, "target": store.spec.target, "family": store.spec.family},
        protocol={"name": protocol, "measures": MEASURES[protocol]},
        data={
            "queries": len(x),
            "corpus": len(corpus),
            "equal_rows": duplicates,
            "seed": seed,
            "digest": digest_of(trial),
        },
        notes=tuple(notes),
        verdict=_verdict(values, kind, protocol),
        cosine=_distribution(cosine, seed),
        conditions={n: {m: mean_of(v, seed) for m, v in columns.items()} for n, columns in values.items()},
        mixed=_mixed(y, asked, corpus, adapted, truth.native, seed),
        slices=slices_of(trial, found, cosine, said, seed),
        neighbours=neighbours(trial, rows, truth, seed),
        projection=projection(y, stored, seed),
        per_query={
            **{name: {m: v.tolist() for m, v in values[name].items()} for name in OURS if name in values},
            "forecast": {name: column.tolist() for name, column in forecast.items()},
            "vectors": {} if cosine is None else {"cosine": cosine.tolist()},
        },
        **told,
    )


def _judged(said, found, values: dict[str, Values], kind: str, seed: int) -> dict[str, Any]:
    """What follows from the confidence of each query."""
    ceiling = values["native"][f"{kind}@10"] if "native" in values else np.ones(len(said))
    beside = {name: values[name] for name in ("adapter", "native", "keep_source") if name in values}
    return {
        "reliability": judging.reliability(said, found, seed),
        "routing": judging.routing(said, found, ceiling, seed),
        "thresholds": judging.threshold_table(said, beside, kind, seed),
    }


def _conditions(trial: Trial, x, y, corpus, asked, stored, adapted) -> dict[str, tuple[Any, Any]]:
    """By name, who asks and what is searched."""
    found = {"adapter": (asked, corpus), "adapter_store": (stored, corpus)}
    if adapted is not None:
        found["adapter_to_adapter"] = (stored, adapted)
    if y is not None:
        found["native"] = (y, corpus)
    if trial.corpus_x is not None:
        found["keep_source"] = (x, np.asarray(trial.corpus_x, np.float32))
    if x.shape[1] == corpus.shape[1]:
        found["naive_swap"] = (x, corpus)
    found["mean_vector"] = (np.repeat(corpus.mean(axis=0, keepdims=True), len(x), axis=0), corpus)
    return found


def _distribution(cosine, seed: int) -> dict[str, Any] | None:
    """Cosine of `store` outputs to native vectors."""
    if cosine is None:
        return None
    counts, edges = np.histogram(cosine, BINS, (cosine.min(), max(cosine.max(), cosine.min() + NARROW)))
    quantiles = dict(zip(map(str, QUANTILES), quantiles_of(cosine, QUANTILES, seed), strict=True))
    return {
        "mean": mean_of(cosine, seed),
        "quantiles": quantiles,
        "counts": counts.tolist(),
        "edges": [float(e) for e in edges],
    }


def _mixed(y, asked, corpus, adapted, native, seed: int) -> dict[str, dict[str, Figure]] | None:
    """One index, half of whose rows are native and half adapted, drawn at random: which half is found?

    `adapted_share` of the first ten is .5 where neither kind crowds the other out.
    """
    if adapted is None or y is None or native is None:
        return None
    swapped = np.zeros(len(corpus), bool)
    swapped[np.random.default_rng([seed, 2]).permutation(len(corpus))[: len(corpus) // 2]] = True
    index, told = np.where(swapped[:, None], adapted, corpus), {}
    for name, queries in {"native queries": y, "adapted queries": asked}.items():
        rows = search(queries, index, 10).row
        hit, top = (rows == native[:, :1]).any(axis=1).astype(float), swapped[native[:, 0]]
        told[name] = {
            "adapted_share": mean_of(swapped[rows].mean(axis=1), seed),
            "recall@10": mean_of(hit, seed),
            "recall@10_of_native_rows": mean_of(hit[~top], seed),
            "recall@10_of_adapted_rows": mean_of(hit[top], seed),
        }
    return told


def _verdict(values: dict[str, Values], kind: str, protocol: str) -> str:
    """One sentence: what the adapter finds, and whether keeping the source model would serve better."""
    ours = values["adapter"][f"{kind}@10"]
    figure = mean_of(ours)
    what = "an answer" if protocol == "qa" else "the native top hit"
    said = f"The adapter finds {what} among its first ten for {figure.value:.1%} of queries"
    said += f" ({figure.low:.1%} to {figure.high:.1%})"
    if protocol == "qa" and "native" in values:
        said += f", the target model itself for {mean_of(values['native'][f'{kind}@10']).value:.1%}"
    if "keep_source" not in values:
        return said + "; keeping the source model was not judged, for there are no source vectors of the corpus."
    kept = values["keep_source"][f"{kind}@10"]
    away = difference(kept, ours)
    versus = f"keeping the source model on both sides, which finds {mean_of(kept).value:.1%}"
    if away.low > 0:
        return f"{said}: better than {versus}."
    if away.high < 0:
        return f"{said}: worse than {versus}; use the adapter only where you cannot embed the corpus again."
    return f"{said}: no clear difference from {versus}."
