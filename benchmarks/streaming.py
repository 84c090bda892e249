"""A streamed epoch against the slower of its two halves: training on states in memory, and reading them from the disk.

    python -m benchmarks.streaming

`glot fit --max-memory 0` reads the states batch by batch in a thread while it trains on the batch before. Were both
free of each other, an epoch would take as long as the slower one: that is the peer. Every pass begins with nothing of
the cache in the page cache.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.made import files_of, forget, make_cache, spread_lengths
from benchmarks.ratios import describe_machine, seconds_of, verdict
from glot.fit.head_model import fetch
from glot.fit.run import FitOptions, make_configs
from glot.fit.states import epoch_order
from glot.fit.train import fit_head
from glot.fit.training_data import open_data, open_states
from glot.store.reader import Cache

REPEATS, BATCH, TARGET = 3, 32, 0.9
WAYS = ("training", "reading", "both")


@dataclass(frozen=True)
class Case:
    """A pooler over a made cache: `tokens` tokens of `width` numbers, about `mean` a text."""

    pooler: str
    width: int
    mean: int
    tokens: int


CASES = (Case("glot", 384, 27, 200_000), Case("adapool", 384, 27, 400_000), Case("adapool", 4096, 110, 100_000))


def epoch_seconds(folder: Path, case: Case, max_memory: float | None) -> float:
    """Seconds of the first epoch's training, scoring not counted; with `max_memory` 0 its reading is."""
    cache = Cache(folder)
    options = FitOptions(pooler=case.pooler, hidden=128, epochs=1, device="cpu", max_memory=max_memory)
    [config] = make_configs(cache, options)
    with tempfile.TemporaryDirectory() as run:
        seconds = fit_head(cache, config, Path(run)).epochs[0].seconds
    cache.close()
    return seconds


def reading_seconds(folder: Path, case: Case) -> float:
    """Seconds of gathering the same batches, and nothing else."""
    cache = Cache(folder)
    options = FitOptions(pooler=case.pooler, hidden=128, epochs=1, device="cpu", max_memory=0)
    [config] = make_configs(cache, options)
    states = open_states(cache, config)
    data = open_data(cache, config, states)
    order = epoch_order(data.home, 0, 1, config.train.window)

    def read() -> None:
        for start in range(0, len(order), BATCH):
            fetch(states, data.train.subset(order[start : start + BATCH]))

    seconds = seconds_of(read)
    cache.close()
    return seconds


def seconds_of_pass(folder: Path, case: Case, way: str) -> float:
    """Seconds of an epoch's training, of its reading, or of both at once, from the disk."""
    forget(files_of(folder))
    if way == "reading":
        return reading_seconds(folder, case)
    return epoch_seconds(folder, case, None if way == "training" else 0)


def main() -> None:
    """Print the ratios."""
    print(f"streaming: {describe_machine()}; batch {BATCH}, K = 2, h = 128")
    for case in CASES:
        with tempfile.TemporaryDirectory() as made:
            lengths = spread_lengths(case.tokens, case.mean)
            folder = make_cache(Path(made) / "cache", case.width, lengths, case.tokens // 20)
            passes = [[seconds_of_pass(folder, case, way) for way in WAYS] for _ in range(REPEATS)]
            training, reading, _ = np.median(passes, axis=0)
            share = statistics.median(max(alone) / both for *alone, both in passes)
            print(
                f"  {case.pooler}, d = {case.width}, mean {case.mean} tokens: training {training:.2f} s, reading "
                f"{reading:.2f} s, both at once {share:.3f} of the slower's speed; {verdict(share, TARGET)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
