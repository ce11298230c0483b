"""Random batches of pairs."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Float32, Int

from ea_jax.typing import ArrayIn


def batches(
    x: Float[ArrayIn, "n d_in"],
    y: Float[ArrayIn, "n d_out"],
    size: int,
    *,
    seed: int,
    rows: Int[np.ndarray, " k"] | None = None,
) -> Iterator[tuple[Float32[np.ndarray, "b d_in"], Float32[np.ndarray, "b d_out"]]]:
    """Yield batches in float32, endlessly.

    Each epoch is a new permutation of the rows; it skips the rows that do not fill a batch. A batch reads only its own
    rows, in order, so x and y may be memory maps.

    Args:
        x: Source embeddings.
        y: Target embeddings.
        size: Pairs in a batch; all pairs if there are fewer.
        seed: Random seed of the permutations.
        rows: Row numbers to use, ascending; all rows if None.
    """
    rows = np.arange(len(x)) if rows is None else rows
    size, epoch = min(size, len(rows)), 0
    while True:
        order = rows[np.random.default_rng([seed, epoch]).permutation(len(rows))]
        for start in range(0, len(rows) - size + 1, size):
            batch = np.sort(order[start : start + size])
            yield np.asarray(x[batch], np.float32), np.asarray(y[batch], np.float32)
        epoch += 1
