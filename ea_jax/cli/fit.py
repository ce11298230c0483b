"""Fit a registry entry on pairs: `ea-jax fit`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ea_jax.cli.options import AssumeSource, Column, Delimiter, Normalize, TargetColumn, TextColumn
from ea_jax.errors import BadInput


def fit(
    pairs: Annotated[
        list[str], typer.Argument(help="Files of pairs, one folder of them, or the URL of a vector store.")
    ],
    source: Annotated[str, typer.Option(help="Model that made the column x, or that embeds the column text.")],
    target: Annotated[str, typer.Option(help="Model that made the column y.")],
    out: Annotated[
        Path | None, typer.Option(help="Registry folder for the entry; your own registry by default.")
    ] = None,
    flavor: Annotated[str, typer.Option(help="Name of this adapter among those of the two models.")] = "mine",
    prior: Annotated[
        str, typer.Option(help="Adapter to start from: auto (the registry's, if any), none, or a name.")
    ] = "auto",
    family: Annotated[
        str | None,
        typer.Option(help="linear, kernel, or auto: the one that ranks best. Default: auto for vectors without texts."),
    ] = None,
    replace_entry: Annotated[bool, typer.Option("--replace", help="Overwrite an entry of the same name.")] = False,
    prompt: Annotated[str | None, typer.Option(help="Name of the prompt before each text.")] = None,
    test: Annotated[list[str] | None, typer.Option(help="Test pairs as NAME=FILE; may be repeated.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Largest number of rows sampled from a store.")] = 5000,
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

    From a vector store, a random sample of rows is read: the source model embeds their texts, and the stored vectors
    are the targets. One row in ten is left for `ea-jax eval`.

    Example: ea-jax fit pairs.parquet --source minilm-plus --target oai-3-small --out my-registry

    Example: ea-jax fit qdrant:http://localhost:6333#docs --source minilm-plus --target oai-3-small
    """
    from ea_jax.cli.runtime import start_jax
    from ea_jax.integrations.stores.urls import is_store_url
    from ea_jax.registry.locations import user_folder
    from ea_jax.registry.spaces import find_space

    stores = [item for item in pairs if is_store_url(item)]
    if stores and len(pairs) > 1:
        raise BadInput("Fit on one store, or on files.")
    a, root = find_space(source), out or user_folder("data") / "registry"
    b = None if stores else find_space(target)
    tests = dict(_parse_test(item) for item in test or [])
    start_jax()
    from ea_jax.data.columns import Columns
    from ea_jax.workflows.fit_entry import fit_entry

    options: dict[str, Any] = {
        "flavor": flavor,
        "family": family,
        "prior": prior,
        "replace_entry": replace_entry,
        "prompt": prompt,
        "tests": tests,
        "near_duplicate_cosine": near,
        "seed": seed,
        "assume_source": assume_source,
        "normalize": normalize,
        "show_progress": sys.stderr.isatty(),
    }
    if stores:
        from ea_jax.workflows.store_jobs import find_target, sampled_pairs

        with sampled_pairs(stores[0], rows, seed, sys.stderr.isatty()) as (file, sample):
            b = find_target(target, sample, root)
            text = about or f"{sample.pairs:,} rows of {sample.description.url}."
            options |= {"corpus": sample.corpus, "store": str(sample.description.url)}
            print(fit_entry([file], a, b, root, description=text, **options))
        return
    assert b is not None
    columns = Columns(column, text_column, target_column, None, delimiter)
    print(fit_entry([Path(item) for item in pairs], a, b, root, description=about, columns=columns, **options))


COMMANDS = {fit: "fit"}


def _parse_test(item: str) -> tuple[str, Path]:
    name, equals, file = item.partition("=")
    if not (name and equals and file):
        raise BadInput(f"--test {item} is not NAME=FILE.")
    return name, Path(file)
