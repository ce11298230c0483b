import numpy as np
import pytest

from ea_jax.adapters import quantization as packing
from tests.conftest import unit_rows


def test_codes_are_the_nearest_of_their_columns_grid():
    w = np.random.default_rng(1).normal(size=(300, 5)) * [1, 10, 0.1, 3, 1e-4]
    grid = packing.column_grid(w)
    assert grid.values.dtype == np.int8
    assert np.all(np.abs(grid.values * grid.scale.astype(np.float64) - w) <= 0.5001 * grid.scale)


def test_a_grid_needs_about_six_bits_a_code():
    w = np.random.default_rng(1).normal(size=(20_000, 2)) * [1, 50]
    for column in packing.column_grid(w).values.T:
        _, counts = np.unique(column, return_counts=True)
        share = counts / counts.sum()
        assert -np.sum(share * np.log2(share)) == pytest.approx(packing.BITS, abs=0.25)


def test_outputs_of_codes_keep_their_direction():
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(256, 64)), unit_rows(rng, 50, 256)
    grid = packing.column_grid(w)
    exact, coded = x @ w, x @ (grid.values * grid.scale)
    cosine = np.sum(exact * coded, axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(coded, axis=1)
    assert cosine.min() > 0.999


def test_an_outlier_widens_its_columns_grid_and_is_kept():
    w = np.random.default_rng(1).normal(size=(50, 2))
    w[3, 0] = 1000
    grid = packing.column_grid(w)
    assert (grid.values * grid.scale)[3, 0] == pytest.approx(1000, rel=1e-2)
    assert grid.scale[1] < 0.1


def test_a_column_of_zeros_stays_zero():
    grid = packing.column_grid(np.zeros((4, 2)))
    np.testing.assert_array_equal(grid.values * grid.scale, np.zeros((4, 2)))


def test_int8_codes_keep_directions():
    x = unit_rows(np.random.default_rng(0), 30, 64)
    values = packing.nearest_grid(x, 127).values.astype(np.float64)
    assert np.min(np.sum(x * values, axis=1) / np.linalg.norm(values, axis=1)) > 0.9999


def test_unpacking_multiplies_grids_out_and_casts_bare_codes():
    grid = packing.Grid(np.array([[1, -2]], np.int8), np.array([0.5, 0.25], np.float32))
    tree = {
        "mix": np.array([[3, -127]], np.int8),
        "out": {"kernel": packing.packed(grid), "bias": np.ones(2, np.float16)},
    }
    found = packing.unpacked(tree, "bfloat16")
    np.testing.assert_array_equal(found["out"]["kernel"], [[0.5, -0.5]])
    np.testing.assert_array_equal(found["mix"].astype(np.float32), [[3, -127]])
    assert [str(found["mix"].dtype), str(found["out"]["bias"].dtype)] == ["bfloat16", "float32"]
