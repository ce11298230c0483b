"""Does a batch job keep up with its slowest stage, in constant memory, and lose nothing when it is killed?

    python -m benchmarks.batch --small    # 100k vectors and 5 kills; without: 100k, 1M and 4M vectors and 50 kills
    python -m benchmarks.batch --rows 100000 1000000 --kills 50

Vectors of 384 numbers go to 1536, parquet to parquet, each job in a process of its own. The user's loop reads with
pyarrow, multiplies with torch and writes with pyarrow, a batch at a time. A stage's ceiling is its time alone, in the
same run; the last column of the table is the slowest one's share of the job's time.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from benchmarks.machine import write_json

BATCH, PART = 4096, 32_768
NAMES = ("minilm", "oai-3-small")


def corpus(path: Path, rows: int) -> Path:
    """Unit vectors with an id each, in row groups of 50,000."""
    rng = np.random.default_rng(0)
    schema = pa.schema({"id": pa.int64(), "embedding": pa.list_(pa.float32(), 384)})
    with parquet.ParquetWriter(path, schema, compression="NONE", use_dictionary=False) as writer:
        for start in range(0, rows, 50_000):
            x = rng.standard_normal((min(50_000, rows - start), 384), np.float32)
            x /= np.linalg.norm(x, axis=1, keepdims=True)
            lists = pa.FixedSizeListArray.from_arrays(x.ravel(), 384)
            writer.write_table(pa.table([np.arange(start, start + len(x)), lists], schema=schema))
    return path


def whole_job(given: Path, out: Path, flavor: str) -> dict[str, float]:
    """The job itself."""
    from ea_jax.batch.job import plan, run_job
    from ea_jax.batch.named import Names, load_map

    run = load_map(Names(*NAMES, flavor))
    start = time.perf_counter()
    report = run_job(plan([str(given)], out, run), run)
    return {"seconds": time.perf_counter() - start, "rows": report.totals.written, **report.busy}


def read_alone(given: Path, out: Path, flavor: str) -> dict[str, float]:
    """Reading and checking what the job reads."""
    from ea_jax.batch.columns import check_vectors
    from ea_jax.batch.inputs import read_inputs, read_parts

    start = time.perf_counter()
    inputs = read_inputs([str(given)], "embedding", PART)
    for _, block in read_parts(inputs, inputs.parts, BATCH):
        check_vectors(block.batch.column("embedding"), 384)
    return {"seconds": time.perf_counter() - start}


def compute_alone(given: Path, out: Path, flavor: str) -> dict[str, float]:
    """As many batches through the device, to and fro."""
    from ea_jax import load, map_batches

    adapt, rows = load(*NAMES, flavor=flavor), parquet.read_metadata(given).num_rows
    x = np.random.default_rng(0).standard_normal((BATCH, 384), np.float32)
    list(map_batches(adapt, [x]))
    start = time.perf_counter()
    for _ in map_batches(adapt, (x for _ in range(-(-rows // BATCH)))):
        pass
    return {"seconds": time.perf_counter() - start}


def write_alone(given: Path, out: Path, flavor: str) -> dict[str, float]:
    """As many batches to files of the same size, put on the disk."""
    from ea_jax.batch.outputs import open_writer
    from ea_jax.durable import whole_file

    rows, y = parquet.read_metadata(given).num_rows, np.random.default_rng(0).standard_normal((BATCH, 1536), np.float32)
    batch = pa.RecordBatch.from_pydict(
        {"id": np.arange(BATCH), "embedding": pa.FixedSizeListArray.from_arrays(y.ravel(), 1536)}
    )
    out.mkdir()
    start = time.perf_counter()
    for part in range(0, rows, PART):
        with whole_file(out / f"{part}.parquet") as stream:
            writer = open_writer(".parquet", stream, batch.schema)
            for row in range(part, min(part + PART, rows), BATCH):
                writer.write(batch.slice(0, min(BATCH, rows - row)))
            writer.close()
    return {"seconds": time.perf_counter() - start}


def users_loop(given: Path, out: Path, flavor: str) -> dict[str, float]:
    """What one writes without a library; `large` is the seed's network, with random weights."""
    import torch

    from benchmarks.peers import ResMLP

    rng = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(384, 1536, generator=rng), torch.randn(1536, generator=rng)
    network = ResMLP(384, 1536, 1536, 8).eval() if flavor == "large" else None
    schema = pa.schema({"id": pa.int64(), "embedding": pa.list_(pa.float32(), 1536)})
    start, rows = time.perf_counter(), 0
    with torch.inference_mode(), parquet.ParquetFile(given) as file, parquet.ParquetWriter(out, schema) as writer:
        for batch in file.iter_batches(BATCH):
            x = torch.from_numpy(batch.column("embedding").flatten().to_numpy().reshape(-1, 384).copy())
            y = network(x) if network else torch.nn.functional.normalize(torch.addmm(bias, x, weight))
            lists = pa.FixedSizeListArray.from_arrays(y.numpy().ravel(), 1536)
            writer.write_table(pa.table([batch.column("id"), lists], schema=schema))
            rows += len(batch)
    os.sync()
    return {"seconds": time.perf_counter() - start, "rows": rows}


STEPS = {f.__name__: f for f in (whole_job, read_alone, compute_alone, write_alone, users_loop)}


