"""SHA-256 of files and of parameter values."""

import hashlib
from pathlib import Path
from typing import Any


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def values_sha256(params: dict[str, Any]) -> str:
    """SHA-256 over each leaf's path, dtype, shape and little-endian bytes, in path order, in hex.

    It depends on the values alone: checkpoints with another layout or compression have the same digest.
    """
    import numpy as np  # downloads hash files and do not need it

    from ea_jax.typing import leaf_paths

    digest = hashlib.sha256()
    for path, leaf in sorted(leaf_paths(params).items()):
        value = np.asarray(leaf)
        digest.update(f"{path} {value.dtype.name} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value.astype(value.dtype.newbyteorder("<"))).tobytes())
    return digest.hexdigest()
