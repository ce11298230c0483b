"""Check an entry completely, and derive the shapes of the parameters that it stores."""

import jax
import jax.numpy as jnp

from ea_jax.adapters.families import abstract_params, find_family
from ea_jax.adapters.spec import PURPOSES, Purpose, Spec
from ea_jax.errors import BadEntry
from ea_jax.quality.schema import IMPORTED_SIZES, QUALITY_SIZES, abstract_imported, abstract_quality
from ea_jax.registry.checkpoint import DOWNLOAD_AGAIN, load_params
from ea_jax.registry.entry import Entry
from ea_jax.typing import Params


def check_entry(entry: Entry) -> None:
    """Check the hashes, shapes, dtypes and values of both checkpoints of an entry.

    Raises:
        BadEntry, CorruptCheckpoint: One of them is wrong.
    """
    load_params(entry.path / "params", entry.params, abstract_stored_params(entry.spec("store")))
    load_params(entry.path / "quality", entry.quality, abstract_stored_quality(entry))


def abstract_stored_params(spec: Spec) -> Params:
    """Shapes of the parameters that an entry stores: quantized as by `fit`, with one output layer for each purpose.

    Imported networks are stored unchanged, and have one output layer for both purposes.
    """
    params = abstract_params(spec)
    family = find_family(spec.family)
    if family.fit_features is None:
        return params
    codes = {name: jax.ShapeDtypeStruct(params[name].shape, jnp.int8) for name in family.int8_leaves}
    kernel, bias = params["out"]["kernel"], params["out"]["bias"]
    grid = {"values": jax.ShapeDtypeStruct(kernel.shape, jnp.int8), "scale": bias}
    return params | codes | {"out": {purpose: {"kernel": grid, "bias": bias} for purpose in PURPOSES}}


def select_purpose(stored: Params, purpose: Purpose) -> Params:
    """Select the parameters of one purpose from those that an entry stores."""
    return stored | {"out": stored["out"][purpose]} if "out" in stored else stored


def abstract_stored_quality(entry: Entry) -> Params:
    """Shapes of the quality part that an entry stores.

    Raises:
        BadEntry: entry.toml lacks its sizes.
    """
    imported = find_family(entry.family).fit_features is None
    sizes, expected = entry.quality.get("sizes"), IMPORTED_SIZES if imported else QUALITY_SIZES
    if not isinstance(sizes, dict) or set(sizes) != set(expected) or not all(type(n) is int for n in sizes.values()):
        raise BadEntry(f"{entry.name}: entry.toml does not say the sizes of the quality part. {DOWNLOAD_AGAIN}")
    return (abstract_imported if imported else abstract_quality)(entry.d_in, entry.d_out, sizes)
