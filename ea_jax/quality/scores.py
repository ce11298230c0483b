"""Quality scores: forecast how well an adapter maps an input, by pure, jitted functions of a parameter pytree."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ea_jax.adapters.adapter import Adapter, forward
from ea_jax.adapters.families import build
from ea_jax.adapters.spec import Spec
from ea_jax.embeddings import check_embeddings, unit
from ea_jax.errors import BadInput
from ea_jax.quality.distances import distance_confidence, mahalanobis
from ea_jax.retrieval.neighbors import TOP, nearest_distance
from ea_jax.typing import ArrayIn, Params

CLIP = 5.0  # standard deviations: limits the squares of features far from those of the fit
TINY = 1e-6
FEATURES = ("mahalanobis", "knn_distance", "mean_cosine", "length")
SOURCE_FEATURES = 3  # the first features, which do not need the adapter


class Distances(NamedTuple):
    """Distances of embeddings from those of the fit (larger is worse), and confidences (larger is better)."""

    mahalanobis: Float[Array, "*batch"]
    knn_distance: Float[Array, "*batch"]
    conf_maha: Float[Array, "*batch"]
    conf_knn: Float[Array, "*batch"]
    confidence: Float[Array, "*batch"]


class Scores(NamedTuple):
    """One value of each score for every input.

    An imported adapter has no cosine forecast (nan); its confidence is the smaller of `conf_maha` and `conf_knn`, and
    its novelty is 1 minus that.

    Attributes:
        mahalanobis: Distance from the Gaussian of the fit's inputs, in standard deviations.
        knn_distance: Euclidean distance to the nearest reference, a sample of the fit's inputs.
        conf_maha: Logistic of `mahalanobis`: .8 at the 95th percentile of the fit's inputs and .2 at the 99th.
        conf_knn: The same logistic of `knn_distance`.
        novelty: Probability that the input is not the embedding of an ordinary text: a random vector, a vector of
            another model, or junk.
        expected_cosine: Expected cosine between the `store` output and the native vector.
        expected_cosine_lower: Lower bound of that cosine for nine in ten inputs like those of the fit.
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
    """Mahalanobis distance and distance to the nearest reference, for unit rows."""
    if "factor" in statistics:  # imported: the inverse covariance is F F^T
        c = x - jnp.broadcast_to(statistics["mean"], x.shape)
        gaussian = jnp.sqrt(jnp.sum(jnp.square(c @ statistics["factor"]), axis=-1))
    else:
        gaussian = mahalanobis(x, statistics["mean"], statistics["spread"], statistics["directions"])
    return gaussian, nearest_distance(x, statistics["references"])


@jax.jit
def _distances(params: Params, x: Float[ArrayIn, "*batch d"]) -> Distances:
    gaussian, knn = distances(params, unit(x))
    conf_maha = distance_confidence(gaussian, params["maha_p95"], params["maha_p99"])
    conf_knn = distance_confidence(knn, params["knn_p95"], params["knn_p99"])
    return Distances(gaussian, knn, conf_maha, conf_knn, jnp.minimum(conf_maha, conf_knn))


@jax.jit
def features(
    statistics: Params, x: Float[ArrayIn, "*batch d_in"], raw: Float[ArrayIn, "*batch d_out"]
) -> Float[Array, "*batch f"]:
    """Predictors of an adapter's error, in the order of `FEATURES`: two distances, one cosine, and a length.

    Regression shrinks uncertain outputs towards the mean, so a short output indicates a large error.

    Args:
        statistics: Statistics of the fit's inputs.
        x: Source embeddings.
        raw: The `store` outputs before normalization.
    """
    return stack_features(*distances(statistics, unit(x)), x, statistics["mean"], raw)


@jax.jit
def stack_features(
    gaussian: Float[ArrayIn, "*batch"],
    knn: Float[ArrayIn, "*batch"],
    x: Float[ArrayIn, "*batch d_in"],
    mean: Float[ArrayIn, " d_in"],
    raw: Float[ArrayIn, "*batch d_out"],
) -> Float[Array, "*batch f"]:
    """Compute `features` from known distances."""
    cosine = unit(jnp.asarray(x)) @ unit(jnp.asarray(mean))
    length = jnp.log(jnp.sqrt(jnp.sum(jnp.square(raw), axis=-1)) + TINY)
    return jnp.stack([jnp.asarray(gaussian), jnp.asarray(knn), cosine, length], axis=-1)


