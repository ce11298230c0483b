"""How far each result can be trusted: scores, thresholds and drift."""

from ea_jax.quality.interpret import interpret_quality as interpret_quality
