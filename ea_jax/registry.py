"""Model spaces and registry entries as files on disk: names, facts and digests, read without JAX."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ea_jax.durable import restore_folders
from ea_jax.errors import BadEntry, UnknownName, nearest
from ea_jax.records import build, read_toml
from ea_jax.spec import Purpose, Spec

PACKAGE = Path(__file__).parent
SMALL = "small"
SCHEMA = 1
BUNDLED = PACKAGE / "_registry" if (PACKAGE / "_registry").is_dir() else PACKAGE.parent / "registry"


@dataclass(frozen=True)
class Space:
    """A model's embedding space. Attributes are the keys of `spaces.toml`, which explains them."""

    id: str
    width: int
    unit_norm: bool
    local: bool
    aliases: tuple[str, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""
    package: str = ""
    folder: str = ""
    table: str = ""
    tokenizer: str = ""
    matryoshka: bool = False

    @property
    def alias(self) -> str:
        """The shortest way to name it: its first alias, or its id."""
        return self.aliases[0] if self.aliases else self.id


@dataclass(frozen=True)
class Seed:
    """A public adapter of embedding-adapters.

    Attributes:
        repo: Its repository on the Hugging Face hub.
        source: Full id of the model whose embeddings come in.
        target: Full id of the model whose space they go to.
        flavor: Which of several adapters between the two.
        locked: Why it cannot be loaded here; empty where it can.
    """

    repo: str
    source: str
    target: str
    flavor: str
    locked: str


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


def roots(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """Registry folders in search order: `root` alone if given, else those of $EA_JAX_REGISTRY, the user's, the bundled.

    Raises:
        BadEntry: A folder does not exist.
    """
    if root is not None:
        found = [Path(root)]
    else:
        own = user_folder("data") / "registry"
        found = [Path(part) for part in os.environ.get("EA_JAX_REGISTRY", "").split(os.pathsep) if part]
        found += [own, BUNDLED] if own.is_dir() else [BUNDLED]
    for folder in found:
        if not folder.is_dir():
            raise BadEntry(f"The registry folder {folder} does not exist. Check root= and $EA_JAX_REGISTRY.")
    return found


def user_folder(kind: str) -> Path:
    """Where the user's own things are on this system: `data` (adapters that were added) or `cache` (fetched ones)."""
    from platformdirs import user_cache_path, user_data_path

    return (user_data_path if kind == "data" else user_cache_path)("ea_jax")


def seeds() -> list[Seed]:
    """Public adapters of embedding-adapters."""
    path = BUNDLED / "seed.toml"
    return [build(Seed, facts, path) for facts in read_toml(path)["adapter"]]


def find_seed(source: str, target: str, flavor: str | None) -> Seed | None:
    """The public adapter of embedding-adapters of these names: of several without a flavor, the first that is free."""
    a, b = find_space(source).id, find_space(target).id
    pair = [seed for seed in seeds() if (seed.source, seed.target) == (a, b) and flavor in (None, seed.flavor)]
    return min(pair, key=lambda seed: bool(seed.locked), default=None)


def spaces(root: str | os.PathLike[str] | None = None) -> list[Space]:
    """Every known space: those of `root` first, then those of all registries."""
    found: dict[str, Space] = {}
    for folder in dict.fromkeys([*roots(root), *roots()]):
        path = folder / "spaces.toml"
        for space in _spaces(path, path.stat().st_mtime_ns) if path.exists() else ():
            found.setdefault(space.id, space)
    return list(found.values())


@lru_cache(8)
def _spaces(path: Path, changed: int) -> tuple[Space, ...]:
    """Spaces of a file, parsed once for as long as it is not changed."""
    return tuple(build(Space, facts, path) for facts in read_toml(path).get("space", []))


def find_space(name: str, root: str | os.PathLike[str] | None = None) -> Space:
    """The space of a full id or an alias, in any letter case.

    Raises:
        UnknownName: No space has the name; the message lists the nearest.
    """
    known = spaces(root)
    for space in known:
        if name.lower() in (space.id.lower(), *(alias.lower() for alias in space.aliases)):
            return space
    names = [name for space in known for name in (space.id, *space.aliases)]
    raise UnknownName(f"No model space is named {name!r}. {nearest(name, names)} `ea-jax registry` lists them all.")


def entries(root: str | os.PathLike[str] | None = None, mention: Sequence[str] = ()) -> list[Entry]:
    """Every adapter of the registries; of two with one name, the one in the earlier registry.

    Args:
        root: A registry folder; those of `roots` if None.
        mention: Only entries whose files hold all these texts or an escape: parsing the others takes time.
    """
    needed = [text.encode() for text in mention]
    found: dict[str, Entry] = {}
    for folder in roots(root):
        restore_folders(folder)
        for path in sorted(folder.glob("*/entry.toml")):
            if not _mentions(path, needed):
                continue
            entry = read_entry(path.parent)
            found.setdefault(entry.name, entry)
    return list(found.values())


def _mentions(path: Path, needed: Sequence[bytes]) -> bool:
    try:
        text = path.read_bytes() if needed else b""
    except OSError as error:
        raise BadEntry(f"{path} cannot be read: {error}. Restore it from where the registry came.") from error
    return b"\\" in text or all(part in text for part in needed)


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
    return entry


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
    near = entries(root, (a.id, b.id))
    pair = {entry.flavor: entry for entry in near if (entry.source, entry.target) == (a.id, b.id)}
    if not pair:
        routes = {f"{find_space(e.source, root).alias} to {find_space(e.target, root).alias}" for e in entries(root)}
        raise UnknownName(
            f"No adapter goes from {a.alias} to {b.alias}. {nearest(f'{a.alias} to {b.alias}', routes)} "
            "`ea-jax fit` makes one from pairs."
        )
    if flavor is None and SMALL in pair:
        return pair[SMALL]
    if flavor is None and len(pair) > 1:
        raise UnknownName(f"{a.alias} to {b.alias} has several flavors: name one of {', '.join(sorted(pair))}.")
    if flavor is not None and flavor not in pair:
        raise UnknownName(f"{a.alias} to {b.alias} has no flavor {flavor!r}. {nearest(flavor, pair)}")
    return pair[flavor] if flavor is not None else next(iter(pair.values()))


def entry_named(name: str, root: str | os.PathLike[str] | None = None) -> Entry:
    """The adapter of a folder name, as `ea-jax list` shows it.

    Raises:
        UnknownName: No adapter has the name.
    """
    known = {entry.name: entry for entry in entries(root)}
    if name not in known:
        raise UnknownName(f"No adapter is named {name!r}. {nearest(name, known)} `ea-jax list` shows them.")
    return known[name]
