"""The public adapters of embedding-adapters: which there are, and why some cannot be loaded."""

from dataclasses import dataclass

from ea_jax.io.toml import parse_record, read_toml
from ea_jax.registry.locations import BUNDLED
from ea_jax.registry.spaces import find_space


@dataclass(frozen=True)
class PublicAdapter:
    """A public adapter of embedding-adapters.

    Attributes:
        repo: Its repository on the Hugging Face hub.
        source: Full id of the model whose embeddings come in.
        target: Full id of the model whose space they go to.
        flavor: Which of several adapters between the two.
        locked: Why it cannot be loaded here; empty where it can.
    """

    repo: str
    source: str
    target: str
    flavor: str
    locked: str


def public_adapters() -> list[PublicAdapter]:
    """Public adapters of embedding-adapters."""
    path = BUNDLED / "embedding_adapters.toml"
    return [parse_record(PublicAdapter, facts, path) for facts in read_toml(path)["adapter"]]


def find_public_adapter(source: str, target: str, flavor: str | None) -> PublicAdapter | None:
    """The public adapter of embedding-adapters of these names: of several without a flavor, the first that is free."""
    pair = (find_space(source).id, find_space(target).id)
    matches = [a for a in public_adapters() if (a.source, a.target) == pair and flavor in (None, a.flavor)]
    return min(matches, key=lambda adapter: bool(adapter.locked), default=None)
