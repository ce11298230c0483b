"""TOML files, and their tables as dataclasses whose every key is checked."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from ea_jax.errors import BadEntry


def read_toml(path: Path) -> dict[str, Any]:
    """Content of a TOML file.

    Raises:
        BadEntry: It cannot be read.
    """
    try:
        return tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadEntry):
            raise
        raise BadEntry(f"{path} cannot be read as TOML: {error}. Restore it from where the registry came.") from error


def read_text(path: Path) -> str:
    """Content of a TOML file that is not parsed.

    Raises:
        BadEntry: It cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadEntry(f"{path} cannot be read as TOML: {error}. Restore it from where the registry came.") from error


def parse_record(kind: type, facts: dict[str, Any], where: Path) -> Any:
    """A dataclass from the keys of a file, each of which must be there, be known and be of its type.

    Raises:
        BadEntry: One is not; the message names the file and the keys.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    facts = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    optional = {key for key, f in fields.items() if (f.default, f.default_factory) != (dataclasses.MISSING,) * 2}
    faults = {
        "lacks": sorted(fields.keys() - facts.keys() - optional),
        "has unknown": sorted(facts.keys() - fields.keys()),
        "has the wrong type for": sorted(
            key for key in fields.keys() & facts.keys() if not _fits(facts[key], fields[key].type)
        ),
    }
    if any(faults.values()):
        told = "; ".join(f"{what} {', '.join(keys)}" for what, keys in faults.items() if keys)
        raise BadEntry(f"{where} {told}. Mend the keys, or fetch the file again with the ea_jax that wrote it.")
    return kind(**facts)


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value is of a plain type, or a tuple of strings where these are wanted."""
    right = isinstance(value, getattr(annotation, "__origin__", annotation))
    return right and (annotation != tuple[str, ...] or all(isinstance(part, str) for part in value))
