"""Progress in terminals and notebooks: a bar of tqdm, for whoever works in Python."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

DELAY = 2.0  # seconds until a bar that nobody asked for appears: what is quick has none


def somebody_looks() -> bool:
    """Whether errors go to a terminal or to a notebook."""
    if "IPython" in sys.modules:
        shell = sys.modules["IPython"].get_ipython()
        if shell is not None and type(shell).__name__ == "ZMQInteractiveShell":
            return True
    return sys.stderr is not None and sys.stderr.isatty()


def offered_bar(what: str, verbose: int) -> AbstractContextManager[Callable[[int, int], None]]:
    """A `progress_bar` that nobody asked for: where somebody looks, `verbose` is not 0, and it takes a while."""
    return progress_bar(what, bool(verbose) and somebody_looks(), DELAY)


def over_epochs(show: Callable[[int, int], None], epochs: int) -> Callable[[int, int, int, float], None]:
    """What a training tells, as `glot.fit.train.Progress`, shown over so many epochs."""
    return lambda epoch, step, steps, loss: show((epoch - 1) * steps + step, epochs * steps)


@contextmanager
def progress_bar(what: str, is_shown: bool, delay: float = 0.0) -> Iterator[Callable[[int, int], None]]:
    """What draws (done, in all), where it is shown; a bar that waits for `delay` seconds goes away when it is full."""
    if not is_shown:
        yield lambda done, total: None
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without widgets gets the bar of terminals
        from tqdm.auto import tqdm

    with tqdm(desc=what, total=0, delay=delay, leave=not delay) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
