import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.adapters.adapter import Adapter, compose, forward, truncate
from ea_jax.adapters.families import abstract_params
from ea_jax.adapters.spec import Spec
from ea_jax.errors import BadInput, UnknownName
from ea_jax.loading import load
from tests.conftest import unit_rows
from tests.registry.test_routes import write_three_spaces


def adapter(family: str, source: str, target: str, d_in: int, d_out: int, **facts) -> Adapter:
    """An adapter of random parameters."""
    spec = Spec(family, source, target, d_in, d_out, **facts)
    rng = np.random.default_rng([d_in, d_out])
    return Adapter(spec, jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f4"), abstract_params(spec)))


@pytest.fixture(scope="module")
def a_to_b():
    return adapter("linear", "a", "b", 8, 12, fingerprint="1" * 16)


@pytest.fixture(scope="module")
def b_to_c():
    return adapter("resmlp", "b", "c", 12, 5, purpose="query", fingerprint="2" * 16, sizes=(("depth", 1), ("width", 4)))


@pytest.fixture(scope="module")
def chain(a_to_b, b_to_c):
    return compose(a_to_b, b_to_c)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_three_spaces(tmp_path_factory.mktemp("three") / "registry")


WAYS = {
    "eager": lambda f: f,
    "jit": jax.jit,
    "vmap": lambda f: jax.vmap(f, in_axes=(None, 0)),
    "grad": lambda f: lambda p, x: jax.grad(lambda v: jnp.sum(v * f(p, x)))(jnp.zeros((len(x), f.spec.d_out))),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_chain_composes_its_adapters_under_every_transform(a_to_b, b_to_c, chain, way):
    x = unit_rows(np.random.default_rng(0), 6, 8)
    expected = b_to_c(b_to_c.params, a_to_b(a_to_b.params, x))
    np.testing.assert_allclose(WAYS[way](chain)(chain.params, x), expected, rtol=1e-5, atol=1e-6)


def test_two_linear_links_agree_with_float64():
    first, second = adapter("linear", "a", "b", 8, 12), adapter("linear", "b", "c", 12, 5, unit_norm=False)
    x = np.random.default_rng(0).normal(size=(2, 3, 8))
    for link in (first, second):
        x = x @ np.float64(link.params["out"]["kernel"]) + np.float64(link.params["out"]["bias"])
        x = x / np.linalg.norm(x, axis=-1, keepdims=True) if link.spec.unit_norm else x
    both = compose(first, second)
    rows = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    np.testing.assert_allclose(both(both.params, rows), x, rtol=1e-4, atol=1e-5)  # sums of 12 numbers in float32


def test_the_spec_combines_the_ends_of_the_chain(a_to_b, b_to_c, chain):
    spec = chain.spec
    assert (spec.family, spec.source, spec.target, spec.d_in, spec.d_out) == ("chain", "a", "c", 8, 5)
    assert (spec.fingerprint, spec.purpose, spec.parts) == ("1" * 16, "query", (a_to_b.spec, b_to_c.spec))
    assert jax.tree.map(jnp.shape, chain.params) == jax.tree.map(jnp.shape, abstract_params(spec))


@pytest.mark.parametrize("left", [True, False], ids=["(ab)c", "a(bc)"])
def test_chains_of_chains_are_flat(a_to_b, left):
    b_to_c, c_to_d = adapter("linear", "b", "c", 12, 5), adapter("linear", "c", "d", 5, 3)
    flat = compose(compose(a_to_b, b_to_c), c_to_d) if left else compose(a_to_b, compose(b_to_c, c_to_d))
    links = (a_to_b, b_to_c, c_to_d)
    assert flat.spec.parts == tuple(link.spec for link in links)
    assert list(flat.params) == ["links_0", "links_1", "links_2"]
    assert all(flat.params[f"links_{i}"] is link.params for i, link in enumerate(links))


def test_every_parameter_of_every_link_has_a_gradient(chain):
    x = unit_rows(np.random.default_rng(0), 6, 8)
    gradient = jax.grad(lambda params: jnp.sum(chain(params, x)[:, 0]))(chain.params)
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(gradient))


def test_a_bfloat16_chain_is_still_an_adapter(chain):
    x = unit_rows(np.random.default_rng(0), 6, 8)
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), chain)
    y = half(half.params, jnp.asarray(x, jnp.bfloat16))
    assert (type(half), half.spec, y.dtype) == (Adapter, chain.spec, jnp.bfloat16)
    # each of the four layers rounds its weights to 8 bits, and a gate and a norm stretch the error
    np.testing.assert_allclose(y.astype(jnp.float32), chain(chain.params, x), atol=0.1)


