"""Batches of pairs, drawn from a seed: nothing has to be remembered of a draw but its step."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ea_jax.arrays import ArrayIn
from ea_jax.ops import unit


def batches(
    x: Float[ArrayIn, "n d_in"], y: Float[ArrayIn, "n d_out"], size: int, *, mixup: float, seed: int, step: int
) -> Iterator[tuple[Float[ArrayIn, "b d_in"], Float[ArrayIn, "b d_out"]]]:
    """Batches in float32 from a step on, without end.

    An epoch is a permutation of the rows that seed and epoch decide; what is left over of it is left out. Only the rows
    of a batch are read, in order, so x and y may be memory maps.

    Args:
        x: Source embeddings.
        y: Target embeddings.
        size: Pairs of a batch; all of them where there are fewer.
        mixup: Beta parameter of the mixing of pairs, of which the larger part stays a pair's own; 0 for none.
        seed: Of the permutations and of the mixing.
        step: The first batch's number.
    """
    size = min(size, len(x))
    while True:
        epoch, first = divmod(step, len(x) // size)
        order = np.random.default_rng([seed, epoch]).permutation(len(x))
        for place in range(first, len(x) // size):
            rows = np.sort(order[place * size : (place + 1) * size])
            batch = np.asarray(x[rows], np.float32), np.asarray(y[rows], np.float32)
            if mixup:
                rng = np.random.default_rng([seed, epoch, place + 1])
                share, partner = rng.beta(mixup, mixup, size).astype(np.float32), rng.permutation(size)
                yield mixed(*batch, np.maximum(share, 1 - share), partner)
            else:
                yield batch
            step += 1


@jax.jit
def mixed(
    x: Float[ArrayIn, "n d_in"], y: Float[ArrayIn, "n d_out"], share: Float[ArrayIn, " n"], partner: Int[ArrayIn, " n"]
) -> tuple[Float[Array, "n d_in"], Float[Array, "n d_out"]]:
    """Each pair mixed with a partner, `share a + (1 - share) b`, x then scaled to the length between theirs, y to one.

    Source: Zhang et al. 2018, arXiv:1710.09412 (mixup).
    """
    keep, length = share[:, None], jnp.linalg.norm(x, axis=1, keepdims=True)
    long = keep * length + (1 - keep) * length[partner]
    return long * unit(keep * x + (1 - keep) * x[partner]), unit(keep * y + (1 - keep) * y[partner])
