"""A progress bar on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    title: str, total: int | None, show: bool, min_total: int = 0, unit: str = ""
) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr, and yield a function that advances it by a number of items.

    Args:
        title: Name of the work.
        total: Number of items, if known.
        show: Whether to show the bar.
        min_total: Number of items below which no bar is shown, because the work ends before a bar can be read.
        unit: Name of the items. If given, the bar shows how many are done per second.
    """
    if not show or (total is not None and total < min_total):
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
