"""Real rows for the stores: texts of vector stores in public repositories, with native and MiniLM vectors."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from benchmarks.data.corpora import provider
from benchmarks.stores.engines import Batch
from ea_jax.integrations.stores import Layout, Store, open_store

SOURCE, TARGET = "minilm", "oai-3-small"
BATCH_ROWS = 1000


class Rows(NamedTuple):
    """Row-aligned columns.

    Attributes:
        ids: Row numbers in the data.
        texts: Texts, under 2,000 characters.
        payloads: Where each text is from.
        vectors: Vectors by model: `minilm` [n, 384] and `oai-3-small` [n, 1536].
    """

    ids: list[int]
    texts: list[str]
    payloads: list[dict]
    vectors: dict[str, Float32[np.ndarray, "n d"]]

    def arrow(self, model: str) -> list[pa.RecordBatch]:
        """Batches with the columns of a store."""
        return [
            pa.RecordBatch.from_pydict(
                {
                    "id": list(map(str, batch.ids)),
                    "text": batch.texts,
                    "vector": as_lists(batch.vectors),
                    "payload": [json.dumps(payload, ensure_ascii=False) for payload in batch.payloads],
                }
            )
            for batch in self.batches(model)
        ]

    def batches(self, model: str) -> list[Batch]:
        """Batches as users of a client hold them."""
        return [
            Batch(self.ids[a : a + BATCH_ROWS], self.texts[a : a + BATCH_ROWS], self.payloads[a : a + BATCH_ROWS], part)
            for a in range(0, len(self.ids), BATCH_ROWS)
            for part in [self.vectors[model][a : a + BATCH_ROWS]]
        ]


def as_lists(vectors: Float32[np.ndarray, "n d"]) -> pa.FixedSizeListArray:
    """Vectors as an Arrow column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).ravel()), vectors.shape[1])


def real_rows(data: Path, build: Path, n: int, queries: int = 0) -> tuple[Rows, Rows]:
    """Draw rows for a store, and other rows as queries."""
    corpus = provider(data, build, TARGET, (SOURCE,))
    order = np.random.default_rng(0).permutation(len(corpus))
    if n + queries > len(order):
        raise SystemExit(f"There are {len(order):,} rows, not {n + queries:,}.")

    def rows(numbers: np.ndarray) -> Rows:
        part = corpus.at(np.sort(numbers))
        payloads = [{"source": str(source), "row": int(row)} for source, row in zip(part.source, part.row, strict=True)]
        return Rows([int(i) + 1 for i in np.sort(numbers)], part.text, payloads, part.vectors)

    return rows(order[queries : queries + n]), rows(order[:queries])  # the same queries for every n


def fill(url: str, batches: list[pa.RecordBatch]) -> Store:
    """Create a store with rows through `write`, and leave it open."""
    store = open_store(url, Layout(batches[0].column("vector").type.list_size, "cosine", "integer"))
    for batch in batches:
        store.write(batch)
    store.flush()
    return store
