"""How fast are the bundled adapters beside the network of the seed project, in its own framework?

    python -m benchmarks.speed

The seed's network is the 229.6 M-parameter one (width 1536, depth 8) in torch, in evaluation mode, with random weights:
its time does not depend on them. Every round takes each once, in turn, so that the machine's drift is shared.
"""

import statistics
import time

import jax
import numpy as np
import torch

from benchmarks.machine import write_json, write_readme
from benchmarks.peers import ResMLP
from ea_jax import load
from ea_jax.arrays import leaf_paths

WIDTH, DEPTH = 1536, 8
ROWS = {1: 15, 1024: 5}


def calls(rows: int):
    """A call a peer on this many rows, and its parameters."""
    x = np.random.default_rng(0).normal(size=(rows, 384)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    network, given = ResMLP(384, 1536, WIDTH, DEPTH).eval(), torch.from_numpy(x)

    def seed():
        with torch.inference_mode():
            return network(given)

    yield "seed's network", seed, sum(p.numel() for p in network.parameters())
    for flavor in ("small", "large"):
        adapt = load("minilm", "oai-3-small", flavor=flavor, purpose="query")
        numbers = sum(leaf.size for leaf in leaf_paths(adapt.params).values())
        yield flavor, lambda adapt=adapt: jax.block_until_ready(adapt(adapt.params, x)), numbers


def main() -> None:
    """Time all at each batch size."""
    figures = {}
    for rows, rounds in ROWS.items():
        peers = {name: (call, numbers) for name, call, numbers in calls(rows)}
        taken = {name: [] for name in peers}
        for call, _ in peers.values():
            call()
        for _ in range(rounds):
            for name, (call, _) in peers.items():
                repeats = 1 if name == "seed's network" else 10
                start = time.perf_counter()
                for _ in range(repeats):
                    call()
                taken[name].append((time.perf_counter() - start) / repeats)
        slowest = statistics.median(taken["seed's network"])
        for name, times in taken.items():
            row = figures.setdefault(name, {"parameters": peers[name][1]})
            row[str(rows)] = {
                "microseconds": round(1e6 * statistics.median(times) / rows, 2),
                "rows_a_second": round(rows / statistics.median(times)),
                "times_faster": round(slowest / statistics.median(times), 1),
            }
    text = table(figures)
    print(text)
    write_json(__file__, {"figures": figures})
    write_readme("speed", text)


def table(figures: dict) -> str:
    """One row a peer."""
    head = "| | parameters | one vector | 1,024 vectors | beside the seed's |\n| --- | ---: | ---: | ---: | ---: |"
    lines = [
        f"| {name} | {row['parameters'] / 1e6:.1f} M | {row['1']['microseconds'] / 1000:.2f} ms | "
        f"{row['1024']['rows_a_second']:,}/s | {row['1024']['times_faster']:.1f} x |"
        for name, row in figures.items()
    ]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    main()
