"""Do broken entries and checkpoints of strangers end in a named error, or in what was published?

    python -m benchmarks.robustness.fuzz [COUNT]

10,000 mutations unless told otherwise, of seven kinds in turn. Three happen by accident, and what loads has to be what
was published: bytes of entry.toml, of a file of params/ or quality/, of PyTorch's adapter.pt. Four are a liar's, who
makes the hashes fit: one fact of entry.toml, a file of params/ or quality/, the program or a file beside it in a folder
of embedding-adapters, an index.
"""

import json
import random
import resource
import shutil
import sys
import tempfile
import time
import tomllib
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch

from benchmarks import readme
from benchmarks.fit.peers import ResMLP
from benchmarks.machine import write_json
from ea_jax.compat.checkpoint import read_checkpoint
from ea_jax.errors import EaJaxError
from ea_jax.loading import load, load_quality
from ea_jax.registry.entry import read_entry
from ea_jax.registry.index import format_index, make_listing, read_index
from ea_jax.registry.locations import BUNDLED
from ea_jax.typing import Params, leaf_paths

ENTRY = "minilm--wordllama--small"
LIES: tuple[Any, ...] = (0, -1, 1, 2**31, 10**10, 10**30, 0.5, float("nan"), float("inf"), True, "", "../../up", "/etc")
LIES += ([], {}, [1], {"a": 1}, "0" * 64, "linear", "kernel", "mlp", "resmlp")
D_IN, D_OUT, WIDTH, DEPTH = 8, 12, 16, 2


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bytes of which up to four were changed, dropped or put in."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        kind, at = rng.randrange(4), rng.randrange(len(changed)) if changed else 0
        if kind == 0 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[at : at + rng.randint(1, 8)]
        elif kind == 2:
            changed[at:at] = rng.randbytes(rng.randint(1, 8))
        else:
            del changed[at:]
    return bytes(changed)


def write_seed(folder: Path) -> Path:
    """A small folder of embedding-adapters, as `torch.save` writes it."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    state = ResMLP(D_IN, D_OUT, WIDTH, DEPTH).state_dict()
    torch.save({name.replace(".gamma", ".ls.gamma"): value for name, value in state.items()}, folder / "adapter.pt")
    config = {"source_model": "a", "target_model": "b", "in_dim": D_IN, "out_dim": D_OUT}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"arch": f"resmlp_w{WIDTH}_d{DEPTH}"}))
    statistics = {}
    for side, d in {"src": D_IN, "tgt": D_OUT}.items():
        statistics |= {f"mean_{side}": np.zeros(d), f"inv_cov_{side}": np.eye(d), f"knn_ref_{side}": np.eye(d)}
        statistics |= {f"{name}_{side}": np.float64(1) for name in ("m95", "m99", "knn95", "knn99")}
    np.savez(folder / "adapter_quality_stats.npz", **statistics)
    return folder


def lied(facts: dict[str, Any], rng: random.Random) -> bytes:
    """An entry.toml with one fact, at any depth, replaced or left out."""
    table, key = facts, rng.choice(list(facts))
    while isinstance(table[key], dict) and table[key] and rng.random() < 0.8:
        table = table[key]
        key = rng.choice(list(table))
    if rng.random() < 0.2:
        del table[key]
    else:
        table[key] = rng.choice(LIES)
    return tomli_w.dumps(facts).encode()


def with_program(archive: bytes, path: Path, rng: random.Random) -> None:
    """A PyTorch checkpoint with a mutated program, whole as an archive."""
    path.write_bytes(archive)
    with zipfile.ZipFile(path) as old:
        files = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in files.items():
            new.writestr(name, mutated(data, rng) if name.endswith("data.pkl") else data)


class Victims:
    """A registry of one entry, a folder of embedding-adapters and an index, and what loads of each."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root = root
        self.folder = next(path.parent for path in root.glob("*/entry.toml"))
        self.names = tuple(self.folder.name.split("--")[:2])
        parts = [self.folder / part for part in ("params", "quality")]
        self.files = [file for part in parts for file in sorted(part.rglob("*")) if file.is_file()]
        self.seed = write_seed(scratch / "seed")
        self.index = scratch / "index.json"
        self.index.write_text(format_index([make_listing(read_entry(self.folder), "0" * 64)]))
        self.published, self.imported = self.entry(), self.checkpoint()

    def entry(self) -> Params:
        """Both purposes and the quality part, which holds what is stored, by the entry's names."""
        query, quality = (read(*self.names, root=self.root) for read in (partial(load, purpose="query"), load_quality))
        return leaf_paths({"query": query.params, "quality": quality.params})

    def checkpoint(self) -> Params:
        """Parameters and statistics of the folder of embedding-adapters."""
        found = read_checkpoint(self.seed)
        return leaf_paths({"params": found.params, "quality": found.quality or {}})

    def rewrite(self, kind: str, rng: random.Random) -> tuple[Callable[[], Any], Params | None]:
        """Make one mutation; what to call then, and what it has to give if it gives anything (anything, if None)."""
        toml, pt = self.folder / "entry.toml", self.seed / "adapter.pt"
        if kind == "entry.toml":
            toml.write_bytes(mutated(toml.read_bytes(), rng))
            return self.entry, self.published
        if kind == "a file of the entry":
            file = rng.choice(self.files)
            file.write_bytes(mutated(file.read_bytes(), rng))
            return self.entry, self.published
        if kind == "adapter.pt":
            pt.write_bytes(mutated(pt.read_bytes(), rng))
            return self.checkpoint, self.imported
        if kind == "a lie in entry.toml":
            toml.write_bytes(lied(tomllib.loads(toml.read_text()), rng))
            return self.entry, self.published
        if kind == "a file with the hash to it":
            self._lie_of(rng.choice(self.files), rng)
            return self.entry, self.published
        if kind == "a whole archive":
            other = rng.choice([pt, *self.seed.glob("*.json"), *self.seed.glob("*.npz")])
            if other == pt:
                with_program(pt.read_bytes(), pt, rng)
            else:
                other.write_bytes(mutated(other.read_bytes(), rng))
            return self.checkpoint, None
        self.index.write_bytes(mutated(self.index.read_bytes(), rng))
        return lambda: read_index(self.index), None

    def _lie_of(self, file: Path, rng: random.Random) -> None:
        data, toml = mutated(file.read_bytes(), rng), self.folder / "entry.toml"
        file.write_bytes(data)
        part, _, name = file.relative_to(self.folder).as_posix().partition("/")
        facts = tomllib.loads(toml.read_text())
        facts[part]["files"][name] = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
        toml.write_text(tomli_w.dumps(facts))


