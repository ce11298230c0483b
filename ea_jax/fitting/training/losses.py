"""Pure losses of a batch of outputs against row-aligned targets, both of unit rows; smaller is better in each."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ea_jax.typing import ArrayIn

OWN = -1e9  # the score of a row for itself, where it does not count


def contrastive_loss(
    output: Float[ArrayIn, "n d"], target: Float[ArrayIn, "n d"], temperature: float
) -> Float[Array, ""]:
    """InfoNCE of each output against the batch's targets, `L = -1/n sum_i log softmax_j(o_i . t_j / temperature)_i`.

    Args:
        output: Unit rows.
        target: Unit rows; those of the other pairs are the negatives.
        temperature: The smaller, the more the nearest negatives weigh.

    Returns:
        From 0 (every output finds its target) upwards; smaller is better, and `log n` is chance.

    Source: van den Oord et al. 2018, arXiv:1807.03748.
    """
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(output @ target.T / temperature, axis=-1)))


def neighbor_loss(output: Float[ArrayIn, "n d"], target: Float[ArrayIn, "n d"], temperature: float) -> Float[Array, ""]:
    """How far an output's neighbors in the batch are from its target's, `L = 1/n sum_i KL(p_i || q_i)`.

    `p_ij = softmax_j (t_i . t_j / temperature)` and `q_ij = softmax_j (o_i . t_j / temperature)` over all j but i: a
    query has to rank the other rows, and its own target is not one of them.

    Args:
        output: Unit rows.
        target: Unit rows.
        temperature: The smaller, the fewer neighbors weigh.

    Returns:
        From 0 (outputs see their neighbors as their targets do, or there is one row) upwards; smaller is better.

    Source: Hinton and Roweis 2002, NIPS 15 (stochastic neighbor embedding), between two spaces; Fang et al. 2021,
    arXiv:2101.04731 (distillation of similarities).
    """
    own = jnp.eye(len(output), dtype=bool)
    native, ours = (
        jax.nn.log_softmax(jnp.where(own, OWN, rows @ target.T / temperature), axis=-1) for rows in (target, output)
    )
    return jnp.mean(jnp.sum(jnp.exp(native) * (native - ours), axis=-1))


class Terms(NamedTuple):
    """Weights of the two losses, and their temperature."""

    contrastive: float = 0.5
    neighbor: float = 0.5
    temperature: float = 0.03

    def loss(self, output: Float[ArrayIn, "n d"], target: Float[ArrayIn, "n d"]) -> Float[Array, ""]:
        """Weighted sum of both; smaller is better."""
        contrastive = contrastive_loss(output, target, self.temperature)
        return self.contrastive * contrastive + self.neighbor * neighbor_loss(output, target, self.temperature)
