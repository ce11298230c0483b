"""Options that commands share."""

from enum import StrEnum
from typing import Annotated

import typer

AssumeSource = Annotated[
    bool, typer.Option("--assume-source", help="Accept the vectors as the source model's, whatever their file records.")
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
