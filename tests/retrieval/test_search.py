"""Exact search, with and without a bfloat16 shortlist."""

import ml_dtypes
import numpy as np
import pytest

import ea_jax.retrieval.search as module
from ea_jax.errors import BadInput
from ea_jax.retrieval.search import error_bound, search
from tests.conftest import unit_rows


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return unit_rows(rng, 300, 6), unit_rows(rng, 700, 6)


@pytest.fixture
def shortlists(monkeypatch):
    """Use shortlists for any size on any machine. Returns the number of queries searched in each dtype."""
    counts, search_blocks = {"bfloat16": 0, "float32": 0}, module._search_blocks

    def counted(queries, corpus, k, dtype):
        counts[dtype] += len(queries)
        return search_blocks(queries, corpus, k, dtype)

    monkeypatch.setattr(module, "_search_blocks", counted)
    monkeypatch.setattr(module, "MIN_PRODUCTS", 0)
    monkeypatch.setattr(module, "fast_dtype", lambda: "bfloat16")
    return counts


@pytest.mark.parametrize("k", [1, 10, 70])
def test_search_in_blocks_agrees_with_a_full_sort(rows, k, monkeypatch):
    monkeypatch.setattr(module, "QUERY_BLOCK", 128)
    monkeypatch.setattr(module, "CORPUS_BLOCK", 192)
    queries, corpus = rows
    scores = queries.astype(np.float64) @ corpus.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    hits = search(queries, corpus, k)
    np.testing.assert_array_equal(hits.row, order)
    np.testing.assert_allclose(hits.score, np.take_along_axis(scores, order, axis=1), atol=1e-6)


def test_ties_are_in_row_order_across_groups_and_blocks(monkeypatch):
    monkeypatch.setattr(module, "CORPUS_BLOCK", 128)
    corpus = np.zeros((500, 2), np.float32)
    corpus[[3, 70, 200, 201, 499]] = 1
    hits = search(np.ones((3, 2), np.float32), corpus, 7)
    np.testing.assert_array_equal(hits.row, [[3, 70, 200, 201, 499, 0, 1]] * 3)


def test_search_refuses_a_corpus_smaller_than_k_and_another_width(rows):
    queries, corpus = rows
    with pytest.raises(BadInput, match="k is 10, but the corpus has 4 rows"):
        search(queries, corpus[:4], 10)
    with pytest.raises(BadInput, match="width 6 and the corpus 5"):
        search(queries, corpus[:, :5], 1)


def test_a_shortlist_does_not_change_the_result(shortlists):
    rng = np.random.default_rng(2)
    queries, corpus = unit_rows(rng, 200, 64), unit_rows(rng, 2000, 64)
    scores = queries.astype(np.float64) @ corpus.T
    hits = search(queries, corpus, 10)
    np.testing.assert_array_equal(hits.row, np.argsort(-scores, axis=1, kind="stable")[:, :10])
    np.testing.assert_allclose(hits.score, -np.sort(-scores, axis=1)[:, :10], atol=1e-7)
    assert shortlists["bfloat16"] == 200
    assert shortlists["float32"] < 20  # otherwise the shortlist saves nothing


def test_scores_within_the_error_bound_are_searched_in_float32(shortlists):
    rng = np.random.default_rng(3)
    queries, centre = unit_rows(rng, 20, 64), unit_rows(rng, 1, 64)
    corpus = np.concatenate([centre + 1e-4 * unit_rows(rng, 300, 64), unit_rows(rng, 300, 64)]).astype(np.float32)
    corpus[[5, 290, 400]] = 1.001 * centre  # a tie
    all_queries = np.concatenate([centre, queries]).astype(np.float32)
    scores = (all_queries.astype(np.float64) @ corpus.T).astype(np.float32)
    hits = search(all_queries, corpus, 10)
    np.testing.assert_allclose(hits.score, -np.sort(-scores, axis=1)[:, :10], atol=1e-6)
    ours = np.take_along_axis(scores, hits.row, axis=1)
    np.testing.assert_allclose(ours, -np.sort(-scores, axis=1)[:, :10], atol=1e-6)
    assert shortlists["float32"] >= 1
    assert hits.row[0, :3].tolist() == [5, 290, 400]


def test_the_error_of_bfloat16_is_within_its_bound():
    rng = np.random.default_rng(4)
    for spread in (0, 3):  # spread 3 gives very unequal lengths and values
        queries, corpus = (
            rng.standard_normal((n, 96)) * np.exp(spread * rng.standard_normal((n, 96))) for n in (50, 400)
        )
        queries, corpus = queries.astype(np.float32), corpus.astype(np.float32)
        p, q = (side.astype(ml_dtypes.bfloat16).astype(np.float64) for side in (queries, corpus))
        off = np.abs(p @ q.T - queries.astype(np.float64) @ corpus.T).max(axis=1)
        bound = error_bound(queries, corpus)
        assert (off <= bound).all()
        assert (bound < 1e-2 * np.linalg.norm(queries, axis=1) * np.linalg.norm(corpus, axis=1).max()).all()
