"""Do broken entries and checkpoints of strangers end in a named error, or in what was published? 10,000 mutations.

python -m benchmarks.fuzz [COUNT]
"""

import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from ea_jax.arrays import leaf_paths
from ea_jax.errors import EaJaxError
from ea_jax.loading import load
from ea_jax.registry import BUNDLED

ENTRY = "minilm--wordllama--small"


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


def fuzz(root: Path, count: int, seed: int = 0) -> Counter[str]:
    """Mutate one file of a registry's entries at a time, load, and put it back.

    Args:
        root: A registry folder that may be written to.
        count: How many mutations.
        seed: Of the mutations.

    Returns:
        How often each named error was raised, and `loaded` where the mutation changed nothing that counts.

    Raises:
        AssertionError: Other parameters than the published ones were loaded. Any error that is not a named one passes.
    """
    rng, found = random.Random(seed), Counter()
    folder = next(path.parent for path in root.glob("*/entry.toml"))
    names = tuple(folder.name.split("--")[:2])
    published = {path: np.asarray(leaf) for path, leaf in leaf_paths(load(*names, root=root).params).items()}
    files = [file for file in sorted(folder.glob("params/**/*")) if file.is_file()]
    for _ in range(count):
        file = folder / "entry.toml" if rng.random() < 0.5 else rng.choice(files)
        whole = file.read_bytes()
        file.write_bytes(mutated(whole, rng))
        try:
            there = leaf_paths(load(*names, root=root).params)
            assert there.keys() == published.keys(), file
            assert all(np.array_equal(np.asarray(there[path]), published[path]) for path in published), file
            found["loaded"] += 1
        except EaJaxError as error:
            found[type(error).__name__] += 1
        finally:
            file.write_bytes(whole)
    return found


def main(count: int) -> None:
    """Fuzz a copy of a small bundled adapter."""
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(BUNDLED / ENTRY, Path(scratch) / ENTRY)
        print(f"{count:,} mutations:", dict(fuzz(Path(scratch), count)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
