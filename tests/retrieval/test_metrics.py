import numpy as np
import pytest

from ea_jax.retrieval import metrics
from tests.conftest import unit_rows


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return unit_rows(rng, 300, 6), unit_rows(rng, 700, 6)


def test_top_hit_and_rank_agree_with_a_full_sort(rows):
    queries, corpus = rows
    order = np.argsort(-(queries.astype(np.float64) @ corpus.T), axis=1)
    np.testing.assert_array_equal(metrics.top_hit(queries, corpus), order[:, 0])
    expected = np.arange(300) % 700
    ranks = 1 + np.argmax(order == expected[:, None], axis=1)
    np.testing.assert_array_equal(metrics.rank_of(queries, corpus, expected), ranks)


def test_a_tie_goes_to_the_earlier_row():
    corpus, query = np.ones((4, 2), np.float32), np.ones((1, 2), np.float32)
    assert metrics.top_hit(query, corpus)[0] == 0
    assert metrics.rank_of(query, corpus, np.asarray([2]))[0] == 3


def test_recall_counts_the_true_neighbor_and_equal_rows():
    rows = np.asarray([[7, *range(10, 19)], [10, 8, *range(11, 19)], [*range(10, 20)]])
    same = np.arange(20)
    same[8] = 3
    by_query = metrics.recalls(rows, np.asarray([7, 3, 3]), same)
    assert [by_query[f"recall@{k}"].tolist() for k in (1, 5, 10)] == [[1, 0, 0], [1, 1, 0], [1, 1, 0]]


def test_cosines_agree_with_scikit_learn_at_any_length(rows):
    from sklearn.metrics.pairwise import cosine_similarity

    a, b = (side[:300] * 3 for side in rows)
    np.testing.assert_allclose(metrics.cosines(a, b), np.diag(cosine_similarity(a.astype(float), b)), atol=1e-6)
    assert metrics.cosines(np.zeros((1, 2)), np.ones((1, 2))).tolist() == [0]


def test_the_reciprocal_rank_by_hand():
    rank = np.asarray([1, 2, 5, 11])
    assert metrics.reciprocal_rank(rank) == pytest.approx(np.mean([1, 1 / 2, 1 / 5, 1 / 11]), rel=1e-6)


def test_equal_rows_have_the_index_of_the_first():
    rows = np.asarray([[1, 2], [3, 4], [1, 2], [3, 5], [3, 4]], np.float32)
    np.testing.assert_array_equal(metrics.first_equal(rows), [0, 1, 0, 3, 1])
