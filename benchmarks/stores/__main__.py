"""Do vector stores keep every row through writes, maps, fits and kills, in constant memory and at full speed?

    python -m benchmarks.stores ../shared/data build                          # everything; the parts update one JSON:
    python -m benchmarks.stores ../shared/data build rows map --engines faiss milvus
    python -m benchmarks.stores ../shared/data build kills --times 10
    python -m benchmarks.stores ../shared/data build speed --engines lancedb
    python -m benchmarks.stores ../shared/data build memory --engines lancedb

Rows are real: texts with the vectors that OpenAI's text-embedding-3-small returned for them, and MiniLM vectors. Each
part makes new stores in a temporary folder (see TMPDIR); PostgreSQL is a server from a wheel, the others are embedded.
"""

import argparse
import importlib.metadata
import itertools
import json
import random
import signal
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import readme
from benchmarks.machine import results_file, write_json
from benchmarks.stores.data import BATCH_ROWS, SOURCE, TARGET, Rows, as_lists, fill, real_rows
from benchmarks.stores.engines import CHROMA_SERVER, ENGINES, Engine, location
from ea_jax.integrations.stores import Layout, Store, open_store
from ea_jax.io.atomic import hold_lock
from ea_jax.workflows.sample_store import find_held_out

ROWS, QUERIES, K = 5_000, 1_000, 10
SPEED_ROWS = {"qdrant": 5_000, "chroma": 5_000, "milvus": 5_000}  # of engines that write some 1,000 rows a second
FAST_ROWS = 20_000
MEMORY_ROWS, MEMORY_TARGET = (10_000, 200_000), "wordllama"
PARQUET = "parquet"
Figures = dict[str, Any]


def read_rows(store: Store, batch_rows: int = BATCH_ROWS, after: Any = None) -> pa.Table:
    """Read all columns."""
    return pa.Table.from_batches([chunk.rows for chunk in store.read(batch_rows=batch_rows, after=after)])


def numbers(table: pa.Table) -> np.ndarray:
    """The vectors of a table, [n, d]."""
    return np.concatenate([c.flatten().to_numpy() for c in table.column("vector").chunks]).reshape(len(table), -1)


def differences(observed: pa.Table, ids: list[int], columns: dict[str, list], vectors: np.ndarray) -> Figures:
    """Compare rows with what was written: lost and doubled rows, rows with another text or payload, and the largest
    difference of a vector."""
    keys = observed.column("id").to_pylist()
    expected = {str(i): k for k, i in enumerate(ids)}
    order = [expected[key] for key in keys if key in expected]
    texts, payloads = observed.column("text").to_pylist(), observed.column("payload").to_pylist()
    return {
        "rows": len(keys),
        "lost": len(set(expected) - set(keys)),
        "doubled or foreign": len(keys) - len(set(keys) & set(expected)),
        "other text": sum(text != columns["text"][k] for text, k in zip(texts, order, strict=True)),
        "other payload": sum(
            json.loads(payload) != columns["payload"][k] for payload, k in zip(payloads, order, strict=True)
        ),
        "largest difference": float(np.abs(numbers(observed) - vectors[order]).max()),
    }


def contract(engine: Engine, rows: Rows, where: str) -> Figures:
    """Write rows of width 1,536, some of them twice, and read them back in another connection."""
    batches = rows.arrow(TARGET)
    url = engine.source.replace("{}", where)
    start = time.perf_counter()
    with fill(url, batches):
        pass
    seconds = time.perf_counter() - start
    with open_store(url) as store:
        for batch in batches[1:3]:
            store.write(batch)
        store.flush()
    with open_store(url) as store:
        start = time.perf_counter()
        observed = read_rows(store)
        reading = time.perf_counter() - start
        chunks = list(store.read(("id",), 257))
        order = [i for chunk in chunks for i in chunk.rows.column("id").to_pylist()]
        counted = store.describe().rows
    with open_store(url) as store:
        rest = read_rows(store, 500, json.loads(json.dumps(chunks[6].cursor))).column("id").to_pylist()
    return {
        **differences(observed, rows.ids, {"text": rows.texts, "payload": rows.payloads}, rows.vectors[TARGET]),
        "counted": counted,
        "same order": order == observed.column("id").to_pylist(),
        "cursor resumes": rest == order[7 * 257 :],
        "write s": round(seconds, 2),
        "read s": round(reading, 2),
    }


