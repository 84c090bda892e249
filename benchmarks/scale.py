"""What grows with a corpus, ten-fold and ten-fold: manifests, orders of epochs, the assignment of shards, and costs.

    python -m benchmarks.scale                      # a minute or two
    python -m benchmarks.scale --shards 1000000     # a manifest that hurts

The assignment is that of `glot extract --launcher ray`, over workers that sleep instead of forwarding, one in a hundred
of whose shards is lost and made again. Hours, bytes and money are arithmetic on rates that `docs/benchmarks.md` has
from real machines, or on yours: `--rate minilm=5000`.
"""

from __future__ import annotations

import argparse
import queue
import random
import resource
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.ratios import describe_machine, seconds_of
from glot.cluster.assign import Assigner, Event, Finished, Lost, Ready
from glot.fit.states import epoch_order
from glot.store.columns import Column, ColumnFile
from glot.store.layout import Manifest, PlanEntry, ShardEntry, StatesIdentity, shard_file

OPEN_TARGET, OVERHEAD_TARGET, MEMORY_TARGET = 2.0, 0.02, 2**30
GIB = 2**30
SHARD_BYTES = GIB
TOKENS_A_TEXT = 27
WINDOW, SHARD_TEXTS = 4, 4855  # of a streamed epoch; of Mistral-7B's shards in float16


@dataclass(frozen=True)
class Backbone:
    """What a backbone costs: tokens/s of one worker on its device, width, and bytes of a number that is kept."""

    name: str
    device: str
    rate: float
    width: int
    bytes_each: float
    dollars_an_hour: float

    @property
    def token_bytes(self) -> float:
        """Of one layer's states."""
        return self.width * self.bytes_each + (4 if self.bytes_each == 1 else 0)  # int8 has a scale beside it


BACKBONES = (
    Backbone("minilm", "2 cores", 5_000, 384, 2, 0.1),
    Backbone("mistral-7b", "H100", 31_000, 4096, 2, 3.0),
    Backbone("mistral-7b int8", "H100", 31_000, 4096, 1, 3.0),
)
PLAN_SECONDS, PLAN_BYTES, PUT_RATE = 30e-6, 90, 100 * 2**20  # a text in one process; bytes/s, as in docs/scale.md
WORKERS, TEXTS = (1, 8, 64), (10**6, 10**8, 10**9)
DOLLARS_A_TERABYTE_MONTH = 23.0


def describe_hours(backbones: tuple[Backbone, ...]) -> Iterator[str]:
    """A line for each backbone and number of texts: bytes, shards, hours on some workers, dollars, hours around it."""
    for backbone in backbones:
        for texts in TEXTS:
            tokens = texts * TOKENS_A_TEXT
            size, hours = tokens * backbone.token_bytes, tokens / backbone.rate / 3600
            each = ", ".join(f"{hours / workers:,.1f} h on {workers}" for workers in WORKERS)
            money = f"${hours * backbone.dollars_an_hour:,.0f} of devices"
            kept = f"${size / 1e12 * DOLLARS_A_TERABYTE_MONTH:,.0f} a month to keep"
            around = f"{texts * PLAN_SECONDS / 3600:,.1f} h and {texts * PLAN_BYTES / 1e9:,.2f} GB to plan"
            around += f", {size / PUT_RATE / 3600:,.1f} h to put into a store"
            yield (
                f"{backbone.name} ({backbone.device}, {backbone.rate:,.0f} tokens/s), {texts:.0e} texts: "
                f"{size / 1e12:,.2f} TB, {size / SHARD_BYTES:,.0f} shards; {each}; {money}, {kept}; {around}"
            )


def made_manifest(shards: int) -> Manifest:
    """A manifest of so many shards of 100,000 tokens, as `minilm` makes them."""
    states = StatesIdentity(
        "minilm", "", "a" * 64, "b" * 64, "encoder", 384, 6, "{text}", 128, (6,), "float16", "float32"
    )
    columns = {
        "check/6": Column(80_000_000, (3_700,), "<u8", "0" * 16),
        "hidden/6": Column(4096, (100_000, 384), "<f2"),
        "offsets": Column(80_040_960, (3_701,), "<u8", "0" * 16),
    }
    made = {
        number: ShardEntry(3_700, 100_000, "float16", ColumnFile(shard_file(number), 90_000_000, "0" * 16, columns))
        for number in range(shards)
    }
    plan = PlanEntry(3_700 * shards, 100_000 * shards, 0, 0, shards, 0, "", ColumnFile("plan.h5", 10, "0" * 16, {}))
    return Manifest("made", states, plan, {}, made)


def measure_manifest(shards: int, folder: Path) -> tuple[float, float, int]:
    """Seconds to save and to open a manifest of so many shards, and its bytes."""
    manifest = made_manifest(shards)
    saving = seconds_of(lambda: manifest.save(folder))
    opening = seconds_of(lambda: Manifest.load(folder))
    return saving, opening, (folder / "manifest.json").stat().st_size


