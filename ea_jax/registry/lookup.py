"""Find entries by name, in the registry folders of this machine."""

import os
import re
from collections.abc import Collection
from pathlib import Path

from ea_jax.errors import BadEntry, UnknownName, suggest_names
from ea_jax.io.atomic import recover_folders
from ea_jax.registry.entry import Entry, read_entry, read_header
from ea_jax.registry.locations import registry_folders
from ea_jax.registry.spaces import find_space

SMALL, LARGE = "small", "large"


def list_entries(root: str | os.PathLike[str] | None = None) -> list[Entry]:
    """Every adapter of the registries; of two with one name, the one in the earlier registry."""
    return [read_entry(folder) for folder in list_entry_folders(root)]


def list_entry_folders(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """The folders of `entries`, of broken ones too."""
    found: dict[str, Path] = {}
    for folder in registry_folders(root):
        recover_folders(folder)
        for path in sorted(folder.glob("*/entry.toml")):
            found.setdefault(path.parent.name, path.parent)
    return list(found.values())


def entry_name(entry: Entry) -> str:
    """The folder name that an entry ought to have.

    Raises:
        UnknownName: One of its models is in no registry.
        BadEntry: Its flavor cannot be part of a file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", entry.flavor):
        raise BadEntry(f"{entry.path}: the flavor {entry.flavor!r} may hold letters, digits, dots and hyphens alone.")
    a, b = find_space(entry.source), find_space(entry.target)
    return f"{a.alias}--{b.alias}--{entry.flavor}".replace("/", "_")


def find_entry(
    source: str, target: str, flavor: str | None = None, root: str | os.PathLike[str] | None = None
) -> Entry:
    """The adapter between two spaces, by full id or alias; without a flavor the small one, or the only one.

    Raises:
        UnknownName: A space, the pair or the flavor is not there; or several are, none is small, and none was named.
    """
    a, b = find_space(source, root), find_space(target, root)
    folders = list_entry_folders(root)
    near = [head for folder in folders if (head := read_header(folder, (a.id, b.id)))]
    pair: dict[str, Path] = {}
    for head in near:
        if (head.source, head.target) == (a.id, b.id):
            first = pair.setdefault(head.flavor, head.folder)
            if first != head.folder and first.parent == head.folder.parent:
                raise BadEntry(f"{first} and {head.folder} are both {a.alias} to {b.alias}, flavor {head.flavor!r}.")
    if not pair:
        known = [head for folder in folders if (head := read_header(folder))]
        routes = {f"{find_space(e.source, root).alias} to {find_space(e.target, root).alias}" for e in known}
        raise UnknownName(
            f"No adapter goes from {a.alias} to {b.alias}. {suggest_names(f'{a.alias} to {b.alias}', routes)} "
            "`ea-jax fit` makes one from pairs."
        )
    return read_entry(pair[choose_flavor(pair, flavor, f"{a.alias} to {b.alias}")])


def choose_flavor(flavors: Collection[str], flavor: str | None, of: str) -> str:
    """The flavor wanted of those there are: without a name the small one, or the only one.

    Where there is no large one, the small one takes its place: adapters of 0.1.0 came in both, and examples of
    embedding_adapters ask for it.

    Raises:
        UnknownName: It is not there; or several are, none is small, and none was named.
    """
    if SMALL in flavors and (flavor is None or (flavor == LARGE and LARGE not in flavors)):
        return SMALL
    if flavor is None and len(flavors) > 1:
        raise UnknownName(f"{of} has several flavors: name one of {', '.join(sorted(flavors))}.")
    if flavor is not None and flavor not in flavors:
        raise UnknownName(f"{of} has no flavor {flavor!r}. {suggest_names(flavor, flavors)}")
    return flavor or next(iter(flavors))


def find_entry_by_name(name: str, root: str | os.PathLike[str] | None = None) -> Entry:
    """The adapter of a folder name, as `ea-jax list` shows it.

    Raises:
        UnknownName: No adapter has the name.
    """
    known = {folder.name: folder for folder in list_entry_folders(root)}
    if name not in known:
        raise UnknownName(f"No adapter is named {name!r}. {suggest_names(name, known)} `ea-jax list` shows them.")
    return read_entry(known[name])
