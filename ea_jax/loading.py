"""`load`, `load_quality`, `load_encoder`: from names to the three objects, each checked whole before it is returned."""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ea_jax.adapters.adapter import Adapter, compose
from ea_jax.adapters.families import abstract_params
from ea_jax.adapters.quantization import WHOLE, unpacked
from ea_jax.adapters.spec import PURPOSES, Purpose, Spec
from ea_jax.checkpoint import AGAIN, load_params
from ea_jax.composites import load_composite
from ea_jax.data.vectors import encoder_facts
from ea_jax.devices import fast_dtype
from ea_jax.encoder import Encoder
from ea_jax.errors import BadEntry, BadInput, FingerprintMismatch, UnknownName
from ea_jax.folders import load_folder
from ea_jax.hub import encoder_folder
from ea_jax.importing import fetch_seed
from ea_jax.public import find_seed
from ea_jax.quality.schema import IMPORTED, SIZES, abstract_imported, abstract_quality, prepared
from ea_jax.quality.scores import Quality
from ea_jax.registry import Entry, entries, find_space
from ea_jax.routes import hop_entries
from ea_jax.spaces import members_of
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
    stored = prepared(load_params(entry.path / "quality", entry.quality, abstract))
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
        return composite.windowed(1) if long == "cut" else composite
    else:
        found = encoder_folder(space, Path(folder) if folder is not None else None)
        encoder = load_folder(found, space, dim=dim, dtype=dtype)
    return encoder.windowed() if long == "window" else encoder


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
        listed = find_seed(source, target, flavor) if root is None else None
        if listed is None:
            raise
        (entry,) = entries(fetch_seed(listed).parent)
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
    encoder = encoder.prompted(named[0]) if named else encoder
    check_fingerprint(entry, encoder)
    return encoder


def check_fingerprint(entry: Entry, encoder: Encoder) -> None:
    """Raise FingerprintMismatch, naming the facts that differ, unless the adapter was fitted on this encoder."""
    ours = encoder.spec.facts()
    if not same_encoder(entry.encoder, ours):
        raise FingerprintMismatch(
            f"{entry.name} was fitted on another encoder: {_apart(entry.encoder, ours)}. "
            "Use the encoder that it names, or fit an adapter on yours."
        )


def check_provenance(entry: Entry, facts: Mapping[str, Any], where: str, assume_source: bool = False) -> dict[str, Any]:
    """`check_source` of vectors against what an adapter was fitted on."""
    return check_source(entry.encoder, facts, where, entry.name, assume_source)


def check_source(
    wanted: Mapping[str, Any], facts: Mapping[str, Any] | None, where: str, adapter: str, assume_source: bool = False
) -> dict[str, Any]:
    """Check what is said of the encoder of vectors against what an adapter was, or is to be, fitted on.

    Args:
        wanted: Facts of the adapter's encoder, with their `fingerprint`.
        facts: The same of the vectors', as `EncoderSpec.facts` gives them; None where nothing is said.
        where: What says so, for people.
        adapter: Its name, likewise.
        assume_source: Take the vectors for the source model's, whatever is said of them.

    Returns:
        What to say of it in an output's metadata: empty, or under `assumed_source` the facts that were overruled.

    Raises:
        FingerprintMismatch: They differ; the message spells out both, field by field.
    """
    if facts is None or same_encoder(wanted, facts):
        return {}
    if assume_source:
        return {"assumed_source": dict(facts)}
    raise FingerprintMismatch(
        f"{where} holds vectors of another encoder than {adapter} was fitted on: {_apart(wanted, facts)}. "
        "Use an adapter of that encoder, or override with --assume-source."
    )


def check_files(files: Iterable[Path], wanted: Mapping[str, Any], adapter: str, assume_source: bool) -> dict[str, Any]:
    """`check_source` of the column x of each file that says what made it."""
    found: dict[str, Any] = {}
    for file in files:
        found |= check_source(wanted, encoder_facts(file), str(file), adapter, assume_source)
    return found


def same_encoder(wanted: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether the facts are of this encoder; of this model, where one side knows no more than a name."""
    known = "fingerprint" if wanted.get("fingerprint") and facts.get("fingerprint") else "model"
    return facts.get(known) == wanted.get(known)


def _apart(wanted: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    keys = [key for key in dict.fromkeys([*wanted, *facts]) if facts.get(key) != wanted.get(key)]
    return "; ".join(f"{key} {facts.get(key)!r} for {wanted.get(key)!r}" for key in keys)


def check_entry(entry: Entry) -> None:
    """Read an entry whole: hashes, shapes, dtypes and values of both its checkpoints.

    Raises:
        BadEntry, CorruptCheckpoint: It is not whole.
    """
    load_params(entry.path / "params", entry.params, stored_abstract(entry.spec("store")))
    load_params(entry.path / "quality", entry.quality, quality_abstract(entry))


def stored_abstract(spec: Spec) -> Params:
    """Shapes of what an entry stores: weights on grids where `fit` puts them, and one last layer for each purpose.

    An imported network is stored as it is, and serves both purposes alike.
    """
    params = abstract_params(spec)
    if "out" not in params:
        return params
    whole = {name: jax.ShapeDtypeStruct(params[name].shape, jnp.int8) for name in WHOLE & params.keys()}
    kernel, bias = params["out"]["kernel"], params["out"]["bias"]
    grid = {"values": jax.ShapeDtypeStruct(kernel.shape, jnp.int8), "scale": bias}
    return params | whole | {"out": {purpose: {"kernel": grid, "bias": bias} for purpose in PURPOSES}}


def of_purpose(stored: Params, purpose: Purpose) -> Params:
    """The parameters of one purpose, out of what an entry stores."""
    return stored | {"out": stored["out"][purpose]} if "out" in stored else stored


def quality_abstract(entry: Entry) -> Params:
    """Shapes of the quality part that an entry stores.

    Raises:
        BadEntry: entry.toml does not say its sizes.
    """
    sizes, wanted = entry.quality.get("sizes"), IMPORTED if entry.family == "resmlp" else SIZES
    if not isinstance(sizes, dict) or set(sizes) != set(wanted) or not all(type(n) is int for n in sizes.values()):
        raise BadEntry(f"{entry.name}: entry.toml does not say the sizes of the quality part. {AGAIN}")
    make = abstract_imported if entry.family == "resmlp" else abstract_quality
    return make(entry.d_in, entry.d_out, sizes)


def _adapter(entry: Entry, purpose: Purpose, dtype: str, sharding: jax.sharding.Sharding | None) -> Adapter:
    spec = entry.spec(purpose)
    stored = load_params(entry.path / "params", entry.params, stored_abstract(spec))
    return Adapter(spec, _placed(unpacked(of_purpose(stored, purpose), dtype), sharding))


def _product_dtype(name: str | None) -> str:
    name = name or fast_dtype()
    if name not in DTYPES:
        raise BadInput(f"dtype is {name!r}; it must be one of {', '.join(DTYPES)}.")
    return name


def _placed(params: Params, sharding: jax.sharding.Sharding | None) -> Params:
    return params if sharding is None else jax.device_put(params, sharding)
