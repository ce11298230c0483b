"""Routes between spaces over one or two adapters, with their measured recall. Does not import JAX."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from ea_jax.errors import UnknownName
from ea_jax.io.toml import parse_record, read_toml
from ea_jax.registry.entry import Entry
from ea_jax.registry.index import Listing
from ea_jax.registry.locations import registry_folders
from ea_jax.registry.lookup import SMALL, find_entry, list_entries, of_first_registry
from ea_jax.registry.remotes import fetch_entry, find_listing
from ea_jax.registry.spaces import find_space, list_spaces

FILE = "paths.toml"
LARGE = "large"
MAX_HOPS = 2
DIGEST_DIGITS = 16

Root = str | os.PathLike[str] | None
Pair = dict[str, Entry | Listing]  # adapters between two spaces, by flavor


@dataclass(frozen=True)
class Route:
    """A route from one space to another.

    Attributes:
        spaces: Aliases of the spaces, including both ends.
        flavor: Flavor with which `load` takes this route; None for the default of each pair.
        recall: By test set, the share of `query` vectors whose true neighbor is among the first ten. Larger is better.
            Empty if it was not measured.
        direct: The same for the direct adapter; None for one hop, or without a direct adapter.
    """

    spaces: tuple[str, ...]
    flavor: str | None
    recall: Mapping[str, float]
    direct: Mapping[str, float] | None = None

    @property
    def hops(self) -> int:
        """Number of adapters."""
        return len(self.spaces) - 1

    @property
    def cost(self) -> dict[str, float]:
        """By test set, recall minus that of the direct adapter: negative where the route is worse."""
        direct = self.direct or {}
        return {test: round(r - direct[test], 4) for test, r in self.recall.items() if test in direct}


@dataclass(frozen=True)
class MeasuredRoute:
    """A table of `paths.toml`.

    Attributes:
        spaces: As in `Route`.
        params: Digest of each adapter; the recall holds for these adapters only.
        recall: As in `Route`.
        flavor: As in `Route`; empty for the default of each pair.
    """

    spaces: tuple[str, ...]
    params: tuple[str, ...]
    recall: Mapping[str, float]
    flavor: str = ""


def list_routes(
    source: str | None = None,
    target: str | None = None,
    hops: int = MAX_HOPS,
    root: Root = None,
    remote: Sequence[Listing] = (),
) -> list[Route]:
    """List routes, sorted by their ends, then the shortest and the best first.

    A single hop is listed in every flavor, two hops in one: `large` if it exists, else `small`, else one that both
    adapters have. The recall of a single hop comes from its entry, that of two hops from `paths.toml`.

    Args:
        source: Space at the start, by id or alias. If None, any.
        target: Space at the end, by id or alias. If None, any.
        hops: Largest number of hops, 1 or 2.
        root: Registry folder. If None, the folders of $EA_JAX_REGISTRY, your own registry and the bundled one.
        remote: Adapters of registries on the hub, whose recall is unknown. Local adapters take precedence.

    Raises:
        UnknownName: A space is unknown.
        BadEntry: A file of the registries is not valid.
    """
    start, end = (find_space(name, root).id if name else None for name in (source, target))
    names = {space.id: space.alias for space in list_spaces(root)}
    pairs = _group_pairs(root, remote)
    candidates = [_one_hop(entry, names) for pair in pairs.values() for entry in pair.values()]
    if hops > 1:
        candidates += _two_hops(pairs, _read_measured(root), names)
    start, end = (names.get(space, space) if space else None for space in (start, end))
    matches = [r for r in candidates if start in (None, r.spaces[0]) and end in (None, r.spaces[-1])]
    return sorted(matches, key=_sort_key)


def resolve_route(spaces: Sequence[str], flavor: str | None = None, root: Root = None) -> list[Entry]:
    """Find the adapter from each space to the next, and download those that are on the hub.

    Args:
        spaces: Two or more spaces, by id or alias.
        flavor: Flavor of the adapters. Pairs that lack it use their default (`find_entry`), if another pair has it.
        root: Registry folder. If None, all registries, including those on the hub.

    Raises:
        UnknownName: A space is unknown, a pair has no adapter, or no pair has the flavor. For two spaces, the message
            suggests the best route of two hops.
    """
    legs = list(pairwise(find_space(name, root).id for name in spaces))
    pairs = _group_pairs(root) if len(legs) > 1 else {}
    search_hub = len(legs) > 1 and root is None and flavor is not None
    has_flavor = [flavor in pairs.get(leg, ()) or bool(search_hub and find_listing(*leg, flavor)) for leg in legs]
    flavors = [flavor if has or not any(has_flavor) else None for has in has_flavor]
    try:
        return [_resolve_leg(*leg, flavor, root) for leg, flavor in zip(legs, flavors, strict=True)]
    except UnknownName as error:
        raise UnknownName(f"{error}{_suggest_route(*legs[0], root) if len(legs) == 1 else ''}") from None


def params_digest(entry: Entry | Listing) -> str:
    """Digest by which `paths.toml` identifies an adapter; empty for adapters on the hub."""
    return entry.params["sha256"][:DIGEST_DIGITS] if isinstance(entry, Entry) else ""


def _group_pairs(root: Root, remote: Sequence[Listing] = ()) -> dict[tuple[str, str], Pair]:
    """Group all adapters by their source and target."""
    pairs: dict[tuple[str, str], Pair] = {}
    for entry in [*list_entries(root), *remote]:
        pairs.setdefault((entry.source, entry.target), {}).setdefault(entry.flavor, entry)
    return pairs


def _resolve_leg(source: str, target: str, flavor: str | None, root: Root) -> Entry:
    """Find an adapter on this machine, else on the hub, and download it."""
    try:
        return find_entry(source, target, flavor, root)
    except UnknownName:
        match = find_listing(source, target, flavor) if root is None else None
        if match is None:
            raise
        return fetch_entry(*match)


def _read_measured(root: Root) -> dict[tuple[str, ...], MeasuredRoute]:
    """Read the measured routes, by the digests of their adapters."""
    files = [folder / FILE for folder in registry_folders(root)]
    tables = [(file, facts) for file in files if file.exists() for facts in read_toml(file).get("path", [])]
    measured = [parse_record(MeasuredRoute, facts, file) for file, facts in tables]
    return {route.params: route for route in reversed(measured)}


def _one_hop(entry: Entry | Listing, names: Mapping[str, str]) -> Route:
    ends = (names.get(entry.source, entry.source), names.get(entry.target, entry.target))
    return Route(ends, entry.flavor, _recall(entry))


def _recall(entry: Entry | Listing) -> dict[str, float]:
    if isinstance(entry, Listing):
        return {}
    recall = {test: rows.get("query", {}).get("recall@10") for test, rows in entry.metrics.items()}
    return {test: value for test, value in recall.items() if value is not None}


def _two_hops(
    pairs: Mapping[tuple[str, str], Pair], measured: Mapping[tuple[str, ...], MeasuredRoute], names: Mapping[str, str]
) -> list[Route]:
    """List routes of two hops, one for every three spaces."""
    routes = []
    for (start, via), first in pairs.items():
        for (same, end), second in pairs.items():
            choice = _choose_flavor(first, second) if same == via and end != start else None
            if choice is None:
                continue
            flavor, entries = choice
            known = measured.get(tuple(map(params_digest, entries)))
            direct = _choose_adapter(pairs.get((start, end), {}), flavor)
            spaces = tuple(names.get(space, space) for space in (start, via, end))
            routes.append(Route(spaces, flavor, known.recall if known else {}, _recall(direct) if direct else None))
    return routes


def _choose_flavor(first: Pair, second: Pair) -> tuple[str | None, list[Entry | Listing]] | None:
    """Choose the flavor in which two hops are listed, and the adapters that `load` takes for it."""
    for flavor in (LARGE, SMALL, *sorted(first.keys() & second.keys()), None):
        hops = [entry for pair in (first, second) if (entry := _choose_adapter(pair, flavor))]
        if len(hops) == 2 and (flavor is None or flavor in (hops[0].flavor, hops[1].flavor)):
            return flavor, hops
    return None


def _choose_adapter(pair: Pair, flavor: str | None) -> Entry | Listing | None:
    """The adapter with a flavor, or the default of the pair, as `find_entry` chooses it."""
    if flavor in pair:
        return pair[flavor]
    local = {name: entry.path for name, entry in pair.items() if isinstance(entry, Entry)}
    default = of_first_registry(local) if local else pair
    only = next(iter(default)) if len(default) == 1 else ""
    return pair.get(SMALL if SMALL in default else only)


def _sort_key(route: Route) -> tuple[object, ...]:
    return route.spaces[0], route.spaces[-1], route.hops, -_mean_recall(route), route.spaces, route.flavor or ""


def _mean_recall(route: Route) -> float:
    return fmean(route.recall.values()) if route.recall else -1.0


def _suggest_route(source: str, target: str, root: Root) -> str:
    """Suggest the best route of two hops, for a pair without an adapter."""
    routes = list_routes(source, target, root=root)
    if not routes or routes[0].hops == 1:
        return ""
    best = routes[0]
    start, via, end = best.spaces
    if not best.recall:
        return f" `ea-jax paths {start} {end}` lists routes of two hops, none of which was measured."
    recall = ", ".join(f"{value:.3f} {test}" for test, value in best.recall.items())
    flavor = f', flavor="{best.flavor}"' if best.flavor else ""
    return f' Two hops reach an R@10 of {recall}: load("{start}", "{end}", via="{via}"{flavor}).'
