"""The results of an evaluation as typed records, and their JSON form."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ea_jax.evaluation.bootstrap import Estimate

Estimates = Mapping[str, Estimate]  # metric -> estimate
Values = Mapping[str, Float[np.ndarray, " n"]]  # metric -> its value for each query, NaN if undefined
JSON_NAMES = {"score": "recall@10", "neighbors": "neighbours"}  # field -> its key in JSON, which is older


class AdapterFacts(NamedTuple):
    """The adapter that was evaluated."""

    source: str
    target: str
    family: str


class ProtocolFacts(NamedTuple):
    """The name of the protocol, and a description of what it measures."""

    name: str
    measures: str


class DataFacts(NamedTuple):
    """The evaluation set.

    Attributes:
        queries: Number of queries.
        corpus: Number of corpus rows.
        equal_rows: Number of corpus rows whose native vector equals that of an earlier row.
        seed: Seed of all random sampling.
        digest: Hash of the target vectors and the judgments.
    """

    queries: int
    corpus: int
    equal_rows: int
    seed: int
    digest: str


class CosineDistribution(NamedTuple):
    """Cosines between the `store` outputs for the queries and their native vectors.

    Attributes:
        mean: Mean cosine.
        quantiles: Level, such as "0.25" -> cosine.
        counts: Number of queries in each bin of a histogram.
        edges: Edges of its bins.
    """

    mean: Estimate
    quantiles: Estimates
    counts: Int[np.ndarray, " b"]
    edges: Float[np.ndarray, " b+1"]


class Slice(NamedTuple):
    """A subset of the queries: its label, its size, its score and, with native query vectors, its mean cosine."""

    label: str
    queries: int
    score: Estimate
    cosine: Estimate | None


class Neighbor(NamedTuple):
    """A corpus row in the results of an example query; `both` if native and adapted query return it."""

    row: int
    text: str
    both: bool


class Example(NamedTuple):
    """An example query, with the first results of its native and of its adapted vector."""

    query: str
    native: Sequence[Neighbor]
    adapter: Sequence[Neighbor]


class Projection(NamedTuple):
    """Native and adapted query vectors, projected on the first two principal components of the native ones.

    Attributes:
        explained: Fraction of the native variance that the two components explain.
        native: Projected native vectors.
        adapted: Projected `store` outputs of the same queries.
    """

    explained: float
    native: Float[np.ndarray, "s 2"]
    adapted: Float[np.ndarray, "s 2"]


class ReliabilityBin(NamedTuple):
    """A tenth of the queries, by confidence: the mean confidence, the number of queries and the observed score."""

    confidence: float
    queries: int
    score: Estimate


class RoutingPoint(NamedTuple):
    """The score of an index if the adapter serves a share of the queries, and the target model the others.

    Attributes:
        share: Share of queries that the adapter serves.
        score: The adapter serves the queries of highest confidence.
        random: It serves a random choice of queries (expected score).
        oracle: It serves the queries that lose least; no choice scores higher.
    """

    share: float
    score: Estimate
    random: Estimate
    oracle: Estimate


class ThresholdRow(NamedTuple):
    """The queries whose confidence reaches a threshold.

    Attributes:
        confidence: The threshold; 0 in the first row, which holds all queries.
        queries: Number of queries.
        share: Their share of all queries.
        of_native: Mean score of the adapter divided by that of native queries; None without native query vectors.
        figures: Condition -> metric -> estimate, over these queries.
    """

    confidence: float
    queries: int
    share: Estimate
    of_native: Estimate | None
    figures: Mapping[str, Estimates]


@dataclass(frozen=True, eq=False)
class Results:
    """The results of an evaluation. Every metric is an `Estimate`: its value and its 95 % interval.

    Sections that need data that was not given are None.

    Attributes:
        adapter: The adapter that was evaluated.
        protocol: What was measured.
        data: The evaluation set.
        notes: How the evaluation set was made, and what to keep in mind.
        verdict: The conclusion, in one sentence.
        cosine: Distribution of the cosine to native vectors.
        conditions: Condition (which query vectors search which corpus) -> metric -> estimate.
        mixed: Kind of query vector -> metric -> estimate, for an index of native and adapted rows.
        slices: `length`, `group` and `confidence` -> scores of subsets of the queries.
        neighbors: Example queries with their results.
        projection: Native and adapted vectors in two dimensions.
        per_query: What `compare` needs, a value per query: the metrics of each condition of the adapter, `forecast`
            (the quality scores and the observed outcomes) and `vectors` (the cosine).
        measure: The metric that every `score` is: `recall@10`, or `success@10` with the protocol `qa`.
        confidence: Metric of the quality part -> estimate.
        reliability: Observed score by tenth of the confidence.
        routing: Score by the share of queries that the adapter serves.
        thresholds: Metrics of the queries that reach a confidence.
    """

    adapter: AdapterFacts
    protocol: ProtocolFacts
    data: DataFacts
    notes: tuple[str, ...]
    verdict: str
    cosine: CosineDistribution | None
    conditions: Mapping[str, Estimates]
    mixed: Mapping[str, Estimates] | None
    slices: Mapping[str, Sequence[Slice]]
    neighbors: Sequence[Example]
    projection: Projection | None
    per_query: Mapping[str, Values]
    measure: str
    confidence: Estimates | None = None
    reliability: Sequence[ReliabilityBin] | None = None
    routing: Sequence[RoutingPoint] | None = None
    thresholds: Sequence[ThresholdRow] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the results as JSON values: an estimate is `{value, low, high}`, and NaN is None."""
        return to_plain(self)

    def to_json(self) -> str:
        """Return the results as one JSON object."""
        return json.dumps(self.as_dict(), ensure_ascii=False, allow_nan=False)


def to_plain(value: Any) -> Any:
    """Convert records, mappings and arrays to JSON values. Non-finite numbers become None.

    Named tuples leave out fields that are None.
    """
    if is_dataclass(value):
        return {_json_name(field.name): to_plain(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "_asdict"):
        return {_json_name(name): to_plain(part) for name, part in value._asdict().items() if part is not None}
    if isinstance(value, Mapping):
        return {str(key): to_plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist())
    if isinstance(value, list | tuple):
        return [to_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json_name(field: str) -> str:
    return JSON_NAMES.get(field, field)
