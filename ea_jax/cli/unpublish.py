"""`ea-jax unpublish`: undo the publication of a store."""

from typing import Annotated

import typer


def unpublish(
    store: Annotated[str, typer.Argument(help="URL of the published store.")],
    public: Annotated[str, typer.Argument(help="Public name, as given to --publish.")],
    current: Annotated[str, typer.Argument(help="Own name of the published collection, table, column or file.")],
    previous: Annotated[str | None, typer.Argument(help="Name of the previous store, if there was one.")] = None,
) -> None:
    """Undo `ea-jax map --publish`, which prints this command. Readers get the previous vectors; nothing is deleted.

    Example: ea-jax unpublish qdrant:./db#live live mapped docs
    """
    from ea_jax.integrations.stores import Published, open_store

    with open_store(store) as opened:
        opened.unpublish(Published(public, current, previous))


COMMANDS = {unpublish: "unpublish"}
