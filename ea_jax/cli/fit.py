"""Fit a registry entry on pairs: `ea-jax fit`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ea_jax.cli.options import AssumeSource, Column, Delimiter, Normalize, TargetColumn, TextColumn
from ea_jax.errors import BadInput


def fit(
    pairs: Annotated[list[Path], typer.Argument(help="Files of pairs (.parquet, .jsonl, .jsonl.gz), or one folder.")],
    source: Annotated[str, typer.Option(help="Model that made the column x, or that embeds the column text.")],
    target: Annotated[str, typer.Option(help="Model that made the column y.")],
    out: Annotated[Path, typer.Option(help="Registry folder for the entry.")],
    flavor: Annotated[str, typer.Option(help="Name of this adapter among those of the two models.")] = "mine",
    prior: Annotated[
        str, typer.Option(help="Adapter to start from: auto (the registry's, if any), none, or a name.")
    ] = "auto",
    family: Annotated[
        str | None,
        typer.Option(help="linear, kernel, or auto: the one that ranks best. Default: auto for vectors without texts."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite an entry of the same name.")] = False,
    prompt: Annotated[str | None, typer.Option(help="Name of the prompt before each text.")] = None,
    test: Annotated[list[str] | None, typer.Option(help="Test pairs as NAME=FILE; may be repeated.")] = None,
    near: Annotated[float, typer.Option(help="Leave out pairs with this cosine or more to a test query.")] = 0.95,
    about: Annotated[str, typer.Option(help="Description of the pairs, for the card.")] = "",
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    column: Column = None,
    text_column: TextColumn = None,
    target_column: TargetColumn = None,
    delimiter: Delimiter = None,
    normalize: Normalize = False,
    assume_source: AssumeSource = False,
) -> None:
    """Fit an adapter on pairs, measure it on held-out queries, and write a registry entry with its card.

    Columns: y (target vector); text, or x (source vector); group (never split between folds); in test files, query. A
    folder holds them as arrays: y.npy; x.npy or text.txt (one text a line); group.npy; query.npy. Pairs may be larger
    than memory.

    Example: ea-jax fit pairs.parquet --source minilm-plus --target oai-3-small --out my-registry
    """
    from ea_jax.registry.spaces import find_space

    a, b = find_space(source), find_space(target)
    tests = dict(_parse_test(item) for item in test or [])
    from ea_jax.cli.runtime import start_jax

    start_jax()
    from ea_jax.data.columns import Columns
    from ea_jax.workflows.fit_entry import fit_entry

    entry = fit_entry(
        pairs,
        a,
        b,
        out,
        flavor=flavor,
        family=family,
        prior=prior,
        replace_entry=replace,
        prompt=prompt,
        tests=tests,
        near_duplicate_cosine=near,
        description=about,
        seed=seed,
        assume_source=assume_source,
        columns=Columns(column, text_column, target_column, None, delimiter),
        normalize=normalize,
        show_progress=sys.stderr.isatty(),
    )
    print(entry)


COMMANDS = {fit: "fit"}


def _parse_test(item: str) -> tuple[str, Path]:
    name, equals, file = item.partition("=")
    if not (name and equals and file):
        raise BadInput(f"--test {item} is not NAME=FILE.")
    return name, Path(file)
