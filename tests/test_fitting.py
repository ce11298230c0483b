import numpy as np
import pytest

from ea_jax.arrays import leaf_paths
from ea_jax.errors import BadInput
from ea_jax.evaluate import HeldOut, evaluate
from ea_jax.fitting import FOLDS, fit, fit_quality, group_folds, near_duplicates
from tests.conftest import toy_pairs, unit_rows


@pytest.fixture(scope="module")
def fitted():
    return fit(*toy_pairs(600))


def apply(params, x):
    y = x @ params["out"]["store"]["kernel"] + params["out"]["store"]["bias"]
    return y / np.linalg.norm(y, axis=1, keepdims=True)


def test_a_planted_map_is_found(fitted):
    x, y = toy_pairs(600)
    assert np.sum(apply(fitted.params, x) * y, axis=1).mean() > 0.95


def test_one_seed_gives_one_result(fitted):
    again = fit(*toy_pairs(600))
    for part in ("params", "quality"):
        a, b = leaf_paths(getattr(fitted, part)), leaf_paths(getattr(again, part))
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) for name in a)
    assert fitted.report == again.report


def test_the_report_names_what_was_chosen(fitted):
    assert fitted.report["pairs"] == 600
    assert fitted.report["store"]["kind"] in ("ridge", "procrustes")
    assert 0.9 < fitted.report["store"]["cosine"] < 1
    assert 0 < fitted.report["query"]["reciprocal_rank"] <= 1


def test_no_group_straddles_two_folds_and_folds_are_balanced():
    rng = np.random.default_rng(0)
    groups = [f"g{i}" for i in rng.integers(0, 40, size=1000)]
    fold = group_folds(groups, 1000)
    for group in set(groups):
        assert len({f for f, g in zip(fold, groups, strict=True) if g == group}) == 1
    assert np.ptp(np.bincount(fold, minlength=FOLDS)) < 40


@pytest.mark.parametrize("groups", [None, ["a", "b"] * 10])
def test_rows_go_round_the_folds_where_groups_are_too_few(groups):
    assert list(np.bincount(group_folds(groups, 20))) == [4] * FOLDS


def test_near_duplicates_are_those_above_the_cosine():
    rng = np.random.default_rng(0)
    test = unit_rows(rng, 20, 32)
    rows = np.concatenate([test[:3], unit_rows(rng, 5, 32)])
    rows[0] = (test[0] + 0.1 * unit_rows(rng, 1, 32)[0]) / np.linalg.norm(test[0] + 0.1 * unit_rows(rng, 1, 32)[0])
    wanted = (rows.astype(np.float64) @ test.T).max(1) >= 0.97
    np.testing.assert_array_equal(near_duplicates(rows, test, 0.97), wanted)
    assert wanted.sum() >= 2


def test_percentiles_are_of_rows_that_the_statistics_have_not_seen():
    x = unit_rows(np.random.default_rng(0), 300, 8)
    fold = np.arange(300) % FOLDS
    held_out = fit_quality(x, fold)
    references = held_out["references"]
    assert references.shape == (300, 8)  # every row is its own reference, so that seen rows would be at distance 0
    assert held_out["knn_p95"] > 0.1
    assert held_out["maha_p99"] > held_out["maha_p95"] > 0


@pytest.mark.parametrize(
    ("x", "y", "groups", "told"),
    [
        (10, 10, None, "There are 10 pairs; a fit needs 50"),
        (100, 99, None, "x has 100 rows and y 99"),
        (100, 100, ["a"], "row-aligned"),
    ],
)
def test_pairs_that_cannot_be_fitted_are_refused(x, y, groups, told):
    rng = np.random.default_rng(0)
    with pytest.raises(BadInput, match=told):
        fit.__wrapped__(unit_rows(rng, x, 8), unit_rows(rng, y, 12), groups=groups)  # without the tests' type checker


def test_evaluate_gives_the_figures_of_a_plain_loop():
    rng = np.random.default_rng(0)
    test = HeldOut(*(unit_rows(rng, n, d) for n, d in [(40, 5), (40, 6), (90, 5), (90, 6)]))
    out = unit_rows(rng, 40, 6)
    found = evaluate(test, {"map": 3 * out, "native": test.y})
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
