"""Features of the pairs, which an output layer maps to target embeddings; each adapter family has its own."""

from importlib import import_module
from typing import NamedTuple

from jaxtyping import Float

from ea_jax.adapters.families import FAMILIES
from ea_jax.typing import ArrayIn, Params


class Features(NamedTuple):
    """Features of the pairs, and the part of an adapter that computes them.

    Attributes:
        family: Adapter family.
        sizes: The family's widths and counts.
        params: Parameters before the output layer, as an entry stores them.
        z: Features of every pair; for `linear`, the inputs themselves.
    """

    family: str
    sizes: dict[str, int]
    params: Params
    z: Float[ArrayIn, "n d"]


def fitted_families() -> list[str]:
    """Names of the families that `fit` fits."""
    return [name for name, family in FAMILIES.items() if family.fit_features]


def fit_features(family: str, x: Float[ArrayIn, "n d_in"], y: Float[ArrayIn, "n d_out"], seed: int) -> Features:
    """Fit the features of an adapter family, by the function that `FAMILIES` names."""
    module, _, function = str(FAMILIES[family].fit_features).partition(":")
    return getattr(import_module(f"ea_jax.fitting.{module}"), function)(x, y, seed)


def linear_features(x: Float[ArrayIn, "n d_in"], y: Float[ArrayIn, "n d_out"], seed: int = 0) -> Features:
    """Return the inputs unchanged."""
    return Features("linear", {}, {}, x)
