import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax import kernel
from ea_jax.models import build
from ea_jax.packing import unpacked
from ea_jax.solve import Affine, cluster_centres, covariance, left_out, moments, ridge
from ea_jax.spec import Spec
from tests.conftest import unit_rows

GAMMA, PENALTY = 2.0, 0.1


@pytest.fixture(scope="module")
def pairs():
    """Pairs whose targets bend: no affine map fits them."""
    rng = np.random.default_rng(0)
    x = unit_rows(rng, 400, 6)
    y = np.tanh(3 * x @ rng.normal(size=(6, 9))) + x @ rng.normal(size=(6, 9))
    return x, (y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def machine(pairs):
    x, y = pairs
    radial = kernel.Radial.around(cluster_centres(x, 80), GAMMA, x)
    affine = ridge(covariance(moments(x, y)), 0.1)
    s = kernel.sums(radial, x, y)
    w = kernel.weights(s, radial.among, affine, PENALTY)
    return radial, affine, s, w


@pytest.mark.parametrize("rows", [5, 20])
def test_corrections_of_few_rows_and_of_many_are_what_the_weights_make(pairs, machine, rows):
    radial, affine, s, w = machine
    phi = radial(pairs[0][:rows])
    milder, found = kernel.corrections(s, radial.among, affine, (PENALTY / 10, PENALTY), phi)
    np.testing.assert_allclose(found, phi @ w, atol=1e-6)
    assert np.abs(milder - found).max() > 1e-3


def textbook(radial, x):
    z = radial.landmarks.astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return np.exp(-radial.gamma / 2 * np.square(x[:, None].astype(np.float64) - z[None]).sum(-1)), z


def test_weights_are_the_textbooks_on_the_residual(pairs, machine):
    x, y = pairs
    radial, affine, _, w = machine
    phi, z = textbook(radial, x)
    norm = np.exp(-radial.gamma / 2 * np.square(z[:, None] - z[None]).sum(-1))
    phi = phi - phi.mean(0)
    jitter = kernel.JITTER * np.trace(phi.T @ phi) / len(z) * np.eye(len(z))
    left = y - (x @ affine.kernel + affine.bias)
    wanted = phi @ np.linalg.solve(phi.T @ phi + PENALTY * norm + jitter, phi.T @ left)
    np.testing.assert_allclose(radial(x) @ w, wanted, atol=2e-4)


def test_it_bends_where_ridge_cannot(pairs, machine):
    x, y = pairs
    radial, affine, _, w = machine
    plain = np.square(y - affine.apply(x)).sum()
    assert np.square(y - affine.apply(x) - radial(x) @ w).sum() < 0.5 * plain


def test_sums_add_up_over_blocks_and_parts_and_can_be_taken_away(pairs, machine, monkeypatch):
    x, y = pairs
    radial, _, whole, _ = machine
    monkeypatch.setattr(kernel, "PRECISE", 64)
    first = kernel.sums(radial, x, y, np.arange(150))
    second = kernel.sums(radial, x, y, np.arange(150, 400))
    for a, b, c in zip(whole, first.plus(second), whole.plus(second, -1), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4)
        assert np.shape(c) == np.shape(a)
    for a, b in zip(whole.plus(second, -1), first, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_the_hat_matrix_is_that_of_both_steps(pairs, machine):
    """What the pairs' targets do to the outputs, by changing one target at a time and fitting both steps again."""
    x, y = pairs
    radial, affine, s, w = machine
    hat = kernel.hat_of(radial, s, moments(x, y), 0.1, PENALTY)(x[:40])
    before = affine.apply(x[:40]) + radial(x[:40]) @ w
    for j in (0, 17, 39):
        changed = y.copy()
        changed[j] += 1
        again = ridge(covariance(moments(x, changed)), 0.1)
        without = kernel.weights(kernel.sums(radial, x, changed), radial.among, again, PENALTY)
        after = again.apply(x[:40]) + radial(x[:40]) @ without
        np.testing.assert_allclose((after - before).mean(axis=1), hat.left @ hat.right[j], atol=2e-3)


@pytest.mark.parametrize("block", [[0], [57], [3, 4, 5, 6, 7, 8]], ids=["one", "another", "six"])
def test_left_out_outputs_are_near_those_of_fits_without_the_rows(pairs, machine, block):
    x, y = pairs
    radial, affine, s, w = machine
    rows = np.array(block)
    fitted = affine.apply(x[rows]) + radial(x[rows]) @ w
    hat = kernel.hat_of(radial, s, moments(x, y), 0.1, PENALTY)(x[rows])
    found = left_out(fitted, y[rows], hat, np.array([len(rows)]))
    others = np.delete(np.arange(400), rows)
    again = ridge(covariance(moments(x[others], y[others])), 0.1)
    without = kernel.weights(kernel.sums(radial, x, y, others), radial.among, again, PENALTY)
    wanted = again.apply(x[rows[:1]]) + radial(x[rows[:1]]) @ without
    # of two steps, which are no single least-squares problem, the formula holds to first order
    assert np.linalg.norm(found - wanted) < 0.1 * np.linalg.norm(fitted[:1] - wanted)


@pytest.mark.parametrize("rank", [9, 5])
def test_mixing_outputs_down_is_what_mixed_features_do_on_the_pairs_themselves(pairs, machine, rank):
    x, _ = pairs
    radial, _, s, w = machine
    metric = np.diag(np.linspace(0.5, 2, 9))
    features, expand = kernel.mixed(radial, w, s, metric, rank, 8)
    outputs = radial(x) @ w
    found = kernel.mixed_down(outputs, metric, rank)
    assert np.linalg.matrix_rank(found, tol=1e-3) == rank
    assert np.linalg.norm(features(x)[:, 6:] @ expand - found) < 0.05 * np.linalg.norm(outputs)
    np.testing.assert_allclose(kernel.mixed_down(found, metric, rank), found, atol=1e-3)


@pytest.mark.parametrize("rank", [9, 5])
def test_mixed_features_give_what_the_weights_give(pairs, machine, rank):
    x, _ = pairs
    radial, _, s, w = machine
    features, expand = kernel.mixed(radial, w, s, np.eye(9), rank, 8)
    found, wanted = features(x)[:, 6:] @ expand, radial(x) @ w
    u, values, v = np.linalg.svd(wanted, full_matrices=False)
    best = (u[:, :rank] * values[:rank]) @ v[:rank]
    floor = np.linalg.norm(best - wanted)
    assert np.linalg.norm(found - wanted) < 1.02 * floor + 0.02 * np.linalg.norm(wanted)


def test_the_covariance_of_features_is_numpys(pairs, machine):
    x, y = pairs
    radial, _, s, w = machine
    features, _ = kernel.mixed(radial, w, s, np.eye(9), 4, 6)
    c = features.covariance(s, moments(x, y))
    wanted = np.cov(np.hstack([features(x), y]).T.astype(np.float64), bias=True)
    np.testing.assert_allclose(c.xx, wanted[:10, :10], atol=1e-4)
    np.testing.assert_allclose(c.xy, wanted[:10, 10:], atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_module_computes_the_map_that_was_fitted(pairs, machine, dtype):
    x, _ = pairs
    radial, affine, s, w = machine
    features, expand = kernel.mixed(radial, w, s, np.eye(9), 7, 6)
    layer = Affine(np.concatenate([affine.kernel, expand]), affine.bias)
    out = {"kernel": layer.kernel.astype(np.float32), "bias": layer.bias.astype(np.float32)}
    spec = Spec("kernel", "a", "b", 6, 9, sizes=tuple(sorted(features.sizes().items())))
    found = build(spec).apply({"params": unpacked({**features.params(), "out": out}, dtype)}, jnp.asarray(x))
    wanted = layer.apply(features(x))
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    # in bfloat16 cosines and functions are rounded to 8 bits before products with exact whole numbers
    np.testing.assert_allclose(found, wanted, atol=1e-4 if dtype == "float32" else 3e-2)


def test_the_map_does_not_depend_on_the_length_of_inputs_in_its_radial_part(pairs, machine):
    radial = machine[0]
    np.testing.assert_allclose(radial(4 * pairs[0]), radial(pairs[0]), atol=1e-5)


def test_gradients_reach_every_parameter(pairs, machine):
    x, _ = pairs
    radial, affine, s, w = machine
    features, expand = kernel.mixed(radial, w, s, np.eye(9), 7, 6)
    out = {"kernel": np.concatenate([affine.kernel, expand]).astype(np.float32), "bias": affine.bias.astype(np.float32)}
    module = build(Spec("kernel", "a", "b", 6, 9, sizes=tuple(sorted(features.sizes().items()))))
    params = unpacked({**features.params(), "out": out})
    gradient = jax.grad(lambda p: module.apply({"params": p}, jnp.asarray(x))[:, 0].sum())(params)
    assert all(np.abs(np.asarray(leaf)).max() > 0 for leaf in jax.tree.leaves(gradient))
