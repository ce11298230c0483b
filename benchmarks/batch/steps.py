"""What `benchmarks.batch` times, each in a process of its own: `-m benchmarks.batch.steps STEP IN OUT`."""

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
    """Unit vectors with an id each, in row groups of 50,000."""
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
    """The job itself."""
    from ea_jax.batch.job import plan, run_job
    from ea_jax.batch.load import Names, load_map
    from ea_jax.cli.runtime import start_jax

    start_jax()
    run = load_map(Names(*NAMES))
    taken = clock()
    report = run_job(plan([str(given)], out, run), run)
    return {**taken(), "rows": report.totals.written, **report.busy}


def read_alone(given: Path, out: Path) -> dict[str, float]:
    """Reading and checking what the job reads."""
    from ea_jax.batch.columns import check_vectors
    from ea_jax.batch.inputs import read_inputs
    from ea_jax.batch.row_digests import read_digested

    taken = clock()
    inputs = read_inputs([str(given)], "embedding", PART)
    for _, block, _ in read_digested(inputs, inputs.parts, BATCH):
        check_vectors(block.batch.column("embedding"), 384)
    return taken()


def compute_alone(given: Path, out: Path) -> dict[str, float]:
    """As many batches through the device, to and fro."""
    from ea_jax import load, map_batches
    from ea_jax.cli.runtime import start_jax

    start_jax()
    adapt, rows = load(*NAMES), parquet.read_metadata(given).num_rows
    x = np.random.default_rng(0).standard_normal((BATCH, 384), np.float32)
    list(map_batches(adapt, [x]))
    taken = clock()
    for _ in map_batches(adapt, (x for _ in range(-(-rows // BATCH)))):
        pass
    return taken()


def write_alone(given: Path, out: Path) -> dict[str, float]:
    """As many batches to as many parts, put on the disk."""
    from ea_jax.batch.inputs import read_inputs
    from ea_jax.batch.part_writer import Result, write_all
    from ea_jax.batch.state import Totals, begin, find_place

    inputs, place = read_inputs([str(given)], "embedding", PART), find_place(out, None)
    y = np.random.default_rng(0).standard_normal((BATCH, 1536), np.float32)
    batch = pa.record_batch([np.arange(BATCH), pa.FixedSizeListArray.from_arrays(y.ravel(), 1536)], ["id", "embedding"])

    def results() -> Iterator[Any]:
        for part in inputs.parts:
            for row in range(part.cut.start, part.cut.stop, BATCH):
                rows = min(BATCH, part.cut.stop - row)
                yield Result(part, batch.slice(0, rows), Totals(rows, rows), [], b"")
        yield None

    class Ready:
        """A queue in which the next item always waits."""

        def __init__(self) -> None:
            self._items = results()

        def get(self, timeout: float) -> Any:
            return next(self._items)

    begin(place, {}, len(inputs.parts), inputs.rows, {})
    failed: list[BaseException] = []
    taken = clock()
    write_all(Ready(), batch.schema, place, lambda rows: None, {"write": 0.0}, Event(), failed)  # pyright: ignore
    assert not failed, failed
    return taken()


def users_loop(given: Path, out: Path) -> dict[str, float]:
    """What one writes without a library."""
    import torch

    with np.load(given.with_suffix(".npz")) as file:
        weight, bias = torch.from_numpy(file["kernel"]), torch.from_numpy(file["bias"])
    schema = pa.schema({"id": pa.int64(), "embedding": pa.list_(pa.float32(), 1536)})
    taken, rows = clock(), 0
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
    return {**taken(), "rows": rows}


STEPS = {f.__name__: f for f in (whole_job, read_alone, compute_alone, write_alone, users_loop)}


def clock() -> Callable[[], dict[str, float]]:
    """Seconds since now, of the clock and of all processors."""

    def now() -> tuple[float, float]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return time.perf_counter(), used.ru_utime + used.ru_stime

    wall, cpu = now()
    return lambda: dict(zip(("seconds", "cpu"), (b - a for a, b in zip((wall, cpu), now(), strict=True)), strict=True))


if __name__ == "__main__":
    step, given, out = sys.argv[1:]
    print(json.dumps(STEPS[step](Path(given), Path(out))))
