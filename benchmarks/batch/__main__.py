"""Does a batch job keep up with its slowest stage, in constant memory, and lose nothing when it is killed?

    python -m benchmarks.batch                       # all of it; each part may be run alone, and joins the same JSON:
    python -m benchmarks.batch --rows 100000 1000000
    python -m benchmarks.batch --rows 4000000        # writes 24 GB, twice, and removes them
    python -m benchmarks.batch --kills 50
    python -m benchmarks.batch --small               # 20k vectors and 2 kills; writes nothing

Vectors of 384 numbers go to 1536, parquet to parquet, each job in a process of its own that has loaded what it needs.
The user's loop does the same with the same weights: it reads with pyarrow, multiplies with torch and writes with
pyarrow what the job writes (float32 in fixed-size lists, neither compressed nor in dictionaries), a batch at a time,
and puts its file on the disk at the end.

A stage's ceiling is the stage alone, in the same run: rows decoded, digested and checked; batches to the device and
back; batches to parts on the disk. Alone it has both cores to itself, which the stages of a job share, so their CPU
seconds set a ceiling too: no job is done before all of them have been spent, on every core at once.
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
    """A step in a new process, with its peak of memory in MiB."""
    out = folder / "out"
    command = [sys.executable, "-m", "benchmarks.batch.steps", step, str(given), str(out)]
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


def kill_jobs(folder: Path, kills: int, rows: int = 60_000) -> dict[str, int]:
    """Jobs killed at random moments after they have begun, and run again to their end, against one that was not."""
    given, moments = corpus(folder / "kills.parquet", rows), random.Random(0)
    options = ["--source", NAMES[0], "--target", NAMES[1], "--part-rows", "2048"]

    def start(out: Path) -> tuple[subprocess.Popen, float]:
        command = [sys.executable, "-m", "ea_jax.cli", "map", str(given), str(out), *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (out / "_ea_jax").exists():
            time.sleep(0.001)
        return process, time.perf_counter()

    start(folder / "first")[0].wait()  # so that all is compiled
    process, begun = start(folder / "whole")
    assert process.wait() == 0
    taken, wanted = time.perf_counter() - begun, digest(folder / "whole")
    figures = {"jobs": kills, "killed": 0, "with_some_parts": 0, "same_bytes": 0, "same_rows": 0}
    for _ in range(kills):
        out = folder / "killed"
        process, _ = start(out)
        time.sleep(taken * moments.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        figures["killed"] += process.wait() == -signal.SIGKILL
        figures["with_some_parts"] += 0 < len(list(out.glob("*.parquet"))) < -(-rows // 2048)
        assert start(out)[0].wait() == 0
        figures["same_bytes"] += digest(out) == wanted
        figures["same_rows"] += sum(parquet.read_metadata(f).num_rows for f in out.glob("*.parquet")) == rows
        shutil.rmtree(out)
    return figures


def measure(folder: Path, rows: int) -> dict[str, Any]:
    """A size: the job, its stages alone, and the user's loop; medians of three in turn, up to a million rows."""
    given = corpus(folder / f"{rows}.parquet", rows)
    save_weights(given.with_suffix(".npz"))
    alone("read_alone", given, folder)  # so that the file is in memory for all alike
    turns = 3 if rows <= 1_000_000 else 1
    runs = [{step: alone(step, given, folder) for step in STEPS} for _ in range(turns)]
    given.unlink()
    found = {
        step: {name: statistics.median(run[step][name] for run in runs) for name in runs[0][step]} for step in STEPS
    }
    job, loop, alones = found["whole_job"], found["users_loop"], {name: found[f"{name}_alone"] for name in STAGES}
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
        "alone_s": {name: round(told["seconds"], 2) for name, told in alones.items()},
        "alone_cpu_s": {name: round(told["cpu"], 2) for name, told in alones.items()},
        "cpu_s": round(job["cpu"], 2),
        "of_slowest_stage": round(max(told["seconds"] for told in alones.values()) / job["seconds"], 3),
        "of_cores": round(sum(told["cpu"] for told in alones.values()) / (os.cpu_count() or 1) / job["seconds"], 3),
    }


def save_weights(path: Path) -> None:
    """The adapter as two arrays, for the loop."""
    from ea_jax import load

    np.savez(path, **load(*NAMES).params["out"])


def table(figures: list[dict]) -> str:
    """One row a size."""
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
    """What became of the jobs that were killed."""
    return (
        f"Of {killed['jobs']} jobs killed with SIGKILL at random moments, {killed['with_some_parts']} of them "
        f"between the first part and the last, {killed['same_bytes']} ended with the bytes of one that was not, and "
        f"{killed['same_rows']} with all rows."
    )


def report(told: dict[str, Any]) -> str:
    """All that the README shows."""
    return table(told["figures"]) + (f"\n\n{killed_sentence(told['killed'])}" if told["killed"] else "")


def main() -> None:
    """Measure each size, then kill jobs; each result joins those of earlier runs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rows", type=int, nargs="*", default=[])
    parser.add_argument("--kills", type=int, default=0)
    given = parser.parse_args()
    if not (given.rows or given.kills):
        given.rows, given.kills = [100_000, 1_000_000, 4_000_000], 50
    if given.small:
        given.rows, given.kills = [20_000], 2
    for rows in given.rows:
        with tempfile.TemporaryDirectory() as name:
            found = measure(Path(name), rows)
        print(table([found]), flush=True)
        if not given.small:
            keep([found], {})
    if given.kills:
        with tempfile.TemporaryDirectory() as name:
            killed = kill_jobs(Path(name), given.kills)
        print(killed_sentence(killed))
        if not given.small:
            keep([], {"killed": killed})


def keep(figures: list[dict[str, Any]], more: dict[str, Any]) -> None:
    """Put figures among those of earlier runs, in the JSON and in the README."""
    file = results_file(__file__)
    before = json.loads(file.read_text()) if file.exists() else {"figures": []}
    rows = {row["rows"]: row for row in before["figures"] + figures}
    told = {"figures": [rows[key] for key in sorted(rows)], "killed": before.get("killed"), **more}
    write_json(__file__, told)
    readme.update("batch")


if __name__ == "__main__":
    main()
