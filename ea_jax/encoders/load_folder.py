"""Encoder folders of sentence-transformers, transformers, model2vec and WordLlama, loaded as their files say."""

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
from ea_jax.encoders.modules_json import read_modules
from ea_jax.encoders.spec import EncoderSpec
from ea_jax.errors import BadEncoder, BadInput, suggest_names
from ea_jax.registry.spaces import Space

STATIC_TOKENS = 1 << 17


@dataclass(frozen=True)
class Model:
    """A model's module with its weights, and what its folder says of its inputs."""

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
        folder: A sentence-transformers, model2vec or bare transformers folder (which is mean-pooled, as
            sentence-transformers does).
        space: The known model that it is said to be: then its weights, width and prompts are checked against that.
        dim: How many leading numbers are kept, for models that were trained for it; all if None.
        dtype: What kernels are stored and multiplied in; sums and everything else are float32.

    Raises:
        BadEncoder: A file is missing or broken, something in it is not supported, or the weights are another model's.
        BadInput: dim is not between 1 and the width.
    """
    chain = read_modules(folder)
    if space and space.table:
        model = _table_model(table_file(folder, space.table), table_file(folder, space.tokenizer))
        chain = replace(chain, normalize=space.unit_norm)
    elif chain.static:
        model = _static_model(folder, chain.model)
    else:
        model = _transformer(folder, chain.model)
    width = chain.heads[-1].width if chain.heads else model.width * len(chain.pooling)
    if space and space.width != width:
        raise BadEncoder(f"{folder} makes embeddings of width {width}, but {space.id} has width {space.width}.")
    if dim is not None and not 1 <= dim <= width:
        raise BadInput(f"dim is {dim}; {folder.name} makes embeddings of width {width}.")

    heads = tuple((head.width, head.bias, head.act) for head in chain.heads)
    module = Pipeline(model.module, chain.pooling, heads, dim, chain.normalize)
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    abstract = jax.eval_shape(module.init, jax.random.key(0), tokens, tokens)["params"]
    weights = model.weights | {
        f"head_{i}.{name}": value
        for i, head in enumerate(chain.heads)
        for name, value in read_weights(head.file).items()
    }
    params = map_weights(weights, pipeline_weights(model.names, heads), abstract, dtype)
    spec = EncoderSpec(
        model=space.id if space else folder.resolve().name,
        revision=_revision([*model.files, *(head.file for head in chain.heads)], space.sha256 if space else ""),
        width=dim or width,
        pooling="+".join(chain.pooling),
        normalize=chain.normalize,
        prompts=tuple(sorted((chain.prompts | dict(space.prompts if space else {})).items())),
        default_prompt=chain.default_prompt,
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


def _transformer(folder: Path, model: Path) -> Model:
    config = read_json(model / "config.json")
    kind = config.get("model_type", "none")
    if kind not in FAMILIES:
        raise BadEncoder(f"{folder}: model_type {kind!r} is not supported. {suggest_names(kind, FAMILIES)}")
    family = FAMILIES[kind]
    sizes = family.config(config)
    limits = read_json(model / "sentence_bert_config.json", optional=True)
    told = read_json(model / "tokenizer_config.json", optional=True).get("model_max_length") or sizes.max_tokens
    files = weight_files(model)
    return Model(
        module=family.module(sizes),
        names=family.weights(sizes),
        weights={name: value for file in files for name, value in read_weights(file).items()},
        files=files,
        width=sizes.hidden_size,
        positions=sizes.max_tokens,
        max_length=min(limits.get("max_seq_length") or told, sizes.max_tokens),
        pad_id=sizes.pad_id,
        tokenizer=read_tokenizer(model),
        lower=bool(limits.get("do_lower_case")),
    )


def _static_model(folder: Path, model: Path) -> Model:
    """A model2vec folder, or the StaticEmbedding module of a sentence-transformers one."""
    files = weight_files(model)
    weights = read_weights(files[0])
    if "embedding.weight" in weights:
        return _table_model(files[0], model / "tokenizer.json")
    unknown = sorted(weights.keys() - {"embeddings", "mapping", "weights"})
    if unknown or "embeddings" not in weights:
        raise BadEncoder(f"{files[0]} holds {', '.join(sorted(weights))}; embeddings, mapping and weights are read.")
    table = weights["embeddings"].astype(np.float32)
    table = table[weights["mapping"]] if "mapping" in weights else table
    table = table * weights["weights"].astype(np.float32)[:, None] if "weights" in weights else table
    config = read_json(model / "config.json", optional=True)
    found = _table(table, files[0], read_tokenizer(model))
    if model != folder:  # sentence-transformers drops no token and cuts no text
        return found
    vocabulary = found.tokenizer.get_vocab()
    unknown_token = getattr(found.tokenizer.model, "unk_token", None)
    return replace(
        found,
        max_length=config.get("max_length") or 512,
        drop_id=vocabulary.get(unknown_token) if unknown_token else None,
        token_chars=int(np.median([len(token) for token in vocabulary])),
    )


def _table_model(file: Path, tokenizer: Path) -> Model:
    weights = read_weights(file)
    if list(weights) != ["embedding.weight"]:
        raise BadEncoder(f"{file} holds {', '.join(sorted(weights))}; a token table holds embedding.weight alone.")
    return _table(weights["embedding.weight"], file, read_tokenizer(tokenizer.parent, tokenizer.name))


def _table(table: np.ndarray, file: Path, tokenizer: Tokenizer) -> Model:
    sizes = static.StaticConfig(*table.shape)
    return Model(
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


def _revision(files: list[Path], wanted: str) -> str:
    """First 16 hex digits of the weights' SHA-256: of the one file, or of the digests of several."""
    digests = [check_weights(file, wanted if len(files) == 1 else "") for file in files]
    return (digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest())[:16]
