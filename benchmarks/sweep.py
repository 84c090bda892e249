"""Heads side by side against one: a training step of each, in one process.

    python -m benchmarks.sweep

The heads are GLOT's at d = 384, over the same batches of 32 texts: sixteen over one layer (four thresholds, four
seeds), and six that mix seven layers (three thresholds, two seeds), beside six over one.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.made import make_cache, spread_lengths
from benchmarks.ratios import describe_machine, seconds_of, verdict
from glot.fit.head_model import fetch
from glot.fit.learner import Job, Learner
from glot.fit.run import FitOptions
from glot.fit.stack import Stack, make_units
from glot.fit.sweep import make_candidates
from glot.fit.training_data import open_data, open_states
from glot.store.reader import Cache

WIDTH, MEAN, TEXTS, BATCH, LAYERS = 384, 27, 640, 32, 7
TAUS, SEEDS, HIDDEN = (0.1, 0.3, 0.6, 0.8), (0, 1, 2, 3), 128
TARGET = 6.0
REPEATS, WARM_UP = 15, 3
Step = Callable[[np.ndarray], None]  # on the training examples of these indices


def make_step(cache: Cache, mix: bool, taus: tuple[float, ...], seeds: tuple[int, ...], stacked: bool) -> Step:
    """The step of heads of these thresholds and seeds, the reading of its batch included."""
    options = FitOptions(hidden=HIDDEN, seeds=seeds, order_seed=0, device="cpu", backend="dense", mix=mix)
    configs = list(make_candidates(cache, options, {"tau": taus}).values())
    states = open_states(cache, configs[0])
    data = open_data(cache, configs[0], states)
    heads = [Learner(Job(config, Path("unused")), data) for config in configs]
    units: list[Stack | Learner] = make_units(heads) if stacked else [*heads]
    labels = torch.from_numpy(data.train.label)

    def step(chosen: np.ndarray) -> None:
        texts, rows = fetch(states, data.train.subset(chosen)).to(states.device)
        for unit in units:
            unit.update(texts, rows, labels[chosen])

    return step


def medians(steps: dict[str, Step], examples: int) -> dict[str, float]:
    """Median seconds of a step of each; they take turns, and the first turns warm up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(REPEATS + WARM_UP):
        chosen = np.random.default_rng(number).permutation(examples)[:BATCH]
        for name, step in steps.items():
            seconds = seconds_of(lambda step=step, chosen=chosen: step(chosen))
            if number >= WARM_UP:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Print the ratios."""
    print(f"sweep: {describe_machine()}; d = {WIDTH}, mean {MEAN} tokens, K = 2, h = {HIDDEN}, batch {BATCH}")
    with tempfile.TemporaryDirectory() as made:
        lengths = spread_lengths(TEXTS * MEAN, MEAN)
        cache = Cache(make_cache(Path(made) / "cache", WIDTH, lengths, TEXTS * MEAN // 2, layers=LAYERS))
        sizes = {"one": (TAUS[:1], SEEDS[:1]), "six": (TAUS[:3], SEEDS[:2]), "sixteen": (TAUS, SEEDS)}

        def measure(mix: bool, names: tuple[str, ...]) -> dict[str, float]:
            steps = {"one": make_step(cache, mix, *sizes["one"], stacked=False)}
            for name in names:
                steps[f"{name}, stacked"] = make_step(cache, mix, *sizes[name], stacked=True)
                steps[f"{name}, in turn"] = make_step(cache, mix, *sizes[name], stacked=False)
            return medians(steps, TEXTS * 9 // 10)

        for mix, names in ((False, ("six", "sixteen")), (True, ("six",))):
            what = f"a mix of {LAYERS} layers" if mix else "one layer"
            times = measure(mix, names)
            one = times.pop("one")
            for name, seconds in times.items():
                line = f"  {what}: {name}: {seconds / one:.1f} times one head's step ({1e3 * one:.1f} ms)"
                print(f"{line}; {verdict(seconds / one, TARGET, True)}" if name.startswith("sixteen") else line)
        cache.close()


if __name__ == "__main__":
    main()
