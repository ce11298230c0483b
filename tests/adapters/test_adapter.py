import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ea_jax.adapters.adapter import Adapter, forward, truncate
from ea_jax.adapters.families import abstract_params, build
from ea_jax.adapters.spec import Spec
from ea_jax.errors import BadEntry, BadInput
from ea_jax.loading import load
from ea_jax.typing import leaf_paths

MESH = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))


def on_two_devices(f):
    def run(params, x):
        rows = jax.device_put(x, NamedSharding(MESH, PartitionSpec("rows")))
        y = f(jax.device_put(params, NamedSharding(MESH, PartitionSpec())), rows)
        assert len(y.sharding.device_set) == 2
        return y

    return run


def by_gradient(f):
    """The output, computed as the gradient of its inner product with a free vector."""

    def run(params, x):
        free = jnp.zeros((len(x), f.spec.d_out))
        return jax.grad(lambda v: jnp.sum(v * f(params, x)))(free)

    return run


def donated(f):
    run = jax.jit(lambda params, x: f(params, x), donate_argnums=1)
    return lambda params, x: run(params, x.copy())


WAYS = {
    "jit": jax.jit,
    "jit of the object": lambda f: partial(jax.jit(lambda adapter, params, x: adapter(params, x)), f),
    "vmap": lambda f: jax.vmap(f, in_axes=(None, 0)),
    "grad": by_gradient,
    "lax.map": lambda f: lambda params, x: jax.lax.map(lambda row: f(params, row), x),
    "two devices": on_two_devices,
    "donated": donated,
}


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")  # a wider output cannot reuse a narrow input
@pytest.mark.parametrize("way", WAYS)
def test_every_transform_gives_the_plain_output(adapt, way, key):
    x = jax.random.normal(key, (6, 8))
    np.testing.assert_allclose(WAYS[way](adapt)(adapt.params, x), adapt(adapt.params, x), rtol=1e-5, atol=1e-6)


def test_the_output_is_the_affine_map_of_the_stored_values(adapt, key):
    x = np.asarray(jax.random.normal(key, (2, 3, 8)), np.float64)
    y = x @ np.asarray(adapt.params["out"]["kernel"], np.float64) + np.asarray(adapt.params["out"]["bias"])
    expected = y / np.linalg.norm(y, axis=-1, keepdims=True)
    np.testing.assert_allclose(adapt(adapt.params, x.astype(np.float32)), expected, rtol=1e-5, atol=1e-6)


