"""How well an adapter will do on an input: pure, jitted scores over a parameter pytree."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ea_jax.adapters.families import build
from ea_jax.adapters.spec import Spec
from ea_jax.embeddings import check_embeddings, unit
from ea_jax.errors import BadInput
from ea_jax.quality.distances import distance_confidence, mahalanobis
from ea_jax.retrieval.neighbors import TOP, nearest_distance
from ea_jax.typing import ArrayIn, Params

WIDEST = 5.0  # deviations from the mean at which a feature is cut, so that squares stay near what was fitted
TINY = 1e-6
FEATURES = ("mahalanobis", "knn_distance", "mean_cosine", "length")
SOURCE_FEATURES = 3  # the first ones, which need no adapter


class Distances(NamedTuple):
    """How far embeddings lie from those of a fit; distances grow with badness, confidences with goodness."""

    mahalanobis: Float[Array, "*batch"]
    knn_distance: Float[Array, "*batch"]
    conf_maha: Float[Array, "*batch"]
    conf_knn: Float[Array, "*batch"]
    confidence: Float[Array, "*batch"]


class Scores(NamedTuple):
    """One number an input. Imported adapters forecast no cosine (nan), and their confidence is the smaller of the two.

    Attributes:
        mahalanobis: Distance from the Gaussian of the fit's inputs, in standard deviations.
        knn_distance: Chord length to the nearest of their references, a sample of them.
        conf_maha: Logistic of the first, .8 at the 95th percentile of the fit's inputs and .2 at the 99th.
        conf_knn: The same of the second.
        novelty: Probability that the vector is not of an ordinary text: random, another model's, or of junk. Of
            imported adapters, 1 less the smaller of the two.
        expected_cosine: Expectation of the cosine between the `store` output and the native vector.
        expected_cosine_lower: Lower bound of that cosine, for nine in ten inputs like those of the fit.
        confidence: Probability that the `query` output has its true neighbor among its first ten results.
    """

    mahalanobis: Float[Array, "*batch"]
    knn_distance: Float[Array, "*batch"]
    conf_maha: Float[Array, "*batch"]
    conf_knn: Float[Array, "*batch"]
    novelty: Float[Array, "*batch"]
    expected_cosine: Float[Array, "*batch"]
    expected_cosine_lower: Float[Array, "*batch"]
    confidence: Float[Array, "*batch"]


@jax.jit
def distances(statistics: Params, x: Float[Array, "*batch d"]) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Mahalanobis distance and chord length to the nearest reference of unit rows."""
    if "factor" in statistics:  # of an imported adapter, whose inverse covariance is F F^T
        c = x - jnp.broadcast_to(statistics["mean"], x.shape)
        far = jnp.sqrt(jnp.sum(jnp.square(c @ statistics["factor"]), axis=-1))
    else:
        far = mahalanobis(x, statistics["mean"], statistics["spread"], statistics["directions"])
    return far, nearest_distance(x, statistics["references"])


@jax.jit
def _distances(params: Params, x: Float[ArrayIn, "*batch d"]) -> Distances:
    far, near = distances(params, unit(x))
    conf_maha = distance_confidence(far, params["maha_p95"], params["maha_p99"])
    conf_knn = distance_confidence(near, params["knn_p95"], params["knn_p99"])
    return Distances(far, near, conf_maha, conf_knn, jnp.minimum(conf_maha, conf_knn))


@jax.jit
def features(
    statistics: Params, x: Float[ArrayIn, "*batch d_in"], raw: Float[ArrayIn, "*batch d_out"]
) -> Float[Array, "*batch f"]:
    """Predictors of an adapter's error, in the order of `FEATURES`: two distances, one cosine, and a length.

    Regression shrinks what it does not know towards the mean, so a short output is a doubtful one.

    Args:
        statistics: Of the fit's inputs.
        x: Source embeddings.
        raw: The `store` outputs before they get unit length.
    """
    far, near = distances(statistics, unit(x))
    return stacked_features(far, near, x, statistics["mean"], raw)


@jax.jit
def stacked_features(
    far: Float[ArrayIn, "*batch"],
    near: Float[ArrayIn, "*batch"],
    x: Float[ArrayIn, "*batch d_in"],
    mean: Float[ArrayIn, " d_in"],
    raw: Float[ArrayIn, "*batch d_out"],
) -> Float[Array, "*batch f"]:
    """`features` of inputs whose distances are known."""
    cosine = unit(jnp.asarray(x)) @ unit(jnp.asarray(mean))
    length = jnp.log(jnp.sqrt(jnp.sum(jnp.square(raw), axis=-1)) + TINY)
    return jnp.stack([jnp.asarray(far), jnp.asarray(near), cosine, length], axis=-1)


@jax.jit
def standardized(scale: Params, values: Float[Array, "*batch f"]) -> Float[Array, "*batch f"]:
    """Features in standard deviations from their mean, clipped at five."""
    away = values - jnp.broadcast_to(scale["mean"], values.shape)
    return jnp.clip(away / jnp.broadcast_to(scale["deviation"], values.shape), -WIDEST, WIDEST)


@jax.jit
def squares(z: Float[Array, "*batch f"]) -> Float[Array, "*batch q"]:
    """Features and their pairwise products."""
    a, b = jnp.triu_indices(z.shape[-1])
    return jnp.concatenate([z, z[..., a] * z[..., b]], axis=-1)


