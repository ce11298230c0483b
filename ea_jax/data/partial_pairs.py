"""Keep partial results of a file of pairs in a folder beside it, so that an interrupted run can continue.

pairs.parquet.parts/
  job.parquet                    the texts, and in its metadata the target, the model and the dimensions
  000000000-000000256.npy        vectors of the texts 0 to 255
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32
from pyarrow import parquet

from ea_jax.data.texts import Texts, quoted
from ea_jax.errors import BadInput, Conflict
from ea_jax.io.atomic import write_atomically

JOB = "job.parquet"
PART = re.compile(r"(\d{9,})-(\d{9,})\.npy")
KEY = "ea_jax."  # prefix of our keys in the metadata of a parquet file
ROWS = 8192  # rows written together


class Job(NamedTuple):
    """The inputs of a file of pairs. Equal jobs can continue each other.

    Attributes:
        texts: The texts to embed.
        target: Full id of the space of the vectors.
        model: The provider's name for the model.
        dimensions: Width of the vectors.
    """

    texts: Texts
    target: str
    model: str
    dimensions: int

    def facts(self) -> dict[str, str]:
        """Return the metadata of the job's files."""
        return {"target": self.target, "model": self.model, "dimensions": str(self.dimensions)}


def parts_folder(out: Path) -> Path:
    """Return the folder of the partial results of a file of pairs."""
    return out.with_name(f"{out.name}.parts")


def check_parts(folder: Path, job: Job) -> None:
    """Raise Conflict with the differences if the folder holds parts of another job."""
    if not folder.exists():
        return
    if not (folder / JOB).is_file():
        if not folder.is_dir() or any(PART.fullmatch(file.name) for file in folder.iterdir()):
            raise Conflict(f"{folder} exists but has no {JOB}. Remove it, or choose another output.")
        return
    try:
        table = parquet.read_table(folder / JOB)
    except pa.ArrowException as error:
        raise BadInput(f"{folder / JOB} is damaged. Remove {folder} to start over.") from error
    then = {key.decode().removeprefix(KEY): value.decode() for key, value in (table.schema.metadata or {}).items()}
    changes = _differences(job, then, table.column("text").to_pylist())
    if changes:
        raise Conflict(
            f"{folder} holds partial results of another job: {'; '.join(changes)}. Finish that job, remove the "
            "folder to start over, or choose another output."
        )


def _differences(job: Job, then: Mapping[str, str], texts: list[str]) -> list[str]:
    changes = [
        f"the {key} is now {value}, it was {then.get(key)}"
        for key, value in job.facts().items()
        if then.get(key) != value
    ]
    now = job.texts.text
    if len(now) != len(texts):
        changes.append(f"there are now {len(now):,} texts, there were {len(texts):,}")
    other = next((row for row, (a, b) in enumerate(zip(now, texts, strict=False)) if a != b), None)
    if other is not None:
        changes.append(f"text {other} is now {quoted(now[other])}, it was {quoted(texts[other])}")
    return changes


def start_job(folder: Path, job: Job) -> None:
    """Create the folder, and describe the job in it, unless it exists."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / JOB).exists():
        table = pa.table({"text": job.texts.text}).replace_schema_metadata(_metadata(job))
        _write(folder / JOB, lambda file: parquet.write_table(table, file))


def save_part(folder: Path, start: int, y: Float32[np.ndarray, "n d"]) -> None:
    """Save the vectors of the texts from `start` on, atomically."""
    _write(folder / f"{start:09d}-{start + len(y):09d}.npy", lambda file: np.save(file, y))


def completed_rows(folder: Path, job: Job) -> Bool[np.ndarray, " n"]:
    """Return which texts have their vectors.

    Raises:
        BadInput: A part is damaged.
    """
    done = np.zeros(len(job.texts.text), bool)
    for start, part in _parts(folder, job):
        done[start : start + len(part)] = True
    return done


def merge_parts(folder: Path, job: Job, out: Path) -> None:
    """Write the file of pairs from the complete parts, and remove them.

    The columns are text, y and, if there are groups, group. Skipped texts, whose vectors are NaN, are left out.
    """
    if not any((~np.isnan(part[:, 0])).any() for _, part in _parts(folder, job)):
        shutil.rmtree(folder)
        raise BadInput("Every text was skipped. Nothing was written.")
    _write(folder / out.name, lambda file: _write_pairs(file, folder, job), out)
    shutil.rmtree(folder)


def _write_pairs(file: IO[bytes], folder: Path, job: Job) -> None:
    kinds: dict[str, Any] = {"text": pa.string(), "y": pa.list_(pa.float32(), job.dimensions)}
    groups = job.texts.group
    if groups is not None:
        kinds["group"] = pa.string()
    schema = pa.schema(kinds, metadata=_metadata(job))
    with parquet.ParquetWriter(file, schema, use_dictionary=False) as writer:
        at = 0
        for y in _blocks(folder, job):
            kept = np.flatnonzero(~np.isnan(y).any(axis=1))  # rows of NaN are skipped texts
            vectors = pa.FixedSizeListArray.from_arrays(y[kept].ravel(), job.dimensions)
            columns = [pa.array([column[at + i] for i in kept]) for column in (job.texts.text, groups) if column]
            writer.write_table(pa.table([columns[0], vectors, *columns[1:]], schema=schema))
            at += len(y)
    assert at == len(job.texts.text), f"{folder} has {at} of {len(job.texts.text)} vectors"


def _blocks(folder: Path, job: Job) -> Iterator[Float32[np.ndarray, "n d"]]:
    """Yield the vectors of all texts in order, a few thousand at a time."""
    pending, at = [np.zeros((0, job.dimensions), np.float32)], 0
    for start, part in _parts(folder, job):
        pending.append(np.asarray(part[max(at - start, 0) :]))
        at = max(at, start + len(part))
        if sum(map(len, pending)) >= ROWS:
            yield np.concatenate(pending)
            pending = pending[:1]
    yield np.concatenate(pending)


def _parts(folder: Path, job: Job) -> Iterator[tuple[int, Float32[np.ndarray, "n d"]]]:
    """Yield the first row and the memory-mapped vectors of each part, in order."""
    names = [match for match in map(PART.fullmatch, os.listdir(folder) if folder.is_dir() else []) if match]
    for match in sorted(names, key=lambda match: (int(match[1]), int(match[2]))):
        start, end = int(match[1]), int(match[2])
        try:
            part = np.load(folder / match[0], mmap_mode="r")
        except (ValueError, EOFError) as error:
            raise BadInput(f"{folder / match[0]} is damaged. Delete it and run the same command again.") from error
        if part.shape != (end - start, job.dimensions) or part.dtype != np.float32 or end > len(job.texts.text):
            raise BadInput(f"{folder / match[0]} belongs to another job. Delete it and run the same command again.")
        yield start, part


def _metadata(job: Job) -> dict[str, str]:
    return {KEY + key: value for key, value in job.facts().items()}


def _write(file: Path, write: Callable[[IO[bytes]], object], final: Path | None = None) -> None:
    """Write a file atomically."""
    with write_atomically(final or file, file.with_name(f"{file.name}.tmp")) as stream:
        write(stream)
