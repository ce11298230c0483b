"""Routes between spaces through one adapter or two, with the recall that was measured on each. Free of JAX."""

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
from ea_jax.registry.lookup import SMALL, find_entry, list_entries
from ea_jax.registry.remotes import fetch_entry, find_listing
from ea_jax.registry.spaces import find_space, list_spaces

FILE = "paths.toml"
LARGE = "large"
MOST_HOPS = 2
DIGITS = 16

Root = str | os.PathLike[str] | None
Pair = dict[str, Entry | Listing]  # adapters between two spaces, by flavor


@dataclass(frozen=True)
class Route:
    """One way from a space to another.

    Attributes:
        spaces: Aliases of the spaces on the way, both ends included.
        flavor: What `load` is given to go this way; None for each pair's default.
        recall: By test set, the share of `query` vectors whose native top hit is among the first ten; empty where none
            was measured. Larger is better.
        direct: The same of the direct adapter; None for one hop, and where there is no direct adapter.
    """

    spaces: tuple[str, ...]
    flavor: str | None
    recall: Mapping[str, float]
    direct: Mapping[str, float] | None = None

    @property
    def hops(self) -> int:
        """How many adapters follow each other."""
        return len(self.spaces) - 1

    @property
    def cost(self) -> dict[str, float]:
        """By test set, recall less that of the direct adapter: negative where the detour is worse."""
        direct = self.direct or {}
        return {test: round(r - direct[test], 4) for test, r in self.recall.items() if test in direct}


@dataclass(frozen=True)
class MeasuredRoute:
    """A table of `paths.toml`.

    Attributes:
        spaces: As in `Route`.
        params: Digest of each adapter on the way: other adapters are not what was measured.
        recall: As in `Route`.
        flavor: As in `Route`; empty for each pair's default.
    """

    spaces: tuple[str, ...]
    params: tuple[str, ...]
    recall: Mapping[str, float]
    flavor: str = ""


def list_routes(
    source: str | None = None,
    target: str | None = None,
    hops: int = MOST_HOPS,
    root: Root = None,
    far: Sequence[Listing] = (),
) -> list[Route]:
    """Every route of at most so many hops, two at the most; by its ends, then the shortest and the best first.

    One hop is listed in each flavor, two in one: `large` where it is there, else `small`, else one that both have.
    Figures of one hop are those of its entry, figures of two those of `paths.toml`.

    Args:
        source: Where to start, by id or alias; anywhere if None.
        target: Where to end, likewise.
        hops: 1 or 2.
        root: A registry folder; $EA_JAX_REGISTRY and the bundled one if None.
        far: Adapters of registries on the hub, of which no figures are known here; those on this machine hide them.

    Raises:
        UnknownName: A space is not there.
        BadEntry: A file of the registries is not what it should be.
    """
    start, end = (find_space(name, root).id if name else None for name in (source, target))
    names = {space.id: space.alias for space in list_spaces(root)}
    pairs = _pairs(root, far)
    found = [_direct(entry, names) for pair in pairs.values() for entry in pair.values()]
    if hops > 1:
        found += _detours(pairs, _measured(root), names)
    wanted = [names.get(space, space) if space else None for space in (start, end)]
    kept = [r for r in found if all(w in (None, s) for w, s in zip(wanted, (r.spaces[0], r.spaces[-1]), strict=True))]
    return sorted(kept, key=_order)


def resolve_route(spaces: Sequence[str], flavor: str | None = None, root: Root = None) -> list[Entry]:
    """The adapters from each space to the next: of the flavor where the pair has it, else each pair's default.

    Raises:
        UnknownName: A space is not there, no adapter goes from one to the next, or none has the flavor. Where there are
            two spaces and no adapter between them, the message names the best route of two hops.
    """
    legs = list(pairwise(find_space(name, root).id for name in spaces))
    pairs = _pairs(root) if len(legs) > 1 else {}
    far = len(legs) > 1 and root is None and flavor is not None
    has = [flavor in pairs.get(leg, ()) or bool(far and find_listing(*leg, flavor)) for leg in legs]
    try:
        asked = [flavor if here or not any(has) else None for here in has]
        return [_leg(*leg, which, root) for leg, which in zip(legs, asked, strict=True)]
    except UnknownName as error:
        raise UnknownName(f"{error}{_advice(*legs[0], root) if len(legs) == 1 else ''}") from None


