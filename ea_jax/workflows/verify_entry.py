"""Verify the metrics that an entry records by measuring them again."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ea_jax.loading import load_adapters, load_source_encoder
from ea_jax.registry.entry import Entry
from ea_jax.registry.fingerprint import check_source_files
from ea_jax.registry.spaces import find_space
from ea_jax.retrieval.held_out import held_out_metrics
from ea_jax.workflows.fit_entry import read_test_set

Metrics = dict[str, float]
TOLERANCE = 0.002  # metrics are recorded with four decimals, and devices sum in different orders


class Verification(NamedTuple):
    """The result of a verification.

    Attributes:
        matches: Whether the metrics are those of a recorded test set; None if the entry records none.
        message: The result in words.
    """

    matches: bool | None
    message: str


def verify_metrics(entry: Entry, pairs: Path, assume_source: bool = False) -> Verification:
    """Measure an adapter on test pairs, and compare the metrics with each test set that its entry records.

    Metrics match if they differ by less than their rounding and one query.

    Args:
        entry: An entry whose files have been checked.
        pairs: Test pairs with the column query.
        assume_source: Accept source vectors whose metadata names another encoder.

    Raises:
        BadInput: The pairs are unreadable, or their vectors are not of the entry's models.
        FingerprintMismatch: The source vectors, or the encoder for the texts, are not those of the fit.
    """
    check_source_files([pairs], entry.encoder, entry.name, assume_source)
    root = entry.path.parent
    source, target = find_space(entry.source, root), find_space(entry.target, root)
    encoder = load_source_encoder(entry) if source.local else None
    test = read_test_set(pairs, source, target, encoder)
    outputs = {p: np.asarray(adapt(adapt.params, test.x)) for p, adapt in load_adapters(entry).items()}
    measured = _flatten(held_out_metrics(test, outputs))
    if not entry.metrics:
        listed = ", ".join(f"{name} {value}" for name, value in measured.items())
        return Verification(None, f"the entry records no metrics; on {pairs} they are {listed}")
    tolerance = TOLERANCE + 1 / len(test.x)
    differences = {
        test_name: _differences(_flatten(recorded), measured, tolerance)
        for test_name, recorded in entry.metrics.items()
    }
    closest = min(differences, key=lambda test_name: len(differences[test_name]))
    if not differences[closest]:
        return Verification(True, f"the metrics on {pairs} match those recorded for {closest}")
    return Verification(
        False,
        f"the metrics on {pairs} differ from those recorded for {closest}: {'; '.join(differences[closest])}. "
        "Are these the pairs of that test set?",
    )


def _flatten(metrics: dict[str, Metrics]) -> Metrics:
    return {f"{row} {name}": value for row, values in metrics.items() for name, value in values.items()}


def _differences(recorded: Metrics, measured: Metrics, tolerance: float) -> list[str]:
    """Metrics that differ by more than the tolerance, or that only one side has."""
    pairs = {name: (recorded.get(name), measured.get(name)) for name in {**recorded, **measured}}
    return [
        f"{name} is {new}, recorded {old}"
        for name, (old, new) in pairs.items()
        if old is None or new is None or abs(old - new) > tolerance
    ]
