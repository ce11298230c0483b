"""Fit adapters from pairs: folds, candidates judged on them, the last layers, and `fit`, which puts them together."""

from ea_jax.fitting.confidence import Foreign
from ea_jax.fitting.drawing import CORPUS_SIZE
from ea_jax.fitting.fit import DEFAULT, Budget, Family, Fitted, advice, fit

__all__ = ["CORPUS_SIZE", "DEFAULT", "Budget", "Family", "Fitted", "Foreign", "advice", "fit"]
