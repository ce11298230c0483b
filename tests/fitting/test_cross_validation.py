import numpy as np
import pytest

from ea_jax.fitting.cross_validation import FOLDS, group_folds
from ea_jax.retrieval import neighbors
from ea_jax.retrieval.neighbors import near_duplicates, rank_true_neighbors
from tests.conftest import unit_rows


def test_no_group_straddles_two_folds_and_folds_are_balanced():
    rng = np.random.default_rng(0)
    groups = [f"g{i}" for i in rng.integers(0, 40, size=1000)]
    fold = group_folds(groups, 1000)
    for group in set(groups):
        assert len({f for f, g in zip(fold, groups, strict=True) if g == group}) == 1
    assert np.ptp(np.bincount(fold, minlength=FOLDS)) < 40


def test_a_large_group_has_a_fold_for_itself():
    groups = ["large"] * 500 + [f"g{i}" for i in range(100)]
    fold = group_folds(groups, 600)
    assert set(fold[:500]) == {fold[0]}
    assert fold[0] not in fold[500:]
    assert np.bincount(fold[500:], minlength=FOLDS).max() == 25


@pytest.mark.parametrize("groups", [None, ["a", "b"] * 10])
def test_rows_go_round_the_folds_where_groups_are_too_few(groups):
    assert list(np.bincount(group_folds(groups, 20))) == [4] * FOLDS


def test_near_duplicates_are_those_above_the_cosine(monkeypatch):
    rng = np.random.default_rng(0)
    test = unit_rows(rng, 20, 32)
    rows = np.concatenate([test[:3], unit_rows(rng, 5, 32)])
    rows[0] = (test[0] + 0.1 * unit_rows(rng, 1, 32)[0]) / np.linalg.norm(test[0] + 0.1 * unit_rows(rng, 1, 32)[0])
    expected = (rows.astype(np.float64) @ test.T).max(1) >= 0.97
    monkeypatch.setattr(neighbors, "BLOCK", 3)
    np.testing.assert_array_equal(near_duplicates(rows, test, 0.97), expected)
    assert expected.sum() >= 2


@pytest.fixture
def search_case():
    """Outputs, native queries, a corpus whose first rows are those of the queries, and other vectors beside it."""
    rng = np.random.default_rng(0)
    corpus = unit_rows(rng, 90, 12)
    outputs = corpus[:40] + 0.6 * unit_rows(rng, 40, 12)
    outputs = (outputs / np.linalg.norm(outputs, axis=1, keepdims=True)).astype(np.float32)
    return outputs, corpus[:40], corpus, unit_rows(rng, 90, 12)


def sorted_search(outputs, native, corpus, searched):
    """Rank of each true neighbor and the ten best scores, by sorting; a query's own row is left out of both."""
    ranks, tops = [], []
    for i in range(len(outputs)):
        others = [j for j in range(len(corpus)) if j != i]
        true = max(others, key=lambda j: native[i].astype(np.float64) @ corpus[j])
        score = {j: outputs[i].astype(np.float64) @ searched[j] for j in others}
        order = sorted(others, key=lambda j: -score[j])
        ranks.append(1 + order.index(true))
        tops.append([score[j] for j in order[:10]])
    return np.array(ranks), np.array(tops)


@pytest.mark.parametrize("side", [False, True], ids=["the corpus", "other vectors of its rows"])
def test_ranks_agree_with_a_full_sort_without_the_query_itself(search_case, side, monkeypatch):
    outputs, native, corpus, other = search_case
    monkeypatch.setattr(neighbors, "QUERIES", 16)
    ranking = rank_true_neighbors(outputs, native, corpus, other if side else None)
    rank, top = sorted_search(outputs, native, corpus, other if side else corpus)
    np.testing.assert_array_equal(ranking.rank, rank)
    np.testing.assert_allclose(ranking.top, top, atol=1e-6)
    assert np.all(np.diff(ranking.top, axis=1) <= 0)


def test_queries_find_their_neighbor_and_never_themselves(search_case):
    _, native, corpus, _ = search_case
    ranking = rank_true_neighbors(native, native, corpus)
    assert np.all(ranking.rank == 1)
    assert ranking.top.max() < 0.999


def test_a_corpus_without_the_queries_is_searched_whole(search_case):
    outputs, native, corpus, _ = search_case
    ranking = rank_true_neighbors(outputs, native, corpus[40:])
    true = (native.astype(np.float64) @ corpus[40:].T).argmax(1)
    score = outputs.astype(np.float64) @ corpus[40:].T
    np.testing.assert_array_equal(ranking.rank, 1 + (score > score[np.arange(40), true][:, None]).sum(1))


def test_fewer_rows_than_ten_are_all_returned(search_case):
    outputs, native, corpus, _ = search_case
    assert rank_true_neighbors(outputs, native, corpus[60:64]).top.shape == (40, 4)
