"""The files of an encoder folder: JSON, safetensors and tokenizers, each with one clear error."""

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
CONVERT = "`AutoModel.from_pretrained(folder).save_pretrained(folder)` of transformers writes it"


def read_json(file: Path, optional: bool = False) -> Any:
    """Content of a JSON file; an empty dict where it is optional and not there.

    Raises:
        BadEncoder: It is missing, or no JSON.
    """
    if optional and not file.is_file():
        return {}
    if not file.is_file():
        raise BadEncoder(f"{file} is missing. Name the whole folder of a sentence-transformers model.")
    try:
        return loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadEncoder(f"{file} cannot be read as JSON: {error}. Fetch the model again.") from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: one, or the shards that its index names.

    Raises:
        BadEncoder: There are none, or only PyTorch's, which are pickles and not read.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    shards = sorted(set(read_json(folder / INDEX, optional=True).get("weight_map", {}).values()))
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise BadEncoder(f"{folder} lacks the shards {', '.join(missing)}. Fetch the model again.")
    if not shards:
        pickled = sorted(file.name for file in folder.glob("*.bin"))
        why = f"It has {pickled[0]}, which can hold code and is not read: {CONVERT}." if pickled else f"{CONVERT}."
        raise BadEncoder(f"{folder / WEIGHTS} is missing. {why}")
    return [folder / name for name in shards]


def read_weights(file: Path) -> dict[str, np.ndarray]:
    """Arrays of a safetensors file by name.

    Raises:
        BadEncoder: It is missing, cut short or no safetensors.
    """
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise BadEncoder(f"{file} cannot be read as safetensors: {error}. Fetch the model again.") from error


def read_tokenizer(folder: Path, name: str = "tokenizer.json") -> Tokenizer:
    """The tokenizer of a folder: its tokenizer.json, or else what transformers makes of its vocabulary.

    Raises:
        BadEncoder: There is none, or it is broken.
    """
    if (folder / name).is_file():
        try:
            return Tokenizer.from_file(str(folder / name))
        except Exception as error:  # tokenizers raises bare Exception
            told = f"{folder / name} cannot be read as a tokenizer: {error}. Fetch the model again."
            raise BadEncoder(told) from error
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    except Exception as error:  # whatever transformers makes of an incomplete folder
        reason = str(error).strip().splitlines()[0]
        raise BadEncoder(f"{folder} has no {name}, and transformers cannot make a tokenizer of it: {reason}") from error
