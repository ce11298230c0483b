"""Import adapters of embedding-adapters as registry entries, from a folder or a repository on the hub."""

from pathlib import Path

from ea_jax.compat.catalog import PublicAdapter
from ea_jax.compat.checkpoint import ImportedAdapter, read_checkpoint
from ea_jax.errors import BadEntry, BadInput
from ea_jax.io.hub_errors import explain_hub_errors
from ea_jax.quality.schema import imported_sizes
from ea_jax.registry.locations import user_folder
from ea_jax.registry.lookup import format_entry_name, list_entries
from ea_jax.registry.model_card import format_front_matter
from ea_jax.registry.spaces import Space, find_space
from ea_jax.registry.writer import write_entry

INCLUDE = ["*.pt", "*.json", "*.npz"]


def import_adapter(where: str, out: Path, flavor: str = "imported") -> Path:
    """Turn a folder or a Hugging Face repository of an embedding-adapters adapter into a registry entry.

    Args:
        where: A folder with `adapter*.pt`, `adapter_config*.json` and `adapter_quality_stats*.npz`, or the id of a
            repository, `owner/name`.
        out: Registry folder.
        flavor: Name of the adapter among those of the pair.

    Returns:
        The entry's folder.

    Raises:
        BadEntry, CorruptCheckpoint: The files are incomplete or invalid. Nothing is written.
        UnknownName: A model of the adapter is in no registry.
        BadInput: The repository cannot be downloaded.
    """
    folder = Path(where) if Path(where).is_dir() else _download(where)
    adapter = read_checkpoint(folder)
    if adapter.quality is None:
        raise BadEntry(f"{folder} has no adapter_quality_stats*.npz, which the confidence of an entry needs.")
    source, target = (find_space(name) for name in (adapter.spec.source, adapter.spec.target))
    for space, width in ((source, adapter.spec.d_in), (target, adapter.spec.d_out)):
        if space.width != width:
            raise BadEntry(f"{folder} gives {space.id} width {width}, but its width is {space.width}.")
    facts = {
        "family": adapter.spec.family,
        "source": source.id,
        "target": target.id,
        "flavor": flavor,
        "d_in": adapter.spec.d_in,
        "d_out": adapter.spec.d_out,
        "unit_norm": adapter.spec.unit_norm,
        "sizes": dict(adapter.spec.sizes),
        "description": f"Imported from embedding-adapters: {where if folder != Path(where) else folder.name}",
        "tags": ["imported"],
        "encoder": {"model": source.id, "fingerprint": ""},
        "training": {},
        "metrics": {},
    }
    name = format_entry_name(source, target, flavor)
    sizes = imported_sizes(adapter.quality)
    card = format_front_matter(name, (source, target), {}) + _card(adapter, source, target, flavor)
    return write_entry(out, name, facts, adapter.params, adapter.quality, sizes, card)


def fetch_public_adapter(public: PublicAdapter) -> Path:
    """Download and import a public adapter into the user's cache, once, and return its entry.

    Raises:
        BadInput: The adapter is encrypted or for subscribers, or its repository cannot be downloaded.
    """
    if public.locked:
        raise BadInput(
            f"{public.repo} is {public.locked}: only its makers' customers have the key, so it cannot be loaded here. "
            "`ea-jax list` shows the free adapters; `ea-jax fit` makes one for this pair from your own vectors."
        )
    root = user_folder("cache") / "embedding-adapters" / public.repo.replace("/", "--")
    imported = [entry.path for entry in list_entries(root)] if root.is_dir() else []
    return imported[0] if imported else import_adapter(public.repo, root, public.flavor)


def _download(repo: str) -> Path:
    from huggingface_hub import snapshot_download

    with explain_hub_errors(repo, "Try again, or import a folder."):
        folder = Path(snapshot_download(repo, allow_patterns=INCLUDE))
    if not any(folder.glob("*.pt")):
        raise BadInput(f"{repo} has no adapter*.pt: it is encrypted, or not an adapter.")
    return folder


def _card(adapter: ImportedAdapter, source: Space, target: Space, flavor: str) -> str:
    sizes = dict(adapter.spec.sizes)
    return f"""
# {source.alias} to {target.alias}, flavor {flavor}

Imported from embedding-adapters: a residual network of width {sizes["width"]:,} and depth {sizes["depth"]:,}, with its
own quality statistics. Its training texts and accuracy are not recorded: measure it on your own pairs.
"""
