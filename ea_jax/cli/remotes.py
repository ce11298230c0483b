"""Where adapters are looked for: `ea-jax registry`, and `add` and `remove` of it."""

from enum import StrEnum
from typing import Annotated

import typer

from ea_jax.cli.output import fetch_index_or_warn, print_columns
from ea_jax.registry.locations import registry_folders
from ea_jax.registry.lookup import list_entries
from ea_jax.registry.spaces import list_spaces


class Action(StrEnum):
    """What may be done to the registries on the hub."""

    add = "add"
    remove = "remove"


def registry(
    action: Annotated[Action | None, typer.Argument(help="Pin one on the hub as it is now, or drop it.")] = None,
    address: Annotated[str | None, typer.Argument(help="hf:owner/name, hf:datasets/owner/name; @revision.")] = None,
) -> None:
    """Show where the registries are and what models they know; add or remove one on the Hugging Face hub.

    Example: ea-jax registry add hf:owner/name
    """
    from ea_jax.registry.remotes import add_remote, list_remotes, remove_remote

    if action:
        if not address:
            raise typer.BadParameter("say which: hf:owner/name.")
        print((add_remote if action is Action.add else remove_remote)(address).address)
        return
    for folder in registry_folders():
        print(f"{folder}  ({len(list_entries(folder))} adapters)")
    for remote in list_remotes():
        print(f"{remote.address}  ({len(fetch_index_or_warn(remote))} adapters)")
    print()
    rows = [("id", "aliases", "width", "runs here")]
    rows += [(s.id, ", ".join(s.aliases), str(s.width), "yes" if s.local else "no") for s in list_spaces()]
    print_columns(rows)


COMMANDS = {registry: "registry"}
