"""Load encoders from sentence-transformers, transformers, model2vec and WordLlama folders."""

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from ea_jax.encoders.architectures import static
from ea_jax.encoders.architectures.pooling import Pipeline, pipeline_weights
from ea_jax.encoders.architectures.weights import WeightMap, map_weights
from ea_jax.encoders.encoder import Encoder
from ea_jax.encoders.families import FAMILIES
from ea_jax.encoders.files import read_json, read_tokenizer, read_weights, weight_files
from ea_jax.encoders.locate import check_weights, table_file
from ea_jax.encoders.modules_json import read_modules, read_text_settings
from ea_jax.encoders.spec import EncoderSpec
from ea_jax.errors import BadEncoder, BadInput, suggest_names
from ea_jax.registry.spaces import Space

STATIC_TOKENS = 1 << 17


@dataclass(frozen=True)
class LoadedModel:
    """The module of a model with its weights and tokenizer, and how texts are prepared for it."""

    module: nn.Module
    names: WeightMap
    weights: dict[str, np.ndarray]
    files: list[Path]
    width: int
    positions: int
    max_length: int
    pad_id: int
    tokenizer: Tokenizer
    lower: bool = False
    special_tokens: bool = True
    drop_id: int | None = None
    token_chars: int | None = None


def load_folder(folder: Path, space: Space | None = None, *, dim: int | None = None, dtype: str = "float32") -> Encoder:
    """Load the encoder of a folder.

    Args:
        folder: A sentence-transformers, model2vec or bare transformers folder; the last is mean-pooled, as
            sentence-transformers does.
        space: The model that the folder must hold: its weights and width are checked, and its prompts added.
        dim: Number of leading coordinates to keep, for Matryoshka models; the folder's own setting, or all, if None.
        dtype: Dtype of stored and multiplied kernels; sums and everything else are float32.

    Raises:
        BadEncoder: A file is missing or damaged, a setting is not supported, or the weights are another model's.
        BadInput: `dim` is not between 1 and the width.
    """
    modules = read_modules(folder)
    dim = modules.dim if dim is None else dim
    if space and space.table:
        model = _table_model(table_file(folder, space.table), table_file(folder, space.tokenizer))
        modules = replace(modules, normalize=space.unit_norm)
    elif modules.static:
        model = _static_model(folder, modules.model)
    else:
        model = _transformer(folder, modules.model)
    dense = tuple(layer.config for layer in modules.dense)
    width = dense[-1].d_out if dense else model.width * len(modules.pooling)
    if space and space.width != width:
        raise BadEncoder(f"{folder} gives embeddings of width {width}, but {space.id} has width {space.width}.")
    if dim is not None and not 1 <= dim <= width:
        raise BadInput(f"dim is {dim}; it must be between 1 and {width}, the width of {folder.name}.")

    module = Pipeline(model.module, modules.pooling, dense, dim, modules.normalize)
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    abstract = jax.eval_shape(module.init, jax.random.key(0), tokens, tokens)["params"]
    weights = model.weights | {
        f"dense_{i}.{name}": value
        for i, layer in enumerate(modules.dense)
        for name, value in read_weights(layer.file).items()
    }
    params = map_weights(weights, pipeline_weights(model.names, dense), abstract, dtype)
    spec = EncoderSpec(
        model=space.id if space else folder.resolve().name,
        revision=_revision([*model.files, *(layer.file for layer in modules.dense)], space.sha256 if space else ""),
        width=dim or width,
        pooling="+".join(modules.pooling),
        normalize=modules.normalize,
        prompts=tuple(sorted((modules.prompts | dict(space.prompts if space else {})).items())),
        default_prompt=modules.default_prompt,
        dim=dim,
        dtype=dtype,
        lower=model.lower,
        special_tokens=model.special_tokens,
        drop_id=model.drop_id,
        token_chars=model.token_chars,
        max_length=model.max_length,
        positions=model.positions,
        pad_id=model.pad_id,
    )
    return Encoder(spec, module, model.tokenizer, params)


