"""The steps that `benchmarks.batch` times, each in its own process: `-m benchmarks.batch.steps STEP IN OUT`."""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

BATCH, PART = 4096, 32_768
NAMES = ("minilm", "oai-3-small")
PLAIN: dict[str, Any] = {"compression": "NONE", "use_dictionary": False}


def corpus(path: Path, rows: int) -> Path:
    """Write unit vectors with ids, in row groups of 50,000."""
    rng = np.random.default_rng(0)
    schema = pa.schema({"id": pa.int64(), "embedding": pa.list_(pa.float32(), 384)})
    with parquet.ParquetWriter(path, schema, **PLAIN) as writer:
        for start in range(0, rows, 50_000):
            x = rng.standard_normal((min(50_000, rows - start), 384), np.float32)
            x /= np.linalg.norm(x, axis=1, keepdims=True)
            lists = pa.FixedSizeListArray.from_arrays(x.ravel(), 384)
            writer.write_table(pa.table([np.arange(start, start + len(x)), lists], schema=schema))
    return path


def whole_job(given: Path, out: Path) -> dict[str, float]:
    """Run the whole job."""
    from ea_jax.batch.job import plan, run_job
    from ea_jax.batch.load import MapConfig, load_map
    from ea_jax.cli.runtime import start_jax

    start_jax()
    run = load_map(MapConfig(*NAMES))
    elapsed = clock()
    report = run_job(plan([str(given)], out, run), run)
    return {**elapsed(), "rows": report.totals.written, **report.busy}


def read_alone(given: Path, out: Path) -> dict[str, float]:
    """Read, digest and check the rows of the job."""
    from ea_jax.batch.row_digests import read_with_digests
    from ea_jax.data.columns import check_vectors
    from ea_jax.data.tables import open_tables
    from ea_jax.embeddings import VectorRule

    elapsed = clock()
    tables, rule = open_tables([given], part_rows=PART), VectorRule(width=384, unit_norm=True)
    for _, block, _ in read_with_digests(tables, tables.parts, BATCH):
        check_vectors(block.batch.column("embedding"), rule)
    return elapsed()


def compute_alone(given: Path, out: Path) -> dict[str, float]:
    """Send as many batches through the device."""
    from ea_jax import load, map_batches
    from ea_jax.cli.runtime import start_jax

    start_jax()
    adapt, rows = load(*NAMES), parquet.read_metadata(given).num_rows
    x = np.random.default_rng(0).standard_normal((BATCH, 384), np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    list(map_batches(adapt, [x]))
    elapsed = clock()
    for _ in map_batches(adapt, (x for _ in range(-(-rows // BATCH)))):
        pass
    return elapsed()


def write_alone(given: Path, out: Path) -> dict[str, float]:
    """Write as many batches to as many parts, synced to disk."""
    from ea_jax.batch.part_writer import MappedBlock, write_parts
    from ea_jax.batch.state import Totals, begin_job, output_paths
    from ea_jax.data.tables import open_tables

    inputs, output = open_tables([given], part_rows=PART), output_paths(out, None)
    y = np.random.default_rng(0).standard_normal((BATCH, 1536), np.float32)
    batch = pa.record_batch([np.arange(BATCH), pa.FixedSizeListArray.from_arrays(y.ravel(), 1536)], ["id", "embedding"])

    def blocks() -> Iterator[Any]:
        for part in inputs.parts:
            for row in range(part.cut.start, part.cut.stop, BATCH):
                rows = min(BATCH, part.cut.stop - row)
                yield MappedBlock(part, batch.slice(0, rows), Totals(rows, rows), [], b"")
        yield None

    class Ready:
        """A queue whose next item is always ready."""

        def __init__(self) -> None:
            self._items = blocks()

        def get(self, timeout: float) -> Any:
            return next(self._items)

    begin_job(output, {}, len(inputs.parts), inputs.rows, {})
    errors: list[BaseException] = []
    elapsed = clock()
    write_parts(Ready(), batch.schema, output, lambda rows: None, {"write": 0.0}, Event(), errors)  # pyright: ignore
    assert not errors, errors
    return elapsed()


def users_loop(given: Path, out: Path) -> dict[str, float]:
    """Run the loop that a user writes without this library."""
    import torch

    with np.load(given.with_suffix(".npz")) as file:
        weight, bias = torch.from_numpy(file["kernel"]), torch.from_numpy(file["bias"])
    schema = pa.schema({"id": pa.int64(), "embedding": pa.list_(pa.float32(), 1536)})
    elapsed, rows = clock(), 0
    with torch.inference_mode(), out.open("wb") as stream:
        with parquet.ParquetFile(given) as file, parquet.ParquetWriter(stream, schema, **PLAIN) as writer:
            for batch in file.iter_batches(BATCH):
                x = torch.from_numpy(batch.column("embedding").flatten().to_numpy().reshape(-1, 384).copy())
                y = torch.nn.functional.normalize(torch.addmm(bias, x, weight))
                lists = pa.FixedSizeListArray.from_arrays(y.numpy().ravel(), 1536)
                writer.write_table(pa.table([batch.column("id"), lists], schema=schema))
                rows += len(batch)
        stream.flush()
        os.fsync(stream.fileno())
    return {**elapsed(), "rows": rows}


STEPS = {f.__name__: f for f in (whole_job, read_alone, compute_alone, write_alone, users_loop)}


def clock() -> Callable[[], dict[str, float]]:
    """Return a function that gives the wall and CPU seconds since this call."""

    def now() -> tuple[float, float]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return time.perf_counter(), used.ru_utime + used.ru_stime

    wall, cpu = now()
    return lambda: dict(zip(("seconds", "cpu"), (b - a for a, b in zip((wall, cpu), now(), strict=True)), strict=True))


if __name__ == "__main__":
    step, given, out = sys.argv[1:]
    print(json.dumps(STEPS[step](Path(given), Path(out))))
