"""Metrics for Prometheus: requests, batches, confidences, and drift from the inputs of the fit."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ea_jax.integrations.adapted_encoder import SCORES
from ea_jax.integrations.server.engine import CONFIDENCE, Row
from ea_jax.integrations.server.models import Catalog, ServedModel
from ea_jax.quality.drift import baseline_scores, stability_index
from ea_jax.quality.scores import Quality

WINDOW, MIN_SCORES = 1000, 100  # drift compares the last texts with the fit, once there are enough
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
PORTIONS = tuple(round(0.1 * i, 1) for i in range(1, 11))
TEXTS = (1, 2, 4, 8, 16, 32)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Recent:
    """Ring buffer of the latest scores of one model.

    Attributes:
        count: Number of scores added so far.
    """

    def __init__(self, quality: Quality) -> None:
        self.count = 0
        self._baseline = baseline_scores(quality) if "calibration" in quality.params else {}  # imported ones have none
        self._rows = np.zeros((WINDOW, len(SCORES)), np.float32)

    def add(self, rows: Sequence[Row]) -> None:
        """Overwrite the oldest scores."""
        for row in rows:
            self._rows[self.count % WINDOW] = row.scores
            self.count += 1

    def shifts(self) -> dict[str, float]:
        """Population stability index of each score. Empty with too few texts, or for an imported adapter."""
        if self.count < MIN_SCORES:
            return {}
        rows = self._rows[: min(self.count, WINDOW)]
        return {name: stability_index(before, rows[:, SCORES.index(name)]) for name, before in self._baseline.items()}


class Metrics(Collector):
    """Metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("ea_jax_requests", "Requests by model and status.", ["model", "status"], **make)
        self.seconds = Histogram(
            "ea_jax_request_seconds", "Seconds of a request to /v1/embeddings.", ["model"], buckets=SECONDS, **make
        )
        self.texts = Counter("ea_jax_texts", "Texts by the origin of their vectors.", ["model", "route"], **make)
        self.batches = Histogram("ea_jax_batch_texts", "Texts of a batch.", buckets=TEXTS, **make)
        self.batch_seconds = Histogram("ea_jax_batch_seconds", "Seconds of a batch.", buckets=SECONDS, **make)
        self.waiting = Gauge("ea_jax_waiting_texts", "Texts in the queue.", **make)
        self.largest = Gauge("ea_jax_largest_group_texts", "Largest number of texts with a compiled program.", **make)
        self.confidence = Histogram("ea_jax_confidence", "Confidence of a text.", ["model"], buckets=PORTIONS, **make)
        self.failures = Counter("ea_jax_provider_failures", "Requests to the provider that failed.", ["reason"], **make)
        self.spent = Gauge("ea_jax_provider_spent_usd", "Spent at the provider this month.", **make)
        self._recent: dict[str, Recent] = {}
        self.registry.register(self)

    def watch(self, catalog: Catalog) -> None:
        """Start to monitor the drift of these models."""
        self._recent = {model.name: Recent(model.adapted.quality) for model in catalog.models}

    def record(self, model: ServedModel, rows: Sequence[Row], routes: Sequence[str]) -> None:
        """Count the texts of a request."""
        confidence = self.confidence.labels(model.name)
        for row in rows:
            confidence.observe(row.scores[CONFIDENCE])
        for route in set(routes):
            self.texts.labels(model.name, route).inc(routes.count(route))
        self._recent[model.name].add(rows)

    def observe_batch(self, texts: int, seconds: float) -> None:
        """Count a batch."""
        self.batches.observe(texts)
        self.batch_seconds.observe(seconds)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Compute the drift when the metrics are read."""
        family = GaugeMetricFamily(
            "ea_jax_population_stability_index",
            f"Scores of the last {WINDOW} texts against the fit: below .1 stable, above .25 a large shift.",
            labels=["model", "score"],
        )
        for name, recent in self._recent.items():
            for score, value in recent.shifts().items():
                family.add_metric([name, score], value)
        yield family

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