def recall(found: Iterable[Iterable[int]], truth: np.ndarray) -> float:
    """How often the true neighbor is among the rows found."""
    return round(float(np.mean([int(row) in hits for row, hits in zip(truth, map(set, found), strict=True)])), 4)


def nearest(queries: np.ndarray, corpus: np.ndarray, k: int) -> np.ndarray:
    """Exact search by cosine."""
    scores = queries @ (corpus / np.linalg.norm(corpus, axis=1, keepdims=True)).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def mapped_parquet(rows: Rows, folder: Path) -> np.ndarray:
    """Map the rows by `ea-jax map`, parquet to parquet."""
    table = pa.table({"id": rows.ids, "embedding": as_lists(rows.vectors[SOURCE])})
    pq.write_table(table, folder / "in.parquet")
    command(["map", str(folder / "in.parquet"), str(folder / "out.parquet"), "--source", SOURCE, "--target", TARGET])
    out = pq.read_table(folder / "out.parquet")
    assert out.column("id").to_pylist() == rows.ids
    return numbers(pa.table({"vector": out.column("embedding")}))


def command(arguments: list[str]) -> str:
    """Run `ea-jax` and return its stdout."""
    result = subprocess.run([sys.executable, "-m", "ea_jax.cli", *arguments], capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"ea-jax {' '.join(arguments)}: {result.stderr[-2000:]}")
    return result.stdout.strip()


def true_neighbors(rows: Rows, queries: Rows) -> np.ndarray:
    """The row that each native query ranks first."""
    return nearest(queries.vectors[TARGET], rows.vectors[TARGET], 1)[:, 0]


def map_parquet(rows: Rows, queries: Rows, folder: Path) -> Figures:
    """Map MiniLM vectors to OpenAI's space from file to file, and search the result with native queries."""
    found = nearest(queries.vectors[TARGET], mapped_parquet(rows, folder), K)
    return {"exact": recall(found, true_neighbors(rows, queries))}


def map_store(engine: Engine, rows: Rows, queries: Rows, where: str, folder: Path) -> Figures:
    """Map from store to store, and search the result as read back, and by the engine's own search."""
    source, target = (url.replace("{}", where) for url in (engine.source, engine.target))
    fill(source, rows.arrow(SOURCE)).close()
    command(["map", source, target, "--source", SOURCE, "--target", TARGET])
    place = {str(i): k for k, i in enumerate(rows.ids)}
    with open_store(target) as store:
        table = read_rows(store)
        found = engine.search(store, queries.vectors[TARGET], K)
    expected = mapped_parquet(rows, folder)
    vectors = np.empty_like(expected)
    vectors[[place[i] for i in table.column("id").to_pylist()]] = numbers(table)
    truth = true_neighbors(rows, queries)
    return {
        "exact": recall(nearest(queries.vectors[TARGET], vectors, K), truth),
        "engine's search": recall([[place[i] for i in ids] for ids in found], truth),
        **differences(table, rows.ids, {"text": rows.texts, "payload": rows.payloads}, expected),
    }


def fit_parquet(rows: Rows, folder: Path) -> Figures:
    """Fit on a file of the rows that a fit on a store takes, in the order in which it samples them."""
    order = np.argsort(np.random.default_rng(0).random(len(rows.ids)))
    order = order[~find_held_out(list(map(str, rows.ids)))[order]]
    table = pa.table({"text": rows.texts, "y": as_lists(rows.vectors[TARGET])}).take(pa.array(order))
    pq.write_table(table, folder / "pairs.parquet")
    return fit(str(folder / "pairs.parquet"), folder)


def fit_store(engine: Engine, rows: Rows, where: str, folder: Path) -> Figures:
    """Fit on a store."""
    url = engine.source.replace("{}", where)
    fill(url, rows.arrow(TARGET)).close()
    return fit(url, folder)


def fit(pairs: str, folder: Path) -> Figures:
    """Run `ea-jax fit`, and return the figures of its held-out queries."""
    arguments = ["--source", "minilm-plus", "--target", TARGET, "--flavor", "mine", "--out", str(folder / "registry")]
    entry = Path(command(["fit", pairs, *arguments]))
    training = tomllib.loads((entry / "entry.toml").read_text())["training"]
    return {
        "pairs": training["pairs"],
        "held_out_queries": training["held_out_queries"],
        "recall@1": training["query"]["recall@1"],
        "recall@10": training["query"]["recall@10"],
        "keep_source recall@10": training["keep_source"]["recall@10"],
    }


