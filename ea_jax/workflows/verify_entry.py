"""The figures that an entry records, measured anew on pairs and compared."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ea_jax.loading import load_adapters, load_source_encoder
from ea_jax.registry.entry import Entry
from ea_jax.registry.fingerprint import check_source_files
from ea_jax.registry.spaces import find_space
from ea_jax.retrieval.held_out import held_out_metrics
from ea_jax.workflows.fit_entry import test_set

Figures = dict[str, float]
ROUNDED = 0.002  # figures are recorded to four places, and devices multiply in other orders


class Recheck(NamedTuple):
    """What was found.

    Attributes:
        agrees: Whether the figures are those of a recorded test set; None where none is recorded.
        told: In words.
    """

    agrees: bool | None
    told: str


def recheck(entry: Entry, pairs: Path, assume_source: bool = False) -> Recheck:
    """Measure an adapter on test pairs, and compare with each test set of its entry.

    Figures agree that differ by less than their rounding and one query.

    Args:
        entry: The adapter, which has been checked whole.
        pairs: Test pairs, with the column `query`.
        assume_source: Take the column x for the source model's, whatever the file says of it.

    Raises:
        BadInput: The pairs are not what they should be, or of other models.
        FingerprintMismatch: Their source vectors, or the encoder that embeds their texts, are not those of the fit.
    """
    check_source_files([pairs], entry.encoder, entry.name, assume_source)
    root = entry.path.parent
    source, target = find_space(entry.source, root), find_space(entry.target, root)
    encoder = load_source_encoder(entry) if source.local else None
    test = test_set(pairs, source, target, encoder)
    outputs = {p: np.asarray(adapt(adapt.params, test.x)) for p, adapt in load_adapters(entry).items()}
    found = _flat(held_out_metrics(test, outputs))
    if not entry.metrics:
        return Recheck(None, f"it records no figures; on {pairs} they are {_listed(found)}")
    least = ROUNDED + 1 / len(test.x)
    off = {name: _apart(_flat(rows), found, least) for name, rows in entry.metrics.items()}
    name = min(off, key=lambda name: len(off[name]))
    if not off[name]:
        return Recheck(True, f"the figures on {pairs} are those recorded for {name}")
    return Recheck(
        False,
        f"the figures on {pairs} are not those recorded for {name}: {'; '.join(off[name])}. "
        "Are these the pairs that it was measured on?",
    )


def _flat(rows: dict[str, Figures]) -> Figures:
    return {f"{row} {name}": value for row, figures in rows.items() for name, value in figures.items()}


def _apart(recorded: Figures, found: Figures, least: float) -> list[str]:
    """The figures that differ by more than `least`, or that only one side has."""
    named = {name: (recorded.get(name), found.get(name)) for name in {**recorded, **found}}
    return [f"{n} {b} for {a}" for n, (a, b) in named.items() if a is None or b is None or abs(a - b) > least]


def _listed(figures: Figures) -> str:
    return ", ".join(f"{name} {value}" for name, value in figures.items())
