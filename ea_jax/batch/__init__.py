"""Map corpora of any size: record batches, readers and writers of files, and resumable jobs."""

from ea_jax.batch.batch_map import BatchMap, Options
from ea_jax.batch.device import map_array, map_batches

__all__ = ["BatchMap", "Options", "map_array", "map_batches"]
