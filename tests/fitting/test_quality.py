"""The quality part: statistics and regressions against their definitions, and the accuracy of the forecasts."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from ea_jax.fitting import Foreign, fit
from ea_jax.fitting.cross_validation import FOLDS
from ea_jax.fitting.domain_statistics import (
    SHRINKAGE,
    covariance_of_statistics,
    fit_statistics,
    measure_distances,
)
from ea_jax.fitting.quality import (
    FOREIGN_PENALTY,
    HIT_PENALTY,
    INPUT_SCALE,
    fit_cosine,
    fit_foreign,
    fit_hit,
    fit_junk,
    fit_margins,
    fit_search,
    synthetic_vectors,
)
from ea_jax.fitting.regression.ridge import PENALTIES
from ea_jax.quality.drift import baseline_scores
from ea_jax.quality.schema import CALIBRATION_COLUMNS, abstract_quality, prepare_quality, quality_sizes
from ea_jax.retrieval.metrics import rank_of, top_hit
from tests.conftest import unit_rows

D_IN, D_OUT = 24, 32


def split(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def model_vectors(n: int, seed: int, model: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of n texts by a toy model, and the meanings of the texts: a mean, leading directions, and noise."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng([7, model])
    mean, mix = fixed.normal(size=D_IN), fixed.normal(size=(8, D_IN))
    meaning = rng.normal(size=(n, 8))
    return split(mean + meaning @ mix * 0.5 + 0.1 * rng.normal(size=(n, D_IN))), meaning


def pairs(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pairs with a nonlinear map between them; the first number of a meaning says how noisy its target is."""
    x, meaning = model_vectors(n, seed)
    rng, fixed = np.random.default_rng([seed, 1]), np.random.default_rng(99)
    mix, wave = fixed.normal(size=(2, 8, D_OUT))
    noise = 0.8 * np.exp(0.5 * meaning[:, :1]) * rng.normal(size=(n, D_OUT))
    return x, split(meaning @ mix + np.sin(meaning @ wave) + noise)


