"""Where adapters are looked for: `ea-jax registry`, `registry add` and `registry remove`."""

from typing import Annotated

import typer

from ea_jax import registry as reg
from ea_jax.cli.registry import print_columns

app = typer.Typer(name="registry", add_completion=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def registry(context: typer.Context) -> None:
    """Show where the registries are, and every model space they know; add or remove one on the Hugging Face hub.

    Example: ea-jax registry
    """
    if context.invoked_subcommand:
        return
    from ea_jax.remotes import index, remotes

    for folder in reg.roots():
        print(f"{folder}  ({len(reg.entries(folder))} adapters)")
    for remote in remotes():
        print(f"{remote.address}  ({len(index(remote))} adapters)")
    print()
    rows = [("id", "aliases", "width", "runs here")]
    rows += [(s.id, ", ".join(s.aliases), str(s.width), "yes" if s.local else "no") for s in reg.spaces()]
    print_columns(rows)


@app.command("add")
def add(
    address: Annotated[str, typer.Argument(help="hf:owner/name or hf:datasets/owner/name, with @revision.")],
) -> None:
    """Look for adapters in a registry on the hub too, as it is at its present commit; again to move to a later one.

    Example: ea-jax registry add hf:owner/name
    """
    from ea_jax.remotes import add_remote

    print(add_remote(address).address)


@app.command("remove")
def remove(address: Annotated[str, typer.Argument(help="What was added.")]) -> None:
    """Look there no more.

    Example: ea-jax registry remove hf:owner/name
    """
    from ea_jax.remotes import remove_remote

    print(remove_remote(address).address)
