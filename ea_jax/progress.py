"""A bar on stderr for work that takes a while."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    title: str, total: int | None, show: bool, least: int = 0, unit: str = ""
) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where it is worth one; the callable is told of every n things done.

    Args:
        title: What is being done.
        total: How many things there are, if that is known.
        show: Whether a bar is wanted.
        least: Fewer things are done before a bar is read: they get none.
        unit: What the things are, where the bar should say how many a second are done.
    """
    if not show or (total is not None and total < least):
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f} {unit}/s" if unit and task.speed else "")

    columns = (title, BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda n: bar.advance(task, n)
