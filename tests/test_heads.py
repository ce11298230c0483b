from dataclasses import replace

import numpy as np
import pytest

from ea_jax.fitting.drawing import FAITHFUL, drawing_of, drawn, overtaken, raised, share_of, unfitted, widened
from ea_jax.fitting.heads import (
    PERPLEXITY,
    POLISH,
    Judge,
    Shape,
    polished,
    query_layer,
    shaped,
    similarity_map,
    suited,
    temperature_of,
)
from ea_jax.fitting.splits import Held
from ea_jax.metrics import occurrences, skewness
from ea_jax.solve import Affine, covariance, moments, ridge, target_spectrum, whitening
from ea_jax.train import Held as Judged
from ea_jax.train import Training
from tests.conftest import toy_pairs, unit_rows


@pytest.fixture(scope="module")
def pairs():
    return toy_pairs(600)


def test_shaped_outputs_are_those_of_the_query_layer(pairs):
    x, y = pairs
    c = covariance(moments(x, y))
    store, spectrum, shape = ridge(c, 0.1), target_spectrum(c), Shape(0.3, 2.0)
    found = shaped(store.apply(x), c, whitening(spectrum, shape.exponent), shape.length)
    np.testing.assert_allclose(found, query_layer(store, c, spectrum, shape).apply(x), atol=1e-4)


def test_no_whitening_at_the_native_length_keeps_directions(pairs):
    x, y = pairs
    c = covariance(moments(x, y))
    store = ridge(c, 0.01)
    centred = query_layer(store, c, target_spectrum(c), Shape(0.0, 1.0)).apply(x) - c.y_mean
    plain = store.apply(x) - c.y_mean
    ratio = np.linalg.norm(centred, axis=1) / np.linalg.norm(plain, axis=1)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


def test_a_judge_ranks_the_corpus_as_a_plain_loop_does():
    rng = np.random.default_rng(0)
    parts = [unit_rows(rng, n, d) for n, d in ((30, 5), (30, 7), (80, 5), (80, 7))]
    judge, out = Judge(Held(np.arange(110), *parts, 0)), unit_rows(rng, 30, 7)
    hit = (parts[1].astype(np.float64) @ parts[3].T).argmax(1)

    def reciprocal(queries, corpus):
        score = queries.astype(np.float64) @ corpus.T
        return np.mean(1 / (1 + (score > score[np.arange(30), hit][:, None]).sum(1)))

    assert judge.ranks(5 * out).mean() == pytest.approx(reciprocal(out, parts[3]), rel=1e-5)
    assert judge.keep_source() == pytest.approx(reciprocal(parts[0], parts[2]), rel=1e-5)
    assert judge.cosine(5 * out) == pytest.approx(np.sum(out * parts[1], axis=1).mean(), rel=1e-5)


def test_scores_are_mapped_to_the_native_scale_and_never_reordered():
    rng = np.random.default_rng(0)
    native, corpus = unit_rows(rng, 60, 8), unit_rows(rng, 500, 8)
    common = 2 * unit_rows(rng, 1, 8)
    queries = native + common  # scores are off by what all queries share
    knots = similarity_map(queries.astype(np.float32), native, corpus)
    assert np.all(np.diff(knots["score"]) >= 0)
    assert np.all(np.diff(knots["native"]) >= 0)
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    score, truth = unit @ corpus.T, native @ corpus.T
    best = np.argsort(-score, axis=1)[:, :50]
    score, truth = (np.take_along_axis(s, best, axis=1) for s in (score, truth))
    mapped = np.interp(score, knots["score"], knots["native"])
    assert abs(mapped.mean() - truth.mean()) < 0.02
    assert np.abs(mapped - truth).mean() < np.abs(score - truth).mean()


