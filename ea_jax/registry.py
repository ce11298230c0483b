"""Model spaces and registry entries as files on disk: names, facts and digests, read without JAX."""

import os
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ea_jax.adapters.spec import Purpose, Spec
from ea_jax.errors import BadEntry, UnknownName, nearest
from ea_jax.io.atomic import restore_folders
from ea_jax.io.toml import build, read_text, read_toml
from ea_jax.places import roots
from ea_jax.spaces import Space as Space
from ea_jax.spaces import find_space as find_space
from ea_jax.spaces import spaces as spaces

SMALL, LARGE = "small", "large"
SCHEMA = 1
DEEPEST = 1000  # blocks of a network


class Head(NamedTuple):
    """What an adapter is found by.

    Attributes:
        folder: Of the entry; its name is the adapter's.
        source: Full id of the model whose embeddings come in.
        target: Full id of the model whose space they go to.
        flavor: Which of several adapters between the two.
        tags: Free labels; `pro` marks a paid adapter.
    """

    folder: Path
    source: str
    target: str
    flavor: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A published adapter: the facts of its `entry.toml`.

    Attributes:
        path: Its folder, which holds `entry.toml`, `card.md`, `params/` and `quality/`.
        family: Which module computes it.
        source: Full id of the model whose embeddings come in.
        target: Full id of the model whose space they go to.
        flavor: Which of several adapters between the two.
        d_in: Width of the source embeddings.
        d_out: Width of the target embeddings.
        unit_norm: Whether outputs have length one.
        encoder: The facts of the encoder it was fitted on, with their `fingerprint`.
        params: `sha256` of the parameter values, and each file's `bytes` and `sha256`.
        quality: The same of its quality part, and the `sizes` that its shapes follow from.
        metrics: Measured figures by test set, then by row.
        training: What it was fitted on, and what was chosen.
        sizes: The family's own widths and counts by name.
        description: One sentence for people.
        tags: Free labels; `pro` marks a paid adapter.
    """

    path: Path
    family: str
    source: str
    target: str
    flavor: str
    d_in: int
    d_out: int
    unit_norm: bool
    encoder: Mapping[str, Any]
    params: Mapping[str, Any]
    quality: Mapping[str, Any]
    metrics: Mapping[str, Any]
    training: Mapping[str, Any]
    sizes: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    tags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its folder's name, `<source>--<target>--<flavor>`."""
        return self.path.name

    def spec(self, purpose: Purpose) -> Spec:
        """The static part of the adapter that this entry stores."""
        return Spec(
            self.family,
            self.source,
            self.target,
            self.d_in,
            self.d_out,
            self.unit_norm,
            purpose,
            self.encoder["fingerprint"],
            tuple(sorted(self.sizes.items())),
        )


def entries(root: str | os.PathLike[str] | None = None) -> list[Entry]:
    """Every adapter of the registries; of two with one name, the one in the earlier registry."""
    return [read_entry(folder) for folder in entry_folders(root)]


