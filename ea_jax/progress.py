"""A bar on stderr for work that takes a while."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(title: str, total: int | None, show: bool, least: int = 0) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where it is worth one; the callable is told of every n things done.

    Args:
        title: What is being done.
        total: How many things there are, if that is known.
        show: Whether a bar is wanted.
        least: Fewer things are done before a bar is read: they get none.
    """
    if not show or (total is not None and total < least):
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (title, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda n: bar.advance(task, n)
