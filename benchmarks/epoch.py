"""One epoch of MRPC with MiniLM's states, reading included: ours against the two hand-written ways.

    python -m benchmarks.epoch

`obvious` keeps float32 states padded to 128 in files of 32 examples and loads a file for each example; `fair` loads
each file once an epoch and pads to its longest text. Both are trained as `benchmarks/peers.py` has it. The cache and
the files are made below `--folder` first and kept; their making is not timed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.extraction import extract, glue_folder
from benchmarks.ratios import describe_machine, seconds_of, verdict
from glot.corpus.load import load_task
from glot.extract.backbone import load_backbone
from glot.extract.source import resolve_model
from glot.fit.run import FitOptions, make_configs
from glot.fit.train import fit_head
from glot.fit.training_data import open_states
from glot.nn.poolers import Glot, PoolerConfig
from glot.process import kept_randomness
from glot.store.reader import Cache

BATCH, HIDDEN, TAU, TARGET, FAIR_TARGET = 32, 128, 0.6, 8.0, 1.5
Texts = tuple[Tensor, Tensor]  # (B, L, d) padded states, (B, L) mask


def save_padded(cache: Cache, folder: Path) -> None:
    """The training set as the obvious script keeps it: both texts of 32 examples, padded, float32, a file each."""
    folder.mkdir(parents=True)
    examples, layer = cache.examples("train"), cache.resolve_layer(-1)
    for number, first in enumerate(range(0, len(examples), BATCH)):
        some = examples.subset(np.arange(first, min(first + BATCH, len(examples))))
        held = {"label": torch.from_numpy(some.label)}
        for name, ids in (("a", some.text_id), ("b", some.text_id_b)):
            states = torch.from_numpy(cache.read_texts(layer, ids).values).float()
            held[name], held[f"{name}_mask"] = peers.padded_states(states, cache.plan.length[ids].tolist(), 128)
        torch.save(held, folder / f"{number:05d}.pt")


def obvious_batches(folder: Path, count: int, order: np.ndarray) -> Iterator[tuple[list[Texts], Tensor]]:
    """Batches in random order; the file of each example is loaded for it."""
    for start in range(0, count, BATCH):
        loaded = [
            (torch.load(folder / f"{i // BATCH:05d}.pt"), i % BATCH) for i in order[start : start + BATCH].tolist()
        ]
        texts = [
            (
                torch.stack([held[name][row] for held, row in loaded]),
                torch.stack([held[f"{name}_mask"][row] for held, row in loaded]),
            )
            for name in ("a", "b")
        ]
        yield texts, torch.stack([held["label"][row] for held, row in loaded])


def fair_batches(folder: Path) -> Iterator[tuple[list[Texts], Tensor]]:
    """A file a batch, in random order; both texts of all pairs in one graph."""
    files = sorted(folder.glob("*.pt"))
    for place in np.random.default_rng(0).permutation(len(files)).tolist():
        held = torch.load(files[place])
        states, mask = torch.cat([held["a"], held["b"]]), torch.cat([held["a_mask"], held["b_mask"]])
        longest = int(mask.sum(dim=1).max())
        yield [(states[:, :longest], mask[:, :longest])], held["label"]


@kept_randomness(0)
def train_peer(way: str, folder: Path, count: int, width: int) -> None:
    """An epoch of a hand-written way."""
    ours = Glot(PoolerConfig(gnn_layers=2, hidden=HIDDEN, tau=TAU), width, "dense")
    model, head = peers.PygGlot(width, HIDDEN, 2).take(ours), nn.Linear(2 * ours.out_width, 2)
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=2e-4)
    build, _ = peers.WAYS[way]
    order = np.random.default_rng(0).permutation(count)
    for texts, labels in obvious_batches(folder, count, order) if way == "obvious" else fair_batches(folder):
        z = torch.cat([model(build(states, mask, TAU)) for states, mask in texts])
        loss = nn.functional.cross_entropy(head(torch.cat(z.chunk(2), dim=1)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train_ours(cache: Cache) -> float:
    """Seconds of an epoch of `glot fit`, the reading of all states into memory included, scoring not."""
    options = FitOptions(gnn_layers=2, hidden=HIDDEN, tau=TAU, epochs=1, device="cpu", batch_size=BATCH)
    [config] = make_configs(cache, options)
    reading = seconds_of(lambda: open_states(cache, config))
    with tempfile.TemporaryDirectory() as run:
        return reading + fit_head(cache, config, Path(run)).epochs[0].seconds


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="a GLUE folder; default: GLUE_DIR")
    parser.add_argument("--folder", type=Path, default=Path("cache/bench/epoch"), help="where the states are kept")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    data_dir = glue_folder(given.data_dir)
    if not data_dir.is_dir():
        print(f"epoch: left out, for there is no GLUE folder at {data_dir}; name one with GLUE_DIR")
        return
    place, files = given.folder / "mrpc", given.folder / "padded"
    extract(load_backbone(resolve_model("minilm")), load_task("mrpc", None, data_dir), place)
    cache = Cache(place)
    if not files.exists():
        save_padded(cache, files)
    count, width = len(cache.examples("train")), cache.manifest.states.width
    print(f"epoch: {describe_machine()}; MRPC, {count:,} pairs, minilm, K = 2, h = {HIDDEN}, batch {BATCH}")
    ratios: dict[str, list[float]] = {"obvious": [], "fair": []}
    for repeat in range(given.repeats):
        ours = train_ours(cache)
        for way in ("obvious", "fair") if repeat % 2 else ("fair", "obvious"):
            seconds = seconds_of(lambda way=way: train_peer(way, files, count, width))
            ratios[way].append(seconds / ours)
            print(f"  ours {ours:.1f} s, {way} {seconds:.1f} s: {seconds / ours:.2f} x", flush=True)
    for way, target in (("obvious", TARGET), ("fair", FAIR_TARGET)):
        median = float(np.median(ratios[way]))
        print(f"against {way}: {median:.2f} x; {verdict(median, target)}")


if __name__ == "__main__":
    main()
