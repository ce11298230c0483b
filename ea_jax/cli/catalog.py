"""Browse and import adapters: `ea-jax list`, `info`, `paths` and `import`. Only `import` loads JAX."""

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
    """List the adapters of the registries and the public ones of embedding-adapters (`pro`: paid).

    Example: ea-jax list --json
    """
    with _without_garbage_collection():
        _list(pro_only, as_json)


def _list(pro_only: bool, as_json: bool) -> None:
    folders, public = list_entry_folders(), [adapter for adapter in public_adapters() if adapter.locked or not pro_only]
    remote = [(r, row) for r in list_remotes() for row in fetch_index_or_warn(r) if "pro" in row.tags or not pro_only]
    if as_json:
        entries = [entry for entry in read_or_warn(read_entry, folders) if "pro" in entry.tags or not pro_only]
        remote_facts = [row._asdict() | {"registry": r.address} for r, row in remote]
        print(_json([*map(_facts, entries), *remote_facts, *map(_public_facts, public)]))
        return
    headers = [h for h in read_or_warn(read_header, folders) if not pro_only or "pro" in h.tags]
    if not headers and not public and not remote:
        logger.info(f"There are no {'paid ' if pro_only else ''}adapters in the registry.")
    rows = [(h.folder.name, h.source, "->", h.target, h.flavor, " ".join(h.tags)) for h in headers]
    rows += [
        (row.name, row.source, "->", row.target, row.flavor, " ".join((r.address, *row.tags))) for r, row in remote
    ]
    print_columns(rows + [(s.repo, s.source, "->", s.target, s.flavor, " ".join(_public_tags(s))) for s in public])


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Pause the garbage collector, which takes half of the time for 100,000 adapters and frees nothing."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def info(
    name: Annotated[str, typer.Argument(help="Name of an adapter, as `ea-jax list` shows it.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show the facts about an adapter: models, training data and metrics.

    Example: ea-jax info minilm--oai-3-small--small
    """
    local = [root / name for root in registry_folders() if (root / name / "entry.toml").is_file()]
    remote = [(remote, row) for remote in list_remotes() for row in fetch_index_or_warn(remote) if row.name == name]
    public = [adapter for adapter in public_adapters() if name in (adapter.repo, adapter.repo.rpartition("/")[2])]
    registries = [*(str(folder.parent) for folder in local), *(remote.address for remote, _ in remote)]
    if local:
        facts = _facts(read_entry(local[0]))
    elif remote:
        facts = _remote_facts(*remote[0])
    elif public:
        facts, registries = _public_facts(public[0]), [f"hf:{public[0].repo}"]
    else:
        facts = _facts(find_entry_by_name(name))  # raises UnknownName
    why = "first in search order" if len(registries) > 1 else "the only one of this name"
    facts |= {"found": {"registry": registries[0], "hides": registries[1:], "why": why}}
    if as_json:
        print(_json(facts))
    else:
        print_columns(list(_flat(facts)))


def paths(
    source: Annotated[str | None, typer.Argument(help="Space at the start, by id or alias; any if omitted.")] = None,
    target: Annotated[str | None, typer.Argument(help="Space at the end; any if omitted.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
    hops: Annotated[int, typer.Option(min=1, max=MAX_HOPS, help="Largest number of adapters in a route.")] = MAX_HOPS,
) -> None:
    """List routes between spaces over one or two adapters, with their measured recall.

    Example: ea-jax paths minilm oai-3-small
    """
    listings = [row for remote in list_remotes() for row in fetch_index_or_warn(remote)]
    routes = list_routes(source, target, hops, remote=listings)
    if as_json:
        print(_json([dataclasses.asdict(route) | {"hops": route.hops, "cost": route.cost} for route in routes]))
        return
    if not routes:
        logger.info("There is no such route.")
        return
    tests = list(dict.fromkeys(test for route in routes for test in route.recall))
    rows = [("route", "flavor", *(f"R@10 {test}" for test in tests), "difference to direct")]
    for route in routes:
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
    where: Annotated[str, typer.Argument(help="Folder, or repository on the Hugging Face hub (owner/name).")],
    flavor: Annotated[str, typer.Option(help="Name of this adapter among those of the two models.")] = "imported",
    out: Annotated[Path | None, typer.Option(help="Registry folder; your own registry by default.")] = None,
) -> None:
    """Import an adapter of embedding-adapters and print its folder. No code in its checkpoint is executed.

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


def _remote_facts(remote: Remote, row: Listing) -> dict[str, Any]:
    """Facts about an adapter on the hub: those of its entry if it was downloaded, else those of the index."""
    if folder := cached_entry(remote, row):
        return _facts(read_entry(folder))
    return row._asdict() | {"fetched": "not yet; it is downloaded when it is first loaded"}


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, default=str)  # TOML can contain dates


def _flat(facts: dict[str, Any], prefix: str = ""):
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
