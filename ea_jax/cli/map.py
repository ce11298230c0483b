"""Files of vectors to files of target vectors: `ea-jax map`."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ea_jax.cli.jobs import run_files
from ea_jax.cli.options import AssumeSource, DtypeName, OnError, PurposeName, WhereNull


class Engine(StrEnum):
    """Who does the work."""

    local = "local"
    ray = "ray"


def map_files(
    paths: Annotated[
        list[str] | None, typer.Argument(help="IN... OUT: files, globs or folders; a file or folder.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Model that made the vectors, by id or alias.")] = None,
    target: Annotated[str | None, typer.Option(help="Model whose space they go to.")] = None,
    flavor: Annotated[str | None, typer.Option(help="Which adapter, where there are several.")] = None,
    purpose: Annotated[PurposeName, typer.Option(help="To store beside native vectors, or to query them.")] = (
        PurposeName.store
    ),
    column: Annotated[str | None, typer.Option(help="Column of the vectors; needed where several could be.")] = None,
    out_column: Annotated[str | None, typer.Option(help="Column of the result; the same one if not given.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column that names a row, in the list of rejects.")] = None,
    vectors_only: Annotated[bool, typer.Option("--vectors-only", help="Leave out all columns but that one.")] = False,
    confidence: Annotated[bool, typer.Option("--confidence", help="Add a column of confidences.")] = False,
    dtype: Annotated[DtypeName, typer.Option(help="int8 comes with a column of scales.")] = DtypeName.float32,
    dim: Annotated[int | None, typer.Option(min=1, help="Leading numbers to keep, of Matryoshka targets.")] = None,
    where_null: Annotated[WhereNull, typer.Option(help="What becomes of null rows.")] = WhereNull.error,
    on_error: Annotated[OnError, typer.Option(help="Stop at the first bad row, or put such rows aside.")] = (
        OnError.stop
    ),
    rejects: Annotated[Path | None, typer.Option(help="Where they are listed, a JSON object a line.")] = None,
    format: Annotated[str | None, typer.Option(help="Of files in a folder: parquet, arrow, npy, npz, jsonl.")] = None,
    part_rows: Annotated[int, typer.Option(min=1, help="Rows that are written, and resumed, as one.")] = 32_768,
    device: Annotated[str | None, typer.Option(help="cpu, gpu or tpu; the best one if not given.")] = None,
    distributed: Annotated[bool, typer.Option("--distributed", help="Share the parts with jax.distributed.")] = False,
    assume_source: AssumeSource = False,
    engine: Annotated[Engine, typer.Option(help="This process, or actors of a Ray cluster.")] = Engine.local,
    workers: Annotated[int, typer.Option(min=1, help="Actors, with --engine ray.")] = 1,
    status: Annotated[Path | None, typer.Option(help="Say how far the job of this OUT is, and stop.")] = None,
) -> None:
    """Map stored vectors to the target space, in parts: a job that was stopped goes on with the same command.

    Reads and writes .parquet, .arrow, .npy, .npz and .jsonl. Other columns stay as they are.

    Example: ea-jax map vectors/ mapped/ --source minilm --target oai-3-small
    """
    if status is not None:
        from ea_jax.batch.state import status as look

        print(json.dumps(look(status)))
        return
    if not paths or len(paths) < 2 or source is None or target is None:
        raise typer.BadParameter("IN, OUT, --source and --target are all needed.")
    *given, out = paths
    options = {
        "column": column,
        "out_column": out_column,
        "id_column": id_column,
        "vectors_only": vectors_only,
        "dtype": dtype.value,
        "dim": dim,
        "where_null": where_null.value,
        "skip": on_error is OnError.skip,
        "assume_source": assume_source,
    }
    names = {
        "source": source,
        "target": target,
        "flavor": flavor,
        "purpose": purpose.value,
        "confidence": confidence,
    }
    how = {"kind": format, "part_rows": part_rows}
    run_files(given, Path(out), names, options, how, rejects, device, distributed, workers if engine == "ray" else 0)


COMMANDS = {map_files: "map"}
