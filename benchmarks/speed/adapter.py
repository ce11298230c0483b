"""How fast is an adapter? Times one warm call of `adapt` and of the same map in NumPy, taking turns.

python -m benchmarks.speed.adapter
"""

import statistics
import time

import jax
import numpy as np

from benchmarks import readme
from benchmarks.machine import write_json
from ea_jax import load

ROWS = (1, 32, 1024, 16384)


def seconds(call) -> float:
    """Return the wall time of one call, including its work on the device."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def main(runs: int = 50) -> None:
    """Time both at each batch size, taking turns, so that slow changes of the machine affect all alike."""
    adapt = load("minilm", "oai-3-small")
    kernel, bias = (np.asarray(adapt.params["out"][name]) for name in ("kernel", "bias"))

    def in_numpy(x: np.ndarray) -> np.ndarray:
        y = x @ kernel + bias
        return y / np.linalg.norm(y, axis=1, keepdims=True)

    figures = {}
    for rows in ROWS:
        x = np.random.default_rng(0).normal(size=(rows, 384)).astype(np.float32)
        on_device = jax.device_put(x)
        calls = {"ea_jax": lambda x=on_device: adapt(adapt.params, x), "numpy": lambda x=x: in_numpy(x)}
        times = {name: [] for name in calls}
        for _ in range(runs + 3):
            for name, call in calls.items():
                times[name].append(seconds(call))
        figures[rows] = {name: statistics.median(times[name][3:]) for name in times}
    print("| vectors | ea_jax, microseconds | NumPy | vectors a second | ratio to NumPy |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for rows, medians in figures.items():
        ours, theirs = medians["ea_jax"], medians["numpy"]
        print(f"| {rows:,} | {ours * 1e6:,.0f} | {theirs * 1e6:,.0f} | {rows / ours:,.0f} | {ours / theirs:.2f} |")
    write_json(__file__, {"seconds": figures})
    readme.update("adapter")


if __name__ == "__main__":
    main()
