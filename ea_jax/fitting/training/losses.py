"""Pure losses of a batch of outputs against row-aligned targets. Rows have unit length; smaller is better."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ea_jax.typing import ArrayIn

MASKED = -1e9  # logit of a row with itself


def contrastive_loss(
    output: Float[ArrayIn, "n d"], target: Float[ArrayIn, "n d"], temperature: float
) -> Float[Array, ""]:
    """InfoNCE loss of the outputs against all targets of the batch.

    `L = -1/n sum_i log softmax_j (o_i . t_j / temperature)_i`.

    Args:
        output: Unit rows.
        target: Unit rows; the targets of other pairs are the negatives.
        temperature: Softmax temperature; a smaller one gives the nearest negatives more weight.

    Returns:
        A loss from 0 (every output is nearest to its target); `log n` is chance level.

    Source: van den Oord et al. 2018, arXiv:1807.03748.
    """
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(output @ target.T / temperature, axis=-1)))


def neighbor_loss(output: Float[ArrayIn, "n d"], target: Float[ArrayIn, "n d"], temperature: float) -> Float[Array, ""]:
    """Divergence between the neighbors of each output and those of its target, `L = 1/n sum_i KL(p_i || q_i)`.

    `p_ij = softmax_j (t_i . t_j / temperature)` and `q_ij = softmax_j (o_i . t_j / temperature)` over all j except i: a
    query must rank the other rows, and its own target is not among them.

    Args:
        output: Unit rows.
        target: Unit rows.
        temperature: Softmax temperature; a smaller one concentrates the weight on fewer neighbors.

    Returns:
        A loss from 0 (outputs have the same neighbors as their targets, or the batch has one row).

    Source: Hinton and Roweis 2002, NIPS 15 (stochastic neighbor embedding), between two spaces; Fang et al. 2021,
    arXiv:2101.04731 (distillation of similarities).
    """
    itself = jnp.eye(len(output), dtype=bool)
    native, ours = (
        jax.nn.log_softmax(jnp.where(itself, MASKED, rows @ target.T / temperature), axis=-1)
        for rows in (target, output)
    )
    return jnp.mean(jnp.sum(jnp.exp(native) * (native - ours), axis=-1))


class LossWeights(NamedTuple):
    """Weights of the two losses, and their temperature."""

    contrastive: float = 0.5
    neighbor: float = 0.5
    temperature: float = 0.03

    def loss(self, output: Float[ArrayIn, "n d"], target: Float[ArrayIn, "n d"]) -> Float[Array, ""]:
        """Weighted sum of both losses; smaller is better."""
        contrastive = contrastive_loss(output, target, self.temperature)
        return self.contrastive * contrastive + self.neighbor * neighbor_loss(output, target, self.temperature)
