"""How fast are the bundled adapters to text-embedding-3-small, compared with the network of embedding_adapters?

    python -m benchmarks.speed.resmlp

That network has 229.6 M parameters (width 1536, depth 8). It runs in evaluation mode with random weights, which do not
change its speed. The peers take turns, so that slow changes of the machine affect all alike.
"""

import statistics
import time

import jax
import numpy as np
import torch

from benchmarks import readme
from benchmarks.fit.peers import ResMLP
from benchmarks.machine import write_json
from ea_jax import load
from ea_jax.typing import leaf_paths

WIDTH, DEPTH = 1536, 8
ROWS = {1: 15, 1024: 5}
TARGET = "oai-3-small"
SOURCES = {"minilm": 384, "minilm-plus": 1408}  # widths
NETWORK = "ResMLP (embedding_adapters)"


def inputs(rows: int, width: int) -> np.ndarray:
    """Return random unit vectors."""
    x = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def calls(rows: int):
    """Yield the name, a call on this many rows and the number of parameters of each peer."""
    network, rows_in = ResMLP(384, 1536, WIDTH, DEPTH).eval(), torch.from_numpy(inputs(rows, 384))

    def run_network():
        with torch.inference_mode():
            return network(rows_in)

    yield NETWORK, run_network, sum(p.numel() for p in network.parameters())
    for source, width in SOURCES.items():
        adapt, x = load(source, TARGET, purpose="query"), inputs(rows, width)
        numbers = sum(leaf.size for leaf in leaf_paths(adapt.params).values())
        yield f"from `{source}`", lambda adapt=adapt, x=x: jax.block_until_ready(adapt(adapt.params, x)), numbers


def main() -> None:
    """Time all at each batch size."""
    figures = {}
    for rows, rounds in ROWS.items():
        peers = {name: (call, numbers) for name, call, numbers in calls(rows)}
        seconds = {name: [] for name in peers}
        for call, _ in peers.values():
            call()
        for _ in range(rounds):
            for name, (call, _) in peers.items():
                repeats = 1 if name == NETWORK else 10
                start = time.perf_counter()
                for _ in range(repeats):
                    call()
                seconds[name].append((time.perf_counter() - start) / repeats)
        slowest = statistics.median(seconds[NETWORK])
        for name, times in seconds.items():
            row = figures.setdefault(name, {"parameters": peers[name][1]})
            row[str(rows)] = {
                "microseconds": round(1e6 * statistics.median(times) / rows, 2),
                "rows_a_second": round(rows / statistics.median(times)),
                "times_faster": round(slowest / statistics.median(times), 1),
            }
    text = table(figures)
    print(text)
    write_json(__file__, {"figures": figures})
    readme.update("seed network")


def table(figures: dict) -> str:
    """Format one row for each peer."""
    header = "| | parameters | one vector | 1,024 vectors | speed-up |\n| --- | ---: | ---: | ---: | ---: |"
    lines = [
        f"| {name} | {row['parameters'] / 1e6:.1f} M | {row['1']['microseconds'] / 1000:.2f} ms | "
        f"{row['1024']['rows_a_second']:,}/s | {row['1024']['times_faster']:.1f} x |"
        for name, row in figures.items()
    ]
    return "\n".join([header, *lines])


if __name__ == "__main__":
    main()