def test_an_equal_chain_never_recompiles(a_to_b, b_to_c, chain):
    x = unit_rows(np.random.default_rng(0), 5, 8)
    compiled = []
    for other in (chain, compose(a_to_b, b_to_c)):
        other(other.params, x)
        compiled.append(forward._cache_size())
    assert compiled[0] == compiled[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "z"}, r"ends in 'z' of width 12, but the second starts from 'b' of width 12.*ea-jax paths"),
        ({"d_out": 11}, r"ends in 'b' of width 11, but the second starts from 'b' of width 12"),
        ({"purpose": "query"}, r"'a' to 'b', is for queries.*purpose=\"store\""),
    ],
)
def test_links_that_do_not_fit_are_refused(a_to_b, b_to_c, change, message):
    with pytest.raises(BadInput, match=message):
        compose(Adapter(dataclasses.replace(a_to_b.spec, **change), a_to_b.params), b_to_c)


@pytest.mark.parametrize("via", ["toy-b", ["TOY/Target"], ("toy-b",)])
@pytest.mark.parametrize("purpose", ["store", "query"])
def test_load_via_composes_store_with_the_requested_purpose(root, via, purpose):
    chain = load("toy-a", "toy-c", via=via, purpose=purpose, root=root)
    first = load("toy-a", "toy-b", root=root)
    second = load("toy-b", "toy-c", purpose=purpose, root=root)
    assert chain.spec == compose(first, second).spec
    jax.tree.map(np.testing.assert_array_equal, chain.params, compose(first, second).params)


def test_several_stops_make_one_flat_chain(root):
    chain = load("toy-a", "toy-c", via=["toy-b", "toy-c", "toy-b"], purpose="query", root=root)
    assert [part.purpose for part in chain.spec.parts] == ["store", "store", "store", "query"]
    x = unit_rows(np.random.default_rng(0), 2, 8)
    assert chain(chain.params, x).shape == (2, 10)


def test_a_pair_without_the_flavor_uses_its_default_flavor(root):
    plain, large = (load("toy-a", "toy-c", via="toy-b", flavor=f, root=root) for f in (None, "large"))
    second = load("toy-b", "toy-c", flavor="large", root=root)
    jax.tree.map(np.testing.assert_array_equal, large.params["links_0"], plain.params["links_0"])
    jax.tree.map(np.testing.assert_array_equal, large.params["links_1"], second.params)
    assert large.params["links_1"] is not plain.params["links_1"]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("toy-c", "toy-a"), {"via": "toy-b"}, r"^No adapter goes from toy-b to toy-a\."),
        (("toy-a", "toy-c"), {"via": "toy-z"}, r"No model space is named 'toy-z'"),
        (("toy-a", "toy-c"), {"via": "toy-b", "flavor": "huge"}, r"toy-a to toy-b has no flavor 'huge'"),
    ],
)
def test_a_missing_hop_is_named(root, names, options, message):
    with pytest.raises(UnknownName, match=message):
        load(*names, root=root, **options)


def test_a_chain_is_shortened_in_its_last_link(a_to_b):
    chain = compose(a_to_b, adapter("linear", "b", "c", 12, 5))
    x = unit_rows(np.random.default_rng(0), 4, 8)
    short = truncate(chain, 3)
    y = np.asarray(chain(chain.params, x), np.float64)[:, :3]
    assert (short.spec.d_out, short.spec.parts[-1].d_out) == (3, 3)
    np.testing.assert_allclose(short(short.params, x), y / np.linalg.norm(y, axis=1, keepdims=True), atol=1e-5)
