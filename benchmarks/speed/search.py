"""How long does exact search take, and how much memory? 10,000 queries, 200,000 rows, 1,536 dimensions.

    python -m benchmarks.speed.search

Prints the figures and writes search.json.
"""

import resource
import time

import numpy as np

from benchmarks import readme
from benchmarks.machine import write_json
from ea_jax.retrieval.search import search

QUERIES, ROWS, WIDTH, K = 10_000, 200_000, 1536, 10


def main() -> None:
    """Time one warm search, and read the peak memory of the process."""
    rng = np.random.default_rng(0)
    queries, corpus = (rng.standard_normal((n, WIDTH), np.float32) for n in (QUERIES, ROWS))
    search(queries[:4096], corpus[: 1 << 14], K)  # compiles
    start = time.perf_counter()
    search(queries, corpus, K)
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    figures = {
        "queries": QUERIES,
        "corpus": ROWS,
        "width": WIDTH,
        "k": K,
        "seconds": seconds,
        "most_memory_gib": memory,
    }
    print(figures)
    write_json(__file__, {"figures": {key: float(f"{value:.4g}") for key, value in figures.items()}})
    readme.update("search")


if __name__ == "__main__":
    main()
