"""Pairs to a registry entry: `ea-jax fit`."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ea_jax.cli.files import AssumeSource
from ea_jax.errors import BadInput


class FamilyName(StrEnum):
    """Families that `fit` knows."""

    auto = "auto"
    linear = "linear"
    kernel = "kernel"
    mlp = "mlp"


def fit(
    pairs: Annotated[list[Path], typer.Argument(help="Files of pairs (.parquet, .jsonl, .jsonl.gz), or one folder.")],
    source: Annotated[str, typer.Option(help="Model of the column x, or that embeds the column text.")],
    target: Annotated[str, typer.Option(help="Model of the column y.")],
    out: Annotated[Path, typer.Option(help="Registry folder that the entry goes into.")],
    flavor: Annotated[str, typer.Option(help="Name of this adapter among those of the two models.")] = "large",
    family: Annotated[FamilyName, typer.Option(help="linear is the fastest; auto takes what ranks best.")] = (
        FamilyName.auto
    ),
    landmarks: Annotated[int, typer.Option(min=1, help="Radial functions of the kernel family, at the most.")] = 8192,
    rank: Annotated[int, typer.Option(min=1, help="Features that they are mixed down to, at the most.")] = 512,
    bits: Annotated[int, typer.Option(min=3, max=8, help="Of a stored weight, about.")] = 6,
    prompt: Annotated[str | None, typer.Option(help="Prefix of the texts, by its name in the source model.")] = None,
    corpus_size: Annotated[
        int, typer.Option(min=1, help="Rows that queries will search, the pairs among them.")
    ] = 20_000,
    test: Annotated[list[str] | None, typer.Option(help="NAME=FILE of test pairs; may be repeated.")] = None,
    near: Annotated[float, typer.Option(help="Cosine to a test row from which a pair is left out.")] = 0.95,
    about: Annotated[str, typer.Option(help="A sentence on the pairs, for the card.")] = "",
    seed: Annotated[int, typer.Option(help="Of all sampling.")] = 0,
    assume_source: AssumeSource = False,
) -> None:
    """Fit an adapter on pairs, measure it on test pairs, and write a registry entry with its card.

    Columns: y (target vector); x (source vector) or text; group (never straddles a split); domain (where a pair came
    from); in test files, query. A folder holds them as arrays: y.npy; x.npy or text.txt (one a line); group.npy;
    domain.npy; query.npy. Pairs may exceed memory.

    Example: ea-jax fit pairs.parquet --source minilm --target oai-3-small --out my-registry
    """
    from ea_jax.registry import find_space

    a, b = find_space(source), find_space(target)
    named = dict(_named_file(item) for item in test or [])
    from ea_jax.cli.device import start_jax

    start_jax()
    from ea_jax.fitting import Budget
    from ea_jax.recipe import fit_entry

    entry = fit_entry(
        pairs,
        a,
        b,
        out,
        flavor=flavor,
        family=family.value,
        budget=Budget(landmarks, rank, bits),
        prompt=prompt,
        corpus_size=corpus_size,
        tests=named,
        near=near,
        description=about,
        seed=seed,
        assume_source=assume_source,
        show_progress=sys.stderr.isatty(),
        say=_say,
    )
    print(entry)


COMMANDS = {fit: "fit"}


def _named_file(item: str) -> tuple[str, Path]:
    name, equals, file = item.partition("=")
    if not (name and equals and file):
        raise BadInput(f"--test {item} is not NAME=FILE.")
    return name, Path(file)


def _say(message: str) -> None:
    print(f"ea-jax: {message}", file=sys.stderr)
