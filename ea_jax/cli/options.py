"""Options that commands share."""

from enum import StrEnum
from typing import Annotated

import typer

AssumeSource = Annotated[
    bool, typer.Option("--assume-source", help="Take x for the source model's vectors, whatever their file says.")
]


class PurposeName(StrEnum):
    """What the vectors are for."""

    store = "store"
    query = "query"


class DtypeName(StrEnum):
    """What vectors are stored in."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


class WhereNull(StrEnum):
    """What becomes of rows without a vector or text."""

    keep = "keep"
    drop = "drop"
    error = "error"


class OnError(StrEnum):
    """What becomes of bad rows."""

    stop = "stop"
    skip = "skip"
