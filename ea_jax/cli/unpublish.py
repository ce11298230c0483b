"""`ea-jax unpublish`: undo the publication of a store."""

from typing import Annotated

import typer


def unpublish(
    store: Annotated[str, typer.Argument(help="URL by which readers get the published store.")],
    public: Annotated[str, typer.Argument(help="Name under which it was published.")],
    current: Annotated[str, typer.Argument(help="Its own name.")],
    previous: Annotated[str | None, typer.Argument(help="Name of what readers got before, if anything.")] = None,
) -> None:
    """Give readers what they got before `ea-jax map --publish`, which prints this command. Nothing is deleted.

    Example: ea-jax unpublish qdrant:./db#live live mapped docs
    """
    from ea_jax.integrations.stores import Published, open_store

    with open_store(store) as opened:
        opened.unpublish(Published(public, current, previous))


COMMANDS = {unpublish: "unpublish"}
