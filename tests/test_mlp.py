import jax.numpy as jnp
import numpy as np

from ea_jax.fitting import bodies
from ea_jax.fitting.fit import _cut
from ea_jax.fitting.splits import FOLDS
from ea_jax.mlp import PENALTY, mlp_start
from ea_jax.solve import covariance, moments, ridge
from ea_jax.train import Trained
from tests.conftest import toy_pairs, unit_rows


def test_it_starts_as_ridge():
    x, y = toy_pairs()
    module, params = mlp_start(x, y, width=16, depth=2)
    linear = ridge(covariance(moments(x, y)), PENALTY).apply(x)
    wanted = linear / np.linalg.norm(linear, axis=1, keepdims=True)
    np.testing.assert_allclose(module.apply({"params": params}, jnp.asarray(x)), wanted, atol=1e-5)


def test_a_seed_decides_the_network():
    x, y = toy_pairs()
    kernels = [mlp_start(x, y, 16, 1, seed)[1]["in"]["kernel"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


def test_its_network_starts_linear_at_unit_variance_whatever_the_scale_of_x():
    x, y = toy_pairs()
    for scale in (1.0, 20.0):
        module, params = mlp_start(np.float32(scale) * x, y, width=64, depth=2)
        first = np.float32(scale) * x @ params["in"]["kernel"]
        assert 0.7 < first.std() < 1.4
        wanted = (first - first.mean(1, keepdims=True)) / first.std(1, keepdims=True)
        found = module.apply({"params": params}, jnp.asarray(np.float32(scale) * x), features=True)[:, 8:]
        np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_features_of_a_network_that_stays_where_it_starts_have_unit_variance(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = unit_rows(rng, 6000, 1536), unit_rows(rng, 6000, 16)
    monkeypatch.setattr(bodies, "train", lambda _, start, *__, **___: Trained(start, 0, [], 0, 0.0))
    folds = _cut(x, y, np.arange(6000) % FOLDS, 0)
    body, _ = bodies.mlp_body(folds, 0, np.arange(6000), seed=0, show_progress=False)
    np.testing.assert_allclose(np.diag(body.covariance.xx)[1536:], 1, atol=0.2)
