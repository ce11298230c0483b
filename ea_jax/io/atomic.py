"""Files and folders that are written completely or not at all, and locks that end with their process."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ea_jax.errors import Conflict


@contextmanager
def write_atomically(path: Path, temporary: Path | None = None) -> Iterator[IO[bytes]]:
    """Write to a temporary file, flush it to the disk and move it into place. If the block fails, nothing is left.

    Args:
        path: Final path of the file. An existing file is replaced.
        temporary: Path of the temporary file, on the same file system. If None, `<path>.tmp`.
    """
    temporary = temporary or path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
        move_into_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def move_into_place(temporary: Path, path: Path) -> None:
    """Flush a written file to the disk and move it to its final path.

    Its pages are dropped from the page cache: a large job would otherwise evict everything else from there.
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
def hold_lock(path: Path, output: str, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock on a file. The system releases it when the process ends, even by SIGKILL.

    Args:
        path: The lock file, which is created if necessary.
        output: The output that the lock protects, for the error message.
        wait: Whether to wait for another process that holds the lock, instead of raising an error.

    Raises:
        Conflict: Another process holds the lock, and `wait` is False.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(blocking=wait)
    except Timeout as error:
        raise _locked(output) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def hold_shared_lock(path: Path, output: str, exclusive: bool = False) -> Iterator[None]:
    """Hold a lock that several processes may share, or hold it alone. Otherwise as `hold_lock`.

    Args:
        path: The lock file, which is created if necessary. `hold_lock` cannot use the same file.
        output: The output that the lock protects, for the error message.
        exclusive: Whether no other process may hold the lock.

    Raises:
        Conflict: Another process holds the lock in a way that excludes this one.
    """
    from filelock import ReadWriteLock, Timeout

    lock = ReadWriteLock(path, is_singleton=False)  # two holders in one process exclude each other as well
    try:
        (lock.acquire_write if exclusive else lock.acquire_read)(blocking=False)
    except Timeout as error:
        raise _locked(output) from error
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process holds a shared lock."""
    try:
        with hold_shared_lock(path, "", exclusive=True):
            return False
    except Conflict:
        return True


def replace_folder(new: Path, folder: Path) -> None:
    """Replace a folder by another on the same file system. A kill at any moment loses neither.

    Meanwhile the old folder is at `.<name>.old`. After a kill, `recover_folders` moves it back.
    """
    with _hold_folder(folder.parent):
        _recover(folder)
        if folder.exists():
            folder.rename(_backup(folder))
        new.rename(folder)
        _sync_folder(folder.parent)
        shutil.rmtree(_backup(folder), ignore_errors=True)


def recover_folders(root: Path) -> None:
    """Complete the replacements in a folder that were interrupted, unless it is read-only or in use."""
    if any(root.glob(".*.old")):
        with suppress(OSError), _hold_folder(root, wait=False):
            for old in root.glob(".*.old"):
                _recover(root / old.name[1 : -len(".old")])


def _recover(folder: Path) -> None:
    """Keep the new folder if it is in place, and else the old one."""
    old = _backup(folder)
    if old.exists() and folder.exists():
        shutil.rmtree(old)
    elif old.exists():
        old.rename(folder)


def _backup(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _locked(output: str) -> Conflict:
    return Conflict(f"{output} is already being written by another process. Wait for it, or end it.")


@contextmanager
def _hold_folder(folder: Path, wait: bool = True) -> Iterator[None]:
    """Lock a folder itself, which leaves no lock file in it. Raises OSError if it is locked and `wait` is False."""
    from filelock import lock_descriptor

    handle = os.open(folder, os.O_RDONLY)
    try:
        if not lock_descriptor(handle, blocking=wait):
            raise BlockingIOError(f"{folder} is locked by another process.")
        yield
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system supports it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
