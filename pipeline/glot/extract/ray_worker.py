"""What runs in an actor of Ray: a worker that keeps the backbone, and makes one shard at a time as it is told."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from glot.cluster.actor import Actor, Order
from glot.errors import FaultError, Stopped, UsageError
from glot.extract.options import ExtractOptions
from glot.extract.share import AssignedShare
from glot.extract.source import ModelSource

if TYPE_CHECKING:
    from glot.extract.backbone import Backbone
    from glot.extract.worker import Worker
    from glot.store.layout import Manifest
    from glot.store.plan import Plan


class ShardMaker(Actor):
    """The actor. A piece is a shard; it counts texts and tokens, and what is done of a shard are its tokens."""

    def __init__(self, order: Order, source: ModelSource, folder: Path, options: ExtractOptions) -> None:
        super().__init__(order)
        self.source, self.folder, self.options = source, folder, options
        self.loaded: tuple[Backbone, Manifest, Plan] | None = None

    def load(self) -> None:
        """Load the backbone, and see that it is the one whose states the cache holds."""
        if self.loaded is not None:
            return
        from glot.extract.engine import take_engine
        from glot.extract.run import load_source
        from glot.store.layout import Manifest
        from glot.store.plan import Plan

        try:
            manifest = Manifest.load(self.folder)
        except UsageError:
            raise FaultError(
                f"there is no cache at {self.folder}: its folder must be the same on every node of the cluster"
            ) from None
        backbone = load_source(self.source, self.options)
        self._check_backbone(backbone, manifest)
        plan = Plan(self.folder, manifest.plan.data)
        take_engine(backbone, manifest.states.layers, self.options.engine, plan.tokens, self.said.append)
        self.loaded = (backbone, manifest, plan)

    def work(self, number: int, *_: object) -> tuple[int, ...]:
        """Make a shard, or as much of it as there is until a request to stop."""
        worker = self._worker(number)
        with suppress(Stopped):
            worker.run()
        return worker.forwarded_texts, worker.forwarded_tokens

    def _worker(self, number: int) -> Worker:
        from glot.extract.forward import token_budget
        from glot.extract.worker import Worker

        assert self.loaded is not None  # it has begun
        backbone, manifest, plan = self.loaded
        return Worker(
            backbone=backbone,
            folder=self.folder,
            manifest=manifest,
            plan=plan,
            share=AssignedShare((number,)),
            budget=self.options.token_budget or token_budget(backbone, manifest.states),
            on_overflow=self.options.on_overflow,
            progress=self._note,
            say=self.said.append,
        )

    def _note(self, done: int, total: int) -> None:
        self.done = done
        if self.stopping.is_set():
            raise Stopped("asked to stop")

    def _check_backbone(self, backbone: Backbone, manifest: Manifest) -> None:
        from glot.extract.prepare import as_kept, states_identity

        identity = as_kept(states_identity(backbone, self.options), manifest.states, self.options)
        difference = manifest.states.difference(identity)
        if difference:
            raise FaultError(f"{self.source.location} is not the model that the plan was made with ({difference})")
