"""Options that commands share."""

from enum import StrEnum
from typing import Annotated

import typer

Flavor = Annotated[
    str | None,
    typer.Option("--flavor", help="Which adapter; by default, yours before a bundled one."),
]
AssumeSource = Annotated[
    bool, typer.Option("--assume-source", help="Accept the vectors as the source model's, whatever their file records.")
]

Column = Annotated[
    str | None, typer.Option("--column", help="Column of the source vectors; a.b is a field of a struct.")
]
TextColumn = Annotated[str | None, typer.Option("--text-column", help="Column of the texts.")]
TextsColumn = Annotated[str | None, typer.Option("--column", "--text-column", help="Column of the texts.")]
TargetColumn = Annotated[str | None, typer.Option("--target-column", help="Column of the target vectors.")]
IdColumn = Annotated[str | None, typer.Option("--id-column", help="Column of the ids.")]
Delimiter = Annotated[str | None, typer.Option("--delimiter", help="Delimiter of CSV files; detected by default.")]
Normalize = Annotated[
    bool, typer.Option("--normalize", help="Rescale source and target vectors of any length to unit length.")
]

Publish = Annotated[
    str | None,
    typer.Option(
        "--publish", help="Of a store: give readers of this name (alias, collection, column) the new vectors."
    ),
]


class PurposeName(StrEnum):
    """Purpose of the vectors."""

    store = "store"
    query = "query"


class DtypeName(StrEnum):
    """Dtype of stored vectors."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


class WhereNull(StrEnum):
    """How to treat rows without a vector or text."""

    keep = "keep"
    drop = "drop"
    error = "error"


class OnError(StrEnum):
    """How to treat bad rows."""

    stop = "stop"
    skip = "skip"
