"""News of the registry and versions: `ea-jax news` and `ea-jax version`."""

import importlib.metadata
import platform

import ea_jax
from ea_jax.io.toml import read_toml
from ea_jax.registry.locations import BUNDLED


def news() -> None:
    """Show the news of the bundled registry, the newest first.

    Example: ea-jax news
    """
    items = sorted(read_toml(BUNDLED / "about.toml").get("news", []), key=lambda item: item["date"], reverse=True)
    print("\n".join(f"{item['date']}  {item['text']}" for item in items) or "There is no news.")


def version() -> None:
    """Show the versions of ea_jax, JAX, Flax and Python.

    Example: ea-jax version
    """
    packages = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax")]
    print(", ".join([f"ea_jax {ea_jax.__version__}", *packages, f"python {platform.python_version()}"]))


COMMANDS = {news: "news", version: "version"}
