"""Batches made by a thread while the model trains on the one before."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Key = TypeVar("Key")
Batch = TypeVar("Batch")
DEPTH = 4  # batches that may lie ready


@contextmanager
def read_ahead(
    make: Callable[[Key], Batch], keys: Iterable[Key], in_thread: bool = True
) -> Iterator[Iterator[tuple[Key, Batch]]]:
    """Gives (key, make(key)) for each key, in order; what `make` raises is raised where its batch is asked for.

    With `in_thread` a thread makes the next few, which pays where making one is mostly reading; it is gone when the
    block is left, however that is.
    """
    if not in_thread:
        yield ((key, make(key)) for key in keys)
        return
    ready: queue.Queue[tuple[Key, Batch] | BaseException | None] = queue.Queue(DEPTH)
    left = threading.Event()

    def put(item: tuple[Key, Batch] | BaseException | None) -> None:
        while not left.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for key in keys:
                if left.is_set():
                    return
                put((key, make(key)))
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="glot-read-ahead", daemon=True)
    thread.start()
    try:
        yield _taken(ready)
    finally:
        left.set()
        thread.join()


def _taken(ready: queue.Queue) -> Iterator[tuple]:
    while (item := ready.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item
