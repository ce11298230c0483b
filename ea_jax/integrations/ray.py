"""Map batches and run jobs on a Ray cluster (`pip install 'ea_jax[ray]'`).

ray.data.read_parquet("vectors/").map_batches(
    MapVectors, fn_constructor_args=("minilm", "oai-3-small"), batch_format="pyarrow", concurrency=2
)
"""

import logging
from collections.abc import Callable
from typing import Any, cast

import pyarrow as pa

from ea_jax.batch.batch_map import BatchMap, Options
from ea_jax.batch.job import Job
from ea_jax.batch.load import MapConfig, load_map
from ea_jax.batch.pipeline import run_parts
from ea_jax.errors import MissingDependency


class MapVectors:
    """Maps a column of vectors in `map_batches` of Ray Data. Other columns pass through.

    Args:
        source: Model that made the vectors.
        target: Model whose space they go to.
        flavor: Which adapter, if there are several.
        purpose: `store` or `query`.
        confidence: Whether to add a column of confidences.
        options: Fields of `Options`, for instance `column="v"`.
    """

    texts = False

    def __init__(
        self,
        source: str,
        target: str,
        flavor: str | None = None,
        purpose: Any = "store",
        confidence: bool = False,
        **options: Any,
    ) -> None:
        config = MapConfig(source, target, flavor, purpose, self.texts, confidence)
        self.run = load_map(config, Options(**options))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Map a table; Ray passes one with `batch_format="pyarrow"`."""
        return map_table(self.run, table)


class MapTexts(MapVectors):
    """Adds a column of target vectors to a column of texts. Takes the arguments of `MapVectors`."""

    texts = True


def map_table(run: BatchMap, table: pa.Table) -> pa.Table:
    """Map a table batch by batch."""
    batches = table.combine_chunks().to_batches(run.options.rows)
    return pa.Table.from_batches(map(run, batches), run.out_schema(table.schema))


class PartActor:
    """Maps parts of a job in its own process. Ray restarts an actor that dies, and repeats its part."""

    def __init__(self, job: Job, config: MapConfig, options: Options) -> None:
        self.job, self.run = job, load_map(config, options)

    def map_part(self, number: int) -> int:
        """Map a part, move it into place, and return its number of input rows."""
        part = self.job.inputs.parts[number]
        run_parts(self.job.inputs, [part], self.run, self.job.schema, self.job.output, lambda rows: None)
        return part.cut.stop - part.cut.start


def on_actors(job: Job, config: MapConfig, options: Options, workers: int) -> Callable[..., dict[str, float]]:
    """Return the `work` argument of `run_job` that maps parts on actors.

    Input and output must be visible to all nodes. Ray is started for the job if it is not running.

    Raises:
        MissingDependency: Ray is not installed.
    """
    try:
        import ray
        from ray.exceptions import RayTaskError
        from ray.util import ActorPool
    except ImportError as error:
        raise MissingDependency("Ray is not installed: pip install 'ea_jax[ray]'.") from error

    def work(parts: list[Any], advance: Callable[[int], None]) -> dict[str, float]:
        start = not ray.is_initialized()
        if start:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            actor = ray.remote(max_restarts=-1, max_task_retries=-1)(PartActor)
            shared = ray.put(job)
            pool = ActorPool([actor.remote(shared, config, options) for _ in range(min(workers, len(parts)))])
            for rows in pool.map_unordered(lambda worker, part: worker.map_part.remote(part.number), parts):
                advance(cast(int, rows))
        except RayTaskError as error:
            raise error.cause from None
        finally:
            if start:
                ray.shutdown()
        return {}

    return work
