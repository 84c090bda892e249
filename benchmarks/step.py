"""One training step of GLOT: both backends against a hand-written loop over the texts, in one process.

    python -m benchmarks.step

Prints the median time of a step as a ratio to the loop's; the variants take turns, so that a busy machine slows all.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.fit.dgl_backend import dgl_available
from pipeline.fit.poolers import Glot, PoolerConfig
from pipeline.fit.tokens import TokenBatch

TEXTS, REPEATS = 32, 15


def make_batch(width: int, mean_length: int) -> TokenBatch:
    """Random states with a common direction (so that some tokens are joined), lengths around the mean."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(mean_length // 2, mean_length * 3 // 2 + 1, (TEXTS,), generator=generator)
    states = torch.randn(int(lengths.sum()), width, generator=generator) + 1.2
    return TokenBatch(states, lengths)


def step(model: Glot, head: torch.nn.Linear, optimizer: torch.optim.Optimizer, pool: Callable[[], Tensor]) -> None:
    """Forward, backward and optimizer."""
    loss = torch.nn.functional.cross_entropy(head(pool()), torch.arange(TEXTS) % 2)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def measure(width: int, mean_length: int) -> dict[str, float]:
    """Median seconds of a step for each variant."""
    batch = make_batch(width, mean_length)
    texts = [TokenBatch(part, torch.tensor([len(part)])) for part in batch.states.split(batch.lengths.tolist())]
    variants: dict[str, Callable[[], None]] = {}
    for name in ("loop", "dense", *(["dgl"] if dgl_available() else [])):
        torch.manual_seed(0)
        model = Glot(PoolerConfig(layers=2, hidden=128), width, "dgl" if name == "dgl" else "dense")
        head = torch.nn.Linear(model.out_width, 2)
        optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=1e-4)

        def pool(model: Glot = model, name: str = name) -> Tensor:
            return torch.cat([model(text) for text in texts]) if name == "loop" else model(batch)

        variants[name] = lambda args=(model, head, optimizer, pool): step(*args)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(REPEATS + 2):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            if repeat >= 2:  # the first two warm up
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Print a table of ratios."""
    threads = torch.get_num_threads()
    print(f"{TEXTS} texts, K = 2, h = 128, tau = 0.6, float32, {threads} threads, torch {torch.__version__}")
    for width, mean_length in [(384, 27), (384, 110), (576, 27)]:
        times = measure(width, mean_length)
        ratios = ", ".join(f"{name} {times['loop'] / value:.2f} x" for name, value in times.items() if name != "loop")
        print(f"d = {width}, mean {mean_length} tokens: against the loop {ratios}")


if __name__ == "__main__":
    main()
