"""How well an adapter will do on an input: pure, jitted scores over a parameter pytree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ea_jax.arrays import ArrayIn, Params
from ea_jax.errors import BadInput
from ea_jax.models import Linear, build
from ea_jax.ops import check_embeddings, distance_confidence, mahalanobis, nearest_distance, unit
from ea_jax.spec import Spec

WIDEST = 5.0  # deviations from the mean at which a feature is cut, so that squares stay near what was fitted
BANDWIDTH = 2.0
TINY = 1e-6
FEATURES = ("mahalanobis", "knn_distance", "length", "affine length", "agreement")
REPORTED = ("confidence", "expected_cosine", "expected_cosine_lower", "novelty")
SURE, DOUBTFUL, SHOWN = 0.8, 0.5, 60


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
        knn_distance: Chord length to the nearest of their cluster centres.
        conf_maha: Logistic of the first, .8 at the 95th percentile of the fit's inputs and .2 at the 99th.
        conf_knn: The same of the second.
        novelty: Probability of being junk rather than text; without junk at the fit, 1 less the smaller of the two.
        expected_cosine: Expectation of the cosine between the `store` output and the native vector.
        expected_cosine_lower: What that cosine exceeds for nine inputs in ten that are like those of the fit.
        confidence: Probability that the `query` output has the native top hit among its first ten.
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
    far: Float[ArrayIn, "*batch"],
    near: Float[ArrayIn, "*batch"],
    raw: Float[ArrayIn, "*batch d_out"],
    linear: Float[ArrayIn, "*batch d_out"] | None,
) -> Float[Array, "*batch f"]:
    """What an adapter's error shows in: both distances, the length of its output, and what its affine part says.

    Regression shrinks what it does not know towards the mean, so a short output is a doubtful one; and where the affine
    part and the whole disagree, one of them errs.

    Args:
        far: Mahalanobis distance of the input.
        near: Its distance to the nearest reference.
        raw: The `store` output before it gets length one.
        linear: What the affine part alone puts out; None where that is all there is.
    """

    def length(y: Float[ArrayIn, "*batch d"]) -> Float[Array, "*batch"]:
        return jnp.log(jnp.sqrt(jnp.sum(jnp.square(y), axis=-1)) + TINY)

    found = [jnp.asarray(far), jnp.asarray(near), length(raw)]
    if linear is not None:
        found += [length(linear), jnp.sum(unit(raw) * unit(linear), axis=-1)]
    return jnp.stack(found, axis=-1)


@jax.jit
def standardised(scale: Params, found: Float[Array, "*batch f"]) -> Float[Array, "*batch f"]:
    """Features less their mean, in deviations, cut at five."""
    away = found - jnp.broadcast_to(scale["mean"], found.shape)
    return jnp.clip(away / jnp.broadcast_to(scale["deviation"], found.shape), -WIDEST, WIDEST)


@jax.jit
def squares(z: Float[Array, "*batch f"]) -> Float[Array, "*batch q"]:
    """Features, and their products two by two."""
    a, b = jnp.triu_indices(z.shape[-1])
    return jnp.concatenate([z, z[..., a] * z[..., b]], axis=-1)


@jax.jit
def bumps(x: Float[Array, "*batch d"], references: Float[Array, "m d"]) -> Float[Array, "*batch m"]:
    """Radial functions of unit rows around the references."""
    return jnp.exp(BANDWIDTH * (x @ references.T - 1))


def expected(head: Params, z: Float[Array, "*batch f"], x: Float[Array, "*batch d"], references: Float[Array, "m d"]):
    """Ridge regression of the cosine on features and their squares, the input, and bumps around references."""
    found = squares(z) @ head["quadratic"] + x @ head["x"] + bumps(x, references) @ head["radial"] + head["bias"]
    return jnp.clip(found, head["least"], head["most"])


def probability(head: Params, z: Float[Array, "*batch f"], cosine: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Logistic regression of a hit on the features and the expected cosine."""
    return jax.nn.sigmoid(z @ head["features"] + cosine * head["cosine"] + head["bias"])


