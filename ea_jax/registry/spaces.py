"""Model spaces by name, and composites of them such as `minilm@0,3,6+wordllama`: read from TOML, without JAX."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ea_jax.errors import BadInput, UnknownName, suggest_names
from ea_jax.io.toml import parse_record, read_toml
from ea_jax.registry.locations import registry_folders

LAYERS = re.compile(r"[0-9]{1,4}(,[0-9]{1,4})*")
EXAMPLE = "Write it like minilm@0,3,6+wordllama."


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
    layers: int = 0
    composite: str = ""

    @property
    def alias(self) -> str:
        """The shortest way to name it: its first alias, or its id."""
        return self.aliases[0] if self.aliases else self.id


class Member(NamedTuple):
    """A member of a composite.

    Attributes:
        space: Of its model.
        layers: Which hidden states are mean-pooled, 0 for the output of the embedding layer and i for that of layer i;
            none for the model's ordinary embedding.
    """

    space: Space
    layers: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Numbers that it adds to a composite's embedding."""
        return self.space.width * max(1, len(self.layers))

    def named(self, model: str) -> str:
        """The member as it is written, its model under this name."""
        return model + ("@" + ",".join(map(str, self.layers)) if self.layers else "")


def list_spaces(root: str | os.PathLike[str] | None = None) -> list[Space]:
    """Every known space: those of `root` first, then those of all registries."""
    known: dict[str, Space] = {}
    for folder in dict.fromkeys([*registry_folders(root), *registry_folders()]):
        path = folder / "spaces.toml"
        for space in _spaces(path, path.stat().st_mtime_ns) if path.exists() else ():
            known.setdefault(space.id, space)
    return list(known.values())


@lru_cache(8)
def _spaces(path: Path, changed: int) -> tuple[Space, ...]:
    """Spaces of a file, parsed once for as long as it is not changed."""
    return tuple(parse_record(Space, facts, path) for facts in read_toml(path).get("space", []))


def find_space(name: str, root: str | os.PathLike[str] | None = None) -> Space:
    """The space of a full id or an alias, in any letter case, or of a composite such as `minilm@0,3,6+wordllama`.

    A composite that `spaces.toml` names is that space, however it is written.

    Raises:
        UnknownName: No space has the name, or that of a member; the message lists the nearest.
        BadInput: It is written like a composite and cannot be one.
    """
    known = list_spaces(root)
    space = _named(name, known)
    if space is None and re.search("[+@]", name):
        space = _composite(name, known)
    if space is None:
        raise UnknownName(f"No model space is named {name!r}. {_near(name, known)} `ea-jax registry` lists them all.")
    return space


def list_members(space: Space, root: str | os.PathLike[str] | None = None) -> tuple[Member, ...]:
    """The members of a composite space; none of another. Errors are those of `find_space`."""
    return _members(space.composite, list_spaces(root)) if space.composite else ()


def _named(name: str, known: Sequence[Space]) -> Space | None:
    for space in known:
        if name.lower() in (space.id.lower(), *(alias.lower() for alias in space.aliases)):
            return space
    return None


def _near(name: str, known: Sequence[Space]) -> str:
    return suggest_names(name, [name for space in known for name in (space.id, *space.aliases)])


def _composite(expression: str, known: Sequence[Space]) -> Space:
    """The named space with the same members, or a new one."""
    members = _members(expression, known)
    for space in known:
        if space.composite and _members(space.composite, known) == members:
            return space
    full = "+".join(member.named(member.space.id) for member in members)
    short = "+".join(member.named(member.space.alias) for member in members)
    width = sum(member.width for member in members)
    return Space(full, width, unit_norm=True, local=True, aliases=(short,), composite=full)


def _members(expression: str, known: Sequence[Space]) -> tuple[Member, ...]:
    members = tuple(_member(part, expression, known) for part in expression.split("+"))
    ids = [member.space.id for member in members]
    for member in members:
        if ids.count(member.space.id) > 1:
            alias = member.space.alias
            raise BadInput(f"{expression!r} names {alias} twice. Name it once, with all its layers: {alias}@0,3.")
    return members


def _member(part: str, expression: str, known: Sequence[Space]) -> Member:
    name, sign, text = part.partition("@")
    if not name:
        raise BadInput(f"{expression!r} has a member without a name. {EXAMPLE}")
    if sign and not LAYERS.fullmatch(text):
        raise BadInput(f"{expression!r} asks for the layers {text!r} of {name}, which are not numbers. {EXAMPLE}")
    space = _named(name, known)
    if space is None:
        raise UnknownName(f"No model space is named {name!r}, a member of {expression!r}. {_near(name, known)}")
    layers = tuple(int(layer) for layer in text.split(",")) if sign else ()
    if space.composite:
        raise BadInput(f"{expression!r} has the composite {space.alias} as a member. Write out {space.composite}.")
    if not space.local:
        local = suggest_names(name, [space.alias for space in known if space.local and not space.composite])
        raise BadInput(f"{space.id} has no encoder that runs here, and so cannot be in {expression!r}. {local}")
    if layers and space.table:
        raise BadInput(f"{expression!r} asks for layers of {space.alias}, a static token table. Leave out @{text}.")
    if len(set(layers)) < len(layers):
        raise BadInput(f"{expression!r} names a layer of {space.alias} twice. Name each once.")
    check_layers(layers, space.layers or max(layers, default=0), space.alias, expression)
    return Member(space, layers)


def check_layers(layers: Sequence[int], highest: int, model: str, where: str) -> None:
    """Raise BadInput where a layer is not there; `highest` is the last one's number."""
    for layer in layers:
        if layer > highest:
            raise BadInput(f"{where!r} asks for layer {layer}; {model} has 0 (its embedding layer) to {highest}.")
