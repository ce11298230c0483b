"""What commands print: messages of the library on stderr, tables on stdout."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ea_jax.errors import EaJaxError
from ea_jax.registry.index import Listing
from ea_jax.registry.remotes import Remote, fetch_index

logger = logging.getLogger(__name__)


class StderrHandler(logging.Handler):
    """Print each message on a line of stderr; debug messages begin with the seconds since the start."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message to the present `sys.stderr`, which a progress bar or a test may have replaced."""
        seconds = f"{record.relativeCreated / 1000:6.2f} s  " if record.levelno == logging.DEBUG else ""
        print(f"ea-jax: {seconds}{record.getMessage()}", file=sys.stderr)


def show_messages() -> None:
    """Print the messages of ea_jax, except debug messages."""
    library = logging.getLogger("ea_jax")
    library.setLevel(logging.INFO)
    library.propagate = False  # the root logger of another library would print them again
    if not any(isinstance(handler, StderrHandler) for handler in library.handlers):
        library.addHandler(StderrHandler())


def read_or_warn(read: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Read each item, and skip those that cannot be read with a warning."""
    for item in items:
        try:
            yield read(item)
        except EaJaxError as error:
            logger.warning(str(error))


def fetch_index_or_warn(remote: Remote) -> list[Listing]:
    """The adapters of a registry on the hub; none, with a warning, if its index cannot be read."""
    return next(read_or_warn(fetch_index, [remote]), [])


def print_columns(rows: list[tuple[str, ...]]) -> None:
    """Print rows as aligned columns. Characters that could control the terminal are printed as escapes."""
    cells = [[cell if cell.isprintable() else ascii(cell)[1:-1] for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if cells:
        print("\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells))