class Job:
    """A map from store to store in its own process, which has begun."""

    def __init__(self, source: str, target: str, file: Path, model: str = TARGET) -> None:
        run = [sys.executable, "-m", "benchmarks.stores.job", source, target, SOURCE, model, str(file)]
        self.process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), self.process.communicate()[1]

    def finish(self) -> Figures:
        """Wait for the end, and return the figures."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        output, errors = self.process.stdout.read(), self.process.stderr.read()
        assert self.process.wait() == 0, errors
        return json.loads(output.splitlines()[-1])


def kill_jobs(engine: Engine, rows: Rows, where: str, folder: Path, times: int, earlier: Figures) -> Figures:
    """Kill jobs at random moments, rerun each to its end, and compare every row with an uninterrupted job's.

    Counts are added to those of earlier runs.
    """
    source = engine.source.replace("{}", where)
    fill(source, rows.arrow(SOURCE)).close()
    expected = mapped_parquet(rows, folder)
    columns = {"text": rows.texts, "payload": rows.payloads}
    total: Figures = {}
    for kind, pattern in {"separate": engine.target, "sibling": engine.sibling}.items():
        if pattern is None:
            continue
        target = pattern.replace("{}", where)
        file = folder / f"{kind}.json"
        duration = Job(source, numbered(target, 0), file).finish()["seconds"]
        figures = dict(earlier.get(kind, {"kills": 0, "resumed": 0, "lost": 0, "doubled or foreign": 0, "wrong": 0}))
        moments = random.Random(figures["kills"])
        last = figures["kills"] + times
        for k in itertools.count(1):
            if figures["kills"] == last:
                break
            url = numbered(target, k)
            file.unlink(missing_ok=True)
            job = Job(source, url, file)
            time.sleep(duration * moments.uniform(0, 1))
            job.process.send_signal(signal.SIGKILL)
            job.process.communicate()
            if job.process.returncode != -signal.SIGKILL:
                continue  # it was faster this time
            figures["kills"] += 1
            figures["resumed"] += Job(source, url, file).finish()["resumed_at"] > 0
            with open_store(url) as store:
                observed = differences(read_rows(store), rows.ids, columns, expected)
            figures["lost"] += observed["lost"]
            figures["doubled or foreign"] += observed["doubled or foreign"]
            wrong = observed["other text"] + observed["other payload"]
            figures["wrong"] += wrong + (observed["largest difference"] > 1e-6)
        total[kind] = {**figures, "seconds": round(duration, 2)}
    return total


def numbered(url: str, k: int) -> str:
    """The URL of the k-th target."""
    return url.replace("mapped", f"mapped{k}")


def measure_speed(engine: Engine, rows: Rows, where: str, folder: Path, turns: int) -> Figures:
    """Rows per second of a job, and of the engine's own bulk write of the same target rows, in turns."""
    written, jobs = [], []
    batches = rows._replace(vectors={TARGET: mapped_parquet(rows, folder)}).batches(TARGET)
    source, target = (url.replace("{}", where) for url in (engine.source, engine.target))
    fill(source, rows.arrow(SOURCE)).close()
    for k in range(turns):
        with open_store(numbered(target, 2 * k), Layout(batches[0].vectors.shape[1], "cosine", "integer")) as store:
            start = time.perf_counter()
            engine.bulk(store, batches)
            written.append(time.perf_counter() - start)
        jobs.append(Job(source, numbered(target, 2 * k + 1), folder / f"{k}.json").finish()["seconds"])
    bulk, job = statistics.median(written), statistics.median(jobs)
    n = len(rows.ids)
    return {
        "rows": n,
        "turns": turns,
        "bulk rows a second": round(n / bulk),
        "job rows a second": round(n / job),
        "of bulk": round(bulk / job, 3),
    }


