"""Judge an adapter on your own data: a trial, `evaluate`, and the report that it gives."""

from ea_jax.evaluation.dataset import Trial as Trial
from ea_jax.evaluation.evaluate import evaluate as evaluate
from ea_jax.evaluation.report import Report as Report
