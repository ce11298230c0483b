"""How long does a kernel fit of 50,000 pairs, 384 to 1536 wide, take with 4,096 landmarks, and in how much memory?

    python -m benchmarks.kernel_fit

Made-up pairs, since time does not depend on what they hold: the sums, the weights, the mixing and rounding, and the
left-out outputs of a sample. Peak memory is the whole process's, the pairs (0.4 GB) included.
"""

import resource
import sys
import time

import numpy as np

from benchmarks.machine import write_json

PAIRS, D_IN, D_OUT, LANDMARKS, RANK = 50_000, 384, 1536, 4096, 512


def unit_rows(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Random rows of length one."""
    rows = rng.standard_normal((n, d), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main() -> None:
    """One fit, timed whole."""
    from ea_jax.fitting.bodies import kernel_body
    from ea_jax.fitting.finish import RESIDUALS
    from ea_jax.fitting.machines import Machine
    from ea_jax.fitting.search import folds_of
    from ea_jax.fitting.splits import FOLDS, kin_of
    from ea_jax.solve import moments

    rng = np.random.default_rng(0)
    x = unit_rows(rng, PAIRS, D_IN)
    y = unit_rows(rng, PAIRS, D_OUT)
    y[:, :D_IN] += 2 * x
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    fold = np.arange(PAIRS) % FOLDS
    began = time.perf_counter()
    parts = [moments(x, y, np.flatnonzero(fold == k)) for k in range(FOLDS)]
    folds = folds_of(x, y, fold, parts, {})
    kin = kin_of(x, y, rng.permutation(PAIRS)[:RESIDUALS])
    body = kernel_body(folds, Machine(0.6, 0.03), kin, LANDMARKS, RANK, 6, seed=0)
    assert body.without is not None
    body.without(kin)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    figures = {
        "pairs": PAIRS,
        "widths": [D_IN, D_OUT],
        "landmarks": LANDMARKS,
        "rank": RANK,
        "seconds": round(seconds, 1),
        "peak_gb": round(peak / 1e9, 2),
    }
    print(figures)
    write_json(__file__, figures)


if __name__ == "__main__":
    main()
