"""Which family makes the best adapter of N pairs? Those of `ea_jax` beside their rivals, in and out of domain.

    python -m benchmarks.families ../shared/data build
    python -m benchmarks.families ../shared/data build --report

Every fit is judged at once and appended to `build/families.jsonl`; what is there is not done again, so that it may be
stopped, and run in parts with `--tasks`, `--sizes`, `--seeds` and `--families`. A seed draws the pairs and seeds the
fit; the test sets stay. `ea_jax` is told how large the native corpus in domain is. Where `auto` took the kernel machine
for both purposes, it is the very fit that `kernel` is, and is not done twice. `--report` makes families.json,
families.png and the README's tables of what is there.
"""

import argparse
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.families_plot import plot
from benchmarks.families_report import AUTO, KEEP, OURS, RIVALS, bars, cells, read, to_json
from benchmarks.families_table import table
from benchmarks.machine import README, write_readme
from benchmarks.tasks import ALL, SIZES, TASKS, Side, Size, Task, first_ten, load_task, scores

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
MLP_MOST = 10_000  # pairs up to which our `mlp` is fitted alone; `auto` may take it anywhere
TIMED_ROWS, TIMED_CALLS = 1024, 7
RECALLS = (1, 5, 10)

Apply = Callable[[np.ndarray], np.ndarray]
Key = tuple[str, Size, int, str]
Figures = dict[str, Any]
TOOK = "took"  # which kinds of fit ours is for the two purposes


def retrieval(outputs: np.ndarray, side: Side, corpus: np.ndarray) -> dict[str, float]:
    """Recall of the native top hit, and the share of the native top ten among the first ten.

    A tie goes to the earlier row, and outputs that are not finite are an error rather than a good rank.
    """
    if not np.isfinite(outputs).all():
        raise ValueError(f"{(~np.isfinite(outputs)).any(axis=1).sum()} of {len(outputs)} outputs are not finite.")
    columns, ranks, shared = np.arange(len(corpus)), [], []
    for part, score in scores(outputs, corpus):
        hit = side.hit[part, None]
        wanted = np.take_along_axis(score, hit, axis=1)
        ranks.append(1 + ((score > wanted) | ((score == wanted) & (columns < hit))).sum(axis=1))
        shared.append((first_ten(score)[:, :, None] == side.top[part, None, :]).any(axis=1).mean(axis=1))
    rank = np.concatenate(ranks)
    recalls = {f"r{k}": float((rank <= k).mean()) for k in RECALLS}
    return {**recalls, "overlap": float(np.concatenate(shared).mean())}


def cosine(outputs: np.ndarray, native: np.ndarray) -> float:
    """Mean cosine of row-aligned vectors."""
    return float(np.mean(np.sum(outputs * native, axis=1) / np.linalg.norm(outputs, axis=1)))


def microseconds(apply: Apply, x: np.ndarray) -> float:
    """Median time for a vector in a warm batch, NumPy in and out."""
    rows, taken = np.resize(x, (TIMED_ROWS, x.shape[1])), []
    for _ in range(TIMED_CALLS + 1):
        start = time.perf_counter()
        apply(rows)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:]) / TIMED_ROWS * 1e6


def judge(task: Task, store: Apply, query: Apply) -> dict[str, float]:
    """Figures of both sides: the cosine of `store` outputs, the ranks that `query` outputs give."""
    figures = {}
    for name, side in task.sides.items():
        found = retrieval(query(side.test.x), side, side.test.corpus_y)
        figures |= {f"{name}.cosine": cosine(store(side.test.x), side.test.y)}
        figures |= {f"{name}.{key}": value for key, value in found.items()}
    return figures


def keep_source(task: Task) -> dict[str, float]:
    """Figures of source queries on a source corpus, by the same native truth: what an adapter is there to replace."""
    return {
        f"{name}.{key}": value
        for name, side in task.sides.items()
        for key, value in retrieval(side.test.x, side, side.test.corpus_x).items()
    }


def fit_and_judge(task: Task, size: Size, seed: int, family: str) -> Figures:
    """One line of the results."""
    rows = task.draw(size, seed)
    x, y = task.x[rows], task.y[rows]
    if family in RIVALS:
        from benchmarks.peers import PEERS

        peer = PEERS[family](x, y, seed)
        store = query = peer.apply
        parameters, seconds, took = peer.parameters, peer.seconds, []
    else:
        import ea_jax

        start = time.perf_counter()
        fit: Any = ea_jax.fit
        fitted = fit(x, y, family=family, seed=seed, corpus_size=len(task.sides["in"].test.corpus_y))
        seconds, parameters = time.perf_counter() - start, fitted.parameters
        took = [fitted.report[purpose]["kind"] for purpose in ("store", "query")]
        store, query = (partial(fitted.apply, purpose=purpose) for purpose in ("store", "query"))
    return {
        TOOK: took,
        "pairs": len(rows),
        **judge(task, store, query),
        "seconds": seconds,
        "parameters": parameters,
        "microseconds": microseconds(store, task.sides["in"].test.x),
    }


