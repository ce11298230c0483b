"""`load`, `load_quality`, `load_encoder`: from names to the three objects, each checked whole before it is returned."""

import os
from pathlib import Path

import jax

from ea_jax.adapter import Adapter
from ea_jax.arrays import Params
from ea_jax.checkpoint import load_params
from ea_jax.devices import fast_dtype
from ea_jax.encoder import Encoder
from ea_jax.errors import BadInput, FingerprintMismatch
from ea_jax.folders import load_folder
from ea_jax.hub import encoder_folder
from ea_jax.models import abstract_params
from ea_jax.quality import Quality, abstract_quality
from ea_jax.registry import Entry, find_entry, find_space
from ea_jax.spec import Purpose

DTYPES = ("float32", "bfloat16")
PURPOSES: tuple[Purpose, ...] = ("store", "query")
Root = str | os.PathLike[str] | None


def load(
    source: str,
    target: str,
    *,
    flavor: str | None = None,
    purpose: Purpose = "store",
    sharding: jax.sharding.Sharding | None = None,
    root: Root = None,
) -> Adapter:
    """The adapter between two spaces.

    Args:
        source: Model that made the embeddings, by id or alias.
        target: Model whose space they go to, by id or alias.
        flavor: Which adapter of the pair; may be left out where there is one only.
        purpose: `store` for faithful vectors, `query` for best recall against a native index.
        sharding: Where the parameters go; the default device if None.
        root: A registry folder; $EA_JAX_REGISTRY and the bundled one if None.

    Raises:
        UnknownName: A space, the pair or the flavor is not there.
        BadInput: The purpose is neither of the two.
        BadEntry, CorruptCheckpoint: The stored adapter is not whole. Nothing is loaded in part.
    """
    if purpose not in PURPOSES:
        raise BadInput(f"purpose is {purpose!r}; it must be 'store' or 'query'.")
    entry = find_entry(source, target, flavor, root)
    spec = entry.spec(purpose)
    stored = load_params(entry.path / "params", entry.params, stored_abstract(abstract_params(spec)), sharding)
    return Adapter(spec, of_purpose(stored, purpose))


def load_quality(
    source: str,
    target: str,
    *,
    flavor: str | None = None,
    sharding: jax.sharding.Sharding | None = None,
    root: Root = None,
) -> Quality:
    """The quality part of the adapter that `load` gives for the same names. Args and errors are those of `load`."""
    entry = find_entry(source, target, flavor, root)
    abstract = abstract_quality(entry.d_in, entry.quality["references"])
    return Quality(entry.spec("store"), load_params(entry.path / "quality", entry.quality, abstract, sharding))


def load_encoder(
    name: str | os.PathLike[str],
    *,
    folder: str | os.PathLike[str] | None = None,
    dim: int | None = None,
    dtype: str | None = None,
    root: Root = None,
) -> Encoder:
    """The encoder of a local model.

    Args:
        name: Its id or alias; or the path of a sentence-transformers folder.
        folder: Where its files are; hub cache, installed weight package and hub are searched if None.
        dim: How many leading numbers are kept, for models trained for that (Matryoshka); all if None.
        dtype: What products are taken in, `float32` or `bfloat16`; sums are always float32. If None, bfloat16 where the
            device has instructions for it, which changes MiniLM's vectors to a cosine of .9999, and float32 elsewhere.
        root: A registry folder whose spaces are known too.

    Raises:
        UnknownName: No model of this name, and no such folder.
        EncoderNotFound: Its files are nowhere; the message says how to get them.
        BadEncoder: Its files are incomplete, unsupported, or another model's.
    """
    dtype = dtype or fast_dtype()
    if dtype not in DTYPES:
        raise BadInput(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}.")
    if Path(name).is_dir():
        return load_folder(Path(name), dim=dim, dtype=dtype)
    space = find_space(str(name), root)
    found = encoder_folder(space, Path(folder) if folder is not None else None)
    return load_folder(found, space, dim=dim, dtype=dtype)


def check_fingerprint(entry: Entry, encoder: Encoder) -> None:
    """Raise FingerprintMismatch, naming the facts that differ, unless the adapter was fitted on this encoder."""
    ours = encoder.spec.facts()
    if ours["fingerprint"] != entry.encoder["fingerprint"]:
        told = [
            f"{key} {ours[key]!r} for {entry.encoder.get(key)!r}" for key in ours if ours[key] != entry.encoder.get(key)
        ]
        raise FingerprintMismatch(
            f"{entry.name} was fitted on another encoder: {'; '.join(told)}. "
            "Use the encoder that it names, or fit an adapter on yours."
        )


def stored_abstract(params: Params) -> Params:
    """Shapes of what an entry stores: the parameters, with one last layer `out` for each purpose."""
    return params | {"out": dict.fromkeys(PURPOSES, params["out"])}


def of_purpose(stored: Params, purpose: Purpose) -> Params:
    """The parameters of one purpose, out of what an entry stores."""
    return stored | {"out": stored["out"][purpose]}
