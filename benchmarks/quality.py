"""Is the confidence a good forecast? Each adapter's scores beside what came true, on rows that no fit has seen.

    python -m benchmarks.quality ../shared/data build

Every shipped adapter on both test sets of its task (benchmarks/tasks.py), and MiniLM and WordLlama fitted on AG News
here. Rivals: the seed's rule (the smaller of two distance confidences), and single features.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.corpora import foreign
from benchmarks.junk import SCORES, junk_figures, junk_table
from benchmarks.machine import describe, write_readme
from benchmarks.quality_plot import plot
from benchmarks.registry import name_of
from benchmarks.tasks import TASKS, Task, load_task
from ea_jax import load, load_quality, threshold_for
from ea_jax.evaluation.confidence import calibration_error, risk_area, spearman
from ea_jax.fitting import fit
from ea_jax.loading import PURPOSES
from ea_jax.metrics import rank_of
from ea_jax.places import BUNDLED
from ea_jax.quality import FEATURES, Quality
from ea_jax.spec import Purpose

HERE = Path(__file__).parent
FLAVORS = ("small", "large")
WORST, TOP, PROMISE = 0.1, 10, 0.95
BINS, SHARES = 10, (0.25, 0.5, 0.75, 1.0)
ROWS, TURNS = {1: 100, 1024: 10}, 9

Values = np.ndarray
Apply = Callable[[Values, Purpose], Values]


class Judged(NamedTuple):
    """Scores by name and what came true, an entry a query."""

    scores: dict[str, Values]
    cosine: Values
    first: Values
    found: Values


def judged(judge: Quality, apply: Apply, task: Task, side: str) -> Judged:
    """Scores of one test set, and what came true."""
    test, hit, _ = task.sides[side]
    scores = {name: np.asarray(value) for name, value in judge(judge.params, test.x)._asdict().items()}
    scores |= dict(zip(FEATURES, np.asarray(judge.features(judge.params, test.x)).T, strict=False))
    scores["seed's rule"] = np.minimum(scores["conf_maha"], scores["conf_knn"])
    rank = np.asarray(rank_of(apply(test.x, "query"), test.corpus_y, hit))
    return Judged(scores, np.sum(apply(test.x, "store") * test.y, axis=1), rank == 1, rank <= TOP)


def generalised_risk_area(score: Values, good: Values) -> float:
    """Area under the generalised risk curve; smaller is better. Source: Traub et al. 2024, arXiv:2407.01032 (AUGRC)."""
    misses = np.cumsum(~good[np.argsort(-score, kind="stable")])
    return float(np.mean(misses / len(good)))


def figures(j: Judged) -> dict[str, Any]:
    """Every figure of one set of queries. Features that grow with badness are turned round."""
    worst = j.cosine <= np.quantile(j.cosine, WORST)
    forecasts = {
        "ours": (j.scores["confidence"], j.scores["expected_cosine"]),
        "seed's rule": (j.scores["seed's rule"],) * 2,
        **{name: (-j.scores[name],) * 2 for name in ("mahalanobis", "knn_distance")},
        **{name: (j.scores[name],) * 2 for name in FEATURES[2:] if name in j.scores},
        "1 - novelty": (-j.scores["novelty"],) * 2,
        "constant": (np.zeros(len(j.cosine)),) * 2,
        "oracle": (j.found.astype(float), j.cosine),
    }
    rows = {}
    for name, (forecast, cosine) in forecasts.items():
        rows[name] = {
            "spearman": spearman(cosine, j.cosine),
            "auroc_worst": float(roc_auc_score(worst, -cosine)),
            "aupr_worst": float(average_precision_score(worst, -cosine)),
            "auroc_top1": float(roc_auc_score(j.first, forecast)),
            "aupr_top1_miss": float(average_precision_score(~j.first, -forecast)),
            "aurc": risk_area(forecast, j.found),
            "augrc": generalised_risk_area(forecast, j.found),
            "routed": routed(forecast, j.found),
        }
    bins = np.array_split(np.argsort(j.scores["confidence"], kind="stable"), BINS)
    return {
        "queries": len(j.cosine),
        "cosine": float(j.cosine.mean()),
        "recall@10": float(j.found.mean()),
        "ece": calibration_error(j.scores["confidence"], j.found),
        "ece_cosine": calibration_error(j.scores["expected_cosine"], j.cosine),
        "coverage": float(np.mean(j.cosine >= j.scores["expected_cosine_lower"])),
        "reliability": [[float(j.scores["confidence"][b].mean()), float(j.found[b].mean())] for b in bins],
        "routed_at_random": [1 - share * float(np.mean(~j.found)) for share in SHARES],
        "rows": rows,
    }


def routed(score: Values, found: Values) -> list[float]:
    """Blended recall@10 by the share kept locally (`SHARES`); queries that are sent away find their native top hit."""
    misses = np.concatenate([[0], np.cumsum(~found[np.argsort(-score, kind="stable")])])
    return [1 - float(misses[round(share * len(found))]) / len(found) for share in SHARES]


def kept(j: Judged, least: float) -> dict[str, float]:
    """What a threshold keeps, and how many of those queries have the native top hit; beside all queries."""
    inside = j.scores["confidence"] >= least
    filtered = float(j.found[inside].mean()) if inside.any() else float("nan")
    return {"kept": float(inside.mean()), "recall@10": filtered, "unfiltered": float(j.found.mean())}


def pooled(parts: list[Judged]) -> Judged:
    """Queries of several sets as one."""
    scores = {name: np.concatenate([part.scores[name] for part in parts]) for name in parts[0].scores}
    return Judged(scores, *(np.concatenate(column) for column in list(zip(*parts, strict=True))[1:]))


def report(judge: Quality, apply: Apply, task: Task) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of one adapter, and what the plot draws."""
    sides = {side: judged(judge, apply, task, side) for side in task.sides}
    least = threshold_for(judge, PROMISE)
    told: dict[str, Any] = {side: figures(j) for side, j in sides.items()}
    told["pooled"] = figures(pooled(list(sides.values())))
    told["threshold"] = {"confidence": least.confidence, "kept": least.kept, "found": least.found}
    told["threshold"] |= {side: kept(j, least.confidence) for side, j in sides.items()}
    return told, sides


