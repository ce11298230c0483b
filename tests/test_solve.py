import numpy as np
import pytest

from ea_jax import solve
from tests.conftest import toy_pairs, unit_rows


@pytest.fixture
def pairs():
    return toy_pairs(400)


@pytest.fixture
def c(pairs):
    return solve.covariance(solve.moments(*pairs))


def test_moments_add_up_over_blocks_and_parts(pairs, monkeypatch):
    x, y = pairs
    whole = solve.moments(x, y)
    monkeypatch.setattr(solve, "BLOCK", 64)
    parts = solve.moments(x[:150], y[:150]).plus(solve.moments(x[150:], y[150:]))
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_covariance_is_numpys(pairs, c):
    x, y = pairs
    wanted = np.cov(np.hstack([x, y]).T.astype(np.float64), bias=True)
    np.testing.assert_allclose(c.xx, wanted[:8, :8], atol=1e-6)
    np.testing.assert_allclose(c.xy, wanted[:8, 8:], atol=1e-6)
    np.testing.assert_allclose(c.yy, wanted[8:, 8:], atol=1e-6)


@pytest.mark.parametrize("penalty", [0.0, 0.03, 1.0])
def test_ridge_is_least_squares_on_rows_that_carry_the_penalty(pairs, c, penalty):
    x, y = (a.astype(np.float64) for a in pairs)
    t = np.trace(np.cov(x.T, bias=True)) / 8
    padded_x = np.vstack([x - x.mean(0), np.sqrt(penalty * t * len(x)) * np.eye(8)])
    padded_y = np.vstack([y - y.mean(0), np.zeros((8, 12))])
    kernel = np.linalg.lstsq(padded_x, padded_y, rcond=None)[0]
    found = solve.ridge(c, penalty)
    np.testing.assert_allclose(found.kernel, kernel, atol=1e-4)
    np.testing.assert_allclose(found.bias, y.mean(0) - x.mean(0) @ kernel, atol=1e-4)


@pytest.mark.parametrize(("d_in", "d_out"), [(6, 6), (5, 9), (9, 5)])
def test_procrustes_is_orthogonal_and_finds_a_planted_rotation(d_in, d_out):
    rng = np.random.default_rng(0)
    narrow = min(d_in, d_out)
    rotation = np.linalg.qr(rng.normal(size=(max(d_in, d_out), narrow)))[0]
    rotation = rotation if d_in > d_out else rotation.T
    x = rng.normal(size=(500, d_in)).astype(np.float32)
    y = (3 * x @ rotation + 7).astype(np.float32)
    found = solve.procrustes(solve.covariance(solve.moments(x, y)), "least-squares")
    assert found.kernel.shape == (d_in, d_out)
    if d_in <= d_out:
        np.testing.assert_allclose(found.kernel @ found.kernel.T, 9 * np.eye(d_in), atol=1e-2)
        np.testing.assert_allclose(x @ found.kernel + found.bias, y, atol=2e-2)
    else:
        np.testing.assert_allclose(
            found.kernel.T @ found.kernel / found.kernel[:, 0].dot(found.kernel[:, 0]), np.eye(5), atol=1e-6
        )


def test_target_length_gives_the_centred_part_the_native_length(pairs, c):
    x, _ = pairs
    found = solve.procrustes(c, "target-length")
    centred = x @ found.kernel + found.bias - c.y_mean
    assert np.mean(np.sum(centred**2, axis=1)) == pytest.approx(np.trace(c.yy), rel=1e-4)


def test_whitening_with_exponent_zero_changes_nothing(c):
    plain = solve.ridge(c, 0.1)
    found = solve.whitened(plain, c, solve.target_spectrum(c), 0.0)
    np.testing.assert_allclose(found.kernel, plain.kernel, atol=1e-9)
    np.testing.assert_allclose(found.bias, plain.bias, atol=1e-9)


def test_whitening_by_a_half_flattens_the_native_spectrum_and_keeps_the_mean(c):
    flat = solve.whitening(solve.target_spectrum(c), 0.5, shrinkage=0.0)
    np.testing.assert_allclose(flat.T @ c.yy @ flat, np.trace(c.yy) / 12 * np.eye(12), atol=1e-9)
    found = solve.whitened(solve.Affine(np.eye(12), np.zeros(12)), c, solve.target_spectrum(c), 0.5)
    np.testing.assert_allclose(c.y_mean @ found.kernel + found.bias, c.y_mean, atol=1e-9)


