"""Types of arrays and parameters."""

from typing import Any

import jax
import numpy as np

ArrayIn = jax.Array | np.ndarray
Params = dict[str, Any]


def leaf_paths(tree: Params) -> dict[str, Any]:
    """List the leaves of a nested dict by dotted path, in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(str(key.key) for key in path): leaf for path, leaf in leaves}
