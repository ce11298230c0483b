"""Sample the rows of a store into a file of pairs, so that everything that reads pairs reads stores."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from jaxtyping import Float32

from ea_jax.errors import BadInput
from ea_jax.integrations.stores import Description, open_store
from ea_jax.integrations.stores.rows import vectors_to_numpy

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers
CORPUS = 16_384  # largest number of vectors that held-out queries search
BATCH_ROWS = 1000
logger = logging.getLogger(__name__)


class StoreSample(NamedTuple):
    """A random sample of a store.

    Attributes:
        description: The sampled store.
        pairs: Number of sampled rows with a text and a vector, which the file of pairs holds.
        corpus: Vectors of sampled rows, with or without texts: a sample of what queries will search.
    """

    description: Description
    pairs: int
    corpus: Float32[np.ndarray, "m d"]


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

    Args:
        url: Store URL.
        file: Parquet file to write.
        max_pairs: Largest number of pairs.
        seed: Random seed; the same seed and store give the same sample.
        max_corpus: Largest number of vectors in `corpus`.
        advance: Called with the number of rows of each batch.

    Raises:
        BadInput: The store is empty, has vectors of several widths, or no row with a text and a vector.
        StoreUnavailable: The store cannot be reached.
    """
    rng, size = np.random.default_rng(seed), max(max_pairs, max_corpus)
    with open_store(url) as store:
        description = store.describe()
        if description.other_widths:
            widths = ", ".join(map(str, sorted({description.width, *description.other_widths} - {None})))
            raise BadInput(f"{store.url} holds vectors of the widths {widths}. Keep one model's vectors in a field.")
        sample: Any = None
        keys, limit, read = np.zeros(0), np.inf, 0  # rows with the smallest random keys are the sample
        for rows, _ in store.read(("id", "text", "vector"), BATCH_ROWS):
            new = rng.random(len(rows))
            read += len(rows)
            valid = pc.is_valid(rows.column("vector")).to_numpy(zero_copy_only=False)
            valid &= new < limit
            table = pa.Table.from_batches([rows.filter(pa.array(valid))])
            sample = table if sample is None else pa.concat_tables([sample, table])
            keys = np.concatenate([keys, new[valid]])
            if len(keys) > 2 * size:  # not at each batch, because it copies the sample
                order = np.argpartition(keys, size)[:size]
                sample, keys = sample.take(pa.array(order)).combine_chunks(), keys[order]
                limit = keys.max()
            advance(len(rows))
        where = str(store.url)
    if sample is None or not len(sample):
        raise BadInput(f"{where} has {'no rows' if not read else f'{read:,} rows, but none has a vector'}.")
    sample = sample.take(pa.array(np.argsort(keys)[:size]))
    has_text = pc.not_equal(pc.utf8_trim_whitespace(pc.fill_null(sample.column("text"), "")), "")
    pairs = sample.filter(has_text).slice(0, max_pairs)
    if not len(pairs):
        raise BadInput(f"{where} has {read:,} rows, but none has a text. Name its field with ?text= in the URL.")
    missing = len(sample) - int(pc.sum(has_text).as_py())
    if missing:
        logger.warning(f"{missing:,} of {len(sample):,} sampled rows have no text and are left out of the pairs")
    pq.write_table(pairs.rename_columns(["id", "text", "y"]), file)
    corpus = sample.slice(0, max_corpus)
    vectors = [vectors_to_numpy(batch) for batch in corpus.combine_chunks().to_batches()]
    return StoreSample(description, len(pairs), np.concatenate(vectors))
