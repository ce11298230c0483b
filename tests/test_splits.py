import numpy as np
import pytest

from ea_jax.fitting.splits import CORPUS, FOLDS, KIN, QUERIES, group_folds, held_out, kin_of, near_duplicates
from tests.conftest import unit_rows


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


def test_queries_and_corpus_are_different_rows_of_the_fold():
    rng = np.random.default_rng(0)
    x, y, fold = unit_rows(rng, 400, 6), unit_rows(rng, 400, 32), np.arange(400) % FOLDS
    held = held_out(x, y, fold, 2, seed=0)
    assert len(held.y) == 40
    assert len(held.corpus) == 40
    assert len(set(held.rows.tolist())) == 80
    assert set(fold[held.rows]) == {2}
    np.testing.assert_array_equal(np.concatenate([held.x, held.corpus_x]), x[held.rows])
    np.testing.assert_array_equal(np.concatenate([held.y, held.corpus]), y[held.rows])


def test_samples_are_bounded():
    rng = np.random.default_rng(0)
    n = FOLDS * (QUERIES + CORPUS + 100)
    x = unit_rows(rng, n, 6)
    held = held_out(x, unit_rows(rng, n, 32), np.arange(n) % FOLDS, 0, seed=0)
    assert (len(held.y), len(held.corpus)) == (QUERIES, CORPUS)


def test_queries_that_a_fit_would_know_are_left_out_and_counted():
    rng = np.random.default_rng(0)
    x, y, fold = unit_rows(rng, 400, 6), unit_rows(rng, 400, 32), np.arange(400) % FOLDS
    asked = held_out(x, y, fold, 0, seed=0).rows[:40]
    y[np.flatnonzero(fold == 1)[:7]] = y[asked[:7]]  # the same vectors, in another fold
    held = held_out(x, y, fold, 0, seed=0)
    assert held.near == 7
    assert len(held.y) == 33
    assert not set(asked[:7].tolist()) & set(held.rows.tolist())


def test_near_duplicates_in_either_space_are_a_rows_kin(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = unit_rows(rng, 300, 20), unit_rows(rng, 300, 32)
    x[250], y[40], y[41] = x[7], y[7], y[7]
    monkeypatch.setattr("ea_jax.fitting.splits.BLOCK", 64)
    kin = kin_of(3 * x, y, np.array([9, 7, 41]))
    assert kin.sizes.tolist() == [1, 4, 3]
    assert kin.firsts.tolist() == [9, 7, 41]
    blocks = np.split(kin.rows, np.cumsum(kin.sizes)[:-1])
    assert [set(block.tolist()) for block in blocks] == [{9}, {7, 40, 41, 250}, {7, 40, 41}]
    parts = list(kin.parts(4))
    assert [part.sizes.tolist() for part in parts] == [[1], [4], [3]]
    assert np.concatenate([part.rows for part in parts]).tolist() == kin.rows.tolist()
    assert kin.first(2).rows.tolist() == kin.rows[:5].tolist()
    wider = kin.first(2).beside(np.array([3, kin.rows[kin.starts[1] + 1]]))
    assert wider.sizes.tolist() == [kin.sizes[0] + 1, kin.sizes[1]]
    assert wider.rows.tolist() == [*kin.rows[: kin.sizes[0]], 3, *kin.rows[kin.sizes[0] : 5]]


def test_of_many_near_duplicates_fifty_are_kin():
    x = np.tile(unit_rows(np.random.default_rng(0), 1, 8), (200, 1))
    assert kin_of(x, x, np.array([3])).sizes.tolist() == [KIN + 1]
