"""What there is: `ea-jax list`, `info` and `paths`. Files are read, JAX is not."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ea_jax import registry as reg
from ea_jax.errors import EaJaxError
from ea_jax.remotes import Listed, Remote, index, remotes
from ea_jax.routes import MOST_HOPS, Route, routes


def list_adapters(
    pro_only: Annotated[bool, typer.Option("--pro-only", help="Only paid adapters.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """List the adapters of the registries, and the public ones of embedding-adapters (`pro`: not free).

    Example: ea-jax list --json
    """
    found = [entry for entry in reg.entries() if "pro" in entry.tags or not pro_only]
    public = [seed for seed in reg.seeds() if seed.locked or not pro_only]
    far = [(r, row) for r in remotes() for row in told_index(r) if "pro" in row.tags or not pro_only]
    if as_json:
        away = [dataclasses.asdict(row) | {"registry": remote.address} for remote, row in far]
        print(json.dumps([*map(_facts, found), *away, *map(_seed_facts, public)], indent=2))
        return
    if not found and not public and not far:
        print(f"ea-jax: there are no {'paid ' if pro_only else ''}adapters in the registry.", file=sys.stderr)
    rows = [(e.name, e.source, "->", e.target, e.flavor, " ".join(e.tags)) for e in found]
    rows += [(row.name, row.source, "->", row.target, row.flavor, " ".join((r.address, *row.tags))) for r, row in far]
    print_columns(rows + [(s.repo, s.source, "->", s.target, s.flavor, " ".join(_seed_tags(s))) for s in public])


def info(
    name: Annotated[str, typer.Argument(help="An adapter's name, as `ea-jax list` shows it.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what an adapter is, what it was fitted on, and its measured figures.

    Example: ea-jax info minilm--oai-3-small--small
    """
    entry = reg.entry_named(name)
    others = [str(root) for root in reg.roots() if root != entry.path.parent and (root / name / "entry.toml").is_file()]
    others += [remote.address for remote in remotes() if any(row.name == name for row in told_index(remote))]
    found_in = {"registry": str(entry.path.parent), "hides": others}
    found_in["why"] = "first in search order" if others else "the only one of this name"
    facts = _facts(entry) | {"found": found_in}
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        print_columns(list(_flat(facts)))


def paths(
    source: Annotated[str | None, typer.Argument(help="Where to start, by id or alias; anywhere if left out.")] = None,
    target: Annotated[str | None, typer.Argument(help="Where to end, likewise.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
    hops: Annotated[int, typer.Option(min=1, max=MOST_HOPS, help="The most adapters in a row.")] = MOST_HOPS,
) -> None:
    """List the routes between spaces, each with its measured recall, and what a detour costs in it.

    Example: ea-jax paths minilm oai-3-small
    """
    found = routes(source, target, hops)
    if as_json:
        told = [dataclasses.asdict(route) | {"hops": route.hops, "cost": route.cost} for route in found]
        print(json.dumps(told, indent=2))
        return
    if not found:
        print("ea-jax: no such route is there.", file=sys.stderr)
        return
    tests = list(dict.fromkeys(test for route in found for test in route.recall))
    rows = [("route", "flavor", *(f"R@10 {test}" for test in tests), "against the direct one")]
    for route in found:
        recall = (f"{route.recall[test]:.3f}" if test in route.recall else "" for test in tests)
        rows.append((" -> ".join(route.spaces), route.flavor or "default", *recall, _cost(route)))
    print_columns(rows)


def _cost(route: Route) -> str:
    if not route.recall:
        return "not measured"
    if route.hops == 1:
        return ""
    if route.direct is None:
        return "no direct adapter"
    return " / ".join(f"{cost:+.3f}" for cost in route.cost.values()) or "not measured"


def import_seed(
    where: Annotated[str, typer.Argument(help="A folder, or a repository of the Hugging Face hub (owner/name).")],
    flavor: Annotated[str, typer.Option(help="What to call it beside other adapters of the pair.")] = "imported",
    out: Annotated[Path | None, typer.Option(help="Registry folder; your own if not given.")] = None,
) -> None:
    """Import an adapter of embedding-adapters, and print its folder. Nothing in its checkpoint is run.

    Example: ea-jax import TylerF/emb_adapter_minilm_to_openai_text-embedding-3-medium_v1 --flavor medium
    """
    from ea_jax.importing import import_adapter

    print(import_adapter(where, out or reg.user_folder("data") / "registry", flavor))


COMMANDS = {list_adapters: "list", info: "info", paths: "paths", import_seed: "import"}


def told_index(remote: Remote) -> list[Listed]:
    """What a registry on the hub holds; where its index cannot be read, nothing, and a sentence on stderr."""
    try:
        return index(remote)
    except EaJaxError as error:
        print(f"ea-jax: {error}", file=sys.stderr)
        return []


def _seed_tags(seed: reg.Seed) -> list[str]:
    return ["embedding-adapters", *(["pro"] if seed.locked else [])]


def _seed_facts(seed: reg.Seed) -> dict[str, Any]:
    return {"name": seed.repo, **dataclasses.asdict(seed), "tags": _seed_tags(seed)}


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
            yield f"{prefix}{key}", " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def print_columns(rows: list[tuple[str, ...]]) -> None:
    """Rows as columns on stdout."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
