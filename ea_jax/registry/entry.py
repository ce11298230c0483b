"""Registry entries: the facts in `entry.toml`, read without JAX."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ea_jax.adapters.spec import Purpose, Spec
from ea_jax.errors import BadEntry
from ea_jax.io.toml import parse_record, read_text, read_toml

SCHEMA = 1
MAX_DEPTH = 1000  # blocks of a network


class EntryHeader(NamedTuple):
    """The facts by which an adapter is found.

    Attributes:
        folder: Folder of the entry, whose name is the adapter's name.
        source: Full id of the model that makes the inputs.
        target: Full id of the model whose space the outputs are in.
        flavor: Name of this adapter among those of the two models.
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
        path: Folder with `entry.toml`, `card.md`, `params/` and `quality/`.
        family: Name of the adapter family.
        source: Full id of the model that makes the inputs.
        target: Full id of the model whose space the outputs are in.
        flavor: Name of this adapter among those of the two models.
        d_in: Width of the source embeddings.
        d_out: Width of the target embeddings.
        unit_norm: Whether outputs have length one.
        encoder: Facts about the encoder that the adapter was fitted on, with their `fingerprint`.
        params: Record of the adapter's checkpoint: `sha256` of the values, and `bytes` and `sha256` of each file.
        quality: The same record for the quality part, and the `sizes` that determine its shapes.
        metrics: Metrics by test set, then by row (`store`, `query`, `keep_source`, ...), then by name.
        training: Summary of the fit.
        sizes: Widths and counts of the family, by name.
        description: A sentence about the training pairs.
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
        """Name of the folder, `<source>--<target>--<flavor>`."""
        return self.path.name

    def spec(self, purpose: Purpose) -> Spec:
        """The static part of this entry's adapter for a purpose."""
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


def read_header(folder: Path, contains: Sequence[str] = ()) -> EntryHeader | None:
    """Read the facts before the first table of an entry, in a tenth of the time of `read_entry`.

    Args:
        folder: Folder of the entry.
        contains: Texts that the file must contain; else None is returned. Files with escapes are always read.

    Raises:
        BadEntry: The file cannot be read or is not valid.
    """
    path = folder / "entry.toml"
    text = read_text(path)
    if "\\" not in text and not all(part in text for part in contains):
        return None
    try:
        facts = tomllib.loads(text.partition("\n[")[0])
        source, target, flavor, tags = (facts[key] for key in ("source", "target", "flavor", "tags"))
        if all(isinstance(value, str) for value in (source, target, flavor, *tags)):
            return EntryHeader(folder, source, target, flavor, tuple(tags))
    except (ValueError, KeyError, TypeError):  # `read_entry` reads unusual files and explains broken ones
        pass
    entry = read_entry(folder)
    return EntryHeader(folder, entry.source, entry.target, entry.flavor, entry.tags)


def read_entry(folder: Path) -> Entry:
    """Read the entry in a folder.

    Raises:
        BadEntry: entry.toml is missing or not valid.
    """
    path = folder / "entry.toml"
    facts = read_toml(path)
    if (schema := facts.pop("schema", SCHEMA)) != SCHEMA:
        raise BadEntry(f"{path} has schema {schema}, but this version of ea_jax reads {SCHEMA}. Upgrade ea_jax.")
    entry = parse_record(Entry, {**facts, "path": folder}, path)
    if not isinstance(entry.encoder.get("fingerprint"), str) or not all(map(_is_record, (entry.params, entry.quality))):
        raise BadEntry(f"{path} lacks a fingerprint, or bytes and sha256 of a file. Download it again.")
    sizes = (entry.d_in, entry.d_out, *entry.sizes.values())
    if not all(type(n) is int and n > 0 for n in sizes) or entry.sizes.get("depth", 1) > MAX_DEPTH:
        raise BadEntry(f"{path} has impossible sizes: {', '.join(map(str, sizes))}. Download it again.")
    if not _are_metrics(entry.metrics):
        raise BadEntry(f"{path} has metrics that are not numbers by test set and row. Download it again.")
    return entry


def _are_metrics(metrics: Any, depth: int = 3) -> bool:
    """Whether these are numbers in tables nested to a depth."""
    if depth == 0:
        return type(metrics) in (int, float)
    return isinstance(metrics, dict) and all(_are_metrics(value, depth - 1) for value in metrics.values())


def _is_record(part: Mapping[str, Any]) -> bool:
    """Whether a table has the digest of a checkpoint's values, and the size and digest of each of its files."""
    files = part.get("files")
    return (
        isinstance(part.get("sha256"), str)
        and isinstance(files, dict)
        and all(
            isinstance(f, dict) and type(f.get("bytes")) is int and isinstance(f.get("sha256"), str)
            for f in files.values()
        )
    )
