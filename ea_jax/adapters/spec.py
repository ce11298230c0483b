"""The static, hashable description of an adapter. This module does not import JAX."""

from dataclasses import dataclass
from typing import Literal

Purpose = Literal["store", "query"]


@dataclass(frozen=True)
class Spec:
    """Everything about an adapter but its parameters. Equal specs never recompile.

    Attributes:
        family: Adapter family, a name in `adapters/families.py`.
        source: Full id of the source model.
        target: Full id of the target model.
        d_in: Width of the source embeddings.
        d_out: Width of the target embeddings.
        unit_norm: Whether outputs have length one.
        purpose: `store` for vectors close to native ones, `query` for the best recall against a native index.
        fingerprint: Fingerprint of the source encoder; empty if it was not recorded.
        sizes: The family's widths and counts by name, for instance the number of landmarks.
        parts: The specs of a chain, in the order of application.
    """

    family: str
    source: str
    target: str
    d_in: int
    d_out: int
    unit_norm: bool = True
    purpose: Purpose = "store"
    fingerprint: str = ""
    sizes: tuple[tuple[str, int], ...] = ()
    parts: tuple["Spec", ...] = ()


PURPOSES: tuple[Purpose, ...] = ("store", "query")
