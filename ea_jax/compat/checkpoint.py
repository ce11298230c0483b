"""Convert an adapter of embedding-adapters: its configuration, checkpoint and quality statistics to our parameters."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from ea_jax.adapters.families import abstract_params
from ea_jax.adapters.spec import Spec
from ea_jax.compat.torch_zip import read_torch_zip
from ea_jax.errors import BadEntry, CorruptCheckpoint
from ea_jax.quality.schema import abstract_imported, imported_sizes
from ea_jax.registry.entry import MAX_DEPTH
from ea_jax.typing import Params, leaf_paths

ARCH = re.compile(r"_([wd])(\d{1,9})(?=_|$)")
DEFAULT_DEPTH = 8
MAX_STATISTICS = 1 << 30  # bytes
LAYERS = {"in_ln": "in_ln", "in_fc": "in_fc", "mid_ln": "mid_ln", "out_fc": "out_fc", "out_ln": "out_ln"}
STATISTICS = {"maha_p95": "m95", "maha_p99": "m99", "knn_p95": "knn95", "knn_p99": "knn99"}


@dataclass(frozen=True)
class ImportedAdapter:
    """A converted adapter.

    Attributes:
        spec: Specification of the adapter.
        params: Parameters of the `resmlp` family, in float32.
        quality: Statistics of source and target embeddings; None if the folder has none.
    """

    spec: Spec
    params: Params
    quality: Params | None


def read_checkpoint(folder: Path) -> ImportedAdapter:
    """Read a folder with one `adapter*.pt`, one `adapter_config*.json` and at most one `adapter_quality_stats*.npz`.

    No code of the checkpoint is run. Missing and unused weights are errors.

    Raises:
        BadEntry: A file is missing or ambiguous, or the configuration is invalid.
        CorruptCheckpoint: The checkpoint or the statistics are damaged, not finite, hold anything but numbers, or do
            not fit the configuration.
    """
    config = _config(_one(folder, "adapter_config*.json"))
    spec = Spec(
        "resmlp",
        config["source_model"],
        config["target_model"],
        config["in_dim"],
        config["out_dim"],
        unit_norm=config.get("normalize", True),
        sizes=_sizes(config),
    )
    checkpoint = _one(folder, "adapter*.pt")
    params = _params(checkpoint, _state(checkpoint), spec)
    statistics = sorted(folder.glob("adapter_quality_stats*.npz"))
    return ImportedAdapter(spec, params, _quality(statistics[0], spec) if statistics else None)


def _one(folder: Path, pattern: str) -> Path:
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise BadEntry(f"{folder} must hold one {pattern}; it holds {names}. Name the folder of one adapter.")
    return files[0]


def _config(file: Path) -> dict[str, Any]:
    required = {"source_model": str, "target_model": str, "in_dim": int, "out_dim": int}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise BadEntry(f"{file} cannot be read as JSON: {error}.") from error
    if not isinstance(config, dict):
        raise BadEntry(f"{file} is not a JSON object.")
    wrong = [key for key, kind in required.items() if type(config.get(key)) is not kind]
    wrong += [key for key in ("in_dim", "out_dim") if key not in wrong and config[key] < 1]
    wrong += ["normalize"] if not isinstance(config.get("normalize", True), bool) else []
    wrong += ["arch"] if not isinstance(config.get("arch", "resmlp"), str) else []
    if wrong or not config.get("arch", "resmlp").startswith("resmlp"):
        reason = f"lacks or has the wrong type for {', '.join(wrong)}" if wrong else f"has the arch {config['arch']!r}"
        raise BadEntry(f"{file} {reason}. Only adapters with a resmlp arch can be imported.")
    return config


def _sizes(config: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    parts = {name: int(number) for name, number in ARCH.findall(config.get("arch", "resmlp"))}
    width: int = parts.get("w") or config["out_dim"]
    if parts.get("d", DEFAULT_DEPTH) > MAX_DEPTH:
        raise BadEntry(f"The arch {config['arch']!r} has {parts['d']:,} blocks; at most {MAX_DEPTH:,} are supported.")
    return ("depth", parts.get("d", DEFAULT_DEPTH)), ("width", width)


def _state(file: Path) -> dict[str, Float32[np.ndarray, "..."]]:
    """Read the tensors by name, without the counter and the prefix that weight averaging adds."""
    state = read_torch_zip(file)
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict):
        raise CorruptCheckpoint(f"{file} holds a {type(state).__name__} instead of a dict of tensors.")
    state = {str(name).removeprefix("module."): value for name, value in state.items() if name != "n_averaged"}
    others = [name for name, value in state.items() if not isinstance(value, np.ndarray)]
    if others:
        raise CorruptCheckpoint(f"{file} holds {others[0]!r}, which is not a tensor.")
    return {name: value.astype(np.float32) for name, value in state.items()}


def _checkpoint_names(depth: int) -> dict[str, str]:
    """Map each of our parameter paths to its name in the checkpoint."""
    layers = dict(LAYERS)
    for block in range(depth):
        block_names = {"ln": "ln", "proj": "ffn.0.proj", "down": "ffn.1"}
        layers |= {f"block_{block}.{path}": f"blocks.{block}.{name}" for path, name in block_names.items()}
    names = {}
    for path, name in layers.items():
        names[f"{path}.{'scale' if path.endswith('ln') else 'kernel'}"] = f"{name}.weight"
        names[f"{path}.bias"] = f"{name}.bias"
    return names | {f"block_{block}.gamma": f"blocks.{block}.ls.gamma" for block in range(depth)}


def _params(file: Path, state: dict[str, np.ndarray], spec: Spec) -> Params:
    names, expected = _checkpoint_names(dict(spec.sizes)["depth"]), leaf_paths(abstract_params(spec))
    missing, unknown = sorted(set(names.values()) - state.keys()), sorted(state.keys() - set(names.values()))
    faults = [f"lacks {name}" for name in missing] + [f"has unknown {name}" for name in unknown]
    params: Params = {}
    for path, name in names.items():
        if name in state:
            value = state[name].T if path.endswith("kernel") else state[name]
            if value.shape != expected[path].shape:
                faults.append(f"{name} has shape {state[name].shape}, which the configuration contradicts")
            elif not np.isfinite(value).all():
                faults.append(f"{name} is not finite")
            _put(params, path, np.ascontiguousarray(value))
    if faults:
        raise CorruptCheckpoint(f"{file} does not fit its configuration: {'; '.join(faults[:5])}.")
    return params


def _put(tree: Params, path: str, value: np.ndarray) -> None:
    *folders, leaf = path.split(".")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[leaf] = value


def _quality(file: Path, spec: Spec) -> Params:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if sum(part.file_size for part in archive.zip.infolist()) > MAX_STATISTICS:
                raise CorruptCheckpoint("it is too large")
            arrays = {name: np.asarray(archive[name]) for name in archive.files}
    except Exception as error:  # NumPy raises errors of many types
        raise CorruptCheckpoint(f"{file} cannot be read: {error}.") from error
    source, target = (_statistics(file, arrays, side) for side in ("src", "tgt"))
    quality = source | {"target": target}
    sizes = imported_sizes(quality)
    expected, leaves = leaf_paths(abstract_imported(spec.d_in, spec.d_out, sizes)), leaf_paths(quality)
    wrong = [
        name
        for name, leaf in expected.items()
        if leaf.shape != leaves[name].shape or not np.isfinite(leaves[name]).all()
    ]
    if wrong:
        raise CorruptCheckpoint(f"{file} does not fit its configuration, or is not finite: {', '.join(wrong)}.")
    return quality


def _statistics(file: Path, arrays: dict[str, np.ndarray], side: str) -> Params:
    """Convert the statistics of one space. The inverse covariance becomes `F F^T`: a distance is then a norm."""
    names = {"mean": "mean", "inverse": "inv_cov", "references": "knn_ref", **STATISTICS}
    missing = [f"{name}_{side}" for name in names.values() if f"{name}_{side}" not in arrays]
    if missing:
        raise CorruptCheckpoint(f"{file} lacks {', '.join(missing)}.")
    values = {path: arrays[f"{name}_{side}"] for path, name in names.items()}
    if any(value.dtype.kind != "f" for value in values.values()):
        raise CorruptCheckpoint(f"{file} holds an array that is not float.")
    inverse = values.pop("inverse").astype(np.float64)
    if inverse.ndim != 2 or inverse.shape[0] != inverse.shape[1] or not np.isfinite(inverse).all():
        raise CorruptCheckpoint(f"{file}: inv_cov_{side} has shape {inverse.shape} or is not finite.")
    roots, vectors = np.linalg.eigh((inverse + inverse.T) / 2)
    values["factor"] = vectors * np.sqrt(np.maximum(roots, 0))
    scalars = {name: values[name].reshape(-1)[:1].reshape(()) for name in STATISTICS if values[name].size}
    return {name: np.asarray(value, np.float32) for name, value in (values | scalars).items()}
