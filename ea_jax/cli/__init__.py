"""The command line. A command parses, makes one library call and prints; heavy imports wait until it runs."""

import gc
import logging
import re
import sys
from collections.abc import Callable
from inspect import getdoc
from typing import Annotated, Any

import typer

from ea_jax.cli import (
    about,
    cache,
    catalog,
    drift,
    embed,
    evaluate,
    fit,
    identify,
    map,
    pairs,
    publish,
    remotes,
    serve,
    unpublish,
)
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
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _first_paragraph(command: Callable[..., Any]) -> str:
    """The summary of a command for the list of commands, which click would cut to the width of the terminal."""
    return " ".join((getdoc(command) or "").split("\n\n")[0].split())


for group in (
    embed,
    map,
    serve,
    drift,
    identify,
    pairs,
    fit,
    evaluate,
    catalog,
    remotes,
    publish,
    unpublish,
    cache,
    about,
):
    for command, name in group.COMMANDS.items():
        app.command(name, short_help=_first_paragraph(command))(command)


def _show_version(requested: bool) -> bool:
    if requested:
        about.version()
        raise typer.Exit
    return requested


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the versions and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Translate embeddings between model spaces. Results go to stdout, everything else to stderr."""


def main() -> None:
    """Run the command line. An expected error is one line on stderr and exit code 1."""
    gc.set_threshold(50_000, 20, 20)  # the imports of a command make objects that stay: collecting them takes 0.2 s
    show_messages()
    try:
        app()
    except (EaJaxError, OSError) as error:
        logger.error(_name_options(_describe(error)))
        sys.exit(1)
    finally:
        gc.freeze()  # the interpreter's last collection takes another 0.2 s


def _describe(error: EaJaxError | OSError) -> str:
    """One sentence, which begins with the path for errors of the operating system."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}."
    return str(error)


def _name_options(message: str) -> str:
    """Replace the names of arguments that are options of the commands: `assume_source` becomes --assume-source."""
    options = {
        parameter.name: max(parameter.opts, key=len)
        for command in typer.main.get_command(app).commands.values()  # pyright: ignore[reportAttributeAccessIssue]
        for parameter in command.params
        if parameter.param_type_name == "option"
    }
    return re.sub(r"`(\w+)`", lambda match: options.get(match[1], match[0]), message)
