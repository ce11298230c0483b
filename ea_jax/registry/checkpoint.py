"""Parameter trees on disk: orbax checkpoints whose every file and value is checked before they are used.

orbax writes them, and can read them; here they are read as data, of which nothing else than what `save_params` makes is
let in: one folder a leaf with `.zarray` (zarr 2, its facts) and one piece (zstd, C order), beside orbax's own notes.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa

from ea_jax.errors import CorruptCheckpoint
from ea_jax.io.hashing import file_sha256, values_sha256
from ea_jax.typing import Params, leaf_paths

AGAIN = "Fetch the adapter again."
FACTS = ".zarray"
FILE = re.compile(r"_METADATA|_CHECKPOINT_METADATA|[^/]+/(\.zarray|\d+(\.\d+)*)")
LARGEST_RATIO = 100  # of values in memory to bytes on the disk; weights hardly compress
TINY = 1 << 20  # bytes, of checkpoints too small to have a ratio


class ArrayHeader(NamedTuple):
    """An array as its `.zarray` tells of it."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        """Of the values in memory."""
        return prod(self.shape) * self.dtype.itemsize


def save_params(path: Path, params: Params) -> dict[str, Any]:
    """Write a nested dict of arrays as an orbax checkpoint; nothing is left at `path` if that fails.

    One folder a leaf and no OCDBT, so that file names are the same at every save.

    Returns:
        The record that `load_params` checks against: `sha256` of the values, and each file's `bytes` and `sha256`.
    """
    import orbax.checkpoint as ocp  # most of a second, and nobody who loads needs it

    params = jax.tree.map(np.asarray, params)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        written = Path(scratch).resolve() / path.name
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
            checkpointer.save(written, args=ocp.args.PyTreeSave(params))
        (written / "commit_success.txt").unlink(missing_ok=True)  # names the folder it was written in
        if path.exists():
            shutil.rmtree(path)
        written.rename(path)
    return {"sha256": values_sha256(params), "files": _file_records(path)}


def load_params(path: Path, record: Mapping[str, Any], abstract: Params) -> Params:
    """Read a checkpoint that `save_params` wrote, whole or not at all.

    Args:
        path: Its folder.
        record: What `save_params` returned, kept beside it.
        abstract: Shape and dtype of every leaf that must be there, and no other may.

    Raises:
        CorruptCheckpoint: A file or a value is missing, cut short, changed, of the wrong shape or dtype, or too many,
            or not finite; or a file claims more numbers than it can hold.
    """
    if path.is_symlink():
        raise CorruptCheckpoint(f"{path} is a link, which no entry may hold. Copy the folder to where the link is.")
    try:
        _check_files(path, record["files"])
        stored = {file.parent.name: _stored(file) for file in sorted(path.glob(f"*/{FACTS}"))}
        _check_leaves(path, stored, leaf_paths(abstract))
        _check_claims(path, stored, record["files"])
        values = {name: _values(path / name, stored[name]) for name in leaf_paths(abstract)}
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, CorruptCheckpoint):
            raise
        raise CorruptCheckpoint(f"{path} cannot be read: {error}. {AGAIN}") from error
    if wrong := [name for name, value in values.items() if not _is_finite(value)]:
        raise CorruptCheckpoint(f"{path}: {', '.join(wrong[:5])} is not finite. Do not use this adapter.")
    params = jax.tree.unflatten(jax.tree.structure(abstract), list(values.values()))
    if values_sha256(params) != record["sha256"]:
        raise CorruptCheckpoint(f"The parameter values in {path} are not those that entry.toml names. {AGAIN}")
    return jax.tree.map(jax.numpy.asarray, params)


def _file_records(path: Path) -> dict[str, dict[str, Any]]:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {
        file.relative_to(path).as_posix(): {"bytes": file.stat().st_size, "sha256": file_sha256(file)} for file in files
    }


def _check_files(path: Path, wanted: Mapping[str, Any]) -> None:
    inside = path.resolve()
    for name, record in wanted.items():
        file = path / name
        if not file.resolve().is_relative_to(inside):
            raise CorruptCheckpoint(f"entry.toml names {name}, which is outside of {path}. Do not use this adapter.")
        if not FILE.fullmatch(name):
            raise CorruptCheckpoint(f"{file} is no file of a checkpoint of this kind. Do not use this adapter.")
        if not file.is_file():
            raise CorruptCheckpoint(f"{file} is missing. {AGAIN}")
        size = file.stat().st_size
        if size != record["bytes"]:
            fate = "cut short" if size < record["bytes"] else "too long"
            raise CorruptCheckpoint(f"{file} is {fate}: {size} bytes where entry.toml says {record['bytes']}. {AGAIN}")
        found = file_sha256(file)
        if found != record["sha256"]:
            raise CorruptCheckpoint(
                f"{file} was changed: its SHA-256 is {found[:12]}, entry.toml says {record['sha256'][:12]}. {AGAIN}"
            )
    there = {file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()}
    if strange := sorted(there - wanted.keys()):
        raise CorruptCheckpoint(f"{path / strange[0]} is a file that entry.toml does not name. Remove it. {AGAIN}")


def _stored(file: Path) -> ArrayHeader:
    """Facts of an array that `save_params` wrote: in one piece, in C order, compressed by zstd.

    Raises:
        CorruptCheckpoint: It is stored in another way, or these are no facts.
    """
    try:
        facts = json.loads(file.read_bytes())
        shape, dtype, kind = tuple(facts["shape"]), np.dtype(facts["dtype"]), facts["compressor"]["id"]
        how = (facts["zarr_format"], facts["order"], facts["filters"], kind, tuple(facts["chunks"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptCheckpoint(f"{file} does not say what the array is ({error}). {AGAIN}") from error
    whole = all(type(size) is int and size > 0 for size in shape)
    if not whole or how != (2, "C", None, "zstd", shape):
        raise CorruptCheckpoint(f"{file} tells of an array that ea_jax has not written so. {AGAIN}")
    return ArrayHeader(shape, dtype)


def _check_leaves(path: Path, found: Mapping[str, ArrayHeader], wanted: Mapping[str, Any]) -> None:
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    told = [f"lacks {name}" for name in missing] + [f"has unknown {name}" for name in unknown]
    for name in sorted(wanted.keys() & found.keys()):
        a, b = found[name], wanted[name]
        if a.shape != tuple(b.shape):
            told.append(f"{name} has shape {a.shape} where {tuple(b.shape)} is wanted")
        elif a.dtype != np.dtype(b.dtype):
            told.append(f"{name} has dtype {a.dtype} where {np.dtype(b.dtype)} is wanted")
    if told:
        raise CorruptCheckpoint(f"{path} does not fit entry.toml: {'; '.join(told)}. {AGAIN}")


def _check_claims(path: Path, stored: Mapping[str, ArrayHeader], files: Mapping[str, Any]) -> None:
    """Refuse arrays that would fill the memory: claimed larger than their files can be."""
    claimed, there = sum(array.bytes for array in stored.values()), sum(record["bytes"] for record in files.values())
    if claimed > LARGEST_RATIO * there + TINY:
        raise CorruptCheckpoint(f"{path} claims {claimed:,} bytes of values in files of {there:,}. Do not use it.")


def _values(folder: Path, array: ArrayHeader) -> np.ndarray:
    """The values of an array, which are checked by their digest afterwards; not a byte more than it claims is made."""
    piece = (folder / ".".join("0" for _ in array.shape or (1,))).read_bytes()
    values = pa.decompress(piece, decompressed_size=array.bytes, codec="zstd", asbytes=True)
    return np.frombuffer(values, array.dtype).reshape(array.shape)


def _is_finite(values: np.ndarray) -> bool:
    floats = jax.numpy.issubdtype(values.dtype, jax.numpy.floating)
    return not floats or bool(np.isfinite(values.astype(np.float32, copy=False)).all())
