"""One worker of an extraction: claims shards that nobody has, forwards their texts, publishes them.

Any number of workers may share a folder; what one has claimed the others leave alone, what it finished they skip.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from glot.errors import FaultError
from glot.extract.backbone import Backbone
from glot.extract.forward import BatchStates, Overflow, ShardTexts, forward_batch, length_batches
from glot.extract.prepare import Progress, Say
from glot.store.claims import Claims
from glot.store.files import remove_leftovers
from glot.store.layout import Manifest, shard_file, sidecar_file
from glot.store.plan import Plan
from glot.store.shards import ShardWriter, adopt_shard, finished_shard, write_sidecar

IN_FLIGHT = 3  # batches that may wait for the disk
POLL_SECONDS = 1.0


@dataclass
class Busy:
    """Seconds that each stage of a worker worked. Writing and publishing run beside the forward passes."""

    forward: float = 0.0
    write: float = 0.0
    publish: float = 0.0
    wait: float = 0.0


@dataclass
class Worker:
    """A worker's share and what it did.

    Attributes:
        part: (i, n): only the shards s with s % n == i, or None for any.
        turn: (i, n): begin i n-ths down the list of shards, so that n workers do not race for the same ones.
        budget: padded tokens a forward. on_overflow: "stop" or "float32-shard".
        progress: called with (tokens done, tokens in all). say: told what people should know.
    """

    backbone: Backbone
    folder: Path
    manifest: Manifest
    plan: Plan
    claims: Claims
    budget: int
    part: tuple[int, int] | None = None
    turn: tuple[int, int] = (0, 1)
    on_overflow: str = "stop"
    progress: Progress = lambda done, total: None
    say: Say = lambda line: None
    forwarded_texts: int = 0
    forwarded_tokens: int = 0
    busy: Busy = field(default_factory=Busy)
    _done: int = 0
    _counted: set[int] = field(default_factory=set)
    _total: int = 0
    _waited_for: str = ""

    def run(self) -> None:
        """Make every missing shard of this worker's share; without `part` also wait for those that others make."""
        numbers = [number for number in range(self.plan.num_shards) if self._is_mine(number)]
        first = len(numbers) * self.turn[0] // self.turn[1]
        left = numbers[first:] + numbers[:first]
        self._total = sum(self.plan.shard_tokens(number) for number in numbers)
        for number in numbers:
            if self._finished(number):
                self._count(number)
        self.progress(self._done, self._total)
        # One thread writes batches, one publishes shards: an fsync does not hold up the next batch.
        with ThreadPoolExecutor(1, "glot-writer") as writer, ThreadPoolExecutor(1, "glot-publisher") as publisher:
            while left:
                left = self._make_those_free(left, writer, publisher)
                if self.part is not None:
                    return  # a job array does not wait: whoever holds a shard finishes it
                if left:
                    self._wait_for(left[0])

    def _make_those_free(
        self, numbers: list[int], writer: ThreadPoolExecutor, publisher: ThreadPoolExecutor
    ) -> list[int]:
        """Make the shards that nobody has claimed; returns those that others hold."""
        held_by_others: list[int] = []
        publishing: Future | None = None
        for number in numbers:
            if self._finished(number):
                self._count(number)
                continue
            if not self.claims.acquire(f"shard-{number:05d}"):
                held_by_others.append(number)
                continue
            previous, publishing = publishing, self._make(number, writer, publisher)
            if previous is not None:
                previous.result()
        if publishing is not None:
            publishing.result()
        return held_by_others

    def _is_mine(self, number: int) -> bool:
        return self.part is None or number % self.part[1] == self.part[0]

    def _finished(self, number: int) -> bool:
        return finished_shard(self.folder, number, self.manifest) is not None

    def _count(self, number: int) -> None:
        """Count a shard that was there, or that another worker has made, once."""
        if number not in self._counted:
            self._counted.add(number)
            self._done += self.plan.shard_tokens(number)
            self.progress(self._done, self._total)

    def _wait_for(self, number: int) -> None:
        owner = self.claims.owner(f"shard-{number:05d}")
        line = f"waiting for shard {number}, which {owner} is making" if owner else ""
        if line and line != self._waited_for:
            self.say(line)
            self._waited_for = line
        time.sleep(POLL_SECONDS)
        self.manifest = Manifest.load(self.folder)  # who finishes the last shard lists them all and drops the sidecars

    def _make(self, number: int, writer: ThreadPoolExecutor, publisher: ThreadPoolExecutor) -> Future | None:
        """Make a claimed shard; what is left of it when this returns runs in the publishing thread."""
        self.manifest = Manifest.load(self.folder)
        if self._finished(number) or self._tidy(number):
            self._count(number)
            self.claims.release(f"shard-{number:05d}")
            return None
        self._counted.add(number)
        before = self._done
        try:
            shard = self._forward_shard(number, writer, self.manifest.states.dtype)
        except Overflow as overflow:
            if self.on_overflow == "stop":
                raise FaultError(
                    f"{overflow}: pass --on-overflow float32-shard or --dtype float32; finished shards are whole"
                ) from None
            self.say(f"{overflow}: shard {number} is kept in float32")
            self._done = before
            shard = self._forward_shard(number, writer, "float32")
        first, stop = self.plan.shard_range(number)
        self.forwarded_texts += stop - first
        self.forwarded_tokens += self.plan.shard_tokens(number)
        return publisher.submit(self._publish, number, shard)

    def _tidy(self, number: int) -> bool:
        """Remove what a killed worker left of a claimed shard; True where its file was whole and is now listed."""
        remove_leftovers(self.folder, (shard_file(number), sidecar_file(number)))
        path = self.folder / shard_file(number)
        if not path.exists() and not path.is_symlink():
            return False
        entry = adopt_shard(self.folder, number, self.plan, self.manifest.states)
        if entry is None:
            path.unlink()
            (self.folder / sidecar_file(number)).unlink(missing_ok=True)
            return False
        write_sidecar(self.folder, number, entry)
        return True

    def _forward_shard(self, number: int, writer: ThreadPoolExecutor, dtype: str) -> ShardWriter:
        """Forward a shard's texts in length order; they are written meanwhile, and all written on return."""
        identity = self.manifest.states
        shard = ShardWriter(self.folder, number, self.plan, identity, dtype)
        texts = ShardTexts(self.plan, number)
        pending: deque[Future] = deque()
        try:
            for chosen in length_batches(texts.length, self.budget, self.backbone.pads):
                started = time.perf_counter()
                batch = forward_batch(self.backbone, texts, chosen, identity, dtype)
                self.busy.forward += time.perf_counter() - started
                pending.append(writer.submit(self._write, shard, batch))
                while len(pending) >= IN_FLIGHT:
                    self._collect(pending)
                self._done += batch.tokens
                self.progress(self._done, self._total)
            while pending:
                self._collect(pending)
        except BaseException:
            for future in pending:
                future.cancel()
            for future in pending:
                if not future.cancelled():
                    future.exception()  # waits: the file must not go while it is written
            shard.file.abandon()
            raise
        return shard

    def _collect(self, pending: deque[Future]) -> None:
        started = time.perf_counter()
        pending[0].result()  # taken out afterwards: who is interrupted here still waits for it
        pending.popleft()
        self.busy.wait += time.perf_counter() - started

    def _write(self, shard: ShardWriter, batch: BatchStates) -> None:
        started = time.perf_counter()
        batch.write(shard, self.plan)
        self.busy.write += time.perf_counter() - started

    def _publish(self, number: int, shard: ShardWriter) -> None:
        """Fsync and name a shard, say so in its sidecar, give the claim back."""
        started = time.perf_counter()
        try:
            entry = shard.finish()
            write_sidecar(self.folder, number, entry)
        except FileExistsError:  # the claim was thought stale and another worker has finished the shard
            pass
        finally:
            shard.file.abandon()
        self.claims.release(f"shard-{number:05d}")
        self.busy.publish += time.perf_counter() - started