def same_as_auto(auto: Figures | None, family: str) -> Figures | None:
    """The figures of `auto`, if it is the very fit of another of our families; a rival has a kind's name alone."""
    if auto is None or family not in OURS or auto.get(TOOK) != [family] * 2:
        return None
    return {k: v for k, v in auto.items() if k not in ("task", "size", "seed", "family", "left_out", TOOK)}


def keys(task: Task, asked: argparse.Namespace) -> list[Key]:
    """What was asked for of one task, the smallest fits first, and `auto` before what it may have taken."""
    found: list[Key] = [(task.name, KEEP, 0, KEEP)] if KEEP in asked.families else []
    for n in task.sizes():
        pairs = len(task.x) if n == ALL else int(n)
        families = [f for f in asked.families if f != KEEP and (f != "mlp" or pairs <= MLP_MOST)]
        families.sort(key=lambda f: f != AUTO)
        if asked.sizes is None or n in asked.sizes:
            found += [(task.name, n, seed, family) for seed in asked.seeds for family in families]
    return found


def run(out: Path, asked: argparse.Namespace) -> int:
    """Do what was asked for and is not there; the number of fits that failed, whose errors go to stderr."""
    failed = 0
    done = {(r["task"], r["size"], r["seed"], r["family"]): r for r in read(out)}
    for name in asked.tasks:
        task = load_task(name, asked.data, asked.build)
        todo = [key for key in keys(task, asked) if key not in done]
        say(f"{name}: {len(task.x):,} pairs, {task.left_out:,} left out, {len(todo)} to do")
        for _, size, seed, family in todo:
            start = time.perf_counter()
            try:
                figures = (
                    keep_source(task)
                    if family == KEEP
                    else same_as_auto(done.get((name, size, seed, AUTO)), family)
                    or fit_and_judge(task, size, seed, family)
                )
            except Exception:
                failed += 1
                traceback.print_exc()
                continue
            line = {"task": name, "size": size, "seed": seed, "family": family, "left_out": task.left_out}
            line |= {k: float(f"{v:.5g}") if isinstance(v, int | float) else v for k, v in figures.items()}
            done[name, size, seed, family] = line
            with out.open("a") as lines:
                lines.write(json.dumps(line) + "\n")
            say(f"  {size} {seed} {family}: R@1 {figures['in.r1']:.3f}, {time.perf_counter() - start:.1f} s")
    return failed


def report(results: Path, folder: Path = HERE) -> None:
    """Write families.json and families.png into a folder, the tables into README.md where it has their place."""
    found = cells(read(results))
    checked = bars(found)
    (folder / "families.json").write_text(to_json(found, checked))
    plot(found, folder / "families.png")
    print(table(found))
    if folder == HERE and "<!-- families -->\n" in README.read_text():
        write_readme("families", table(found))
    for bar, outcome in checked.items():
        print("", f"{bar}: {len(outcome['failed'])} of {outcome['checks']} failed", *outcome["failed"], sep="\n  ")
    seeds = max(cell.seeds for cell in found.values())
    partial = [" ".join(map(str, key)) for key, cell in found.items() if cell.seeds < seeds and key[2] != KEEP]
    print("", f"{len(partial)} cells have fewer than {seeds} seeds", *partial, sep="\n  ")


def say(text: str) -> None:
    """To stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def size(text: str) -> Size:
    """A number of pairs, or `all`."""
    return ALL if text == ALL else int(text)


def main() -> None:
    """Parse, then run or report."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads wait without spinning: cores may be shared
    families = [KEEP, *RIVALS, *OURS, AUTO]
    parser = argparse.ArgumentParser(prog="benchmarks.families")
    parser.add_argument("data", type=Path)
    parser.add_argument("build", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--sizes", nargs="+", type=size, choices=[*SIZES, ALL])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--families", nargs="+", choices=families, default=families)
    parser.add_argument("--report", action="store_true")
    asked = parser.parse_args()
    out = asked.build / "families.jsonl"
    if asked.report:
        report(out)
    elif run(out, asked):
        raise SystemExit("Some fits failed: see above. The next run tries them again.")


if __name__ == "__main__":
    main()
