"""Which backend is faster: a training step of GLOT by DGL and by plain torch, over lengths and thresholds.

    python -m benchmarks.density --picture docs/density.png

Each cell is DGL's median time over dense's, the two taking turns: above 1 dense is faster. The rule of `--backend auto`
comes of this table.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.ratios import describe_machine
from benchmarks.step import HIDDEN, LAYERS, Way, medians
from glot.nn.dgl_backend import dgl_available
from glot.nn.edges import edge_density, edge_mask
from glot.nn.poolers import Glot, PoolerConfig
from glot.nn.tokens import TokenBatch
from glot.process import kept_randomness
from glot.report.figures import save_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LENGTHS, TAUS = (16, 32, 64, 128, 256, 512), (0.1, 0.3, 0.5, 0.7, 0.9)
WIDTH, TOKENS, TEXTS = 384, 2048, 32


def spread_batch(length: int) -> TokenBatch:
    """Texts of one length whose cosines lie all between 0 and 1: each token has its own share of a common direction."""
    generator = torch.Generator().manual_seed(0)
    texts = max(2, min(TEXTS, TOKENS // length))
    common = torch.randn(WIDTH, generator=generator)
    share = 3 * torch.rand(texts * length, 1, generator=generator)
    states = share * common + torch.randn(texts * length, WIDTH, generator=generator)
    return TokenBatch(states, torch.full((texts,), length))


def compare(length: int, tau: float, repeats: int) -> tuple[float, float]:
    """(density of the graphs, DGL's seconds over dense's)."""
    batch = spread_batch(length)
    edges, pairs = edge_density(edge_mask(batch, tau), batch.lengths)
    times = medians({name: make_way(batch, tau, name) for name in ("dense", "dgl")}, repeats)
    return edges / pairs, times["dgl"] / times["dense"]


@kept_randomness(0)
def make_way(batch: TokenBatch, tau: float, backend: str) -> Way:
    """A training step of GLOT over a batch."""
    model = Glot(PoolerConfig(gnn_layers=LAYERS, hidden=HIDDEN, tau=tau), WIDTH, backend)
    return Way(
        model,
        model.out_width,
        lambda: model(TokenBatch(batch.states, batch.lengths)),
        batch.device,
        False,
        len(batch),
    )


def print_cost_of_length(repeats: int) -> None:
    """What a token costs in long texts, over what it costs in texts of 32 tokens, by both backends."""
    lengths = (32, 128, 512)
    batches = {length: spread_batch(length) for length in lengths}
    for backend in ("dense", "dgl"):
        for tau in (0.1, 0.9):
            ways = {length: make_way(batch, tau, backend) for length, batch in batches.items()}
            times = medians(ways, repeats)
            cost = {length: times[length] / len(batches[length].states) for length in lengths}
            ratios = ", ".join(f"{cost[length] / cost[32]:.2f} in texts of {length}" for length in lengths[1:])
            print(f"a token's step by {backend} at tau {tau:g}, over its step in texts of 32: {ratios}", flush=True)


def main() -> None:
    """Print the table and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    if not dgl_available():
        print("density: left out, for DGL cannot be imported")
        return
    print_cost_of_length(given.repeats)
    print(f"DGL's time over dense's, a step, d = {WIDTH}, K = {LAYERS}, h = {HIDDEN}; {describe_machine()}")
    print("tokens a text | " + " | ".join(f"tau {tau:g}" for tau in TAUS))
    table = np.zeros((len(LENGTHS), len(TAUS), 2))
    for row, length in enumerate(LENGTHS):
        table[row] = [compare(length, tau, given.repeats) for tau in TAUS]
        cells = " | ".join(f"{ratio:.2f} ({100 * density:.0f} %)" for density, ratio in table[row])
        print(f"{length} | {cells}", flush=True)
    if given.picture:
        draw(given.picture, table)


def draw(path: Path, table: np.ndarray) -> None:
    """A line a length: the ratio against the density of the graphs."""

    def lines(figure: Figure) -> None:
        axes = figure.add_subplot()
        for length, row in zip(LENGTHS, table, strict=True):
            axes.plot(100 * row[:, 0], row[:, 1], "o-", label=f"{length} tokens")
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_xlabel("token pairs joined, %")
        axes.set_ylabel("DGL's time over dense's")
        axes.legend()

    save_picture(path, (6.5, 4), lines)


if __name__ == "__main__":
    main()
