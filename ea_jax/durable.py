"""Files that are there whole or not at all, whenever a process ends; locks that end with their process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ea_jax.errors import BadInput


@contextmanager
def whole_file(path: Path, temporary: Path | None = None) -> Iterator[IO[bytes]]:
    """Write to a temporary file, put it on the disk, and only then into place.

    Args:
        path: What it is called in the end; one that is there is replaced.
        temporary: What it is called until then, on the same file system; `<path>.tmp` if None.
    """
    temporary = temporary or path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


@contextmanager
def lock(path: Path, what: str, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a file's lock, which the system releases when the process ends, however it does.

    Args:
        what: What is at work, for the error.
        shared: Whether others may hold it as well, as long as all share it.
        wait: Until it is free, instead of an error.

    Raises:
        BadInput: Another process holds it.
    """
    import fcntl

    with path.open("a") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            raise BadInput(f"{what} is already being written by another process. Wait for it, or end it.") from error
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock."""
    try:
        with lock(path, ""):
            return False
    except BadInput:
        return True


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
