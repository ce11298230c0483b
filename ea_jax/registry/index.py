"""The index of a registry on the hub, which lists its adapters so that none must be downloaded to be found."""

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
    """An adapter in the index of a registry on the hub.

    Attributes:
        name: Name of the entry's folder.
        source: Full id of the model that makes the inputs.
        target: Full id of the model whose space the outputs are in.
        flavor: Name of this adapter among those of the two models.
        sha256: SHA-256 of its entry.toml, which records those of all other files.
        description: A sentence about the training pairs.
        tags: Free labels.
    """

    name: str
    source: str
    target: str
    flavor: str
    sha256: str
    description: str = ""
    tags: tuple[str, ...] = ()


REQUIRED = ("name", "source", "target", "flavor", "sha256")


def read_index(file: Path) -> list[Listing]:
    """Read the adapters of an index file.

    Raises:
        BadEntry: The file cannot be read, has another schema or unknown keys, or lists an adapter twice.
    """
    try:
        facts = json.loads(file.read_bytes())
        schema, rows = facts["schema"], facts["adapters"]
        if schema != SCHEMA:
            raise BadEntry(f"{file} has schema {schema}, but this version of ea_jax reads {SCHEMA}. Upgrade ea_jax.")
        if unknown := set(chain.from_iterable(rows)) - set(Listing._fields):
            raise BadEntry(f"{file} has the unknown keys {', '.join(sorted(unknown))}. Upgrade ea_jax.")
        columns = [[row[key] for row in rows] for key in REQUIRED] + [[row.get("description", "") for row in rows]]
        tags = [tuple(row.get("tags", ())) for row in rows]
        for texts in (*columns, chain.from_iterable(tags)):
            "".join(texts)  # raises TypeError unless all are strings
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, BadEntry):
            raise
        raise BadEntry(f"{file} is not an index of adapters: {error}. `ea-jax publish` writes one.") from error
    if len(set(columns[0])) < len(columns[0]) or not all(map(NAME.fullmatch, columns[0])):
        raise BadEntry(
            f"{file} lists an adapter twice, or with an invalid name. Report it to the registry's maintainers."
        )
    return list(map(Listing, *columns, tags))


def make_listing(entry: Entry, sha256: str) -> Listing:
    """The row of an entry in an index."""
    return Listing(entry.name, entry.source, entry.target, entry.flavor, sha256, entry.description, entry.tags)


def format_index(listings: Sequence[Listing]) -> str:
    """Format the content of an index file."""
    rows = [listing._asdict() for listing in sorted(listings, key=lambda listing: listing.name)]
    return json.dumps({"schema": SCHEMA, "adapters": rows}, indent=1) + "\n"
