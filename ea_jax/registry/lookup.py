"""Find entries in the registry folders of this machine."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from ea_jax.errors import BadEntry, UnknownName, suggest_names
from ea_jax.io.atomic import recover_folders
from ea_jax.registry.entry import Entry, read_entry, read_header
from ea_jax.registry.locations import registry_folders
from ea_jax.registry.spaces import Space, find_space

SMALL, LARGE = "small", "large"


def list_entries(root: str | os.PathLike[str] | None = None) -> list[Entry]:
    """Read every entry of the registries. Of two with the same name, the one in the earlier folder counts."""
    return [read_entry(folder) for folder in list_entry_folders(root)]


def list_entry_folders(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """List the folders of all entries, including broken ones."""
    folders: dict[str, Path] = {}
    for folder in registry_folders(root):
        recover_folders(folder)
        for path in sorted(folder.glob("*/entry.toml")):
            folders.setdefault(path.parent.name, path.parent)
    return list(folders.values())


def entry_name(entry: Entry) -> str:
    """The name that an entry's folder should have, which follows from its models and flavor.

    Raises:
        UnknownName: One of its models is unknown.
        BadEntry: Its flavor cannot be part of a file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", entry.flavor):
        raise BadEntry(
            f"{entry.path}: the flavor {entry.flavor!r} may hold only letters, digits, dots, hyphens and underscores."
        )
    return format_entry_name(find_space(entry.source), find_space(entry.target), entry.flavor)


def format_entry_name(source: Space, target: Space, flavor: str) -> str:
    """Format the name of an entry's folder."""
    return f"{source.alias}--{target.alias}--{flavor}".replace("/", "_")


def find_entry(
    source: str, target: str, flavor: str | None = None, root: str | os.PathLike[str] | None = None
) -> Entry:
    """Find the adapter between two spaces, given by id or alias.

    If `flavor` is None, the first registry that has an adapter of the pair decides: `small`, or its only one. So an
    adapter of your own registry, such as one that you fitted, comes before the bundled ones.

    Raises:
        UnknownName: A space, the pair or the flavor is unknown; or `flavor` is None and the choice is not clear.
        BadEntry: A registry holds two adapters for the same spaces and flavor.
    """
    pair = list_flavors(source, target, root)
    a, b = find_space(source, root), find_space(target, root)
    if not pair:
        known = [header for folder in list_entry_folders(root) if (header := read_header(folder))]
        pairs = {f"{find_space(e.source, root).alias} to {find_space(e.target, root).alias}" for e in known}
        raise UnknownName(
            f"No adapter goes from {a.alias} to {b.alias}. {suggest_names(f'{a.alias} to {b.alias}', pairs)} "
            "`ea-jax fit` makes one from pairs."
        )
    if flavor is None:
        pair = of_first_registry(pair)
    return read_entry(pair[choose_flavor(pair, flavor, f"{a.alias} to {b.alias}")])


def list_flavors(source: str, target: str, root: str | os.PathLike[str] | None = None) -> dict[str, Path]:
    """Find the folders of all adapters between two spaces, by flavor, in the search order of the registries.

    Raises:
        UnknownName: A space is unknown.
        BadEntry: A registry holds two adapters for the same spaces and flavor.
    """
    a, b = find_space(source, root), find_space(target, root)
    folders = list_entry_folders(root)
    headers = [header for folder in folders if (header := read_header(folder, (a.id, b.id)))]
    pair: dict[str, Path] = {}
    for header in headers:
        if (header.source, header.target) == (a.id, b.id):
            first = pair.setdefault(header.flavor, header.folder)
            if first != header.folder and first.parent == header.folder.parent:
                raise BadEntry(
                    f"{first} and {header.folder} both map {a.alias} to {b.alias} with flavor {header.flavor!r}. "
                    "Remove one of them."
                )
    return pair


def of_first_registry(folders: Mapping[str, Path]) -> dict[str, Path]:
    """Select the adapters that are in the same registry as the first one, by flavor."""
    registry = next(iter(folders.values())).parent
    return {flavor: folder for flavor, folder in folders.items() if folder.parent == registry}


def choose_flavor(flavors: Collection[str], flavor: str | None, pair: str) -> str:
    """Choose a flavor: the given one, or if None `small` or the only one.

    `small` also stands in for a missing `large`: early adapters came in both, and the examples of embedding_adapters
    name `large`.

    Args:
        flavors: The existing flavors.
        flavor: The requested flavor.
        pair: The two models, for the error message.

    Raises:
        UnknownName: The flavor does not exist; or `flavor` is None and the choice is not clear.
    """
    if SMALL in flavors and (flavor is None or (flavor == LARGE and LARGE not in flavors)):
        return SMALL
    if flavor is None and len(flavors) > 1:
        raise UnknownName(f"{pair} has several flavors: name one of {', '.join(sorted(flavors))}.")
    if flavor is not None and flavor not in flavors:
        raise UnknownName(f"{pair} has no flavor {flavor!r}. {suggest_names(flavor, flavors)}")
    return flavor or next(iter(flavors))


def find_entry_by_name(name: str, root: str | os.PathLike[str] | None = None) -> Entry:
    """Find an adapter by the name that `ea-jax list` shows.

    Raises:
        UnknownName: No adapter has this name.
    """
    known = {folder.name: folder for folder in list_entry_folders(root)}
    if name not in known:
        raise UnknownName(f"No adapter is named {name!r}. {suggest_names(name, known)} `ea-jax list` shows them.")
    return read_entry(known[name])
