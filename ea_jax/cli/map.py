"""`ea-jax map`: map files of vectors."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ea_jax.cli.jobs import run_files, run_stores
from ea_jax.cli.options import (
    AssumeSource,
    Column,
    Delimiter,
    DtypeName,
    Flavor,
    Normalize,
    OnError,
    Publish,
    PurposeName,
    WhereNull,
)


class Engine(StrEnum):
    """Where the work runs."""

    local = "local"
    ray = "ray"


def map_files(
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="IN... OUT: input files, globs or folders, then an output file or folder; or two stores."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Model that made the vectors, by id or alias.")] = None,
    target: Annotated[str | None, typer.Option(help="Model whose space they go to.")] = None,
    flavor: Flavor = None,
    purpose: Annotated[PurposeName, typer.Option(help="To store beside native vectors, or to query them.")] = (
        PurposeName.store
    ),
    column: Column = None,
    out_column: Annotated[
        str | None, typer.Option(help="Column of the result; replaces the input column by default.")
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Column that identifies a row in the list of rejects.")] = None,
    vectors_only: Annotated[
        bool, typer.Option("--vectors-only", help="Drop all other columns except --id-column.")
    ] = False,
    confidence: Annotated[bool, typer.Option("--confidence", help="Add a column of confidences.")] = False,
    dtype: Annotated[DtypeName, typer.Option(help="int8 adds a column of scales.")] = DtypeName.float32,
    dim: Annotated[int | None, typer.Option(min=1, help="Leading dimensions to keep, for Matryoshka targets.")] = None,
    where_null: Annotated[WhereNull, typer.Option(help="How to treat null rows.")] = WhereNull.error,
    on_error: Annotated[OnError, typer.Option(help="Stop at the first bad row, or skip bad rows.")] = (OnError.stop),
    rejects: Annotated[Path | None, typer.Option(help="File for the skipped rows, one JSON object a line.")] = None,
    format: Annotated[
        str | None, typer.Option(help="Format of the parts in a folder: parquet, arrow, npy, npz or jsonl.")
    ] = None,
    part_rows: Annotated[int, typer.Option(min=1, help="Rows of a part, the unit of resuming.")] = 32_768,
    publish: Publish = None,
    delimiter: Delimiter = None,
    normalize: Normalize = False,
    device: Annotated[str | None, typer.Option(help="cpu, gpu or tpu; the best one by default.")] = None,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Share the parts among the processes of jax.distributed.")
    ] = False,
    assume_source: AssumeSource = False,
    engine: Annotated[Engine, typer.Option(help="Work in this process, or in actors of a Ray cluster.")] = Engine.local,
    workers: Annotated[int, typer.Option(min=1, help="Number of actors with --engine ray.")] = 1,
    status: Annotated[Path | None, typer.Option(help="Print the progress of the job of this OUT, and exit.")] = None,
) -> None:
    """Map stored vectors to the target space. After an interruption, the same command continues the job.

    Reads .parquet, .arrow, .npy, .npz, .jsonl, .json and .csv, writes all but the last two. Other columns pass through.

    Example: ea-jax map vectors/ mapped/ --source minilm --target oai-3-small

    Example: ea-jax map qdrant:./db#docs qdrant:./db#mapped --source minilm --target oai-3-small --publish live
    """
    if status is not None:
        from ea_jax.batch.state import status as job_status

        print(json.dumps(job_status(status)))
        return
    if not paths or len(paths) < 2 or source is None or target is None:
        raise typer.BadParameter("IN, OUT, --source and --target are required.")
    *inputs, out = paths
    from ea_jax.integrations.stores import is_store_url

    if any(map(is_store_url, paths)):
        run_stores(
            inputs,
            out,
            (source, target, flavor),
            purpose.value,
            on_error is OnError.skip,
            normalize,
            publish,
            device,
            assume_source=assume_source,
        )
        return
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
        "normalize": normalize,
    }
    config = {
        "source": source,
        "target": target,
        "flavor": flavor,
        "purpose": purpose.value,
        "confidence": confidence,
    }
    layout = {"format": format, "part_rows": part_rows, "delimiter": delimiter}
    actors = workers if engine is Engine.ray else 0
    run_files(inputs, out, config, options, layout, rejects, device, distributed, actors)


COMMANDS = {map_files: "map"}
