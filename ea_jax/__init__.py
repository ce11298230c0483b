"""Translate embeddings between model spaces. Names are imported on first use, so that `import ea_jax` is instant."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ea_jax.adapters.adapter import Adapter as Adapter
    from ea_jax.adapters.adapter import compose as compose
    from ea_jax.adapters.spec import Spec as Spec
    from ea_jax.batch import map_array as map_array
    from ea_jax.batch import map_batches as map_batches
    from ea_jax.encoders.encoder import Encoder as Encoder
    from ea_jax.errors import EaJaxError as EaJaxError
    from ea_jax.evaluation import EvaluationSet as EvaluationSet
    from ea_jax.evaluation import Report as Report
    from ea_jax.evaluation import evaluate as evaluate
    from ea_jax.fitting import fit as fit
    from ea_jax.integrations.embedding_adapters import EmbeddingAdapter as EmbeddingAdapter
    from ea_jax.loading import load as load
    from ea_jax.loading import load_encoder as load_encoder
    from ea_jax.loading import load_quality as load_quality
    from ea_jax.quality.interpret import interpret_quality as interpret_quality
    from ea_jax.quality.scores import Quality as Quality
    from ea_jax.quality.scores import Scores as Scores
    from ea_jax.quality.threshold import threshold_for as threshold_for

__version__ = "0.2.0"
_HOME = {
    "Adapter": "adapters.adapter",
    "EaJaxError": "errors",
    "EmbeddingAdapter": "integrations.embedding_adapters",
    "Encoder": "encoders.encoder",
    "EvaluationSet": "evaluation",
    "Quality": "quality.scores",
    "Report": "evaluation",
    "Scores": "quality.scores",
    "Spec": "adapters.spec",
    "compose": "adapters.adapter",
    "evaluate": "evaluation",
    "fit": "fitting",
    "interpret_quality": "quality.interpret",
    "load": "loading",
    "load_encoder": "loading",
    "load_quality": "loading",
    "map_array": "batch",
    "map_batches": "batch",
    "threshold_for": "quality.threshold",
}
__all__ = ["Adapter", "EaJaxError", "EmbeddingAdapter", "Encoder", "EvaluationSet"]
__all__ += ["Quality", "Report", "Scores", "Spec"]
__all__ += ["compose", "evaluate", "fit", "interpret_quality", "load", "load_encoder", "load_quality"]
__all__ += ["map_array", "map_batches", "threshold_for"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ea_jax' has no attribute {name!r}")
    return getattr(import_module(f"ea_jax.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
