"""How far inputs lie from what an adapter was fitted on: pure, jitted scores over a parameter pytree."""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ea_jax.arrays import ArrayIn, Params
from ea_jax.ops import check_embeddings, distance_confidence, mahalanobis, nearest_distance, unit
from ea_jax.spec import Spec

KNOTS = 64


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
    far = mahalanobis(x, params["mean"], params["spread"], params["directions"])
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

    def native_similarity(self, params: Params, score: Float[ArrayIn, "*batch"]) -> Float[Array, "*batch"]:
        """Scores of `query` vectors against native ones, on the scale of similarities between native vectors.

        The map is monotone, so it changes no ranking; it is for those who compare scores with a threshold.
        """
        knots = params["similarity"]
        return jnp.interp(jnp.asarray(score), knots["score"], knots["native"])


def abstract_quality(d_in: int, references: int, directions: int) -> Params:
    """Shapes and dtypes of what an entry stores of a quality part of this many references and directions."""
    shapes = {"mean": (d_in,)} | dict.fromkeys(("spread", "maha_p95", "maha_p99", "knn_p95", "knn_p99"), ())
    plain = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    return plain | {
        "directions": jax.ShapeDtypeStruct((d_in, directions), jnp.float16),
        "references": jax.ShapeDtypeStruct((references, d_in), jnp.int8),
        "similarity": dict.fromkeys(("score", "native"), jax.ShapeDtypeStruct((KNOTS,), jnp.float32)),
    }


def prepared(stored: Params) -> Params:
    """The parameters of a quality part out of what an entry stores: in float32, references of length one."""
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), stored)
    return params | {"references": unit(params["references"])}
