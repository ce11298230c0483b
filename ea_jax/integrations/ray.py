"""The same maps and the same job on a Ray cluster (`pip install 'ea_jax[ray]'`).

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
from ea_jax.batch.load import Names, load_map
from ea_jax.batch.pipeline import run_parts
from ea_jax.errors import MissingDependency


class MapVectors:
    """For `map_batches` of Ray Data: vectors to the target space, other columns as they are.

    Args:
        source: Model that made the vectors.
        target: Model whose space they go to.
        flavor: Which adapter, where there are several.
        purpose: `store` or `query`.
        confidence: Whether a column of confidences is wanted.
        options: Those of `Options`, for instance `column="v"`.
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
        names = Names(source, target, flavor, purpose, self.texts, confidence)
        self.run = load_map(names, Options(**options))

    def __call__(self, table: pa.Table) -> pa.Table:
        """Map a table, which is what `batch_format="pyarrow"` gives."""
        return map_table(self.run, table)


class MapTexts(MapVectors):
    """For `map_batches` of Ray Data: adds a column of target vectors to one of texts. Args are those of MapVectors."""

    texts = True


def map_table(run: BatchMap, table: pa.Table) -> pa.Table:
    """A table as batches, mapped and put together."""
    batches = table.combine_chunks().to_batches(run.options.rows)
    return pa.Table.from_batches(map(run, batches), run.out_schema(table.schema))


class PartActor:
    """Maps parts of a job in a process of its own. One that dies is started again, and its part with it."""

    def __init__(self, job: Job, names: Names, options: Options) -> None:
        self.job, self.run = job, load_map(names, options)

    def map_part(self, number: int) -> int:
        """Map a part, put it in its place, and return how many rows it read."""
        part = self.job.inputs.parts[number]
        run_parts(self.job.inputs, [part], self.run, self.job.place, lambda rows: None)
        return part.cut.stop - part.cut.start


def on_actors(job: Job, names: Names, options: Options, workers: int) -> Callable[..., dict[str, float]]:
    """What `run_job` takes as `work`, to map parts on actors. Input and output lie where all nodes see them.

    Where Ray is not initialised yet, it is for the job alone.

    Raises:
        BadInput: Ray is not installed.
    """
    try:
        import ray
        from ray.exceptions import RayTaskError
        from ray.util import ActorPool
    except ImportError as error:
        raise MissingDependency("--engine ray needs Ray: pip install 'ea_jax[ray]'.") from error

    def work(parts: list[Any], advance: Callable[[int], None]) -> dict[str, float]:
        begun = not ray.is_initialized()
        if begun:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            made = ray.remote(max_restarts=-1, max_task_retries=-1)(PartActor)
            shared = ray.put(job)
            pool = ActorPool([made.remote(shared, names, options) for _ in range(min(workers, len(parts)))])
            for rows in pool.map_unordered(lambda actor, part: actor.map_part.remote(part.number), parts):
                advance(cast(int, rows))
        except RayTaskError as error:
            raise error.cause from None
        finally:
            if begun:
                ray.shutdown()
        return {}

    return work
