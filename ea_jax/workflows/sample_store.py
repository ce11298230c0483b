"""Sample the rows of a store into a file of pairs, so that everything that reads pairs reads stores.

One row in ten, by a hash of its id, is held out: no fit on a store takes it, and evaluations draw their queries from
these rows. So an adapter that was fitted on a store can be evaluated on the same store.
"""

import logging
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Float32

from ea_jax.embeddings import VectorRule, check_rows
from ea_jax.errors import BadInput
from ea_jax.integrations.stores import Description, open_store
from ea_jax.integrations.stores.rows import check_widths, vectors_to_numpy
from ea_jax.workflows.evaluate_entry import MAX_QUERIES, ROWS_PER_QUERY

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers
HELD_OUT = 10  # one row in so many is held out
CORPUS = 16_384  # largest number of vectors that the held-out queries of a fit search
BATCH_ROWS = 1000
COLUMNS = ["id", "text", "y"]
logger = logging.getLogger(__name__)


class StoreSample(NamedTuple):
    """A random sample of a store for a fit.

    Attributes:
        description: The sampled store.
        pairs: Number of sampled rows with a text and a vector, which the file of pairs holds.
        corpus: Vectors of sampled rows, with or without texts: a sample of what queries will search.
    """

    description: Description
    pairs: int
    corpus: Float32[np.ndarray, "m d"]


class EvaluationSample(NamedTuple):
    """A random sample of a store for an evaluation.

    Attributes:
        description: The sampled store.
        queries: Number of sampled rows that are held out of fits on the store.
        corpus: Number of sampled rows that the queries search.
    """

    description: Description
    queries: int
    corpus: int


def find_held_out(ids: Sequence[str]) -> Bool[np.ndarray, " n"]:
    """Whether each row is held out of fits on its store. The same ids are held out whatever engine stores them."""
    digests = (blake2b(i.encode(), digest_size=8).digest() for i in ids)
    return np.array([int.from_bytes(digest, "big") % HELD_OUT == 0 for digest in digests], bool)


def sample_store(
    url: str,
    file: Path,
    max_pairs: int,
    *,
    seed: int = 0,
    max_corpus: int = CORPUS,
    advance: Callable[[int], None] = lambda n: None,
) -> StoreSample:
    """Read a store once, and write a random sample of its texts and vectors as pairs (columns id, text and y).

    Held-out rows are neither pairs nor in the corpus.

    Args:
        url: Store URL.
        file: Parquet file to write.
        max_pairs: Largest number of pairs.
        seed: Random seed; the same seed and store give the same sample.
        max_corpus: Largest number of vectors in `corpus`.
        advance: Called with the number of rows of each batch.

    Raises:
        BadInput: The store is empty, has vectors of several widths, has no row with a text and a vector, or a sampled
            vector is zero or not finite.
        StoreUnavailable: The store cannot be reached.
    """
    pairs = _Sample(max_pairs, ["id", "text", "vector"], held_out=False, with_text=True)
    corpus = _Sample(max_corpus, ["id", "vector"], held_out=False, with_text=False)
    description = _fill_samples(url, [pairs, corpus], seed, advance)
    if not pairs.keys.size:
        raise BadInput(f"{description.url} has {description.rows:,} rows, which are too few to fit on.")
    pq.write_table(pairs.rows().rename_columns(COLUMNS), file)
    return StoreSample(description, len(pairs.rows()), _to_vectors(corpus.rows()))


