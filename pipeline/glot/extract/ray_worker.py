"""What runs in an actor of Ray: a worker that keeps the backbone, and makes one shard at a time as it is told."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from glot.errors import FaultError, GlotError, Stopped, UsageError
from glot.extract.options import ExtractOptions
from glot.extract.share import AssignedShare
from glot.extract.source import ModelSource
from glot.process import share_processor
from glot.version import __version__

if TYPE_CHECKING:
    from glot.extract.backbone import Backbone
    from glot.extract.worker import Worker
    from glot.store.layout import Manifest
    from glot.store.plan import Plan

TALK = "talk"  # the methods that are answered while a shard is made


@dataclass(frozen=True)
class Work:
    """What all workers of a run are told.

    Attributes:
        lease: seconds after which a worker that nobody asks ends itself.
        environment: variables of the command's environment that settle what is made. version: of the command.
    """

    source: ModelSource
    folder: Path
    options: ExtractOptions
    lease: float
    environment: dict[str, str]
    version: str = __version__


@dataclass(frozen=True)
class Begun:
    """A worker is ready: which process it is, or why it cannot be one."""

    process: str
    node: str
    error: GlotError | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a shard; without `error` it is made, or what there was of it is kept after a request to stop."""

    texts: int
    tokens: int
    error: GlotError | None = None


class Lease:
    """Ends this process once it works and was not asked for its progress for so many seconds.

    Its driver is gone then, or thinks that this worker is, and will have another make its shard.
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


class ShardMaker:
    """The actor. Its constructor does nothing that can fail, so that Ray starts it again wherever there is a place."""

    def __init__(self, work: Work) -> None:
        os.environ.update(work.environment)
        share_processor()
        self.work = work
        self.process = uuid.uuid4().hex
        self.lease = Lease(work.lease)
        self.stopping = threading.Event()
        self.loaded: tuple[Backbone, Manifest, Plan] | None = None
        self.tokens = 0
        self.said: deque[str] = deque()

    def begin(self) -> Begun:
        """Load the backbone, unless it is there, and see that it is the one whose states the cache holds."""
        node = ray.get_runtime_context().get_node_id()
        try:
            self._load()
        except GlotError as error:
            return Begun(self.process, node, type(error)(f"on {socket.gethostname()}: {error}"))
        return Begun(self.process, node)

    def make(self, number: int) -> Outcome:
        """Make a shard."""
        self.tokens, error = 0, None
        worker = self._worker(number)
        self.lease.begin()
        try:
            worker.run()
        except Stopped:
            pass
        except GlotError as found:
            error = found
        finally:
            self.lease.finish()
        return Outcome(worker.forwarded_texts, worker.forwarded_tokens, error)

    @ray.method(concurrency_group=TALK)
    def progress(self) -> tuple[int, tuple[str, ...]]:
        """Tokens done of the shard in hand, and what is to be said."""
        self.lease.renew()
        return self.tokens, tuple(self.said.popleft() for _ in range(len(self.said)))

    @ray.method(concurrency_group=TALK)
    def stop(self) -> None:
        """Keep what there is of the shard in hand, at the next batch."""
        self.stopping.set()

    def _worker(self, number: int) -> Worker:
        from glot.extract.forward import token_budget
        from glot.extract.worker import Worker

        assert self.loaded is not None  # `begin` was called
        backbone, manifest, plan = self.loaded
        return Worker(
            backbone=backbone,
            folder=self.work.folder,
            manifest=manifest,
            plan=plan,
            share=AssignedShare((number,)),
            budget=self.work.options.token_budget or token_budget(backbone, manifest.states),
            on_overflow=self.work.options.on_overflow,
            progress=self._note,
            say=self.said.append,
        )

    def _note(self, done: int, total: int) -> None:
        self.tokens = done
        if self.stopping.is_set():
            raise Stopped("asked to stop")

    def _load(self) -> None:
        if self.loaded is not None:
            return
        if __version__ != self.work.version:
            raise FaultError(f"this is glot {__version__}, the command's is {self.work.version}: install one of them")
        from glot.extract.engine import take_engine
        from glot.extract.run import load_source
        from glot.store.layout import Manifest
        from glot.store.plan import Plan

        try:
            manifest = Manifest.load(self.work.folder)
        except UsageError:
            raise FaultError(
                f"there is no cache at {self.work.folder}: its folder must be the same on every node of the cluster"
            ) from None
        backbone = load_source(self.work.source, self.work.options)
        self._check_backbone(backbone, manifest)
        plan = Plan(self.work.folder, manifest.plan.data)
        take_engine(backbone, manifest.states.layers, self.work.options.engine, plan.tokens, self.said.append)
        self.loaded = (backbone, manifest, plan)

    def _check_backbone(self, backbone: Backbone, manifest: Manifest) -> None:
        from glot.extract.prepare import as_kept, states_identity

        identity = as_kept(states_identity(backbone, self.work.options), manifest.states, self.work.options)
        difference = manifest.states.difference(identity)
        if difference:
            raise FaultError(f"{self.work.source.location} is not the model that the plan was made with ({difference})")
