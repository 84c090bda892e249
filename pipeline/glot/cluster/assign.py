"""Pieces of work assigned to workers that somebody else starts and restarts: which worker makes which, and when.

A piece, as a shard of a cache, is in one worker's hands at a time. Of a worker that is lost nobody can say whether its
process still runs, on a machine that cannot be reached: such a worker ends itself once it was not asked for its
progress for LEASE_SECONDS (`actor.py`), and not before is its piece assigned again. What it had made of it is taken
over from its files.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Protocol

from glot.errors import FaultError, GlotError

LEASE_SECONDS = 30.0  # that a worker goes on without being asked for its progress
POLL_SECONDS = 1.0  # between two questions for progress
PATIENCE_SECONDS = 30.0  # until it is said that no worker has begun
ATTEMPTS = 3  # at a piece that fails
DEATHS = 10  # of workers that have one and the same piece in hand


def lease_seconds() -> float:
    """`LEASE_SECONDS` as it is now: tests make it shorter."""
    return LEASE_SECONDS


@dataclass(frozen=True)
class Ready:
    """A worker has loaded what it needs and has nothing in hand.

    `is_sole`: whether its process is surely the only one that may have had this worker's piece in hand.
    """

    worker: int
    is_sole: bool


@dataclass(frozen=True)
class Finished:
    """A worker has made a piece, or has kept what it had of it when it was asked to stop.

    `counts`: how much of this and that it has done for it.
    """

    worker: int
    counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Failed:
    """A worker lives, and its piece failed for the reason that `error` tells."""

    worker: int
    error: GlotError


@dataclass(frozen=True)
class Lost:
    """A worker has died, or cannot be reached; it will be ready again, wherever there is a place for it."""

    worker: int


@dataclass(frozen=True)
class LeftOut:
    """A worker cannot begin at all, for the reason that `error` tells."""

    worker: int
    error: GlotError


@dataclass(frozen=True)
class Doing:
    """How much of its piece a worker has done, and what it has to say."""

    worker: int
    done: int
    said: tuple[str, ...] = ()


Event = Ready | Finished | Failed | Lost | LeftOut | Doing


class Pool(Protocol):
    """Workers that somebody starts, and starts again. Each is told to begin by itself, and again once it was lost."""

    workers: int

    def make(self, worker: int, number: int) -> None:
        """Have a worker that is ready make a piece."""

    def events(self, seconds: float) -> list[Event]:
        """What happened since, after at most so many seconds."""

    def stop(self) -> None:
        """Ask all workers to keep what they have of their pieces."""


@dataclass
class Board:
    """Which pieces are still to be made, and which are in whose hands.

    Attributes:
        free: pieces that may be assigned now. resting: pieces that may be at some time of the clock.
        held: the piece of each worker that makes one. lost: the piece that each lost worker had.
        piece: what one is called. lighter: what to do where one takes too much memory.
    """

    free: deque[int]
    resting: dict[int, float] = field(default_factory=dict)
    held: dict[int, int] = field(default_factory=dict)
    lost: dict[int, int] = field(default_factory=dict)
    failures: Counter[int] = field(default_factory=Counter)
    deaths: Counter[int] = field(default_factory=Counter)
    piece: str = "piece"
    lighter: str = ""

    @property
    def is_done(self) -> bool:
        """Whether every piece is made."""
        return not (self.free or self.resting or self.held)

    def may_be_made(self, now: float) -> bool:
        """Whether a worker that was lost may still be at its piece."""
        return any(when > now for when in self.resting.values())

    def assign(self, worker: int, now: float) -> int | None:
        """Give a worker the next piece; None where none is free now."""
        for number in [number for number, when in self.resting.items() if when <= now]:
            self._free(number)
        if not self.free:
            return None
        self.held[worker] = self.free.popleft()
        return self.held[worker]

    def finish(self, worker: int) -> int:
        """Take a piece off the board that its worker has made."""
        return self.held.pop(worker)

    def fail(self, worker: int, error: GlotError) -> None:
        """Put a piece that failed behind the others; raises its error once it has failed too often, or always would."""
        number = self.held.pop(worker)
        self.failures[number] += 1
        if error.is_lasting or self.failures[number] >= ATTEMPTS:
            raise error
        self.free.append(number)

    def lose(self, worker: int, until: float) -> None:
        """Let a lost worker's piece rest until a time; raises FaultError where it takes every worker with it."""
        number = self.held.pop(worker, None)
        if number is None:
            return
        self.deaths[number] += 1
        if self.deaths[number] >= DEATHS:
            raise FaultError(
                f"{DEATHS} workers died with {self.piece} {number} in hand: look for the reason in Ray's logs of its "
                f"nodes (memory?){self.lighter}"
            )
        self.resting[number], self.lost[worker] = until, number

    def release(self, worker: int) -> None:
        """A lost worker's piece is in nobody's hands for sure: it may be assigned."""
        number = self.lost.pop(worker, None)
        if number in self.resting:
            self._free(number)

    def _free(self, number: int) -> None:
        del self.resting[number]
        # Who lost it says nothing of who may have it in hand next.
        self.lost = {worker: lost for worker, lost in self.lost.items() if lost != number}
        self.free.appendleft(number)


