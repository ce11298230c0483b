"""The command line. Each command parses, makes one library call and prints; heavy imports wait until a command runs."""

import logging
import sys

import typer

from ea_jax.cli import about, catalog, drift, embed, evaluate, fit, identify, map, pairs, publish, remotes
from ea_jax.cli.output import show_messages
from ea_jax.errors import EaJaxError

logger = logging.getLogger(__name__)

app = typer.Typer(
    name="ea-jax",
    help="Translate embeddings between model spaces. Results go to stdout, everything else to stderr.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (embed, map, drift, identify, pairs, fit, evaluate, catalog, remotes, publish, about):
    for command, name in group.COMMANDS.items():
        app.command(name)(command)


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit code 1."""
    show_messages()
    try:
        app()
    except (EaJaxError, OSError) as error:
        logger.error(str(error))
        sys.exit(1)
