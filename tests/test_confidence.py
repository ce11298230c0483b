"""The heads of the quality part: each against its definition, and all of them as forecasts."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from ea_jax.fitting import Budget, Foreign, fit
from ea_jax.fitting.confidence import INPUT, RADIAL, SQUARES, affordable, chance_map, cosine_head, margins
from ea_jax.fitting.statistics import SOURCE, principal
from ea_jax.metrics import rank_of, top_hit
from ea_jax.solve import logistic
from tests.conftest import unit_rows


def curved_pairs(n: int, seed: int = 0, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Pairs whose target is a curved map of the source; how noisy a row is depends on its first number."""
    rng = np.random.default_rng(seed)
    mix, bend = (np.random.default_rng(99).normal(size=shape) for shape in ((8, 12), (8, 12)))
    x = unit_rows(rng, n, 8)
    spread = noise * np.exp(2 * x[:, :1])
    y = x @ mix + np.sin(2 * x @ bend) + spread * rng.normal(size=(n, 12))
    return x, (y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32)


def test_logistic_regression_is_scikit_learns():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 5)) * [1, 2, 3, 4, 5] + 1
    label = rng.random(400) < 1 / (1 + np.exp(-(z @ [1, -0.5, 0.2, 0, 0.1] - 0.3)))
    weight, bias = logistic(z, label, 1e-2)
    deviation = z.std(axis=0)
    theirs = LogisticRegression(C=1 / (400 * 1e-2), tol=1e-10, max_iter=1000).fit(
        (z - z.mean(axis=0)) / deviation, label
    )
    np.testing.assert_allclose(weight * deviation, theirs.coef_[0], atol=1e-4)
    np.testing.assert_allclose(bias + z.mean(axis=0) @ weight, theirs.intercept_[0], atol=1e-4)


def test_logistic_regression_of_labels_that_can_be_told_apart_stays_finite():
    z = np.linspace(-1, 1, 40)[:, None]
    weight, bias = logistic(z, z[:, 0] > 0, 1e-5)
    assert np.isfinite(weight).all()
    assert np.all(((z @ weight + bias) > 0) == (z[:, 0] > 0))


def test_the_map_of_chances_is_calibrated_increasing_and_keeps_its_ends():
    rng = np.random.default_rng(0)
    came = rng.random(4000)
    said, found = 0.6 * came, rng.random(4000) < came  # a forecaster that takes two fifths from everything
    knots = chance_map(said[:2000], found[:2000])
    mapped = np.interp(said[2000:], knots["said"], knots["found"])
    gaps = [abs(mapped[part].mean() - found[2000:][part].mean()) for part in np.array_split(np.argsort(mapped), 10)]
    assert np.mean(gaps) < 0.04  # a deviation of a bin's share is .035
    assert np.all(np.diff(knots["said"]) >= 0)
    assert np.all(np.diff(knots["found"]) >= 0)
    assert (knots["found"][0], knots["found"][-1]) == (0, 1)
    assert len(chance_map(said[:3], found[:3])["said"]) == len(knots["said"])


def test_what_the_cosine_head_says_of_a_left_out_row_is_what_a_fit_without_it_says():
    rng = np.random.default_rng(0)
    powers, x, radial = (rng.normal(size=(40, k)) for k in (3, 4, 5))
    truth = 0.1 * powers[:, 0] + 0.05 * rng.normal(size=40)
    _, held_out = cosine_head(powers, x, radial, truth, np.arange(40) % 5)
    z = np.concatenate([powers, x, radial], axis=1)
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    penalty = np.diag([SQUARES] * 3 + [INPUT] * 4 + [RADIAL] * 5)
    candidates = []
    for stronger in (1, 10, 100, 1000):
        said = np.zeros(40)
        for i in range(40):
            others = np.delete(np.arange(40), i)
            # as many rows in the sums as in the whole fit, so that the penalty weighs the same; the mean is free
            design = np.c_[z[others], np.ones(39)]
            full = np.zeros((13, 13))
            full[:12, :12] = 40 * stronger * penalty
            weight = np.linalg.solve(design.T @ design + full, design.T @ truth[others])
            said[i] = np.r_[z[i], 1] @ weight
        candidates.append(said)
    errors = [np.sqrt(np.mean((said - truth) ** 2)) for said in candidates]
    # the one that is taken is one of them, and no worse than the best by more than two parts in a hundred
    clipped = [np.clip(said, *np.quantile(truth, (0.001, 0.999))) for said in candidates]
    taken = int(np.argmin([np.abs(held_out - said).max() for said in clipped]))
    np.testing.assert_allclose(held_out, clipped[taken], atol=1e-5)
    assert errors[taken] <= 1.02 * min(errors)


def test_the_cosine_head_prefers_what_holds_on_folds_left_out():
    """Inputs that tell the folds apart help within them alone; the feature that holds everywhere is what is learnt."""
    rng = np.random.default_rng(0)
    n, fold = 1000, np.arange(1000) % 5
    good = rng.normal(size=(n, 1))
    x = np.eye(5)[fold] + 0.3 * rng.normal(size=(n, 5))
    shift = np.array([0.04, -0.04, 0.02, -0.02, 0.0])[fold]
    truth = 0.1 * good[:, 0] + shift + 0.1 * rng.normal(size=n)
    ours, _ = cosine_head(good, x, np.zeros((n, 2)), truth, fold)
    rows, _ = cosine_head(good, x, np.zeros((n, 2)), truth, rng.integers(5, size=n))
    assert np.linalg.norm(ours["x"]) < 0.85 * np.linalg.norm(rows["x"])
    assert ours["quadratic"][0] == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize(("n", "k"), [(90, 5), (90, 0), (20, 5), (4, 5), (20, 0)])
