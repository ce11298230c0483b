"""Write a registry entry, all or nothing."""

import tempfile
from pathlib import Path
from typing import Any

import tomli_w

from ea_jax.io.atomic import replace_folder
from ea_jax.registry.checkpoint import save_params
from ea_jax.registry.spaces import Space
from ea_jax.typing import Params


def entry_folder(source: Space, target: Space, flavor: str) -> str:
    """Name of an entry's folder."""
    return f"{source.alias}--{target.alias}--{flavor}".replace("/", "_")


def write_entry(
    root: Path, name: str, facts: dict[str, Any], params: Params, quality: Params, sizes: dict[str, int], card: str
) -> Path:
    """Write an entry's folder, replacing one of that name once the new one is whole.

    Args:
        root: The registry folder; it is made if it is not there.
        name: Of the folder.
        facts: For `entry.toml`, without those of the two checkpoints.
        params: The adapter's, as they are stored.
        quality: The quality part's, likewise.
        sizes: What the shapes of the quality part follow from.
        card: The model card.
    """
    root.mkdir(parents=True, exist_ok=True)
    entry = root / name.replace("/", "_")
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        new = Path(scratch) / entry.name
        new.mkdir()
        stored = {
            "params": save_params(new / "params", params),
            "quality": {"sizes": sizes, **save_params(new / "quality", quality)},
        }
        (new / "entry.toml").write_text(tomli_w.dumps(facts | stored), encoding="utf-8")
        (new / "card.md").write_text(card, encoding="utf-8")
        replace_folder(new, entry)
    return entry
