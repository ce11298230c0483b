import numpy as np
import pytest

from ea_jax.adapters.quantization import BITS, Quantized, dequantize, quantize_columns, quantize_rows
from tests.conftest import unit_rows


def test_codes_are_the_nearest_on_the_grid_of_their_column():
    w = np.random.default_rng(1).normal(size=(300, 5)) * [1, 10, 0.1, 3, 1e-4]
    quantized = quantize_columns(w)
    assert quantized.values.dtype == np.int8
    assert np.all(np.abs(quantized.values * quantized.scale.astype(np.float64) - w) <= 0.5001 * quantized.scale)


def test_codes_of_normal_weights_need_about_six_bits():
    w = np.random.default_rng(1).normal(size=(20_000, 2)) * [1, 50]
    for column in quantize_columns(w).values.T:
        _, counts = np.unique(column, return_counts=True)
        fraction = counts / counts.sum()
        assert -np.sum(fraction * np.log2(fraction)) == pytest.approx(BITS, abs=0.25)


def test_outputs_of_codes_keep_their_direction():
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(256, 64)), unit_rows(rng, 50, 256)
    quantized = quantize_columns(w)
    exact, coded = x @ w, x @ (quantized.values * quantized.scale)
    cosine = np.sum(exact * coded, axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(coded, axis=1)
    assert cosine.min() > 0.999


def test_an_outlier_enlarges_only_the_scale_of_its_column():
    w = np.random.default_rng(1).normal(size=(50, 2))
    w[3, 0] = 1000
    quantized = quantize_columns(w)
    assert (quantized.values * quantized.scale)[3, 0] == pytest.approx(1000, rel=1e-2)
    assert quantized.scale[1] < 0.1


def test_a_column_of_zeros_stays_zero():
    quantized = quantize_columns(np.zeros((4, 2)))
    np.testing.assert_array_equal(quantized.values * quantized.scale, np.zeros((4, 2)))


def test_int8_codes_keep_directions():
    x = unit_rows(np.random.default_rng(0), 30, 64)
    values = quantize_rows(x).values.astype(np.float64)
    assert np.min(np.sum(x * values, axis=1) / np.linalg.norm(values, axis=1)) > 0.9999


def test_dequantize_multiplies_codes_by_scales_and_casts_the_rest():
    quantized = Quantized(np.array([[1, -2]], np.int8), np.array([0.5, 0.25], np.float32))
    tree = {
        "mix": np.array([[3, -127]], np.int8),
        "out": {"kernel": quantized._asdict(), "bias": np.ones(2, np.float16)},
    }
    params = dequantize(tree, "bfloat16")
    np.testing.assert_array_equal(params["out"]["kernel"], [[0.5, -0.5]])
    np.testing.assert_array_equal(params["mix"].astype(np.float32), [[3, -127]])
    assert [str(params["mix"].dtype), str(params["out"]["bias"].dtype)] == ["bfloat16", "float32"]
