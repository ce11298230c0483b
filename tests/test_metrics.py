import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax import metrics
from tests.conftest import unit_rows


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return unit_rows(rng, 300, 6), unit_rows(rng, 700, 6)


def test_top_hit_and_rank_agree_with_a_full_sort(rows):
    queries, corpus = rows
    order = np.argsort(-(queries.astype(np.float64) @ corpus.T), axis=1)
    np.testing.assert_array_equal(metrics.top_hit(queries, corpus), order[:, 0])
    wanted = np.arange(300) % 700
    places = 1 + np.argmax(order == wanted[:, None], axis=1)
    np.testing.assert_array_equal(metrics.rank_of(queries, corpus, wanted), places)


def test_a_tie_goes_to_the_earlier_row():
    corpus, query = np.ones((4, 2), np.float32), np.ones((1, 2), np.float32)
    assert metrics.top_hit(query, corpus)[0] == 0
    assert metrics.rank_of(query, corpus, np.asarray([2]))[0] == 3


def test_recall_and_reciprocal_rank_by_hand():
    rank = np.asarray([1, 2, 5, 11])
    assert metrics.recall_at(rank, 1) == pytest.approx(1 / 4)
    assert metrics.recall_at(rank, 5) == pytest.approx(3 / 4)
    assert metrics.reciprocal_rank(rank) == pytest.approx(np.mean([1, 1 / 2, 1 / 5, 1 / 11]), rel=1e-6)


def test_mean_cosine_of_unit_rows(rows):
    queries, corpus = rows
    wanted = np.sum(queries.astype(np.float64) * corpus[:300], axis=1).mean()
    assert metrics.mean_cosine(queries, jnp.asarray(corpus[:300])) == pytest.approx(wanted, abs=1e-6)
