"""`ea-jax identify`: name the model that made vectors."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ea_jax.registry.identification import Identification

SHOWN = 5  # candidates


def identify(
    file: Annotated[Path, typer.Argument(help="File or folder of vectors, of any format that `map` reads.")],
    column: Annotated[str | None, typer.Option(help="Column of the vectors; found if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Name the model that made vectors, with a confidence and the runners-up, or say that it is unknown.

    Example: ea-jax identify vectors.npy
    """
    from ea_jax.data.vectors import read_vectors
    from ea_jax.errors import BadInput
    from ea_jax.registry.identification import identify as identify_model

    try:
        result = identify_model(read_vectors(file, column))
    except BadInput as error:
        message = str(error)
        raise BadInput(message if message.startswith(str(file)) else f"{file}: {message}") from error
    if as_json:
        candidates = [candidate._asdict() for candidate in result.candidates]
        print(json.dumps(result._asdict() | {"candidates": candidates}, indent=2))
        return
    if result.candidates:
        print(f"{'model':<40}{'width':>7}{'confidence':>12}{'mean':>7}{'subspace':>10}")
    for c in result.candidates[:SHOWN]:
        print(f"{c.space:<40}{c.width:>7}{c.confidence:>12.2f}{c.mean:>7.2f}{c.subspace:>10.2f}")
    print(_sentence(result))


COMMANDS = {identify: "identify"}


def _sentence(result: "Identification") -> str:
    whole = result.candidates[0].width if result.candidates else result.width
    if result.space is None:
        answer = f"The model is unknown: {result.reason}."
    elif whole > result.width:
        answer = f"Probably {result.space}, cut from {whole} to {result.width} dimensions."
    else:
        answer = f"Probably {result.space}."
    return f"{answer} Compared {result.rows} vectors of width {result.width} and median length {result.length:.3g}."
