"""Files that are there whole or not at all, whenever a process ends."""

import os
from collections.abc import Callable
from pathlib import Path


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a temporary file beside a path, put it on the disk, and then into place."""
    temporary = path.with_name(f"{path.name}.tmp")
    write(temporary)
    handle = os.open(temporary, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    temporary.replace(path)
