"""Weights of a checkpoint into a parameter tree: exhaustive both ways, nothing skipped in silence."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np

from ea_jax.arrays import Params, leaf_paths
from ea_jax.errors import BadEncoder


@dataclass(frozen=True)
class WeightMap:
    """Where each weight of a checkpoint goes.

    Attributes:
        leaves: Checkpoint name to dotted parameter path. A path that ends in `kernel` is stored transposed.
        ignored: Pattern of the names that the model does not need.
        prefix: Pattern of what may stand before every name.
    """

    leaves: Mapping[str, str]
    ignored: str
    prefix: str


def map_weights(weights: Mapping[str, np.ndarray], plan: WeightMap, abstract: Params) -> Params:
    """The parameter tree of a checkpoint, in float32.

    Args:
        weights: Checkpoint name to array.
        plan: Where each goes.
        abstract: Shapes of the tree that the module asks for.

    Raises:
        BadEncoder: Lists at once every missing, unused and wrongly shaped weight.
    """
    named = {re.sub(rf"^({plan.prefix})", "", name): value for name, value in weights.items()}
    wanted = leaf_paths(abstract)
    missing = [name for name in plan.leaves if name not in named]
    unused = [name for name in named if name not in plan.leaves and not re.fullmatch(plan.ignored, name)]
    placed = {
        path: named[name].T if path.endswith(".kernel") else named[name]
        for name, path in plan.leaves.items()
        if name in named
    }
    misshapen = [
        f"{path} {value.shape} for {wanted[path].shape}"
        for path, value in placed.items()
        if value.shape != wanted[path].shape
    ]
    faults = {"missing": missing, "unused": unused, "wrong shape": misshapen}
    if any(faults.values()):
        told = "; ".join(f"{what}: {', '.join(names)}" for what, names in faults.items() if names)
        raise BadEncoder(f"The weights do not fit the configuration ({told}). Is config.json from another model?")
    order = [placed[path] for path in leaf_paths(abstract)]
    return jax.tree.unflatten(jax.tree.structure(abstract), [np.asarray(a, np.float32) for a in order])
