"""Write a registry entry completely or not at all."""

import tempfile
from pathlib import Path
from typing import Any

import tomli_w

from ea_jax.io.atomic import replace_folder
from ea_jax.registry.checkpoint import save_params
from ea_jax.typing import Params


def write_entry(
    root: Path, name: str, facts: dict[str, Any], params: Params, quality: Params, sizes: dict[str, int], card: str
) -> Path:
    """Write an entry's folder. An existing folder of this name is replaced once the new one is complete.

    Args:
        root: Registry folder, which is created if necessary.
        name: Name of the entry's folder.
        facts: Content of `entry.toml`, without the records of the two checkpoints.
        params: Parameters of the adapter, as they are stored.
        quality: Parameters of the quality part, as they are stored.
        sizes: Sizes that determine the shapes of the quality part.
        card: The model card.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = root / name.replace("/", "_")
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        new = Path(scratch) / folder.name
        new.mkdir()
        records = {
            "params": save_params(new / "params", params),
            "quality": {"sizes": sizes, **save_params(new / "quality", quality)},
        }
        (new / "entry.toml").write_text(tomli_w.dumps(facts | records), encoding="utf-8")
        (new / "card.md").write_text(card, encoding="utf-8")
        replace_folder(new, folder)
    return folder