def test_the_mahalanobis_distance_uses_the_shrunk_covariance():
    x, _ = model_vectors(400, 0)
    statistics, rows, _ = fit_statistics(x, np.arange(400) % FOLDS, 50, D_IN)
    new, _ = model_vectors(20, 1)
    c = np.cov(x.T.astype(np.float64), bias=True)
    values, vectors = np.linalg.eigh(c)
    shrunk = (vectors * (values + SHRINKAGE * values.mean())) @ vectors.T
    offset = new - x.mean(axis=0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", offset, np.linalg.inv(shrunk), offset))
    mahalanobis, knn = measure_distances(prepare_quality(statistics), new)
    np.testing.assert_allclose(
        mahalanobis, expected, rtol=3e-2
    )  # float16 directions: the difference of two large squares
    references = statistics["references"].astype(np.float64)
    references /= np.linalg.norm(references, axis=1, keepdims=True)
    np.testing.assert_allclose(knn, np.sqrt(2 - 2 * (new @ references.T).max(axis=1)), atol=1e-3)
    assert references.shape == (50, D_IN)
    assert (references @ x.T).max(axis=1).min() > 0.9999
    np.testing.assert_array_equal(rows, np.arange(400))
    np.testing.assert_allclose(
        covariance_of_statistics(prepare_quality(statistics)).matrix(), shrunk, atol=1e-3 * values.mean()
    )


@pytest.mark.parametrize("directions", [5, 12])
def test_other_directions_share_their_mean_variance(directions):
    x, _ = model_vectors(400, 0)
    statistics, *_ = fit_statistics(x, np.arange(400) % FOLDS, 50, directions)
    values, vectors = np.linalg.eigh(np.cov(x.T.astype(np.float64), bias=True))
    flat = np.where(np.arange(D_IN) < D_IN - directions, values[: D_IN - directions].mean(), values)
    expected = (vectors * (flat + SHRINKAGE * values.mean())) @ vectors.T
    assert statistics["directions"].shape == (D_IN, directions)
    matrix = covariance_of_statistics(prepare_quality(statistics)).matrix()
    np.testing.assert_allclose(matrix, expected, atol=2e-3 * values.mean())


def test_percentiles_are_those_of_out_of_fold_distances():
    x, _ = model_vectors(300, 0)
    fold = np.arange(300) % FOLDS
    statistics, _, out_of_fold = fit_statistics(x, fold, 300, 10)
    for k in range(FOLDS):
        others, *_ = fit_statistics(x[fold != k], np.arange(240) % FOLDS, 300, 10)
        np.testing.assert_allclose(
            out_of_fold[:, fold == k], measure_distances(prepare_quality(others), x[fold == k]), rtol=1e-3
        )
    for name, distance in zip(("maha", "knn"), out_of_fold, strict=True):
        for q in (95, 99):
            assert statistics[f"{name}_p{q}"] == pytest.approx(np.percentile(distance, q), rel=1e-5)


def test_cosine_forecasts_agree_with_leave_one_out_refits():
    rng = np.random.default_rng(0)
    z, x = np.clip(rng.normal(size=(60, 2)), -5, 5), unit_rows(rng, 60, 3)
    truth = 0.6 + 0.05 * z[:, 0] + 0.1 * x[:, 1] + 0.02 * rng.normal(size=60)
    regression, forecast = fit_cosine(z, x, truth, None)
    design = np.c_[z, z[:, 0] ** 2, z[:, 0] * z[:, 1], z[:, 1] ** 2, INPUT_SCALE * x]
    t, k = np.trace(np.cov(design.T, bias=True)) / 8, 60

    def fitted(rows, penalty):
        lift = np.zeros((9, 9))
        lift[:8, :8] = k * penalty * t * np.eye(8)
        a = np.c_[design[rows], np.ones(len(rows))]
        return np.linalg.solve(a.T @ a + lift, a.T @ truth[rows])

    one = np.c_[design, np.ones(60)]
    refits = {p: np.array([one[i] @ fitted(np.delete(np.arange(60), i), p) for i in range(60)]) for p in PENALTIES}
    best = min(PENALTIES, key=lambda p: np.mean((refits[p] - truth) ** 2))
    np.testing.assert_allclose(forecast, np.clip(refits[best], *np.quantile(truth, (0.001, 0.999))), atol=1e-4)
    weights = fitted(np.arange(60), best)
    np.testing.assert_allclose(regression["quadratic"], weights[:5], atol=1e-4)
    np.testing.assert_allclose(regression["x"], INPUT_SCALE * weights[5:8], atol=1e-3)
    assert regression["bias"] == pytest.approx(weights[8], abs=1e-3)


def test_margins_cover_nine_in_ten_new_rows_for_any_forecast():
    rng = np.random.default_rng(0)

    def draw(n):
        forecast = rng.random(n)
        return forecast, forecast + (0.02 + 0.3 * forecast) * rng.normal(size=n)

    knots = fit_margins(*draw(4000))
    forecast, truth = draw(20000)
    held = truth >= forecast - np.interp(forecast, knots["at"], knots["width"])
    assert 0.88 < held.mean() < 0.92
    for low in (0.0, 0.5):
        assert 0.87 < held[(forecast >= low) & (forecast < low + 0.5)].mean() < 0.93
    assert knots["width"][-1] > 2 * knots["width"][0]


def sklearn_logistic(columns: np.ndarray, label: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Weights and bias of scikit-learn's logistic regression on columns of variance one."""
    mean, deviation = columns.mean(axis=0), columns.std(axis=0)
    model = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=5000).fit((columns - mean) / deviation, label)
    weight = model.coef_[0] / deviation
    return weight, float(model.intercept_[0] - mean @ weight)


@pytest.mark.parametrize("regression", ["hit", "search"])
def test_each_probability_is_from_a_fit_without_its_fold(regression):
    rng = np.random.default_rng(0)
    z, forecast, fold = rng.normal(size=(200, 4)), rng.random(200), np.arange(200) % FOLDS
    label = rng.random(200) < expit(z[:, 0] + 3 * forecast - 1)
    if regression == "hit":
        columns = np.c_[z, forecast]
        weights, chance = fit_hit(z, forecast, label, fold, None)
        actual = np.append(weights["features"], weights["cosine"])
    else:
        top = -np.sort(-rng.random((200, 10)), axis=1).astype(np.float32)
        gap = top[:, 0] - top[:, 9]
        columns = np.c_[np.log(forecast / (1 - forecast)), top[:, 0], gap, gap**2]
        weights, chance = fit_search(forecast, top, label, fold, None)
        actual = weights["features"]
    for k in range(FOLDS):
        weight, bias = sklearn_logistic(columns[fold != k], label[fold != k], HIT_PENALTY)
        np.testing.assert_allclose(chance[fold == k], expit(columns[fold == k] @ weight + bias), atol=1e-3)
    weight, bias = sklearn_logistic(columns, label, HIT_PENALTY)
    np.testing.assert_allclose(actual, weight, rtol=1e-2, atol=1e-3)
    assert weights["bias"] == pytest.approx(bias, abs=1e-2)


def test_synthetic_vectors_are_random_permuted_and_rotated_ones():
    x, _ = model_vectors(1000, 0)
    made = synthetic_vectors(x, seed=3)
    random, permuted, shuffled, rotated = np.split(made, 4)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, rtol=1e-5)
    rows = x[np.random.default_rng(3).permutation(1000)]
    np.testing.assert_allclose(np.sort(permuted, axis=1), np.sort(rows, axis=1))
    np.testing.assert_allclose(permuted @ permuted.T, rows @ rows.T, atol=1e-5)  # one order for all
    np.testing.assert_allclose(np.sort(shuffled, axis=1), np.sort(rows, axis=1))
    assert np.abs(shuffled @ shuffled.T - rows @ rows.T).max() > 0.5
    np.testing.assert_allclose(rotated @ rotated.T, rows @ rows.T, atol=1e-5)
    assert np.abs(random.mean(axis=0)).max() < 0.05
    np.testing.assert_array_equal(made, synthetic_vectors(x, seed=3))