KINDS = (
    "entry.toml",
    "a file of the entry",
    "adapter.pt",
    "a lie in entry.toml",
    "a file with the hash to it",
    "a whole archive",
    "index.json",
)


def fuzz(root: Path, count: int, seed: int = 0) -> dict[str, Counter[str]]:
    """Make one mutation at a time, load, and put back what was.

    Args:
        root: A registry folder that may be written to, with one entry.
        count: How many mutations.
        seed: Of the mutations.

    Returns:
        By kind of mutation, how often each named error was raised, and `loaded` where nothing that counts was changed.

    Raises:
        AssertionError: Other parameters than the published ones were loaded. Any error that is not a named one passes.
    """
    rng, found = random.Random(seed), {kind: Counter[str]() for kind in KINDS}
    with tempfile.TemporaryDirectory() as scratch:
        victims = Victims(root, Path(scratch))
        kept = {file: file.read_bytes() for top in (root, Path(scratch)) for file in top.rglob("*") if file.is_file()}
        for number in range(count):
            kind = KINDS[number % len(KINDS)]
            read, wanted = victims.rewrite(kind, rng)
            try:
                there = read()
                if wanted is not None:
                    assert there.keys() == wanted.keys(), (number, kind)
                    assert all(np.array_equal(there[name], wanted[name]) for name in wanted), (number, kind)
                found[kind]["loaded"] += 1
            except EaJaxError as error:
                found[kind][type(error).__name__] += 1
            except Exception as error:
                error.add_note(f"mutation {number}, {kind}, of seed {seed}")
                raise
            finally:
                for file, data in kept.items():
                    if not file.is_file() or file.read_bytes() != data:
                        file.write_bytes(data)
    return found


def main(count: int) -> None:
    """Fuzz a copy of a small bundled adapter."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(BUNDLED / ENTRY, Path(scratch) / ENTRY)
        found = fuzz(Path(scratch), count)
    for kind, outcomes in found.items():
        print(f"{kind:<28}", ", ".join(f"{name} {n:,}" for name, n in sorted(outcomes.items())))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    took = round(time.perf_counter() - start)
    write_json(__file__, {"mutations": count, "outcomes": found, "peak MiB": peak, "seconds": took})
    readme.update("fuzz")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
