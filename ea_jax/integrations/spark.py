"""The same maps on Spark (`pip install 'ea_jax[spark]'`), for `mapInArrow` of a data frame.

frame.mapInArrow(map_rows("minilm", "oai-3-small", column="vector"), "id long, vector array<float>")
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import pyarrow as pa

from ea_jax.batch.batch_map import BatchMap, Options
from ea_jax.batch.load import Names, load_map

Mapped = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def map_rows(
    source: str,
    target: str,
    flavor: str | None = None,
    purpose: Any = "store",
    texts: bool = False,
    confidence: bool = False,
    **options: Any,
) -> Mapped:
    """A function from batches to batches, which Spark can send to its workers: each loads the adapter once.

    Args:
        source: Model that made the vectors, or that reads the texts.
        target: Model whose space they go to.
        flavor: Which adapter, where there are several.
        purpose: `store` or `query`.
        texts: Whether the column is one of texts.
        confidence: Whether a column of confidences is wanted.
        options: Those of `Options`, for instance `column="v"`.
    """
    names, chosen = Names(source, target, flavor, purpose, texts, confidence), Options(**options)

    def mapped(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        run = _loaded(names, chosen)
        for batch in batches:
            for start in range(0, len(batch), chosen.rows):
                yield _listed(run(batch.slice(start, chosen.rows)))

    return mapped


@cache
def _loaded(names: Names, options: Options) -> BatchMap:
    return load_map(names, options)


def _listed(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Fixed-size lists as lists of any length, which are those that Spark has."""
    fields = [
        field.with_type(pa.list_(field.type.value_type)) if pa.types.is_fixed_size_list(field.type) else field
        for field in batch.schema
    ]
    return batch.cast(pa.schema(fields))
