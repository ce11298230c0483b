"""The public adapters of embedding-adapters, and the reasons why some of them cannot be loaded."""

from dataclasses import dataclass

from ea_jax.io.toml import parse_record, read_toml
from ea_jax.registry.locations import BUNDLED
from ea_jax.registry.spaces import find_space


@dataclass(frozen=True)
class PublicAdapter:
    """A public adapter of embedding-adapters.

    Attributes:
        repo: The repository on the Hugging Face hub.
        source: Full id of the source model.
        target: Full id of the target model.
        flavor: Name of the adapter among those of the pair.
        locked: The reason why the adapter cannot be loaded; empty if it can.
    """

    repo: str
    source: str
    target: str
    flavor: str
    locked: str


def public_adapters() -> list[PublicAdapter]:
    """List the public adapters of embedding-adapters."""
    path = BUNDLED / "embedding_adapters.toml"
    return [parse_record(PublicAdapter, facts, path) for facts in read_toml(path)["adapter"]]


def find_public_adapter(source: str, target: str, flavor: str | None) -> PublicAdapter | None:
    """Find the public adapter of a pair; without a flavor, the first that can be loaded."""
    pair = (find_space(source).id, find_space(target).id)
    matches = [a for a in public_adapters() if (a.source, a.target) == pair and flavor in (None, a.flavor)]
    return min(matches, key=lambda adapter: bool(adapter.locked), default=None)
