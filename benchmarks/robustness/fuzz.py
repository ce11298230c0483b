"""Check that a damaged or forged entry, checkpoint or index raises a named error or loads the published values.

    python -m benchmarks.robustness.fuzz [COUNT]

It makes 10,000 mutations by default, of seven kinds in turn. Three are accidents: bytes change in entry.toml, in a file
of params/ or quality/, or in PyTorch's adapter.pt. Four are forgeries whose hashes fit: one value of entry.toml, a file
of params/ or quality/, a file of an embedding-adapters folder (its pickle program included), and an index.
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
FORGED_VALUES: tuple[Any, ...] = (
    0,
    -1,
    1,
    2**31,
    10**10,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    True,
    "",
    "../../up",
    "/etc",
)
FORGED_VALUES += ([], {}, [1], {"a": 1}, "0" * 64, "linear", "kernel", "mlp", "resmlp")
D_IN, D_OUT, WIDTH, DEPTH = 8, 12, 16, 2


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change, drop or insert bytes at up to four places."""
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


def write_checkpoint(folder: Path) -> Path:
    """Write a small embedding-adapters folder with `torch.save`."""
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


def forge_entry(facts: dict[str, Any], rng: random.Random) -> bytes:
    """An entry.toml with one value, at any depth, replaced or removed."""
    table, key = facts, rng.choice(list(facts))
    while isinstance(table[key], dict) and table[key] and rng.random() < 0.8:
        table = table[key]
        key = rng.choice(list(table))
    if rng.random() < 0.2:
        del table[key]
    else:
        table[key] = rng.choice(FORGED_VALUES)
    return tomli_w.dumps(facts).encode()


def rewrite_program(archive: bytes, path: Path, rng: random.Random) -> None:
    """Write a PyTorch checkpoint with a mutated pickle program; the archive itself stays valid."""
    path.write_bytes(archive)
    with zipfile.ZipFile(path) as old:
        files = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in files.items():
            new.writestr(name, mutate(data, rng) if name.endswith("data.pkl") else data)


class Targets:
    """A registry with one entry, an embedding-adapters folder and an index, and the values that each loads."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root = root
        self.folder = next(path.parent for path in root.glob("*/entry.toml"))
        self.names = tuple(self.folder.name.split("--")[:2])
        parts = [self.folder / part for part in ("params", "quality")]
        self.files = [file for part in parts for file in sorted(part.rglob("*")) if file.is_file()]
        self.checkpoint_folder = write_checkpoint(scratch / "checkpoint")
        self.index = scratch / "index.json"
        self.index.write_text(format_index([make_listing(read_entry(self.folder), "0" * 64)]))
        self.published, self.imported = self.entry(), self.checkpoint()

    def entry(self) -> Params:
        """Parameters of the query purpose and of the quality part, which includes the stored adapter."""
        query, quality = (read(*self.names, root=self.root) for read in (partial(load, purpose="query"), load_quality))
        return leaf_paths({"query": query.params, "quality": quality.params})

    def checkpoint(self) -> Params:
        """Parameters and statistics of the embedding-adapters folder."""
        loaded = read_checkpoint(self.checkpoint_folder)
        return leaf_paths({"params": loaded.params, "quality": loaded.quality or {}})

    def rewrite(self, kind: str, rng: random.Random) -> tuple[Callable[[], Any], Params | None]:
        """Make one mutation; return the loader to call and the values it must give if it succeeds (None: any)."""
        toml, pt = self.folder / "entry.toml", self.checkpoint_folder / "adapter.pt"
        if kind == "entry.toml":
            toml.write_bytes(mutate(toml.read_bytes(), rng))
            return self.entry, self.published
        if kind == "a file of the entry":
            file = rng.choice(self.files)
            file.write_bytes(mutate(file.read_bytes(), rng))
            return self.entry, self.published
        if kind == "adapter.pt":
            pt.write_bytes(mutate(pt.read_bytes(), rng))
            return self.checkpoint, self.imported
        if kind == "a forged value in entry.toml":
            toml.write_bytes(forge_entry(tomllib.loads(toml.read_text()), rng))
            return self.entry, self.published
        if kind == "a forged file with its hash":
            self._forge_file(rng.choice(self.files), rng)
            return self.entry, self.published
        if kind == "a valid archive":
            other = rng.choice([pt, *self.checkpoint_folder.glob("*.json"), *self.checkpoint_folder.glob("*.npz")])
            if other == pt:
                rewrite_program(pt.read_bytes(), pt, rng)
            else:
                other.write_bytes(mutate(other.read_bytes(), rng))
            return self.checkpoint, None
        self.index.write_bytes(mutate(self.index.read_bytes(), rng))
        return lambda: read_index(self.index), None

    def _forge_file(self, file: Path, rng: random.Random) -> None:
        data, toml = mutate(file.read_bytes(), rng), self.folder / "entry.toml"
        file.write_bytes(data)
        part, _, name = file.relative_to(self.folder).as_posix().partition("/")
        facts = tomllib.loads(toml.read_text())
        facts[part]["files"][name] = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
        toml.write_text(tomli_w.dumps(facts))


KINDS = (
    "entry.toml",
    "a file of the entry",
    "adapter.pt",
    "a forged value in entry.toml",
    "a forged file with its hash",
    "a valid archive",
    "index.json",
)


def fuzz(root: Path, count: int, seed: int = 0) -> dict[str, Counter[str]]:
    """Make one mutation at a time, load, and restore the files.

    Args:
        root: A registry folder that may be written to, with one entry.
        count: Number of mutations.
        seed: Random seed of the mutations.

    Returns:
        For each kind of mutation, the count of each named error, and of `loaded` (the values were unchanged).

    Raises:
        AssertionError: Other values than the published ones were loaded. Unnamed errors propagate.
    """
    rng, counts = random.Random(seed), {kind: Counter[str]() for kind in KINDS}
    with tempfile.TemporaryDirectory() as scratch:
        targets = Targets(root, Path(scratch))
        originals = {
            file: file.read_bytes() for top in (root, Path(scratch)) for file in top.rglob("*") if file.is_file()
        }
        for number in range(count):
            kind = KINDS[number % len(KINDS)]
            read, expected = targets.rewrite(kind, rng)
            try:
                values = read()
                if expected is not None:
                    assert values.keys() == expected.keys(), (number, kind)
                    assert all(np.array_equal(values[name], expected[name]) for name in expected), (number, kind)
                counts[kind]["loaded"] += 1
            except EaJaxError as error:
                counts[kind][type(error).__name__] += 1
            except Exception as error:
                error.add_note(f"mutation {number} ({kind}), seed {seed}")
                raise
            finally:
                for file, data in originals.items():
                    if not file.is_file() or file.read_bytes() != data:
                        file.write_bytes(data)
    return counts


def main(count: int) -> None:
    """Fuzz a copy of a small bundled adapter."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(BUNDLED / ENTRY, Path(scratch) / ENTRY)
        counts = fuzz(Path(scratch), count)
    for kind, outcomes in counts.items():
        print(f"{kind:<28}", ", ".join(f"{name} {n:,}" for name, n in sorted(outcomes.items())))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    seconds = round(time.perf_counter() - start)
    write_json(__file__, {"mutations": count, "outcomes": counts, "peak MiB": peak, "seconds": seconds})
    readme.update("fuzz")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
