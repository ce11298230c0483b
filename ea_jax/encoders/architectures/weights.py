"""Weights of a checkpoint into a parameter tree: exhaustive both ways, nothing skipped in silence."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ea_jax.errors import BadEncoder
from ea_jax.typing import Params, leaf_paths


@dataclass(frozen=True)
class WeightMap:
    """Where each weight of a checkpoint goes.

    Attributes:
        leaves: Checkpoint name to dotted parameter path. A path that ends in `kernel` is stored transposed.
        ignored: Pattern of the names that the model does not need.
        prefix: Pattern of what may stand before every name.
    """

    leaves: Mapping[str, str]
    ignored: str = "(?!)"
    prefix: str = ""


def map_weights(weights: Mapping[str, np.ndarray], plan: WeightMap, abstract: Params, dtype: str) -> Params:
    """The parameter tree of a checkpoint.

    Args:
        weights: Checkpoint name to array.
        plan: Where each goes.
        abstract: Shapes of the tree that the module asks for.
        dtype: What kernels are stored in, and so multiplied in; everything else is float32.

    Raises:
        BadEncoder: Lists at once every missing, unused and wrongly shaped weight.
    """
    named = {re.sub(rf"^({plan.prefix})", "", name): value for name, value in weights.items()}
    wanted = leaf_paths(abstract)
    missing = [name for name in plan.leaves if name not in named]
    unused = [name for name in named if name not in plan.leaves and not re.fullmatch(plan.ignored, name)]
    placed = {
        path: named[name].T if path.endswith("kernel") else named[name]
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
    leaves = [
        jnp.asarray(np.asarray(placed[path], np.float32), dtype if path.endswith("kernel") else jnp.float32)
        for path in wanted
    ]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def dense(theirs: str, ours: str, bias: bool = True) -> dict[str, str]:
    """Names of a linear layer."""
    return {f"{theirs}.weight": f"{ours}.kernel"} | ({f"{theirs}.bias": f"{ours}.bias"} if bias else {})


def norm(theirs: str, ours: str, bias: bool = True) -> dict[str, str]:
    """Names of a layer norm, or without bias of a root mean square norm."""
    return {f"{theirs}.weight": f"{ours}.scale"} | ({f"{theirs}.bias": f"{ours}.bias"} if bias else {})


def read_config(kind: str, config: Mapping, keys: Mapping[str, str], supported: Mapping[str, tuple]) -> dict:
    """Numbers of a config.json by our names; a variant that would be computed wrongly is an error.

    Args:
        kind: The family, for messages.
        config: The file's content.
        keys: Our name to the file's.
        supported: For a key, the values that are computed rightly; the first is meant where the key is absent.

    Raises:
        BadEncoder: A number is missing, or a setting is not supported.
    """
    for key, values in supported.items():
        if config.get(key, values[0]) not in values:
            raise BadEncoder(f"config.json has {key} = {config[key]!r}; {kind} is computed for {values} only.")
    missing = [theirs for theirs in keys.values() if config.get(theirs) is None]
    if missing:
        raise BadEncoder(f"config.json lacks {', '.join(missing)}. Is it a {kind}'s?")
    return {ours: config[theirs] for ours, theirs in keys.items()}
