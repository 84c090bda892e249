"""Sixteen heads side by side against one: a training step of each, in one process.

    python -m benchmarks.sweep

The heads are GLOT's at d = 384 with four thresholds and four seeds, over the same batches of 32 texts.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.made import make_cache, spread_lengths
from benchmarks.ratios import describe_machine, seconds_of, verdict
from glot.fit.head_model import fetch
from glot.fit.learner import Job, Learner
from glot.fit.run import FitOptions
from glot.fit.stack import make_units
from glot.fit.sweep import make_candidates
from glot.fit.training_data import open_data, open_states
from glot.store.reader import Cache

WIDTH, MEAN, TEXTS, BATCH = 384, 27, 640, 32
TAUS, SEEDS, HIDDEN = (0.1, 0.3, 0.6, 0.8), (0, 1, 2, 3), 128
TARGET = 6.0


def main() -> None:
    """Print the ratios."""
    print(f"sweep: {describe_machine()}; d = {WIDTH}, mean {MEAN} tokens, K = 2, h = {HIDDEN}, batch {BATCH}")
    with tempfile.TemporaryDirectory() as made:
        cache = Cache(make_cache(Path(made) / "cache", WIDTH, spread_lengths(TEXTS * MEAN, MEAN), TEXTS * MEAN // 2))
        options = FitOptions(hidden=HIDDEN, seeds=SEEDS, order_seed=0, device="cpu", backend="dense")
        configs = list(make_candidates(cache, options, {"tau": TAUS}).values())
        states = open_states(cache, configs[0])
        data = open_data(cache, configs[0], states)

        def units(count: int, stacked: bool) -> list:
            heads = [Learner(Job(config, Path(made)), data) for config in configs[:count]]
            return make_units(heads) if stacked else heads

        ways = {"one": units(1, False), "sixteen, stacked": units(16, True), "sixteen, in turn": units(16, False)}
        labels = torch.from_numpy(data.train.label)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(18):
            chosen = np.random.default_rng(number).permutation(len(data.train))[:BATCH]
            for name, some in ways.items():

                def step(some: list = some, chosen: np.ndarray = chosen) -> None:
                    texts, rows = fetch(states, data.train.subset(chosen)).to(states.device)
                    for unit in some:
                        unit.update(texts, rows, labels[chosen])

                seconds = seconds_of(step)
                if number >= 3:
                    times[name].append(seconds)
        one = statistics.median(times["one"])
        for name in list(ways)[1:]:
            ratio = statistics.median(times[name]) / one
            print(f"  {name}: {ratio:.1f} times one head's step ({1e3 * one:.1f} ms); {verdict(ratio, TARGET, True)}")
        cache.close()


if __name__ == "__main__":
    main()
