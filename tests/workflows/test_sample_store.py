"""Samples of stores: what a fit reads and what an evaluation queries never overlap."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ea_jax.errors import BadInput
from ea_jax.workflows.sample_store import find_held_out, sample_queries, sample_store
from tests.integrations.stores.conftest import WIDTH, make_rows, make_store, need

ROWS = 1500  # more than one batch


@pytest.fixture
def store(tmp_path):
    """The URL of a store, and its rows by id."""
    need("sqlite-vec")
    url, rows = f"sqlite-vec:{tmp_path / 'docs.db'}#docs", make_rows(ROWS)
    make_store(url, rows).close()
    return url, {row["id"]: row for row in rows.to_pylist()}


def is_held_out(row_id: str) -> bool:
    """The rule in another form: the last decimal digit of a 64-bit hash is 0."""
    return str(int(hashlib.blake2b(row_id.encode(), digest_size=8).hexdigest(), 16)).endswith("0")


@pytest.mark.parametrize("seed", [0, 1])
def test_fits_and_evaluations_share_no_row(store, tmp_path, seed):
    url, rows = store
    held_out = {i for i in rows if is_held_out(i)}
    assert 0.07 < len(held_out) / ROWS < 0.13
    sample = sample_store(url, tmp_path / "fit.parquet", 800, seed=seed)
    pairs = pq.read_table(tmp_path / "fit.parquet").to_pylist()
    assert (len(pairs), sample.pairs) == (800, 800)
    assert not held_out & {row["id"] for row in pairs}
    others = np.array([rows[i]["vector"] for i in sorted(rows.keys() - held_out)], np.float32)
    np.testing.assert_array_equal(np.unique(sample.corpus, axis=0), np.unique(others, axis=0))
    evaluation = sample_queries(url, tmp_path / "eval.parquet", 1000, seed=seed)
    table = pq.read_table(tmp_path / "eval.parquet").to_pylist()
    queries = {row["id"] for row in table if row["query"]}
    assert queries == held_out
    assert not held_out & {row["id"] for row in table if not row["query"]}
    assert (evaluation.queries, evaluation.corpus) == (len(held_out), 1000 - len(held_out))
    for row in [*pairs, *table]:
        assert (row["text"], row["y"]) == (rows[row["id"]]["text"], rows[row["id"]]["vector"])


def test_samples_are_random_and_repeatable(store, tmp_path):
    def ids(n: int, seed: int) -> list[str]:
        sample_store(store[0], tmp_path / "fit.parquet", n, seed=seed)
        return pq.read_table(tmp_path / "fit.parquet").column("id").to_pylist()

    first = ids(100, 0)
    assert ids(100, 0) == first
    assert ids(300, 0)[:100] == first  # a larger sample holds the smaller one
    assert set(ids(100, 1)) != set(first)
    order = list(store[1])
    assert np.mean([order.index(i) for i in ids(1000, 2)]) == pytest.approx(ROWS / 2, rel=0.1)


def test_one_query_in_five_rows_at_most(store, tmp_path):
    sample = sample_queries(store[0], tmp_path / "eval.parquet", 50)
    assert (sample.queries, sample.corpus) == (10, 40)


def test_bad_vectors_are_named_by_their_id(tmp_path):
    need("lancedb")
    import lancedb

    vectors = np.ones((ROWS, WIDTH), np.float32)
    row = next(i for i in range(ROWS) if not is_held_out(str(i)))
    vectors[row] = 0
    columns = {"id": [str(i) for i in range(ROWS)], "text": ["a text"] * ROWS}
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), WIDTH)
    lancedb.connect(tmp_path).create_table("docs", pa.table({**columns, "vector": column}))
    with pytest.raises(BadInput, match=f"row '{row}': the vector is zero"):
        sample_store(f"lancedb:{tmp_path}#docs", tmp_path / "fit.parquet", ROWS)


def test_stores_of_a_few_rows_cannot_be_evaluated_on(tmp_path):
    need("sqlite-vec")
    url = f"sqlite-vec:{tmp_path / 'docs.db'}#docs"
    rows = make_rows(20)
    kept = rows.filter(pa.array(~find_held_out(rows.column("id").to_pylist())))
    make_store(url, kept).close()
    with pytest.raises(BadInput, match="too few to evaluate on"):
        sample_queries(url, tmp_path / "eval.parquet", 1000)
