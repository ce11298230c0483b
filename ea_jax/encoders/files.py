"""Read the files of an encoder folder: JSON, safetensors and tokenizers, each with one clear error."""

from json import loads
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from ea_jax.errors import BadEncoder

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONVERT = "Create it with `AutoModel.from_pretrained(folder).save_pretrained(folder)` of transformers"


def read_json(file: Path, optional: bool = False) -> Any:
    """Read a JSON file; an optional file that is missing counts as an empty object.

    Raises:
        BadEncoder: The file is missing or not JSON.
    """
    if optional and not file.is_file():
        return {}
    if not file.is_file():
        raise BadEncoder(f"{file} is missing. Name a complete sentence-transformers folder.")
    try:
        return loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadEncoder(f"{file} cannot be read as JSON: {error}. Download the model again.") from error


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a folder: one, or the shards that its index names.

    Raises:
        BadEncoder: There are none, or only PyTorch pickles, which are never read.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    shards = sorted(set(read_json(folder / INDEX, optional=True).get("weight_map", {}).values()))
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise BadEncoder(f"{folder} lacks the shards {', '.join(missing)}. Download the model again.")
    if not shards:
        pickled = sorted(file.name for file in folder.glob("*.bin"))
        why = f" It has {pickled[0]}, a pickle, which can run code and is not read." if pickled else ""
        raise BadEncoder(f"{folder / WEIGHTS} is missing.{why} {CONVERT}.")
    return [folder / name for name in shards]


def read_weights(file: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a safetensors file by name.

    Raises:
        BadEncoder: The file is missing, incomplete or not safetensors.
    """
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise BadEncoder(f"{file} cannot be read as safetensors: {error}. Download the model again.") from error


def read_tokenizer(folder: Path, name: str = "tokenizer.json") -> Tokenizer:
    """Read the tokenizer of a folder from its tokenizer.json, or else let transformers convert its vocabulary.

    Raises:
        BadEncoder: The tokenizer is missing or damaged.
    """
    if (folder / name).is_file():
        try:
            return Tokenizer.from_file(str(folder / name))
        except Exception as error:  # tokenizers raises bare Exception
            message = f"{folder / name} cannot be read as a tokenizer: {error}. Download the model again."
            raise BadEncoder(message) from error
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except Exception as error:  # an incomplete folder makes transformers raise many types
        reason = str(error).strip().splitlines()[0]
        raise BadEncoder(f"{folder} has no {name}, and transformers cannot create one: {reason}") from error
