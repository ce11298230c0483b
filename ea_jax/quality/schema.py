"""The stored form of a quality part: its shapes, and the conversion to parameters."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ea_jax.embeddings import unit
from ea_jax.quality.scores import FEATURES, SOURCE_FEATURES
from ea_jax.typing import Params

KNOTS, MARGINS, SEARCH_FEATURES = 64, 8, 4
# columns of the stored out-of-fold scores of the pairs of the fit:
CALIBRATION_COLUMNS = (
    "mahalanobis",
    "knn_distance",
    "novelty",
    "expected_cosine",
    "confidence",
    "confidence_after_search",
)
IMPORTED_SIZES = ("references", "target_references")
QUALITY_SIZES = ("references", "directions", "target_references", "target_directions", "calibration")


def quality_sizes(stored: Params) -> dict[str, int]:
    """Sizes that determine the shapes of a stored quality part, together with the widths of the adapter."""
    counts = [len(stored["references"]), stored["directions"].shape[1]]
    counts += [len(stored["target"]["references"]), stored["target"]["directions"].shape[1]]
    counts += [len(stored["calibration"]["found"])]
    return dict(zip(QUALITY_SIZES, counts, strict=True))


def abstract_quality(d_in: int, d_out: int, sizes: Mapping[str, int]) -> Params:
    """Shapes and dtypes of the quality part that an entry stores.

    `calibration.found` is 1 for each pair whose true neighbor is among the first ten results.
    """

    def array(*shape: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    def statistics(d: int, prefix: str = "") -> Params:
        numbers = dict.fromkeys(("spread", "maha_p95", "maha_p99", "knn_p95", "knn_p99"), array())
        return numbers | {
            "mean": array(d),
            "directions": array(d, sizes[f"{prefix}directions"], dtype=jnp.float16),
            "variances": array(sizes[f"{prefix}directions"]),
            "references": array(sizes[f"{prefix}references"], d, dtype=jnp.int8),
        }

    f, n = len(FEATURES), sizes["calibration"]
    cosine = {"quadratic": array(f + f * (f + 1) // 2), "x": array(d_in)}
    return statistics(d_in) | {
        "target": statistics(d_out, "target_"),
        "similarity": dict.fromkeys(("score", "native"), array(KNOTS)),
        "features": dict.fromkeys(("mean", "deviation"), array(f)),
        "cosine": cosine | dict.fromkeys(("bias", "least", "most"), array()),
        "margin": dict.fromkeys(("at", "width"), array(MARGINS)),
        "hit": {"features": array(f), "cosine": array(), "bias": array()},
        "search": {"features": array(SEARCH_FEATURES), "bias": array()},
        "foreign": {"features": array(SOURCE_FEATURES), "bias": array()},
        "junk": {"x": array(d_in), "bias": array()},
        "calibration": {"scores": array(n, len(CALIBRATION_COLUMNS)), "found": array(n, dtype=jnp.int8)},
    }


def imported_sizes(quality: Params) -> dict[str, int]:
    """`quality_sizes` an imported adapter's statistics."""
    return dict(zip(IMPORTED_SIZES, (len(part["references"]) for part in (quality, quality["target"])), strict=True))


def abstract_imported(d_in: int, d_out: int, sizes: Mapping[str, int]) -> Params:
    """Shapes and dtypes of the statistics of an imported adapter, which has no regressions."""

    def statistics(d: int, references: int) -> Params:
        shapes = {"mean": (d,), "factor": (d, d), "references": (references, d)}
        shapes |= dict.fromkeys(("maha_p95", "maha_p99", "knn_p95", "knn_p99"), ())
        return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}

    return statistics(d_in, sizes["references"]) | {"target": statistics(d_out, sizes["target_references"])}


def prepare_quality(stored: Params) -> Params:
    """Convert a stored quality part to parameters: float32, with references of unit length."""
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), stored)
    if "target" in params:
        params["target"] = prepare_quality(params["target"])
    return params | {"references": unit(params["references"])}
