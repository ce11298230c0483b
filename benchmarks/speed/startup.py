"""How long does a command take, from start to end of the process? `python -c pass` is measured in the same run.

    pip install '.[bench]'
    python -m benchmarks.speed.startup

The first `embed` starts with an empty compilation cache; the later ones use what it compiled.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import readme
from benchmarks.machine import write_json
from ea_jax.encoders.locate import find_encoder_folder
from ea_jax.registry.spaces import find_space

EA = str(Path(sys.executable).parent / "ea-jax")
EMBED = [EA, "embed", "--source", "minilm-plus", "--target", "oai-3-small", "--text", "Where can I get a hamburger?"]


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """Return the wall time of one run, which must succeed."""
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


HUNDRED_THOUSAND = """
from ea_jax.registry.index import INDEX, Listing, format_index
from ea_jax.registry.remotes import Remote, _configure
remote = Remote("owner/name", "model", "a" * 40)
remote.cache.mkdir(parents=True)
row = Listing("", "toy/source", "toy/target", "", "0" * 64, "Random rows.")
rows = [row._replace(name=f"toy-a--toy-b--f{i}", flavor=f"f{i}") for i in range(100_000)]
(remote.cache / INDEX).write_text(format_index(rows))
_configure([remote])
"""


def with_hundred_thousand(folder: str) -> dict[str, str]:
    """Return an environment with a remote registry of 100,000 adapters."""
    environment = os.environ | {"XDG_CACHE_HOME": f"{folder}/cache", "XDG_CONFIG_HOME": f"{folder}/config"}
    subprocess.run([sys.executable, "-c", HUNDRED_THOUSAND], env=environment, check=True)
    return environment


FIRST_VECTOR = """
from ea_jax import load, load_encoder
encode, adapt = load_encoder("minilm-plus"), load("minilm-plus", "oai-3-small")
adapt(adapt.params, encode(["Where can I get a hamburger?"])).block_until_ready()
"""
SENTENCE_TRANSFORMERS = """
import sys
from sentence_transformers import SentenceTransformer
SentenceTransformer(sys.argv[1], device="cpu").encode(["Where can I get a hamburger?"])
"""
LOADS = """
import time
from ea_jax import load
load("minilm", "oai-3-small")
for _ in range(%d):
    start = time.perf_counter()
    load("minilm", "oai-3-small")
    print(time.perf_counter() - start)
"""


def loads(runs: int) -> list[float]:
    """Return the seconds of each `load` of a bundled small adapter in one process, without imports."""
    command = [sys.executable, "-c", LOADS % runs]
    return [float(line) for line in subprocess.check_output(command, text=True).split()]


def main(runs: int = 7) -> None:
    """Time each command, taking turns, so that slow changes of the machine affect all alike."""
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as many:
        environment = {
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        commands = {
            "python -c pass": ([sys.executable, "-c", "pass"], environment),
            "ea-jax list": ([EA, "list"], environment),
            "ea-jax list, 100,000 adapters on the hub": ([EA, "list"], with_hundred_thousand(many)),
            "ea-jax embed, second run on": (EMBED, environment),
            "Python, import to first vector": ([sys.executable, "-c", FIRST_VECTOR], environment),
            "sentence-transformers, import to first vector (MiniLM alone)": (
                [sys.executable, "-c", SENTENCE_TRANSFORMERS, str(find_encoder_folder(find_space("minilm")))],
                environment | {"HF_HUB_OFFLINE": "1"},
            ),
        }
        first = seconds(EMBED, environment)
        for command, around in commands.values():
            seconds(command, around)
        times = {name: [] for name in commands}
        for _ in range(runs):
            for name, (command, around) in commands.items():
                times[name].append(seconds(command, around))
    times["load of a small adapter, imports excluded"] = loads(runs)
    figures = {"ea-jax embed, first run": {"median": first, "least": first, "most": first, "runs": 1}}
    for name, durations in times.items():
        median = statistics.median(durations)
        figures[name] = {"median": median, "least": min(durations), "most": max(durations), "runs": runs}
    figures = {name: {key: round(value, 3) for key, value in row.items()} for name, row in figures.items()}
    print("| command | median s | least | most |\n| --- | ---: | ---: | ---: |")
    for name, row in figures.items():
        print(f"| {name} | {row['median']:.2f} | {row['least']:.2f} | {row['most']:.2f} |")
    write_json(__file__, {"seconds": figures})
    readme.update("startup")


if __name__ == "__main__":
    main()
