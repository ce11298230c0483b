"""Fit adapters from pairs: see `fit`."""

from ea_jax.fitting.fit import FAMILIES, Family, Fitted, fit, verdict
from ea_jax.fitting.quality import Foreign

__all__ = ["FAMILIES", "Family", "Fitted", "Foreign", "fit", "verdict"]