def alone(step: str, given: Path, folder: Path, flavor: str) -> dict[str, float]:
    """A step in a new process, with its peak of memory in MiB."""
    out = folder / "out"
    command = [sys.executable, "-m", "benchmarks.batch", "--step", step, str(given), str(out), flavor]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = process.stdout.read()
    _, code, usage = os.wait4(process.pid, 0)
    assert code == 0, f"{step} failed"
    shutil.rmtree(out, ignore_errors=True)
    out.unlink(missing_ok=True)
    return {**json.loads(told.splitlines()[-1]), "peak_mib": round(usage.ru_maxrss / 1024)}


def digest(folder: Path) -> str:
    """Of all parts and the manifest, by name."""
    found = hashlib.sha256()
    for file in sorted([*folder.glob("*.parquet"), folder / "_ea_jax" / "manifest.json"]):
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()


def kill_jobs(folder: Path, kills: int, rows: int = 30_000) -> dict[str, int]:
    """Jobs killed at random moments and run again to their end, each compared with one that was not."""
    given, moments = corpus(folder / "kills.parquet", rows), random.Random(0)
    options = ["--source", NAMES[0], "--target", NAMES[1], "--part-rows", "2048"]

    def start(out: Path) -> subprocess.Popen:
        command = [sys.executable, "-m", "ea_jax.cli", "map", str(given), str(out), *options]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    begun = time.perf_counter()
    assert start(folder / "whole").wait() == 0
    taken, wanted = time.perf_counter() - begun, digest(folder / "whole")
    figures = {"kills": 0, "in_the_middle": 0, "same_bytes": 0, "same_rows": 0}
    for _ in range(kills):
        process, out = start(folder / "killed"), folder / "killed"
        time.sleep(taken * moments.uniform(0.25, 0.95))
        process.send_signal(signal.SIGKILL)
        figures["kills"] += process.wait() == -signal.SIGKILL
        figures["in_the_middle"] += 0 < len(list(out.glob("*.parquet"))) < -(-rows // 2048)
        assert start(out).wait() == 0
        figures["same_bytes"] += digest(out) == wanted
        figures["same_rows"] += sum(parquet.read_metadata(f).num_rows for f in out.glob("*.parquet")) == rows
        shutil.rmtree(out)
    return figures


def measure(folder: Path, rows: int, flavor: str) -> dict[str, Any]:
    """A size: the job, its stages alone, and the user's loop."""
    given = corpus(folder / f"{rows}.parquet", rows)
    alone("read_alone", given, folder, flavor)  # so that the file is in memory for all alike
    found = {step: alone(step, given, folder, flavor) for step in STEPS}
    given.unlink()
    job, slowest = found["whole_job"], max(found[f"{stage}_alone"]["seconds"] for stage in ("read", "compute", "write"))
    loop = found["users_loop"]
    return {
        "rows": rows,
        "flavor": flavor,
        "rows_a_second": round(rows / job["seconds"]),
        "peak_mib": job["peak_mib"],
        **{f"{stage}_s": round(job[stage], 2) for stage in ("read", "compute", "write")},
        **{f"{stage}_alone_s": round(found[f"{stage}_alone"]["seconds"], 2) for stage in ("read", "compute", "write")},
        "seconds": round(job["seconds"], 2),
        "of_the_slowest_stage": round(slowest / job["seconds"], 2),
        "loop_rows_a_second": round(rows / loop["seconds"]),
        "loop_peak_mib": loop["peak_mib"],
    }


def table(figures: list[dict]) -> str:
    """One row a size."""
    head = "| vectors | rows a second | user's loop | peak MiB | loop's | read / compute / write, s | alone | of it |"
    lines = [head, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for row in figures:
        busy, ceilings = (
            " / ".join(f"{row[f'{stage}{end}']:.1f}" for stage in ("read", "compute", "write"))
            for end in ("_s", "_alone_s")
        )
        loop = f"{row['loop_rows_a_second']:,} | {row['peak_mib']:,} | {row['loop_peak_mib']:,}"
        lines.append(
            f"| {row['rows']:,} `{row['flavor']}` | {row['rows_a_second']:,} | {loop} | {busy} | {ceilings} | "
            f"{row['of_the_slowest_stage']:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure each size, then kill jobs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000, 4_000_000])
    parser.add_argument("--large", type=int, nargs="*", default=[10_000], help="rows with the flavor large")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--step", nargs=4)
    given = parser.parse_args()
    if given.step:
        step, source, out, flavor = given.step
        print(json.dumps(STEPS[step](Path(source), Path(out), flavor)))
        return
    sizes = [(rows, "small") for rows in given.rows] + [(rows, "large") for rows in given.large]
    sizes, kills = ([(100_000, "small")], 5) if given.small else (sizes, given.kills)
    with tempfile.TemporaryDirectory() as name:
        figures = []
        for rows, flavor in sizes:
            figures.append(measure(Path(name), rows, flavor))
            print(table(figures[-1:]), flush=True)
        killed = kill_jobs(Path(name), kills)
    print(table(figures), killed, sep="\n")
    if not given.small:
        write_json(__file__, {"figures": figures, "killed": killed})


if __name__ == "__main__":
    main()
