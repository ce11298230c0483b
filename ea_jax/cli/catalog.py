"""What there is: `ea-jax list`, `info` and `paths`. Files are read, JAX is not."""

import dataclasses
import gc
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ea_jax.cli.output import fetch_index_or_warn, print_columns, read_or_warn
from ea_jax.compat.catalog import PublicAdapter, public_adapters
from ea_jax.registry.entry import Entry, read_entry, read_header
from ea_jax.registry.index import Listing
from ea_jax.registry.locations import registry_folders, user_folder
from ea_jax.registry.lookup import find_entry_by_name, list_entry_folders
from ea_jax.registry.remotes import Remote, cached_entry, list_remotes
from ea_jax.registry.routes import MAX_HOPS, Route, list_routes

logger = logging.getLogger(__name__)


def list_adapters(
    pro_only: Annotated[bool, typer.Option("--pro-only", help="Only paid adapters.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """List the adapters of the registries, and the public ones of embedding-adapters (`pro`: not free).

    Example: ea-jax list --json
    """
    with _uncollected():
        _list(pro_only, as_json)


def _list(pro_only: bool, as_json: bool) -> None:
    folders, public = list_entry_folders(), [adapter for adapter in public_adapters() if adapter.locked or not pro_only]
    far = [(r, row) for r in list_remotes() for row in fetch_index_or_warn(r) if "pro" in row.tags or not pro_only]
    if as_json:
        found = [entry for entry in read_or_warn(read_entry, folders) if "pro" in entry.tags or not pro_only]
        away = [row._asdict() | {"registry": remote.address} for remote, row in far]
        print(_json([*map(_facts, found), *away, *map(_public_facts, public)]))
        return
    heads = [head for head in read_or_warn(read_header, folders) if head and ("pro" in head.tags or not pro_only)]
    if not heads and not public and not far:
        logger.info(f"there are no {'paid ' if pro_only else ''}adapters in the registry.")
    rows = [(h.folder.name, h.source, "->", h.target, h.flavor, " ".join(h.tags)) for h in heads]
    rows += [(row.name, row.source, "->", row.target, row.flavor, " ".join((r.address, *row.tags))) for r, row in far]
    print_columns(rows + [(s.repo, s.source, "->", s.target, s.flavor, " ".join(_public_tags(s))) for s in public])


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which takes half of the time of a hundred thousand rows and finds nothing."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def info(
    name: Annotated[str, typer.Argument(help="An adapter's name, as `ea-jax list` shows it.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what an adapter is, what it was fitted on, and its measured figures.

    Example: ea-jax info minilm--oai-3-small--small
    """
    here = [root / name for root in registry_folders() if (root / name / "entry.toml").is_file()]
    far = [(remote, row) for remote in list_remotes() for row in fetch_index_or_warn(remote) if row.name == name]
    listed = [adapter for adapter in public_adapters() if name in (adapter.repo, adapter.repo.rpartition("/")[2])]
    places = [*(str(folder.parent) for folder in here), *(remote.address for remote, _ in far)]
    if here:
        facts = _facts(read_entry(here[0]))
    elif far:
        facts = _far_facts(*far[0])
    elif listed:
        facts, places = _public_facts(listed[0]), [f"hf:{listed[0].repo}"]
    else:
        facts = _facts(find_entry_by_name(name))  # which is an error
    why = "first in search order" if len(places) > 1 else "the only one of this name"
    facts |= {"found": {"registry": places[0], "hides": places[1:], "why": why}}
    if as_json:
        print(_json(facts))
    else:
        print_columns(list(_flat(facts)))


def paths(
    source: Annotated[str | None, typer.Argument(help="Where to start, by id or alias; anywhere if left out.")] = None,
    target: Annotated[str | None, typer.Argument(help="Where to end, likewise.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
    hops: Annotated[int, typer.Option(min=1, max=MAX_HOPS, help="The most adapters in a row.")] = MAX_HOPS,
) -> None:
    """List the routes between spaces, each with its measured recall, and what a detour costs in it.

    Example: ea-jax paths minilm oai-3-small
    """
    listings = [row for remote in list_remotes() for row in fetch_index_or_warn(remote)]
    found = list_routes(source, target, hops, remote=listings)
    if as_json:
        print(_json([dataclasses.asdict(route) | {"hops": route.hops, "cost": route.cost} for route in found]))
        return
    if not found:
        logger.info("no such route is there.")
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
    from ea_jax.compat.importer import import_adapter

    print(import_adapter(where, out or user_folder("data") / "registry", flavor))


COMMANDS = {list_adapters: "list", info: "info", paths: "paths", import_seed: "import"}


def _public_tags(adapter: PublicAdapter) -> list[str]:
    return ["embedding-adapters", *(["pro"] if adapter.locked else [])]


def _public_facts(adapter: PublicAdapter) -> dict[str, Any]:
    return {"name": adapter.repo, **dataclasses.asdict(adapter), "tags": _public_tags(adapter)}


def _facts(entry: Entry) -> dict[str, Any]:
    facts = {"name": entry.name, **dataclasses.asdict(entry), "path": str(entry.path)}
    for part in ("params", "quality"):
        facts[part] = {key: value for key, value in facts[part].items() if key != "files"}
    return facts


def _far_facts(remote: Remote, row: Listing) -> dict[str, Any]:
    """Those of an adapter of a registry on the hub: all of them once it was fetched, else what the index says."""
    there = cached_entry(remote, row)
    if there:
        return _facts(read_entry(there))
    return row._asdict() | {"fetched": "not yet; it is when it is first loaded"}


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, default=str)  # a stranger's TOML may hold a date


def _flat(facts: dict[str, Any], prefix: str = ""):
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
