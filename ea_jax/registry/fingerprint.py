"""Whether vectors, or an encoder, are of the model that an adapter was fitted on."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ea_jax.data.vectors import encoder_facts
from ea_jax.embeddings import VectorRule
from ea_jax.errors import FingerprintMismatch
from ea_jax.registry.entry import Entry
from ea_jax.registry.spaces import Space


def vector_rule(space: Space, normalize: bool = False) -> VectorRule:
    """Return what stored vectors of a space must be."""
    return VectorRule(space.id, space.width, space.unit_norm, normalize)


def check_fingerprint(entry: Entry, facts: Mapping[str, Any]) -> None:
    """Check that an adapter was fitted on the encoder with these facts (`EncoderSpec.facts`).

    Raises:
        FingerprintMismatch: It was fitted on another; the message names the facts that differ.
    """
    if not is_same_encoder(entry.encoder, facts):
        raise FingerprintMismatch(
            f"{entry.name} was fitted on another encoder: {_apart(entry.encoder, facts)}. "
            "Use the encoder that it names, or fit an adapter on yours."
        )


def check_provenance(entry: Entry, facts: Mapping[str, Any], where: str, assume_source: bool = False) -> dict[str, Any]:
    """`check_source` of vectors against what an adapter was fitted on."""
    return check_source(entry.encoder, facts, where, entry.name, assume_source)


def check_source(
    wanted: Mapping[str, Any], facts: Mapping[str, Any] | None, where: str, adapter: str, assume_source: bool = False
) -> dict[str, Any]:
    """Check what is said of the encoder of vectors against what an adapter was, or is to be, fitted on.

    Args:
        wanted: Facts of the adapter's encoder, with their `fingerprint`.
        facts: The same of the vectors', as `EncoderSpec.facts` gives them; None where nothing is said.
        where: What says so, for people.
        adapter: Its name, likewise.
        assume_source: Take the vectors for the source model's, whatever is said of them.

    Returns:
        What to say of it in an output's metadata: empty, or under `assumed_source` the facts that were overruled.

    Raises:
        FingerprintMismatch: They differ; the message spells out both, field by field.
    """
    if facts is None or is_same_encoder(wanted, facts):
        return {}
    if assume_source:
        return {"assumed_source": dict(facts)}
    raise FingerprintMismatch(
        f"{where} holds vectors of another encoder than {adapter} was fitted on: {_apart(wanted, facts)}. "
        "Use an adapter of that encoder, or override with --assume-source."
    )


def check_source_files(
    files: Iterable[Path], wanted: Mapping[str, Any], adapter: str, assume_source: bool, column: str = "x"
) -> dict[str, Any]:
    """`check_source` of a column of vectors of each file that records what made it."""
    found: dict[str, Any] = {}
    for file in files:
        found |= check_source(wanted, encoder_facts(file, column), str(file), adapter, assume_source)
    return found


def is_same_encoder(wanted: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether the facts are of this encoder; of this model, where one side knows no more than a name."""
    known = "fingerprint" if wanted.get("fingerprint") and facts.get("fingerprint") else "model"
    return facts.get(known) == wanted.get(known)


def _apart(wanted: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    keys = [key for key in dict.fromkeys([*wanted, *facts]) if facts.get(key) != wanted.get(key)]
    return "; ".join(f"{key} {facts.get(key)!r} for {wanted.get(key)!r}" for key in keys)
