"""Measure the recall of every two-hop route of the bundled registry, beside the direct adapter.

    python -m benchmarks.retrieval.routes ../shared/data build

A route is measured on the test sets of the direct adapter between its ends (benchmarks/data/tasks.py). Pairs that share
a set of texts hold out the same rows. Routes whose ends share no texts are skipped. The results go to
results/routes.json and to registry/paths.toml, which `ea-jax paths` reads.
"""

import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import tomli_w

from benchmarks import readme
from benchmarks.data.tasks import TASKS, shipped
from benchmarks.machine import write_json
from ea_jax import load
from ea_jax.registry.locations import BUNDLED
from ea_jax.registry.routes import FILE, Route, list_routes, params_digest, resolve_route
from ea_jax.retrieval.held_out import HeldOut, held_out_metrics

SAME = 0.005
Figures = dict[str, dict[str, dict[str, float]]]


@lru_cache(maxsize=1)
def test_sets(source: str, target: str, data: Path, build: Path) -> dict[str, HeldOut]:
    """Test sets of a pair by name; empty if no text has both vectors, or the shipped adapter is fitted on all texts."""
    task = next((task for task in TASKS if task.name == f"{source}--{target}"), None)
    return shipped(task, data, build).tests if task else {}


def measure(route: Route, test: HeldOut, root: Path) -> dict[str, dict[str, float]]:
    """Query metrics of the route, and of the direct adapter if there is one."""
    source, *via, target = route.spaces
    chain = load(source, target, via=via, flavor=route.flavor, purpose="query", root=root)
    maps = {"route": chain}
    if route.direct is not None:
        flavors = {r.flavor for r in list_routes(source, target, 1, root)}
        flavor = route.flavor if route.flavor in flavors else None
        maps["direct"] = load(source, target, flavor=flavor, purpose="query", root=root)
    return held_out_metrics(test, {name: np.asarray(adapt(adapt.params, test.x)) for name, adapt in maps.items()})


def check(route: Route, figures: Figures) -> None:
    """Stop if the direct adapter's recall differs from its entry's: then the test sets differ too."""
    for test, rows in figures.items():
        recorded = (route.direct or {}).get(test)
        if recorded is not None and abs(rows["direct"]["recall@10"] - recorded) > SAME:
            both = f"R@10 {rows['direct']['recall@10']} here, {recorded} in its entry"
            raise SystemExit(f"{route_name(route)}, {test}: the direct adapter has {both}. The data differ.")


def route_name(route: Route) -> str:
    """Spaces and flavor of a route, for display."""
    return f"{' -> '.join(route.spaces)} ({route.flavor or 'default'})"


def path_record(route: Route, figures: Figures, root: Path) -> dict[str, object]:
    """The record of a route in paths.toml."""
    flavor = {"flavor": route.flavor} if route.flavor else {}
    params = [params_digest(entry) for entry in resolve_route(route.spaces, route.flavor, root)]
    recall = {test: round(rows["route"]["recall@10"], 4) for test, rows in figures.items()}
    return {"spaces": list(route.spaces), **flavor, "params": params, "recall": recall}


def table_row(route: Route, figures: Figures) -> str:
    """R@10 of the route and of the direct adapter on each test set, as a table row."""
    cells = (
        " / ".join(f"{rows[name]['recall@10']:.3f}" for rows in figures.values() if name in rows)
        for name in ("route", "direct")
    )
    return f"| {' | '.join([route_name(route), *cells])} |"


def main(data: Path, build: Path, root: Path = BUNDLED) -> None:
    """Measure each route that has a test set, and write both files."""
    paths, measured = [], {}
    print("| R@10 in domain / across | route | direct adapter |\n| --- | ---: | ---: |")
    for route in (route for route in list_routes(root=root) if route.hops > 1):
        sets = test_sets(route.spaces[0], route.spaces[-1], data, build)
        if not sets:
            continue
        figures = {name: measure(route, test, root) for name, test in sets.items()}
        check(route, figures)
        paths.append(path_record(route, figures, root))
        measured[route_name(route)] = figures
        print(table_row(route, figures), flush=True)
    paths.sort(key=lambda path: (path["spaces"], path.get("flavor", "")))
    (root / FILE).write_text(tomli_w.dumps({"path": paths}), encoding="utf-8")
    write_json(__file__, {"figures": dict(sorted(measured.items()))})
    readme.update("routes")


if __name__ == "__main__":
    from ea_jax.cli.runtime import start_jax

    start_jax()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
