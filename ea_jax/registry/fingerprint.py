"""Check that vectors, or an encoder, belong to the model that an adapter was fitted on."""

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
        FingerprintMismatch: It was fitted on another encoder; the message names the facts that differ.
    """
    if not is_same_encoder(entry.encoder, facts):
        raise FingerprintMismatch(
            f"{entry.name} was fitted on another encoder: {_list_differences(entry.encoder, facts)}. "
            "Use that encoder, or fit an adapter on yours."
        )


def check_source(
    expected: Mapping[str, Any], facts: Mapping[str, Any] | None, where: str, adapter: str, assume_source: bool = False
) -> dict[str, Any]:
    """Check that recorded facts about the encoder of vectors match the encoder of an adapter.

    Args:
        expected: Facts about the adapter's encoder, with their `fingerprint`.
        facts: Facts about the encoder of the vectors, as returned by `EncoderSpec.facts`. None if nothing is recorded,
            which passes.
        where: The file that records the facts, for the error message.
        adapter: Name of the adapter, for the error message.
        assume_source: Whether to accept the vectors even if the facts differ.

    Returns:
        Metadata for the output: empty, or the rejected facts under `assumed_source`.

    Raises:
        FingerprintMismatch: The facts differ; the message lists both values of each.
    """
    if facts is None or is_same_encoder(expected, facts):
        return {}
    if assume_source:
        return {"assumed_source": dict(facts)}
    raise FingerprintMismatch(
        f"{where} holds vectors of another encoder than {adapter} was fitted on: {_list_differences(expected, facts)}. "
        "Use an adapter of that encoder, or set `assume_source` to accept these vectors."
    )


def check_source_files(
    files: Iterable[Path], expected: Mapping[str, Any], adapter: str, assume_source: bool, column: str = "x"
) -> dict[str, Any]:
    """Apply `check_source` to each file that records the encoder of a column of vectors."""
    metadata: dict[str, Any] = {}
    for file in files:
        metadata |= check_source(expected, encoder_facts(file, column), str(file), adapter, assume_source)
    return metadata


def is_same_encoder(expected: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether facts belong to an encoder. Without both fingerprints, the model names are compared."""
    key = "fingerprint" if expected.get("fingerprint") and facts.get("fingerprint") else "model"
    return facts.get(key) == expected.get(key)


def _list_differences(expected: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    keys = [key for key in dict.fromkeys([*expected, *facts]) if facts.get(key) != expected.get(key)]
    return "; ".join(f"{key} {facts.get(key)!r} for {expected.get(key)!r}" for key in keys)
