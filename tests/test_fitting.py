from types import SimpleNamespace

import numpy as np
import pytest

from ea_jax.arrays import leaf_paths
from ea_jax.errors import BadInput
from ea_jax.fitting import Budget, advice, fit
from ea_jax.fitting.bodies import kernel_body, linear_moved
from ea_jax.fitting.finish import bench
from ea_jax.fitting.fit import _cut
from ea_jax.fitting.heads import Shape
from ea_jax.fitting.machines import (
    FORM_SHARES,
    Machine,
    choose_kernel,
    landmarks_apart,
    most_faithful,
    shape_and_share,
)
from ea_jax.fitting.search import LEAST_BENT, SAFE_SHAPE, Folds, choose_linear, safe
from ea_jax.fitting.splits import FOLDS, Kin
from ea_jax.fitting.statistics import SOURCE, fit_statistics
from ea_jax.heldout import HeldOut, held_out_figures
from ea_jax.kernel import KernelMap, Radial
from ea_jax.packing import Grid
from tests.conftest import toy_pairs, unit_rows


@pytest.fixture(scope="module")
def fitted():
    return fit(*toy_pairs(300))


def bent_pairs(n: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that no affine map fits."""
    rng = np.random.default_rng(0)
    x = unit_rows(rng, n, 6)
    y = np.tanh(3 * x @ rng.normal(size=(6, 24))) + 0.05 * rng.normal(size=(n, 24))
    return x, (y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32)


def cosine(fitted, x, y, purpose="store"):
    return np.sum(fitted.apply(x, purpose) * y, axis=1).mean()


def cut(x: np.ndarray, y: np.ndarray) -> Folds:
    return _cut(x, y, np.arange(len(x)) % FOLDS, 0)


def test_a_planted_map_is_found(fitted):
    assert cosine(fitted, *toy_pairs(300)) > 0.95


def test_auto_bends_where_the_pairs_do():
    x, y = bent_pairs(600)
    bent = fit(x[:300], y[:300])
    straight = fit(x[:300], y[:300], family="linear")
    assert bent.family == "kernel"
    assert cosine(bent, x[300:], y[300:]) > cosine(straight, x[300:], y[300:]) + 0.02
    assert bent.report["store"]["cosine"] > bent.report["linear"]["cosine"]


def test_a_kernel_machine_is_as_faithful_as_its_best_average_with_the_affine_map():
    x, y = bent_pairs(200)
    folds = cut(x, y)
    linear = choose_linear(folds)
    perfect = SimpleNamespace(solve=lambda c: SimpleNamespace(apply=lambda rows: y[found(x, rows)]))
    alone, helped = (choose_kernel(folds, None, way, 400, 0)[0] for way in (linear, linear._replace(store=perfect)))
    assert linear.cosine < alone.cosine < helped.cosine - 0.01
    assert alone._replace(cosine=0) == helped._replace(cosine=0)


def test_domains_held_out_decide_as_much_as_rows_how_query_vectors_are_formed():
    folds = cut(*bent_pairs(400))
    native = {k: judge.held.y for k, judge in folds.judges.items()}
    strange = {k: np.random.default_rng(k).normal(size=v.shape).astype(np.float32) for k, v in native.items()}
    rows, domains = (folds, native), (folds, strange)
    assert shape_and_share(rows, rows) == (Shape(0.0, 1.0), 0.0, 1.0)
    shape, share, rank = shape_and_share(rows, domains)
    assert share == max(FORM_SHARES)
    assert rank < 1
    assert shape_and_share(domains, rows)[:2] == (shape, share)


def test_of_machines_that_rank_alike_the_most_faithful_is_taken():
    """Shrunk about the mean, outputs rank as they did, but they are less faithful; and noise ranks worse."""
    folds = cut(*bent_pairs(200))
    mean, rng = folds.covariance.y_mean, np.random.default_rng(0)
    native = {k: judge.held.y for k, judge in folds.judges.items()}
    shrunk = {k: (mean + 0.1 * (rows - mean)).astype(np.float32) for k, rows in native.items()}
    noisy = {k: (rows + 0.05 * rng.normal(size=rows.shape)).astype(np.float32) for k, rows in native.items()}
    best, less, worse = (Machine(gamma, 0.1) for gamma in (1.0, 2.0, 3.0))
    for outputs in ({less: shrunk, best: native}, {best: native, less: shrunk}, {less: shrunk, worse: noisy}):
        assert most_faithful(outputs, folds) == (best if best in outputs else less)
    slips = {k: np.concatenate([-rows[:1], rows[1:]]) for k, rows in native.items()}
    outputs = {less: shrunk, worse: slips}
    assert most_faithful(outputs, folds) == less
    assert most_faithful(outputs, folds, given=0.1) == worse


def found(x, rows):
    """Where rows of x stand in it."""
    return [int(np.flatnonzero((x == row).all(axis=1))[0]) for row in np.asarray(rows)]


@pytest.mark.parametrize("rank", [3, 24])
def test_what_a_kernel_machine_makes_of_rows_left_out_is_of_the_rank_that_it_is_mixed_down_to(rank):
    x, y = bent_pairs(200)
    folds = cut(x, y)
    kin = Kin(np.arange(60), np.ones(60, int))
    body = kernel_body(folds, Machine(1.5, 0.3), kin, 100, rank, 8, 0)
    plain = folds.base.solve(folds.covariance).apply(x[:60]) + linear_moved(folds.base, folds, kin)
    assert np.linalg.matrix_rank(body.without(kin).outputs - plain, tol=1e-3) == rank


def test_the_native_top_hits_of_those_that_ask_can_be_left_out_with_them():
    x, y = bent_pairs(400)
    folds = cut(x, y)
    on = bench(folds, np.arange(400), 0, grouped=False, network=False, landmarks=400, corpus_size=4000, seed=0)
    assert on.unfitted == 0.9
    hits = on.found[on.hit]
    assert hits.tolist() == found(y, on.corpus[(on.native @ on.corpus.T).argmax(axis=1)])
    body = kernel_body(folds, Machine(1.5, 0.03), on.unseen, 400, 24, 8, 0)
    asks = on.unseen.first(len(hits))
    known, unknown = (body.without(kin).outputs for kin in (asks, asks.beside(hits)))
    assert np.mean(np.sum((known - unknown) * y[hits], axis=1)) > 0.005


def test_few_landmarks_are_of_rows_that_do_not_judge_and_many_are_of_all():
    x, judging = unit_rows(np.random.default_rng(0), 60, 6), np.arange(0, 60, 2)
    few, more, most = (landmarks_apart(x, landmarks, judging, 0) for landmarks in (30, 31, 60))
    assert sorted(np.argmax(few @ x.T, axis=1)) == list(range(1, 60, 2))
    assert len(more) == 31
    assert sorted(np.argmax(most @ x.T, axis=1)) == list(range(60))


def test_rows_left_out_look_like_rows_to_come_though_landmarks_are_few():
    """Where landmarks were made of them, what bends their outputs is longer than it will be, left out or not."""
    rng = np.random.default_rng(0)
    x = unit_rows(rng, 1600, 24)
    y = np.tanh(8 * x @ rng.normal(size=(24, 24)))
    y, new, x = (y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32)[:800], x[800:], x[:800]
    folds = cut(x, y)
    kin = Kin(np.arange(400), np.ones(400, int))
    affine = folds.base.solve(folds.covariance)

    def longer(apart):
        body = kernel_body(folds, Machine(1.5, 0.03), apart, 300, 24, 8, 0)
        p = body.params
        radial = Radial(p["landmarks"], p["scale"], float(p["gamma"][0]), p["centre"])
        bent = body.store.apply(KernelMap(radial, Grid(p["mix"], p["step"]))(new)) - affine.apply(new)
        left = body.without(kin)
        own = left.outputs - affine.apply(x[:400]) - left.moved
        return np.sqrt(np.mean(np.square(own)) / np.mean(np.square(bent)))

    assert abs(longer(kin) - 1) < 0.03
    assert longer(kin.first(0)) > 1.1


@pytest.mark.slow
def test_every_family_can_be_asked_for():
    x, y = bent_pairs(200)
    found = {family: fit(x, y, family=family, budget=Budget(64, 16)) for family in ("linear", "kernel", "mlp")}
    assert {family: fitted.family for family, fitted in found.items()} == {f: f for f in found}
    assert found["kernel"].sizes == {"landmarks": 64, "rank": 16, "bandwidths": 1}
    for fitted in found.values():
        np.testing.assert_allclose(np.linalg.norm(fitted.apply(x, "query"), axis=1), 1, rtol=1e-5)
    assert found["linear"].parameters == 6 * 24 + 24
    assert found["linear"].parameters < found["kernel"].parameters < found["mlp"].parameters


def test_pairs_in_files_are_read_as_pairs_in_memory(tmp_path, fitted):
    x, y = toy_pairs(300)
    for name, rows in {"x": x, "y": y}.items():
        np.save(tmp_path / f"{name}.npy", rows)
    mapped = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("x", "y"))
    again = fit(*mapped)
    assert again.report == fitted.report
    np.testing.assert_array_equal(again.apply(x), fitted.apply(x))


def report(pairs=5000, rank=0.5, keep=0.4, cosine=0.7, mean=0.3, curve=(0.40, 0.48, 0.49)):
    return {
        "pairs": pairs,
        "query": {"reciprocal_rank": rank},
        "store": {"cosine": cosine},
        "keep_source": {"reciprocal_rank": keep},
        "mean_vector": {"cosine": mean},
        "learning_curve": dict(zip(("1000", "2000", "4000"), curve, strict=True)),
    }


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, None),
        ({"pairs": 300}, "300 pairs are few"),
        ({"curve": (0.3, 0.4, 0.5)}, "5,000 pairs are few"),
        ({"keep": 0.6}, "Keeping the source model"),
        ({"mean": 0.7}, "do not use it"),
    ],
)
def test_advice_says_when_something_else_would_serve_better(changed, told):
    found = advice(report(**changed))
    assert found == [] if told is None else (len(found) == 1 and told in found[0])


def test_one_seed_gives_one_result(fitted):
    again = fit(*toy_pairs(300))
    for part in ("params", "quality"):
        a, b = leaf_paths(getattr(fitted, part)), leaf_paths(getattr(again, part))
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) for name in a)
    assert fitted.report == again.report


def test_the_report_names_what_was_tried_and_chosen(fitted):
    assert fitted.report["pairs"] == 300
    assert fitted.report["tried"] > 10
    assert 0.9 < fitted.report["store"]["cosine"] < 1
    assert 0 < fitted.report["query"]["reciprocal_rank"] <= 1
    assert list(fitted.report["learning_curve"]) == ["60", "120", "240"]
    assert fitted.report["mean_vector"]["cosine"] < fitted.report["store"]["cosine"]


def test_the_query_layer_of_few_pairs_is_the_safe_one_and_not_chosen_by_corpora_that_show_no_hubs(fitted):
    assert (fitted.report["query"]["exponent"], fitted.report["query"]["length"]) == SAFE_SHAPE
    folds = SimpleNamespace(x=np.zeros((LEAST_BENT, 8)))
    assert Folds.base.fget(folds) != Folds.base.fget(SimpleNamespace(x=folds.x[1:])) == safe(LEAST_BENT - 1)


def test_percentiles_are_of_rows_that_the_statistics_have_not_seen():
    x = unit_rows(np.random.default_rng(0), 300, 8)
    fold = np.arange(300) % FOLDS
    held_out = fit_statistics(x, fold, SOURCE)
    references = held_out["references"]
    assert references.shape == (300, 8)  # every row is its own reference, so that seen rows would be at distance 0
    assert held_out["knn_p95"] > 0.1
    assert held_out["maha_p99"] > held_out["maha_p95"] > 0


@pytest.mark.parametrize(
    ("x", "y", "names", "told"),
    [
        (10, 10, {}, "There are 10 pairs; a fit needs 50"),
        (100, 99, {}, "x has 100 rows and y 99"),
        (100, 100, {"groups": ["a"]}, "row-aligned"),
        (100, 100, {"domains": ["a"] * 99}, "row-aligned"),
    ],
)
def test_pairs_that_cannot_be_fitted_are_refused(x, y, names, told):
    rng = np.random.default_rng(0)
    with pytest.raises(BadInput, match=told):
        fit.__wrapped__(unit_rows(rng, x, 8), unit_rows(rng, y, 12), **names)  # without the tests' type checker


def test_an_unknown_family_is_refused():
    with pytest.raises(BadInput, match="family is 'cubic'"):
        fit.__wrapped__(*toy_pairs(), family="cubic")


@pytest.mark.parametrize("side", [0, 1])
def test_a_value_that_is_not_finite_is_refused(side):
    pairs = toy_pairs()
    pairs[side][7, 1] = np.nan
    with pytest.raises(BadInput, match="Row 7 of x or y has a value that is not finite"):
        fit(*pairs)


def test_a_corpus_has_rows():
    with pytest.raises(BadInput, match="corpus_size is 0; it is the number of rows that queries will search"):
        fit(*toy_pairs(), corpus_size=0)


def test_evaluate_gives_the_figures_of_a_plain_loop():
    rng = np.random.default_rng(0)
    test = HeldOut(*(unit_rows(rng, n, d) for n, d in [(40, 5), (40, 6), (90, 5), (90, 6)]))
    out = unit_rows(rng, 40, 6)
    found = held_out_figures(test, {"map": 3 * out, "native": test.y})
    hit = (test.y.astype(np.float64) @ test.corpus_y.T).argmax(1)

    def recall(queries, corpus, k):
        order = np.argsort(-(queries.astype(np.float64) @ corpus.T), axis=1)[:, :k]
        return np.mean([h in row for h, row in zip(hit, order, strict=True)])

    assert found["map"]["cosine"] == pytest.approx(np.sum(out * test.y, axis=1).mean(), abs=1e-4)
    for k in (1, 5, 10):
        assert found["map"][f"recall@{k}"] == pytest.approx(recall(out, test.corpus_y, k), abs=1e-4)
        assert found["keep_source"][f"recall@{k}"] == pytest.approx(recall(test.x, test.corpus_x, k), abs=1e-4)
        assert found["native"][f"recall@{k}"] == 1
    assert "cosine" not in found["keep_source"]
