"""Map Spark data frames with `mapInArrow` (`pip install 'ea_jax[spark]'`).

frame.mapInArrow(map_rows("minilm", "oai-3-small", column="vector"), "id long, vector array<float>")
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import pyarrow as pa

from ea_jax.batch.batch_map import BatchMap, Options
from ea_jax.batch.load import MapConfig, load_map

MapFunction = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def map_rows(
    source: str,
    target: str,
    flavor: str | None = None,
    purpose: Any = "store",
    texts: bool = False,
    confidence: bool = False,
    **options: Any,
) -> MapFunction:
    """Return a function for `mapInArrow`. Each Spark worker loads the adapter once.

    Args:
        source: Model that made the vectors or embeds the texts.
        target: Model whose space they go to.
        flavor: Which adapter, if there are several.
        purpose: `store` or `query`.
        texts: Whether the column holds texts.
        confidence: Whether to add a column of confidences.
        options: Fields of `Options`, for instance `column="v"`.
    """
    config, chosen = MapConfig(source, target, flavor, purpose, texts, confidence), Options(**options)

    def map_all(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        run = _load(config, chosen)
        for batch in batches:
            for start in range(0, len(batch), chosen.rows):
                yield _to_lists(run(batch.slice(start, chosen.rows)))

    return map_all


@cache
def _load(config: MapConfig, options: Options) -> BatchMap:
    return load_map(config, options)


def _to_lists(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Convert fixed-size lists to plain lists, the only ones that Spark has."""
    fields = [
        field.with_type(pa.list_(field.type.value_type)) if pa.types.is_fixed_size_list(field.type) else field
        for field in batch.schema
    ]
    return batch.cast(pa.schema(fields))