@dataclass
class Assigner:
    """Has a pool's workers make pieces, each once.

    Attributes:
        done, total: how much was there before, and in all; for `progress`.
        workers: told how many workers are at work. say: told what people should know.
        piece, lighter: see `Board`. lease: seconds that a lost worker may go on. clock: seconds from some moment on.
        counts: the sums of what the workers counted. began: when the first worker was ready.
    """

    done: int = 0
    total: int = 0
    progress: Callable[[int, int], None] = lambda done, total: None
    workers: Callable[[int], None] = lambda count: None
    say: Callable[[str], None] = lambda line: None
    piece: str = "piece"
    lighter: str = ""
    lease: float = field(default_factory=lease_seconds)
    clock: Callable[[], float] = time.monotonic
    counts: tuple[int, ...] = ()
    began: float | None = None
    _sizes: dict[int, int] = field(default_factory=dict)
    _ready: set[int] = field(default_factory=set)
    _idle: set[int] = field(default_factory=set)
    _workers: int = 0
    _left_out: int = 0
    _doing: dict[int, int] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)
    _stopping: bool = False

    def run(
        self,
        pool: Pool,
        sizes: dict[int, int],
        suspects: Iterable[int] = (),
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Return when every piece is made; may be called again with others, and the same pool.

        Args:
            sizes: of every piece to be made, by its number; for `progress`.
            suspects: those that a worker of an earlier command may still have in hand.
            should_stop: asked again and again.

        Raises KeyboardInterrupt once `should_stop` says so and all workers have kept what they had, and the error of a
        piece that fails again and again, or of the last worker that cannot begin.
        """
        begun, suspects = self.clock(), set(suspects) & sizes.keys()
        self._sizes, self._workers = sizes, pool.workers
        board = Board(
            deque(sorted(sizes.keys() - suspects)),
            dict.fromkeys(sorted(suspects), begun + self.lease),
            piece=self.piece,
            lighter=self.lighter,
        )
        self._tell()
        try:
            while not board.is_done:
                if should_stop():
                    raise KeyboardInterrupt
                self._step(pool, board)
                if not self._ready and self.clock() - begun > PATIENCE_SECONDS:
                    self._say("no worker has begun so far: Ray looks for a place, or they are loading")
        except BaseException:
            self._stop(pool, board)
            raise

    def _step(self, pool: Pool, board: Board) -> None:
        for event in pool.events(POLL_SECONDS):
            self._take(event, board)
        for worker in sorted(self._idle):
            number = board.assign(worker, self.clock())
            if number is None:
                break
            self._idle.discard(worker)
            pool.make(worker, number)
        self._tell()

    def _take(self, event: Event, board: Board) -> None:
        worker = event.worker
        if isinstance(event, Doing):
            if worker in board.held:
                self._doing[worker] = event.done
            for line in event.said:
                self._say(line)
            return
        self._doing.pop(worker, None)
        if isinstance(event, Ready):
            self.began = self.began or self.clock()
            self._ready.add(worker)
            self._idle.add(worker)
            if event.is_sole:
                board.release(worker)
        elif isinstance(event, Finished):
            number = board.finish(worker)
            self.counts = tuple(map(sum, zip_longest(self.counts, event.counts, fillvalue=0)))
            if not self._stopping:
                self.done += self._sizes[number]
                self._idle.add(worker)
        elif isinstance(event, Failed):
            self._idle.add(worker)
            if self._stopping:
                board.finish(worker)
            else:
                board.fail(worker, event.error)
        else:
            self._ready.discard(worker)
            self._idle.discard(worker)
            board.lose(worker, self.clock() + self.lease)
            if isinstance(event, LeftOut):
                self._leave_out(event)

    def _leave_out(self, event: LeftOut) -> None:
        self._left_out += 1
        if self._left_out == self._workers:
            raise event.error
        self._say(f"a worker is left out: {event.error}")

    def _stop(self, pool: Pool, board: Board) -> None:
        """Have the workers keep what they have in hand; wait for them as long as they would go on by themselves."""
        self._stopping = True
        pool.stop()
        until = self.clock() + self.lease
        while (board.held or board.may_be_made(self.clock())) and self.clock() < until:
            for event in pool.events(POLL_SECONDS):
                with suppress(GlotError):  # the last worker is left out: that one stops is what is told
                    self._take(event, board)

    def _tell(self) -> None:
        self.workers(len(self._ready))
        self.progress(self.done + sum(self._doing.values()), self.total)

    def _say(self, line: str) -> None:
        """Once, whichever workers say it."""
        if line not in self._said:
            self._said.add(line)
            self.say(line)