def test_without_junk_the_probability_of_junk_is_zero():
    x, _ = model_vectors(50, 0)
    regression = fit_junk(x, None)
    assert np.all(expit(x @ regression["x"] + regression["bias"]) < 1e-9)


def test_fit_foreign_is_logistic_regression_on_three_features():
    x, _ = model_vectors(1000, 0)
    statistics = prepare_quality(fit_statistics(x, np.arange(1000) % FOLDS, 100, 10)[0])
    scale = {"mean": np.array([5.0, 0.5, 0.5, 0.0], np.float32), "deviation": np.ones(4, np.float32)}
    made = synthetic_vectors(x, 0)
    mean = np.asarray(statistics["mean"], np.float64)

    def columns(rows):
        mahalanobis, knn = measure_distances(statistics, rows)
        offset = np.c_[mahalanobis, knn, rows @ mean / np.linalg.norm(mean)] - [5, 0.5, 0.5]
        return np.clip(offset, -5, 5)

    z = np.c_[columns(x), np.zeros(1000)]
    regression = fit_foreign(scale, statistics, z, x, None, 0)
    weight, bias = sklearn_logistic(np.concatenate([z[:, :3], columns(made)]), np.arange(5000) >= 1000, FOREIGN_PENALTY)
    np.testing.assert_allclose(regression["features"], weight, rtol=2e-2, atol=1e-2)
    assert regression["bias"] == pytest.approx(bias, rel=2e-2, abs=2e-2)


@pytest.fixture(scope="module")
def forecast():
    """A fit with junk, and scores and outcomes of new rows."""
    x, y = pairs(1500)
    rng = np.random.default_rng(5)
    junk = split(3 * np.eye(D_IN)[0] + rng.normal(size=(300, D_IN)))
    fitted = fit(x, y, foreign=Foreign(junk=junk, ordinary=np.zeros((0, D_IN), np.float32)), fine_tune=False)
    new, native = pairs(1000, seed=1)
    scores = fitted.quality(fitted.quality.params, new)
    queries = fitted.apply(new, "query")
    rank = np.asarray(rank_of(queries, y, top_hit(native, y)))
    top = -np.sort(-queries @ y.T, axis=1)[:, :10]
    return fitted, scores, np.sum(fitted.apply(new) * native, axis=1), rank <= 10, top


def test_the_stored_part_has_the_abstract_shapes(forecast):
    stored = forecast[0].quality_params
    shapes = abstract_quality(D_IN, D_OUT, quality_sizes(stored))
    assert {k: sorted(v) if isinstance(v, dict) else None for k, v in shapes.items()} == {
        k: sorted(v) if isinstance(v, dict) else None for k, v in stored.items()
    }
    assert shapes["references"].shape == stored["references"].shape
    assert shapes["target"]["directions"].shape == stored["target"]["directions"].shape
    assert stored["calibration"]["scores"].shape == (1500, len(CALIBRATION_COLUMNS))


def test_the_expected_cosine_is_that_of_new_rows(forecast):
    _, scores, cosine, *_ = forecast
    expected = np.asarray(scores.expected_cosine)
    assert expected.mean() == pytest.approx(cosine.mean(), abs=0.01)
    assert np.corrcoef(expected, cosine)[0, 1] > 0.5
    assert roc_auc_score(cosine <= np.quantile(cosine, 0.1), -expected) > 0.7


def test_the_lower_bound_covers_nine_new_rows_in_ten(forecast):
    _, scores, cosine, *_ = forecast
    # one calibration sample: over samples the coverage is .9, with a deviation of .015
    assert 0.86 < np.mean(cosine >= np.asarray(scores.expected_cosine_lower)) < 0.94


