"""What long work shows and hears: progress bars, and a request to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn


class _Rate(ProgressColumn):
    """Tokens a second."""

    def render(self, task: Task) -> str:
        return f"{task.speed or 0:,.0f} tokens/s"


@contextmanager
def token_bar(console: Console, title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with tokens/s and time left; gives `report(done, total)`. Shown on terminals only."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title, total=None)

        def report(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        yield report


@contextmanager
def epoch_bar(console: Console) -> Iterator[Callable[[int, int, int, float], None]]:
    """A bar an epoch, with its loss; gives `report(epoch, step, steps, loss)`. Shown on terminals only."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("fit", total=None)

        def report(epoch: int, step: int, steps: int, loss: float) -> None:
            progress.update(bar, completed=step, total=steps, description=f"epoch {epoch}, loss {loss:.4f}")

        yield report


@contextmanager
def stop_flag() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a request to stop at the next step; a second one stops at once."""
    asked = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
