"""`load`, `load_quality`, `load_encoder`: from names to the three objects, each checked whole before it is returned."""

import os
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import jax

from ea_jax.adapters.adapter import Adapter, compose
from ea_jax.adapters.quantization import dequantize
from ea_jax.adapters.spec import PURPOSES, Purpose
from ea_jax.compat.catalog import find_public_adapter
from ea_jax.compat.importer import fetch_public_adapter
from ea_jax.devices import fast_dtype
from ea_jax.encoders.composite import load_composite
from ea_jax.encoders.encoder import Encoder
from ea_jax.encoders.load_folder import load_folder
from ea_jax.encoders.locate import find_encoder_folder
from ea_jax.errors import BadInput, UnknownName
from ea_jax.quality.schema import prepare_quality
from ea_jax.quality.scores import Quality
from ea_jax.registry.checkpoint import load_params
from ea_jax.registry.entry import Entry
from ea_jax.registry.fingerprint import check_fingerprint
from ea_jax.registry.lookup import entries
from ea_jax.registry.routes import hop_entries
from ea_jax.registry.spaces import find_space, members_of
from ea_jax.registry.validate import of_purpose, quality_abstract, stored_abstract
from ea_jax.typing import Params

DTYPES = ("float32", "bfloat16")
LONG = ("cut", "window")
Root = str | os.PathLike[str] | None


def load(
    source: str,
    target: str,
    *,
    via: str | Sequence[str] | None = None,
    flavor: str | None = None,
    purpose: Purpose = "store",
    dtype: str | None = None,
    sharding: jax.sharding.Sharding | None = None,
    root: Root = None,
) -> Adapter:
    """The adapter between two spaces, or several in a chain that stop at others on the way.

    `load_quality` from the source to the first stop judges the inputs of a chain. `ea-jax paths` lists what stops cost.

    Args:
        source: Model that made the embeddings, by id or alias.
        target: Model whose space they go to, by id or alias.
        via: A space on the way, or several in order; the direct adapter if None.
        flavor: Which adapter of the pair: `small` is the fastest, `large` the best. If None, `small` where there is
            one, or the only one; so too on the way for pairs that lack the flavor.
        purpose: `store` for faithful vectors, `query` for best recall against a native index. On the way to the last
            stop it is always `store`.
        dtype: What products with weights of few bits are taken in, `float32` or `bfloat16`; sums are always float32. If
            None, bfloat16 where the device has instructions for it. Such weights are exact in both.
        sharding: Where the parameters go; the default device if None.
        root: A registry folder; $EA_JAX_REGISTRY and the bundled one if None.

    Raises:
        UnknownName: A space, a pair or the flavor is not there; the message names a way round, if one was measured.
        BadInput: The purpose is neither of the two.
        BadEntry, CorruptCheckpoint: The stored adapter is not whole. Nothing is loaded in part.
    """
    if purpose not in PURPOSES:
        raise BadInput(f"purpose is {purpose!r}; it must be 'store' or 'query'.")
    stops = [via] if isinstance(via, str) else list(via or ())
    direct = None if stops else entry_for(source, target, flavor, root)
    *before, last = [direct] if direct else hop_entries([source, *stops, target], flavor, root)
    dtype = _product_dtype(dtype)
    chain = [_adapter(entry, "store", dtype, sharding) for entry in before]
    return reduce(compose, [*chain, _adapter(last, purpose, dtype, sharding)])


def load_quality(
    source: str,
    target: str,
    *,
    flavor: str | None = None,
    dtype: str | None = None,
    sharding: jax.sharding.Sharding | None = None,
    root: Root = None,
) -> Quality:
    """The quality part of the adapter that `load` gives for the same names. Args and errors are those of `load`."""
    entry = entry_for(source, target, flavor, root)
    abstract = quality_abstract(entry)
    stored = prepare_quality(load_params(entry.path / "quality", entry.quality, abstract))
    adapter = _adapter(entry, "store", _product_dtype(dtype), sharding)
    return Quality(adapter.spec, {**_placed(stored, sharding), "adapter": adapter.params})


