"""Load adapters, quality parts and encoders by name or from a registry entry, and check each of them."""

import os
from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path

import jax

from ea_jax.adapters.adapter import Adapter, compose, truncate
from ea_jax.adapters.quantization import dequantize
from ea_jax.adapters.spec import PURPOSES, Purpose
from ea_jax.compat.catalog import find_public_adapter
from ea_jax.devices import fast_dtype, keep_compiled_programs
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
from ea_jax.registry.lookup import list_entries
from ea_jax.registry.routes import resolve_route
from ea_jax.registry.spaces import find_space, list_members
from ea_jax.registry.validate import abstract_stored_params, abstract_stored_quality, select_purpose
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
    dim: int | None = None,
    dtype: str | None = None,
    sharding: jax.sharding.Sharding | None = None,
    root: Root = None,
) -> Adapter:
    """Load the adapter from one space to another, or a chain of adapters through intermediate spaces.

    To score the inputs of a chain, use `load_quality` from the source to the first intermediate space. `ea-jax paths`
    lists the recall that each intermediate space costs.

    Args:
        source: Model that made the embeddings, by id or alias.
        target: Model whose space they are mapped to, by id or alias.
        via: An intermediate space, or several in order. If None, the direct adapter is loaded.
        flavor: Name of one adapter among those of the pair. If None, the first registry that has any decides, so that
            your own adapters come before the bundled ones: `small`, or its only one. In a chain, pairs without this
            flavor use their default.
        purpose: `store` for vectors as close as possible to native ones, `query` for the best recall against an index
            of native vectors. All adapters of a chain but the last are `store` adapters.
        dim: Number of leading outputs to keep, for an index of shortened vectors of a Matryoshka target. If None, all.
        dtype: Precision of products with int8 weights, `float32` or `bfloat16`; sums are always float32. Both represent
            the weights exactly. If None, bfloat16 where the device multiplies it faster than float32.
        sharding: Where the parameters are placed. If None, the default device.
        root: Registry folder. If None, the folders of $EA_JAX_REGISTRY, your own registry and the bundled one.

    Raises:
        UnknownName: The space, the pair or the flavor is unknown. The message suggests a measured route of two hops.
        BadInput: `purpose` or `dtype` is unknown, or `dim` is given for a target that cannot be shortened.
        BadEntry, CorruptCheckpoint: The stored adapter is damaged. Nothing is loaded in part.
    """
    _check_purpose(purpose)
    check_dim(target, dim, root)
    stops = [via] if isinstance(via, str) else list(via or ())
    if stops:
        *before, last = resolve_route([source, *stops, target], flavor, root)
    else:
        before, last = [], resolve_entry(source, target, flavor, root)
    chain = [load_adapter(entry, dtype=dtype, sharding=sharding) for entry in before]
    adapter = reduce(compose, [*chain, load_adapter(last, purpose, dtype=dtype, sharding=sharding)])
    return adapter if dim is None else truncate(adapter, dim)


def load_quality(
    source: str,
    target: str,
    *,
    flavor: str | None = None,
    dtype: str | None = None,
    sharding: jax.sharding.Sharding | None = None,
    root: Root = None,
) -> Quality:
    """Load the quality part of the adapter that `load` returns for the same names. Args and errors are those of `load`.

    Reads the adapter too. To read it once for both, use `load_adapter` and `load_quality_part`.
    """
    entry = resolve_entry(source, target, flavor, root)
    return load_quality_part(entry, load_adapter(entry, dtype=dtype, sharding=sharding), sharding=sharding)


def check_dim(target: str, dim: int | None, root: Root) -> None:
    """Raise BadInput if the leading dimensions of a target model are not an embedding."""
    if dim is None:
        return
    try:
        space = find_space(target, root)
    except UnknownName:
        return
    if not space.matryoshka:
        raise BadInput(f"{target} is not a Matryoshka model: its first {dim} dimensions are no embedding. Omit dim.")


def load_adapter(
    entry: Entry,
    purpose: Purpose = "store",
    *,
    dtype: str | None = None,
    sharding: jax.sharding.Sharding | None = None,
) -> Adapter:
    """Load the adapter of a registry entry. Args and errors are those of `load`."""
    return load_adapters(entry, [purpose], dtype=dtype, sharding=sharding)[purpose]


def load_adapters(
    entry: Entry,
    purposes: Iterable[Purpose] = PURPOSES,
    *,
    dtype: str | None = None,
    sharding: jax.sharding.Sharding | None = None,
) -> dict[Purpose, Adapter]:
    """Load the adapters of a registry entry for several purposes, reading its checkpoint once.

    Args and errors are those of `load`.
    """
    purposes, dtype = list(purposes), _check_dtype(dtype)
    for purpose in purposes:
        _check_purpose(purpose)
    keep_compiled_programs()
    stored = load_params(entry.path / "params", entry.params, abstract_stored_params(entry.spec("store")))
    return {
        purpose: Adapter(entry.spec(purpose), _place(dequantize(select_purpose(stored, purpose), dtype), sharding))
        for purpose in purposes
    }


