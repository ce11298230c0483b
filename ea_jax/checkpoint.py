"""Parameter trees on disk: orbax checkpoints whose every file and value is checked before they are used."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ea_jax.arrays import Params, leaf_paths
from ea_jax.digests import file_sha256, values_sha256
from ea_jax.errors import CorruptCheckpoint

AGAIN = "Fetch the adapter again."


def save_params(path: Path, params: Params) -> dict[str, Any]:
    """Write a nested dict of arrays as an orbax checkpoint; nothing is left at `path` if that fails.

    One folder a leaf and no OCDBT, so that file names are the same at every save.

    Returns:
        The record that `load_params` checks against: `sha256` of the values, and each file's `bytes` and `sha256`.
    """
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
        CorruptCheckpoint: A file or a value is missing, cut short, changed, of the wrong shape or dtype, or too many.
    """
    path = path.resolve()  # orbax finds nothing by a path with `..`
    _check_files(path, record["files"])
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        metadata = checkpointer.metadata(path).item_metadata
        if metadata is None:
            raise CorruptCheckpoint(f"{path} is not an orbax checkpoint of arrays. {AGAIN}")
        _check_leaves(path, leaf_paths(metadata.tree), leaf_paths(abstract))
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), abstract)
        params = checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
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


def _check_leaves(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    told = [f"lacks {name}" for name in missing] + [f"has unknown {name}" for name in unknown]
    for name in sorted(wanted.keys() & found.keys()):
        a, b = found[name], wanted[name]
        if tuple(a.shape) != tuple(b.shape):
            told.append(f"{name} has shape {tuple(a.shape)} where {tuple(b.shape)} is wanted")
        elif np.dtype(a.dtype) != np.dtype(b.dtype):
            told.append(f"{name} has dtype {np.dtype(a.dtype)} where {np.dtype(b.dtype)} is wanted")
    if told:
        raise CorruptCheckpoint(f"{path} does not fit entry.toml: {'; '.join(told)}. {AGAIN}")