def measure_memory(engine: Engine, rows: Rows) -> Figures:
    """Peak memory of the mapping process by number of rows; texts and vectors repeat, ids do not."""
    figures: Figures = {}
    for n in MEMORY_ROWS:
        with location(engine.name) as where, TemporaryDirectory() as folder:
            source, target = (url.replace("{}", where) for url in (engine.source, engine.target))
            with open_store(source, Layout(rows.vectors[SOURCE].shape[1], "cosine", "integer")) as store:
                for first in range(0, n, BATCH_ROWS):
                    at = np.arange(first, first + BATCH_ROWS) % len(rows.ids)
                    part = Rows(
                        list(range(first, first + BATCH_ROWS)),
                        [rows.texts[i] for i in at],
                        [rows.payloads[i] for i in at],
                        {SOURCE: rows.vectors[SOURCE][at]},
                    )
                    store.write(part.arrow(SOURCE)[0])
                store.flush()
            job = Job(source, target, Path(folder) / "job.json", MEMORY_TARGET).finish()
            figures[str(n)] = {"peak_mib": job["peak_mib"], "seconds": round(job["seconds"], 1)}
            print(engine.name, n, figures[str(n)], flush=True)
    low, high = (figures[str(n)]["peak_mib"] for n in MEMORY_ROWS)
    return {**figures, "growth": round(high / low - 1, 3)}


SEVEN = tuple(name for name in ENGINES if name != CHROMA_SERVER)
DEFAULT = {  # local Qdrant holds all rows in memory, and syncs the disk after each of them
    "rows": SEVEN,
    "map": (PARQUET, *SEVEN),
    "fit": (PARQUET, *SEVEN),
    "kills": SEVEN,
    "speed": SEVEN,
    "memory": tuple(name for name in ENGINES if name != "qdrant"),
}


def main() -> None:
    """Run parts on engines. Results are merged with those of earlier runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("build", type=Path)
    parser.add_argument("parts", nargs="*", default=[], help=f"Some of {', '.join(DEFAULT)}; all if none.")
    parser.add_argument(
        "--engines", nargs="+", choices=[*ENGINES, PARQUET], help="All that a part is meant for if none."
    )
    parser.add_argument("--times", type=int, default=10, help="Kills of each engine.")
    parser.add_argument("--add", action="store_true", help="Add these kills to those of earlier runs.")
    parser.add_argument("--rows", type=int, help="Rows of each store, to try a part; nothing is recorded.")
    parser.add_argument("--turns", type=int, default=3, help="Turns of the speed part.")
    options = parser.parse_args()
    for part in options.parts or DEFAULT:
        for name in options.engines or DEFAULT[part]:
            figures = measure(part, name, options)
            print(part, name, json.dumps(figures), flush=True)
            if not options.rows:
                keep(part, name, figures)


def measure(part: str, name: str, options: argparse.Namespace) -> Figures:
    """Run one part on one engine."""
    n = options.rows or (SPEED_ROWS.get(name, FAST_ROWS) if part == "speed" else ROWS)
    rows, queries = real_rows(options.data, options.build, n, QUERIES)
    with TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        if name == PARQUET:
            return map_parquet(rows, queries, folder) if part == "map" else fit_parquet(rows, folder)
        engine = ENGINES[name]
        if part == "memory":
            return measure_memory(engine, rows)
        with location(name) as where:
            if part == "rows":
                return contract(engine, rows, where)
            if part == "map":
                return map_store(engine, rows, queries, where, folder)
            if part == "fit":
                return fit_store(engine, rows, where, folder)
            if part == "speed":
                return measure_speed(engine, rows, where, folder, options.turns)
            earlier = saved_results().get("figures", {}).get(part, {}).get(name, {}) if options.add else {}
            return kill_jobs(engine, rows, where, folder, options.times, earlier)


def saved_results() -> Figures:
    """Load the figures of earlier runs."""
    file = results_file(__file__)
    return json.loads(file.read_text()) if file.exists() else {}


def keep(part: str, name: str, figures: Figures) -> None:
    """Merge figures into the JSON of earlier runs, and update the README."""
    file = results_file(__file__)
    lock = Path(gettempdir()) / "ea_jax-benchmarks-stores.lock"
    with hold_lock(lock, str(file), wait=True):  # engines may run at the same time
        results = saved_results()
        results.setdefault("figures", {}).setdefault(part, {})[name] = figures
        packages = [package for engine in ENGINES.values() for package in engine.packages]
        results["clients"] = {package: importlib.metadata.version(package) for package in packages}
        write_json(__file__, {key: value for key, value in results.items() if key != "machine"})
        readme.update("stores")


if __name__ == "__main__":
    main()
