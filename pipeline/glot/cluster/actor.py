"""What runs in an actor of Ray: a worker that loads what it needs once, and then makes one piece at a time as told."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import ray

from glot.cluster.assign import lease_seconds
from glot.errors import FaultError, GlotError, Stopped
from glot.process import share_processor
from glot.version import __version__

TALK = "talk"  # the methods that are answered while a piece is made
# Variables that workers take from the command's process, but for secrets: each node has its own.
PASSED_ON = ("GLOT_", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM")


@dataclass(frozen=True)
class Order:
    """What all workers of a command are told.

    Attributes:
        lease: seconds after which a worker that nobody asks ends itself.
        environment: variables of the command's environment that settle what is made. version: of the command.
    """

    lease: float
    environment: dict[str, str]
    version: str

    @classmethod
    def of_this_process(cls) -> Order:
        """Workers are to do as this process would."""
        environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        return cls(lease_seconds(), environment, __version__)


@dataclass(frozen=True)
class Begun:
    """A worker is ready: which process it is, or why it cannot be one."""

    process: str
    node: str
    error: GlotError | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a piece; without `error` it is made, or what there was of it is kept after a request to stop.

    `counts`: how much of this and that was done, which `Assigner` sums up.
    """

    counts: tuple[int, ...] = ()
    error: GlotError | None = None


class Lease:
    """Ends this process once it works and was not asked for its progress for so many seconds.

    Its driver is gone then, or thinks that this worker is, and will have another make its piece.
    """

    def __init__(self, seconds: float, end: Callable[[int], None] = os._exit) -> None:
        self.seconds, self.end = seconds, end
        self._asked: float | None = None
        threading.Thread(target=self._watch, name="glot-lease", daemon=True).start()

    def begin(self) -> None:
        """Work begins."""
        self._asked = time.monotonic()

    def renew(self) -> None:
        """The driver has asked, unless it is too late."""
        self._check()
        if self._asked is not None:
            self._asked = time.monotonic()

    def finish(self) -> None:
        """Work has ended."""
        self._asked = None

    def _check(self) -> None:
        asked = self._asked
        if asked is not None and time.monotonic() - asked > self.seconds:
            self.end(1)

    def _watch(self) -> None:
        while True:
            time.sleep(self.seconds / 20)
            self._check()


class Actor:
    """A worker. Its constructor does nothing that can fail, so that Ray starts it again wherever there is a place.

    Whoever derives from it says what to load and how a piece is made, in `load` and `work`.

    Attributes:
        stopping: set when it shall keep what it has. done: how much of the piece in hand is made.
        said: lines for people, which the command prints.
    """

    def __init__(self, order: Order) -> None:
        os.environ.update(order.environment)
        share_processor()
        self.order = order
        self.process = uuid.uuid4().hex
        self.lease = Lease(order.lease)
        self.stopping = threading.Event()
        self.done = 0
        self.said: deque[str] = deque()

    def load(self) -> None:
        """Load what all pieces need, unless it is there; raises GlotError where this worker cannot be one."""
        raise NotImplementedError

    def work(self, number: int, *given: object) -> tuple[int, ...]:
        """Make a piece, of which `given` says more; returns how much was done, also where it was asked to stop."""
        raise NotImplementedError

    def begin(self) -> Begun:
        """Load, and see that this worker does as the command would."""
        node = ray.get_runtime_context().get_node_id()
        try:
            if __version__ != self.order.version:
                difference = f"this is glot {__version__}, the command's is {self.order.version}"
                raise FaultError(f"{difference}: install one of them")
            self.load()
        except GlotError as error:
            return Begun(self.process, node, type(error)(f"on {socket.gethostname()}: {error}"))
        return Begun(self.process, node)

    def make(self, number: int, *given: object) -> Outcome:
        """Make a piece."""
        self.done = 0
        self.lease.begin()
        try:
            return Outcome(self.work(number, *given))
        except Stopped:
            return Outcome()
        except GlotError as error:
            return Outcome(error=error)
        finally:
            self.lease.finish()

    @ray.method(concurrency_group=TALK)
    def progress(self, is_wanted: bool) -> tuple[int, tuple[str, ...]]:
        """How much is done of the piece in hand, and what is to be said; `is_wanted` whether the driver waits for it.

        It does not where it took this worker for lost while it could not be reached: then its lease runs out.
        """
        if is_wanted:
            self.lease.renew()
        return self.done, tuple(self.said.popleft() for _ in range(len(self.said)))

    @ray.method(concurrency_group=TALK)
    def stop(self) -> None:
        """Keep what there is of the piece in hand, at the next batch."""
        self.stopping.set()
