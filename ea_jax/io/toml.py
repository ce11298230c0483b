"""Read TOML files, and convert their tables to dataclasses with every key checked."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from ea_jax.errors import BadEntry


def read_toml(path: Path) -> dict[str, Any]:
    """Read and parse a TOML file.

    Raises:
        BadEntry: The file cannot be read or parsed.
    """
    try:
        return tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadEntry):
            raise
        raise _unreadable(path, error) from error


def read_text(path: Path) -> str:
    """Read a TOML file without parsing it.

    Raises:
        BadEntry: The file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def parse_record(kind: type, facts: dict[str, Any], path: Path) -> Any:
    """Convert a table to a dataclass. Every key must be known and have the right type; required keys must exist.

    Args:
        kind: The dataclass.
        facts: The table.
        path: The file of the table, for the error message.

    Raises:
        BadEntry: A key is missing, unknown or of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    facts = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    optional = {key for key, f in fields.items() if (f.default, f.default_factory) != (dataclasses.MISSING,) * 2}
    faults = {
        "lacks": sorted(fields.keys() - facts.keys() - optional),
        "has unknown": sorted(facts.keys() - fields.keys()),
        "has the wrong type for": sorted(
            key for key in fields.keys() & facts.keys() if not _has_type(facts[key], fields[key].type)
        ),
    }
    if any(faults.values()):
        message = "; ".join(f"{fault} {', '.join(keys)}" for fault, keys in faults.items() if keys)
        raise BadEntry(f"{path} {message}. Correct these keys, or download the file again.")
    return kind(**facts)


def _unreadable(path: Path, error: Exception) -> BadEntry:
    return BadEntry(f"{path} cannot be read as TOML: {error}. Restore it from where the registry came.")


def _has_type(value: Any, annotation: Any) -> bool:
    """Whether a value has a plain type, or is a tuple of strings if the annotation says so."""
    matches = isinstance(value, getattr(annotation, "__origin__", annotation))
    return matches and (annotation != tuple[str, ...] or all(isinstance(part, str) for part in value))
