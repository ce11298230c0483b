"""Evaluate an adapter on your own data: an `EvaluationSet` goes in, a `Report` comes out."""

from ea_jax.evaluation.dataset import EvaluationSet as EvaluationSet
from ea_jax.evaluation.evaluate import evaluate as evaluate
from ea_jax.evaluation.report import Report as Report
