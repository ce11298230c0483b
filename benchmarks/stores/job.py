"""Map from store to store in a process that may be killed: `-m benchmarks.stores.job SOURCE TARGET MODEL MODEL`.

It prints "ready" when all is loaded and compiled, and figures at the end.
"""

import json
import sys

import numpy as np


def main(source_url: str, target_url: str, source: str, target: str) -> None:
    """Load, say so, map, and print figures."""
    from ea_jax.cli.runtime import start_jax

    start_jax()
    from ea_jax.batch import map_array
    from ea_jax.integrations.stores import parse_store_url
    from ea_jax.integrations.stores.opening import client_module
    from ea_jax.loading import load_adapter
    from ea_jax.registry.lookup import find_entry
    from ea_jax.workflows.store_jobs import map_between_stores

    entry = find_entry(source, target)
    unit = np.eye(1000, entry.d_in, dtype=np.float32) + (np.arange(1000) >= entry.d_in)[:, None] / entry.d_in**0.5
    map_array(load_adapter(entry), np.asarray(unit / np.linalg.norm(unit, axis=1, keepdims=True), np.float32))
    for url in (source_url, target_url):
        client_module(parse_store_url(url).engine)
    print("ready", flush=True)
    report = map_between_stores(source_url, target_url, entry).report
    print(json.dumps(report._asdict()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
