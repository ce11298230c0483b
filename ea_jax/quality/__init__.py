"""Quality of each output: scores, thresholds and drift."""

from ea_jax.quality.interpret import interpret_quality as interpret_quality