def load_quality_part(entry: Entry, adapter: Adapter, *, sharding: jax.sharding.Sharding | None = None) -> Quality:
    """Load the quality part of a registry entry.

    Args:
        entry: The registry entry.
        adapter: Its adapter for `store`, whose outputs the scores describe.
        sharding: Where the parameters are placed. If None, the default device.

    Raises:
        BadInput: `adapter` is not the entry's adapter for `store`.
        BadEntry, CorruptCheckpoint: The stored quality part is damaged.
    """
    if adapter.spec != entry.spec("store"):
        raise BadInput(f"The adapter is not that of {entry.name} for the purpose 'store'. Load it from the same entry.")
    stored = prepare_quality(load_params(entry.path / "quality", entry.quality, abstract_stored_quality(entry)))
    return Quality(adapter.spec, {**_place(stored, sharding), "adapter": adapter.params})


def load_encoder(
    name: str | os.PathLike[str],
    *,
    folder: str | os.PathLike[str] | None = None,
    dim: int | None = None,
    dtype: str | None = None,
    long: str | None = None,
    root: Root = None,
) -> Encoder:
    """Load the encoder of a local model, or of a composite such as `minilm@0,3,6+wordllama`.

    Args:
        name: Id or alias of the model; the members of a composite; or the path of a sentence-transformers folder.
        folder: Folder of the model's files. If None, the hub's cache, installed weight packages and the hub are
            searched.
        dim: Number of leading dimensions to keep, for models trained for it (Matryoshka). If None, all.
        long: What happens to texts longer than the model's limit: `cut` truncates them, as sentence-transformers does;
            `window` reads them in at most six windows and averages their tokens. If None, `window` for composites and
            `cut` for other encoders.
        dtype: Precision of products, `float32` or `bfloat16`; sums are always float32. If None, bfloat16 where the
            device multiplies it faster, which changes MiniLM's vectors to a cosine of .9999, and float32 elsewhere.
        root: Registry folder whose spaces are known besides the others.

    Raises:
        UnknownName: No model and no folder has this name.
        EncoderNotFound: The model's files are not available; the message says how to get them.
        BadEncoder: The files are incomplete, unsupported, or belong to another model.
        BadInput: The composite is not valid; or `dim`, `folder`, `long` or `dtype` does not suit the model.
    """
    if long not in (None, *LONG):
        raise BadInput(f"long is {long!r}; it must be one of {', '.join(LONG)}.")
    dtype = _check_dtype(dtype)
    keep_compiled_programs()
    if Path(name).is_dir():
        encoder = load_folder(Path(name), dim=dim, dtype=dtype)
    elif (space := find_space(str(name), root)).composite:
        if dim is not None or folder is not None:
            option = "dim" if dim is not None else "folder"
            raise BadInput(f"{space.alias} is a composite, which takes no {option}. Load it without.")
        composite = load_composite(space, list_members(space, root), dtype=dtype)
        return composite.with_windows(1) if long == "cut" else composite
    else:
        files = find_encoder_folder(space, Path(folder) if folder is not None else None)
        encoder = load_folder(files, space, dim=dim, dtype=dtype)
    return encoder.with_windows() if long == "window" else encoder


def load_source_encoder(entry: Entry) -> Encoder:
    """Load the encoder that an adapter was fitted on. Its default prompt is the one used in the fit.

    Raises:
        FingerprintMismatch: The files on this machine belong to another encoder.
        UnknownName, EncoderNotFound, BadEncoder: As `load_encoder`.
    """
    long = "window" if isinstance(entry.encoder.get("windows"), int) else None
    encoder = load_encoder(entry.source, long=long, root=entry.path.parent)
    spec, prefix = encoder.spec, entry.encoder.get("prefix")
    prompts = [name for name, text in spec.prompts if text == prefix != spec.prefix(None)]
    encoder = encoder.with_prompt(prompts[0]) if prompts else encoder
    check_fingerprint(entry, encoder.spec.facts())
    return encoder


def resolve_entry(source: str, target: str, flavor: str | None = None, root: Root = None) -> Entry:
    """Find an adapter's entry: in the registries of this machine, on the hub, or among those of embedding-adapters.

    Entries that are not on this machine are downloaded.

    Raises:
        UnknownName: No registry has the adapter.
        BadInput: It is encrypted or for subscribers.
        Unavailable: It cannot be downloaded.
    """
    try:
        (entry,) = resolve_route([source, target], flavor, root)
        return entry
    except UnknownName:
        listed = find_public_adapter(source, target, flavor) if root is None else None
        if listed is None:
            raise
        from ea_jax.compat.importer import fetch_public_adapter  # takes time, and is rarely needed

        (entry,) = list_entries(fetch_public_adapter(listed).parent)
        return entry


def _check_purpose(purpose: str) -> None:
    if purpose not in PURPOSES:
        raise BadInput(f"purpose is {purpose!r}; it must be 'store' or 'query'.")


def _check_dtype(name: str | None) -> str:
    name = name or fast_dtype()
    if name not in DTYPES:
        raise BadInput(f"dtype is {name!r}; it must be one of {', '.join(DTYPES)}.")
    return name


def _place(params: Params, sharding: jax.sharding.Sharding | None) -> Params:
    return params if sharding is None else jax.device_put(params, sharding)
