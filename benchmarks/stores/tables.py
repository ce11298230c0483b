"""The tables of the stores in benchmarks/README.md. An engine without figures of a part has no row there."""

from typing import Any

from benchmarks.readme import markdown_table

Figures = dict[str, Any]
DIFFERENCES = ("lost", "doubled or foreign", "other text", "other payload")


def tables(figures: Figures, clients: dict[str, str]) -> str:
    """All parts, and the versions of the clients."""
    parts = {"rows": rows, "map": maps, "fit": fits, "kills": kills, "speed": speed, "memory": memory}
    made = [table(figures[part]) for part, table in parts.items() if part in figures]
    return "\n\n".join([*made, f"Clients: {', '.join(f'{name} {version}' for name, version in clients.items())}."])


def rows(part: Figures) -> str:
    """Rows that were written and read back."""
    head = ("written and read back", "rows", *DIFFERENCES, "largest difference", "same order, cursor resumes")
    return markdown_table(
        head,
        [
            (
                name,
                f"{f['counted']:,}",
                *(f"{f[key]:,}" for key in DIFFERENCES),
                f"{f['largest difference']:.0e}",
                "yes" if f["same order"] and f["cursor resumes"] else "**no**",
            )
            for name, f in part.items()
        ],
    )


def maps(part: Figures) -> str:
    """Recall of a mapped store."""
    head = (
        "after `map`",
        "R@10, exact search",
        "R@10, the engine's search",
        "wrong rows",
        "largest difference to parquet",
    )
    return markdown_table(
        head,
        [
            (
                name,
                f"{f['exact']:.3f}",
                f"{f[key]:.3f}" if (key := "engine's search") in f else "",
                f"{sum(f[key] for key in DIFFERENCES):,}" if "lost" in f else "",
                f"{f['largest difference']:.0e}" if "lost" in f else "",
            )
            for name, f in part.items()
        ],
    )


def fits(part: Figures) -> str:
    """Held-out queries of a fit on a store."""
    head = ("after `fit`", "rows", "held-out queries", "R@1", "R@10", "R@10, embed again")
    return markdown_table(
        head,
        [
            (
                name,
                f"{f['pairs']:,}",
                f"{f['held_out_queries']:,}",
                f"{f['recall@1']:.3f}",
                f"{f['recall@10']:.3f}",
                f"{f['keep_source recall@10']:.3f}",
            )
            for name, f in part.items()
        ],
    )


def kills(part: Figures) -> str:
    """Jobs that were killed and run again."""
    head = ("killed with SIGKILL", "target", "kills", "resumed", "lost", "doubled or foreign", "wrong")
    return markdown_table(
        head,
        [
            (name, kind, *(f"{f[key]:,}" for key in ("kills", "resumed", "lost", "doubled or foreign", "wrong")))
            for name, kinds in part.items()
            for kind, f in kinds.items()
        ],
    )


def speed(part: Figures) -> str:
    """Rows per second of jobs and of bulk writes."""
    head = ("rows a second", "rows", "bulk write", "`map`", "of the bulk write")
    return markdown_table(
        head,
        [
            (
                name,
                f"{f['rows']:,}",
                f"{f['bulk rows a second']:,}",
                f"{f['job rows a second']:,}",
                f"{f['of bulk']:.0%}",
            )
            for name, f in part.items()
        ],
    )


def memory(part: Figures) -> str:
    """Peak memory by number of rows."""
    sizes = sorted({int(n) for f in part.values() for n in f if n.isdecimal()})
    head = ("peak MiB of `map`", *(f"{n:,} rows" for n in sizes), "growth")
    return markdown_table(
        head,
        [
            (name, *(f"{f[str(n)]['peak_mib']:,}" if str(n) in f else "" for n in sizes), f"{f['growth']:+.0%}")
            for name, f in part.items()
        ],
    )
