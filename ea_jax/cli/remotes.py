"""Registries that are searched for adapters: `ea-jax registry`."""

from enum import StrEnum
from typing import Annotated

import typer

from ea_jax.cli.output import fetch_index_or_warn, print_columns
from ea_jax.registry.locations import registry_folders
from ea_jax.registry.lookup import list_entries
from ea_jax.registry.spaces import list_spaces


class Action(StrEnum):
    """Changes to the registries on the hub."""

    add = "add"
    remove = "remove"


def registry(
    action: Annotated[
        Action | None, typer.Argument(help="Add a registry on the hub at its current commit, or remove it.")
    ] = None,
    address: Annotated[
        str | None, typer.Argument(help="hf:owner/name or hf:datasets/owner/name; optionally @revision.")
    ] = None,
) -> None:
    """Show the registries and the models they know; add or remove a registry on the Hugging Face hub.

    Example: ea-jax registry add hf:owner/name
    """
    from ea_jax.registry.remotes import add_remote, list_remotes, remove_remote

    if action:
        if not address:
            raise typer.BadParameter("name the registry: hf:owner/name.")
        print((add_remote if action is Action.add else remove_remote)(address).address)
        return
    for folder in registry_folders():
        print(f"{folder}  ({len(list_entries(folder))} adapters)")
    for remote in list_remotes():
        print(f"{remote.address}  ({len(fetch_index_or_warn(remote))} adapters)")
    print()
    rows = [("id", "aliases", "width", "local")]
    rows += [(s.id, ", ".join(s.aliases), str(s.width), "yes" if s.local else "no") for s in list_spaces()]
    print_columns(rows)


COMMANDS = {registry: "registry"}