def expected_cosine(head: Params, z: Float[Array, "*batch f"], x: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """Ridge regression of the cosine on features, their products, and the input."""
    return jnp.clip(squares(z) @ head["quadratic"] + x @ head["x"] + head["bias"], head["least"], head["most"])


def hit_probability(
    head: Params, z: Float[Array, "*batch f"], cosine: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Logistic regression of a hit on the features and the expected cosine."""
    return jax.nn.sigmoid(z @ head["features"] + cosine * head["cosine"] + head["bias"])


@jax.jit
def search_features(confidence: Float[ArrayIn, "*batch"], top: Float[ArrayIn, "*batch k"]) -> Float[Array, "*batch g"]:
    """Logit of a confidence, beside what a search adds to it: the best score, and how far the tenth lies below it."""
    chance = jnp.clip(jnp.asarray(confidence), TINY, 1 - TINY)
    gap = top[..., 0] - top[..., -1]
    return jnp.stack([jnp.log(chance / (1 - chance)), top[..., 0], gap, jnp.square(gap)], axis=-1)


def novelty(params: Params, z: Float[Array, "*batch f"], x: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """Probability that a vector is not of an ordinary text: not of the source model at all, or of junk."""
    foreign, junk = params["foreign"], params["junk"]
    not_source = jax.nn.sigmoid(z[..., :SOURCE_FEATURES] @ foreign["features"] + foreign["bias"])
    return jnp.maximum(not_source, jax.nn.sigmoid(x @ junk["x"] + junk["bias"]))


def _features(module: nn.Module, params: Params, x: Float[ArrayIn, "*batch d_in"]) -> Float[Array, "*batch f"]:
    """The features of inputs, in the order of `FEATURES`."""
    return features(params, x, cast(Array, module.apply({"params": params["adapter"]}, jnp.asarray(x))))


@partial(jax.jit, static_argnums=0)
def _scores(module: nn.Module, params: Params, x: Float[ArrayIn, "*batch d_in"]) -> Scores:
    d = _distances(params, x)
    if "cosine" not in params:
        unknown = jnp.full_like(d.confidence, jnp.nan)
        far, near, conf_maha, conf_knn, least = d
        return Scores(far, near, conf_maha, conf_knn, 1 - least, unknown, unknown, least)
    rows, z = unit(x), standardized(params["features"], _features(module, params, x))
    cosine = expected_cosine(params["cosine"], z, rows)
    margin = jnp.interp(cosine, params["margin"]["at"], params["margin"]["width"])
    new = novelty(params, z, rows)
    hit = hit_probability(params["hit"], z, cosine) * (1 - new)
    return Scores(d.mahalanobis, d.knn_distance, d.conf_maha, d.conf_knn, new, cosine, cosine - margin, hit)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Quality:
    """A pytree whose leaves are `params`, and a pure function `(params, x) -> Scores`.

    Its parameters hold the adapter's (`params["adapter"]`), whose output it reads: jitted together, both share it.

    Attributes:
        spec: Of the adapter whose inputs it scores.
        params: Statistics of the fit, heads that forecast the adapter's error, and the adapter's own parameters.
    """

    spec: Spec = field(metadata={"static": True})
    params: Params

    def __call__(self, params: Params, x: Float[ArrayIn, "*batch d_in"]) -> Scores:
        """Score source embeddings.

        Raises:
            BadInput: x is not of floats, or its width is not the source model's.
        """
        check_embeddings(x, self.spec.d_in, self.spec.source)
        return _scores(build(replace(self.spec, unit_norm=False)), params, x)

    def features(self, params: Params, x: Float[ArrayIn, "*batch d_in"]) -> Float[Array, "*batch f"]:
        """Predictors of the adapter's error, in the order of `FEATURES`."""
        check_embeddings(x, self.spec.d_in, self.spec.source)
        return _features(build(replace(self.spec, unit_norm=False)), params, x)

    def after_search(
        self, params: Params, confidence: Float[ArrayIn, "*batch"], top: Float[ArrayIn, "*batch k"]
    ) -> Float[Array, "*batch"]:
        """Confidence after a search, whose scores say more than the query alone: a clear winner is a good sign.

        Args:
            params: The quality part's parameters.
            confidence: Of the queries, before the search.
            top: Cosines of each `query` vector to its ten best rows of the index, descending.

        Returns:
            Probabilities that the true neighbor is among the ten; larger is better.

        Raises:
            BadInput: There are not ten scores a query, or the adapter was imported.
        """
        if "search" not in params:
            raise BadInput("An imported adapter has no confidence after a search; fit one on pairs with `fit`.")
        if top.shape[-1] != TOP:
            raise BadInput(f"top has {top.shape[-1]} scores a query; give the {TOP} largest, descending.")
        head = params["search"]
        return jax.nn.sigmoid(search_features(confidence, top) @ head["features"] + head["bias"])

    def score_target(self, params: Params, y: Float[ArrayIn, "*batch d_out"]) -> Distances:
        """Distances of vectors of the target space from the native ones of the fit.

        Raises:
            BadInput: y is not of floats, or its width is not the target model's.
        """
        check_embeddings(y, self.spec.d_out, self.spec.target)
        return _distances(params["target"], y)

    def native_similarity(self, params: Params, score: Float[ArrayIn, "*batch"]) -> Float[Array, "*batch"]:
        """Scores of `query` vectors against native ones, on the scale of similarities between native vectors.

        The map is monotone, so it changes no ranking; it is for those who compare scores with a threshold.
        """
        if "similarity" not in params:
            raise BadInput("An imported adapter has no map to native similarities; fit one on pairs with `fit`.")
        knots = params["similarity"]
        return jnp.interp(jnp.asarray(score), knots["score"], knots["native"])