def test_stretching_sets_the_length_of_the_centred_part_and_keeps_its_direction(pairs, c):
    x, _ = pairs
    plain = solve.ridge(c, 0.1)
    found = solve.stretched(plain, c, 2.0)
    before, after = (x @ a.kernel + a.bias - c.y_mean for a in (plain, found))
    assert np.mean(np.sum(after**2, axis=1)) == pytest.approx(4 * np.trace(c.yy), rel=1e-4)
    np.testing.assert_allclose(after / before, np.full_like(before, (after / before)[0, 0]), rtol=1e-6)


def test_inverse_root_whitens_and_survives_a_dead_dimension(c):
    w = solve.inverse_root(c.xx, 0.0)
    np.testing.assert_allclose(w @ w.T, np.linalg.inv(c.xx), rtol=1e-6)
    dead = np.diag([1.0, 1.0, -1e-18])
    assert np.all(np.isfinite(solve.inverse_root(dead, 1e-3)))


def test_cluster_centres_find_planted_directions():
    rng = np.random.default_rng(0)
    truth = unit_rows(rng, 4, 16)
    x = np.repeat(truth, 50, axis=0) + 0.05 * rng.normal(size=(200, 16))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    centres = np.asarray(solve.cluster_centres(x, 16, seed=1))
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, rtol=1e-5)
    assert (truth @ centres.T).max(1).min() > 0.97


def test_all_rows_are_centres_where_there_are_fewer_than_asked():
    x = unit_rows(np.random.default_rng(0), 5, 4)
    assert solve.cluster_centres(x, 9).shape == (5, 4)


def test_rows_about_a_far_mean_have_a_ridge_map_where_rounding_leaves_their_covariance_indefinite():
    rng = np.random.default_rng(0)
    x = unit_rows(rng, 400, 32) * np.geomspace(1, 0.001, 32, dtype=np.float32) + 10
    c = solve.covariance(solve.moments(x, x))
    assert np.linalg.eigvalsh(c.xx)[0] < -0.003 * np.trace(c.xx) / 32
    assert np.isfinite(solve.ridge(c, 0.003).kernel).all()


def test_reduced_rank_is_the_best_approximation_of_the_ridge_maps_values(pairs, c):
    x, _ = pairs
    plain, found = solve.ridge(c, 0.1), solve.reduced_rank(c, 0.1, 3)
    a = x - x.mean(0)
    u, s, vt = np.linalg.svd(a @ plain.kernel, full_matrices=False)
    np.testing.assert_allclose(a @ found.kernel, (u[:, :3] * s[:3]) @ vt[:3], atol=1e-4)
    assert np.linalg.matrix_rank(found.kernel, tol=1e-6) == 3


def test_rows_that_are_named_are_the_ones_that_are_summed(pairs, monkeypatch):
    x, y = pairs
    monkeypatch.setattr(solve, "BLOCK", 64)
    rows = np.random.default_rng(0).permutation(400)[:170]
    for a, b in zip(solve.moments(x, y, rows), solve.moments(x[rows], y[rows]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("block", [[0], [31], [5, 6, 7, 8]], ids=["one", "another", "four"])
def test_left_out_outputs_of_ridge_are_those_of_fits_without_the_rows(block):
    x, y = toy_pairs(60)
    c, rows = solve.covariance(solve.moments(x, y)), np.array(block)
    fitted = solve.ridge(c, 0.05).apply(x[rows])
    found = solve.left_out(fitted, y[rows], solve.ridge_hat(c, 0.05, 60, x[rows]), np.array([len(rows)]))
    others = np.delete(np.arange(60), rows)
    without = solve.ridge(solve.covariance(solve.moments(x, y, others)), 0.05)
    # the penalty is relative to the covariance, which changes by a sixtieth without a row
    np.testing.assert_allclose(found, without.apply(x[rows[:1]]), atol=5e-3 * len(rows))
    assert np.abs(found - fitted[0]).max() > 0.01


def test_blocks_are_left_out_one_at_a_time():
    x, y = toy_pairs(60)
    c = solve.covariance(solve.moments(x, y))
    outputs, hat = solve.ridge(c, 0.05).apply(x), solve.ridge_hat(c, 0.05, 60, x)
    found = solve.left_out(outputs, y, hat, np.array([1, 3, 56]))
    for start, stop, row in ((0, 1, 0), (1, 4, 1)):
        part = slice(start, stop)
        alone = solve.left_out(
            outputs[part], y[part], solve.Hat(*(side[part] for side in hat)), np.array([stop - start])
        )
        np.testing.assert_allclose(found[row], alone[0], rtol=1e-5)
