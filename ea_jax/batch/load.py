"""From names to what maps a batch: adapter, quality part and encoder of a registry entry, and what made the vectors."""

from dataclasses import dataclass
from typing import Any

from ea_jax.adapters.spec import Purpose
from ea_jax.batch.batch_map import BatchMap, Options
from ea_jax.errors import BadInput, UnknownName
from ea_jax.loading import Root, entry_for, load, load_quality, source_encoder
from ea_jax.registry.spaces import find_space


@dataclass(frozen=True)
class Names:
    """What to load: small, and the same in every process of a job.

    Attributes:
        source: Model that made the vectors, or that reads the texts, by id or alias.
        target: Model whose space the vectors go to.
        flavor: Which adapter, where there are several.
        purpose: `store` or `query`.
        texts: Whether texts come in, and the source's encoder is wanted.
        confidence: Whether a column of confidences is wanted.
        root: A registry folder; $EA_JAX_REGISTRY and the bundled one if None.
    """

    source: str
    target: str
    flavor: str | None = None
    purpose: Purpose = "store"
    texts: bool = False
    confidence: bool = False
    root: Root = None


def load_map(names: Names, options: Options | None = None) -> BatchMap:
    """Load all that maps a batch.

    Raises:
        UnknownName, BadEntry, CorruptCheckpoint, FingerprintMismatch: As `load` and `load_encoder` do.
        BadInput: `dim` is asked for, and the target was not trained for that.
    """
    options = options or Options()
    entry = entry_for(names.source, names.target, names.flavor, names.root)
    root = entry.path.parent
    found: dict[str, Any] = {"flavor": entry.flavor, "root": root}
    _check_dim(entry.target, options.dim, root)
    adapt = load(entry.source, entry.target, purpose=names.purpose, **found)
    judge = load_quality(entry.source, entry.target, **found) if names.confidence else None
    encode = source_encoder(entry) if names.texts else None
    facts = {
        "source": entry.source,
        "target": entry.target,
        "flavor": entry.flavor,
        "purpose": names.purpose,
        "params": entry.params["sha256"],
        "encoder": dict(entry.encoder),
    }
    return BatchMap(adapt, judge, encode, options, facts)


def _check_dim(target: str, dim: int | None, root: Root) -> None:
    if dim is None:
        return
    try:
        space = find_space(target, root)
    except UnknownName:
        return
    if not space.matryoshka:
        raise BadInput(
            f"{target} was not trained so that its first {dim} numbers alone are an embedding. Leave out dim."
        )