def test_whitening_undoes_hubs():
    """Shrunk outputs lie along few directions, and a few rows are near to every query; the query layer mends that."""
    rng = np.random.default_rng(0)
    x = unit_rows(rng, 1500, 24)
    y = x @ (rng.normal(size=(24, 40)) * np.geomspace(3, 0.2, 24)[:, None]) + 1.0 + 0.3 * rng.normal(size=(1500, 40))
    y = (y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32)
    c = covariance(moments(x[:1000], y[:1000]))
    store = ridge(c, 1.0)
    query = query_layer(store, c, target_spectrum(c), Shape(0.5, 4.0))
    skew = {
        name: float(skewness(occurrences(rows / np.linalg.norm(rows, axis=1, keepdims=True), y[:1000], 10)))
        for name, rows in {"store": store.apply(x[1000:]), "query": query.apply(x[1000:]), "native": y[1000:]}.items()
    }
    assert skew["query"] < skew["store"]


def test_a_layer_is_trained_where_held_out_queries_gain_and_is_the_start_where_they_do_not(pairs):
    x, y = pairs
    judged = Judged(x[400:450], y[400:450], y[450:])
    good = ridge(covariance(moments(x[:400], y[:400])), 0.01)
    rng = np.random.default_rng(0)
    bad = Affine(good.kernel + 0.5 * rng.normal(size=good.kernel.shape), good.bias)
    training = Training(steps=60, batch=128, rate=0.05, terms=POLISH.terms, every=20)
    layer, trained = polished(bad, x[:400], y[:400], judged, training, seed=0)
    assert trained.best > 0
    assert max(score for _, score in trained.judged) > trained.judged[0][1] + 0.1
    assert np.sum((layer.apply(x) - bad.apply(x)) ** 2) > 0
    harmful = Training(steps=4, batch=64, rate=50.0, every=2)
    kept, trained = polished(good, x[:400], y[:400], judged, harmful, seed=0)
    assert trained.best == 0
    assert kept is good


