"""One training step of GLOT (graph, forward, backward, optimizer) against two hand-written ones, in one process.

    python -m benchmarks.step [--device cuda]

All ways take turns, so that a busy machine slows all; each number is a ratio of two medians. Beside each stands the
floor: the step's arithmetic at the rate of a large matrix product measured in the same run. The peers need
torch-geometric (extra: bench); without it only our own rows are printed. On a GPU nothing but torch, numpy and h5py
is needed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.ratios import describe_machine, seconds_of, verdict
from glot.nn.dgl_backend import dgl_available
from glot.nn.poolers import Glot, PoolerConfig
from glot.nn.tokens import TokenBatch
from glot.process import kept_randomness
from glot.products import choose_way, fast_products
from glot.reproduce.cost import step_bytes

TEXTS, LAYERS, HIDDEN, TAU = 32, 2, 128, 0.6
REPEATS, WARM_UP = 15, 3
LONGEST = 128
CUDA_TARGET = 1.0e-3  # seconds a step
# On a GPU: whether a step runs under bfloat16 autocast, and how float32 products are computed.
PRECISIONS = {"bfloat16": (True, "ieee"), "TF32": (False, "tf32"), "float32": (False, "ieee")}


@dataclass(frozen=True)
class Row:
    """A shape that is measured. `target` and `bfloat16_target` are ratios to the obvious peer; None: none is set."""

    width: int
    mean: int
    target: float | None
    bfloat16_target: float | None = None


ROWS = (Row(384, 27, 3.0), Row(576, 27, 2.5), Row(4096, 27, 2.2, 4.0), Row(384, 110, 4.0, 6.0))
FAIR_TARGET = 1.5


def make_batch(width: int, mean: int, device: torch.device, same_length: bool = False) -> TokenBatch:
    """Random states with a common direction (so that some tokens are joined), lengths around the mean, sorted."""
    generator = torch.Generator().manual_seed(0)
    low, high = (mean, mean) if same_length else (max(2, 2 * mean - LONGEST, mean // 2), min(LONGEST, mean * 3 // 2))
    lengths = torch.linspace(low, high, TEXTS).round().long()
    states = torch.randn(int(lengths.sum()), width, generator=generator) + 1.2
    return TokenBatch(states.to(device), lengths)


Pool = Callable[[], Tensor]


class Way:
    """One way to train: a pooler with a linear head, an optimizer, and what makes vectors of the batch."""

    def __init__(
        self,
        pooler: nn.Module,
        width: int,
        pool: Pool,
        device: torch.device,
        bfloat16: bool,
        texts: int = TEXTS,
    ) -> None:
        self.head = nn.Linear(width, 2).to(device)
        self.pool, self.bfloat16, self.device = pool, bfloat16, device
        self.ours = isinstance(pooler, Glot)
        parameters = [*pooler.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=True if self.ours else None)
        self.labels = torch.arange(texts, device=device) % 2

    def step(self) -> None:
        """Graph, forward, backward and optimizer."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss = nn.functional.cross_entropy(self.head(self.pool()), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def seconds(self) -> float:
        """Of one step, the device's work in it."""
        if self.device.type != "cuda":
            return seconds_of(self.step)
        torch.cuda.synchronize(self.device)
        return seconds_of(lambda: (self.step(), torch.cuda.synchronize(self.device)))

    def timed(self) -> float:
        """As `seconds`, ours with the products that a fit takes."""
        if not self.ours:
            return self.seconds()
        with fast_products():
            return self.seconds()


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Float32 products on a GPU in "ieee" or "tf32"; the process's own setting comes back after.

    By torch's newer setting where there is one: the older raises where both are used, and `edge_mask` uses the newer.
    """
    matmul = torch.backends.cuda.matmul
    name, value = ("fp32_precision", precision)
    if not hasattr(matmul, name):  # torch < 2.9
        name, value = "allow_tf32", precision == "tf32"
    before = getattr(matmul, name)
    setattr(matmul, name, value)
    try:
        yield
    finally:
        setattr(matmul, name, before)


@kept_randomness(0)
def make_ways(batch: TokenBatch, bfloat16: bool) -> dict[str, Way]:
    """Ours on each backend and, where torch-geometric is there, the peers in float32, all with the same parameters."""
    width, device = batch.states.shape[1], batch.device
    config = PoolerConfig(gnn_layers=LAYERS, hidden=HIDDEN, tau=TAU)
    first = Glot(config, width, "dense").to(device)
    ways = {}

    def again() -> TokenBatch:
        return TokenBatch(batch.states, batch.lengths)  # with nothing computed of it yet

    for name in ("dense", *(["dgl"] if device.type == "cpu" and not bfloat16 and dgl_available() else [])):
        model = Glot(config, width, name).to(device)
        model.load_state_dict(first.state_dict())
        ways[name] = Way(model, model.out_width, lambda model=model: model(again()), device, bfloat16)
    try:
        from benchmarks import peers
    except ImportError:
        return ways
    for name, (build, to) in peers.WAYS.items():
        states, mask = peers.padded_states(batch.states, batch.lengths.tolist(), to)
        model = peers.PygGlot(width, HIDDEN, LAYERS).to(device).take(first)

        def pool(model: nn.Module = model, build: Callable = build, inputs: tuple = (states, mask)) -> Tensor:
            return model(build(*inputs, TAU))

        ways[name] = Way(model, first.out_width, pool, device, False)
    return ways


def medians(ways: dict[str, Way], repeats: int = REPEATS) -> dict[str, float]:
    """Median seconds of a step of each; they take turns, and the first turns warm up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + WARM_UP):
        for name, way in ways.items():
            seconds = way.timed()
            if repeat >= WARM_UP:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def step_products(width: int, tokens: int) -> int:
    """Multiplications of a step's matrix products over tokens: what no backend can avoid (the frozen X has no
    gradient, so its products run twice, the others three times).
    """
    hidden = HIDDEN
    rows = max(128, (width + LAYERS * hidden) // 2)  # of the readout's first weight
    on_states = 2 * width * (hidden + rows)
    on_hidden = 3 * (LAYERS * hidden * rows + (LAYERS - 1) * hidden * hidden)
    return tokens * (on_states + on_hidden)


def product_rate(
    tokens: int, width: int, device: torch.device, dtype: torch.dtype = torch.float32, columns: int = 512
) -> float:
    """Multiplications a second of a (tokens, width) by (width, columns) product: the best, by either library."""
    a = torch.randn(tokens, width, device=device, dtype=dtype)
    b = torch.randn(width, columns, device=device, dtype=dtype)

    def product() -> None:
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    product()
    seconds = [seconds_of(product) for _ in range(10)]
    with fast_products():
        product()
        seconds += [seconds_of(product) for _ in range(10)]
    return tokens * width * columns / min(seconds)


def report(row: Row, device: torch.device, bfloat16: bool) -> None:
    """Print a row."""
    batch = make_batch(row.width, row.mean, device)
    ways = make_ways(batch, bfloat16)
    times = medians(ways)
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    rate = product_rate(len(batch.states), row.width, device, dtype)
    floor = step_products(row.width, len(batch.states)) / rate
    name = "bfloat16" if bfloat16 else "float32"
    print(f"d = {row.width}, mean {len(batch.states) / TEXTS:.0f} tokens, {name}:")
    target = row.bfloat16_target if bfloat16 else row.target
    for ours in ("dense", "dgl"):
        if ours not in times:
            continue
        against = [f"{peer} {times[peer] / times[ours]:.2f} x" for peer in ("obvious", "fair") if peer in times]
        print(
            f"  {ours}: {', '.join(against) or 'no peer here'}; {times[ours] / floor:.2f} of the floor "
            f"({2 * rate / 1e9:.0f} GFLOP/s), {step_bytes(ways[ours].step, device) / 2**20:.0f} MiB a step"
        )
    if "obvious" in times:
        best = min(times[name] for name in ("dense", "dgl") if name in times)
        sizes = ", ".join(
            f"{peer} {step_bytes(ways[peer].step, device) / 2**20:.0f} MiB" for peer in ("obvious", "fair")
        )
        if target:
            print(f"  against obvious {times['obvious'] / best:.2f} x; {verdict(times['obvious'] / best, target)}")
        print(f"  against fair {times['fair'] / best:.2f} x; {verdict(times['fair'] / best, FAIR_TARGET)}; {sizes}")


def report_cuda(device: torch.device) -> None:
    """Print the published setting on a GPU: d = 4096, 128 tokens a text, one text an example."""
    batch = make_batch(4096, LONGEST, device, same_length=True)
    for name, (bfloat16, precision) in PRECISIONS.items():
        with float32_products(precision):
            seconds = medians({"dense": make_ways(batch, bfloat16)["dense"]}, 50)["dense"]
        print(f"d = 4096, 128 tokens, {name}: {1e3 * seconds:.2f} ms a step; {verdict(seconds, CUDA_TARGET, True)}")
    host = batch.states.half().cpu().pin_memory()
    copy = statistics.median(
        seconds_of(lambda: (host.to(device, non_blocking=True), torch.cuda.synchronize())) for _ in range(20)
    )
    print(f"  the copy of its states from host memory: {1e3 * copy:.2f} ms more, {host.nbytes / copy / 1e9:.1f} GB/s")


def main() -> None:
    """Print all rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    machine = f"{where}, {describe_machine()}, products by {choose_way()}"
    print(f"step: {machine}; {TEXTS} texts, K = {LAYERS}, h = {HIDDEN}, tau = {TAU}")
    for row in ROWS:
        for bfloat16 in (False, True):
            report(row, device, bfloat16)
    if device.type == "cuda":
        report_cuda(device)


if __name__ == "__main__":
    main()
