"""Does a batch job run at the speed of its slowest stage, in constant memory, and survive being killed?

    python -m benchmarks.batch                       # everything; the parts below update the same JSON:
    python -m benchmarks.batch --rows 100000 1000000
    python -m benchmarks.batch --rows 4000000        # writes 24 GB, twice, and removes them
    python -m benchmarks.batch --kills 50
    python -m benchmarks.batch --small               # 20k vectors and 2 kills; writes nothing

Each job maps vectors of width 384 to width 1536, parquet to parquet, in its own process after loading the adapter.
The user's loop does the same with the same weights: it reads with pyarrow, multiplies with torch and writes the same
columns with pyarrow (float32 in fixed-size lists, neither compressed nor dictionary-encoded), one batch at a time, and
syncs its file at the end.

The ceiling of a stage is its speed alone, measured in the same run: decode, digest and check rows; send batches through
the device; write parts to disk. Alone, a stage has all cores to itself, but the stages of a job share them. Their CPU
seconds therefore set a second ceiling: a job cannot finish before all of them are spent, on all cores at once.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import parquet

from benchmarks import readme
from benchmarks.batch.steps import NAMES, STEPS, corpus
from benchmarks.machine import results_file, write_json

STAGES = ("read", "compute", "write")


def alone(step: str, given: Path, folder: Path) -> dict[str, float]:
    """Run a step in a new process. Returns its figures and its peak memory in MiB."""
    out = folder / "out"
    command = [sys.executable, "-m", "benchmarks.batch.steps", step, str(given), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, code, usage = os.wait4(process.pid, 0)
    assert code == 0, f"{step} failed"
    shutil.rmtree(out, ignore_errors=True)
    out.unlink(missing_ok=True)
    return {**json.loads(output.splitlines()[-1]), "peak_mib": round(usage.ru_maxrss / 1024)}


def digest(folder: Path) -> str:
    """Digest all parts and the manifest."""
    total = hashlib.sha256()
    for file in sorted([*folder.glob("*.parquet"), folder / "_ea_jax" / "manifest.json"]):
        total.update(file.name.encode() + file.read_bytes())
    return total.hexdigest()


def kill_jobs(folder: Path, kills: int, rows: int = 60_000) -> dict[str, int]:
    """Kill jobs at random moments, rerun them, and compare their output with that of an uninterrupted job."""
    given, moments = corpus(folder / "kills.parquet", rows), random.Random(0)
    options = ["--source", NAMES[0], "--target", NAMES[1], "--part-rows", "2048"]

    def start(out: Path) -> tuple[subprocess.Popen, float]:
        command = [sys.executable, "-m", "ea_jax.cli", "map", str(given), str(out), *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (out / "_ea_jax").exists():
            time.sleep(0.001)
        return process, time.perf_counter()

    start(folder / "first")[0].wait()  # compiles
    process, started = start(folder / "whole")
    assert process.wait() == 0
    duration, expected = time.perf_counter() - started, digest(folder / "whole")
    figures = {"jobs": kills, "killed": 0, "with_some_parts": 0, "same_bytes": 0, "same_rows": 0}
    for _ in range(kills):
        out = folder / "killed"
        process, _ = start(out)
        time.sleep(duration * moments.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        figures["killed"] += process.wait() == -signal.SIGKILL
        figures["with_some_parts"] += 0 < len(list(out.glob("*.parquet"))) < -(-rows // 2048)
        assert start(out)[0].wait() == 0
        figures["same_bytes"] += digest(out) == expected
        figures["same_rows"] += sum(parquet.read_metadata(f).num_rows for f in out.glob("*.parquet")) == rows
        shutil.rmtree(out)
    return figures


def measure(folder: Path, rows: int) -> dict[str, Any]:
    """Measure one size: the job, each stage alone, and the loop of a user. Small sizes take medians of three turns."""
    given = corpus(folder / f"{rows}.parquet", rows)
    save_weights(given.with_suffix(".npz"))
    alone("read_alone", given, folder)  # puts the file into the page cache for all steps
    turns = 3 if rows <= 1_000_000 else 1
    runs = [{step: alone(step, given, folder) for step in STEPS} for _ in range(turns)]
    given.unlink()
    figures = {
        step: {name: statistics.median(run[step][name] for run in runs) for name in runs[0][step]} for step in STEPS
    }
    job, loop, alones = figures["whole_job"], figures["users_loop"], {name: figures[f"{name}_alone"] for name in STAGES}
    assert job["rows"] == loop["rows"] == rows
    return {
        "rows": rows,
        "turns": turns,
        "seconds": round(job["seconds"], 2),
        "rows_a_second": round(rows / job["seconds"]),
        "peak_mib": job["peak_mib"],
        "loop_rows_a_second": round(rows / loop["seconds"]),
        "loop_peak_mib": loop["peak_mib"],
        "busy_s": {name: round(job[name], 2) for name in STAGES},
        "alone_s": {name: round(stage["seconds"], 2) for name, stage in alones.items()},
        "alone_cpu_s": {name: round(stage["cpu"], 2) for name, stage in alones.items()},
        "cpu_s": round(job["cpu"], 2),
        "of_slowest_stage": round(max(stage["seconds"] for stage in alones.values()) / job["seconds"], 3),
        "of_cores": round(sum(stage["cpu"] for stage in alones.values()) / (os.cpu_count() or 1) / job["seconds"], 3),
    }


def save_weights(path: Path) -> None:
    """Save the adapter as two arrays for the user's loop."""
    from ea_jax import load

    np.savez(path, **load(*NAMES).params["out"])


