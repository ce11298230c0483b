"""What there is: `ea-jax list`, `registry`, `info` and `paths`. Files are read, JAX is not."""

import dataclasses
import json
import sys
from typing import Annotated, Any

import typer

from ea_jax import registry as reg


def list_adapters(
    pro_only: Annotated[bool, typer.Option("--pro-only", help="Only paid adapters.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """List the adapters of the registries.

    Example: ea-jax list --json
    """
    found = [entry for entry in reg.entries() if "pro" in entry.tags or not pro_only]
    if as_json:
        print(json.dumps([_facts(entry) for entry in found], indent=2))
        return
    if not found:
        print(f"ea-jax: there are no {'paid ' if pro_only else ''}adapters in the registry.", file=sys.stderr)
    _print_columns([(e.name, e.source, "->", e.target, e.flavor, " ".join(e.tags)) for e in found])


def registry() -> None:
    """Show where the registries are, and every model space they know.

    Example: ea-jax registry
    """
    for folder in reg.roots():
        print(f"{folder}  ({len(reg.entries(folder))} adapters)")
    print()
    rows = [("id", "aliases", "width", "runs here")]
    rows += [(s.id, ", ".join(s.aliases), str(s.width), "yes" if s.local else "no") for s in reg.spaces()]
    _print_columns(rows)


def info(
    name: Annotated[str, typer.Argument(help="An adapter's name, as `ea-jax list` shows it.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what an adapter is, what it was fitted on, and its measured figures.

    Example: ea-jax info minilm--oai-3-small--small
    """
    facts = _facts(reg.entry_named(name))
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        _print_columns(list(_flat(facts)))


def paths() -> None:
    """List the routes between spaces, each with the recall that was measured on it.

    Example: ea-jax paths
    """
    rows = []
    for entry in reg.entries():
        recall = [f"{test} R@10 {rows['query']['recall@10']:.3f}" for test, rows in entry.metrics.items()]
        route = (reg.find_space(entry.source).alias, "->", reg.find_space(entry.target).alias)
        rows.append((*route, entry.flavor, ", ".join(recall)))
    _print_columns(rows)


COMMANDS = {list_adapters: "list", registry: "registry", info: "info", paths: "paths"}


def _facts(entry: reg.Entry) -> dict[str, Any]:
    facts = {"name": entry.name, **dataclasses.asdict(entry), "path": str(entry.path)}
    for part in ("params", "quality"):
        facts[part] = {key: value for key, value in facts[part].items() if key != "files"}
    return facts


def _flat(facts: dict[str, Any], prefix: str = ""):
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", " ".join(value) if isinstance(value, tuple | list) else str(value)


def _print_columns(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
