"""The table of families, and their formulas."""

import sys
from types import ModuleType

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.adapters.families import FAMILIES, Family, abstract_params, radial
from ea_jax.adapters.spec import Spec
from ea_jax.embeddings import unit
from ea_jax.errors import BadInput
from ea_jax.fitting import check_family
from ea_jax.fitting.features import Features, fitted_families
from ea_jax.loading import load
from tests.conftest import toy_pairs, write_toy_registry


@pytest.mark.parametrize("name", FAMILIES)
def test_the_table_agrees_with_the_modules(name):
    family = FAMILIES[name]
    params = abstract_params(Spec(name, "a", "b", 3, 5, sizes=tuple((size, 2) for size in family.sizes)))
    assert family.int8_leaves <= params.keys()
    assert ("out" in params) == (name in fitted_families())


def test_descriptions_state_the_sizes():
    assert FAMILIES["linear"].describe({}) == "One affine map"
    assert FAMILIES["resmlp"].describe({"depth": 8, "width": 1536}).endswith(" (width 1,536, depth 8)")


def test_an_unknown_family_of_a_fit_is_refused_with_descriptions():
    with pytest.raises(BadInput, match=r"one of linear, kernel, auto\. linear: One affine map; kernel: One affine map"):
        check_family("cubic")


class Doubled(nn.Module):
    """An affine map of twice the input."""

    d_out: int
    unit_norm: bool
    factor: int

    @nn.compact
    def __call__(self, x):
        return unit(nn.Dense(self.d_out, name="out")(self.factor * x))


def test_a_new_family_is_one_row_and_one_fit(monkeypatch, tmp_path):
    module = ModuleType("ea_jax.fitting.doubled")
    module.fit = lambda x, y, seed: Features("doubled", {"factor": 2}, {}, 2 * np.asarray(x))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(
        FAMILIES, "doubled", Family(Doubled, "An affine map of multiples", ("factor",), fit_features="doubled:fit")
    )
    root = write_toy_registry(tmp_path / "registry", family="doubled")
    doubled = load("toy-a", "toy-b", root=root)
    x, y = toy_pairs()
    outputs = doubled(doubled.params, x.astype(np.float32))
    assert np.sum(np.asarray(outputs) * y, axis=1).mean() > 0.9
    (card,) = root.rglob("card.md")
    assert "An affine map of multiples (factor 2) from embeddings of" in card.read_text()


def test_radial_functions_are_gaussians_of_the_distance_on_the_sphere():
    rng = np.random.default_rng(0)
    x, z = (np.asarray(unit(jnp.asarray(rng.normal(size=(n, 6)), jnp.float32))) for n in (4, 7))
    squared = np.square(x[:, None].astype(np.float64) - z[None]).sum(-1)
    expected = 0.7 * np.exp(-0.5 * squared / 2) + 0.3 * np.exp(-3 * squared / 2)
    gamma, weight = jnp.asarray([0.5, 3.0]), jnp.asarray([0.7, 0.3])
    actual = radial(jnp.asarray(x @ (5 * z).T), jnp.full(7, 0.2), gamma, weight)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
