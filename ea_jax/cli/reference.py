"""Write the reference of the commands: `python -m ea_jax.cli.reference > ea_jax/cli/README.md`."""

import os
from collections.abc import Iterator

import typer
from typer.testing import CliRunner

WIDTH = 100
INTRODUCTION = """# Commands

Results go to stdout and messages to stderr, so output can be piped. `-` stands for stdin. An error is one sentence on
stderr and exit code 1; a mistake in the arguments is exit code 2.

Environment: `EA_JAX_REGISTRY` adds registry folders (separated as in `PATH`), `OPENAI_API_KEY` is the key of `pairs`,
and JAX's own variables choose the device. This page is generated: `make docs`.
"""


def reference() -> str:
    """Markdown: a table of the commands, and the help of each."""
    return "\n".join([INTRODUCTION, *_table(), "", *_sections()])


def _commands() -> dict[str, str]:
    """Each command and the first sentence of its help."""
    from ea_jax.cli import app

    group = typer.main.get_command(app)
    return {name: str(command.help).split("\n\n")[0] for name, command in group.commands.items()}  # pyright: ignore


def _table() -> Iterator[str]:
    yield "| command | what it does |"
    yield "| --- | --- |"
    for name, text in _commands().items():
        yield f"| [`{name}`](#{name}) | {' '.join(text.split())} |"


def _sections() -> Iterator[str]:
    from ea_jax.cli import app

    os.environ["COLUMNS"] = str(WIDTH)
    for name in _commands():
        result = CliRunner().invoke(app, [name, "--help"], prog_name="ea-jax", terminal_width=WIDTH)
        yield f"## {name}\n\n```text\n{result.stdout.strip()}\n```\n"


if __name__ == "__main__":
    print(reference(), end="")
