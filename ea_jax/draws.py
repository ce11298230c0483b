"""Random batches of pairs from a seed."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Float32

from ea_jax.arrays import ArrayIn


def batches(
    x: Float[ArrayIn, "n d_in"], y: Float[ArrayIn, "n d_out"], size: int, *, seed: int
) -> Iterator[tuple[Float32[np.ndarray, "b d_in"], Float32[np.ndarray, "b d_out"]]]:
    """Batches in float32, without end.

    Each epoch is a new permutation of the rows; rows that do not fill a batch are left out of it. Only the rows of a
    batch are read, in order, so x and y may be memory maps.

    Args:
        x: Source embeddings.
        y: Target embeddings.
        size: Pairs of a batch; all of them where there are fewer.
        seed: Of the permutations.
    """
    size, epoch = min(size, len(x)), 0
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(len(x))
        for start in range(0, len(x) - size + 1, size):
            rows = np.sort(order[start : start + size])
            yield np.asarray(x[rows], np.float32), np.asarray(y[rows], np.float32)
        epoch += 1
