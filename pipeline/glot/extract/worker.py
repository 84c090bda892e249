"""One worker of an extraction: takes the shards of its share, forwards their texts, publishes them.

Any number of workers may share a folder; what one has taken the others leave alone, what it finished they skip.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from glot.errors import FaultError
from glot.extract.backbone import Backbone
from glot.extract.forward import BatchStates, Overflow, ShardTexts, forward_batch, length_batches
from glot.extract.prepare import Progress, Say
from glot.extract.share import Share
from glot.store.files import remove_leftovers
from glot.store.layout import Manifest, shard_file, sidecar_file
from glot.store.plan import Plan
from glot.store.shards import ShardReader, ShardWriter, adopt_shard, finished_shard, unfinished_shards, write_sidecar

IN_FLIGHT = 3  # batches that may wait for the disk
POLL_SECONDS = 1.0
NOTE_SECONDS = 2.0  # between notes of what a shard holds so far: a killed worker loses no more, and what is in flight


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
        share: which shards are this worker's.
        budget: padded tokens a forward. on_overflow: "stop" or "float32-shard".
        progress: called with (tokens done, tokens in all). say: told what people should know.
    """

    backbone: Backbone
    folder: Path
    manifest: Manifest
    plan: Plan
    share: Share
    budget: int
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
    _noted: float = 0.0

    def run(self) -> None:
        """Make every missing shard of this worker's share; where it waits, until those that others hold are made."""
        left = self.share.numbers(self.plan.num_shards)
        self._total = sum(self.plan.shard_tokens(number) for number in left)
        for number in left:
            if self._finished(number):
                self._count(number)
        self.progress(self._done, self._total)
        try:
            # One thread writes batches, one publishes shards: an fsync does not hold up the next batch.
            with ThreadPoolExecutor(1, "glot-writer") as writer, ThreadPoolExecutor(1, "glot-publisher") as publisher:
                while left:
                    left = self._make_those_free(left, writer, publisher)
                    if not self.share.waits:
                        return
                    if left:
                        self._wait_for(left[0])
        except KeyboardInterrupt:
            self.say(f"kept of this run: {self.forwarded_texts:,} texts, {self.forwarded_tokens:,} tokens")
            raise

    def _make_those_free(
        self, numbers: list[int], writer: ThreadPoolExecutor, publisher: ThreadPoolExecutor
    ) -> list[int]:
        """Make the shards that nobody has; returns those that others hold."""
        held_by_others: list[int] = []
        publishing: Future | None = None
        for number in numbers:
            if self._finished(number):
                self._count(number)
                continue
            if not self.share.take(number):
                held_by_others.append(number)
                continue
            previous, publishing = publishing, self._make(number, writer, publisher)
            if previous is not None:
                previous.result()
        if publishing is not None:
            publishing.result()
        return held_by_others

    def _finished(self, number: int) -> bool:
        return finished_shard(self.folder, number, self.manifest) is not None

    def _count(self, number: int) -> None:
        """Count a shard that was there, or that another worker has made, once."""
        if number not in self._counted:
            self._counted.add(number)
            self._done += self.plan.shard_tokens(number)
            self.progress(self._done, self._total)

    def _wait_for(self, number: int) -> None:
        holder = self.share.holder(number)
        line = f"waiting for shard {number}, which {holder} is making" if holder else ""
        if line and line != self._waited_for:
            self.say(line)
            self._waited_for = line
        time.sleep(POLL_SECONDS)
        self.manifest = Manifest.load(self.folder)  # who finishes the last shard lists them all and drops the sidecars

    def _make(self, number: int, writer: ThreadPoolExecutor, publisher: ThreadPoolExecutor) -> Future | None:
        """Make a shard that was taken; what is left of it when this returns runs in the publishing thread."""
        self.manifest = Manifest.load(self.folder)
        if self._finished(number) or self._tidy(number):
            self._count(number)
            self.share.give_back(number)
            return None
        self._counted.add(number)
        dtype = self.manifest.states.dtype
        unfinished = unfinished_shards(self.folder, number, self.plan, self.manifest.states)
        if self.on_overflow != "stop" and any(shard.dtype == "float32" for shard in unfinished):
            dtype = "float32"  # since they overflowed before
        before = (self._done, self.forwarded_texts, self.forwarded_tokens)
        try:
            shard = self._forward_shard(number, writer, dtype, unfinished)
        except Overflow as overflow:
            if self.on_overflow == "stop":
                raise FaultError(
                    f"{overflow}: pass --on-overflow float32-shard or --dtype float32; finished shards are whole"
                ) from None
            self.say(f"{overflow}: shard {number} is kept in float32")
            self._done, self.forwarded_texts, self.forwarded_tokens = before
            shard = self._forward_shard(number, writer, "float32", [])
        return publisher.submit(self._publish, number, shard)

    def _tidy(self, number: int) -> bool:
        """Remove what a killed worker left of a shard; True where its file was whole and is now listed."""
        remove_leftovers(self.folder, [sidecar_file(number)])
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

    def _forward_shard(
        self, number: int, writer: ThreadPoolExecutor, dtype: str, unfinished: list[ShardReader]
    ) -> ShardWriter:
        """Forward a shard's texts in length order; they are written meanwhile, and all written on return.

        What is whole in `unfinished` files of the shard is taken from there. A batch that lacks a text is forwarded
        whole: in other company a text's states might differ in the last bits. Whatever ends this early, the texts
        written so far are kept.
        """
        identity = self.manifest.states
        shard = self._begin_shard(number, dtype, unfinished)
        there, texts = shard.whole, ShardTexts(self.plan, number)
        pending: deque[Future] = deque()
        try:
            for chosen in length_batches(texts.length, self.budget, self.backbone.pads):
                self._done += int(texts.length[chosen].sum())
                if there[chosen].all():
                    continue
                started = time.perf_counter()
                batch = forward_batch(self.backbone, texts, chosen, identity, dtype)
                self.busy.forward += time.perf_counter() - started
                pending.append(writer.submit(self._write, shard, batch))
                while len(pending) >= IN_FLIGHT:
                    self._collect(pending)
                self.forwarded_texts += len(chosen)
                self.forwarded_tokens += batch.tokens
                self.progress(self._done, self._total)
            while pending:
                self._collect(pending)
        except BaseException as error:
            for future in pending:
                future.exception()  # waits: what is forwarded is written, and the file must not go meanwhile
            if isinstance(error, Overflow):
                shard.file.abandon()
            else:
                shard.keep()
            raise
        return shard

    def _begin_shard(self, number: int, dtype: str, unfinished: list[ShardReader]) -> ShardWriter:
        """A shard with copies of the texts that are whole in `unfinished` files, which are removed then.

        Those that another engine forwarded are forwarded again: a shard is of one engine, to the last bit.

        Nobody goes on in such a file itself: its worker may be alive though it was thought dead.
        """
        engine = self.backbone.engine_name
        shard = ShardWriter(self.folder, number, self.plan, self.manifest.states, dtype, engine)
        try:
            for other in unfinished:
                is_alike = (other.dtype, other.engine) == (dtype, engine)
                if is_alike and shutil.disk_usage(self.folder).free > other.entry.size:
                    shard.take_over(other)
            if unfinished:
                shard.note()
        except BaseException:
            shard.file.abandon()
            raise
        for other in unfinished:
            other.close()
            (self.folder / other.entry.file).unlink(missing_ok=True)
        return shard

    def _collect(self, pending: deque[Future]) -> None:
        started = time.perf_counter()
        pending[0].result()  # taken out afterwards: who is interrupted here still waits for it
        pending.popleft()
        self.busy.wait += time.perf_counter() - started

    def _write(self, shard: ShardWriter, batch: BatchStates) -> None:
        started = time.perf_counter()
        batch.write(shard, self.plan)
        if started - self._noted > NOTE_SECONDS:
            shard.note()
            self._noted = started
        self.busy.write += time.perf_counter() - started

    def _publish(self, number: int, shard: ShardWriter) -> None:
        """Fsync and name a shard, say so in its sidecar, give it back."""
        started = time.perf_counter()
        try:
            write_sidecar(self.folder, number, shard.finish())
        except FileExistsError:  # this worker was thought dead, and another has finished the shard
            pass
        except BaseException:
            shard.keep()
            raise
        self.share.give_back(number)
        self.busy.publish += time.perf_counter() - started
