"""Read the modules of a sentence-transformers folder: modules.json and the configuration files that it names.

Every key that could change an embedding is either followed or refused by name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ea_jax.encoders.architectures.pooling import POOLINGS, DenseConfig
from ea_jax.encoders.files import read_json, weight_files
from ea_jax.errors import BadEncoder, suggest_names

NAMESPACE = "sentence_transformers."
MODULES = ("Transformer", "StaticEmbedding", "Pooling", "Dense", "Dropout", "Normalize")  # in the order they may appear
ACTIVATIONS = {"Tanh": "tanh", "Identity": "identity", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu"}
EMBEDDING = (None, "sentence_embedding")
INPUT_AND_OUTPUT = {"module_input_name": EMBEDDING, "module_output_name": EMBEDDING}  # of modules behind the pooling
POOLING_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}  # of sentence-transformers before 5.4, in the order of concatenation
TEXT_FILES = [
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]  # sentence-transformers reads the first that exists
FORWARD = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


@dataclass(frozen=True)
class DenseFolder:
    """A dense layer, and the file of its weights."""

    config: DenseConfig
    file: Path


@dataclass(frozen=True)
class Modules:
    """The modules of a folder, in the only supported order: model, pooling, dense layers, unit length."""

    model: Path
    static: bool = False
    pooling: tuple[str, ...] = ("mean",)
    dense: tuple[DenseFolder, ...] = ()
    normalize: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    dim: int | None = None


@dataclass(frozen=True)
class TextSettings:
    """How a Transformer module prepares texts: the token limit, if any is set, and lower-casing."""

    max_length: int | None = None
    lower: bool = False


def read_modules(folder: Path) -> Modules:
    """Read the modules of a folder. Without modules.json it is a model2vec or a bare transformers folder.

    Raises:
        BadEncoder: A module, its position or one of its settings is not supported; the message names it.
    """
    modules = read_json(folder / "modules.json", optional=True)
    settings = _read_settings(folder / "config_sentence_transformers.json")
    if not modules:
        config = read_json(folder / "config.json", optional=True)
        static = config.get("model_type") == "model2vec" or "StaticModel" in (config.get("architectures") or [])
        return Modules(folder, static=static, normalize=static and bool(config.get("normalize")), **settings)
    kinds = [_module_kind(module, folder / "modules.json") for module in modules]
    order = [MODULES.index(kind) for kind in kinds if kind != "Dropout"]
    static = kinds[0] == "StaticEmbedding"
    if order != sorted(order) or kinds[0] not in MODULES[:2] or kinds.count("Normalize") > 1:
        raise BadEncoder(f"{folder}/modules.json lists {', '.join(kinds)}; the order must be {', '.join(MODULES)}.")
    paths = [folder / module["path"] for module in modules]
    poolings = [_read_pooling(path) for kind, path in zip(kinds, paths, strict=True) if kind == "Pooling"]
    if len(poolings) != 1 - static:
        raise BadEncoder(f"{folder}/modules.json lists {', '.join(kinds)}; it needs one Pooling, behind a Transformer.")
    for kind, path in zip(kinds, paths, strict=True):
        if kind in ("Dropout", "Normalize"):
            _check_simple_module(path / "config.json", kind)
    return Modules(
        model=paths[0],
        static=static,
        pooling=poolings[0] if poolings else ("mean",),
        dense=tuple(_read_dense(path) for kind, path in zip(kinds, paths, strict=True) if kind == "Dense"),
        normalize="Normalize" in kinds,
        **settings,
    )


def read_text_settings(model: Path) -> TextSettings:
    """Read the settings of a Transformer module from the first of its seven possible files.

    Of several limits, the one that sentence-transformers applies last wins: that of the call to the tokenizer, then
    that of the tokenizer, then `max_seq_length`.

    Raises:
        BadEncoder: A setting is unknown, or would change the embeddings in a way that is not implemented.
    """
    file = next((model / name for name in TEXT_FILES if (model / name).is_file()), None)
    if file is None:
        return TextSettings()
    config = read_json(file)
    limits = {"max_seq_length", "processing_kwargs", "tokenizer_args", "processor_kwargs"}
    loading = {"model_args", "model_kwargs", "config_args", "config_kwargs"}
    fixed = {
        "transformer_task": (None, "feature-extraction"),
        "module_output_name": (None, "token_embeddings"),
        "modality_config": (None, FORWARD),
        "query_length": (None,),
        "document_length": (None,),
        "query_expansion": (None,),
        "tokenizer_name_or_path": (None,),
    }
    _check_keys(file, config, {"do_lower_case", "unpad_inputs"} | limits | loading | fixed.keys(), "Transformer")
    _check_values(file, config, fixed)
    harmless = {"attn_implementation", "torch_dtype", "dtype", "device_map", "use_safetensors", "low_cpu_mem_usage"}
    for key in loading & config.keys():
        _check_keys(file, config[key] or {}, harmless | {"add_pooling_layer", "trust_remote_code", "use_cache"}, key)
    tokenizer: dict[str, Any] = {}
    for key in ("tokenizer_args", "processor_kwargs"):
        known = {"model_max_length", "use_fast", "padding_side", "trust_remote_code"}
        _check_keys(file, config.get(key) or {}, known, key)
        tokenizer |= config.get(key) or {}
    call = _read_call_settings(file, config.get("processing_kwargs") or {})
    max_length = call or tokenizer.get("model_max_length") or config.get("max_seq_length")
    if max_length is not None and (isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1):
        raise BadEncoder(f"{file} limits texts to {max_length!r} tokens. The limit must be a positive integer.")
    return TextSettings(max_length, bool(config.get("do_lower_case")))


def _read_call_settings(file: Path, settings: Mapping[str, Any]) -> int | None:
    """Read the token limit of `processing_kwargs`, which go to each call of the tokenizer."""
    _check_keys(file, {key: value for key, value in settings.items() if value}, {"text", "common"}, "processing_kwargs")
    _check_keys(file, settings.get("common") or {}, {"return_tensors"}, "processing_kwargs.common")
    text = settings.get("text") or {}
    known = {"max_length", "padding", "truncation", "return_tensors", "padding_side", "pad_to_multiple_of"}
    _check_keys(file, text, known, "processing_kwargs.text")
    _check_values(file, text, {"truncation": (True, "longest_first", "only_first")})
    return text.get("max_length")


def _read_settings(file: Path) -> dict[str, Any]:
    """Read the prompts and the number of leading coordinates that config_sentence_transformers.json sets."""
    config = read_json(file, optional=True)
    known = {"__version__", "model_type", "prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim"}
    _check_keys(file, config, known, "the model")
    _check_values(file, config, {"model_type": (None, "SentenceTransformer")})
    return {
        "prompts": {name: prompt or "" for name, prompt in (config.get("prompts") or {}).items()},
        "default_prompt": config.get("default_prompt_name"),
        "dim": config.get("truncate_dim"),
    }


def _module_kind(module: Any, file: Path) -> str:
    """Return the class name of a module; only classes of sentence-transformers are known to be what they are named."""
    if not isinstance(module, dict) or not all(isinstance(module.get(key), str) for key in ("type", "path")):
        raise BadEncoder(f"{file} has an entry without type or path: {module!r}. Download the model again.")
    name = module["type"]
    if not name.startswith(NAMESPACE):
        raise BadEncoder(f"{file} has the module {name}, custom code that is not run. Use another model.")
    kind = name.rpartition(".")[2]
    if kind not in MODULES:
        raise BadEncoder(f"{file} has the module {kind}, which is not supported. {suggest_names(kind, MODULES)}")
    _check_keys(file, module, {"idx", "name", "path", "type", "kwargs"}, kind)
    _check_values(file, module, {"kwargs": (None, [])})
    return kind


def _check_simple_module(file: Path, kind: str) -> None:
    """Check the settings of Dropout, which does nothing at inference, or Normalize."""
    config = read_json(file, optional=True)
    _check_keys(file, config, {"dropout"} if kind == "Dropout" else INPUT_AND_OUTPUT, kind)
    _check_values(file, config, INPUT_AND_OUTPUT)


def _read_pooling(path: Path) -> tuple[str, ...]:
    """Read the names of the poolings, in the order in which sentence-transformers concatenates their results."""
    file = path / "config.json"
    config: dict[str, Any] = read_json(file)
    known = {"embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt"}
    _check_keys(file, config, known | POOLING_SWITCHES.keys(), "Pooling")
    if not config.get("include_prompt", True):
        raise BadEncoder(f"{file} excludes the prompt from the pooling, which is not supported.")
    if "pooling_mode" in config:
        modes = [config["pooling_mode"]] if isinstance(config["pooling_mode"], str) else list(config["pooling_mode"])
    else:
        modes = [mode for switch, mode in POOLING_SWITCHES.items() if config.get(switch)]
    for mode in modes or ["none"]:
        if mode not in POOLINGS:
            raise BadEncoder(f"{file} has the unsupported pooling {mode!r}. {suggest_names(mode, POOLINGS)}")
    return tuple(modes)


def _read_dense(path: Path) -> DenseFolder:
    file = path / "config.json"
    config = read_json(file)
    known = {"in_features", "out_features", "bias", "activation_function", "use_residual"}
    _check_keys(file, config, known | INPUT_AND_OUTPUT.keys(), "Dense")
    _check_values(file, config, INPUT_AND_OUTPUT)
    missing = [key for key in ("in_features", "out_features") if not isinstance(config.get(key), int)]
    if missing:
        raise BadEncoder(f"{file} lacks {' and '.join(missing)}. Download the model again.")
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    act = name.rpartition(".")[2]
    if act not in ACTIVATIONS or not name.startswith("torch."):
        raise BadEncoder(f"{file} has the activation {name}, which is not supported. {suggest_names(act, ACTIVATIONS)}")
    dense = DenseConfig(
        config["in_features"],
        config["out_features"],
        bool(config.get("bias", True)),
        ACTIVATIONS[act],
        bool(config.get("use_residual", False)),
    )
    return DenseFolder(dense, weight_files(path)[0])


def _check_keys(file: Path, config: Mapping[str, Any], known: Iterable[str], owner: str) -> None:
    """Raise BadEncoder, with its name, if a key is not known: it may change the embeddings."""
    for key in config:
        if key not in known:
            raise BadEncoder(f"{file} has the unsupported setting {key!r} of {owner}. {suggest_names(key, known)}")


def _check_values(file: Path, config: Mapping[str, Any], supported: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise BadEncoder, with the key, if a setting has another value than the supported ones."""
    for key, values in supported.items():
        if key in config and config[key] not in values:
            raise BadEncoder(f"{file} has {key} = {config[key]!r}; only {values[-1]!r} is supported.")
