"""Fit adapters from pairs: see `fit`."""

from ea_jax.fitting.fit import AUTO, check_family, fit
from ea_jax.fitting.quality import Foreign
from ea_jax.fitting.report import verdict
from ea_jax.fitting.result import Fitted

__all__ = ["AUTO", "Fitted", "Foreign", "check_family", "fit", "verdict"]
