"""The frontier as the README shows it: two tasks in full, and every task by number of pairs."""

from typing import Any

from benchmarks.families_report import (
    AUTO,
    COSTS,
    KEEP,
    LABELS,
    NEWS,
    RIVALS,
    SIDES,
    Cell,
    Cells,
    Stat,
    bars,
    in_order,
    largest_run,
    settings,
)

TABLED = ("minilm--oai-3-small", NEWS)


def table(found: Cells) -> str:
    """The README's tables: two tasks in full, and every task by number of pairs."""
    parts = [_caption(found), _verdict(bars(found))]
    for task in TABLED:
        near_to_all = 5000 < largest_run(found, task) < 8000
        sizes = (2000, *(() if near_to_all else (5000,)), "all")
        for size in [s for s in sizes if (task, s) in settings(found)]:
            parts.append(_setting_table(found, task, size))
    parts += [_matrix(found, side) for side in SIDES]
    return "\n\n".join(parts)


def _caption(found: Cells) -> str:
    fits = [cell.seeds for (_, _, family), cell in found.items() if family != KEEP]
    fewest, most = min(fits, default=1), max(fits, default=1)
    drawn = (
        f"means of {'up to ' * (fewest < most)}{most} seeds, which draw the pairs and seed the fit; "
        "for R@1 ± the largest less the smallest"
        if most > 1
        else "one seed, which draws the pairs and seeds the fit"
    )
    return (
        "Mean cosine to the native vectors (of `store` outputs), recall of the native top hit (R@1, R@10) and share "
        f"of the native top ten found (of `query` outputs), in / across domains; {drawn}. Near-duplicates of test "
        "queries are left out of the fit; `ea_jax` is told how many rows the native corpus in domain has. µs: a "
        "vector, warm, in batches of 1,024.\n\n"
        "![R@1 in domain by number of pairs](benchmarks/families.png)"
    )


def _verdict(checked: dict[str, dict[str, Any]]) -> str:
    """How each bar came out, in words."""
    told = {bar: (outcome["checks"], len(outcome["failed"])) for bar, outcome in checked.items() if outcome["checks"]}
    lines = [
        f"- {bar}: {f'fails in {k} of {n}' if k else f'holds in all {n}'} comparisons" for bar, (n, k) in told.items()
    ]
    return "\n".join(["What was asked of them, each compared by the means of the seeds there are:\n", *lines])


def _setting_table(found: Cells, task: str, size: int | str) -> str:
    by = {f: found[key] for f in LABELS for key in [(task, KEEP if f == KEEP else size, f)] if key in found}
    pairs = max(cell.pairs for cell in by.values())
    lines = [
        f"{title(task)}, {pairs:,} pairs, {_seeds(by)}:\n",
        "| | cosine | R@1 | R@10 | overlap@10 | fit, s | parameters | µs |",
        "| --- |" + " ---: |" * 7,
    ]
    for family, cell in by.items():
        s = cell.stats
        cosine = _pair(s, "cosine") if "in.cosine" in s else ""
        costs = " | ".join(write(s[key].mean) if key in s else "" for key, write in COSTS.items())
        ranks = (
            f"{_pair(s, 'r1', spread=family != KEEP and cell.seeds > 1)} | {_pair(s, 'r10')} | {_pair(s, 'overlap')}"
        )
        lines.append(f"| {LABELS[family]} | {cosine} | {ranks} | {costs} |")
    return "\n".join(lines)


def _seeds(by: dict[str, Cell]) -> str:
    least, most = (pick(cell.seeds for family, cell in by.items() if family != KEEP) for pick in (min, max))
    return f"{most} seed{'s' * (most > 1)}" if least == most else f"{least} to {most} seeds"


def _matrix(found: Cells, side: str) -> str:
    """R@1 of `auto` and of the best rival, every task by number of pairs."""
    by, key = settings(found), f"{side}.r1"
    sizes = sorted({size for _, size in by}, key=in_order)

    def cell(task: str, size: int | str) -> str:
        families = by.get((task, size), {})
        rivals = [families[f].stats[key].mean for f in RIVALS if f in families]
        return f"{families[AUTO].stats[key].mean:.3f} / {max(rivals):.3f}" if AUTO in families and rivals else ""

    def kept(task: str) -> str:
        return f"{found[task, KEEP, KEEP].stats[key].mean:.3f}" if (task, KEEP, KEEP) in found else ""

    names = [size if isinstance(size, str) else f"{size:,}" for size in sizes]
    lines = [
        f"R@1 {SIDES[side]} of `auto` / of the best rival, by number of pairs (nothing where it has not been run):\n",
        "| | largest run | " + " | ".join(names) + " | keep the source |",
        "| --- |" + " ---: |" * (len(names) + 2),
    ]
    for task in dict.fromkeys(task for task, _ in by):
        row = [title(task), f"{largest_run(found, task):,}", *(cell(task, size) for size in sizes), kept(task)]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def title(task: str) -> str:
    """A task's name for people."""
    source, target, *where = task.split("--")
    return f"{source} to {target}" + "".join(f" ({name})" for name in where)


def _pair(stats: dict[str, Stat], key: str, spread: bool = False) -> str:
    found = [stats[f"{side}.{key}"] for side in SIDES]
    return " / ".join(f"{s.mean:.3f}" + (f" ±{s.spread:.3f}" if spread else "") for s in found)
