"""How long does one query take? One vector through each bundled adapter, and one text to a vector with its confidence.

    pip install '.[bench]'
    python -m benchmarks.speed.latency

The floor of an adapter is the time to read its parameters once at the machine's bandwidth, which is measured in the
same run. sentence-transformers embeds the same text with MiniLM alone. Calls take turns; figures are medians.
"""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import readme
from benchmarks.machine import write_json
from ea_jax.encoders.locate import find_encoder_folder
from ea_jax.loading import load_adapters, load_quality_part, load_source_encoder, resolve_entry
from ea_jax.registry.entry import Entry
from ea_jax.registry.lookup import list_entries
from ea_jax.registry.spaces import find_space

TEXT = "Where can I get a hamburger?"
WORDS = (
    "where",
    "can",
    "i",
    "get",
    "a",
    "good",
    "hamburger",
    "near",
    "the",
    "old",
    "town",
    "hall",
    "on",
    "rainy",
    "day",
)
QUERIES = 1000
LONGEST = 100  # words of a query


def time_calls(calls: Mapping[str, Callable[[], Any]], runs: int = 200) -> dict[str, float]:
    """Time calls in turn. Returns the median milliseconds of each, after ten discarded rounds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs + 10):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: round(statistics.median(values[10:]), 3) for name, values in times.items()}


def bandwidth() -> float:
    """Bytes a second that one program reads from an array beyond the caches."""
    x = jnp.ones((128 << 20) // 4, jnp.float32)
    total = jax.jit(jnp.sum)
    return x.nbytes / (time_calls({"sum": lambda: total(x)}, 20)["sum"] / 1e3)


def one_vector(entry: Entry, bytes_a_second: float) -> dict[str, float]:
    """Milliseconds of one vector through an adapter, for both purposes, without and with confidence."""
    adapters = load_adapters(entry)
    store, query, quality = adapters["store"], adapters["query"], load_quality_part(entry, adapters["store"])
    x = np.random.default_rng(0).normal(size=(1, entry.d_in)).astype(np.float32)
    x /= np.linalg.norm(x)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(store.params))
    return {
        "megabytes": round(size / 1e6, 2),
        "floor": round(size / bytes_a_second * 1e3, 3),
        **time_calls(
            {
                "store": lambda: store(store.params, x),
                "store with confidence": lambda: quality.map_and_score(quality.params, store, x),
                "query": lambda: query(query.params, x),
                "query with confidence": lambda: quality.map_and_score(quality.params, query, x),
            }
        ),
    }


def one_text() -> dict[str, float]:
    """Milliseconds from one short text to a vector with its confidence, beside sentence-transformers."""
    from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports] (extra: bench)

    entry = resolve_entry("minilm-plus", "oai-3-small")
    encode, adapters = load_source_encoder(entry), load_adapters(entry)
    query, quality = adapters["query"], load_quality_part(entry, adapters["store"])
    model = SentenceTransformer(str(find_encoder_folder(find_space("minilm"))), device="cpu")
    figures: dict[str, list[float]] = {"sentence-transformers": [], "ea_jax": [], "ea_jax, encoder alone": []}
    for _ in range(4):  # in blocks, because the threads of torch keep a core busy for a while after a call
        figures["sentence-transformers"].append(time_calls({"": lambda: model.encode([TEXT])}, 40)[""])
        ours = {
            "ea_jax": lambda: quality.map_and_score(quality.params, query, encode([TEXT])),
            "ea_jax, encoder alone": lambda: encode([TEXT]),
        }
        for name, milliseconds in time_calls(ours, 40).items():
            figures[name].append(milliseconds)
    return {name: round(statistics.median(values), 3) for name, values in figures.items()}


def mixed_queries() -> dict[str, float]:
    """Milliseconds of single queries of mixed lengths after `warm`, in a random order."""
    entry = resolve_entry("minilm-plus", "oai-3-small")
    encode, adapters = load_source_encoder(entry), load_adapters(entry)
    query, quality = adapters["query"], load_quality_part(entry, adapters["store"])
    start = time.perf_counter()
    encode.warm(max_tokens=256)
    quality.map_and_score(quality.params, query, encode([TEXT]))
    warm = time.perf_counter() - start
    rng, times = random.Random(0), []
    for _ in range(QUERIES):
        text = " ".join(rng.choices(WORDS, k=round(LONGEST ** rng.random())))
        start = time.perf_counter()
        jax.block_until_ready(quality.map_and_score(quality.params, query, encode([text])))
        times.append((time.perf_counter() - start) * 1e3)
    cuts = np.percentile(times, [50, 99, 100])
    return {
        "warm seconds": round(warm, 2),
        **dict(zip(("median", "p99", "slowest"), cuts.round(3).tolist(), strict=True)),
    }


def table(measured: dict[str, Any]) -> str:
    """Format the figures as Markdown."""
    head = ("one vector, ms", "MB", "floor", "store", "with confidence", "query", "with confidence")
    rows = []
    for name, f in measured["adapters"].items():
        cells = [f"{f['megabytes']:.1f}", f"{f['floor']:.2f}"]
        for purpose in ("store", "query"):
            joint = f[f"{purpose} with confidence"]
            cells += [f"{f[purpose]:.2f}", f"{joint:.2f} ({joint / f[purpose]:.1f} x)"]
        rows.append((f"`{name}`", *cells))
    text, mixed = measured["text"], measured["mixed"]
    peer = text["sentence-transformers"]
    texts = [(name, f"{value:.1f}", f"{value / peer:.2f}") for name, value in text.items()]
    line = (
        f"{QUERIES:,} single queries of 1 to {LONGEST} words after `warm` ({mixed['warm seconds']:.1f} s): median "
        f"{mixed['median']:.1f} ms, p99 {mixed['p99']:.1f} ms, slowest {mixed['slowest']:.1f} ms "
        f"({mixed['slowest'] / mixed['median']:.1f} medians)."
    )
    return "\n\n".join(
        [
            readme.markdown_table(head, rows),
            f"Read bandwidth: {measured['gigabytes a second']:.1f} GB/s.",
            readme.markdown_table((f'"{TEXT}"', "ms", "of sentence-transformers"), texts),
            line,
        ]
    )


def main() -> None:
    """Measure everything, print the tables and write the results."""
    rate = bandwidth()
    adapters = {entry.name: one_vector(entry, rate) for entry in list_entries()}
    measured = {"gigabytes a second": round(rate / 1e9, 1), "adapters": adapters}
    measured |= {"text": one_text(), "mixed": mixed_queries()}
    print(table(measured))
    write_json(__file__, measured)
    readme.update("latency")


if __name__ == "__main__":
    main()