def main(data: Path, build: Path) -> None:
    """Judge every adapter, write quality.json and quality.png, and the README's table."""
    out: dict[str, Any] = {}
    drawn: dict[str, Any] = {}
    for name in ("minilm--wordllama--ag-news", "wordllama--minilm--ag-news"):
        task = load_task(name, data, build)
        fitted = fit(task.x, task.y, foreign=foreign(data, build, TASKS[name][0]))
        judge = fitted.judge
        out[name], drawn[name] = report(judge, fitted.apply, task)
        out[name]["junk"] = junk_figures(judge, fitted.apply, name, task.x, data, build)
        print(name, brief(out[name]), flush=True)
    for name in [task for task in TASKS if not task.endswith("ag-news")]:
        task, (source, target, _) = load_task(name, data, build), TASKS[name]
        for flavor in FLAVORS:
            entry = f"{name_of(name)}--{flavor}"
            adapters = {p: load(source, target, flavor=flavor, purpose=p, root=BUNDLED) for p in PURPOSES}

            def apply(x: Values, purpose: Purpose, adapters=adapters) -> Values:
                return np.asarray(adapters[purpose](adapters[purpose].params, x))

            judge = load_quality(source, target, flavor=flavor, root=BUNDLED)
            out[entry], drawn[entry] = report(judge, apply, task)
            seen = task.x if flavor == "small" else None
            out[entry]["junk"] = junk_figures(judge, apply, name, seen, data, build)
            if flavor == "small":
                out[entry]["costs"] = costs(source, target)
            print(entry, brief(out[entry]), out[entry].get("costs", ""), flush=True)
    told = {"machine": describe(), "shares": SHARES, "bars": bars(out), "figures": _rounded(out)}
    (HERE / "quality.json").write_text(lines(told))
    plot(drawn, HERE / "quality.png")
    write_readme("quality", table(told["figures"]))
    write_readme("junk", junk_table(told["figures"]))
    print(json.dumps(told["bars"], indent=1))


def lines(told: dict[str, Any]) -> str:
    """JSON with a line an adapter."""
    *head, (_, figures_) = told.items()
    parts = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head]
    adapters = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in figures_.items())
    return "{\n" + ",\n".join([*parts, f' "figures": {{\n{adapters}\n }}']) + "\n}\n"


