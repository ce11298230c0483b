"""`ea-jax cache`: the compiled programs on disk."""

import logging
from typing import Annotated

import typer

logger = logging.getLogger(__name__)


def cache(clear: Annotated[bool, typer.Option("--clear", help="Delete the programs.")] = False) -> None:
    """Show the folder of compiled programs, with their number and size; or delete them.

    JAX compiles a program for each shape, and later processes read it from this folder. JAX_COMPILATION_CACHE_DIR
    names another folder, and EA_JAX_COMPILATION_CACHE=off keeps no programs.

    Example: ea-jax cache --clear
    """
    from ea_jax.devices import compilation_cache_folder

    folder = compilation_cache_folder()
    files = [file for file in folder.glob("*-cache") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(f"{folder}  {len(files):,} programs, {size / 1e6:,.1f} MB")
    if clear:
        for file in [*files, *folder.glob("*-atime")]:
            file.unlink(missing_ok=True)
        logger.info(f"Deleted {len(files):,} programs.")


COMMANDS = {cache: "cache"}