def _read(module: nn.Module, params: Params, x: Float[ArrayIn, "*batch d_in"]) -> Float[Array, "*batch f"]:
    """The features of inputs, by name `FEATURES`."""
    raw = cast(Array, module.apply({"params": params["adapter"]}, jnp.asarray(x)))
    linear = None
    if not isinstance(module, Linear):
        out = params["adapter"]["out"]
        linear = x @ out["kernel"][: x.shape[-1]]
        linear = linear + jnp.broadcast_to(out["bias"], linear.shape)
    return features(*distances(params, unit(x)), raw, linear)


@partial(jax.jit, static_argnums=0)
def _scores(module: nn.Module, params: Params, x: Float[ArrayIn, "*batch d_in"]) -> Scores:
    if "cosine" not in params:
        d = _distances(params, x)
        unknown = jnp.full_like(d.confidence, jnp.nan)
        far, near, conf_maha, conf_knn, least = d
        return Scores(far, near, conf_maha, conf_knn, 1 - least, unknown, unknown, least)
    read, d = _read(module, params, x), _distances(params, x)
    rows, z = unit(x), standardised(params["features"], read)
    cosine = expected(params["cosine"], z, rows, params["references"])
    margin = jnp.interp(cosine, params["margin"]["at"], params["margin"]["width"])
    junk = params["junk"]
    is_junk = jax.nn.sigmoid(rows @ junk["x"] + junk["bias"])
    novelty = jnp.where(junk["known"] > 0, is_junk, 1 - d.confidence)
    said = probability(params["hit"], z, cosine) * (1 - jnp.where(junk["known"] > 0, is_junk, 0.0))
    hit = jnp.interp(said, params["chance"]["said"], params["chance"]["found"])
    return Scores(d.mahalanobis, d.knn_distance, d.conf_maha, d.conf_knn, novelty, cosine, cosine - margin, hit)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Quality:
    """A pytree whose leaves are `params`, and a pure function `(params, x) -> Scores`.

    Its parameters hold the adapter's (`params["adapter"]`), whose output it reads: jitted together, both share it.

    Attributes:
        spec: Of the adapter whose inputs it judges.
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
        """What the forecasts are made of, in the order of `FEATURES`; of a linear adapter, the first three."""
        check_embeddings(x, self.spec.d_in, self.spec.source)
        return _read(build(replace(self.spec, unit_norm=False)), params, x)

    def score_target(self, params: Params, y: Float[ArrayIn, "*batch d_out"]) -> Distances:
        """How far vectors that are said to be of the target space lie from the native ones of the fit.

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


def interpret_quality(
    texts: Sequence[str], scores: Scores | Mapping[str, Float[ArrayIn, " n"]], space_label: str = "source"
) -> str:
    """A report for people: each text with its confidence, its expected cosine, and what to do with it.

    Args:
        texts: What was embedded.
        scores: What a `Quality` said of it, or the same by name.
        space_label: What to call the space of the embeddings.

    Raises:
        BadInput: There are not as many scores as texts.
    """
    by_name = scores._asdict() if isinstance(scores, Scores) else dict(scores)
    columns = {name: [float(v) for v in jnp.ravel(jnp.asarray(by_name[name]))] for name in REPORTED}
    if any(len(column) != len(texts) for column in columns.values()):
        raise BadInput(
            f"There are {len(texts)} texts and {len(columns['confidence'])} scores; they must be row-aligned."
        )
    lines = [f"{len(texts)} texts, by their embeddings in the {space_label} space:"]
    for text, confidence, cosine, lower, novelty in zip(texts, *columns.values(), strict=True):
        shown = " ".join(text.split())
        shown = shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + "…"
        said = f"expected cosine {cosine:.2f} (nine in ten above {lower:.2f})"
        lines.append(f"- {shown!r}: confidence {confidence:.2f}, {said}: {_verdict(confidence, novelty)}.")
    sure = sum(confidence >= SURE for confidence in columns["confidence"])
    lines.append(f"{sure} of {len(texts)} can be asked with confidence; send the others to the provider.")
    return "\n".join(lines)


def _verdict(confidence: float, novelty: float) -> str:
    if novelty > SURE:
        return "unlike the texts of the fit, perhaps junk"
    if confidence >= SURE:
        return "typical, its native top hit should be among the first ten"
    return "doubtful" if confidence >= DOUBTFUL else "hard for this adapter, better sent to the provider"
