"""How far inputs lie from what an adapter was fitted on: pure, jitted scores over a parameter pytree."""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ea_jax.arrays import ArrayIn, Params
from ea_jax.ops import check_embeddings, distance_confidence, mahalanobis, nearest_distance, unit
from ea_jax.spec import Spec


class Scores(NamedTuple):
    """One number an input; distances grow with badness, confidences with goodness."""

    mahalanobis: Float[Array, "*batch"]
    knn_distance: Float[Array, "*batch"]
    conf_maha: Float[Array, "*batch"]
    conf_knn: Float[Array, "*batch"]
    confidence: Float[Array, "*batch"]


@jax.jit
def _scores(params: Params, x: Float[ArrayIn, "*batch d_in"]) -> Scores:
    x = unit(x)
    far = mahalanobis(x, params["mean"], params["whiten"])
    near = nearest_distance(x, params["references"])
    conf_maha = distance_confidence(far, params["maha_p95"], params["maha_p99"])
    conf_knn = distance_confidence(near, params["knn_p95"], params["knn_p99"])
    return Scores(far, near, conf_maha, conf_knn, jnp.minimum(conf_maha, conf_knn))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Quality:
    """A pytree whose leaves are `params`, and a pure function `(params, x) -> Scores`.

    Attributes:
        spec: Of the adapter whose inputs it judges.
        params: Statistics of the embeddings that the adapter was fitted on.
    """

    spec: Spec = field(metadata={"static": True})
    params: Params

    def __call__(self, params: Params, x: Float[ArrayIn, "*batch d_in"]) -> Scores:
        """Score source embeddings; `confidence` is the smaller of the two confidences.

        Raises:
            BadInput: x is not of floats, or its width is not the source model's.
        """
        check_embeddings(x, self.spec.d_in, self.spec.source)
        return _scores(params, x)


def abstract_quality(d_in: int, references: int) -> Params:
    """Shapes and dtypes of the parameters of a quality part with this many references."""
    shapes = {"mean": (d_in,), "whiten": (d_in, d_in), "references": (references, d_in)}
    shapes |= dict.fromkeys(("maha_p95", "maha_p99", "knn_p95", "knn_p99"), ())
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