def params_digest(entry: Entry | Listing) -> str:
    """What `paths.toml` knows the parameters of an adapter by; empty where they are still on the hub."""
    return entry.params["sha256"][:DIGITS] if isinstance(entry, Entry) else ""


def _pairs(root: Root, far: Sequence[Listing] = ()) -> dict[tuple[str, str], Pair]:
    pairs: dict[tuple[str, str], Pair] = {}
    for entry in [*list_entries(root), *far]:
        pairs.setdefault((entry.source, entry.target), {}).setdefault(entry.flavor, entry)
    return pairs


def _leg(source: str, target: str, flavor: str | None, root: Root) -> Entry:
    """The adapter of a registry here, else of one on the hub, from where it is fetched."""
    try:
        return find_entry(source, target, flavor, root)
    except UnknownName:
        remote = find_listing(source, target, flavor) if root is None else None
        if remote is None:
            raise
        return fetch_entry(*remote)


def _measured(root: Root) -> dict[tuple[str, ...], MeasuredRoute]:
    """Recall of routes by the digests of their adapters."""
    files = [folder / FILE for folder in registry_folders(root)]
    tables = [(file, facts) for file in files if file.exists() for facts in read_toml(file).get("path", [])]
    found = [parse_record(MeasuredRoute, facts, file) for file, facts in tables]
    return {measured.params: measured for measured in reversed(found)}


def _direct(entry: Entry | Listing, names: Mapping[str, str]) -> Route:
    ends = (names.get(entry.source, entry.source), names.get(entry.target, entry.target))
    return Route(ends, entry.flavor, _recall(entry))


def _recall(entry: Entry | Listing) -> dict[str, float]:
    if isinstance(entry, Listing):
        return {}
    told = {test: rows.get("query", {}).get("recall@10") for test, rows in entry.metrics.items()}
    return {test: recall for test, recall in told.items() if recall is not None}


def _detours(
    pairs: Mapping[tuple[str, str], Pair], measured: Mapping[tuple[str, ...], MeasuredRoute], names: Mapping[str, str]
) -> list[Route]:
    """Two hops in one flavor for every three spaces."""
    found = []
    for (start, via), first in pairs.items():
        for (same, end), second in pairs.items():
            chosen = _flavor(first, second) if same == via and end != start else None
            if chosen is None:
                continue
            flavor, entries = chosen
            known = measured.get(tuple(map(params_digest, entries)))
            direct = _pick(pairs.get((start, end), {}), flavor)
            spaces = tuple(names.get(space, space) for space in (start, via, end))
            found.append(Route(spaces, flavor, known.recall if known else {}, _recall(direct) if direct else None))
    return found


def _flavor(first: Pair, second: Pair) -> tuple[str | None, list[Entry | Listing]] | None:
    """The flavor in which two hops are listed, and the adapters that `load` would take for it."""
    for flavor in (LARGE, SMALL, *sorted(first.keys() & second.keys()), None):
        hops = [entry for pair in (first, second) if (entry := _pick(pair, flavor))]
        if len(hops) == 2 and (flavor is None or flavor in (hops[0].flavor, hops[1].flavor)):
            return flavor, hops
    return None


def _pick(pair: Pair, flavor: str | None) -> Entry | Listing | None:
    """The adapter of a flavor, or the pair's default: the small one, or the only one."""
    only = next(iter(pair.values())) if len(pair) == 1 else None
    return pair.get(flavor or "") or pair.get(SMALL) or only


def _order(route: Route) -> tuple[object, ...]:
    return route.spaces[0], route.spaces[-1], route.hops, -_mean(route), route.spaces, route.flavor or ""


def _mean(route: Route) -> float:
    return fmean(route.recall.values()) if route.recall else -1.0


def _advice(source: str, target: str, root: Root) -> str:
    """What to do where no adapter goes from a space to another: the best route of two hops, if it was measured."""
    found = list_routes(source, target, root=root)
    if not found or found[0].hops == 1:
        return ""
    best = found[0]
    start, via, end = best.spaces
    if not best.recall:
        return f" `ea-jax paths {start} {end}` lists routes of two hops, but none of them was measured."
    told = ", ".join(f"{recall:.3f} {test}" for test, recall in best.recall.items())
    flavor = f', flavor="{best.flavor}"' if best.flavor else ""
    return f' Two hops do it with R@10 of {told}: load("{start}", "{end}", via="{via}"{flavor}).'