def sample_queries(
    url: str,
    file: Path,
    max_rows: int,
    *,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> EvaluationSample:
    """Read a store once, and write a random sample of it as an evaluation set: pairs with a column query.

    The queries are held-out rows, and the corpus is other rows with a text.

    Args:
        url: Store URL.
        file: Parquet file to write.
        max_rows: Largest number of queries and corpus rows together.
        seed: Random seed; the same seed and store give the same sample.
        advance: Called with the number of rows of each batch.

    Raises:
        BadInput: As `sample_store`; also if no row is held out, which can happen in a store of a few rows.
        StoreUnavailable: The store cannot be reached.
    """
    max_queries = max(1, min(MAX_QUERIES, max_rows // ROWS_PER_QUERY))
    queries = _Sample(max_queries, ["id", "text", "vector"], held_out=True, with_text=True)
    others = _Sample(max_rows, ["id", "text", "vector"], held_out=False, with_text=True)
    description = _fill_samples(url, [queries, others], seed, advance)
    if not queries.keys.size or not others.keys.size:
        raise BadInput(
            f"{description.url} has {description.rows:,} rows, which are too few to evaluate on: one in {HELD_OUT}, by "
            "a hash of its id, can be a query."
        )
    corpus = others.rows().slice(0, max(1, max_rows - len(queries.rows())))
    table = pa.concat_tables([queries.rows(), corpus]).rename_columns(COLUMNS)
    is_query = pa.array(np.arange(len(table)) < len(queries.rows()))
    pq.write_table(table.append_column("query", is_query), file)
    return EvaluationSample(description, len(queries.rows()), len(corpus))


class _Sample:
    """A random sample of the rows that satisfy some conditions: those with the smallest random keys.

    Args:
        size: Largest number of rows.
        columns: Columns to keep.
        held_out: Whether to sample held-out rows, or the others.
        with_text: Whether the rows must have a text.
    """

    def __init__(self, size: int, columns: list[str], *, held_out: bool, with_text: bool) -> None:
        self.size, self.columns, self.held_out, self.with_text = size, columns, held_out, with_text
        self.tables: list[pa.Table] = []
        self.keys: Float[np.ndarray, " n"] = np.zeros(0)
        self.limit = np.inf

    def add(self, batch: pa.RecordBatch, keys: Float[np.ndarray, " n"], usable: Bool[np.ndarray, " n"]) -> None:
        """Add the usable rows of a batch, and drop rows beyond the size from time to time, because that copies all."""
        usable = usable & (keys < self.limit)
        if not usable.any():
            return
        self.tables.append(pa.Table.from_batches([batch.select(self.columns).filter(pa.array(usable))]))
        self.keys = np.concatenate([self.keys, keys[usable]])
        if len(self.keys) > 2 * self.size:
            self._shrink()
            self.limit = self.keys.max()

    def _shrink(self) -> None:
        order = np.argsort(self.keys)[: self.size]
        self.tables = [pa.concat_tables(self.tables).take(pa.array(order)).combine_chunks()]
        self.keys = self.keys[order]

    def rows(self) -> pa.Table:
        """Return the sample, in random order."""
        if len(self.tables) > 1 or len(self.keys) > self.size or np.any(np.diff(self.keys) < 0):
            self._shrink()
        return self.tables[0]


def _fill_samples(url: str, samples: Sequence[_Sample], seed: int, advance: Callable[[int], None]) -> Description:
    """Read all rows of a store into samples, and check the vectors of the samples."""
    rng = np.random.default_rng(seed)
    read, with_vector, without_text = 0, 0, 0
    with open_store(url) as store:
        description = store.describe()
        where = description.url
        check_widths(description)
        for rows, _ in store.read(("id", "text", "vector"), BATCH_ROWS):
            keys, held_out = rng.random(len(rows)), find_held_out(rows.column("id").to_pylist())
            has_vector = pc.is_valid(rows.column("vector")).to_numpy(zero_copy_only=False)
            text = pc.utf8_trim_whitespace(pc.fill_null(rows.column("text"), ""))
            has_text = pc.not_equal(text, "").to_numpy(zero_copy_only=False)
            for sample in samples:
                usable = has_vector & (held_out == sample.held_out)
                sample.add(rows, keys, usable & has_text if sample.with_text else usable)
            read += len(rows)
            with_vector += int(has_vector.sum())
            without_text += int((has_vector & ~has_text).sum())
            advance(len(rows))
    if not with_vector:
        raise BadInput(f"{where} has {'no rows' if not read else f'{read:,} rows, but none has a vector'}.")
    if without_text == with_vector:
        raise BadInput(f"{where} has {read:,} rows, but none has a text. Name its field with ?text= in the URL.")
    if without_text:
        logger.warning(f"{without_text:,} of {with_vector:,} rows have no text and are left out of the pairs")
    for sample in samples:
        if sample.keys.size:
            _check_vectors(sample.rows(), where)
    return description


def _check_vectors(rows: pa.Table, where: str) -> None:
    _, reasons = check_rows(_to_vectors(rows), VectorRule())
    for row, why in reasons.items():
        raise BadInput(f"{where}, row {rows.column('id')[row].as_py()!r}: {why}. `ea-jax check` lists all such rows.")


def _to_vectors(rows: pa.Table) -> Float32[np.ndarray, "n d"]:
    return np.concatenate([vectors_to_numpy(batch) for batch in rows.combine_chunks().to_batches()])
