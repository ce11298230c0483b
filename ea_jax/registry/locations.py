"""Folders of registries on this machine."""

import os
from pathlib import Path

from ea_jax.errors import BadEntry

PACKAGE = Path(__file__).parent.parent
BUNDLED = PACKAGE / "_registry" if (PACKAGE / "_registry").is_dir() else PACKAGE.parent / "registry"


def registry_folders(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """List registry folders in search order.

    Args:
        root: The only folder to search. If None, those of $EA_JAX_REGISTRY, your own registry and the bundled one.

    Raises:
        BadEntry: A folder does not exist.
    """
    if root is not None:
        folders = [Path(root)]
    else:
        own = user_folder("data") / "registry"
        folders = [Path(part) for part in os.environ.get("EA_JAX_REGISTRY", "").split(os.pathsep) if part]
        folders += [own, BUNDLED] if own.is_dir() else [BUNDLED]
    for folder in folders:
        if not folder.is_dir():
            raise BadEntry(f"The registry folder {folder} does not exist. Check root= and $EA_JAX_REGISTRY.")
    return folders


def user_folder(kind: str) -> Path:
    """The user's folder for `data` (added adapters) or `cache` (downloaded ones) on this system."""
    from platformdirs import user_cache_path, user_data_path

    return (user_data_path if kind == "data" else user_cache_path)("ea_jax")