@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_at_its_temperature_ten_neighbours_weigh_however_near_all_rows_are(spread):
    rng = np.random.default_rng(0)
    y = np.eye(1, 12) + spread * rng.normal(size=(600, 12))
    y = (y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32)
    score = y @ y.T / temperature_of(y)
    np.fill_diagonal(score, -np.inf)
    p = np.exp(score - score.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    perplexity = np.exp(-np.sum(p * np.log(np.maximum(p, 1e-30)), axis=1))
    assert np.median(perplexity) == pytest.approx(PERPLEXITY, rel=0.05)


@pytest.fixture
def layers():
    """A layer of five features and a linear one of the first three of them, with their outputs, and noise."""
    rng = np.random.default_rng(0)
    layer, linear = (Affine(rng.normal(size=(k, 4)), rng.normal(size=4)) for k in (5, 3))
    asked = rng.normal(size=(200, 5)).astype(np.float32)
    return layer, linear, asked, layer.apply(asked), linear.apply(asked[:, :3]), 0.1 * rng.normal(size=200)


@pytest.mark.parametrize(("pairs", "batch"), [(500, 512), (12_000, 1000), (10**6, 2048)])
def test_a_batch_grows_with_the_pairs_and_is_never_more_than_was_asked_for(pairs, batch):
    assert suited(POLISH, pairs, 0.0) == replace(POLISH, batch=batch)
    assert suited(replace(POLISH, batch=64), pairs, 0.0).batch == 64


def test_pairs_are_mixed_as_far_as_the_corpus_is_other_rows():
    assert suited(POLISH, 5000, 0.75).mixup == 0.75


@pytest.mark.parametrize("drawing", [FAITHFUL, drawing_of(1000), drawing_of(10_000)], ids=["store", "few", "many"])
def test_a_layer_is_not_drawn_towards_a_linear_one_that_costs_much(layers, drawing):
    layer, linear, _, a, b, _ = layers
    share = share_of(a, b, lambda y: np.exp(-10 * np.linalg.norm(y - a, axis=1)), drawing)
    assert share == 0
    found, mix, outputs = drawn(layer, linear, a, b, share)
    np.testing.assert_array_equal(outputs, a)
    assert mix == (1, 0)
    np.testing.assert_allclose(found.kernel, layer.kernel)


@pytest.mark.parametrize(("pairs", "share"), [(600, 0.9), (1500, 0.75), (10_000, 0.9)])
def test_a_layer_is_drawn_towards_a_linear_one_that_costs_nothing(layers, pairs, share):
    layer, linear, asked, a, b, noise = layers
    assert share_of(a, b, lambda _: 1 + noise, drawing_of(pairs)) == pytest.approx(share)
    assert share_of(a, b, lambda _: noise, FAITHFUL) == 0
    found, mix, outputs = drawn(layer, linear, a, b, share)
    factor = np.sqrt(np.mean(a**2) / np.mean(b**2))
    assert mix == pytest.approx((1 - share, share * factor))
    wanted = (1 - share) * layer.kernel + share * factor * widened(linear, 5).kernel
    np.testing.assert_allclose(found.kernel, wanted, rtol=1e-5)
    np.testing.assert_allclose(found.apply(asked), outputs, rtol=1e-4, atol=1e-4)


def test_of_few_pairs_a_linear_share_may_cost_a_tenth_of_the_rank_and_of_many_a_standard_error(layers):
    _, _, _, a, b, noise = layers
    whole = np.linalg.norm(b * np.sqrt(np.mean(a**2) / np.mean(b**2)) - a)

    def share(most, pairs):  # costs from the layer to the linear one, and far more than noise
        return share_of(a, b, lambda y: 1 + 1e-3 * noise - most * np.linalg.norm(y - a) / whole, drawing_of(pairs))

    assert share(0.05, 600) == pytest.approx(0.9)
    assert share(0.25, 600) == pytest.approx(0.4)
    assert share(0.05, 10_000) == 0


def test_a_hit_is_overtaken_where_it_was_not_fitted_on_and_one_of_five_rivals_was():
    assert overtaken(unfitted(400, 400)) == overtaken(unfitted(400, 100)) == 0
    assert overtaken(unfitted(1, 10**9)) == pytest.approx(0, abs=1e-6)
    rng = np.random.default_rng(0)
    fitted = rng.random((100_000, 6)) < 0.25
    assert overtaken(unfitted(100, 400)) == pytest.approx(np.mean(~fitted[:, 0] & fitted[:, 1:].any(axis=1)), abs=0.01)


@pytest.fixture
def rank(layers):
    """Scores that fall by a fifth from the layer to the linear one, and rise by a gain where the hit was left out."""
    _, _, _, a, b, noise = layers
    whole = np.linalg.norm(b * np.sqrt(np.mean(a**2) / np.mean(b**2)) - a)

    def of(gain):
        return lambda y: np.concatenate([
            1 + noise + slope * np.linalg.norm(part - a) / whole
            for slope, part in zip((-0.2, gain), np.split(y, 2), strict=True)
        ])  # fmt: skip

    return of


@pytest.mark.parametrize(
    ("pairs", "gain", "p", "share"),
    [
        (1500, 0.63, 0.5, 0.75),
        (1500, 2.28, 0.5, 1.0),
        (1500, 2.0, 0.165, 0.75),
        (5000, 0.63, 0.5, 1.0),
        (5000, 0.82, 0.4, 1.0),
        (5000, 0.2, 0.4, 0.1),
    ],
)
def test_top_hits_that_were_not_fitted_on_raise_the_share(layers, rank, pairs, gain, p, share):
    _, _, _, a, b, _ = layers
    least = 0.75 if pairs == 1500 else 0.1
    assert raised(least, np.stack([a, a]), b, rank(gain), p, pairs) == share


@pytest.mark.parametrize(("p", "share"), [(0.2, 0.5), (0.5, 0.4)])
def test_the_share_is_the_best_or_of_a_corpus_not_fitted_on_the_smallest_within_a_standard_error(layers, p, share):
    _, _, _, a, b, noise = layers
    length = np.sqrt(np.mean(a**2) / np.mean(b**2))
    whole = np.linalg.norm(b * length - a)

    def score(y):  # best at half of either; noise hides a step of .1 from there, and no two of them
        away = [np.linalg.norm(part - a) / whole - 0.5 for part in np.split(y, 2)]
        return np.concatenate([1 - d**2 - 20 * d * (noise - noise.mean()) for d in away])

    assert raised(0.1, np.stack([a, a]), b, score, p, 5000) == share
