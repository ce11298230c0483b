"""A sentence-transformers folder to an Encoder: configuration, pooling, tokenizer and weights as its files say."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from ea_jax.encoder import Encoder
from ea_jax.encoders import bert
from ea_jax.encoders.weights import map_weights
from ea_jax.errors import BadEncoder, nearest
from ea_jax.hub import WEIGHTS, check_weights
from ea_jax.registry import Space
from ea_jax.spec import EncoderSpec

FAMILIES = {"bert": (bert.BertConfig, bert.Bert, bert.weight_map)}
MODULES = "sentence_transformers.models."


def load_folder(folder: Path, space: Space | None = None) -> Encoder:
    """Load the encoder of a folder.

    Args:
        folder: A sentence-transformers folder, or a bare transformers one (which is mean-pooled and normalised).
        space: The known model that it is said to be: then its weights, width and prompts are checked against that.

    Raises:
        BadEncoder: A file is missing or broken, something in it is not supported, or the weights are another model's.
    """
    config = _read_json(folder / "config.json")
    family = config.get("model_type", "none")
    if family not in FAMILIES:
        raise BadEncoder(f"{folder}: model_type {family!r} is not supported. {nearest(family, FAMILIES)}")
    make_config, make_module, weight_map = FAMILIES[family]
    sizes = make_config.from_json(config)
    sha256 = check_weights(_existing(folder / WEIGHTS), space.sha256 if space else "")
    pooling, normalize = _head(folder)
    limits = _read_json(folder / "sentence_bert_config.json", optional=True)
    prompts = _read_json(folder / "config_sentence_transformers.json", optional=True).get("prompts", {})
    spec = EncoderSpec(
        model=space.id if space else folder.resolve().name,
        revision=sha256[:16],
        width=sizes.hidden_size,
        pooling=pooling,
        normalize=normalize,
        prompts=tuple(sorted((prompts | dict(space.prompts if space else {})).items())),
        max_length=limits.get("max_seq_length") or sizes.max_position_embeddings,
        positions=sizes.max_position_embeddings,
        pad_id=sizes.pad_token_id,
    )
    if space and space.width != spec.width:
        raise BadEncoder(f"{folder} makes embeddings of width {spec.width}, but {space.id} has width {space.width}.")
    module = make_module(sizes)
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    abstract = jax.eval_shape(module.init, jax.random.key(0), tokens, tokens)["params"]
    params = map_weights(_read_weights(folder / WEIGHTS), weight_map(sizes), abstract)
    return Encoder(spec, module, _tokenizer(folder), jax.tree.map(jnp.asarray, params))


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise BadEncoder(f"{file} is missing. Name a folder with {WEIGHTS} (a PyTorch .bin is not read).")
    return file


def _read_json(file: Path, optional: bool = False) -> Any:
    if optional and not file.is_file():
        return {}
    try:
        return json.loads(_existing(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadEncoder(f"{file} cannot be read as JSON: {error}. Fetch the model again.") from error


def _read_weights(file: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise BadEncoder(f"{file} cannot be read as safetensors: {error}. Fetch the model again.") from error


def _head(folder: Path) -> tuple[str, bool]:
    """Pooling and normalisation, from modules.json and the pooling folder."""
    modules = _read_json(folder / "modules.json", optional=True)
    if not modules:
        return "mean", True
    kinds = [module["type"].removeprefix(MODULES) for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise BadEncoder(
            f"{folder}/modules.json chains {', '.join(kinds)}; only Transformer, Pooling, Normalize is read."
        )
    pooling = _read_json(folder / modules[1]["path"] / "config.json")
    modes = [key for key, on in pooling.items() if key.startswith("pooling_mode_") and on]
    if modes != ["pooling_mode_mean_tokens"]:
        raise BadEncoder(
            f"{folder}: pooling by {' and '.join(modes)} is not supported; only pooling_mode_mean_tokens is."
        )
    return "mean", kinds[-1] == "Normalize"


def _tokenizer(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    if file.is_file():
        try:
            return Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises bare Exception
            raise BadEncoder(f"{file} cannot be read as a tokenizer: {error}. Fetch the model again.") from error
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder).backend_tokenizer
