"""How fast is a bundled adapter on an accelerator, compared with a copy and a matrix product?

    python -m benchmarks.speed.accelerator

Vectors are on the device, except for `from_and_to_numpy`, which copies them from NumPy and back. The same run measures
the copy of an array (bytes read and written) and a bfloat16 product of 8192 x 8192 matrices.
"""

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import readme
from benchmarks.machine import write_json
from ea_jax import load
from ea_jax.adapters.spec import PURPOSES

ROWS, TURNS, CALLS = 65_536, 9, 5
SIDE, COPIED = 8192, 1 << 30


def seconds(call: Callable[[], Any]) -> float:
    """Return the median time of a warm call, over several calls in a row."""
    times = []
    for _ in range(TURNS + 2):
        start = time.perf_counter()
        jax.block_until_ready([call() for _ in range(CALLS)][-1])
        times.append((time.perf_counter() - start) / CALLS)
    return statistics.median(times[2:])


def main() -> None:
    """Measure, print, and write accelerator.json."""
    key = jax.random.key(0)
    x = jax.random.normal(key, (ROWS, 384))
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    rows = np.asarray(x)
    a = jax.random.normal(key, (SIDE, SIDE), jnp.bfloat16)
    block = jnp.zeros(COPIED // 4, jnp.float32)
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda v: v + 1)
    figures: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "bfloat16_tflops": 2 * SIDE**3 / seconds(lambda: product(a, a)) / 1e12,
        "copy_gb_a_second": 2 * COPIED / seconds(lambda: copy(block)) / 1e9,
        "host_to_device_gb_a_second": rows.nbytes / seconds(lambda: jax.device_put(rows)) / 1e9,
    }
    for purpose in PURPOSES:
        adapt = load("minilm", "oai-3-small", purpose=purpose)
        params = jax.device_put(adapt.params)
        on_device = seconds(lambda adapt=adapt, params=params: adapt(params, x))
        with_copies = seconds(lambda adapt=adapt, params=params: np.asarray(adapt(params, rows)))
        figures[purpose] = {
            "vectors_a_second": ROWS / on_device,
            "gb_a_second": (rows.nbytes + ROWS * 1536 * 4) / on_device / 1e9,
            "from_and_to_numpy_a_second": ROWS / with_copies,
        }
    print(json.dumps(figures, indent=1))
    write_json(__file__, {"figures": figures})
    readme.update("accelerator")


if __name__ == "__main__":
    main()