def test_the_confidence_is_the_fraction_of_hits(forecast):
    fitted, scores, _, hits, top = forecast
    confidence = np.asarray(scores.confidence)
    after = np.asarray(fitted.quality.after_search(fitted.quality.params, confidence, top))
    for chance in (confidence, after):
        assert chance.mean() == pytest.approx(hits.mean(), abs=0.04)
        for part in np.array_split(np.argsort(chance), 3):
            assert chance[part].mean() == pytest.approx(hits[part].mean(), abs=0.08)  # a deviation of a third is .025
    assert roc_auc_score(hits, confidence) > 0.65
    assert roc_auc_score(hits, after) > roc_auc_score(hits, confidence)


def test_the_calibration_scores_are_like_those_of_new_rows(forecast):
    fitted, scores, _, hits, _ = forecast
    kept = baseline_scores(fitted.quality)
    for name in ("mahalanobis", "knn_distance", "expected_cosine", "confidence"):
        deciles = [np.quantile(np.asarray(values), (0.1, 0.5, 0.9)) for values in (kept[name], getattr(scores, name))]
        np.testing.assert_allclose(*deciles, atol=0.35 * np.std(kept[name]))
    assert fitted.quality_params["calibration"]["found"].mean() == pytest.approx(hits.mean(), abs=0.04)


KINDS = {
    "random": lambda x: unit_rows(np.random.default_rng(8), len(x), D_IN),
    "permuted": lambda x: x[:, np.random.default_rng(8).permutation(D_IN)],
    "rotated": lambda x: x @ np.linalg.qr(np.random.default_rng(8).normal(size=(D_IN, D_IN)))[0].astype(np.float32),
    # kinds that the fit does not use
    "opposite": lambda x: -x,
    "signs flipped": lambda x: x * np.where(np.arange(D_IN) % 2, 1, -1).astype(np.float32),
    "rolled": lambda x: np.roll(x, 5, axis=1),
    "reversed": lambda x: x[:, ::-1].copy(),
    "another model's": lambda x: model_vectors(len(x), 3, model=1)[0],
    "sparse": lambda x: split(np.where(np.arange(D_IN) < 3, x, 0)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_no_text_have_no_confidence(forecast, kind):
    fitted, scores, *_ = forecast
    made = KINDS[kind](pairs(500, seed=2)[0])
    theirs = fitted.quality(fitted.quality.params, made)
    confidence, in_domain = np.asarray(theirs.confidence), np.asarray(scores.confidence)
    assert np.mean(confidence) < 0.05
    assert np.mean(confidence < 0.1) > 0.9
    assert np.mean(np.asarray(scores.novelty) < 0.2) > 0.95
    assert in_domain.mean() > 0.3


def test_junk_is_novel_and_has_no_confidence(forecast):
    fitted, scores, *_ = forecast
    junk = split(3 * np.eye(D_IN)[0] + np.random.default_rng(6).normal(size=(200, D_IN)))
    theirs = fitted.quality(fitted.quality.params, junk)
    novelty, ordinary = np.asarray(theirs.novelty), np.asarray(scores.novelty)
    assert roc_auc_score(np.r_[np.ones(200), np.zeros(len(ordinary))], np.r_[novelty, ordinary]) > 0.98
    assert np.asarray(theirs.confidence).mean() < 0.1


def test_few_pairs_keep_the_regressions_of_a_prior(forecast):
    prior = forecast[0].quality
    x, y = pairs(60, seed=9)
    own, alone = (fit(x, y, prior=start).quality.params for start in (prior, None))
    for regression, names in {"cosine": ("quadratic", "x"), "hit": ("features",), "search": ("features",)}.items():
        for name in names:
            offset = [np.linalg.norm(part[regression][name] - prior.params[regression][name]) for part in (own, alone)]
            assert offset[0] < 0.5 * np.linalg.norm(prior.params[regression][name]) or offset[0] < 0.5 * offset[1]
    for name in ("mean", "deviation"):
        np.testing.assert_array_equal(own["features"][name], prior.params["features"][name])
    np.testing.assert_allclose(own["junk"]["x"], prior.params["junk"]["x"], rtol=1e-6)
    new, native = pairs(500, seed=10)
    fitted = fit(x, y, prior=prior)
    scores = fitted.quality(fitted.quality.params, new)
    cosine = np.sum(fitted.apply(new) * native, axis=1)
    assert np.asarray(scores.expected_cosine).mean() == pytest.approx(cosine.mean(), abs=0.03)
    assert np.corrcoef(np.asarray(scores.expected_cosine), cosine)[0, 1] > 0.4
