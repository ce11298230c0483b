"""What the registry's `about.toml` says: `ea-jax news`, `docs` and `donate`; and `version`."""

import importlib.metadata
import platform
from typing import Any

from ea_jax.io.toml import read_toml
from ea_jax.registry.locations import BUNDLED


def news() -> None:
    """Show the registry's news, the newest first.

    Example: ea-jax news
    """
    items = sorted(_about().get("news", []), key=lambda item: item["date"], reverse=True)
    print("\n".join(f"{item['date']}  {item['text']}" for item in items) or "There is no news.")


def docs() -> None:
    """Show where the documentation is.

    Example: ea-jax docs
    """
    print(_about().get("docs") or "No documentation link is set; README.md documents every command and function.")


def donate() -> None:
    """Show how to support the project.

    Example: ea-jax donate
    """
    print(_about().get("donate") or "No donation link is set.")


def version() -> None:
    """Show the versions of ea_jax, JAX, Flax and Python.

    Example: ea-jax version
    """
    packages = [f"{name} {importlib.metadata.version(name)}" for name in ("ea_jax", "jax", "flax")]
    print(", ".join([*packages, f"python {platform.python_version()}"]))


COMMANDS = {news: "news", docs: "docs", donate: "donate", version: "version"}


def _about() -> dict[str, Any]:
    """News and links of the bundled registry."""
    return read_toml(BUNDLED / "about.toml")