def brief(told: dict[str, Any]) -> str:
    """One line for who waits."""
    sides = {side: told[side]["rows"]["ours"] for side in ("in", "across")}
    return ", ".join(f"{side} {r['spearman']:.3f} / {r['auroc_worst']:.3f}" for side, r in sides.items())


def costs(source: str, target: str) -> dict[str, float]:
    """Milliseconds of one query, and of 1,024 as often as of the adapter alone, for the small flavor; medians."""
    adapt = load(source, target, flavor="small", root=BUNDLED)
    judge = load_quality(source, target, flavor="small", root=BUNDLED)
    taken: dict[tuple[str, int], list[float]] = {}
    for rows, repeats in ROWS.items():
        x = np.random.default_rng(0).normal(size=(rows, adapt.spec.d_in)).astype(np.float32)
        calls = {"adapter": lambda x=x: adapt(adapt.params, x), "scores": lambda x=x: judge(judge.params, x)}
        for turn in range(TURNS + 1):
            for name, call in calls.items():
                start = time.perf_counter()
                for _ in range(repeats):
                    jax.block_until_ready(call())
                if turn:
                    taken.setdefault((name, rows), []).append((time.perf_counter() - start) / repeats)
    middle = {key: statistics.median(times) for key, times in taken.items()}
    one, many = ROWS
    return {
        "one_query_ms": 1e3 * middle["scores", one],
        "times_the_adapter": middle["scores", many] / middle["adapter", many],
        "one_query_times_the_adapter": middle["scores", one] / middle["adapter", one],
    }


def bars(out: dict[str, Any]) -> dict[str, Any]:
    """Comparisons with the seed's rule that are lost, junk that is not found, and promises that were broken."""
    lost, junk, broken, slow = [], [], [], []
    for name, told in out.items():
        for side in ("in", "across", "pooled"):
            ours, seed = told[side]["rows"]["ours"], told[side]["rows"]["seed's rule"]
            better = {"spearman": 1, "auroc_worst": 1, "aurc": -1}
            lost += [f"{name} {side} {m}" for m, sign in better.items() if sign * (ours[m] - seed[m]) <= 0]
        if told["junk"] and min(told["junk"][score]["all"] for score in SCORES) < 0.98:
            junk.append(f"{name}: " + ", ".join(_junk_told(score, told["junk"][score]) for score in SCORES))
        cost = told.get("costs")
        if cost and (cost["times_the_adapter"] > 2 or cost["one_query_ms"] > 0.5):
            slow.append(f"{name}: {cost['times_the_adapter']:.2f} x, {cost['one_query_ms']:.2f} ms")
        for side in ("in", "across"):
            found = told["threshold"][side]
            if found["kept"] and found["recall@10"] < PROMISE:
                broken.append(f"{name} {side}: {found['recall@10']:.3f} of {found['kept']:.1%}")
    told = {"more than twice the adapter, or .5 ms": slow}
    return told | {"worse than the seed's rule": lost, "junk AUROC below .98": junk, f"below {PROMISE}": broken}


def _junk_told(score: str, found: dict[str, float]) -> str:
    return f"{score} {found['all']:.3f}, of other vectors {found['of other vectors']:.3f}"


def table(out: dict[str, Any]) -> str:
    """The README's table: in / across, ours beside the seed's rule."""
    head = "| | Spearman | seed's | AUROC worst tenth | seed's | AURC | seed's | calibration error | coverage | junk |"
    lines = [head, "| --- |" + " ---: |" * 9]
    for name, told in out.items():

        def pair(*path: str, told=told) -> str:
            found = []
            for side in ("in", "across"):
                value: Any = told[side]
                for key in path:
                    value = value[key]
                found.append(f"{value:.2f}" if path[-1] != "ece" else f"{value:.3f}")
            return " / ".join(found)

        metrics = ("spearman", "auroc_worst", "aurc")
        cells = [pair("rows", row, metric) for metric in metrics for row in ("ours", "seed's rule")]
        junk = told["junk"]
        cells += [pair("ece"), pair("coverage")]
        cells.append(" / ".join(f"{junk[score]['all']:.2f}" for score in SCORES) if junk else "")
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if np.isfinite(value) else None
    return value


if __name__ == "__main__":
    from ea_jax.cli.device import start_jax

    start_jax()
    main(*map(Path, sys.argv[1:3]))