def table(figures: list[dict]) -> str:
    """Format one row for each size."""
    lines = [
        "| vectors | rows a second | user's loop | peak MiB | loop's | alone, s: read / compute / write | "
        "of the slowest stage | of the cores |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in figures:
        alones = " / ".join(f"{row['alone_s'][stage]:.1f}" for stage in STAGES)
        lines.append(
            f"| {row['rows']:,} | {row['rows_a_second']:,} | {row['loop_rows_a_second']:,} | "
            f"{row['peak_mib']:,.0f} | {row['loop_peak_mib']:,.0f} | {alones} | {row['of_slowest_stage']:.0%} | "
            f"{row['of_cores']:.0%} |"
        )
    return "\n".join(lines)


def killed_sentence(killed: dict[str, int]) -> str:
    """Format the result of the killed jobs."""
    return (
        f"{killed['jobs']} jobs were killed with SIGKILL at random moments, {killed['with_some_parts']} of them "
        f"between the first part and the last. After a rerun, {killed['same_bytes']} had the same bytes as an "
        f"uninterrupted job, and {killed['same_rows']} had all rows."
    )


def report(results: dict[str, Any]) -> str:
    """Format the section of the README."""
    return table(results["figures"]) + (f"\n\n{killed_sentence(results['killed'])}" if results["killed"] else "")


def main() -> None:
    """Measure each size, then kill jobs. Results are merged with those of earlier runs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rows", type=int, nargs="*", default=[])
    parser.add_argument("--kills", type=int, default=0)
    arguments = parser.parse_args()
    if not (arguments.rows or arguments.kills):
        arguments.rows, arguments.kills = [100_000, 1_000_000, 4_000_000], 50
    if arguments.small:
        arguments.rows, arguments.kills = [20_000], 2
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as name:
            figures = measure(Path(name), rows)
        print(table([figures]), flush=True)
        if not arguments.small:
            keep([figures], {})
    if arguments.kills:
        with tempfile.TemporaryDirectory() as name:
            killed = kill_jobs(Path(name), arguments.kills)
        print(killed_sentence(killed))
        if not arguments.small:
            keep([], {"killed": killed})


def keep(figures: list[dict[str, Any]], more: dict[str, Any]) -> None:
    """Merge figures into the JSON of earlier runs, and update the README."""
    file = results_file(__file__)
    before = json.loads(file.read_text()) if file.exists() else {"figures": []}
    rows = {row["rows"]: row for row in before["figures"] + figures}
    results = {"figures": [rows[key] for key in sorted(rows)], "killed": before.get("killed"), **more}
    write_json(__file__, results)
    readme.update("batch")


if __name__ == "__main__":
    main()