def test_bfloat16_gives_the_plain_output_to_its_precision(adapt, key):
    x = jax.random.normal(key, (6, 8))
    small = jax.tree.map(lambda a: a.astype(jnp.bfloat16), adapt)
    y = small(small.params, x.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    # inputs, parameters and output are each rounded to 8 bits: three roundings of at most 2^-9 of vectors of length one
    np.testing.assert_allclose(y.astype(jnp.float32), adapt(adapt.params, x), atol=3 * 2**-8)
    assert small(small.params, x).dtype == jnp.float32


def test_gradients_of_the_parameters_match_finite_differences(adapt, key):
    x = jax.random.normal(key, (4, 8))
    expected = jax.random.normal(jax.random.key(1), (4, 12))

    def loss(params):
        return jnp.mean(jnp.square(adapt(params, x) - expected))

    gradient, step = jax.grad(loss)(adapt.params)["out"]["bias"], 1e-2
    for i in (0, 7):
        up, down = (jax.tree.map(jnp.copy, adapt.params) for _ in range(2))
        up["out"]["bias"] = up["out"]["bias"].at[i].add(step)
        down["out"]["bias"] = down["out"]["bias"].at[i].add(-step)
        assert gradient[i] == pytest.approx(float(loss(up) - loss(down)) / (2 * step), rel=2e-2, abs=1e-4)


def test_a_call_reads_only_the_parameters_it_gets(adapt, key):
    x = jax.random.normal(key, (2, 8))
    zeros = jax.tree.map(jnp.zeros_like, adapt.params)
    assert np.all(np.asarray(adapt(zeros, x)) == 0)


def test_an_equal_spec_never_recompiles(toy_root, key):
    x = jax.random.normal(key, (5, 8))
    compiled = []
    for purpose in ("store", "query", "store"):
        other = load("toy/source", "toy/target", purpose=purpose, root=toy_root)
        other(other.params, x)
        compiled.append(forward._cache_size())
    assert len(set(compiled)) == 1


def test_tree_map_returns_an_adapter(adapt):
    double = jax.tree.map(lambda a: 2 * a, adapt)
    assert type(double) is type(adapt)
    assert double.spec == adapt.spec
    assert jax.tree.leaves(adapt)[0] is adapt.params["out"]["bias"]


def test_another_models_width_is_refused_with_both_widths(adapt):
    with pytest.raises(BadInput, match=r"shape \(2, 5\).*'toy/source' embeddings have width 8"):
        adapt(adapt.params, np.ones((2, 5), np.float32))


def test_a_call_without_parameters_shows_the_correct_call(adapt):  # CASES F22
    call = type(adapt).__call__.__wrapped__  # without the tests' type checker
    with pytest.raises(BadInput, match=r"`adapt\(adapt\.params, x\)`"):
        call(adapt, np.ones((2, 8), np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_non_finite_row_changes_no_other_row(adapt, value, key):  # CASES F20
    x = np.array(jax.random.normal(key, (4, 8)))
    plain = np.asarray(adapt(adapt.params, x))
    x[2, 3] = value
    y = np.asarray(adapt(adapt.params, x))
    np.testing.assert_array_equal(np.isfinite(y).all(axis=1), [True, True, False, True])
    np.testing.assert_array_equal(y[[0, 1, 3]], plain[[0, 1, 3]])


def test_the_purposes_are_two_maps_of_one_shape(toy_root, key):
    x = jax.random.normal(key, (4, 8))
    store, query = (load("toy-a", "toy-b", purpose=purpose, root=toy_root) for purpose in ("store", "query"))
    assert jax.tree.map(jnp.shape, store.params) == jax.tree.map(jnp.shape, query.params)
    assert not np.allclose(store(store.params, x), query(query.params, x), atol=1e-3)


def test_parameters_have_the_requested_sharding(toy_root):
    replicated = NamedSharding(MESH, PartitionSpec())
    adapter = load("toy-a", "toy-b", sharding=replicated, root=toy_root)
    assert all(leaf.sharding == replicated for leaf in jax.tree.leaves(adapter))


def test_the_abstract_parameters_are_what_init_would_make():
    spec = Spec("linear", "a", "b", 3, 5)
    real = build(spec).init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    assert {k: v.shape for k, v in leaf_paths(real).items()} == {
        k: v.shape for k, v in leaf_paths(abstract_params(spec)).items()
    }


def test_an_unknown_family_is_named():
    with pytest.raises(BadEntry, match=r"'linaer'\. Did you mean linear"):
        build(Spec("linaer", "a", "b", 3, 5))


@pytest.fixture
def matryoshka_root(tmp_path, toy_root):
    """The toy registry with a target whose leading dimensions are an embedding."""
    root = shutil.copytree(toy_root, tmp_path / "registry")
    text = (root / "spaces.toml").read_text().replace('aliases = ["toy-b"]', 'aliases = ["toy-b"]\nmatryoshka = true')
    (root / "spaces.toml").write_text(text)
    return root


@pytest.mark.parametrize("purpose", ["store", "query"])
def test_load_shortens_the_outputs_of_a_matryoshka_target(matryoshka_root, purpose, key):  # CASES F11
    x = jax.random.normal(key, (3, 8))
    whole = load("toy-a", "toy-b", purpose=purpose, root=matryoshka_root)
    short = load("toy-a", "toy-b", purpose=purpose, dim=5, root=matryoshka_root)
    y = np.asarray(whole(whole.params, x), np.float64)[:, :5]
    assert short.spec.d_out == 5
    np.testing.assert_allclose(short(short.params, x), y / np.linalg.norm(y, axis=1, keepdims=True), atol=1e-5)


def test_a_target_that_cannot_be_shortened_is_refused(toy_root, matryoshka_root):  # CASES F11
    with pytest.raises(BadInput, match="toy-b is not a Matryoshka model"):
        load("toy-a", "toy-b", dim=5, root=toy_root)
    with pytest.raises(BadInput, match="dim is 13; the adapter has 12 outputs"):
        load("toy-a", "toy-b", dim=13, root=matryoshka_root)
    spec = Spec("resmlp", "a", "b", 3, 5, sizes=(("depth", 1), ("width", 4)))
    with pytest.raises(BadInput, match="no output layer that can be shortened"):
        truncate(Adapter(spec, abstract_params(spec)), 2)
