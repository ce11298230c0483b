"""What an adapter or an encoder is, without its parameters: static, hashable, free of JAX."""

from dataclasses import dataclass
from typing import Literal

Purpose = Literal["store", "query"]


@dataclass(frozen=True)
class Spec:
    """An adapter without its parameters; equal specs never recompile.

    Attributes:
        family: Which module of `models.py` computes it.
        source: Full id of the model whose embeddings come in.
        target: Full id of the model whose space they go to.
        d_in: Width of the source embeddings.
        d_out: Width of the target embeddings.
        unit_norm: Whether outputs have length one.
        purpose: `store` for faithful vectors, `query` for best recall against a native index.
        fingerprint: Of the encoder whose embeddings it was fitted on; empty where not recorded.
        sizes: The family's own widths and counts by name, for instance the number of landmarks.
        parts: Of a chain, the adapters that follow each other.
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
