"""Files that are there whole or not at all, whenever a process ends; locks that end with their process."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ea_jax.errors import Conflict


@contextmanager
def write_atomically(path: Path, temporary: Path | None = None) -> Iterator[IO[bytes]]:
    """Write to a temporary file, put it on the disk, and only then into place.

    Args:
        path: What it is called in the end; one that is there is replaced.
        temporary: What it is called until then, on the same file system; `<path>.tmp` if None.
    """
    temporary = temporary or path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as stream:
        yield stream
    move_into_place(temporary, path)


def move_into_place(temporary: Path, path: Path) -> None:
    """Put a file that is written on the disk, and then into place.

    Its pages leave the system's cache, since whoever writes much would push all else out of there.
    """
    handle = os.open(temporary, os.O_RDWR)
    try:
        os.fsync(handle)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
    temporary.replace(path)
    _sync_folder(path.parent)


@contextmanager
def hold_lock(path: Path, what: str, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a file's lock, which the system releases when the process ends, however it does.

    Args:
        what: What is at work, for the error.
        shared: Whether others may hold it as well, as long as all share it.
        wait: Until it is free, instead of an error.

    Raises:
        Conflict: Another process holds it.
    """
    import fcntl

    with path.open("a") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            raise Conflict(f"{what} is already being written by another process. Wait for it, or end it.") from error
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock."""
    try:
        with hold_lock(path, ""):
            return False
    except Conflict:
        return True


def replace_folder(new: Path, there: Path) -> None:
    """Put a whole folder in the place of another, on the same file system. A kill in between loses neither.

    The old folder waits beside it as `.<name>.old`, from where `recover_folders` takes it back if need be.
    """
    with _folder_lock(there.parent):
        _restore(there)
        if there.exists():
            there.rename(_aside(there))
        new.rename(there)
        _sync_folder(there.parent)
        shutil.rmtree(_aside(there), ignore_errors=True)


def recover_folders(root: Path) -> None:
    """Finish the swaps in a folder that were cut off, if it may be written and no process is at one."""
    if any(root.glob(".*.old")):
        with suppress(OSError), _folder_lock(root, wait=False):
            for old in root.glob(".*.old"):
                _restore(root / old.name[1 : -len(".old")])


def _restore(there: Path) -> None:
    """The new folder if it is in place, else the old one."""
    old = _aside(there)
    if old.exists() and there.exists():
        shutil.rmtree(old)
    elif old.exists():
        old.rename(there)


def _aside(there: Path) -> Path:
    return there.with_name(f".{there.name}.old")


@contextmanager
def _folder_lock(folder: Path, wait: bool = True) -> Iterator[None]:
    """Hold a folder's own lock; OSError where another process does, unless it is waited for."""
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
