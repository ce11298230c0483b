"""What commands print, and what they do with entries that cannot be read."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ea_jax.errors import EaJaxError
from ea_jax.registry.index import Listing
from ea_jax.registry.remotes import Remote, fetch_index


def read_or_warn(read: Callable[[Any], Any], things: Iterable[Any]) -> Iterator[Any]:
    """What is read of each thing; one that is broken is a sentence on stderr, and leaves the others."""
    for thing in things:
        try:
            yield read(thing)
        except EaJaxError as error:
            print(f"ea-jax: {error}", file=sys.stderr)


def fetch_index_or_warn(remote: Remote) -> list[Listing]:
    """What a registry on the hub holds; where its index cannot be read, nothing, and a sentence on stderr."""
    return next(read_or_warn(fetch_index, [remote]), [])


def print_columns(rows: list[tuple[str, ...]]) -> None:
    """Rows as columns on stdout; what a terminal would obey is shown as an escape."""
    shown = [[cell if cell.isprintable() else ascii(cell)[1:-1] for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    if shown:
        print("\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in shown))
