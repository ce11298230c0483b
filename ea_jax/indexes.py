"""The index of a registry on the hub: a line an adapter, so that all are known before any is fetched."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ea_jax.errors import BadEntry
from ea_jax.registry import Entry

INDEX = "index.json"
SCHEMA = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Listed(NamedTuple):
    """An adapter of a registry on the hub, as its index tells of it.

    Attributes:
        name: Its folder.
        source: Full id of the model whose embeddings come in.
        target: Full id of the model whose space they go to.
        flavor: Which of several adapters between the two.
        sha256: Of its entry.toml, which names the hashes of all else.
        description: One sentence for people.
        tags: Free labels.
    """

    name: str
    source: str
    target: str
    flavor: str
    sha256: str
    description: str = ""
    tags: tuple[str, ...] = ()


def read_index(file: Path) -> list[Listed]:
    """The adapters that an index file names.

    Raises:
        BadEntry: It cannot be read, is of a newer schema, has unknown keys, or names one adapter twice.
    """
    try:
        facts = json.loads(file.read_bytes())
        schema, rows = facts["schema"], facts["adapters"]
        if schema != SCHEMA:
            raise BadEntry(f"{file} is of schema {schema}, this ea_jax reads {SCHEMA}. Upgrade ea_jax.")
        found = [Listed(**row | {"tags": tuple(row.get("tags", ()))}) for row in rows]
        names = {listed.name for listed in found}
        good = all(NAME.fullmatch(listed.name) and _all_text(listed) for listed in found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, BadEntry):
            raise
        raise BadEntry(f"{file} is no index of adapters: {error}. `ea-jax publish` writes one.") from error
    if not good or len(names) < len(found):
        raise BadEntry(f"{file} names an adapter twice, or by what is no name. Tell the registry's makers.")
    return found


def _all_text(listed: Listed) -> bool:
    texts = (listed.source, listed.target, listed.flavor, listed.sha256, listed.description, *listed.tags)
    return all(isinstance(text, str) for text in texts)


def listed_of(entry: Entry, sha256: str) -> Listed:
    """The line of an entry in an index."""
    return Listed(entry.name, entry.source, entry.target, entry.flavor, sha256, entry.description, entry.tags)


def index_text(found: Sequence[Listed]) -> str:
    """An index file's content."""
    rows = [listed._asdict() for listed in sorted(found, key=lambda listed: listed.name)]
    return json.dumps({"schema": SCHEMA, "adapters": rows}, indent=1) + "\n"
