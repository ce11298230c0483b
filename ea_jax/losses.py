"""Pure losses of a batch of outputs against row-aligned targets, both of unit rows; smaller is better in each."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ea_jax.arrays import ArrayIn

OWN = -1e9  # the score of a row for itself, where it does not count


def cosine_loss(output: Float[ArrayIn, "n d"], target: Float[ArrayIn, "n d"]) -> Float[Array, ""]:
    """Mean cosine distance, `L = 1 - 1/n sum_i o_i . t_i`.

    Returns:
        From 0 (every output is its target) to 2 (every one is opposite); smaller is better.
    """
    return 1 - jnp.mean(jnp.sum(output * target, axis=-1))


def relational_loss(output: Float[ArrayIn, "n d"], target: Float[ArrayIn, "n d"]) -> Float[Array, ""]:
    """Mean squared difference of similarities within the batch, `L = 1/(n (n - 1)) sum_{i != j} (o_i.o_j - t_i.t_j)^2`.

    It asks for the right angles between outputs and not for the right directions: a rotation of all outputs changes
    nothing. A batch of one row has no relations, and no loss.

    Returns:
        From 0 (every similarity is the native one) to 4; smaller is better.

    Source: Park et al. 2019, arXiv:1904.05068 (distance-wise), with cosines in place of distances.
    """
    n = len(output)
    off = jnp.square(output @ output.T - target @ target.T) * (1 - jnp.eye(n))
    return jnp.sum(off) / max(n * (n - 1), 1)


def contrastive_loss(
    output: Float[ArrayIn, "n d"], target: Float[ArrayIn, "n d"], temperature: float
) -> Float[Array, ""]:
    """InfoNCE of each output against the batch's targets, `L = -1/n sum_i log softmax_j(o_i . t_j / temperature)_i`.

    Args:
        output: Unit rows.
        target: Unit rows; those of the other pairs are what an output has to stay away from.
        temperature: The smaller, the more the nearest of the wrong targets weigh.

    Returns:
        From 0 (every output finds its target) upwards; smaller is better, and `log n` is chance.

    Source: van den Oord et al. 2018, arXiv:1807.03748.
    """
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(output @ target.T / temperature, axis=-1)))


def neighbour_loss(
    output: Float[ArrayIn, "n d"], target: Float[ArrayIn, "n d"], temperature: float
) -> Float[Array, ""]:
    """How far an output's neighbours in the batch are from its target's, `L = 1/n sum_i KL(p_i || q_i)`.

    `p_ij = softmax_j (t_i . t_j / temperature)` and `q_ij = softmax_j (o_i . t_j / temperature)` over all j but i: what
    a query has to rank are the other rows, and a row's own target is not one of them.

    Args:
        output: Unit rows.
        target: Unit rows.
        temperature: The smaller, the fewer neighbours weigh.

    Returns:
        From 0 (outputs see their neighbours as their targets do, or there is one row) upwards; smaller is better.

    Source: Hinton and Roweis 2002, NIPS 15 (stochastic neighbour embedding), between two spaces; Fang et al. 2021,
    arXiv:2101.04731 (distillation of similarities).
    """
    own = jnp.eye(len(output), dtype=bool)
    native, ours = (
        jax.nn.log_softmax(jnp.where(own, OWN, rows @ target.T / temperature), axis=-1) for rows in (target, output)
    )
    return jnp.mean(jnp.sum(jnp.exp(native) * (native - ours), axis=-1))


class Terms(NamedTuple):
    """Weights of the terms of a loss; a term of weight 0 is not computed. The last two terms have a `temperature`."""

    cosine: float = 1.0
    relational: float = 0.0
    contrastive: float = 0.0
    neighbour: float = 0.0
    temperature: float = 0.05

    def loss(self, output: Float[ArrayIn, "n d"], target: Float[ArrayIn, "n d"]) -> Float[Array, ""]:
        """Weighted sum of the terms; smaller is better."""
        terms = (
            (self.cosine, cosine_loss),
            (self.relational, relational_loss),
            (self.contrastive, partial(contrastive_loss, temperature=self.temperature)),
            (self.neighbour, partial(neighbour_loss, temperature=self.temperature)),
        )
        return sum((weight * loss(output, target) for weight, loss in terms if weight), jnp.zeros(()))