def _transformer(folder: Path, model: Path) -> LoadedModel:
    config = read_json(model / "config.json")
    kind = config.get("model_type", "none")
    if config.get("auto_map"):
        raise BadEncoder(
            f"{model}/config.json has auto_map: the model needs custom code, which is not run. Use another model."
        )
    if kind not in FAMILIES:
        raise BadEncoder(f"{folder}: model_type {kind!r} is not supported. {suggest_names(kind, FAMILIES)}")
    family = FAMILIES[kind]
    sizes = family.config(config)
    settings = read_text_settings(model)
    tokenizer_config = read_json(model / "tokenizer_config.json", optional=True)
    if tokenizer_config.get("truncation_side", "right") != "right":
        raise BadEncoder(f"{model}/tokenizer_config.json truncates texts on the left, which is not supported.")
    max_length = settings.max_length or tokenizer_config.get("model_max_length") or sizes.max_tokens
    files = weight_files(model)
    return LoadedModel(
        module=family.module(sizes),
        names=family.weights(sizes),
        weights={name: value for file in files for name, value in read_weights(file).items()},
        files=files,
        width=sizes.hidden_size,
        positions=sizes.max_tokens,
        max_length=min(max_length, sizes.max_tokens),
        pad_id=sizes.pad_id,
        tokenizer=read_tokenizer(model),
        lower=settings.lower,
    )


def _static_model(folder: Path, model: Path) -> LoadedModel:
    """Load a model2vec folder, or the StaticEmbedding module of a sentence-transformers folder."""
    files = weight_files(model)
    weights = read_weights(files[0])
    if "embedding.weight" in weights:
        return _table_model(files[0], model / "tokenizer.json")
    unknown = sorted(weights.keys() - {"embeddings", "mapping", "weights"})
    if unknown or "embeddings" not in weights:
        raise BadEncoder(
            f"{files[0]} has the arrays {', '.join(sorted(weights))}; expected embeddings, mapping and weights."
        )
    table = weights["embeddings"].astype(np.float32)
    table = table[weights["mapping"]] if "mapping" in weights else table
    table = table * weights["weights"].astype(np.float32)[:, None] if "weights" in weights else table
    config = read_json(model / "config.json", optional=True)
    loaded = _table(table, files[0], read_tokenizer(model))
    if model != folder:  # sentence-transformers neither drops tokens nor truncates texts
        return loaded
    vocabulary = loaded.tokenizer.get_vocab()
    unknown_token = getattr(loaded.tokenizer.model, "unk_token", None)
    return replace(
        loaded,
        max_length=config.get("max_length") or 512,
        drop_id=vocabulary.get(unknown_token) if unknown_token else None,
        token_chars=int(np.median([len(token) for token in vocabulary])),
    )


def _table_model(file: Path, tokenizer: Path) -> LoadedModel:
    weights = read_weights(file)
    if list(weights) != ["embedding.weight"]:
        raise BadEncoder(
            f"{file} has the arrays {', '.join(sorted(weights))}; a token table has embedding.weight alone."
        )
    return _table(weights["embedding.weight"], file, read_tokenizer(tokenizer.parent, tokenizer.name))


def _table(table: np.ndarray, file: Path, tokenizer: Tokenizer) -> LoadedModel:
    sizes = static.StaticConfig(*table.shape)
    return LoadedModel(
        module=static.Static(sizes),
        names=static.static_weights(sizes),
        weights={"table": table},
        files=[file],
        width=sizes.hidden_size,
        positions=STATIC_TOKENS,
        max_length=STATIC_TOKENS,
        pad_id=0,
        tokenizer=tokenizer,
        special_tokens=False,
    )


def _revision(files: list[Path], expected: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of the one file, or of the digests of several files."""
    digests = [check_weights(file, expected if len(files) == 1 else "") for file in files]
    return (digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest())[:16]
