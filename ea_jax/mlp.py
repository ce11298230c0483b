"""Where the training of a network begins: at what the pairs give in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ea_jax.arrays import Params
from ea_jax.models import MLP
from ea_jax.solve import covariance, moments, ridge

PENALTY = 0.01


def mlp_start(
    x: Float[np.ndarray, "n d_in"], y: Float[np.ndarray, "n d_out"], width: int, depth: int, seed: int = 0
) -> tuple[MLP, Params]:
    """An MLP that starts as ridge regression of the pairs: its last layer does not read the network's features yet.

    Its first layer is scaled so that features have unit variance, and each block starts as the identity: the network
    starts linear, and bends as far as that helps.

    Source: Zhang et al. 2019, arXiv:1901.09321 (Fixup), for blocks that start at zero.
    """
    module = MLP(y.shape[1], True, width, depth)
    start = module.init(jax.random.key(seed), jnp.asarray(x[:1]))["params"]
    params = {name: {k: np.asarray(v) for k, v in layer.items()} for name, layer in start.items()}
    m = moments(x, y)
    params["in"]["kernel"] = params["in"]["kernel"] * np.float32(np.sqrt(x.shape[1] * m.n / np.trace(m.xx)))
    for block in range(depth):
        params[f"down_{block}"]["kernel"] = np.zeros((width, width), np.float32)
    linear = ridge(covariance(m), PENALTY)
    kernel = np.vstack([linear.kernel, np.zeros((width, y.shape[1]))]).astype(np.float32)
    return module, {**params, "out": {"kernel": kernel, "bias": linear.bias.astype(np.float32)}}