def test_principal_directions_are_those_of_the_covariance_of_many_rows_and_of_few(n, k):
    x = (np.random.default_rng(0).normal(size=(n, 30)) * np.geomspace(1, 0.1, 30) + 1).astype(np.float32)
    found = principal(x, k)
    values, vectors = np.linalg.eigh(np.cov(x.T.astype(np.float64), bias=True))
    np.testing.assert_allclose(found.mean, x.mean(axis=0), atol=1e-6)
    assert found.total == pytest.approx(values.sum(), rel=1e-5)
    assert found.vectors.shape == (30, k)
    np.testing.assert_allclose(found.values, values[30 - k :], atol=1e-6)
    wanted = (vectors[:, 30 - k :] * values[30 - k :]) @ vectors[:, 30 - k :].T
    np.testing.assert_allclose((found.vectors * found.values) @ found.vectors.T, wanted, atol=1e-5)


@pytest.mark.parametrize(("d_in", "d_out"), [(384, 256), (256, 384), (384, 1536), (1536, 256), (8, 6)])
def test_scores_of_a_single_matrix_cost_no_more_columns_than_it_has_or_half_of_them(d_in, d_out):
    references, directions = (number // d_in for number in affordable(SOURCE, d_in, d_out))
    assert directions == SOURCE[1] // d_in
    assert references == SOURCE[0] // d_in or references <= max(d_out - directions, d_out // 2)
    assert references >= min(SOURCE[0] // d_in, d_out // 2)


def test_margins_hold_for_nine_in_ten_new_rows_whatever_the_forecast():
    rng = np.random.default_rng(0)

    def draw(n):
        said = rng.random(n)
        return said, said + (0.02 + 0.3 * said) * rng.normal(size=n)

    found = margins(*draw(4000))
    said, truth = draw(20000)
    held = truth >= said - np.interp(said, found["at"], found["width"])
    assert 0.88 < held.mean() < 0.92
    for low in (0.0, 0.5):
        assert 0.87 < held[(said >= low) & (said < low + 0.5)].mean() < 0.93
    assert found["width"][-1] > 2 * found["width"][0]


@pytest.fixture(scope="module", params=["linear", pytest.param("kernel", marks=pytest.mark.slow)])
def forecast(request):
    """Scores of rows that a fit has not seen, and what came true."""
    x, y = curved_pairs(1800)
    rng = np.random.default_rng(5)
    junk, ordinary = (unit_rows(rng, 300, 8) + shift for shift in ([3.0] + [0.0] * 7, [0.0] * 8))
    foreign = Foreign(junk=junk.astype(np.float32), ordinary=ordinary.astype(np.float32))
    fitted = fit(x, y, family=request.param, budget=Budget(landmarks=256, rank=32), foreign=foreign)
    new, native = curved_pairs(1000, seed=1)
    scores = fitted.judge(fitted.judge.params, new)
    cosine = np.sum(fitted.apply(new) * native, axis=1)
    corpus = y[: 3 * len(y) // 4]  # as large as the one that calibrates: a quarter of the pairs asks
    rank = np.asarray(rank_of(fitted.apply(new, "query"), corpus, top_hit(native, corpus)))
    return fitted, scores, cosine, rank <= 10


def test_the_expected_cosine_is_that_of_new_rows_and_not_of_seen_ones(forecast):
    _, scores, cosine, _ = forecast
    said = np.asarray(scores.expected_cosine)
    assert said.mean() == pytest.approx(cosine.mean(), abs=0.02)
    assert roc_auc_score(cosine <= np.quantile(cosine, 0.1), -said) > 0.65  # noise differs by row, and shows in x


def test_the_lower_bound_covers_nine_new_rows_in_ten(forecast):
    _, scores, cosine, _ = forecast
    assert 0.86 < np.mean(cosine >= np.asarray(scores.expected_cosine_lower)) < 0.94


def test_the_confidence_is_the_share_that_is_found(forecast):
    _, scores, _, found = forecast
    said = np.asarray(scores.confidence)
    assert said.mean() == pytest.approx(found.mean(), abs=0.05)


def test_junk_is_novel_and_gets_no_confidence(forecast):
    fitted, scores, _, _ = forecast
    junk = unit_rows(np.random.default_rng(6), 100, 8) + np.array([3.0] + [0.0] * 7)
    judged = fitted.judge(fitted.judge.params, junk.astype(np.float32))
    novelty, ordinary = np.asarray(judged.novelty), np.asarray(scores.novelty)
    assert roc_auc_score(np.r_[np.ones(100), np.zeros(len(ordinary))], np.r_[novelty, ordinary]) > 0.98
    assert np.asarray(judged.confidence).mean() < 0.5 * np.asarray(scores.confidence).mean()
