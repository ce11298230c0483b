import numpy as np
import pytest

from ea_jax import packing
from tests.conftest import unit_rows


@pytest.fixture(scope="module")
def features():
    """Rows with a few strong common directions, as radial functions have."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(2000, 24)) @ np.diag(2.0 ** -np.arange(24)) @ rng.normal(size=(24, 64))


@pytest.mark.parametrize("bits", [3, 5, 8])
def test_rounding_for_the_inputs_errs_less_than_rounding_to_nearest(features, bits):
    w = np.random.default_rng(1).normal(size=(64, 10))
    grid = packing.rounded(w, features.T @ features, bits)
    nearest = np.clip(np.rint(w / grid.scale), -127, 127)

    def error(values):
        return np.linalg.norm(features @ (values * grid.scale - w))

    assert error(grid.values.astype(np.float64)) < 0.3 * error(nearest)
    assert grid.values.dtype == np.int8
    assert np.abs(grid.values * grid.scale - w).max() < 4 * grid.scale.max()


def test_more_bits_err_less(features):
    w = np.random.default_rng(1).normal(size=(64, 10))
    errors = []
    for bits in (3, 5, 7):
        grid = packing.rounded(w, features.T @ features, bits)
        errors.append(np.linalg.norm(features @ (grid.values * grid.scale.astype(np.float64) - w)))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_inputs_without_relations_are_rounded_to_nearest():
    w = np.random.default_rng(1).normal(size=(300, 5))  # more rows than a block
    grid = packing.rounded(w, np.eye(300), 6)
    np.testing.assert_array_equal(grid.values, np.rint(w / grid.scale))


@pytest.mark.parametrize("bits", [4, 6])
def test_a_grid_needs_about_as_many_bits_as_were_asked_for(bits):
    w = np.random.default_rng(1).normal(size=(20_000, 2))
    grid = packing.rounded(w[:200], np.eye(200), bits)
    _, counts = np.unique(np.rint(w / grid.scale), return_counts=True)
    share = counts / counts.sum()
    assert -np.sum(share * np.log2(share)) == pytest.approx(bits, abs=0.25)


def test_an_outlier_stretches_its_columns_grid_and_is_kept():
    w = np.random.default_rng(1).normal(size=(50, 2))
    w[3, 0] = 1000
    grid = packing.rounded(w, np.eye(50), 8)
    assert (grid.values * grid.scale)[3, 0] == pytest.approx(1000, rel=1e-2)


def test_directions_are_kept_by_whole_numbers():
    x = unit_rows(np.random.default_rng(0), 30, 64)
    values = packing.nearest_grid(x, 127).values.astype(np.float64)
    assert np.min(np.sum(x * values, axis=1) / np.linalg.norm(values, axis=1)) > 0.9999


def test_unpacking_multiplies_grids_out_and_casts_whole_numbers():
    grid = packing.Grid(np.array([[1, -2]], np.int8), np.array([0.5, 0.25], np.float32))
    tree = {
        "mix": np.array([[3, -127]], np.int8),
        "out": {"kernel": packing.packed(grid), "bias": np.ones(2, np.float16)},
    }
    found = packing.unpacked(tree, "bfloat16")
    np.testing.assert_array_equal(found["out"]["kernel"], [[0.5, -0.5]])
    np.testing.assert_array_equal(found["mix"].astype(np.float32), [[3, -127]])
    assert [str(found["mix"].dtype), str(found["out"]["bias"].dtype)] == ["bfloat16", "float32"]
