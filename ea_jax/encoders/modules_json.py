"""What a sentence-transformers folder chains: modules.json and the files that it names."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ea_jax.encoders.architectures.pooling import POOLINGS
from ea_jax.encoders.files import read_json, weight_files
from ea_jax.errors import BadEncoder, suggest_names

ACTS = {"Tanh": "tanh", "Identity": "identity", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu"}
SUPPORTED = ("Transformer", "StaticEmbedding", "Pooling", "Dense", "Dropout", "Normalize")
SWITCH = "pooling_mode_"
OLD = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean", "weightedmean_tokens": "weightedmean"}


@dataclass(frozen=True)
class Head:
    """A dense layer behind the pooling."""

    width: int
    bias: bool
    act: str
    file: Path


@dataclass(frozen=True)
class Chain:
    """The modules of a folder, in the one order that is read: model, pooling, dense layers, unit length."""

    model: Path
    static: bool = False
    pooling: tuple[str, ...] = ("mean",)
    heads: tuple[Head, ...] = ()
    normalize: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None


def read_modules(folder: Path) -> Chain:
    """The chain of a folder; one without modules.json is a model2vec or a bare transformers model.

    Raises:
        BadEncoder: A module, its place in the chain or a setting is not supported; the message names it.
    """
    modules = read_json(folder / "modules.json", optional=True)
    told = read_json(folder / "config_sentence_transformers.json", optional=True)
    prompts = {"prompts": told.get("prompts") or {}, "default_prompt": told.get("default_prompt_name")}
    if not modules:
        config = read_json(folder / "config.json", optional=True)
        static = config.get("model_type") == "model2vec" or "StaticModel" in (config.get("architectures") or [])
        return Chain(folder, static=static, normalize=static and bool(config.get("normalize")), **prompts)
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    for kind in kinds:
        if kind not in SUPPORTED:
            raise BadEncoder(f"{folder}/modules.json has a module {kind}. {suggest_names(kind, SUPPORTED)}")
    order = [SUPPORTED.index(kind) for kind in kinds if kind != "Dropout"]
    static = kinds[0] == "StaticEmbedding"
    if order != sorted(order) or kinds[0] not in SUPPORTED[:2] or kinds.count("Normalize") > 1:
        raise BadEncoder(f"{folder}/modules.json chains {', '.join(kinds)}; the order is {', '.join(SUPPORTED)}.")
    paths = [folder / module["path"] for module in modules]
    pooled = [_pooling(path) for kind, path in zip(kinds, paths, strict=True) if kind == "Pooling"]
    if len(pooled) != 1 - static:
        raise BadEncoder(f"{folder}/modules.json chains {', '.join(kinds)}; it needs one Pooling behind a Transformer.")
    return Chain(
        model=paths[0],
        static=static,
        pooling=pooled[0] if pooled else ("mean",),
        heads=tuple(_head(path) for kind, path in zip(kinds, paths, strict=True) if kind == "Dense"),
        normalize=kinds[-1] == "Normalize",
        **prompts,
    )


def _pooling(path: Path) -> tuple[str, ...]:
    """Names of POOLINGS, in the order in which sentence-transformers puts them side by side."""
    config: dict[str, Any] = read_json(path / "config.json")
    if not config.get("include_prompt", True):
        raise BadEncoder(f"{path}/config.json leaves the prompt out of the pooling, which is not supported.")
    if "pooling_mode" in config:
        told = config["pooling_mode"]
        modes = [told] if isinstance(told, str) else list(told)
    else:
        modes = [key.removeprefix(SWITCH) for key, on in config.items() if key.startswith(SWITCH) and on]
    modes = [OLD.get(mode, mode) for mode in modes]
    for mode in modes or ["none"]:
        if mode not in POOLINGS:
            raise BadEncoder(f"{path}/config.json pools by {mode!r}. {suggest_names(mode, POOLINGS)}")
    return tuple(mode for mode in POOLINGS if mode in modes)


def _head(path: Path) -> Head:
    config = read_json(path / "config.json")
    act = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if act not in ACTS:
        raise BadEncoder(f"{path}/config.json has the activation {act}. {suggest_names(act, ACTS)}")
    return Head(config["out_features"], config.get("bias", True), ACTS[act], weight_files(path)[0])
