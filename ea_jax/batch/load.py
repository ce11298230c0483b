"""Load everything that maps a batch from the names of two models."""

from dataclasses import dataclass

from ea_jax.adapters.spec import Purpose
from ea_jax.batch.batch_map import BatchMap, Options
from ea_jax.batch.device import source_rule
from ea_jax.loading import (
    Root,
    check_dim,
    load_adapter,
    load_adapters,
    load_quality_part,
    load_source_encoder,
    resolve_entry,
)
from ea_jax.quality.scores import Quality


@dataclass(frozen=True)
class MapConfig:
    """Which adapter to load, and with what. Small, and the same in every process of a job.

    Attributes:
        source: Model that made the vectors or embeds the texts, by id or alias.
        target: Model whose space the vectors go to, by id or alias.
        flavor: Which adapter, if there are several.
        purpose: `store` or `query`.
        texts: Whether the input is text, so that the source's encoder is needed.
        confidence: Whether to add a column of confidences.
        root: A registry folder; $EA_JAX_REGISTRY and the bundled one if None.
    """

    source: str
    target: str
    flavor: str | None = None
    purpose: Purpose = "store"
    texts: bool = False
    confidence: bool = False
    root: Root = None


def load_map(config: MapConfig, options: Options | None = None) -> BatchMap:
    """Load the adapter, and the quality part and encoder if they are needed.

    Raises:
        UnknownName, BadEntry, CorruptCheckpoint, FingerprintMismatch: As `load` and `load_encoder`.
        BadInput: `options.dim` is set, and the target is not a Matryoshka model.
    """
    options = options or Options()
    entry = resolve_entry(config.source, config.target, config.flavor, config.root)
    check_dim(entry.target, options.dim, entry.path.parent)
    purposes: set[Purpose] = {config.purpose, "store"} if config.confidence else {config.purpose}
    adapters = load_adapters(entry, purposes)
    quality = load_quality_part(entry, adapters["store"]) if config.confidence else None
    encode = load_source_encoder(entry) if config.texts else None
    facts = {
        "source": entry.source,
        "target": entry.target,
        "flavor": entry.flavor,
        "purpose": config.purpose,
        "params": entry.params["sha256"],
        "encoder": dict(entry.encoder),
    }
    adapt = adapters[config.purpose]
    rule = source_rule(adapt.spec, options.normalize, entry.path.parent)
    return BatchMap(adapt, quality, encode, options, facts, rule)


def load_domain(config: MapConfig) -> Quality:
    """Load the quality part of the adapter, to notice vectors of another model."""
    entry = resolve_entry(config.source, config.target, config.flavor, config.root)
    return load_quality_part(entry, load_adapter(entry))