def measure_order(examples: int) -> tuple[float, int]:
    """Seconds to draw the order of an epoch that is streamed by windows of shards, and its peak of bytes an example."""
    home = np.random.default_rng(0).integers(0, max(1, examples // SHARD_TEXTS), examples)
    seconds = seconds_of(lambda: epoch_order(home, 0, 1, WINDOW))
    tracemalloc.start()
    epoch_order(home, 0, 1, WINDOW)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return seconds, round(peak / examples)


class SleepingPool:
    """Workers that sleep for a shard; some of them are lost in the middle, and are ready again a little later."""

    def __init__(self, workers: int, seconds: float, lost_share: float, restart: float = 0.2, seed: int = 0) -> None:
        self.workers, self.seconds, self.lost_share, self.restart = workers, seconds, lost_share, restart
        self.asleep = [0.0] * workers  # seconds of each, lost work and restarts included
        self._random, self._happened = random.Random(seed), queue.SimpleQueue[Event]()
        self._orders = [queue.SimpleQueue[float | None]() for _ in range(workers)]
        self._threads = [threading.Thread(target=self._work, args=(worker,), daemon=True) for worker in range(workers)]
        for thread in self._threads:
            thread.start()

    def make(self, worker: int, number: int) -> None:
        """Have a worker sleep for a shard; a negative number of seconds ends in its death."""
        is_lost = self._random.random() < self.lost_share
        self._orders[worker].put(-self._random.random() * self.seconds if is_lost else self.seconds)

    def events(self, seconds: float) -> list[Event]:
        """What happened since, after at most so many seconds."""
        found = []
        try:
            found.append(self._happened.get(timeout=seconds))
            while True:
                found.append(self._happened.get_nowait())
        except queue.Empty:
            return found

    def stop(self) -> None:
        """End the threads."""
        for orders in self._orders:
            orders.put(None)

    def _work(self, worker: int) -> None:
        self._happened.put(Ready(worker, True))
        while (seconds := self._orders[worker].get()) is not None:
            time.sleep(abs(seconds))
            self.asleep[worker] += abs(seconds)
            if seconds > 0:
                self._happened.put(Finished(worker, (1,)))
                continue
            self._happened.put(Lost(worker))
            time.sleep(self.restart)
            self.asleep[worker] += self.restart
            self._happened.put(Ready(worker, True))


def measure_assignment(shards: int, workers: int, seconds: float, lost_share: float) -> tuple[float, int]:
    """Seconds over those that the workers slept in, less 1; and how many shards were made.

    The ideal is what all workers slept, shared out evenly: lost work and restarts are not the assignment's.
    """
    pool = SleepingPool(workers, seconds, lost_share)
    assigner = Assigner(total=shards)
    try:
        took = seconds_of(lambda: assigner.run(pool, dict.fromkeys(range(shards), 1)))
    finally:
        pool.stop()
    return took / (sum(pool.asleep) / workers) - 1, sum(assigner.counts)


def _rates(given: list[str]) -> tuple[Backbone, ...]:
    named = dict(entry.split("=") for entry in given)
    return tuple(Backbone(**{**vars(some), "rate": float(named.get(some.name, some.rate))}) for some in BACKBONES)


def main(say: Callable[[str], None] = print) -> None:
    """Print what was measured, and what it comes to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shards", type=int, default=100_000, help="of the largest manifest")
    parser.add_argument("--assigned", type=int, default=10_000, help="shards that are handed out")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--sleep", type=float, default=0.5, help="seconds a shard")
    parser.add_argument("--lost", type=float, default=0.01, help="share of shards whose worker dies")
    parser.add_argument("--rate", action="append", default=[], help="tokens/s of a backbone, as minilm=5000")
    given = parser.parse_args()
    say(f"scale: {describe_machine()}")
    with tempfile.TemporaryDirectory() as folder:
        for shards in sorted({max(1, given.shards // part) for part in (100, 10, 1)}):
            saving, opening, size = measure_manifest(shards, Path(folder))
            said = f"saved in {saving:.2f} s, opened in {opening:.2f} s"
            aimed = f" (aimed at {OPEN_TARGET:g})" if shards == 100_000 else ""
            say(f"manifest of {shards:,} shards: {size / 1e6:,.1f} MB, {said}{aimed}")
    for examples in (10**5, 10**6, 10**7):
        seconds, size = measure_order(examples)
        say(f"order of {examples:,} examples by windows of {WINDOW} shards: {seconds:.2f} s, {size} bytes each")
    overhead, made = measure_assignment(given.assigned, given.workers, given.sleep, given.lost)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    how = f"by {given.workers} workers that sleep {given.sleep:g} s, {given.lost:.0%} of them lost"
    say(f"{made:,} of {given.assigned:,} shards {how}: {overhead:+.2%} (aimed at {OVERHEAD_TARGET:.0%}) over the ideal")
    say(f"memory at most {peak / 2**20:,.0f} MiB, libraries included (aimed at {MEMORY_TARGET / 2**20:,.0f})")
    for line in describe_hours(_rates(given.rate)):
        say(line)


if __name__ == "__main__":
    main()
