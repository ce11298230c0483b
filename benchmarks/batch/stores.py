"""Maps between stores: kills, throughput relative to the engine's bulk write, and memory by number of rows.

python -m benchmarks.batch.stores kills sqlite-vec lancedb --kills 10
python -m benchmarks.batch.stores speed faiss --rows 5000
python -m benchmarks.batch.stores memory lancedb --rows 10000 200000
"""

import argparse
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from ea_jax.integrations.stores import Layout, open_store
from ea_jax.workflows.map_store import map_store

URLS = {
    "qdrant": ("qdrant:{}/qdrant#docs", "qdrant:{}/qdrant#mapped"),
    "chroma": ("chroma:{}/chroma#docs", "chroma:{}/chroma#mapped"),
    "lancedb": ("lancedb:{}/lancedb#docs", "lancedb:{}/lancedb?vector=mapped#docs"),
    "postgresql": ("{}#docs", "{}&vector=mapped#docs"),
    "faiss": ("faiss:{}/docs.faiss", "faiss:{}/mapped.faiss?texts={}/docs.parquet"),
    "sqlite-vec": ("sqlite-vec:{}/docs.db#docs", "sqlite-vec:{}/docs.db#mapped"),
    "milvus": ("milvus:{}/milvus.db#docs", "milvus:{}/milvus.db#mapped"),
}
BATCH = 1000


def reverse(x: np.ndarray) -> np.ndarray:
    """Reverse vectors: an exact map, so that every row can be checked."""
    return x[:, ::-1]


def make_rows(first: int, n: int, width: int) -> pa.RecordBatch:
    """Make rows with random unit vectors; the first row number is the seed."""
    vectors = np.random.default_rng(first).normal(size=(n, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return pa.RecordBatch.from_pydict(
        {
            "id": [str(i) for i in range(first, first + n)],
            "text": [f"Text number {i} of some length, as in a chunk of a document." for i in range(first, first + n)],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width),
            "payload": [json.dumps({"page": i}) for i in range(first, first + n)],
        }
    )


def fill(url: str, rows: int, width: int) -> float:
    """Fill a store through `write` and return the seconds."""
    seconds = 0.0
    with open_store(url, Layout(width, "cosine", "integer")) as store:
        for first in range(0, rows, BATCH):
            batch = make_rows(first, min(BATCH, rows - first), width)
            start = time.perf_counter()
            store.write(batch)
            seconds += time.perf_counter() - start
        start = time.perf_counter()
        store.flush()
        return seconds + time.perf_counter() - start


def run_job(source: str, target: str, job: Path, width: int, pause: float = 0.0) -> None:
    """Run a job from store to store, which may be killed. `pause` is the time of each batch in seconds."""

    def function(x: np.ndarray) -> np.ndarray:
        time.sleep(pause)
        return reverse(x)

    with open_store(source) as a, open_store(target, Layout(width, "cosine", "integer")) as b:
        map_store(a, b, function, job, batch_rows=200 if pause else BATCH)


def check_content(target: str, rows: int, width: int) -> str:
    """Count the rows that are lost, doubled or wrong."""
    expected = {}
    for first in range(0, rows, BATCH):
        batch = make_rows(first, min(BATCH, rows - first), width)
        vectors = reverse(np.stack(batch.column("vector").to_pylist()))
        expected |= dict(zip(batch.column("id").to_pylist(), vectors, strict=True))
    ids, wrong = [], 0
    with open_store(target) as store:
        for batch, _ in store.read(("id", "vector"), BATCH):
            for i, vector in zip(batch.column("id").to_pylist(), batch.column("vector").to_pylist(), strict=True):
                ids.append(i)
                wrong += vector is None or not np.allclose(vector, expected[i], atol=1e-6)
    return f"{rows - len(set(ids))} lost, {len(ids) - len(set(ids))} doubled, {wrong} wrong"


def kills(engine: str, source: str, target: str, folder: Path, rows: int, width: int, times: int) -> None:
    """Kill a job at random moments, then let it finish."""
    fill(source, rows, width)
    job = folder / "job.json"
    command = [sys.executable, "-m", "benchmarks.batch.stores", "job", source, target, str(job), str(width)]
    done = 0
    for _ in range(times):
        before = json.loads(job.read_text())["rows"] if job.exists() else 0
        with subprocess.Popen(command) as process:
            while process.poll() is None:
                if job.exists() and json.loads(job.read_text())["rows"] > before:
                    time.sleep(random.uniform(0, 0.2))
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.01)
        done += process.returncode == -signal.SIGKILL
    subprocess.run(command, check=True)
    print(f"{engine}: {done} kills, then {check_content(target, rows, width)}", flush=True)


def speed(engine: str, source: str, target: str, folder: Path, rows: int, width: int) -> None:
    """Measure a job's rows per second, and those of `write` alone into the same engine."""
    seconds = fill(source, rows, width)
    start = time.perf_counter()
    run_job(source, target, folder / "job.json", width)
    job = time.perf_counter() - start
    print(f"{engine}: write {rows / seconds:,.0f} rows/s, job {rows / job:,.0f} rows/s", flush=True)


def memory(engine: str, source: str, target: str, folder: Path, rows: int, width: int) -> None:
    """Measure the peak memory of a job in its own process."""
    fill(source, rows, width)
    command = [
        sys.executable,
        "-m",
        "benchmarks.batch.stores",
        "job",
        source,
        target,
        str(folder / "job.json"),
        str(width),
    ]
    result = subprocess.run([*command, "--memory"], check=True, capture_output=True, text=True)
    print(f"{engine}: {rows:,} rows, peak {result.stdout.strip()} MB", flush=True)


def main() -> None:
    """Parse the command line."""
    if sys.argv[1:2] == ["job"]:
        source, target, job, width = sys.argv[2:6]
        run_job(source, target, Path(job), int(width), pause=0.0 if "--memory" in sys.argv else 0.05)
        if "--memory" in sys.argv:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=["kills", "speed", "memory"])
    parser.add_argument("engines", nargs="+", choices=list(URLS))
    parser.add_argument("--rows", type=int, nargs="+", default=[5000])
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument(
        "--postgres", default="", help="Address of a database with pgvector, ending in a question mark."
    )
    options = parser.parse_args()
    for engine in options.engines:
        for rows in options.rows:
            folder = Path(tempfile.mkdtemp())
            location = options.postgres if engine == "postgresql" else str(folder)
            source, target = (pattern.replace("{}", location) for pattern in URLS[engine])
            arguments = (engine, source, target, folder, rows, options.width)
            if options.benchmark == "kills":
                kills(*arguments, options.kills)
            elif options.benchmark == "speed":
                speed(*arguments)
            else:
                memory(*arguments)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
