"""Map from store to store in a process that may be killed: `-m benchmarks.stores.job SOURCE TARGET MODEL MODEL FILE`.

It prints a line with the number of rows when it starts and after each batch, and figures at the end. Everything is
loaded and compiled before. The file keeps the cursor.
"""

import json
import sys
from pathlib import Path

import numpy as np


def main(source_url: str, target_url: str, source_model: str, target_model: str, file: str) -> None:
    """Load, map, and print figures."""
    from ea_jax.cli.runtime import start_jax

    start_jax()
    from ea_jax.batch import map_array
    from ea_jax.integrations.stores import open_store
    from ea_jax.loading import load
    from ea_jax.workflows.map_store import map_store
    from ea_jax.workflows.store_jobs import open_target

    adapt = load(source_model, target_model)
    unit = np.random.default_rng(0).normal(size=(1000, adapt.spec.d_in))
    map_array(adapt, np.asarray(unit / np.linalg.norm(unit, axis=1, keepdims=True), np.float32))
    with (
        open_store(source_url) as source,
        open_target(source, source.describe(), target_url, adapt.spec.d_out) as target,
    ):
        report = map_store(
            source, target, lambda x: map_array(adapt, x), Path(file), advance=lambda n: print(n, flush=True)
        )
    print(json.dumps({**report._asdict(), "peak_mib": peak_mib()}), flush=True)


def peak_mib() -> int:
    """Peak memory of this process. `ru_maxrss` would count that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
