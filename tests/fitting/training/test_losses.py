from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.fitting.training.losses import LossWeights, contrastive_loss, neighbor_loss
from tests.conftest import unit_rows

SOFT = tuple(partial(loss, temperature=0.05) for loss in (contrastive_loss, neighbor_loss))


def rows():
    rng = np.random.default_rng(0)
    return unit_rows(rng, 7, 5), unit_rows(rng, 7, 5)


def infonce(output, target, temperature):
    logits = output.astype(np.float64) @ target.astype(np.float64).T / temperature
    return np.mean([np.log(np.exp(row - row.max()).sum()) + row.max() - row[i] for i, row in enumerate(logits)])


@pytest.mark.parametrize("temperature", [0.01, 0.05, 1.0])
def test_the_contrastive_loss_agrees_with_numpy(temperature):
    # the logits are up to 1 / temperature, and float32 carries seven digits of them
    np.testing.assert_allclose(
        contrastive_loss(*rows(), temperature), infonce(*rows(), temperature), rtol=1e-6, atol=2e-7 / temperature
    )


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
def test_the_neighbor_loss_agrees_with_numpy(temperature):
    def others(row, i):
        weight = np.exp((row - row.max()) / temperature)
        weight[i] = 0
        return weight / weight.sum()

    o, t = (a.astype(np.float64) for a in rows())
    expected = 0
    for i in range(7):
        p, q = others(t[i] @ t.T, i), others(o[i] @ t.T, i)
        expected += sum(p[j] * np.log(p[j] / q[j]) for j in range(7) if j != i) / 7
    np.testing.assert_allclose(neighbor_loss(*rows(), temperature), expected, rtol=2e-5)


def test_the_neighbor_loss_depends_only_on_the_other_rows():
    """A component orthogonal to all targets does not change the loss."""
    o, t = rows()
    assert abs(neighbor_loss(t, t, 0.05)) < 1e-6
    wide = np.concatenate([t, np.zeros_like(t)], axis=1)
    off = np.concatenate([t, np.ones_like(t)], axis=1)  # orthogonal to all targets
    assert abs(neighbor_loss(off, wide, 0.05)) < 1e-6
    assert neighbor_loss(o, t, 0.05) > 0.1


def test_the_contrastive_loss_ranges_from_zero_to_chance():
    o = np.eye(6, dtype=np.float32)
    assert contrastive_loss(o, o, 0.01) < 1e-6
    np.testing.assert_allclose(contrastive_loss(np.ones_like(o), o, 0.05), np.log(6), rtol=1e-6)


def test_loss_weights_give_a_weighted_sum():
    o, t = rows()
    expected = 0.3 * infonce(o, t, 0.1) + 2 * float(neighbor_loss(o, t, 0.1))
    np.testing.assert_allclose(LossWeights(0.3, 2.0, 0.1).loss(o, t), expected, rtol=1e-5)


def test_the_order_of_pairs_does_not_change_a_loss():
    o, t = rows()
    order = np.random.default_rng(1).permutation(7)
    for loss in SOFT:
        np.testing.assert_allclose(loss(o[order], t[order]), loss(o, t), rtol=1e-6)


def test_one_pair_alone_has_finite_losses_and_gradients():
    o, t = (jnp.asarray(a[:1]) for a in rows())
    for loss in SOFT:
        value, gradient = jax.value_and_grad(loss)(o, t)
        assert value == 0
        assert np.all(np.asarray(gradient) == 0)
