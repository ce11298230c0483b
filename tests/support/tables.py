"""Write the same rows in every format that the reader takes, by other writers than ours."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import feather, parquet

FORMATS = {  # file name: kinds that it can hold
    "rows.parquet": ("vectors", "texts", "pairs"),
    "rows.arrow": ("vectors", "texts", "pairs"),
    "stream.arrow": ("vectors", "texts", "pairs"),
    "rows.feather": ("vectors", "texts", "pairs"),
    "dataset": ("vectors", "texts", "pairs"),
    "rows.jsonl": ("vectors", "texts", "pairs"),
    "rows.jsonl.gz": ("vectors", "texts", "pairs"),
    "rows.json": ("vectors", "texts", "pairs"),
    "columns.json": ("vectors", "texts", "pairs"),
    "rows.json.gz": ("vectors", "texts", "pairs"),
    "rows.csv": ("vectors", "texts", "pairs"),
    "semicolons.csv": ("vectors", "texts", "pairs"),
    "rows.csv.gz": ("vectors", "texts", "pairs"),
    "rows.tsv": ("vectors", "texts", "pairs"),
    "rows.npz": ("vectors", "texts", "pairs"),
    "rows.npy": ("vectors",),
    "rows.txt": ("texts",),
    "rows.txt.gz": ("texts",),
}


def write_table(path: Path, columns: dict[str, Any]) -> Path:
    """Write columns: arrays of vectors, or lists of strings and numbers."""
    table = pa.table(
        {name: list(values) if isinstance(values, np.ndarray) else values for name, values in columns.items()}
    )
    if path.name == "dataset":
        return write_dataset(path, table)
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    elif path.suffix == ".feather":
        feather.write_feather(table, str(path))
    elif path.suffix == ".arrow":
        open_writer = pa.ipc.new_stream if path.stem == "stream" else pa.ipc.new_file
        with open_writer(path, table.schema) as writer:
            writer.write_table(table, 2)
    elif path.suffix == ".npy":
        np.save(path, next(iter(columns.values())))
    elif path.suffix == ".npz":
        np.savez(path, **{name: np.asarray(values) for name, values in columns.items()})
    else:
        content = _text(path, table.to_pylist(), {name: table.column(name).to_pylist() for name in table.column_names})
        path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


def write_dataset(folder: Path, table: pa.Table) -> Path:
    """Write a folder as `datasets.save_to_disk` does: IPC streams, and two files of JSON."""
    folder.mkdir()
    shards = [table.slice(0, 2), table.slice(2)]
    names = [f"data-{number:05d}-of-00002.arrow" for number in range(2)]
    for name, shard in zip(names, shards, strict=True):
        with pa.ipc.new_stream(folder / name, table.schema) as writer:
            writer.write_table(shard)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    return folder


def _text(path: Path, rows: list[dict[str, Any]], columns: dict[str, Any]) -> str:
    name = path.name.removesuffix(".gz")
    if name.endswith(".txt"):
        return "".join(f"{text}\n" for text in columns["text"])
    if name.endswith((".csv", ".tsv")):
        from io import StringIO

        out = StringIO()
        delimiter = "\t" if name.endswith(".tsv") else ";" if name.startswith("semicolons") else ","
        writer = csv.writer(out, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows([[json.dumps(v) if isinstance(v, list) else v for v in row.values()] for row in rows])
        return out.getvalue()
    if name == "columns.json":
        return json.dumps(columns)
    if name.endswith(".json"):
        return json.dumps(rows, indent=1)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
