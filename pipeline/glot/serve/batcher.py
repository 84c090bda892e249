"""Requests that wait become one batch: one thread calls the model, and each request gets its own answers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

MOST = 256  # rows of a batch that several requests share
PAUSE = 0.002  # seconds that a batch waits for company
Row = tuple[str, ...]  # a text, or both of a pair
Call = Callable[[Sequence[Row]], Sequence[Any]]  # rows to an answer each, in their order


class Full(Exception):
    """As many rows wait as may, or the batcher is closed."""


@dataclass(eq=False)
class _Job:
    call: Call
    rows: Sequence[Row]
    answers: Future[Sequence[Any]] = field(default_factory=Future)


class Batcher:
    """One thread that answers what was submitted, in the order it came; what waits for the same call goes together.

    Where a batch fails each of its requests is tried alone, so that an error is only the one's that caused it. Leaving
    the block answers what still waits, and ends the thread.

    Args:
        room: rows that may wait; the ones being answered do not count.
        most: rows of a shared batch; a longer request goes alone.
        pause: seconds that a batch waits for company.
    """

    def __init__(self, room: int, most: int = MOST, pause: float = PAUSE) -> None:
        self.room, self.most, self.pause = room, most, pause
        self.waiting = 0  # rows
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="glot-serve", daemon=True)

    def __enter__(self) -> Batcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def submit(self, call: Call, rows: Sequence[Row]) -> Future[Sequence[Any]]:
        """What `call` will answer to the rows, or raise; raises Full where there is no room for them."""
        job = _Job(call, rows)
        with self._changed:
            if self._closed or self.waiting + len(rows) > self.room:
                raise Full
            self._jobs.append(job)
            self.waiting += len(rows)
            self._changed.notify()
        return job.answers

    def _work(self) -> None:
        while jobs := self._next():
            # Whoever went away meanwhile is not answered.
            _answer([job for job in jobs if job.answers.set_running_or_notify_cancel()])

    def _next(self) -> list[_Job]:
        """The next batch; empty when all is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if not self._jobs:
                return []
            self._changed.wait_for(lambda: self.waiting >= self.most or self._closed, self.pause)
            return self._take()

    def _take(self) -> list[_Job]:
        """The first job and all that goes with it; the others keep their order."""
        first = self._jobs.popleft()
        taken, left, count = [first], deque[_Job](), len(first.rows)
        for job in self._jobs:
            if job.call == first.call and count + len(job.rows) <= self.most:
                taken.append(job)
                count += len(job.rows)
            else:
                left.append(job)
        self._jobs = left
        self.waiting -= count
        return taken


def _answer(jobs: Sequence[_Job]) -> None:
    if not jobs:
        return
    try:
        answers = jobs[0].call([row for job in jobs for row in job.rows])
    except Exception as error:
        if len(jobs) == 1:
            jobs[0].answers.set_exception(error)
            return
        for job in jobs:
            _answer([job])
        return
    first = 0
    for job in jobs:
        job.answers.set_result(answers[first : first + len(job.rows)])
        first += len(job.rows)
