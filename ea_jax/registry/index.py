"""The index of a registry on the hub: a line an adapter, so that all are known before any is fetched."""

import json
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ea_jax.errors import BadEntry
from ea_jax.registry.entry import Entry

INDEX = "index.json"
SCHEMA = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@,+-]*")


class Listing(NamedTuple):
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


NEEDED = ("name", "source", "target", "flavor", "sha256")


def read_index(file: Path) -> list[Listing]:
    """The adapters that an index file names.

    Raises:
        BadEntry: It cannot be read, is of a newer schema, has unknown keys, or names one adapter twice.
    """
    try:
        facts = json.loads(file.read_bytes())
        schema, rows = facts["schema"], facts["adapters"]
        if schema != SCHEMA:
            raise BadEntry(f"{file} is of schema {schema}, this ea_jax reads {SCHEMA}. Upgrade ea_jax.")
        if unknown := set(chain.from_iterable(rows)) - set(Listing._fields):
            raise BadEntry(f"{file} has the unknown keys {', '.join(sorted(unknown))}. Upgrade ea_jax.")
        columns = [[row[key] for row in rows] for key in NEEDED] + [[row.get("description", "") for row in rows]]
        tags = [tuple(row.get("tags", ())) for row in rows]
        for texts in (*columns, chain.from_iterable(tags)):
            "".join(texts)  # an error where one is no text, and quick
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, BadEntry):
            raise
        raise BadEntry(f"{file} is no index of adapters: {error}. `ea-jax publish` writes one.") from error
    if len(set(columns[0])) < len(columns[0]) or not all(map(NAME.fullmatch, columns[0])):
        raise BadEntry(f"{file} names an adapter twice, or by what is no name. Tell the registry's makers.")
    return list(map(Listing, *columns, tags))


def make_listing(entry: Entry, sha256: str) -> Listing:
    """The line of an entry in an index."""
    return Listing(entry.name, entry.source, entry.target, entry.flavor, sha256, entry.description, entry.tags)


def format_index(found: Sequence[Listing]) -> str:
    """An index file's content."""
    rows = [listed._asdict() for listed in sorted(found, key=lambda listed: listed.name)]
    return json.dumps({"schema": SCHEMA, "adapters": rows}, indent=1) + "\n"