def load_encoder(
    name: str | os.PathLike[str],
    *,
    folder: str | os.PathLike[str] | None = None,
    dim: int | None = None,
    dtype: str | None = None,
    long: str | None = None,
    root: Root = None,
) -> Encoder:
    """The encoder of a local model, or of a composite such as `minilm@0,3,6+wordllama`.

    Args:
        name: Its id or alias; the members of a composite; or the path of a sentence-transformers folder.
        folder: Where its files are; hub cache, installed weight package and hub are searched if None.
        dim: How many leading numbers are kept, for models trained for that (Matryoshka); all if None.
        long: What becomes of a text beyond the model's limit: `cut` it there, as sentence-transformers does, or read it
            in as many as six windows, `window`, whose tokens are averaged. If None, composites use windows and other
            encoders cut.
        dtype: What products are taken in, `float32` or `bfloat16`; sums are always float32. If None, bfloat16 where the
            device has instructions for it, which changes MiniLM's vectors to a cosine of .9999, and float32 elsewhere.
        root: A registry folder whose spaces are known too.

    Raises:
        UnknownName: No model of this name, and no such folder.
        EncoderNotFound: Its files are nowhere; the message says how to get them.
        BadEncoder: Its files are incomplete, unsupported, or another model's.
        BadInput: It is no possible composite; or dim, folder, long or dtype does not go with the model.
    """
    if long not in (None, *LONG):
        raise BadInput(f"long is {long!r}; it must be one of {', '.join(LONG)}.")
    dtype = _product_dtype(dtype)
    if Path(name).is_dir():
        encoder = load_folder(Path(name), dim=dim, dtype=dtype)
    elif (space := find_space(str(name), root)).composite:
        if dim is not None or folder is not None:
            option = "dim" if dim is not None else "folder"
            raise BadInput(f"{space.alias} is a composite, which takes no {option}. Load it without.")
        composite = load_composite(space, members_of(space, root), dtype=dtype)
        return composite.with_windows(1) if long == "cut" else composite
    else:
        found = find_encoder_folder(space, Path(folder) if folder is not None else None)
        encoder = load_folder(found, space, dim=dim, dtype=dtype)
    return encoder.with_windows() if long == "window" else encoder


def entry_for(source: str, target: str, flavor: str | None = None, root: Root = None) -> Entry:
    """The entry of the names: of a registry here, else of one on the hub, else a public adapter of embedding-adapters.

    Raises:
        UnknownName: Neither has it.
        BadInput: It is encrypted or for subscribers, or cannot be fetched.
    """
    try:
        (entry,) = hop_entries([source, target], flavor, root)
        return entry
    except UnknownName:
        listed = find_public_adapter(source, target, flavor) if root is None else None
        if listed is None:
            raise
        (entry,) = entries(fetch_public_adapter(listed).parent)
        return entry


def source_encoder(entry: Entry) -> Encoder:
    """The encoder that an adapter was fitted on, with the prompt that it was fitted with as the default.

    Raises:
        FingerprintMismatch: The files here are of another encoder.
        UnknownName, EncoderNotFound, BadEncoder: As `load_encoder`.
    """
    long = "window" if isinstance(entry.encoder.get("windows"), int) else None
    encoder = load_encoder(entry.source, long=long, root=entry.path.parent)
    spec, prefix = encoder.spec, entry.encoder.get("prefix")
    named = [name for name, text in spec.prompts if text == prefix != spec.prefix(None)]
    encoder = encoder.with_prompt(named[0]) if named else encoder
    check_fingerprint(entry, encoder.spec.facts())
    return encoder


def _adapter(entry: Entry, purpose: Purpose, dtype: str, sharding: jax.sharding.Sharding | None) -> Adapter:
    spec = entry.spec(purpose)
    stored = load_params(entry.path / "params", entry.params, stored_abstract(spec))
    return Adapter(spec, _placed(dequantize(of_purpose(stored, purpose), dtype), sharding))


def _product_dtype(name: str | None) -> str:
    name = name or fast_dtype()
    if name not in DTYPES:
        raise BadInput(f"dtype is {name!r}; it must be one of {', '.join(DTYPES)}.")
    return name


def _placed(params: Params, sharding: jax.sharding.Sharding | None) -> Params:
    return params if sharding is None else jax.device_put(params, sharding)
