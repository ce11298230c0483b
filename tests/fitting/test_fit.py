"""`fit` as a whole: its result, its report, its prior, and its errors."""

import sys
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.adapters.families import build
from ea_jax.adapters.spec import Spec
from ea_jax.errors import BadInput
from ea_jax.fitting import Fitted, fit, verdict
from ea_jax.fitting.cross_validation import FOLDS, group_folds
from ea_jax.fitting.domain_statistics import PRIOR_ROWS
from ea_jax.fitting.kernel_features import kernel_features
from ea_jax.fitting.output_layers import Prior, fit_output_layers
from ea_jax.fitting.query_layer import FINE_TUNING, fine_tune
from ea_jax.typing import leaf_paths
from tests.conftest import toy_pairs, unit_rows


def split(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def related_pairs(n: int, seed: int = 0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of widths 24 and 32 with a noisy linear map between them, which `shift` changes."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    mix, other = fixed.normal(size=(2, 24, 32)) * np.geomspace(1, 0.2, 32)
    x = split(rng.normal(size=(n, 24)) * np.geomspace(1, 0.3, 24) + 0.2)
    return x, split(x @ (mix + shift * other) + 0.5 + 0.1 * rng.normal(size=(n, 32)))


def nonlinear_pairs(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that no affine map fits."""
    rng = np.random.default_rng(0)
    x = unit_rows(rng, n, 6)
    return x, split(np.tanh(3 * x @ rng.normal(size=(6, 24))) + 0.05 * rng.normal(size=(n, 24)))


def cosine(fitted: Fitted, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sum(fitted.apply(x) * y, axis=1).mean())


@pytest.fixture(scope="module")
def fitted():
    return fit(*toy_pairs(300))


@pytest.fixture(scope="module")
def global_fit():
    """A fit on many pairs of a space, as a prior for fits on few."""
    return fit(*related_pairs(1200), fine_tune=False)


def assert_same(a: Fitted, b: Fitted) -> None:
    for part in ("params", "quality_params"):
        one, other = leaf_paths(getattr(a, part)), leaf_paths(getattr(b, part))
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    assert a.report == b.report


def test_fit_recovers_a_planted_map(fitted):
    x, y = toy_pairs(300)
    assert cosine(fitted, x, y) > 0.98
    assert fitted.family == "linear"
    assert fitted.parameters == 8 * 12 + 12
    for purpose in ("store", "query"):
        np.testing.assert_allclose(np.linalg.norm(fitted.apply(x, purpose), axis=1), 1, rtol=1e-5)
        adapter = fitted.adapter(purpose)
        np.testing.assert_allclose(adapter(adapter.params, x), fitted.apply(x, purpose), atol=1e-6)


def test_the_store_layer_is_ridge_regression(fitted):
    x, y = (rows.astype(np.float64) for rows in toy_pairs(300))
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    lift = fitted.report["penalty"] * np.square(a).sum() / 8 * np.eye(8)
    out = fitted.adapter().params["out"]
    # a code is off by half a step, and a step is a fifteenth of a column's root mean square
    np.testing.assert_allclose(out["kernel"], np.linalg.solve(a.T @ a + lift, a.T @ b), atol=0.1)


def test_the_same_seed_gives_the_same_result(fitted):
    assert_same(fitted, fit(*toy_pairs(300)))
    other = fit(*toy_pairs(300), seed=1)
    assert not np.array_equal(other.quality_params["references"], fitted.quality_params["references"])


def test_memory_maps_give_the_same_fit(tmp_path, fitted):
    for name, rows in zip(("x", "y"), toy_pairs(300), strict=True):
        np.save(tmp_path / f"{name}.npy", rows)
    assert_same(fitted, fit(*(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("x", "y"))))


def test_out_of_fold_outputs_agree_with_fits_without_the_fold():
    x, y = related_pairs(200)
    fold = group_folds([f"g{i // 3}" for i in range(200)], 200)
    layers = fit_output_layers(x, y, fold, Prior(), y, 0)
    for k in range(FOLDS):
        a, b = x[fold != k].astype(np.float64), y[fold != k].astype(np.float64)
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        lift = layers.ridge.penalty * np.square(a).sum() / 24 * np.eye(24)
        kernel = np.linalg.solve(a.T @ a + lift, a.T @ b)
        inside = fold[layers.rows] == k
        expected = (x[layers.rows[inside]] - x[fold != k].mean(axis=0)) @ kernel + y[fold != k].mean(axis=0)
        np.testing.assert_allclose(layers.store_outputs[inside], expected, atol=1e-4)
    assert layers.query_outputs.shape == (200, 32)
    assert len(layers.ranking.rank) == 200


def test_metrics_of_held_out_queries_agree_with_new_pairs():
    x, y = related_pairs(2000)
    report = fit(x[:600], y[:600], fine_tune=False).report
    assert report["held_out_queries"] == report["pairs"] == report["groups"] == report["corpus"] == 600
    fitted = fit(x[:600], y[:600], fine_tune=False)
    assert report["store"]["cosine"] == pytest.approx(cosine(fitted, x[600:], y[600:]), abs=0.01)
    new = np.mean([rank <= 10 for rank in ranks(fitted.apply(x[600:], "query"), y[600:], y[:600], y[:600])])
    assert report["query"]["recall@10"] == pytest.approx(new, abs=0.04)
    mean = y[:600].mean(axis=0) / np.linalg.norm(y[:600].mean(axis=0))
    assert report["store"]["cosine_of_mean_vector"] == pytest.approx(np.mean(y[:600] @ mean), abs=1e-3)


def ranks(outputs, native, corpus, searched, itself: bool = False) -> np.ndarray:
    """Rank of each true neighbor by sorting. With `itself`, query i is corpus row i and is left out of its results."""
    result = []
    for i, (out, true) in enumerate(zip(outputs, native, strict=True)):
        rows = np.delete(np.arange(len(corpus)), i if itself else [])
        order = rows[np.argsort(-(searched[rows] @ out), kind="stable")]
        result.append(1 + list(order).index(rows[np.argmax(corpus[rows] @ true)]))
    return np.array(result)


def test_keeping_the_source_is_measured_on_the_same_queries(fitted):
    x, y = toy_pairs(300)
    rank, keep = ranks(x, y, y, x, itself=True), fitted.report["keep_source"]
    assert keep["recall@1"] == pytest.approx(np.mean(rank == 1), abs=1e-4)
    assert keep["recall@10"] == pytest.approx(np.mean(rank <= 10), abs=1e-4)
    assert keep["reciprocal_rank"] == pytest.approx(np.mean(1 / rank), abs=1e-4)
    assert keep["standard_error"] == pytest.approx(np.std(1 / rank) / np.sqrt(300), abs=1e-4)


def test_the_best_block_of_a_composite_is_compared():
    x, y = related_pairs(300)
    noise = unit_rows(np.random.default_rng(1), 300, 12)
    both = np.concatenate([noise, x], axis=1)
    report = fit(both, y, blocks={"noise": slice(0, 12), "good": slice(12, 36)}).report
    assert report["kept"] == "good"
    assert report["keep_source"] == fit(x, y).report["keep_source"]


def test_groups_keep_copies_out_of_the_held_out_metrics():
    x, y = related_pairs(100)
    x, y = np.repeat(x, 3, axis=0), np.repeat(y, 3, axis=0)
    documents = [f"d{i // 3}" for i in range(300)]
    plain, grouped = fit(x, y).report, fit(x, y, groups=documents).report
    assert grouped["groups"] == 100
    assert plain["store"]["cosine"] > grouped["store"]["cosine"] + 0.005


def test_a_larger_corpus_is_harder_to_search():
    x, y = related_pairs(2000)
    pairs = fit(x[:300], y[:300])
    index = fit(x[:300], y[:300], corpus=y)
    assert (pairs.report["corpus"], index.report["corpus"]) == (300, 2000)
    recall = [f.quality_params["calibration"]["found"].mean() for f in (pairs, index)]
    assert recall[1] < recall[0]


@pytest.fixture(scope="module")
def many():
    """Enough pairs for fine-tuning, new pairs, and a fit without fine-tuning."""
    x, y = related_pairs(2400)
    return x[:1400], y[:1400], x[1400:], y[1400:], fit(x[:1400], y[:1400], fine_tune=False)


def test_fine_tuning_is_kept_if_held_out_queries_improve(many):
    x, y, new_x, new_y, plain = many
    tuned = fit(x, y)
    assert plain.report["fine_tuning_steps"] == 0
    assert tuned.report["fine_tuning_steps"] > 0
    assert tuned.report["held_out_queries"] == 280
    before, after = (np.mean(1 / ranks(f.apply(new_x, "query"), new_y, y, y)) for f in (plain, tuned))
    assert after > before + 0.01
    np.testing.assert_array_equal(plain.apply(x), tuned.apply(x))


def test_fine_tuning_without_improvement_is_dropped(many, monkeypatch):
    x, y, _, _, plain = many
    diverging = partial(fine_tune, training=replace(FINE_TUNING, learning_rate=10.0))
    monkeypatch.setattr(
        sys.modules["ea_jax.fitting.fit"], "fine_tune", diverging
    )  # the package's `fit` is the function
    assert_same(plain, fit(x, y))


def test_few_pairs_are_not_fine_tuned(fitted):
    assert fitted.report["fine_tuning_steps"] == 0


@pytest.mark.parametrize("kind", ["quality", "adapter"])
def test_few_pairs_do_better_with_a_prior_than_without(global_fit, kind):
    x, y = related_pairs(60, seed=1, shift=0.1)
    new_x, new_y = related_pairs(500, seed=2, shift=0.1)
    prior = global_fit.quality if kind == "quality" else global_fit.adapter()
    alone, own = fit(x, y), fit(x, y, prior=prior)
    assert (alone.report["prior"], own.report["prior"]) == ("none", "given")
    assert 1 - cosine(own, new_x, new_y) < 0.7 * (1 - cosine(alone, new_x, new_y))
    if kind == "quality":  # it has the covariances that whitening needs
        scores = [np.mean(1 / ranks(f.apply(new_x, "query"), new_y, new_y, new_y, itself=True)) for f in (alone, own)]
        assert scores[1] > scores[0] + 0.02


def test_many_pairs_override_a_wrong_prior(global_fit):
    x, y = related_pairs(1500, seed=1, shift=-2.0)
    with_prior, alone = (fit(x[:1000], y[:1000], prior=p, fine_tune=False) for p in (global_fit.quality, None))
    assert cosine(with_prior, x[1000:], y[1000:]) == pytest.approx(cosine(alone, x[1000:], y[1000:]), abs=0.003)


def test_a_prior_covariance_counts_as_its_rows(global_fit):
    x, y = related_pairs(60, seed=1)
    own = fit(x, y, prior=global_fit.quality).quality.params
    prior = global_fit.quality.params

    def inverse(p, d):
        return np.eye(d) / np.float64(p["spread"]) ** 2 - np.float64(p["directions"]) @ np.float64(p["directions"]).T

    dense = (60 * np.cov(x.T, bias=True) + PRIOR_ROWS * np.linalg.inv(inverse(prior, 24))) / (60 + PRIOR_ROWS)
    np.testing.assert_allclose(np.linalg.inv(inverse(own, 24)), dense, atol=0.03 * np.trace(dense) / 24)
    np.testing.assert_allclose(own["mean"], x.mean(axis=0), atol=1e-5)
    assert len(own["references"]) == 384


@pytest.mark.parametrize("family", ["linear", "kernel"])
def test_a_module_gives_the_features_times_the_layer(family):
    x, y = nonlinear_pairs(200)
    fitted = fit(x, y, family=family)
    z = kernel_features(x, y).z if family == "kernel" else x
    out = fitted.adapter("query").params["out"]
    expected = z.astype(np.float64) @ np.asarray(out["kernel"], np.float64) + np.asarray(out["bias"])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(fitted.apply(x, "query"), expected, atol=2e-5)


def test_kernel_features_have_the_inner_products_of_the_kernel():
    x = unit_rows(np.random.default_rng(0), 60, 6)
    features = kernel_features(x, x)
    assert features.sizes == {"landmarks": 60, "rank": 60, "bandwidths": 1}
    np.testing.assert_array_equal(features.z[:, :6], x)
    kernel = np.exp(x.astype(np.float64) @ x.T - 1)
    center = np.eye(60) - 1 / 60
    nystrom = features.z[:, 6:].astype(np.float64)
    # rounding the landmarks and the mix to int8 codes costs some of it
    np.testing.assert_allclose(nystrom @ nystrom.T, center @ kernel @ center, atol=0.05)
    spec = Spec("kernel", "", "", 6, 3, unit_norm=False, sizes=tuple(features.sizes.items()))
    out = {"kernel": np.eye(66, 3, -10, dtype=np.float32), "bias": np.zeros(3, np.float32)}
    params = jax.tree.map(jnp.asarray, {**features.params, "out": out})
    params |= {name: params[name].astype(jnp.float32) for name in ("landmarks", "mix")}
    np.testing.assert_allclose(build(spec).apply({"params": params}, jnp.asarray(x)), features.z[:, 10:13], atol=1e-4)


def test_auto_selects_the_kernel_only_for_a_nonlinear_map():
    x, y = nonlinear_pairs(600)
    kernel, linear = fit(x[:300], y[:300], family="auto"), fit(x[:300], y[:300])
    assert kernel.family == "kernel"
    assert cosine(kernel, x[300:], y[300:]) > cosine(linear, x[300:], y[300:]) + 0.02
    rng = np.random.default_rng(1)
    x = unit_rows(rng, 300, 24)
    y = split(x @ rng.normal(size=(24, 32)) + 0.3 * rng.normal(size=(300, 32)))
    assert fit(x, y, family="auto").family == "linear"


REPORT = {
    "held_out_queries": 2000,
    "kept": "source",
    "query": {"recall@1": 0.4, "recall@10": 0.8, "reciprocal_rank": 0.5, "standard_error": 0.01},
    "keep_source": {"recall@1": 0.3, "recall@10": 0.7, "reciprocal_rank": 0.4, "standard_error": 0.01},
}


@pytest.mark.parametrize(
    ("rank", "end"),
    [
        (0.4, ": the adapter ranks better."),
        (0.6, ": embedding it again ranks better."),
        (0.49, ": they differ by less than the sampling error."),
    ],
)
def test_the_verdict_names_the_better_alternative(rank, end):
    report = REPORT | {"keep_source": REPORT["keep_source"] | {"reciprocal_rank": rank}}
    sentence = verdict(report, "minilm")
    assert sentence.endswith(end)
    expected = (
        "Of 2,000 held-out queries, 80.0% return the first result of the native query among their first ten (40.0%"
    )
    assert sentence.startswith(expected)
    assert "against 70.0% (30.0%) after embedding the corpus again with minilm" in sentence
    assert "again with wordllama" in verdict(report | {"kept": "wordllama"}, "minilm")


@pytest.mark.parametrize(
    ("x", "y", "names", "message"),
    [
        (10, 10, {}, "There are 10 pairs; a fit needs at least 50"),
        (100, 99, {}, "x has 100 rows and y 99"),
        (100, 100, {"groups": ["a"]}, "row-aligned"),
        (100, 100, {"family": "cubic"}, "family is 'cubic'; it must be one of linear, kernel, auto"),
        (
            100,
            100,
            {"corpus": np.ones((200, 8), np.float32)},
            r"corpus has shape \(200, 8\), but targets have width 12",
        ),
        (100, 100, {"corpus": np.ones((10, 12), np.float32)}, "corpus has 10 rows; queries need more than 10"),
    ],
)
def test_pairs_that_cannot_be_fitted_are_refused(x, y, names, message):
    rng = np.random.default_rng(0)
    with pytest.raises(BadInput, match=message):
        fit.__wrapped__(unit_rows(rng, x, 8), unit_rows(rng, y, 12), **names)  # without the tests' type checker


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_non_finite_value_is_refused_with_its_row(side, value):
    pairs = toy_pairs()
    pairs[side][7, 1] = value
    with pytest.raises(BadInput, match="Row 7 of x or y has a value that is not finite"):
        fit(*pairs)


def test_a_prior_that_does_not_fit_is_refused(fitted, global_fit):
    x, y = toy_pairs(100)
    with pytest.raises(BadInput, match="The prior maps width 24 to 32, but the pairs have 8 and 12"):
        fit(x, y, prior=global_fit.quality)
    with pytest.raises(BadInput, match="The prior is a linear adapter for query; give a linear one for store"):
        fit(x, y, prior=fitted.adapter("query"))
    kernel = fit(*nonlinear_pairs(60), family="kernel")
    with pytest.raises(BadInput, match="The prior is a kernel adapter for store"):
        fit(*nonlinear_pairs(60), prior=kernel.quality)
    with pytest.raises(BadInput, match="family is 'kernel', but a fit with a prior is linear"):
        fit(x, y, prior=fitted.quality, family="kernel")
