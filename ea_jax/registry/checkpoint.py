"""Save parameters as orbax checkpoints, and load them with every file and value checked.

orbax writes the checkpoints and can read them. `load_params` reads them as plain data, and accepts only the layout that
`save_params` writes: a folder for each leaf, with its metadata in `.zarray` (zarr 2) and its values in one chunk (zstd,
C order), and orbax's own metadata files.
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

from ea_jax.errors import CorruptCheckpoint, Unavailable
from ea_jax.io.hashing import file_sha256, values_sha256
from ea_jax.typing import Params, leaf_paths

DOWNLOAD_AGAIN = "Download the adapter again."
METADATA = ".zarray"
FILE_NAME = re.compile(r"_METADATA|_CHECKPOINT_METADATA|[^/]+/(\.zarray|\d+(\.\d+)*)")
MAX_RATIO = 100  # bytes in memory per byte on disk; weights hardly compress
MIN_BYTES = 1 << 20  # in memory, below which the ratio is not checked


class ArrayHeader(NamedTuple):
    """Shape and dtype of an array, from its `.zarray`."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        """Bytes of the values in memory."""
        return prod(self.shape) * self.dtype.itemsize


def save_params(path: Path, params: Params) -> dict[str, Any]:
    """Write a nested dict of arrays as an orbax checkpoint. If that fails, nothing is left at `path`.

    OCDBT is off and each leaf has its own folder, so that every save writes the same file names.

    Returns:
        The record that `load_params` checks against: `sha256` of the values, and `bytes` and `sha256` of each file.

    Raises:
        Unavailable: The checkpoint cannot be written.
    """
    import orbax.checkpoint as ocp  # takes most of a second, and loading does not need it

    params = jax.tree.map(np.asarray, params)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        written = Path(scratch).resolve() / path.name
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
                checkpointer.save(written, args=ocp.args.PyTreeSave(params))
        except Exception as error:  # for a full disk, orbax raises an error of tensorstore with a long message
            reason = str(error).partition("\n")[0][:200]
            raise Unavailable(f"{path} cannot be written: {reason}") from error
        (written / "commit_success.txt").unlink(missing_ok=True)  # contains the name of the temporary folder
        if path.exists():
            shutil.rmtree(path)
        written.rename(path)
    return {"sha256": values_sha256(params), "files": _file_records(path)}


def load_params(path: Path, record: Mapping[str, Any], abstract: Params) -> Params:
    """Load a checkpoint that `save_params` wrote, and check it completely.

    Args:
        path: Folder of the checkpoint.
        record: The record that `save_params` returned.
        abstract: Shape and dtype of every leaf. The checkpoint must hold exactly these leaves.

    Raises:
        CorruptCheckpoint: A file is missing, truncated, changed or unexpected; a leaf has the wrong shape or dtype, is
            not finite, or claims more values than its file can hold.
    """
    if path.is_symlink():
        raise CorruptCheckpoint(f"{path} is a link, which entries may not contain. Replace it by a copy of the folder.")
    try:
        _check_files(path, record["files"])
        headers = {file.parent.name: _read_header(file) for file in sorted(path.glob(f"*/{METADATA}"))}
        _check_leaves(path, headers, leaf_paths(abstract))
        _check_size(path, headers, record["files"])
        values = {name: _read_values(path / name, headers[name]) for name in leaf_paths(abstract)}
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, CorruptCheckpoint):
            raise
        raise CorruptCheckpoint(f"{path} cannot be read: {error}. {DOWNLOAD_AGAIN}") from error
    if not_finite := [name for name, value in values.items() if not _is_finite(value)]:
        raise CorruptCheckpoint(f"{path}: {', '.join(not_finite[:5])} is not finite. Do not use this adapter.")
    params = jax.tree.unflatten(jax.tree.structure(abstract), list(values.values()))
    if values_sha256(params) != record["sha256"]:
        raise CorruptCheckpoint(
            f"The parameter values in {path} differ from those recorded in entry.toml. {DOWNLOAD_AGAIN}"
        )
    return jax.tree.map(jax.numpy.asarray, params)


def _file_records(path: Path) -> dict[str, dict[str, Any]]:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {
        file.relative_to(path).as_posix(): {"bytes": file.stat().st_size, "sha256": file_sha256(file)} for file in files
    }


def _check_files(path: Path, records: Mapping[str, Any]) -> None:
    root = path.resolve()
    for name, record in records.items():
        file = path / name
        if not file.resolve().is_relative_to(root):
            raise CorruptCheckpoint(f"entry.toml names {name}, which is outside {path}. Do not use this adapter.")
        if not FILE_NAME.fullmatch(name):
            raise CorruptCheckpoint(f"{file} cannot be part of a checkpoint. Do not use this adapter.")
        if not file.is_file():
            raise CorruptCheckpoint(f"{file} is missing. {DOWNLOAD_AGAIN}")
        size = file.stat().st_size
        if size != record["bytes"]:
            fault = "cut short" if size < record["bytes"] else "too long"
            raise CorruptCheckpoint(
                f"{file} is {fault}: it has {size} bytes, but entry.toml records {record['bytes']}. {DOWNLOAD_AGAIN}"
            )
        digest = file_sha256(file)
        if digest != record["sha256"]:
            raise CorruptCheckpoint(
                f"{file} was changed: its SHA-256 is {digest[:12]}, but entry.toml records {record['sha256'][:12]}. "
                f"{DOWNLOAD_AGAIN}"
            )
    files = {file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()}
    if unexpected := sorted(files - records.keys()):
        raise CorruptCheckpoint(f"{path / unexpected[0]} is not recorded in entry.toml. Remove it. {DOWNLOAD_AGAIN}")


def _read_header(file: Path) -> ArrayHeader:
    """Read the metadata of an array, which must have one chunk, C order and zstd compression.

    Raises:
        CorruptCheckpoint: The metadata cannot be read, or the array is stored differently.
    """
    try:
        metadata = json.loads(file.read_bytes())
        shape, dtype, codec = tuple(metadata["shape"]), np.dtype(metadata["dtype"]), metadata["compressor"]["id"]
        layout = (metadata["zarr_format"], metadata["order"], metadata["filters"], codec, tuple(metadata["chunks"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptCheckpoint(f"{file} does not describe an array ({error}). {DOWNLOAD_AGAIN}") from error
    valid_shape = all(type(size) is int and size > 0 for size in shape)
    if not valid_shape or layout != (2, "C", None, "zstd", shape):
        raise CorruptCheckpoint(f"{file} describes an array in a layout that ea_jax does not write. {DOWNLOAD_AGAIN}")
    return ArrayHeader(shape, dtype)


def _check_leaves(path: Path, headers: Mapping[str, ArrayHeader], expected: Mapping[str, Any]) -> None:
    missing, unknown = sorted(expected.keys() - headers.keys()), sorted(headers.keys() - expected.keys())
    faults = [f"lacks {name}" for name in missing] + [f"has unknown {name}" for name in unknown]
    for name in sorted(expected.keys() & headers.keys()):
        a, b = headers[name], expected[name]
        if a.shape != tuple(b.shape):
            faults.append(f"{name} has shape {a.shape}, expected {tuple(b.shape)}")
        elif a.dtype != np.dtype(b.dtype):
            faults.append(f"{name} has dtype {a.dtype}, expected {np.dtype(b.dtype)}")
    if faults:
        raise CorruptCheckpoint(f"{path} does not match entry.toml: {'; '.join(faults)}. {DOWNLOAD_AGAIN}")


def _check_size(path: Path, headers: Mapping[str, ArrayHeader], files: Mapping[str, Any]) -> None:
    """Reject arrays that claim more values than their files can hold, which would fill the memory."""
    claimed, size = sum(array.bytes for array in headers.values()), sum(record["bytes"] for record in files.values())
    if claimed > MAX_RATIO * size + MIN_BYTES:
        raise CorruptCheckpoint(f"{path} claims {claimed:,} bytes of values in files of {size:,}. Do not use it.")


def _read_values(folder: Path, array: ArrayHeader) -> np.ndarray:
    """Read the values of an array, decompressing no more bytes than its header claims."""
    chunk = (folder / ".".join("0" for _ in array.shape or (1,))).read_bytes()
    values = pa.decompress(chunk, decompressed_size=array.bytes, codec="zstd", asbytes=True)
    return np.frombuffer(values, array.dtype).reshape(array.shape)


def _is_finite(values: np.ndarray) -> bool:
    floats = jax.numpy.issubdtype(values.dtype, jax.numpy.floating)
    return not floats or bool(np.isfinite(values.astype(np.float32, copy=False)).all())
