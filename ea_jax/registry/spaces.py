"""Model spaces from `spaces.toml`, and composites of them such as `minilm@0,3,6+wordllama`."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ea_jax.errors import BadInput, UnknownName, suggest_names
from ea_jax.io.atomic import write_atomically
from ea_jax.io.toml import parse_record, read_toml
from ea_jax.registry.locations import registry_folders

LAYERS = re.compile(r"[0-9]{1,4}(,[0-9]{1,4})*")
EXAMPLE = "A composite looks like minilm@0,3,6+wordllama."


@dataclass(frozen=True)
class Space:
    """A model's embedding space. `spaces.toml` explains the attributes, which are its keys."""

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
    layers: int = 0
    composite: str = ""

    @property
    def alias(self) -> str:
        """The first alias, or the id if there is none."""
        return self.aliases[0] if self.aliases else self.id


class Member(NamedTuple):
    """A member of a composite.

    Attributes:
        space: Space of the member's model.
        layers: Numbers of the hidden states that are mean-pooled: 0 is the output of the embedding layer, i that of
            layer i. Empty for the model's ordinary embedding.
    """

    space: Space
    layers: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Number of dimensions that the member adds to a composite."""
        return self.space.width * max(1, len(self.layers))

    def format(self, model: str) -> str:
        """Format the member as in a composite's name, with a name for its model."""
        return model + ("@" + ",".join(map(str, self.layers)) if self.layers else "")


def list_spaces(root: str | os.PathLike[str] | None = None) -> list[Space]:
    """List every known space: first those of `root`, then those of all registries."""
    known: dict[str, Space] = {}
    for folder in dict.fromkeys([*registry_folders(root), *registry_folders()]):
        path = folder / "spaces.toml"
        for space in _read_spaces(path, path.stat().st_mtime_ns) if path.exists() else ():
            known.setdefault(space.id, space)
    return list(known.values())


@lru_cache(8)
def _read_spaces(path: Path, modified: int) -> tuple[Space, ...]:
    """Read the spaces of a file. The cache parses it again only when it is modified."""
    return tuple(parse_record(Space, facts, path) for facts in read_toml(path).get("space", []))


def find_space(name: str, root: str | os.PathLike[str] | None = None) -> Space:
    """Find a space by id or alias, in any letter case, or parse a composite such as `minilm@0,3,6+wordllama`.

    If `spaces.toml` names a composite of the same members, that space is returned.

    Raises:
        UnknownName: No space has this name, or that of a member; the message suggests similar names.
        BadInput: The composite is not valid.
    """
    known = list_spaces(root)
    space = _find(name, known)
    if space is None and re.search("[+@]", name):
        space = _parse_composite(name, known)
    if space is None:
        raise UnknownName(f"No model space is named {name!r}. {_suggest(name, known)} `ea-jax registry` lists all.")
    return space


def add_space(space: Space, root: Path) -> None:
    """Add a remote model's space to `spaces.toml` of a registry folder, which is made if it does not exist."""
    import tomli_w

    root.mkdir(parents=True, exist_ok=True)
    path = root / "spaces.toml"
    facts = {"id": space.id, "aliases": list(space.aliases), "width": space.width, "unit_norm": space.unit_norm}
    record = f"[[space]]\n{tomli_w.dumps(facts | {'local': False})}"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    with write_atomically(path) as stream:
        stream.write(f"{before}\n{record}".lstrip("\n").encode())


def list_members(space: Space, root: str | os.PathLike[str] | None = None) -> tuple[Member, ...]:
    """List the members of a composite space; empty for other spaces. Errors are those of `find_space`."""
    return _parse_members(space.composite, list_spaces(root)) if space.composite else ()


def _find(name: str, known: Sequence[Space]) -> Space | None:
    for space in known:
        if name.lower() in (space.id.lower(), *(alias.lower() for alias in space.aliases)):
            return space
    return None


def _suggest(name: str, known: Sequence[Space]) -> str:
    return suggest_names(name, [name for space in known for name in (space.id, *space.aliases)])


def _parse_composite(expression: str, known: Sequence[Space]) -> Space:
    """Return the named space with the same members, or a new one."""
    members = _parse_members(expression, known)
    for space in known:
        if space.composite and _parse_members(space.composite, known) == members:
            return space
    full = "+".join(member.format(member.space.id) for member in members)
    short = "+".join(member.format(member.space.alias) for member in members)
    width = sum(member.width for member in members)
    return Space(full, width, unit_norm=True, local=True, aliases=(short,), composite=full)


def _parse_members(expression: str, known: Sequence[Space]) -> tuple[Member, ...]:
    members = tuple(_parse_member(part, expression, known) for part in expression.split("+"))
    ids = [member.space.id for member in members]
    for member in members:
        if ids.count(member.space.id) > 1:
            alias = member.space.alias
            raise BadInput(f"{expression!r} names {alias} twice. Name it once, with all its layers: {alias}@0,3.")
    return members


def _parse_member(part: str, expression: str, known: Sequence[Space]) -> Member:
    name, sign, text = part.partition("@")
    if not name:
        raise BadInput(f"{expression!r} has a member without a name. {EXAMPLE}")
    if sign and not LAYERS.fullmatch(text):
        raise BadInput(f"{expression!r} requests the layers {text!r} of {name}, which are not numbers. {EXAMPLE}")
    space = _find(name, known)
    if space is None:
        raise UnknownName(f"No model space is named {name!r}, a member of {expression!r}. {_suggest(name, known)}")
    layers = tuple(int(layer) for layer in text.split(",")) if sign else ()
    if space.composite:
        raise BadInput(f"{expression!r} has the composite {space.alias} as a member. Write {space.composite} instead.")
    if not space.local:
        suggestion = suggest_names(name, [space.alias for space in known if space.local and not space.composite])
        raise BadInput(f"{space.id} has no local encoder, so it cannot be a member of {expression!r}. {suggestion}")
    if layers and space.table:
        raise BadInput(f"{expression!r} requests layers of {space.alias}, which is a static token table. Omit @{text}.")
    if len(set(layers)) < len(layers):
        raise BadInput(f"{expression!r} names a layer of {space.alias} twice. Name each once.")
    check_layers(layers, space.layers or max(layers, default=0), space.alias, expression)
    return Member(space, layers)


def check_layers(layers: Sequence[int], highest: int, model: str, where: str) -> None:
    """Raise BadInput if a layer does not exist. `highest` is the number of the last layer."""
    for layer in layers:
        if layer > highest:
            raise BadInput(
                f"{where!r} requests layer {layer}, but {model} has layers 0 (the embedding layer) to {highest}."
            )
