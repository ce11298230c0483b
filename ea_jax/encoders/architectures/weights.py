"""Copy the weights of a checkpoint into a parameter tree; missing and unused weights are errors."""

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
    """Where each weight of a checkpoint goes in the parameter tree.

    Attributes:
        leaves: Maps each checkpoint name to a dotted parameter path. Paths that end in `kernel` are transposed.
        ignored: Pattern of the names that the model does not need.
        prefix: Pattern of an optional prefix of every name.
    """

    leaves: Mapping[str, str]
    ignored: str = "(?!)"
    prefix: str = ""


def map_weights(weights: Mapping[str, np.ndarray], names: WeightMap, abstract: Params, dtype: str) -> Params:
    """Return the parameter tree of a checkpoint.

    Args:
        weights: Arrays by checkpoint name.
        names: Where each array goes.
        abstract: Shapes of the module's parameters.
        dtype: Dtype of stored kernels, and so of their products; everything else is float32.

    Raises:
        BadEncoder: A weight is missing, unused or of a wrong shape; the message lists them all.
    """
    named = {re.sub(rf"^({names.prefix})", "", name): value for name, value in weights.items()}
    expected = leaf_paths(abstract)
    missing = [name for name in names.leaves if name not in named]
    unused = [name for name in named if name not in names.leaves and not re.fullmatch(names.ignored, name)]
    placed = {
        path: named[name].T if path.endswith("kernel") else named[name]
        for name, path in names.leaves.items()
        if name in named
    }
    wrong_shape = [
        f"{path} {value.shape} for {expected[path].shape}"
        for path, value in placed.items()
        if value.shape != expected[path].shape
    ]
    faults = {"missing": missing, "unused": unused, "wrong shape": wrong_shape}
    if any(faults.values()):
        message = "; ".join(f"{fault}: {', '.join(paths)}" for fault, paths in faults.items() if paths)
        raise BadEncoder(f"The weights do not fit the configuration ({message}). Is config.json from another model?")
    leaves = [
        jnp.asarray(np.asarray(placed[path], np.float32), dtype if path.endswith("kernel") else jnp.float32)
        for path in expected
    ]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def dense_names(name: str, path: str, bias: bool = True) -> dict[str, str]:
    """Checkpoint names of a linear layer, and their parameter paths."""
    return {f"{name}.weight": f"{path}.kernel"} | ({f"{name}.bias": f"{path}.bias"} if bias else {})


def norm_names(name: str, path: str, bias: bool = True) -> dict[str, str]:
    """Checkpoint names of a layer norm (without bias, a root mean square norm), and their parameter paths."""
    return {f"{name}.weight": f"{path}.scale"} | ({f"{name}.bias": f"{path}.bias"} if bias else {})


def read_config(kind: str, config: Mapping, keys: Mapping[str, str], supported: Mapping[str, tuple]) -> dict:
    """Read the sizes of a config.json under our names, and refuse settings that are not implemented.

    Args:
        kind: Name of the family, for messages.
        config: Content of the file.
        keys: Maps our names to those of the file.
        supported: For each key, the implemented values; the first is the default.

    Raises:
        BadEncoder: A size is missing, or a setting is not implemented.
    """
    for key, values in supported.items():
        if config.get(key, values[0]) not in values:
            raise BadEncoder(f"config.json has {key} = {config[key]!r}; for {kind}, only {values} is implemented.")
    missing = [key for key in keys.values() if config.get(key) is None]
    if missing:
        raise BadEncoder(f"config.json lacks {', '.join(missing)}. Is it the file of a {kind} model?")
    return {name: config[key] for name, key in keys.items()}