@jax.jit
def standardize(scale: Params, values: Float[Array, "*batch f"]) -> Float[Array, "*batch f"]:
    """Scale features to standard deviations from their mean, clipped at five."""
    centered = values - jnp.broadcast_to(scale["mean"], values.shape)
    return jnp.clip(centered / jnp.broadcast_to(scale["deviation"], values.shape), -CLIP, CLIP)


@jax.jit
def quadratic_features(z: Float[Array, "*batch f"]) -> Float[Array, "*batch q"]:
    """Append the pairwise products of the features."""
    a, b = jnp.triu_indices(z.shape[-1])
    return jnp.concatenate([z, z[..., a] * z[..., b]], axis=-1)


def expected_cosine(
    regression: Params, z: Float[Array, "*batch f"], x: Float[Array, "*batch d"]
) -> Float[Array, "*batch"]:
    """Predict the cosine by ridge regression on the features, their products, and the input."""
    cosine = quadratic_features(z) @ regression["quadratic"] + x @ regression["x"] + regression["bias"]
    return jnp.clip(cosine, regression["least"], regression["most"])


def hit_probability(
    regression: Params, z: Float[Array, "*batch f"], cosine: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Predict a hit by logistic regression on the features and the expected cosine."""
    return jax.nn.sigmoid(z @ regression["features"] + cosine * regression["cosine"] + regression["bias"])


@jax.jit
def search_features(confidence: Float[ArrayIn, "*batch"], top: Float[ArrayIn, "*batch k"]) -> Float[Array, "*batch g"]:
    """Predictors of a hit after a search: the logit of the confidence, the best score, and its lead over the tenth."""
    chance = jnp.clip(jnp.asarray(confidence), TINY, 1 - TINY)
    gap = top[..., 0] - top[..., -1]
    return jnp.stack([jnp.log(chance / (1 - chance)), top[..., 0], gap, jnp.square(gap)], axis=-1)


def novelty(params: Params, z: Float[Array, "*batch f"], x: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """Probability that a vector is not of an ordinary text: of another origin than the source model, or of junk."""
    foreign, junk = params["foreign"], params["junk"]
    not_source = jax.nn.sigmoid(z[..., :SOURCE_FEATURES] @ foreign["features"] + foreign["bias"])
    return jnp.maximum(not_source, jax.nn.sigmoid(x @ junk["x"] + junk["bias"]))


def _features(module: nn.Module, params: Params, x: Float[ArrayIn, "*batch d_in"]) -> Float[Array, "*batch f"]:
    """Compute `features` from inputs alone."""
    return features(params, x, cast(Array, module.apply({"params": params["adapter"]}, jnp.asarray(x))))


@partial(jax.jit, static_argnums=(0, 1))
def _map_and_score(
    spec: Spec, quality_spec: Spec, out: Params, params: Params, x: Float[ArrayIn, "*batch d_in"]
) -> tuple[Float[Array, "*batch d_out"], Scores]:
    y = forward(build(spec), params["adapter"] | out, x)
    return y, _scores(build(replace(quality_spec, unit_norm=False)), params, x)


@partial(jax.jit, static_argnums=0)
def _scores(module: nn.Module, params: Params, x: Float[ArrayIn, "*batch d_in"]) -> Scores:
    d = _distances(params, x)
    if "cosine" not in params:
        unknown = jnp.full_like(d.confidence, jnp.nan)
        least = d.confidence
        return Scores(d.mahalanobis, d.knn_distance, d.conf_maha, d.conf_knn, 1 - least, unknown, unknown, least)
    rows, z = unit(x), standardize(params["features"], _features(module, params, x))
    cosine = expected_cosine(params["cosine"], z, rows)
    margin = jnp.interp(cosine, params["margin"]["at"], params["margin"]["width"])
    novel = novelty(params, z, rows)
    hit = hit_probability(params["hit"], z, cosine) * (1 - novel)
    return Scores(d.mahalanobis, d.knn_distance, d.conf_maha, d.conf_knn, novel, cosine, cosine - margin, hit)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Quality:
    """A pytree whose leaves are `params`, and a pure function `(params, x) -> Scores`.

    Its parameters include those of the adapter (`params["adapter"]`), whose output it uses; when both are jitted
    together, XLA computes the output once.

    Attributes:
        spec: Spec of the adapter whose inputs are scored.
        params: Statistics of the fit, regressions that forecast the adapter's error, and the adapter's parameters.
    """

    spec: Spec = field(metadata={"static": True})
    params: Params

    def __call__(self, params: Params, x: Float[ArrayIn, "*batch d_in"] | None = None) -> Scores:
        """Score source embeddings. A row with a non-finite value has non-finite scores, and changes no other row.

        Raises:
            BadInput: x is missing, is not an array of floats, or does not have the source model's width.
        """
        if x is None:
            raise BadInput("The call lacks x. Pass the parameters first: `quality(quality.params, x)`.")
        check_embeddings(x, self.spec.d_in, self.spec.source)
        return _scores(build(replace(self.spec, unit_norm=False)), params, x)

    def map_and_score(
        self, params: Params, adapt: Adapter, x: Float[ArrayIn, "*batch d_in"]
    ) -> tuple[Float[Array, "*batch d_out"], Scores]:
        """Map source embeddings and score them in one program, which computes the layers that both need once.

        Args:
            params: The parameters of the quality part.
            adapt: The adapter of the same entry, for either purpose. Only its output layer is read.
            x: Source embeddings.

        Raises:
            BadInput: The adapter is another entry's, or x does not fit.
        """
        if replace(adapt.spec, purpose=self.spec.purpose) != self.spec:
            raise BadInput("The adapter is not that of the quality part. Load both from the same entry.")
        check_embeddings(x, self.spec.d_in, self.spec.source)
        out = {} if adapt.spec == self.spec or "out" not in adapt.params else {"out": adapt.params["out"]}
        return _map_and_score(adapt.spec, self.spec, out, params, x)

    def warm(self, rows: int = 1) -> None:
        """Compile the program for this number of rows, or read it from the compilation cache."""
        jax.block_until_ready(self(self.params, np.zeros((rows, self.spec.d_in), np.float32)))

    def features(self, params: Params, x: Float[ArrayIn, "*batch d_in"]) -> Float[Array, "*batch f"]:
        """Predictors of the adapter's error, in the order of `FEATURES`."""
        check_embeddings(x, self.spec.d_in, self.spec.source)
        return _features(build(replace(self.spec, unit_norm=False)), params, x)

    def after_search(
        self, params: Params, confidence: Float[ArrayIn, "*batch"], top: Float[ArrayIn, "*batch k"]
    ) -> Float[Array, "*batch"]:
        """Update the confidence of queries with the scores of their search results.

        Args:
            params: The parameters of the quality part.
            confidence: Confidence of the queries before the search.
            top: Cosines of each `query` vector to its ten best rows of the index, descending.

        Returns:
            Probabilities that the true neighbor is among the ten; larger is better.

        Raises:
            BadInput: `top` does not have ten scores for each query, or the adapter was imported.
        """
        if "search" not in params:
            raise BadInput("An imported adapter has no confidence after a search. Use an adapter made by `fit`.")
        if top.shape[-1] != TOP:
            raise BadInput(f"top has {top.shape[-1]} scores a query; give the {TOP} largest, descending.")
        regression = params["search"]
        return jax.nn.sigmoid(search_features(confidence, top) @ regression["features"] + regression["bias"])

    def score_target(self, params: Params, y: Float[ArrayIn, "*batch d_out"]) -> Distances:
        """Distances of target embeddings from the native vectors of the fit.

        Raises:
            BadInput: y is not an array of floats, or does not have the target model's width.
        """
        check_embeddings(y, self.spec.d_out, self.spec.target)
        return _distances(params["target"], y)

    def native_similarity(self, params: Params, score: Float[ArrayIn, "*batch"]) -> Float[Array, "*batch"]:
        """Map scores of `query` vectors against native vectors to the scale of similarities between native vectors.

        The map is monotone: it changes no ranking. Use it before comparing scores with a fixed threshold.
        """
        if "similarity" not in params:
            raise BadInput("An imported adapter has no map to native similarities. Use an adapter made by `fit`.")
        knots = params["similarity"]
        return jnp.interp(jnp.asarray(score), knots["score"], knots["native"])
