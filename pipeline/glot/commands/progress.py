"""What long work shows: progress bars, on terminals only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class _Rate(ProgressColumn):
    """Tokens or texts a second."""

    def render(self, task: Task) -> str:
        return f"{task.speed or 0:,.0f} {task.fields['unit']}/s"


@contextmanager
def extract_bars(console: Console, title: str, shown: bool = True) -> Iterator[tuple[Bar, Bar]]:
    """Bars with rate and time left; gives `tokens(done, total)` and `texts(done, total)`. Shown on terminals only."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _Rate(), TimeRemainingColumn())
    shown = shown and console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        yield Bar(progress, title, "tokens"), Bar(progress, f"{title}: tokenize", "texts")


@contextmanager
def share_bar(console: Console, title: str) -> Iterator[Bar]:
    """A bar of the share that is done, with the time left; gives `bar(done, total)`. Shown on terminals only."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Bar(progress, title, "")


class Bar:
    """A bar that appears when it is first told of something, as `bar(done, total)`."""

    def __init__(self, progress: Progress, title: str, unit: str) -> None:
        self.progress = progress
        self.task = progress.add_task(title, total=None, visible=False, unit=unit)

    def __call__(self, done: int, total: int) -> None:
        """Tell how much is done."""
        self.progress.update(self.task, completed=done, total=total, visible=done < total)

    def rename(self, title: str) -> None:
        """Change what stands before it."""
        self.progress.update(self.task, description=title)


@contextmanager
def text_bar(console: Console, title: str) -> Iterator[Callable[[int], None]]:
    """How many texts are done, and texts/s; gives `report(done)`. Shown on terminals only."""
    columns = (TextColumn("{task.description}: {task.completed:,} texts"), _Rate())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title, total=None, unit="texts")
        yield lambda done: progress.update(bar, completed=done)


@contextmanager
def byte_bar(console: Console, title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with bytes/s and time left; gives `report(done, total)`. Shown on terminals only."""
    columns = (TextColumn("{task.description}"), BarColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


@contextmanager
def epoch_bar(console: Console) -> Iterator[Callable[[int, int, int, float], None]]:
    """A bar an epoch, with its loss; gives `report(epoch, step, steps, loss)`. Shown on terminals only."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("fit", total=None)

        def report(epoch: int, step: int, steps: int, loss: float) -> None:
            progress.update(bar, completed=step, total=steps, description=f"epoch {epoch}, loss {loss:.4f}")

        yield report
