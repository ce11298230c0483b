"""The public adapters of embedding-adapters: which there are, and why some cannot be loaded."""

from dataclasses import dataclass

from ea_jax.io.toml import build, read_toml
from ea_jax.registry.locations import BUNDLED
from ea_jax.registry.spaces import find_space


@dataclass(frozen=True)
class Seed:
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


def seeds() -> list[Seed]:
    """Public adapters of embedding-adapters."""
    path = BUNDLED / "seed.toml"
    return [build(Seed, facts, path) for facts in read_toml(path)["adapter"]]


def find_seed(source: str, target: str, flavor: str | None) -> Seed | None:
    """The public adapter of embedding-adapters of these names: of several without a flavor, the first that is free."""
    a, b = find_space(source).id, find_space(target).id
    pair = [seed for seed in seeds() if (seed.source, seed.target) == (a, b) and flavor in (None, seed.flavor)]
    return min(pair, key=lambda seed: bool(seed.locked), default=None)
