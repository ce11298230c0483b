"""Where registries are on this machine."""

import os
from pathlib import Path

from ea_jax.errors import BadEntry

PACKAGE = Path(__file__).parent.parent
BUNDLED = PACKAGE / "_registry" if (PACKAGE / "_registry").is_dir() else PACKAGE.parent / "registry"


def registry_folders(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """Registry folders in search order: `root` alone if given, else those of $EA_JAX_REGISTRY, the user's, the bundled.

    Raises:
        BadEntry: A folder does not exist.
    """
    if root is not None:
        found = [Path(root)]
    else:
        own = user_folder("data") / "registry"
        found = [Path(part) for part in os.environ.get("EA_JAX_REGISTRY", "").split(os.pathsep) if part]
        found += [own, BUNDLED] if own.is_dir() else [BUNDLED]
    for folder in found:
        if not folder.is_dir():
            raise BadEntry(f"The registry folder {folder} does not exist. Check root= and $EA_JAX_REGISTRY.")
    return found


def user_folder(kind: str) -> Path:
    """Where the user's own things are on this system: `data` (adapters that were added) or `cache` (fetched ones)."""
    from platformdirs import user_cache_path, user_data_path

    return (user_data_path if kind == "data" else user_cache_path)("ea_jax")
