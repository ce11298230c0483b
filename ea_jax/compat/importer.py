"""Adapters of embedding-adapters as registry entries: from a folder, or from its public repositories."""

from pathlib import Path

from ea_jax.compat.catalog import PublicAdapter
from ea_jax.compat.checkpoint import ImportedAdapter, read_checkpoint
from ea_jax.errors import BadEntry, BadInput
from ea_jax.io.hub_errors import explain_hub_errors
from ea_jax.quality.schema import imported_sizes
from ea_jax.registry.locations import user_folder
from ea_jax.registry.lookup import list_entries
from ea_jax.registry.model_card import format_front_matter
from ea_jax.registry.spaces import Space, find_space
from ea_jax.registry.writer import write_entry

WANTED = ["*.pt", "*.json", "*.npz"]


def import_adapter(where: str, out: Path, flavor: str = "imported") -> Path:
    """Turn a folder or a Hugging Face repository of an embedding-adapters adapter into a registry entry.

    Args:
        where: A folder with `adapter*.pt`, `adapter_config*.json` and `adapter_quality_stats*.npz`; or a repository's
            id, `owner/name`.
        out: Registry folder.
        flavor: What to call it beside other adapters of the pair.

    Returns:
        The entry's folder.

    Raises:
        BadEntry, CorruptCheckpoint: The files are not whole, or not what they should be. Nothing is written.
        UnknownName: One of its models is in no registry.
        BadInput: The repository cannot be fetched.
    """
    folder = Path(where) if Path(where).is_dir() else _fetched(where)
    found = read_checkpoint(folder)
    if found.quality is None:
        raise BadEntry(f"{folder} has no adapter_quality_stats*.npz, which every entry needs for its confidence.")
    source, target = (find_space(name) for name in (found.spec.source, found.spec.target))
    for space, width in ((source, found.spec.d_in), (target, found.spec.d_out)):
        if space.width != width:
            raise BadEntry(f"{folder} says that {space.id} has width {width}; it has {space.width}.")
    facts = {
        "family": found.spec.family,
        "source": source.id,
        "target": target.id,
        "flavor": flavor,
        "d_in": found.spec.d_in,
        "d_out": found.spec.d_out,
        "unit_norm": found.spec.unit_norm,
        "sizes": dict(found.spec.sizes),
        "description": f"Imported from embedding-adapters: {where if folder != Path(where) else folder.name}",
        "tags": ["imported"],
        "encoder": {"model": source.id, "fingerprint": ""},
        "training": {},
        "metrics": {},
    }
    name = f"{source.alias}--{target.alias}--{flavor}"
    sizes = imported_sizes(found.quality)
    card = format_front_matter(name, (source, target), {}) + _card(found, source, target, flavor)
    return write_entry(out, name, facts, found.params, found.quality, sizes, card)


def fetch_public_adapter(listed: PublicAdapter) -> Path:
    """The entry of a listed adapter, fetched and imported once into the user's cache.

    Raises:
        BadInput: It is encrypted or for subscribers, or its repository cannot be fetched.
    """
    if listed.locked:
        raise BadInput(
            f"{listed.repo} is {listed.locked}: its makers give the key to paying customers, so it cannot be loaded "
            "here. `ea-jax list` shows what is free; `ea-jax fit` makes an adapter of the pair from your own vectors."
        )
    root = user_folder("cache") / "embedding-adapters" / listed.repo.replace("/", "--")
    there = [entry.path for entry in list_entries(root)] if root.is_dir() else []
    return there[0] if there else import_adapter(listed.repo, root, listed.flavor)


def _fetched(repo: str) -> Path:
    from huggingface_hub import snapshot_download

    with explain_hub_errors(repo, "Try again, or import a folder."):
        folder = Path(snapshot_download(repo, allow_patterns=WANTED))
    if not any(folder.glob("*.pt")):
        raise BadInput(f"{repo} has no adapter*.pt: it is encrypted, or no adapter.")
    return folder


def _card(found: ImportedAdapter, source: Space, target: Space, flavor: str) -> str:
    sizes = dict(found.spec.sizes)
    return f"""
# {source.alias} to {target.alias}, flavor {flavor}

Imported from embedding-adapters: its residual network, {sizes["width"]:,} wide and {sizes["depth"]:,} deep, with its
own quality statistics. Which texts it was trained on, and how well it does, is not recorded: judge it on your pairs.
"""
