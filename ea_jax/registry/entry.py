"""Model spaces and registry entries as files on disk: names, facts and digests, read without JAX."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ea_jax.adapters.spec import Purpose, Spec
from ea_jax.errors import BadEntry
from ea_jax.io.toml import parse_record, read_text, read_toml

SCHEMA = 1
DEEPEST = 1000  # blocks of a network


class EntryHeader(NamedTuple):
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


def read_header(folder: Path, mention: Sequence[str] = ()) -> EntryHeader | None:
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
            return EntryHeader(folder, source, target, flavor, tuple(tags))
    except (ValueError, KeyError, TypeError):  # an unusual file, or a broken one
        pass
    entry = read_entry(folder)
    return EntryHeader(folder, entry.source, entry.target, entry.flavor, entry.tags)


def read_entry(folder: Path) -> Entry:
    """The entry of one folder.

    Raises:
        BadEntry: Its entry.toml is missing, or not what it should be.
    """
    path = folder / "entry.toml"
    facts = read_toml(path)
    if (schema := facts.pop("schema", SCHEMA)) != SCHEMA:
        raise BadEntry(f"{path} is of schema {schema}, this ea_jax reads {SCHEMA}. Upgrade ea_jax.")
    entry = parse_record(Entry, {**facts, "path": folder}, path)
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