def entry_folders(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """The folders of `entries`, of broken ones too."""
    found: dict[str, Path] = {}
    for folder in roots(root):
        restore_folders(folder)
        for path in sorted(folder.glob("*/entry.toml")):
            found.setdefault(path.parent.name, path.parent)
    return list(found.values())


def read_head(folder: Path, mention: Sequence[str] = ()) -> Head | None:
    """What an entry says before its first table, which is a tenth of the time of `read_entry`.

    Args:
        folder: Of the entry.
        mention: None is returned unless the file holds all these texts, or an escape.

    Raises:
        BadEntry: It cannot be read, or says something that no entry says.
    """
    path = folder / "entry.toml"
    text = read_text(path)
    if "\\" not in text and not all(part in text for part in mention):
        return None
    try:
        facts = tomllib.loads(text.partition("\n[")[0])
        source, target, flavor, tags = (facts[key] for key in ("source", "target", "flavor", "tags"))
        if all(isinstance(told, str) for told in (source, target, flavor, *tags)):
            return Head(folder, source, target, flavor, tuple(tags))
    except (ValueError, KeyError, TypeError):  # an unusual file, or a broken one
        pass
    entry = read_entry(folder)
    return Head(folder, entry.source, entry.target, entry.flavor, entry.tags)


def read_entry(folder: Path) -> Entry:
    """The entry of one folder.

    Raises:
        BadEntry: Its entry.toml is missing, or not what it should be.
    """
    path = folder / "entry.toml"
    facts = read_toml(path)
    if (schema := facts.pop("schema", SCHEMA)) != SCHEMA:
        raise BadEntry(f"{path} is of schema {schema}, this ea_jax reads {SCHEMA}. Upgrade ea_jax.")
    entry = build(Entry, {**facts, "path": folder}, path)
    if not isinstance(entry.encoder.get("fingerprint"), str) or not all(map(_is_record, (entry.params, entry.quality))):
        raise BadEntry(f"{path} does not name each file with bytes and sha256, or no fingerprint. Fetch it again.")
    sizes = (entry.d_in, entry.d_out, *entry.sizes.values())
    if not all(type(n) is int and n > 0 for n in sizes) or entry.sizes.get("depth", 1) > DEEPEST:
        raise BadEntry(f"{path} has sizes that no adapter has: {', '.join(map(str, sizes))}. Fetch it again.")
    if not _are_figures(entry.metrics):
        raise BadEntry(f"{path} has metrics that are no numbers by test set and row. Fetch it again.")
    return entry


def _are_figures(metrics: Any, depth: int = 3) -> bool:
    """Whether these are numbers in tables of tables of tables."""
    if depth == 0:
        return type(metrics) in (int, float)
    return isinstance(metrics, dict) and all(_are_figures(value, depth - 1) for value in metrics.values())


def _is_record(part: Mapping[str, Any]) -> bool:
    """Whether it has the digest of a checkpoint's values, and the size and digest of each of its files."""
    files = part.get("files")
    return (
        isinstance(part.get("sha256"), str)
        and isinstance(files, dict)
        and all(
            isinstance(f, dict) and type(f.get("bytes")) is int and isinstance(f.get("sha256"), str)
            for f in files.values()
        )
    )


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
    folders = entry_folders(root)
    near = [head for folder in folders if (head := read_head(folder, (a.id, b.id)))]
    pair: dict[str, Path] = {}
    for head in near:
        if (head.source, head.target) == (a.id, b.id):
            first = pair.setdefault(head.flavor, head.folder)
            if first != head.folder and first.parent == head.folder.parent:
                raise BadEntry(f"{first} and {head.folder} are both {a.alias} to {b.alias}, flavor {head.flavor!r}.")
    if not pair:
        known = [head for folder in folders if (head := read_head(folder))]
        routes = {f"{find_space(e.source, root).alias} to {find_space(e.target, root).alias}" for e in known}
        raise UnknownName(
            f"No adapter goes from {a.alias} to {b.alias}. {nearest(f'{a.alias} to {b.alias}', routes)} "
            "`ea-jax fit` makes one from pairs."
        )
    return read_entry(pair[picked(pair, flavor, f"{a.alias} to {b.alias}")])


def picked(flavors: Collection[str], flavor: str | None, of: str) -> str:
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
        raise UnknownName(f"{of} has no flavor {flavor!r}. {nearest(flavor, flavors)}")
    return flavor or next(iter(flavors))


def entry_named(name: str, root: str | os.PathLike[str] | None = None) -> Entry:
    """The adapter of a folder name, as `ea-jax list` shows it.

    Raises:
        UnknownName: No adapter has the name.
    """
    known = {folder.name: folder for folder in entry_folders(root)}
    if name not in known:
        raise UnknownName(f"No adapter is named {name!r}. {nearest(name, known)} `ea-jax list` shows them.")
    return read_entry(known[name])
